"""The nets compute what PyTorch's compute with the same weights, under the published names.

Loss, gradients and statistics in float64, because float32 gradients of correct implementations
differ at the kinks of ReLU.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from members import members
from random_models import fast_jit

from resnet_jax import create_model
from resnet_jax.interop import load_weights
from resnet_jax.interop.weights import describe, tensors_from_variables, variables_from_tensors
from resnet_jax.models import InputError

torch = pytest.importorskip('torch')
torch_models = pytest.importorskip('torch_models')

FAMILIES = torch_models.FAMILIES
# Flax's norms mix float32 constants into a float64 model.
pytestmark = pytest.mark.usefixtures('standard_promotion')


def nhwc(array):
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def as_numpy(named):
    """Copies, without the counters that no forward pass needs."""
    return {
        name: tensor.detach().numpy().copy()
        for name, tensor in named
        if not name.endswith('num_batches_tracked')
    }


def assert_close(actual, expected, tolerance=1e-9):
    """Relative to the largest entry: rounding grows on the way back through the norms."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=tolerance)


@functools.cache
def tiny(name):
    """(the net in PyTorch with random weights, its tensors by name)."""
    net = torch_models.randomise(torch_models.tiny_torch_net(name).double(), seed=1)
    return net, as_numpy(net.state_dict().items())


def model_of(name, dtype=jnp.float32):
    family = FAMILIES[name]
    return create_model(family.name, torch_models.CLASSES, dtype, **family.overrides)


def reader_of(name):
    """The model whose names the tensors have: he2016's first unit has those of the ports' one."""
    family = FAMILIES[name]
    activates = name in ('preact', 'cifar_preact')
    fields = {**family.overrides, **({'raw_first_shortcut': True} if activates else {})}
    return create_model(family.name, torch_models.CLASSES, **fields)


def random_images(odd=True):
    """Wherever a layer strides, one side is even (16, 8, 4), the other odd (33, 17, 9, 5)."""
    size = (16, 33) if odd else (16, 32)
    generator = torch.Generator().manual_seed(2)
    return torch.randn(4, 3, *size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize('name', FAMILIES)
def test_names_and_shapes_both_ways(name):
    _, tensors = tiny(name)
    model = reader_of(name)
    assert describe(tensors, model) == (FAMILIES[name].layout, torch_models.CLASSES)
    back = tensors_from_variables(
        variables_from_tensors(tensors, model), model, FAMILIES[name].layout
    )
    bare = {name.removeprefix('module.'): array for name, array in tensors.items()}
    assert back.keys() == bare.keys()
    for key, array in bare.items():
        np.testing.assert_array_equal(back[key], array)


# Stems, depths and layouts whose difference from another family is one of names or of numbers.
_ALIKE = (
    *('cifar_basic', 'cifar_bottleneck', 'cifar_preact', 'hf_bottleneck', 'hf_bottleneck_v1'),
    *('d_basic', 'preact_basic', 'preact_d', 'preact_d_basic', 'wide', 'aa', 'c', 't'),
)


@pytest.mark.parametrize('name', members(FAMILIES, _ALIKE))
def test_logits_and_features(name):
    net, tensors = tiny(name)
    images = random_images(FAMILIES[name].odd_sizes)
    with torch.no_grad():
        expected = {k: nhwc(v.numpy()) for k, v in net.features(images).items()}
        expected['logits'] = net(images).numpy()

    @functools.partial(fast_jit, static_argnums=0)
    def run(dtype, variables, images):
        model = model_of(name, dtype)
        logits = model.apply(variables, images, train=False)
        if dtype == jnp.float32:
            return {'logits': logits}
        return {**model.apply(variables, images, train=False, method='features'), 'logits': logits}

    variables = variables_from_tensors(tensors, reader_of(name))
    for dtype, tolerance in ((jnp.float32, 1e-4), (jnp.float64, 1e-9)):
        with jax.enable_x64(dtype == jnp.float64):
            inputs = (variables, nhwc(images.numpy()))
            found = run(dtype, *jax.tree.map(lambda x, dtype=dtype: jnp.asarray(x, dtype), inputs))
        assert found['logits'].dtype == dtype
        for key in found if dtype == jnp.float32 else expected:
            assert_close(found[key], expected[key], tolerance)
        np.testing.assert_array_equal(np.argmax(found['logits'], 1), expected['logits'].argmax(1))


def pytorchs_training_step(name, images, labels):
    """Logits, loss, gradients of weights and of images, and statistics, by PyTorch's names."""
    net, before = tiny(name)
    images = images.clone().requires_grad_()
    counts = {}  # values that each norm takes together
    hooks = [
        module.register_forward_hook(
            lambda _, __, out, path=path: counts.update({path: out.numel() // out.shape[1]})
        )
        for path, module in net.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    ]
    logits = net.train()(images)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    net.zero_grad()
    loss.backward()
    after = as_numpy((n, p.grad) for n, p in net.named_parameters())
    for path, new in as_numpy(net.named_buffers()).items():
        if path.endswith('var'):
            # PyTorch's running variance takes the unbiased variance, n / (n - 1) of ours.
            n = counts[path.removesuffix('.running_var')]
            new = 0.9 * before[path] + (new - 0.9 * before[path]) * (n - 1) / n
        after[path] = new
    for hook in hooks:
        hook.remove()
    net.load_state_dict({name: torch.from_numpy(array) for name, array in before.items()}, False)
    net.eval()
    return logits.detach().numpy(), loss.item(), after, images.grad.numpy()


# The blocks and stems of others once more, under other names or in another combination.
REPEATED = ('hf_basic', 'hf_bottleneck', 'cifar_bottleneck', 'c', 'd_basic', 't')


# A group convolution, a wide one, and the other place of the stride are among the logits above, as
# are pools and the gate that are tested by themselves.
_SLOW = (
    *('resnext', 'wide', 'hf_bottleneck_v1', 'blur', 'aa', 'eca', 'preact_d'),
    *('basic', 'd', 'cifar_basic', 'cifar_preact', 'preact_basic', 'preact_d_basic'),
)


@pytest.mark.parametrize(
    'name', members([name for name in FAMILIES if name not in REPEATED], _SLOW)
)
def test_training_step(name):
    """In training: logits, loss, gradients of weights and images, and the new statistics."""
    images, labels = random_images(FAMILIES[name].odd_sizes), torch.tensor([1, 4, 0, 1])
    theirs = pytorchs_training_step(name, images, labels)
    with jax.enable_x64(True):
        model = model_of(name, jnp.float64)
        variables = jax.tree.map(
            jnp.asarray, variables_from_tensors(tiny(name)[1], reader_of(name))
        )

        def loss(params, images):
            logits, state = model.apply(
                {**variables, 'params': params}, images, train=True, mutable=['batch_stats']
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels.numpy())
            return losses.mean(), (logits, state)

        step = fast_jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
        (value, (logits, state)), (gradient, of_images) = step(
            variables['params'], jnp.asarray(nhwc(images.numpy()))
        )
        expected = variables_from_tensors(theirs[2], reader_of(name))
    assert_close(logits, theirs[0])
    assert_close(value, theirs[1])
    jax.tree.map(assert_close, {'params': gradient, **state}, expected)
    assert_close(of_images, nhwc(theirs[3]))


def test_the_same_names_of_another_function_are_refused():
    with pytest.raises(InputError, match='set raw_first_shortcut=True'):
        tensors_from_variables(
            variables_from_tensors(tiny('cifar_preact')[1], reader_of('cifar_preact')),
            model_of('cifar_preact'),
            'cifar',
        )
    with pytest.raises(InputError, match='set raw_first_shortcut=True'):
        variables_from_tensors(tiny('cifar_preact')[1], model_of('cifar_preact'))


@pytest.mark.parametrize('name', ['cifar_resnet20.pth', 'cifar_resnet32.safetensors'])
def test_published_cifar_weights(name, shared_data):
    """The files as they are published, through `load_weights`."""
    file, model = shared_data / 'weights' / name, create_model(name.split('.')[0])
    variables = load_weights(file, model)
    net = torch_models.torch_net(name.split('.')[0]).eval()
    tensors = tensors_from_variables(variables, model, 'cifar')
    net.load_state_dict({n: torch.tensor(x) for n, x in tensors.items()}, strict=False)
    if name.endswith('.pth'):  # not by way of ours
        published = torch.load(file, weights_only=True, map_location='cpu')['state_dict']
        torch_models.Wrapped(net).load_state_dict(published)
    images = random_images(odd=False).float()
    with torch.no_grad():
        expected = net(images).numpy()
    apply = fast_jit(functools.partial(model.apply, train=False))
    logits = apply(variables, jnp.asarray(nhwc(images.numpy())))
    assert_close(logits, expected, 1e-4)
    np.testing.assert_array_equal(np.argmax(logits, 1), expected.argmax(1))
