"""What users of a model rely on, for all kinds of models in the registry."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import members
from random_models import fast_jit, random_variables

from resnet_jax.models import InputError, create_model
from resnet_jax.models.rows import MODELS
from resnet_jax.training.compilation import jit

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


# Each word of theirs is that of another kind.
_ALIKE = (
    *('plain18', 'resnet50_v1', 'cifar_plain20', 'cifar_preact_resnet20'),
    *('resnet18', 'preact_resnet50', 'cifar_resnet8'),
)


def tiny(name, **overrides):
    """The named design with one narrow block per stage, which runs fast."""
    settings = MODELS[name].settings
    return create_model(
        name,
        num_classes=5,
        **{'stage_sizes': (1,) * len(settings['stage_sizes']), 'stem_width': 8, 'width': 8}
        | overrides,
    )


@functools.cache
def shapes_of(model):
    """The shapes of the variables, which are those of images of any size."""
    images = jax.ShapeDtypeStruct((2, *(9,) * model.dimensions, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)


def init(model, shape, seed=0):
    @fast_jit
    def run():
        return model.init(jax.random.key(seed), jnp.zeros(shape), train=False)

    return run()


def features_shapes(model, variables, images):
    return jax.eval_shape(
        lambda v, x: model.apply(v, x, train=False, method='features'), variables, images
    )


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (1, 1)])
@pytest.mark.parametrize('name', members(KINDS, _ALIKE))
def test_shapes_over_even_and_odd_sizes(name, size):
    model = tiny(name)
    images, variables = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32), shapes_of(model)
    logits = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
    assert (logits.shape, logits.dtype) == ((2, 5), jnp.float32)

    features = features_shapes(model, variables, images)
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


@pytest.mark.parametrize('name', members(KINDS, _ALIKE))
def test_logits_are_the_head_of_the_pooled_features(name):
    model = tiny(name)
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    variables = random_variables(model, images.shape)

    @fast_jit
    def run(variables):
        pooled = model.apply(variables, images, train=False, method='features')['pooled']
        return model.apply(variables, images, train=False), pooled

    logits, pooled = run(variables)
    head = variables['params']['head']
    expected = pooled @ head['kernel'] + head['bias'][None]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


# One of each value of each axis: (model, overrides).
BOTTLENECK = 'cifar_resnet164'
VARIANTS = [
    *(
        ('cifar_resnet8', {'placement': p})
        for p in ('bn_after_add', 'relu_before_add', 'relu_only_preact', 'full_preact')
    ),
    *(('cifar_resnet8', {'shortcut': s}) for s in ('projection', 'projection_all', 'conv1x1')),
    *(('cifar_resnet8', {'gate': g, 'gate_bias': -6.0}) for g in ('exclusive', 'shortcut_only')),
    ('cifar_resnet8', {'shortcut_scale': 0.5, 'branch_scale': 0.5}),
    ('cifar_resnet8', {'learn_shortcut_scale': True, 'learn_branch_scale': True}),
    ('cifar_resnet8', {'shortcut_dropout': 0.5, 'branch_dropout': 0.3, 'dropout': 0.1}),
    *(
        ('cifar_resnet8', {'kernels': list(k)})
        for k in ((3,), (3, 1), (1, 3), (3, 1, 1), (1, 3, 1), (3, 1, 3), (3, 3, 3), (3, 3, 3, 3))
    ),
    (BOTTLENECK, {'groups': 2, 'base_width': 32}),
    (BOTTLENECK, {'stride_at': 2, 'expansion': 2}),
    *(('cifar_resnet8', {'se_ratio': 0.25, 'se_place': p}) for p in ('standard', 'pre', 'post')),
    ('cifar_resnet8', {'se_ratio': 0.25, 'se_place': 'identity'}),
    *(('cifar_resnet8', {'downsample': d, 'shortcut': 'projection'}) for d in ('average', 'blur')),
    *((name, {}) for name in ('resnet50d', 'resnet50t', 'resnetblur50', 'resnetaa50d')),
    *((name, {}) for name in ('bit_resnet50x1', 'ecaresnet50d')),
    *(('cifar_resnet8', {'activation': a}) for a in ('leaky_relu', 'gelu', 'silu', 'elu', 'relu6')),
    *(('cifar_resnet8', {'norm': n}) for n in ('group', 'layer', 'none')),
    ('cifar_resnet8', {'ghost_batch': 2}),
    ('cifar_resnet8', {'weight_standardization': True}),
    ('cifar_resnet8', {'zero_init_head': True}),
    ('cifar_resnet8', {'norm': 'none', 'init_scheme': 'fixup'}),
    ('cifar_preact_resnet20', {'norm': 'none', 'init_scheme': 'fixup'}),
    ('cifar_resnet8', {'zero_init_last': True, 'init_scheme': 'he_fan_in'}),
    ('cifar_resnet8', {'stochastic_depth': 0.5}),
    ('cifar_resnet8', {'stochastic_depth': 0.5, 'stochastic_depth_decay': 'constant'}),
    ('cifar_resnet8', {'scan_blocks': True, 'stage_sizes': [1, 3, 2]}),
    *(('resnet18', {'output_stride': o}) for o in (8, 16, 32)),
    ('preact_resnet50', {'output_stride': 8}),
    *((name, {'dimensions': d}) for d in (1, 3) for name in ('resnet50d', 'cifar_preact_resnet20')),
    ('resnet18', {'dimensions': 3, 'output_stride': 16}),
]


# Shapes that are those of another variant, by the same code.
_SAME_SHAPES = (
    *({'activation': a} for a in ('leaky_relu', 'silu', 'elu', 'relu6')),
    *({'kernels': k} for k in ([3, 1], [1, 3], [3, 1, 1], [3, 3, 3])),
    *({'placement': p} for p in ('bn_after_add', 'relu_before_add')),
    *({'zero_init_head': True}, {'stochastic_depth': 0.5}, {'shortcut': 'conv1x1'}),
    *({'gate': 'exclusive', 'gate_bias': -6.0}, {'norm': 'layer'}, {'output_stride': 16}),
    *({'dimensions': 3, 'output_stride': 16}, {'dimensions': 1}, {'stride_at': 2, 'expansion': 2}),
    *({'ghost_batch': 2}, {'weight_standardization': True}, {'kernels': [3, 3, 3, 3]}),
    *({'se_ratio': 0.25, 'se_place': p} for p in ('pre', 'post')),
)


@pytest.mark.parametrize(
    ('name', 'overrides'),
    [
        pytest.param(*variant, marks=[pytest.mark.slow] * (variant[1] in _SAME_SHAPES))
        for variant in VARIANTS
    ],
    ids=str,
)
def test_features_have_the_shapes_that_the_model_states(name, overrides):
    overrides = {'norm_groups': 2} | overrides
    model = tiny(name, **overrides)
    for size in ((33, 46, 18), (7, 5, 1)):
        size = size[: model.dimensions]
        stated = model.feature_info(size)
        images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
        features = features_shapes(model, shapes_of(model), images)
        pooled = features.pop('pooled')
        assert {k: v.shape for k, v in features.items()} == {
            k: (2, *feature.size, feature.channels) for k, feature in stated.items()
        }
        assert list(stated) == ['stem', *(f'stage{i + 1}' for i in range(len(stated) - 1))]
        assert pooled.shape == (2, list(stated.values())[-1].channels)
        # Each halving rounds up.
        for feature in stated.values():
            assert feature.size == tuple(-(-n // feature.reduction) for n in size)


def test_feature_info_by_hand():
    """he2015, table 1; a number stands for equal sizes."""
    model = create_model('resnet50')
    info = model.feature_info(224)
    assert info['stem'] == ((56, 56), 64, 4)
    assert info['stage1'] == ((56, 56), 256, 4)
    assert info['stage4'] == ((7, 7), 2048, 32)
    assert info['stage4'].channels == 2048
    assert info == model.feature_info((224, 224)) == model.feature_info([224, 224])
    assert create_model('cifar_resnet20', dimensions=1).feature_info(65)['stage3'] == ((17,), 64, 4)
    with pytest.raises(InputError, match='image_size needs 2 sizes'):
        model.feature_info((224,))


@pytest.mark.parametrize(
    ('output_stride', 'sizes'),
    [
        (0, (56, 56, 28, 14, 7)),
        (32, (56, 56, 28, 14, 7)),
        (16, (56, 56, 28, 14, 14)),
        (8, (56, 56, 28, 28, 28)),
        (4, (56, 56, 56, 56, 56)),
    ],
)
def test_output_stride_limits_the_reduction(output_stride, sizes):
    features = create_model('resnet50', output_stride=output_stride).feature_info((224, 224))
    channels = (64, 256, 512, 1024, 2048)
    expected = [((size, size), c, 224 // size) for size, c in zip(sizes, channels, strict=True)]
    assert list(features.values()) == expected


def test_too_small_an_output_stride_is_named():
    with pytest.raises(InputError, match='at least the reduction of the stem, 4'):
        create_model('resnet50', output_stride=2).feature_info((224, 224))


@pytest.mark.parametrize('name', members(KINDS, _ALIKE))
def test_statistics_move_in_training_and_not_in_evaluation(name):
    model = tiny(name)
    images = 3 + jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    variables = random_variables(model, images.shape)

    @fast_jit
    def run(variables):
        return [
            model.apply(variables, images, train=train, mutable=['batch_stats'])[1]
            for train in (False, True)
        ]

    same, moved = run(variables)
    jax.tree.map(np.testing.assert_array_equal, same['batch_stats'], variables['batch_stats'])
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
    variables = random_variables(model, images.shape)
    _, moved = model.apply(variables, images, train=True, mutable=['batch_stats'])
    kernel = variables['params']['stem']['conv1']['kernel']
    out = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    stats = moved['batch_stats']['stem']['norm1']
    old = variables['batch_stats']['stem']['norm1']
    expected = 0.9 * old['mean'] + 0.1 * out.mean((0, 1, 2))
    np.testing.assert_allclose(stats['mean'], expected, atol=1e-6)
    expected = 0.9 * old['var'] + 0.1 * out.var((0, 1, 2))
    np.testing.assert_allclose(stats['var'], expected, rtol=1e-5)


@pytest.mark.parametrize(
    'name',
    members(['resnet18', 'preact_resnet50', 'cifar_resnet8'], ('resnet18', 'preact_resnet50')),
)
def test_bfloat16_computes_like_float32_and_keeps_float32_state(name, standard_promotion):
    images = jax.random.normal(jax.random.key(1), (8, 32, 32, 3))
    full, half = tiny(name), tiny(name, dtype=jnp.bfloat16)
    variables = random_variables(half, images.shape)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    logits, state = jax.eval_shape(
        lambda v: half.apply(v, images, train=True, mutable=['batch_stats']), variables
    )
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype('float32')}
    assert features_shapes(half, variables, images)['stage1'].dtype == jnp.bfloat16
    run = jit(lambda v: [model.apply(v, images, train=False) for model in (full, half)])
    expected, logits = run(variables)
    assert logits.dtype == jnp.float32
    # bfloat16 has 8 bits of mantissa: about 0.4 % for each of a dozen roundings.
    np.testing.assert_allclose(logits, expected, atol=0.05 * float(jnp.abs(expected).max()))
    assert not np.array_equal(logits, expected)


@pytest.mark.slow
def test_max_pool_pads_with_minus_infinity():
    """A zero pad would win over negative values, which pre-activation stems do have."""
    model = tiny('preact_resnet18', stage_sizes=(1,))
    images = jnp.ones((1, 8, 8, 3))
    variables = random_variables(model, images.shape)
    kernel = -jnp.abs(variables['params']['stem']['conv1']['kernel'])
    variables['params']['stem']['conv1']['kernel'] = kernel
    stem = model.apply(variables, images, train=False, method='features')['stem']
    assert jnp.all(stem < 0)


@pytest.mark.slow
def test_he_initialisation():
    """Normal with variance 2 / fan-out, he2015 section 3.4 and arXiv 1502.01852."""
    variables = init(create_model('resnet50', stage_sizes=(1,) * 4), (1, 32, 32, 3))
    kernel = variables['params']['stage4']['block1']['conv2']['kernel']
    assert kernel.shape == (3, 3, 512, 512)
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (9 * 512)), rtol=0.01)
    assert np.abs(kernel).max() > 4 * np.std(kernel), 'normal, not truncated at two deviations'


def test_dropout_before_the_head():
    model = tiny('cifar_resnet8', dropout=0.5)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = random_variables(model, images.shape)

    @fast_jit
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
    params = random_variables(tiny('resnet50'), (1, 32, 32, 3))['params']
    assert set(params) == {'stem', 'stage1', 'stage2', 'stage3', 'stage4', 'head'}
    assert set(params['stem']) == {'conv1', 'norm1'}
    assert set(params['stage1']['block1']) == bottleneck | {'shortcut_conv', 'shortcut_norm'}
    params = random_variables(tiny('preact_resnet50'), (1, 32, 32, 3))['params']
    assert set(params) == {'stem', 'stage1', 'stage2', 'stage3', 'stage4', 'final_norm', 'head'}
    assert set(params['stem']) == {'conv1'}
    assert set(params['stage1']['block1']) == bottleneck | {'shortcut_conv'}


@pytest.mark.parametrize('images', [jnp.zeros((8, 8, 3)), jnp.zeros((1, 8, 8, 3), jnp.uint8)])
def test_wrong_images_are_named(images):
    with pytest.raises(InputError, match=r'normalised floats of shape \[N, H, W, C\]'):
        tiny('cifar_resnet8').init(jax.random.key(0), images, train=False)


@pytest.mark.parametrize('shape', [(2, 3, 32, 32), (2, 1, 28, 28), (1, 3, 224, 224)])
def test_images_with_channels_first_are_refused(shape):
    model = create_model('cifar_resnet8')
    with pytest.raises(InputError, match=r'look like \[N, C, H, W\].*transpose\(0, 2, 3, 1\)'):
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros(shape))


def test_images_of_other_channels_than_the_weights_are_refused():
    model = tiny('cifar_resnet8')
    variables = init(model, (1, 8, 8, 3))
    with pytest.raises(InputError, match=r'for images of 3 channels, got \[1, 8, 8, 1\]'):
        model.apply(variables, jnp.zeros((1, 8, 8, 1)), train=False)


def test_a_head_can_start_at_zero():
    """BiT's, arXiv 1912.11370: all classes begin equally likely; the body is as ever."""
    zero, plain = tiny('resnet18', zero_init_head=True), tiny('resnet18')
    variables, others = init(zero, (1, 32, 32, 3)), init(plain, (1, 32, 32, 3))
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    logits = fast_jit(lambda v: zero.apply(v, images, train=False))(variables)
    np.testing.assert_array_equal(logits, np.zeros((2, 5)))
    assert np.any(others['params']['head']['kernel'])
    jax.tree.map(
        np.testing.assert_array_equal, variables['params']['stem'], others['params']['stem']
    )
