"""What a user of a model relies on, over the registry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models import InputError, create_model
from resnet_jax.models.registry import MODELS

# One of each kind: basic and bottleneck, both placements, both stems, all shortcuts.
KINDS = [
    'resnet18',
    'resnet50',
    'resnet50_v1',
    'plain18',
    'preact_resnet18',
    'preact_resnet50',
    'cifar_resnet8',
    'cifar_plain20',
    'cifar_resnet164',
    'cifar_preact_resnet20',
]


def tiny(name, **overrides):
    """The named design with one block a stage and narrow, so that it runs in no time."""
    settings = MODELS[name].settings
    return create_model(
        name,
        num_classes=5,
        **{'stage_sizes': (1,) * len(settings['stage_sizes']), 'stem_width': 8, 'width': 8}
        | overrides,
    )


def init(model, shape, seed=0):
    return model.init(jax.random.key(seed), jnp.zeros(shape), train=False)


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (17, 9), (1, 1)])
@pytest.mark.parametrize('name', KINDS)
def test_shapes_over_even_and_odd_sizes(name, size):
    model = tiny(name)
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    variables = jax.eval_shape(lambda: init(model, (2, *size, 3)))
    logits = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
    assert (logits.shape, logits.dtype) == ((2, 5), jnp.float32)

    features = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=False, method='features'), variables, images
    )
    stages = len(model.stage_sizes)
    assert set(features) == {'stem', *(f'stage{i + 1}' for i in range(stages)), 'pooled'}
    h, w = size
    reductions = [4, 1, 2, 2, 2] if model.stem == 'imagenet' else [1, 1, 2, 2]
    parts = ['stem', *(f'stage{i + 1}' for i in range(stages))]
    for part, reduction in zip(parts, reductions, strict=True):
        while reduction > 1:  # each stride of 2 rounds up
            h, w, reduction = -(-h // 2), -(-w // 2), reduction // 2
        assert features[part].shape[:3] == (2, h, w), part
    assert features['pooled'].shape == (2, model.width * 2 ** (stages - 1) * model.block.expansion)


@pytest.mark.parametrize('name', KINDS)
def test_logits_are_the_head_of_the_pooled_features(name):
    model = tiny(name)
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    variables = init(model, images.shape)
    pooled = model.apply(variables, images, train=False, method='features')['pooled']
    head = variables['params']['head']
    expected = pooled @ head['kernel'] + head['bias'][None]
    np.testing.assert_allclose(
        model.apply(variables, images, train=False), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize('name', KINDS)
def test_statistics_move_in_training_and_not_in_evaluation(name):
    model = tiny(name)
    images = 3 + jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    variables = init(model, images.shape)
    _, same = model.apply(variables, images, train=False, mutable=['batch_stats'])
    jax.tree.map(np.testing.assert_array_equal, same['batch_stats'], variables['batch_stats'])
    _, moved = model.apply(variables, images, train=True, mutable=['batch_stats'])
    for before, after in zip(
        jax.tree.leaves(variables['batch_stats']),
        jax.tree.leaves(moved['batch_stats']),
        strict=True,
    ):
        assert not np.array_equal(before, after)


def test_running_statistics_follow_the_stated_convention():
    """running = 0.9 * running + 0.1 * batch, with the biased variance."""
    model = tiny('cifar_resnet8')
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    variables = init(model, images.shape)
    _, moved = model.apply(variables, images, train=True, mutable=['batch_stats'])
    kernel = variables['params']['stem']['conv1']['kernel']
    out = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    stats = moved['batch_stats']['stem']['norm1']
    np.testing.assert_allclose(stats['mean'], 0.1 * out.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(stats['var'], 0.9 + 0.1 * out.var((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize('name', ['resnet18', 'preact_resnet50', 'cifar_resnet8'])
def test_bfloat16_computes_like_float32_and_keeps_float32_state(name, standard_promotion):
    images = jax.random.normal(jax.random.key(1), (8, 32, 32, 3))
    full, half = tiny(name), tiny(name, dtype=jnp.bfloat16)
    variables = init(half, images.shape)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    expected = full.apply(variables, images, train=False)
    logits, state = half.apply(variables, images, train=True, mutable=['batch_stats'])
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype('float32')}
    features = half.apply(variables, images, train=False, method='features')
    assert features['stage1'].dtype == jnp.bfloat16
    logits = half.apply(variables, images, train=False)
    # bfloat16 has 8 bits of mantissa: about 0.4 % for each of a dozen roundings.
    np.testing.assert_allclose(logits, expected, atol=0.05 * float(jnp.abs(expected).max()))
    assert not np.array_equal(logits, expected)


def test_max_pool_pads_with_minus_infinity():
    """A zero pad would win over negative values, which pre-activation stems do have."""
    model = tiny('preact_resnet18')
    images = jnp.ones((1, 8, 8, 3))
    variables = init(model, images.shape)
    kernel = -jnp.abs(variables['params']['stem']['conv1']['kernel'])
    variables['params']['stem']['conv1']['kernel'] = kernel
    stem = model.apply(variables, images, train=False, method='features')['stem']
    assert jnp.all(stem < 0)


def test_he_initialisation():
    """Normal with variance 2 / fan-out, he2015 section 3.4 and arXiv 1502.01852."""
    variables = jax.jit(lambda: init(create_model('resnet50'), (1, 32, 32, 3)))()
    kernel = variables['params']['stage4']['block2']['conv2']['kernel']
    assert kernel.shape == (3, 3, 512, 512)
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (9 * 512)), rtol=0.01)
    assert np.abs(kernel).max() > 4 * np.std(kernel), 'normal, not truncated at two deviations'


def test_dropout_before_the_head():
    model = tiny('cifar_resnet8', dropout=0.5)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = init(model, images.shape)

    def apply(seed):
        key = {'dropout': jax.random.key(seed)}
        return model.apply(variables, images, train=True, mutable=['batch_stats'], rngs=key)[0]

    np.testing.assert_array_equal(apply(0), apply(0))
    assert not np.array_equal(apply(0), apply(1))
    np.testing.assert_array_equal(
        model.apply(variables, images, train=False),
        tiny('cifar_resnet8').apply(variables, images, train=False),
    )


def test_parameter_paths_are_the_documented_ones():
    """Checkpoints depend on them."""
    bottleneck = {f'{kind}{i}' for kind in ('conv', 'norm') for i in (1, 2, 3)}
    params = init(tiny('resnet50'), (1, 32, 32, 3))['params']
    assert set(params) == {'stem', 'stage1', 'stage2', 'stage3', 'stage4', 'head'}
    assert set(params['stem']) == {'conv1', 'norm1'}
    assert set(params['stage1']['block1']) == bottleneck | {'shortcut_conv', 'shortcut_norm'}
    params = init(tiny('preact_resnet50'), (1, 32, 32, 3))['params']
    assert set(params) == {'stem', 'stage1', 'stage2', 'stage3', 'stage4', 'final_norm', 'head'}
    assert set(params['stem']) == {'conv1'}
    assert set(params['stage1']['block1']) == bottleneck | {'shortcut_conv'}


@pytest.mark.parametrize('images', [jnp.zeros((8, 8, 3)), jnp.zeros((1, 8, 8, 3), jnp.uint8)])
def test_wrong_images_are_named(images):
    with pytest.raises(InputError, match=r'normalised floats of shape \[N, H, W, C\]'):
        tiny('cifar_resnet8').init(jax.random.key(0), images, train=False)
