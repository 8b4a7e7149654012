"""A block computes what the papers' figures say, in their order."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from resnet_jax.models.blocks import (
    BASIC,
    BOTTLENECK,
    PLACEMENTS,
    SHORTCUTS,
    ResidualBlock,
    operations,
)
from resnet_jax.models.convolution import convolution
from resnet_jax.models.resnet import ResNet

EPSILON = 1e-5


def make_block(design, width=4, stride=1, first=False):
    norm = functools.partial(nn.BatchNorm, momentum=0.9, epsilon=EPSILON)
    return ResidualBlock(design, width, stride, first, convolution, norm)


def randomised(variables, seed=0):
    """The same tree with random weights, scales, shifts and statistics; variances positive."""
    leaves, tree = jax.tree.flatten_with_path(variables)
    rng = np.random.default_rng(seed)
    new = []
    for path, leaf in leaves:
        name = path[-1].key
        low, high = (0.5, 1.5) if name in ('scale', 'var') else (-0.5, 0.5)
        new.append(jnp.asarray(rng.uniform(low, high, leaf.shape), leaf.dtype))
    return jax.tree.unflatten(tree, new)


# A plain statement of the formulas, independent of the interpreter.


class Formula:
    def __init__(self, variables, train):
        self.params = variables['params']
        self.stats = variables['batch_stats']
        self.train = train

    def conv(self, name, x, stride=1):
        kernel = self.params[name]['kernel']
        pad = kernel.shape[0] // 2
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(pad, pad)] * 2,
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )

    def norm(self, name, x):
        def row(v):
            return v[None, None, None]

        if self.train:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        else:
            mean, var = self.stats[name]['mean'], self.stats[name]['var']
        p = self.params[name]
        normal = (x - row(mean)) / jnp.sqrt(row(var) + EPSILON)
        return normal * row(p['scale']) + row(p['bias'])

    def shortcut(self, kind, x, channels, stride, norm):
        if kind == 'identity':
            return x
        if kind == 'zero_pad':
            x = x[:, ::stride, ::stride]
            half = (channels - x.shape[-1]) // 2
            zeros = jnp.zeros((*x.shape[:3], half))
            return jnp.concatenate([zeros, x, zeros], -1)
        y = self.conv('shortcut_conv', x, stride)
        return self.norm('shortcut_norm', y) if norm else y


def relu(x):
    return jnp.maximum(x, 0)


def original(f, x, strides, kind, channels):
    """he2015, equation 2: y = relu(F(x) + shortcut(x))."""
    n, stride, h = len(strides), max(strides), x
    for i in range(1, n):
        h = relu(f.norm(f'norm{i}', f.conv(f'conv{i}', h, strides[i - 1])))
    h = f.norm(f'norm{n}', f.conv(f'conv{n}', h, strides[-1]))
    return relu(h if kind is None else h + f.shortcut(kind, x, channels, stride, norm=True))


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
    'full_preact': full_preact,
}


def test_every_placement_has_a_formula():
    assert set(FORMULAS) == set(PLACEMENTS)


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('change', [False, True], ids=['shape_kept', 'shape_changed'])
@pytest.mark.parametrize('shortcut', SHORTCUTS)
@pytest.mark.parametrize('design', [BASIC, BOTTLENECK], ids=['basic', 'bottleneck'])
@pytest.mark.parametrize('placement', PLACEMENTS)
def test_block_is_the_papers_formula(placement, design, shortcut, change, train):
    design = dataclasses.replace(design, placement=placement, shortcut=shortcut)
    channels = 4 * design.expansion
    stride = 2 if change else 1
    x = jax.random.normal(jax.random.key(1), (3, 6, 6, channels // 2 if change else channels))
    block = make_block(design, width=4, stride=stride)
    variables = randomised(block.init(jax.random.key(0), x, train=False))
    strides = [stride if i == design.stride_at else 1 for i in range(len(design.kernels))]
    expected = FORMULAS[placement](
        Formula(variables, train), x, strides, SHORTCUTS[shortcut][int(change)], channels
    )
    actual, _ = block.apply(variables, x, train=train, mutable=['batch_stats'])
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


def test_the_first_preactivation_unit_shares_its_activation():
    design = dataclasses.replace(BASIC, placement='full_preact')
    x = jax.random.normal(jax.random.key(1), (2, 5, 5, 4))
    block = make_block(design, first=True)
    variables = randomised(block.init(jax.random.key(0), x, train=False))
    shared = full_preact(Formula(variables, False), x, [1, 1], 'identity', 4, first=True)
    np.testing.assert_allclose(block.apply(variables, x, train=False), shared, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ('kernels', 'expected'),
    [
        ((3,), ('norm act', 'conv', '')),
        ((3, 3), ('norm act', 'conv norm act conv', '')),
        ((1, 3, 1), ('norm act', 'conv norm act conv norm act conv', '')),
    ],
)
def test_a_placement_holds_for_any_number_of_convolutions(kernels, expected):
    design = dataclasses.replace(BASIC, kernels=kernels, placement='full_preact')
    assert tuple(' '.join(part) for part in dataclasses.astuple(operations(design))) == expected


@pytest.mark.parametrize('placement', PLACEMENTS)
@pytest.mark.parametrize('design', [BASIC, BOTTLENECK], ids=['basic', 'bottleneck'])
def test_zero_init_last_makes_the_block_an_identity_that_learns(design, placement):
    """On activated input, which the original's last relu leaves alone."""
    design = dataclasses.replace(design, placement=placement, zero_init_last=True)
    x = jnp.abs(jax.random.normal(jax.random.key(1), (2, 6, 6, 4 * design.expansion)))
    block = make_block(design)
    variables = block.init(jax.random.key(0), x, train=False)
    out, _ = block.apply(variables, x, train=True, mutable=['batch_stats'])
    np.testing.assert_array_equal(out, x)

    def loss(params):
        out, _ = block.apply(
            {**variables, 'params': params}, x, train=True, mutable=['batch_stats']
        )
        return jnp.sum((out - 2 * x) ** 2)

    kind = operations(design).branch[-1]
    gradient = jax.grad(loss)(variables['params'])[f'{kind}{len(design.kernels)}']
    leaf = gradient['scale' if kind == 'norm' else 'kernel']
    assert jnp.all(leaf != 0), 'the zero weight must receive a gradient'


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
    ],
)
def test_projections_stand_only_where_the_option_says(shortcut, blocks):
    variables = small_net(shortcut=shortcut).init(
        jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False
    )
    found = {
        f'{stage}/{name}'
        for stage, inside in variables['params'].items()
        if stage.startswith('stage')
        for name, block in inside.items()
        if 'shortcut_conv' in block
    }
    assert found == blocks
