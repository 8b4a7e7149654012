"""A block computes what the papers' figures say, in their order.

`Formula` states the parts of a block in plain NumPy, in float64; other tests use it too.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import InputError
from resnet_jax.models.block import ResidualBlock
from resnet_jax.models.convolution import convolution
from resnet_jax.models.design import (
    BASIC,
    BOTTLENECK,
    PLACEMENTS,
    SHORTCUTS,
    BlockDesign,
    operations,
)
from resnet_jax.models.norms import make_norm
from resnet_jax.models.resnet import ResNet

EPSILON = 1e-5
# For what runs once or twice on little: compiles in a fraction of the time.
fast_jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
ONE_LAYER = BlockDesign(kernels=(3,))  # he2016, table 3
DESIGNS = {'one_layer': ONE_LAYER, 'basic': BASIC, 'bottleneck': BOTTLENECK}


def make_block(design, width=4, stride=1, first=False, dimensions=2, norm='batch', **kwargs):
    settings = {'momentum': 0.9, 'epsilon': EPSILON, 'dtype': jnp.float32}
    settings |= {'groups': 2, 'ghost_batch': 0, 'axis_name': None}
    conv = functools.partial(convolution, dimensions=dimensions)
    return ResidualBlock(design, width, stride, first, conv, make_norm(norm, **settings), **kwargs)


def randomised(variables, seed=0):
    """A tree of these shapes with random weights, scales, shifts and statistics."""
    leaves, tree = jax.tree.flatten_with_path(variables)
    rng = np.random.default_rng(seed)
    new = []
    for path, leaf in leaves:
        low, high = (0.5, 1.5) if path[-1].key in ('scale', 'var') else (-0.5, 0.5)
        new.append(jnp.asarray(rng.uniform(low, high, leaf.shape), leaf.dtype))
    return jax.tree.unflatten(tree, new)


def random_variables(model, shape, seed=0):
    """Random variables of a model or block for images of this shape."""
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    return randomised(
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images), seed
    )


def random_images(shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def assert_close(actual, expected, tolerance=1e-5):
    """Equal but for the rounding of float32, relative to the largest entry."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    atol = tolerance * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=atol)


# A plain statement of the formulas, independent of the interpreter.


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def convolve(x, kernel, stride=1, dilation=1):
    """Sums over the kernel's taps; zeros around, half the kernel on each side."""
    dims, size = x.ndim - 2, kernel.shape[0]
    pad = dilation * (size // 2)
    outputs = [(n - 1) // stride + 1 for n in x.shape[1:-1]]
    x = np.pad(x, ((0, 0), *((pad, pad),) * dims, (0, 0)))
    y = 0
    for tap in np.ndindex(*kernel.shape[:dims]):
        window = [
            slice(dilation * t, dilation * t + stride * (n - 1) + 1, stride)
            for t, n in zip(tap, outputs, strict=True)
        ]
        y = y + x[(slice(None), *window)] @ kernel[tap]
    return y


def normalise(x, axes, scale, bias):
    normal = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPSILON)
    return normal * scale + bias


class Formula:
    """The operations of a block with its own weights.

    `new_stats` collects what a training forward should leave in `batch_stats`.
    """

    def __init__(self, variables, train=False, shortcut_norm=True, groups=1):
        to64 = functools.partial(jax.tree.map, lambda a: np.asarray(a, np.float64))
        self.params = to64(variables['params'])
        self.stats = to64(variables.get('batch_stats', {}))
        self.train = train
        self.shortcut_norm = shortcut_norm
        self.groups = groups
        self.new_stats = {}

    def part(self, *names):
        """The formula of a part of a model, such as a stage's block."""
        new = Formula({'params': {}}, self.train, self.shortcut_norm, self.groups)
        new.params, new.stats = self.params, self.stats
        for name in names:
            new.params, new.stats = new.params[name], new.stats.get(name, {})
        return new

    def conv(self, name, x, stride=1, dilation=1):
        kernel = self.params[name]['kernel']
        groups = self.groups if kernel.shape[0] > 1 else 1
        if groups == 1:
            return convolve(x, kernel, stride, dilation)
        halves = zip(np.split(x, groups, -1), np.split(kernel, groups, -1), strict=True)
        return np.concatenate([convolve(a, k, stride, dilation) for a, k in halves], -1)

    def norm(self, name, x):
        p = self.params[name]
        if self.train:
            axes = tuple(range(x.ndim - 1))
            self.new_stats[name] = {
                key: 0.9 * self.stats[name][key] + 0.1 * batch
                for key, batch in (('mean', x.mean(axes)), ('var', x.var(axes)))
            }
            return normalise(x, axes, p['scale'], p['bias'])
        stats = self.stats[name]
        return (x - stats['mean']) / np.sqrt(stats['var'] + EPSILON) * p['scale'] + p['bias']

    def shortcut(self, kind, x, channels, stride, norm):
        if kind == 'identity':
            return x
        if kind == 'zero_pad':
            x = x[(slice(None), *(slice(None, None, stride),) * (x.ndim - 2))]
            zeros = np.zeros((*x.shape[:-1], (channels - x.shape[-1]) // 2))
            return np.concatenate([zeros, x, zeros], -1)
        y = self.conv('shortcut_conv', x, stride)
        return self.norm('shortcut_norm', y) if norm and self.shortcut_norm else y

    def squeeze_excite(self, x):
        """arXiv 1709.01507, equations 2 to 4."""
        p = self.params['se']
        z = x.mean(tuple(range(1, x.ndim - 1)), keepdims=True)
        z = relu(z @ p['reduce']['kernel'] + p['reduce']['bias'])
        return x * sigmoid(z @ p['expand']['kernel'] + p['expand']['bias'])


def original(f, x, strides, kind, channels):
    """he2015, equation 2 and he2016, figure 4(a): y = relu(F(x) + shortcut(x))."""
    n, stride, h = len(strides), max(strides), x
    for i in range(1, n):
        h = relu(f.norm(f'norm{i}', f.conv(f'conv{i}', h, strides[i - 1])))
    h = f.norm(f'norm{n}', f.conv(f'conv{n}', h, strides[-1]))
    return relu(h if kind is None else h + f.shortcut(kind, x, channels, stride, norm=True))


def bn_after_add(f, x, strides, kind, channels):
    """he2016, figure 4(b): the last norm moves behind the addition."""
    n, stride, h = len(strides), max(strides), x
    for i in range(1, n):
        h = relu(f.norm(f'norm{i}', f.conv(f'conv{i}', h, strides[i - 1])))
    h = f.conv(f'conv{n}', h, strides[-1])
    if kind is not None:
        h = h + f.shortcut(kind, x, channels, stride, norm=False)
    return relu(f.norm(f'norm{n}', h))


def relu_before_add(f, x, strides, kind, channels):
    """he2016, figure 4(c): the last relu moves before the addition."""
    stride, h = max(strides), x
    for i in range(1, len(strides) + 1):
        h = relu(f.norm(f'norm{i}', f.conv(f'conv{i}', h, strides[i - 1])))
    return h if kind is None else h + f.shortcut(kind, x, channels, stride, norm=True)


def relu_only_preact(f, x, strides, kind, channels, first=False):
    """he2016, figure 4(d) and appendix: relu, convolution, norm, as often as there are layers."""
    stride, h = max(strides), relu(x)
    skip = h if first or kind == 'projection' else x
    for i in range(1, len(strides) + 1):
        h = h if i == 1 else relu(h)
        h = f.norm(f'norm{i}', f.conv(f'conv{i}', h, strides[i - 1]))
    return h if kind is None else h + f.shortcut(kind, skip, channels, stride, norm=True)


def full_preact(f, x, strides, kind, channels, first=False):
    """he2016, figure 4(e) and appendix: y = F(relu(norm(x))) + shortcut."""
    stride = max(strides)
    h = relu(f.norm('norm1', x))
    skip = h if first or kind == 'projection' else x
    for i in range(1, len(strides)):
        h = relu(f.norm(f'norm{i + 1}', f.conv(f'conv{i}', h, strides[i - 1])))
    h = f.conv(f'conv{len(strides)}', h, strides[-1])
    return h if kind is None else h + f.shortcut(kind, skip, channels, stride, norm=False)


FORMULAS = {
    'original': original,
    'bn_after_add': bn_after_add,
    'relu_before_add': relu_before_add,
    'relu_only_preact': relu_only_preact,
    'full_preact': full_preact,
}

# he2015's options where the block keeps the shape and where it changes it; he2016's figure 2(e) is
# a convolution everywhere, without a norm.
KINDS = {
    'zero_pad': ('identity', 'zero_pad'),
    'projection': ('identity', 'projection'),
    'projection_all': ('projection', 'projection'),
    'conv1x1': ('projection', 'projection'),
    'none': (None, None),
}


def strides_of(design, stride):
    return [stride if i == design.stride_at else 1 for i in range(len(design.kernels))]


def test_every_placement_has_a_formula():
    assert set(FORMULAS) == set(PLACEMENTS)
    assert set(KINDS) == set(SHORTCUTS)


@pytest.mark.parametrize('change', [False, True], ids=['shape_kept', 'shape_changed'])
@pytest.mark.parametrize('shortcut', SHORTCUTS)
@pytest.mark.parametrize('design', DESIGNS)
@pytest.mark.parametrize('placement', PLACEMENTS)
def test_block_is_the_papers_formula(placement, design, shortcut, change):
    design = dataclasses.replace(DESIGNS[design], placement=placement, shortcut=shortcut)
    channels, stride = 4 * design.expansion, 2 if change else 1
    x = random_images((3, 5, 6, channels // 2 if change else channels))
    block = make_block(design, stride=stride)
    variables = random_variables(block, x.shape)
    for train in (False, True):
        f = Formula(variables, train, shortcut_norm=shortcut != 'conv1x1')
        expected = FORMULAS[placement](
            f, np.asarray(x), strides_of(design, stride), KINDS[shortcut][change], channels
        )
        actual, state = block.apply(variables, x, train=train, mutable=['batch_stats'])
        assert_close(actual, expected)
        jax.tree.map(assert_close, state['batch_stats'], f.new_stats if train else f.stats)


# Whole nets: what the stem leaves to the first unit, and what follows the last addition.

STEM_AND_TAIL = {
    # he2015: norm and relu follow the stem; the last unit ends as every unit does.
    'original': ('norm relu', ''),
    'bn_after_add': ('norm relu', ''),
    'relu_before_add': ('norm relu', ''),
    # he2016, appendix: the activation behind the stem is the first unit's, which shares it with the
    # shortcut; one more activation follows the last addition.
    'relu_only_preact': ('norm', 'relu'),
    'full_preact': ('', 'norm relu'),
}


@pytest.mark.parametrize('bottleneck', [False, True], ids=['basic', 'bottleneck'])
@pytest.mark.parametrize('placement', STEM_AND_TAIL)
def test_net_is_the_papers_formula(placement, bottleneck):
    design = BOTTLENECK if bottleneck else BASIC
    design = dataclasses.replace(design, placement=placement)
    model = ResNet((2, 1), design, num_classes=3, stem='cifar', stem_width=4, width=4)
    images = random_images((3, 6, 5, 3))
    variables = random_variables(model, images.shape)
    after_stem, tail = STEM_AND_TAIL[placement]
    for train in (False, True):
        net = Formula(variables, train)
        stem = net.part('stem')
        x = stem.conv('conv1', np.asarray(images))
        x = stem.norm('norm1', x) if 'norm' in after_stem else x
        x = relu(x) if 'relu' in after_stem else x
        assert set(stem.params) == {'conv1', 'norm1'} if 'norm' in after_stem else {'conv1'}
        for stage, block, stride in ((1, 1, 1), (1, 2, 1), (2, 1, 2)):
            channels = 4 * stage * design.expansion
            kind = 'identity' if x.shape[-1] == channels and stride == 1 else 'projection'
            shared = {'first': (stage, block) == (1, 1)} if 'preact' in placement else {}
            x = FORMULAS[placement](
                net.part(f'stage{stage}', f'block{block}'),
                x,
                strides_of(design, stride),
                kind,
                channels,
                **shared,
            )
        x = net.norm('final_norm', x) if 'norm' in tail else x
        x = relu(x) if 'relu' in tail else x
        assert ('final_norm' in net.params) == ('norm' in tail)
        head = net.params['head']
        expected = x.mean((1, 2)) @ head['kernel'] + head['bias']
        logits, _ = model.apply(variables, images, train=train, mutable=['batch_stats'])
        assert_close(logits, expected, 2e-5)


@pytest.mark.parametrize('placement', ['relu_only_preact', 'full_preact'])
def test_the_first_preactivation_unit_shares_its_activation(placement):
    """Also with an identity shortcut, which elsewhere takes the raw input."""
    design = dataclasses.replace(BASIC, placement=placement)
    x = random_images((2, 5, 5, 4))
    results = []
    for first in (True, False):
        block = make_block(design, first=first)
        variables = random_variables(block, x.shape)
        f = Formula(variables)
        expected = FORMULAS[placement](f, np.asarray(x), [1, 1], 'identity', 4, first=first)
        results.append(block.apply(variables, x, train=False))
        assert_close(results[-1], expected)
    assert not np.allclose(*results)


@pytest.mark.parametrize(
    ('kernels', 'dropout', 'expected'),
    [
        ((3,), 0.0, ('norm1 act', 'conv1', '')),
        ((3, 3), 0.0, ('norm1 act', 'conv1 norm2 act conv2', '')),
        ((1, 3, 1), 0.0, ('norm1 act', 'conv1 norm2 act conv2 norm3 act conv3', '')),
        # wrn, figure 1d; what precedes the branch is not dropped, the shortcut shares it.
        ((3, 3), 0.3, ('norm1 act', 'conv1 norm2 act dropout conv2', '')),
        ((3,), 0.3, ('norm1 act', 'dropout conv1', '')),
    ],
)
def test_a_placement_holds_for_any_number_of_convolutions(kernels, dropout, expected):
    design = BlockDesign(kernels=kernels, placement='full_preact', branch_dropout=dropout)
    assert tuple(' '.join(part) for part in dataclasses.astuple(operations(design))) == expected


# A zero weight before an activation would never learn: relu_before_add refuses it.
@pytest.mark.parametrize('placement', [p for p in PLACEMENTS if p != 'relu_before_add'])
@pytest.mark.parametrize('design', DESIGNS)
def test_zero_init_last_makes_the_block_an_identity_that_learns(design, placement):
    """On activated input, which the original's last relu leaves alone."""
    design = dataclasses.replace(DESIGNS[design], placement=placement, zero_init_last=True)
    x = jnp.abs(random_images((2, 6, 6, 4 * design.expansion)))
    block = make_block(design)
    variables = block.init(jax.random.key(0), x, train=False)

    def loss(params):
        out, _ = block.apply(
            {**variables, 'params': params}, x, train=True, mutable=['batch_stats']
        )
        return jnp.sum((out - 2 * x) ** 2), out

    gradient, out = jax.grad(loss, has_aux=True)(variables['params'])
    evaluated = block.apply(variables, x, train=False)
    if placement == 'bn_after_add':  # the branch is zero; what follows the addition is not identity
        normal = relu(normalise(np.asarray(x, np.float64), (0, 1, 2), 1, 0))
        assert_close(out, normal)
        assert_close(evaluated, x / np.sqrt(1 + EPSILON))
    else:
        np.testing.assert_array_equal(out, x)
        np.testing.assert_array_equal(evaluated, x)
    kind = 'norm' if placement in ('original', 'relu_only_preact') else 'conv'
    leaf = gradient[f'{kind}{len(design.kernels)}']['scale' if kind == 'norm' else 'kernel']
    assert jnp.all(leaf != 0), 'the zero weight must receive a gradient'


def test_zero_init_last_is_refused_where_it_cannot_work():
    x = jnp.zeros((1, 4, 4, 4))
    design = dataclasses.replace(BASIC, zero_init_last=True, placement='relu_before_add')
    with pytest.raises(InputError, match='nothing before an activation learns from zero'):
        make_block(design).init(jax.random.key(0), x, train=False)
    design = dataclasses.replace(BASIC, zero_init_last=True)
    with pytest.raises(InputError, match='learn_branch_scale=True and branch_scale=0'):
        make_block(design, norm='none').init(jax.random.key(0), x, train=False)


def small_net(**kwargs):
    design = dataclasses.replace(BASIC, **kwargs)
    return ResNet((2, 2, 2), design, num_classes=10, stem='cifar', stem_width=4, width=4)


@pytest.mark.parametrize(
    ('shortcut', 'blocks'),
    [
        ('projection', {'stage2/block1', 'stage3/block1'}),
        ('zero_pad', set()),
        ('none', set()),
        ('projection_all', {f'stage{s}/block{b}' for s in (1, 2, 3) for b in (1, 2)}),
        ('conv1x1', {f'stage{s}/block{b}' for s in (1, 2, 3) for b in (1, 2)}),
    ],
)
def test_projections_stand_only_where_the_option_says(shortcut, blocks):
    variables = random_variables(small_net(shortcut=shortcut), (1, 8, 8, 3))
    found = {
        f'{stage}/{name}'
        for stage, inside in variables['params'].items()
        if stage.startswith('stage')
        for name, block in inside.items()
        if 'shortcut_conv' in block
    }
    assert found == blocks
