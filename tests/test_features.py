"""Intermediate results by path: the numbers of the model itself and of PyTorch, and no others."""

import jax
import numpy as np
import pytest
from random_models import assert_close, fast_jit, random_images, random_variables

from resnet_jax import create_model
from resnet_jax.errors import InputError
from resnet_jax.inference.features import feature_extractor, intermediates, layers, outputs_of
from resnet_jax.models.stages import stack_blocks

SMALL = {'stage_sizes': (2, 1), 'width': 4, 'stem_width': 4}


def small(name='cifar_resnet8', **fields):
    return create_model(name, 3, **{**SMALL, **fields})


@pytest.mark.parametrize(
    ('name', 'fields'),
    [
        ('cifar_resnet8', {}),
        ('cifar_resnet8', {'dimensions': 1}),
        ('cifar_resnet8', {'dimensions': 3, 'dropout': 0.5}),
        ('cifar_preact_resnet20', {'stochastic_depth': 0.5}),
        pytest.param('resnet50', {'remat': True}, marks=pytest.mark.slow),
        ('cifar_resnet8', {'init_scheme': 'fixup', 'norm': 'none'}),
    ],
)
def test_as_the_model_itself_gives_them(name, fields):
    model = small(name, **fields)
    images = random_images((2, *(8, 9, 7)[: model.dimensions], 3))
    variables = random_variables(model, images.shape)
    expected, logits = fast_jit(
        lambda v, x: (
            model.apply(v, x, train=False, method='features'),
            model.apply(v, x, train=False),
        )
    )(variables, images)
    expected |= {'logits': logits, 'head': logits}
    # A stage's output is that of its last block.
    expected |= {'stage1/block2': expected['stage1'], 'stage2/block1': expected['stage2']}
    found = intermediates(model, variables, images, tuple(expected))
    assert set(found) == set(expected) <= set(layers(model))
    for layer, value in expected.items():
        assert_close(found[layer], value)


def test_scanned_blocks_have_their_names():
    model, scanned = (small(stage_sizes=(3, 2), scan_blocks=s) for s in (False, True))
    images = random_images((2, 8, 8, 3))
    variables = random_variables(model, images.shape)
    names = layers(scanned)
    assert names == layers(model) and 'stage1/block3/conv2' in names
    expected = intermediates(model, variables, images, names)
    found = intermediates(scanned, stack_blocks(variables), images, names)
    for name in names:
        assert_close(found[name], expected[name])


def test_order_and_names():
    found = layers(small('cifar_preact_resnet20', stage_sizes=(1,)))
    assert found == (
        *('stem/conv1', 'stem'),
        *(f'stage1/block1/{part}' for part in ('norm1', 'conv1', 'norm2', 'conv2')),
        *('stage1/block1', 'stage1', 'final_norm', 'pooled', 'head', 'logits'),
    )


def test_as_forward_hooks_of_pytorch():
    torch = pytest.importorskip('torch')
    torch_models = pytest.importorskip('torch_models')
    from resnet_jax.interop.weights import variables_from_tensors

    family = torch_models.FAMILIES['bottleneck']
    net = torch_models.randomise(torch_models.tiny_torch_net('bottleneck'), seed=1).eval()
    tensors = {name: x.numpy() for name, x in net.state_dict().items()}
    model = create_model(family.name, torch_models.CLASSES, **family.overrides)
    variables = variables_from_tensors(tensors, model)
    pairs = {
        'stem/conv1': net.conv1,
        'stage1/block1/conv2': net.layer1[0].conv2,
        'stage1/block1/norm3': net.layer1[0].bn3,
        'stage1/block1': net.layer1[0],
        'stage1/block2/norm1': net.layer1[1].bn1,
        'stage2/block1/shortcut_conv': net.layer2[0].downsample[0],
        'head': net.fc,
    }
    kept = {}
    for name, module in pairs.items():
        module.register_forward_hook(
            lambda module, args, output, name=name: kept.update({name: output.detach().numpy()})
        )
    images = random_images((2, 40, 32, 3))
    with torch.no_grad():
        net(torch.from_numpy(np.asarray(images).transpose(0, 3, 1, 2).copy()))
    found = intermediates(model, variables, images, tuple(pairs))
    for name, expected in kept.items():
        expected = expected if expected.ndim == 2 else expected.transpose(0, 2, 3, 1)
        assert_close(found[name], expected, 1e-4)


def test_only_what_is_asked_is_computed():
    """The stem is one convolution of 3x3x3x4 multiply-adds for each of 64 pixels."""
    model, images = small(), random_images((1, 8, 8, 3))
    variables = random_variables(model, images.shape)

    def flops(*names):
        program = feature_extractor(model, names).lower(variables, images).compile()
        return program.cost_analysis()['flops']

    assert flops('stem/conv1') < 2.5 * 3 * 3 * 3 * 4 * 64
    assert flops('stage1') < 0.8 * flops('logits')
    assert flops('stem', 'stage1', 'pooled', 'logits') < 1.01 * flops('logits')


def test_compiled_once_and_usable_inside_a_program():
    model, images = small(), random_images((2, 8, 8, 3))
    variables = random_variables(model, images.shape)
    assert feature_extractor(model, ['pooled']) is feature_extractor(small(), ('pooled',))

    def loss(x):
        return outputs_of(model, ('stage1',))(variables, x)['stage1'].sum()

    assert jax.jit(jax.grad(loss))(images).shape == images.shape


@pytest.mark.parametrize(
    ('name', 'near'), [('stage1/block9', "'stage1/block1'"), ('pool', "'pooled'")]
)
def test_a_wrong_name_is_answered_with_the_nearest(name, near):
    with pytest.raises(InputError) as error:
        feature_extractor(small(), ('stem', name))
    said = str(error.value)
    assert name in said and near in said and 'features --list' in said and 'layers(model)' in said
    with pytest.raises(InputError, match='--list'):
        feature_extractor(small(), ())
