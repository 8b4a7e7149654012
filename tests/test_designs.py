"""Gates, scales, dropout, squeeze-and-excitation, downsampling, groups, dilation: by formula."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from formulas import FORMULAS, Formula, relu, sigmoid, strides_of
from random_models import assert_close, make_block, random_images, random_variables

from resnet_jax.models import InputError, create_model
from resnet_jax.models.design import BASIC, BOTTLENECK, BOTTLENECK_V1, BlockDesign
from resnet_jax.models.layers import SqueezeExcite, average_pool, blur_pool
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.stages import plan_stages


def design_of(base=BASIC, **fields):
    return dataclasses.replace(base, **fields)


def changed(tree, value, *path):
    """A copy of a tree of dicts with another value at a path."""
    if not path:
        return jnp.broadcast_to(jnp.asarray(value, tree.dtype), tree.shape)
    return {**tree, path[0]: changed(tree[path[0]], value, *path[1:])}


def paths(f, x, stride, channels, norm=True):
    """Shortcut and branch of an original basic block, before they are joined."""
    h = relu(f.norm('norm1', f.conv('conv1', x, stride)))
    branch = f.norm('norm2', f.conv('conv2', h))
    kind = 'identity' if stride == 1 and x.shape[-1] == channels else 'projection'
    return f.shortcut(kind, x, channels, stride, norm), branch


# Gates, scales


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('gate', ['exclusive', 'shortcut_only'])
def test_gates_weigh_the_paths(gate, stride):
    """he2016, section 3.1: g(x) on the branch, 1 - g(x) on the shortcut."""
    design = design_of(gate=gate, gate_bias=-6.0)
    x = random_images((2, 5, 6, 4 // stride))
    block = make_block(design, stride=stride)
    bias = block.init(jax.random.key(0), x, train=False)['params']['gate_conv']['bias']
    np.testing.assert_array_equal(bias, [-6.0] * 4)
    variables = random_variables(block, x.shape)
    f = Formula(variables)
    skip, branch = paths(f, np.asarray(x), stride, 4)

    def joined(g):
        return relu((1 - g) * skip + (g * branch if gate == 'exclusive' else branch))

    g = sigmoid(f.conv('gate_conv', np.asarray(x), stride) + f.params['gate_conv']['bias'])
    assert_close(block.apply(variables, x, train=False), joined(g))
    # Zero weights leave the constant gate sigmoid(bias).
    variables = changed(variables, 0.0, 'params', 'gate_conv', 'kernel')
    variables = changed(variables, -1.5, 'params', 'gate_conv', 'bias')
    assert_close(block.apply(variables, x, train=False), joined(1 / (1 + np.exp(1.5))))


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('learn', [False, True], ids=['constant', 'learnt'])
@pytest.mark.parametrize(('a', 'b'), [(0.0, 1.0), (0.5, 1.0), (0.5, 0.5), (2.0, 0.0)])
def test_scales_weigh_the_paths(a, b, learn, stride):
    """he2016, equation 3 and table 1; learnt scales begin at the same values, and learn."""
    design = design_of(shortcut_scale=a, branch_scale=b)
    if learn:
        design = design_of(design, learn_shortcut_scale=True, learn_branch_scale=True)
    x = random_images((2, 5, 6, 4 // stride))
    block = make_block(design, stride=stride)
    variables = random_variables(block, x.shape)
    skip, branch = paths(Formula(variables), np.asarray(x), stride, 4)
    if not learn:
        assert 'branch_scale' not in variables['params']
        assert_close(block.apply(variables, x, train=False), relu(a * skip + b * branch))
        return
    initial = block.init(jax.random.key(0), x, train=False)['params']
    for name, value in (('shortcut_scale', a), ('branch_scale', b)):
        np.testing.assert_array_equal(initial[name]['scale'], [value])
        variables = changed(variables, value, 'params', name, 'scale')

    def total(params):
        out = block.apply({**variables, 'params': params}, x, train=False)
        return jnp.sum(out), out

    gradient, out = jax.grad(total, has_aux=True)(variables['params'])
    assert_close(out, relu(a * skip + b * branch))
    passed = a * skip + b * branch > 0  # the relu lets the gradient through
    assert_close(gradient['shortcut_scale']['scale'][0], np.sum(skip * passed))
    assert_close(gradient['branch_scale']['scale'][0], np.sum(branch * passed))


def test_a_learnt_scale_can_stand_on_one_path_alone():
    block = make_block(design_of(learn_shortcut_scale=True, shortcut_scale=0.5))
    params = block.init(jax.random.key(0), jnp.zeros((1, 4, 4, 4)), train=False)['params']
    assert 'branch_scale' not in params
    np.testing.assert_array_equal(params['shortcut_scale']['scale'], [0.5])


# Dropout, stochastic depth. Bounds are five standard errors, computed from the stated distribution.

KEYS = 2000


def over_keys(block, variables, x, **kwargs):
    """The block in training with many keys: [KEYS, ...]."""

    @jax.jit
    def run(keys):
        def apply(key):
            return block.apply(
                variables, x, train=True, mutable=['batch_stats'], rngs={'dropout': key}, **kwargs
            )[0]

        return jax.vmap(apply)(keys)

    return np.asarray(run(jax.random.split(jax.random.key(0), KEYS)), np.float64)


def preact(f, x, stride=1):
    return FORMULAS['full_preact'](f, x, [stride, 1], 'identity', x.shape[-1])


def test_dropout_of_the_shortcut():
    """he2016, figure 2f. What is kept is doubled, so that the expectation is the evaluation."""
    design, x = (
        design_of(placement='full_preact', shortcut_dropout=0.5),
        random_images((2, 3, 3, 4)),
    )
    block = make_block(design)
    variables = random_variables(block, x.shape)
    np_x = np.asarray(x, np.float64)
    assert_close(block.apply(variables, x, train=False), preact(Formula(variables), np_x))
    branch = preact(Formula(variables, train=True), np_x) - np_x
    skips = over_keys(block, variables, x) - branch
    kept = np.abs(skips) > np.abs(np_x) / 2
    np.testing.assert_allclose(skips, 2 * np_x * kept, atol=2e-5)
    standard_error = np.abs(np_x) / np.sqrt(KEYS)
    assert np.all(np.abs(skips.mean(0) - np_x) < 5 * standard_error + 1e-5)
    # Each entry is dropped by itself.
    assert abs(np.corrcoef(kept[:, 0, 0, 0, 0], kept[:, 0, 0, 0, 1])[0, 1]) < 5 / np.sqrt(KEYS)


def test_dropout_inside_the_branch():
    """wrn, figure 1d: after the last norm and relu, so that only a convolution follows."""
    rate, x = 0.3, random_images((2, 3, 3, 4))
    block = make_block(design_of(placement='full_preact', branch_dropout=rate))
    variables = random_variables(block, x.shape)
    np_x = np.asarray(x, np.float64)
    assert_close(block.apply(variables, x, train=False), preact(Formula(variables), np_x))
    f = Formula(variables, train=True)
    expected = preact(f, np_x)
    outputs = over_keys(block, variables, x)
    # The variance of a sum of independently dropped terms.
    h = relu(f.norm('norm2', f.conv('conv1', relu(f.norm('norm1', np_x)))))
    f.params['conv2']['kernel'] = f.params['conv2']['kernel'] ** 2
    variance = f.conv('conv2', h**2) * rate / (1 - rate)
    assert np.all(np.abs(outputs.mean(0) - expected) < 5 * np.sqrt(variance / KEYS) + 1e-5)
    np.testing.assert_allclose(outputs.var(0), variance, rtol=0.25, atol=1e-6)


def test_a_single_convolution_drops_its_input_and_nothing_else():
    """Not the shortcut that shares the first unit's activation, and not the tail of the net."""
    design = BlockDesign(kernels=(3,), placement='full_preact', branch_dropout=0.5)
    block, x = make_block(design, first=True), random_images((2, 3, 3, 4))
    variables = changed(random_variables(block, x.shape), 0.0, 'params', 'conv1', 'kernel')
    out, _ = block.apply(
        variables, x, train=True, mutable=['batch_stats'], rngs={'dropout': jax.random.key(0)}
    )
    assert_close(out, relu(Formula(variables, train=True).norm('norm1', np.asarray(x))))
    # A second activation would show with gelu, which is not idempotent.
    settings = {'kernels': (3,), 'stride_at': 0, 'activation': 'gelu', 'stage_sizes': (1,) * 3}
    plain, dropping = (
        create_model('cifar_preact_resnet20', 3, width=4, stem_width=4, **settings, **more)
        for more in ({}, {'branch_dropout': 0.5})
    )
    images = random_images((1, 4, 4, 3))
    variables = random_variables(plain, images.shape)
    np.testing.assert_array_equal(
        plain.apply(variables, images, train=False), dropping.apply(variables, images, train=False)
    )


def test_stochastic_depth_drops_the_branch_of_an_example():
    rate, x = 0.25, random_images((2, 3, 3, 4))
    block = make_block(design_of(placement='full_preact'))
    variables = random_variables(block, x.shape)
    np_x = np.asarray(x, np.float64)
    branch = preact(Formula(variables, train=True), np_x) - np_x
    branches = over_keys(block, variables, x, drop_rate=rate) - np_x
    kept = np.abs(branches).max((2, 3, 4), keepdims=True) > np.abs(branch).max() / 10
    np.testing.assert_allclose(branches, branch * kept / (1 - rate), atol=5e-5)
    standard_error = np.abs(branch) * np.sqrt(rate / (1 - rate) / KEYS)
    assert np.all(np.abs(branches.mean(0) - branch) < 5 * standard_error + 1e-5)
    assert abs(np.corrcoef(kept[:, 0].ravel(), kept[:, 1].ravel())[0, 1]) < 5 / np.sqrt(KEYS)
    evaluated = block.apply(variables, x, train=False, drop_rate=rate)  # needs no key
    assert_close(evaluated, preact(Formula(variables), np_x))


LINEAR, CONSTANT = ('linear', [0.2, 0.4, 0.6]), ('constant', [0.6, 0.6, 0.6])


@pytest.mark.parametrize(
    ('decay', 'rates', 'scan'),  # arXiv 1603.09382, section 3
    [
        pytest.param(*LINEAR, True, id='linear, scanned', marks=pytest.mark.slow),
        pytest.param(*CONSTANT, False, id='constant, looped'),
        pytest.param(*LINEAR, False, id='linear, looped', marks=pytest.mark.slow),
        pytest.param(*CONSTANT, True, id='constant, scanned', marks=pytest.mark.slow),
    ],
)
def test_rates_of_stochastic_depth(decay, rates, scan):
    """Counted: each branch is made constant, so that the sum shows which have survived."""
    design, examples = design_of(placement='relu_only_preact'), 4000
    settings = {'stochastic_depth': 0.6, 'stochastic_depth_decay': decay, 'scan_blocks': scan}
    model = ResNet((3,), design, 2, stem='cifar', stem_width=2, width=2, **settings)
    images = jnp.ones((examples, 1, 1, 1))
    variables = random_variables(model, images.shape)
    stage = variables['params']['stage1']
    constants = np.array([1.0, 10.0, 100.0])
    if scan:
        norm = stage['blocks']['norm2']
        norm |= {'scale': norm['scale'] * 0, 'bias': jnp.tile(jnp.array([[10.0], [100.0]]), (1, 2))}
    for number, constant in zip((1,) if scan else (1, 2, 3), constants, strict=False):
        norm = stage[f'block{number}']['norm2']
        norm |= {'scale': norm['scale'] * 0, 'bias': norm['bias'] * 0 + constant}
    (_, state) = model.apply(
        variables,
        images,
        train=True,
        mutable=['batch_stats', 'intermediates'],
        rngs={'dropout': jax.random.key(3)},
        capture_intermediates=lambda module, _: module.name in ('stem', 'stage1'),
    )
    seen = state['intermediates']
    entry = relu(seen['stem']['__call__'][0])
    total = np.asarray(seen['stage1']['__call__'][0] - entry)[:, 0, 0, 0]
    steps = constants / (1 - np.array(rates))
    patterns = np.array(list(np.ndindex(2, 2, 2)))
    distance = np.abs(total[:, None] - (patterns @ steps)[None])
    np.testing.assert_allclose(distance.min(1), 0, atol=1e-3)
    survived = patterns[distance.argmin(1)]
    error = np.sqrt(np.array(rates) * (1 - np.array(rates)) / examples)
    assert np.all(np.abs(survived.mean(0) - (1 - np.array(rates))) < 5 * error)
    correlation = np.corrcoef(survived.T)[np.triu_indices(3, 1)]
    assert np.all(np.abs(correlation) < 5 / np.sqrt(examples)), 'branches drop independently'


@pytest.mark.slow
def test_no_stochastic_depth_is_the_plain_net():
    images = random_images((2, 8, 8, 3))
    plain, zero, deep = (
        create_model('cifar_resnet8', 3, width=4, stem_width=4, stochastic_depth=rate, **decay)
        for rate, decay in ((0.0, {}), (0, {'stochastic_depth_decay': 'constant'}), (0.5, {}))
    )
    variables = random_variables(plain, images.shape)
    expected = plain.apply(variables, images, train=False)
    for model in (zero, deep):
        np.testing.assert_array_equal(model.apply(variables, images, train=False), expected)
    train = {'train': True, 'mutable': ['batch_stats']}
    expected, _ = plain.apply(variables, images, **train)  # neither needs a key
    np.testing.assert_array_equal(zero.apply(variables, images, **train)[0], expected)


# Squeeze-and-excitation: arXiv 1709.01507, figure 5 and section 6.5


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('place', ['standard', 'pre', 'post', 'identity'])
def test_squeeze_excitation_stands_where_it_says(place, stride):
    x = random_images((2, 5, 6, 8 // stride))
    block = make_block(design_of(se_ratio=0.25, se_place=place), width=8, stride=stride)
    variables = random_variables(block, x.shape)
    np_x, f = np.asarray(x), Formula(variables)
    skip, branch = paths(f, np_x, stride, 8)
    expected = {
        'standard': lambda: relu(skip + f.squeeze_excite(branch)),
        'pre': lambda: relu(skip + paths(f, f.squeeze_excite(np_x), stride, 8)[1]),
        'post': lambda: f.squeeze_excite(relu(skip + branch)),
        'identity': lambda: relu(f.squeeze_excite(skip) + branch),
    }[place]()
    assert_close(block.apply(variables, x, train=False), expected)


def test_squeeze_excitation_of_a_preactivation_block():
    x = random_images((2, 5, 5, 4))
    block = make_block(design_of(se_ratio=0.25, placement='full_preact'))
    variables = random_variables(block, x.shape)
    f, np_x = Formula(variables), np.asarray(x)
    expected = np_x + f.squeeze_excite(preact(f, np_x) - np_x)
    assert_close(block.apply(variables, x, train=False), expected)


@pytest.mark.parametrize(
    ('channels', 'ratio', 'hidden'),
    [
        *((16, 1 / 16, 8), (256, 1 / 16, 16), (512, 1 / 16, 32), (2048, 1 / 16, 128)),
        *((96, 0.25, 24), (100, 0.125, 16), (88, 0.125, 8), (96, 0.125, 16)),  # to the nearest 8
    ],
)
def test_hidden_width_of_squeeze_excitation(channels, ratio, hidden):
    x = jax.ShapeDtypeStruct((1, 2, 2, channels), jnp.float32)
    module = SqueezeExcite(ratio, jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)['params']
    assert params['reduce']['kernel'].shape == (channels, hidden)
    assert params['expand']['kernel'].shape == (hidden, channels)


# Downsampling


def windows_mean(x, stride):
    """Mean of each window, cut off at the far edge."""
    y = np.zeros((x.shape[0], *(-(-n // stride) for n in x.shape[1:-1]), x.shape[-1]))
    for at in np.ndindex(*y.shape[1:-1]):
        window = tuple(slice(stride * i, stride * (i + 1)) for i in at)
        y[(slice(None), *at)] = x[(slice(None), *window)].mean(tuple(range(1, x.ndim - 1)))
    return y


def blurred(x, stride):
    """arXiv 1904.11486: [1 2 1] / 4 along each axis over a mirrored edge, then each stride-th."""
    for axis in range(1, x.ndim - 1):
        edge = [(1, 1) if a == axis else (0, 0) for a in range(x.ndim)]
        padded = np.pad(x, edge, mode='reflect' if x.shape[axis] > 1 else 'edge')
        at = [np.take(padded, range(i, i + x.shape[axis], 1), axis) for i in range(3)]
        x = np.take((at[0] + 2 * at[1] + at[2]) / 4, range(0, x.shape[axis], stride), axis)
    return x


@pytest.mark.parametrize('shape', [(5,), (6, 7), (1, 4), (3, 4, 5)])
@pytest.mark.parametrize(
    ('pool', 'reference'),
    [(average_pool, windows_mean), (blur_pool, blurred)],
    ids=['mean', 'blur'],
)
def test_pools(pool, reference, shape):
    if pool is blur_pool and 1 in shape:  # the edge is repeated, in all dimensions
        shape = (1,) * len(shape)
    x = random_images((2, *shape, 3))
    assert_close(pool(x, 2), reference(np.asarray(x, np.float64), 2))


@pytest.mark.parametrize('size', [(6, 8), (5, 7)])
def test_resnet_d_averages_in_the_shortcut(size):
    """Bag of Tricks, figure 2c: average 2x2, then the projection with stride 1."""
    x = random_images((2, *size, 8))
    block = make_block(design_of(BOTTLENECK, downsample='average'), stride=2)
    variables = random_variables(block, x.shape)
    f, np_x = Formula(variables), np.asarray(x, np.float64)
    branch = np_x
    for i, stride in ((1, 1), (2, 2), (3, 1)):
        branch = f.norm(f'norm{i}', f.conv(f'conv{i}', branch, stride))
        branch = relu(branch) if i < 3 else branch
    skip = f.shortcut('projection', windows_mean(np_x, 2), 16, 1, norm=True)
    assert_close(block.apply(variables, x, train=False), relu(skip + branch))


@pytest.mark.parametrize('base', [BASIC, BOTTLENECK, BOTTLENECK_V1], ids=['basic', 'v1.5', 'v1'])
@pytest.mark.parametrize('placement', ['original', 'full_preact'])
def test_blur_follows_the_activation_of_the_strided_convolution(base, placement):
    """arXiv 1904.11486, section 3.1: conv stride 2, relu becomes conv, relu, blur stride 2."""
    x = random_images((2, 5, 6, 8))
    design = design_of(base, downsample='blur', placement=placement)
    block = make_block(design, stride=2)
    variables = random_variables(block, x.shape)
    f, np_x = Formula(variables), np.asarray(x, np.float64)
    preactivated = placement == 'full_preact'
    entry = relu(f.norm('norm1', np_x)) if preactivated else np_x
    branch, n = entry, len(design.kernels)
    for i in range(1, n + 1):
        branch = f.conv(f'conv{i}', branch)
        if i < n or not preactivated:
            branch = f.norm(f'norm{i + preactivated}', branch)
        branch = relu(branch) if i < n else branch
        branch = blurred(branch, 2) if i == design.stride_at + 1 else branch
    channels = 4 * design.expansion
    skip = f.shortcut('projection', blurred(entry, 2), channels, 1, norm=not preactivated)
    expected = skip + branch if preactivated else relu(skip + branch)
    assert_close(block.apply(variables, x, train=False), expected)


def test_blur_of_a_last_strided_convolution_follows_that():
    x = random_images((2, 5, 6, 2))
    block = make_block(design_of(downsample='blur', stride_at=1), stride=2)
    variables = random_variables(block, x.shape)
    f, np_x = Formula(variables), np.asarray(x, np.float64)
    h = relu(f.norm('norm1', f.conv('conv1', np_x)))
    branch = f.norm('norm2', blurred(f.conv('conv2', h), 2))
    skip = f.shortcut('projection', blurred(np_x, 2), 4, 1, norm=True)
    assert_close(block.apply(variables, x, train=False), relu(skip + branch))


def max_pool(x):
    """3x3 with stride 2 over one pixel of -inf."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    rows, columns = ((n - 3) // 2 + 1 for n in x.shape[1:3])
    pixel = [
        [x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)) for j in range(columns)]
        for i in range(rows)
    ]
    return np.moveaxis(np.array(pixel), 2, 0)


@pytest.mark.parametrize('placement', ['original', 'full_preact'])
@pytest.mark.parametrize('kind', ['imagenet', 'imagenet_deep'])
def test_stems(kind, placement):
    """he2015, table 1; ResNet-C's three 3x3 with 32, 32, 64 of 64 channels (arXiv 1812.01187)."""
    design = design_of(placement=placement)
    model = ResNet((1,), design, 2, stem=kind, stem_width=8, width=8)
    images = random_images((2, 15, 18, 3))
    variables = random_variables(model, images.shape)
    f = Formula(variables).part('stem')
    x = np.asarray(images, np.float64)
    strides = [2] if kind == 'imagenet' else [2, 1, 1]
    for i, stride in enumerate(strides, 1):
        x = f.conv(f'conv{i}', x, stride)
        if i < len(strides) or placement == 'original':
            x = relu(f.norm(f'norm{i}', x))
    widths = [f.params[f'conv{i}']['kernel'].shape[-1] for i in range(1, len(strides) + 1)]
    assert widths == ([8] if kind == 'imagenet' else [4, 4, 8])
    features = model.apply(variables, images, train=False, method='features')
    assert_close(features['stem'], max_pool(x))


# Branches


@pytest.mark.parametrize(
    ('base', 'groups', 'base_width', 'inner'), [(BOTTLENECK, 4, 32, 8), (BASIC, 2, 64, 8)]
)
def test_groups_are_convolutions_side_by_side(base, groups, base_width, inner):
    """resnext, figure 3c, against a loop over the groups."""
    x = random_images((2, 5, 6, 4))
    block = make_block(design_of(base, groups=groups, base_width=base_width), stride=2)
    variables = random_variables(block, x.shape)
    channels = [
        variables['params'][f'conv{i + 1}']['kernel'].shape for i in range(len(base.kernels))
    ]
    assert [c[-1] for c in channels] == [*[inner] * (len(channels) - 1), 4 * base.expansion]
    f = Formula(variables, groups=groups)
    expected = FORMULAS['original'](
        f, np.asarray(x), strides_of(base, 2), 'projection', 4 * base.expansion
    )
    assert_close(block.apply(variables, x, train=False), expected)


KERNELS = [(3, 3), (3, 1), (1, 3), (3, 1, 1), (1, 3, 1), (3, 1, 3), (3,), (3, 3, 3), (3, 3, 3, 3)]


@pytest.mark.parametrize('placement', ['original', 'full_preact'])
@pytest.mark.parametrize('kernels', KERNELS, ids=str)
def test_kernels_of_wide_residual_networks(kernels, placement):
    """wrn, tables 2 and 3; the stride on any of the convolutions, the width as given."""
    x = random_images((2, 5, 6, 2))
    for stride_at in range(len(kernels)):
        design = BlockDesign(kernels=list(kernels), stride_at=stride_at, placement=placement)
        block = make_block(design, stride=2)
        variables = random_variables(block, x.shape)
        sizes = [variables['params'][f'conv{i + 1}']['kernel'].shape for i in range(len(kernels))]
        assert [s[0] for s in sizes] == list(kernels)
        expected = FORMULAS[placement](
            Formula(variables), np.asarray(x), strides_of(design, 2), 'projection', 4
        )
        assert_close(block.apply(variables, x, train=False), expected)


# Output stride


def test_dilation_is_torchvisions():
    """replace_stride_with_dilation: a stage's first strided convolution keeps the old dilation."""

    def laid_out(output_stride):
        plans = plan_stages(
            (1, 1, 1, 1),
            width=64,
            reduction=4,
            output_stride=output_stride,
            drop_rate=0.0,
            constant_rate=False,
            designs=(BASIC,) * 4,
        )
        return [(p.stride, p.dilation_before, p.dilation) for p in plans]

    assert laid_out(8) == [(1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)]
    assert laid_out(16) == [(1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2)]
    assert laid_out(32) == laid_out(0) == [(1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)]
    with pytest.raises(InputError, match='at least the reduction of the stem, 4'):
        laid_out(2)


@pytest.mark.slow
@pytest.mark.parametrize(
    'design',
    [
        BASIC,
        design_of(shortcut='zero_pad', placement='full_preact'),
        BOTTLENECK_V1,
        design_of(stride_at=1),
        BOTTLENECK,
        design_of(BOTTLENECK, groups=2, placement='relu_only_preact'),
        BlockDesign(kernels=(3, 1, 3), stride_at=1),
        BlockDesign(kernels=(3, 3, 3), stride_at=2, gate='exclusive'),
    ],
    ids=lambda design: f'{design.kernels}-{design.stride_at}-{design.placement}',
)
def test_dense_features_hold_the_strided_ones(design):
    """Dilation is the strided net computed at every pixel: each r-th pixel is the strided net's.

    Exact at any size, because padding grows with the dilation, for whatever acts on each pixel or
    convolves: both nets compute the same sums.
    """
    settings = {'stem': 'cifar', 'stem_width': 4, 'width': 4}
    images = random_images((1, 9, 12, 3))
    strided = ResNet((1, 2, 2), design, 2, **settings)
    variables = random_variables(strided, images.shape)
    expected = strided.apply(variables, images, train=False, method='features')
    for output_stride, skips in ((1, (1, 2, 4)), (2, (1, 1, 2)), (4, (1, 1, 1))):
        dense = ResNet((1, 2, 2), design, 2, output_stride=output_stride, **settings)
        features = dense.apply(variables, images, train=False, method='features')
        for stage, skip in zip(('stage1', 'stage2', 'stage3'), skips, strict=True):
            assert_close(features[stage][:, ::skip, ::skip], expected[stage])
        rows = -(-9 // output_stride), -(-12 // output_stride)
        assert features['stage3'].shape[1:3] == rows
