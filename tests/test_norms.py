"""Normalisation, activation and initialisation, by formula."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from formulas import EPSILON, FORMULAS, Formula, convolve, normalise, relu
from random_models import assert_close, fast_jit, make_block, random_images, random_variables

from resnet_jax.models import InputError, create_model
from resnet_jax.models.convolution import convolution
from resnet_jax.models.design import ACTIVATIONS, BASIC, BOTTLENECK, BlockDesign
from resnet_jax.models.norms import NORMS, BatchNormInTraining
from resnet_jax.models.resnet import ResNet

TRAIN = {'train': True, 'mutable': ['batch_stats']}


def tiny(design=BASIC, stage_sizes=(1, 1), **settings):
    return ResNet(stage_sizes, design, 3, stem='cifar', stem_width=4, width=4, **settings)


# Norms. That of plain batch norm is in test_blocks.py.


@pytest.mark.slow
def test_ghost_batch_norm_is_the_net_on_each_group_alone():
    """Everything else treats examples independently, so this holds for whole nets."""
    images = random_images((6, 5, 6, 3))
    plain, ghost = tiny(), tiny(ghost_batch=2)
    variables = random_variables(plain, images.shape)
    assert jax.tree.structure(random_variables(ghost, images.shape)) == jax.tree.structure(
        variables
    )
    parts = [plain.apply(variables, images[i : i + 2], **TRAIN) for i in (0, 2, 4)]
    logits, state = ghost.apply(variables, images, **TRAIN)
    assert_close(logits, np.concatenate([part for part, _ in parts]))
    assert not np.allclose(logits, plain.apply(variables, images, **TRAIN)[0], atol=0.01)
    average = jax.tree.map(lambda *s: np.mean(s, axis=0), *(state for _, state in parts))
    jax.tree.map(assert_close, state, average)
    assert_close(
        ghost.apply(variables, images, train=False), plain.apply(variables, images, train=False)
    )


@pytest.mark.slow
def test_one_ghost_group_is_batch_norm():
    images = random_images((4, 5, 6, 3))
    variables = random_variables(tiny(), images.shape)
    results = [tiny(ghost_batch=n).apply(variables, images, **TRAIN) for n in (0, 4)]
    jax.tree.map(assert_close, *results)


def test_ghost_groups_must_divide_the_batch():
    images = random_images((6, 5, 6, 3))
    variables = random_variables(tiny(), images.shape)
    with pytest.raises(InputError, match='ghost_batch 4 does not divide the batch of 6'):
        tiny(ghost_batch=4).apply(variables, images, **TRAIN)  # though it divides the channels


@pytest.mark.slow
def test_synced_batch_norm_is_that_of_the_big_batch():
    images = random_images((6, 5, 6, 3))
    variables = random_variables(tiny(), images.shape)
    logits, state = tiny().apply(variables, images, **TRAIN)
    synced = tiny(bn_axis_name='replica')
    shards = images.reshape(3, 2, 5, 6, 3)

    def apply(model):
        return jax.vmap(lambda shard: model.apply(variables, shard, **TRAIN), axis_name='replica')(
            shards
        )

    by_shard, states = apply(synced)
    assert_close(by_shard.reshape(6, 3), logits)
    jax.tree.map(lambda s, e: [assert_close(one, e) for one in s], states, state)
    alone = apply(tiny())[0].reshape(6, 3)
    assert not np.allclose(alone, logits, atol=0.01), 'otherwise this test proves nothing'


class PerExample(Formula):
    """Norms that treat examples independently, over groups of their channels."""

    groups_of_channels = None

    def norm(self, name, x):
        if not self.groups_of_channels:
            return x
        p = self.params[name]
        y = x.reshape(*x.shape[:-1], self.groups_of_channels, -1)
        axes = (*range(1, x.ndim - 1), x.ndim)
        return normalise(y, axes, 1, 0).reshape(x.shape) * p['scale'] + p['bias']


@pytest.mark.parametrize('placement', ['original', 'full_preact'])
@pytest.mark.parametrize(('norm', 'groups'), [('group', 2), ('layer', 1), ('none', 0)])
def test_norms_of_an_example(norm, groups, placement):
    """arXiv 1803.08494, equations 1 and 7; the same in training and evaluation."""
    assert set(NORMS) == {'batch', 'group', 'layer', 'none', 'folded'}
    x = random_images((2, 5, 6, 4))
    block = make_block(dataclasses.replace(BASIC, placement=placement), stride=2, norm=norm)
    variables = random_variables(block, x.shape)
    assert set(variables) == {'params'}
    assert any('norm' in name for name in variables['params']) == bool(groups)
    f = PerExample(variables)
    f.groups_of_channels = groups
    expected = FORMULAS[placement](f, np.asarray(x, np.float64), [2, 1], 'projection', 4)
    for train in (False, True):
        assert_close(block.apply(variables, x, train=train), expected)


def test_a_net_takes_the_groups_that_it_is_told():
    images = random_images((2, 5, 5, 3))
    one, two = (tiny(norm='group', norm_groups=n) for n in (1, 2))
    variables = random_variables(one, images.shape)
    logits = [m.apply(variables, images, train=False) for m in (tiny(norm='layer'), one, two)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert not np.allclose(logits[1], logits[2], atol=1e-3)
    with pytest.raises(InputError, match='norm_groups 8 does not divide 4 channels'):
        tiny(norm='group').init(jax.random.key(0), images, train=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    'settings',
    [{'ghost_batch': 2}, {'norm': 'none', 'weight_standardization': True}],
    ids=['ghost', 'none'],
)
def test_bfloat16_without_flaxs_own_norms_keeps_strict_promotion(settings):
    images = random_images((2, 5, 5, 3))
    model, full = tiny(dtype=jnp.bfloat16, **settings), tiny(**settings)
    variables = random_variables(full, images.shape)
    for train in (False, True):
        logits, _ = model.apply(variables, images, train=train, mutable=['batch_stats'])
        expected, _ = full.apply(variables, images, train=train, mutable=['batch_stats'])
        # Eight bits of mantissa, a dozen roundings.
        np.testing.assert_allclose(logits, expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize('to', ['fan_in', 'one'])
@pytest.mark.parametrize(('dimensions', 'groups'), [(1, 1), (2, 1), (2, 2)])
def test_weight_standardisation(dimensions, groups, to):
    """arXiv 1903.10520, equation 7, to a variance of 1 or of 1 / n, n taps and channels."""
    x = random_images((2, *(5,) * dimensions, 4))
    module = convolution(6, 3, dimensions=dimensions, groups=groups, standardize=to)
    variables = module.init(jax.random.key(0), x)
    kernel = np.asarray(variables['params']['kernel'], np.float64) + 0.3
    kernel[..., 0] = 0.25  # no variance: divided by 0.01 and not by zero
    fan_in = 3**dimensions * 4 // groups
    axes = tuple(range(dimensions + 1))
    standard = kernel - kernel.mean(axes, keepdims=True)
    variance = kernel.var(axes, keepdims=True)
    if to == 'fan_in':
        standard /= np.sqrt(np.maximum(variance * fan_in, 1e-4))
    else:
        standard /= np.sqrt(variance + 1e-10)
    np.testing.assert_allclose(
        standard[..., 1:].var(axes), 1 if to == 'one' else 1 / fan_in, rtol=1e-6
    )
    halves = zip(np.split(np.asarray(x), groups, -1), np.split(standard, groups, -1), strict=True)
    expected = np.concatenate([convolve(a, k) for a, k in halves], -1)
    variables = {'params': {'kernel': jnp.asarray(kernel, jnp.float32)}}
    assert_close(module.apply(variables, x), expected)


@pytest.mark.slow
def test_weight_standardisation_reaches_every_convolution():
    """Shifting and scaling an output channel's weights changes nothing."""
    images = random_images((2, 6, 6, 3))
    model = tiny(BOTTLENECK, weight_standardization=True)
    variables = random_variables(model, images.shape)

    def moved(path, leaf):
        return 2 * leaf + 0.7 if leaf.ndim == 4 else leaf  # the head has two dimensions

    other = jax.tree.map_with_path(moved, variables)
    expected = model.apply(variables, images, train=False)
    assert_close(model.apply(other, images, train=False), expected, 1e-4)
    plain = tiny(BOTTLENECK)
    assert not np.allclose(plain.apply(variables, images, train=False), expected, atol=0.01)


# Activations

ACTIVATION_FORMULAS = {
    'relu': lambda x: np.maximum(x, 0),
    'leaky_relu': lambda x: np.where(x > 0, x, 0.01 * x),
    'gelu': lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    'silu': lambda x: x / (1 + np.exp(-x)),
    'elu': lambda x: np.where(x > 0, x, np.exp(x) - 1),
    'relu6': lambda x: np.clip(x, 0, 6),
}


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_activations_stand_in_stem_branch_and_behind_the_addition(activation):
    act = ACTIVATION_FORMULAS[activation]
    model = tiny(dataclasses.replace(BASIC, activation=activation), (1,))
    images = 8 * random_images((2, 4, 5, 3))
    variables = random_variables(model, images.shape)
    features = model.apply(variables, images, train=False, method='features')
    f = Formula(variables)
    stem, block = f.part('stem'), f.part('stage1', 'block1')
    x = act(stem.norm('norm1', stem.conv('conv1', np.asarray(images))))
    assert_close(features['stem'], x)
    branch = act(block.norm('norm1', block.conv('conv1', x)))
    branch = block.norm('norm2', block.conv('conv2', branch))
    assert_close(features['stage1'], act(branch + x))
    model = tiny(dataclasses.replace(model.block, placement='full_preact'), (1,))
    variables = random_variables(model, images.shape)
    features = model.apply(variables, images, train=False, method='features')
    tail = act(Formula(variables).norm('final_norm', np.asarray(features['stage1'], np.float64)))
    assert_close(features['pooled'], tail.mean((1, 2)))


# Initialisation


@pytest.mark.parametrize(
    ('scheme', 'fan', 'groups'),
    [('he_fan_in', 9 * 48, 1), ('he_fan_out', 9 * 96, 1), ('he_fan_in', 9 * 12, 4)],
)
def test_he_deviations(scheme, fan, groups):
    """arXiv 1502.01852, equations 10 and 14: variance 2 / fan, normal."""
    images = jnp.zeros((1, 4, 4, 48))
    module = convolution(96, 3, init=scheme, groups=groups)
    kernel = np.asarray(module.init(jax.random.key(0), images)['params']['kernel'])
    # The deviation of n normal numbers is known to 1 / sqrt(2 n), five times.
    assert abs(kernel.std() / math.sqrt(2 / fan) - 1) < 5 / math.sqrt(2 * kernel.size)
    assert np.abs(kernel).max() > 3.5 * kernel.std(), 'normal, not truncated at two deviations'


@pytest.mark.parametrize('scheme', ['he_fan_in', 'he_fan_out'])
def test_the_scheme_reaches_the_net(scheme):
    model = ResNet((1, 1), BASIC, 3, stem='cifar', stem_width=16, width=32, init_scheme=scheme)
    params = fast_jit(model.init, static_argnames='train')(
        jax.random.key(0), jnp.zeros((1, 4, 4, 3)), train=False
    )['params']
    fans = {
        ('stem',): (27, 144),
        ('stage1', 'block1'): (144, 288),
        ('stage2', 'block1'): (288, 576),
    }
    for path, fan in fans.items():
        part = params
        for name in path:
            part = part[name]
        kernel = np.asarray(part['conv1']['kernel'])
        deviation = math.sqrt(2 / fan[scheme == 'he_fan_out'])
        assert abs(kernel.std() / deviation - 1) < 5 / math.sqrt(2 * kernel.size)


def fixup(design, stage_sizes, **settings):
    settings = {'stem_width': 32, 'width': 32} | settings
    return ResNet(
        stage_sizes, design, 3, stem='cifar', norm='none', init_scheme='fixup', **settings
    )


# Biases before each convolution and activation of a branch, in he2015's and he2016's order.
@pytest.mark.parametrize(
    ('design', 'biases', 'tail'),
    [
        (BASIC, 4, set()),  # conv1, relu, conv2, and the relu behind the addition
        (BOTTLENECK, 6, set()),
        (dataclasses.replace(BASIC, placement='full_preact'), 4, {'final_bias'}),
        (BlockDesign(kernels=(3,)), 2, set()),
    ],
    ids=['basic', 'bottleneck', 'preact', 'one_layer'],
)
def test_fixup_at_initialisation(design, biases, tail):
    """arXiv 1901.09321, section 3, rules 1 to 3; L branches of m layers."""
    model = fixup(design, (2, 3))
    params = fast_jit(model.init, static_argnames='train')(
        jax.random.key(0), jnp.zeros((1, 4, 4, 3)), train=False
    )['params']
    m, last = len(design.kernels), f'conv{len(design.kernels)}'
    assert set(params) == {'stem', 'stage1', 'stage2', 'head_bias', 'head'} | tail
    assert set(params['stem']) == {'conv1', 'bias1'} - ({'bias1'} if tail else set())
    assert not np.any(params['head']['kernel']) and not np.any(params['head']['bias'])
    factor = 5 ** (-1 / (2 * m - 2)) if m > 1 else 1.0
    for stage, block in (('stage1', 'block1'), ('stage2', 'block1'), ('stage2', 'block3')):
        part = dict(params[stage][block])
        part.pop('shortcut_conv', None)
        names = {f'conv{i + 1}' for i in range(m)} | {f'bias{i + 1}' for i in range(biases)}
        assert set(part) == names | {'scale'}
        np.testing.assert_array_equal(part['scale']['scale'], [1.0])
        for i in range(biases):
            np.testing.assert_array_equal(part[f'bias{i + 1}']['bias'], [0.0])
        assert not np.any(part[last]['kernel'])
        for i in range(m - 1):
            kernel = np.asarray(part[f'conv{i + 1}']['kernel'])
            deviation = factor * math.sqrt(2 / math.prod(kernel.shape[:-1]))
            assert abs(kernel.std() / deviation - 1) < 5 / math.sqrt(2 * kernel.size)


def test_fixup_block_by_formula():
    """Biases before each convolution and relu, a multiplier after the last convolution."""
    x = random_images((2, 5, 6, 4))
    for placement in ('original', 'full_preact'):
        design = dataclasses.replace(BASIC, placement=placement)
        block = make_block(design, norm='none', fixup=0.5)
        variables = random_variables(block, x.shape)
        f = Formula(variables)
        b = [0, *(f.params[f'bias{i}']['bias'] for i in range(1, 5))]
        scale, np_x = f.params['scale']['scale'], np.asarray(x, np.float64)
        if placement == 'original':
            h = f.conv('conv2', relu(f.conv('conv1', np_x + b[1]) + b[2]) + b[3])
            expected = relu(scale * h + np_x + b[4])
        else:
            h = f.conv('conv1', relu(np_x + b[1]) + b[2])
            expected = scale * f.conv('conv2', relu(h + b[3]) + b[4]) + np_x
        assert_close(block.apply(variables, x, train=False), expected)


def test_fixup_needs_that_no_norm_stands():
    with pytest.raises(InputError, match="set norm='none'"):
        tiny(init_scheme='fixup')


def depth_110(**settings):
    """Root mean squares of the features of 54 blocks without norm, over that of the stem."""
    model = create_model('cifar_resnet110', norm='none', scan_blocks=True, **settings)
    images = random_images((2, 16, 16, 3))

    @fast_jit
    def run():
        variables = model.init(jax.random.key(0), images, train=False)
        return model.apply(variables, images, train=False, method='features')

    rms = {k: float(jnp.sqrt(jnp.mean(v**2))) for k, v in run().items()}
    return [rms[f'stage{i}'] / rms['stem'] for i in (1, 2, 3)]


SKIP_INIT = {'learn_branch_scale': True, 'branch_scale': 0.0}


@pytest.mark.parametrize(
    'settings', [{'init_scheme': 'fixup'}, SKIP_INIT], ids=['fixup', 'skipinit']
)
def test_depth_110_without_norm_starts_in_range(settings):
    """Both start as the shortcuts alone, which option A pads with zeros: 1, 1 / 2, 1 / 4 stays.

    But for the pixels that a stride leaves out.
    """
    np.testing.assert_allclose(depth_110(**settings), np.sqrt([1, 1 / 2, 1 / 4]), rtol=0.15)


def test_depth_110_without_norm_explodes_from_he_initialisation():
    """Every branch adds about its input's variance: 18 blocks a stage double it 18 times."""
    growth = depth_110(init_scheme='he_fan_in')
    assert np.all(np.isfinite(growth))
    assert growth[0] > 2**6 and growth[1] > 2**6 * growth[0] and growth[2] > 2**4 * growth[1]


def test_skip_init_learns():
    """arXiv 2002.10444: the scale receives a gradient at zero, then the branch does."""
    x = random_images((2, 5, 5, 4))
    block = make_block(dataclasses.replace(BASIC, **SKIP_INIT), norm='none')
    variables = block.init(jax.random.key(0), x, train=False)
    np.testing.assert_array_equal(block.apply(variables, x, train=False), jnp.maximum(x, 0))

    def loss(params):
        return jnp.sum(block.apply({'params': params}, x, train=False) ** 2)

    gradient = jax.grad(loss)(variables['params'])
    assert gradient['branch_scale']['scale'][0] != 0
    assert not np.any(gradient['conv1']['kernel'])
    moved = jax.tree.map(lambda p, g: p - 0.01 * g, variables['params'], gradient)
    assert np.any(jax.grad(loss)(moved)['conv1']['kernel'])


def test_epsilon_is_that_of_every_norm():
    """On a constant image the norm divides by the square root of epsilon alone."""
    x = jnp.full((2, 3, 3, 3), 1e-3)
    for norm in ('batch', 'group', 'layer'):
        results = []
        for epsilon in (EPSILON, 100 * EPSILON):
            model = tiny(norm=norm, norm_groups=4, bn_epsilon=epsilon, stage_sizes=(1,))
            variables = random_variables(model, x.shape)
            results.append(model.apply(variables, x, **TRAIN)[0])
        assert not np.allclose(*results, rtol=1e-3), norm


def test_batch_norm_in_training_is_flaxs(standard_promotion):
    """The same output, statistics and derivatives, also second ones, of a loss that uses all."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, weights = (jnp.asarray(rng.normal(1, 2, (4, 3, 5, 6))) for _ in range(2))
        params = {'scale': jnp.asarray(rng.normal(size=6)), 'bias': jnp.asarray(rng.normal(size=6))}
        statistics = {'mean': jnp.asarray(rng.normal(size=6)), 'var': jnp.ones(6)}

        def run(module, params, x):
            variables = {'params': params, 'batch_stats': statistics}
            y, new = module.apply(variables, x, mutable=['batch_stats'])
            used = [jnp.sum(weights * y + y**2), *map(jnp.sum, map(jnp.sin, jax.tree.leaves(new)))]
            return sum(used), (y, new)

        def derivatives(module, params, x):
            function = functools.partial(run, module)
            gradients = jax.grad(lambda *a: function(*a)[0], (0, 1))
            directions = (params, x), (params, weights)
            return (
                function(params, x),
                gradients(params, x),
                jax.jvp(function, *directions),
                jax.jvp(gradients, *directions),
                jax.vmap(gradients, (None, 1))(params, jnp.stack([x, weights], 1)),
            )

        settings = {'momentum': 0.7, 'epsilon': 1e-3, 'dtype': jnp.float64}
        results = []
        for module in (
            BatchNormInTraining(**settings),
            nn.BatchNorm(use_running_average=False, **settings),
        ):
            results.append(jax.jit(functools.partial(derivatives, module))(params, x))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), *results)
