"""A block computes what the papers' figures show, in their order."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from formulas import EPSILON, FORMULAS, KINDS, Formula, normalise, relu, strides_of
from members import members
from random_models import (
    DESIGNS,
    assert_close,
    make_block,
    random_images,
    random_variables,
)

from resnet_jax.errors import InputError
from resnet_jax.models.block import OPERATIONS, spell_out
from resnet_jax.models.design import BASIC, BOTTLENECK, PLACEMENTS, SHORTCUTS, BlockDesign
from resnet_jax.models.resnet import ResNet


def test_every_placement_has_a_formula():
    assert set(FORMULAS) == set(PLACEMENTS)
    assert set(KINDS) == set(SHORTCUTS)


def test_every_word_of_a_placement_is_an_operation():
    words = {word for row in PLACEMENTS.values() for word in row.replace('|', ' ').split()}
    assert words - {'add'} <= set(OPERATIONS)


def test_an_unknown_operation_is_named(monkeypatch):
    monkeypatch.setitem(PLACEMENTS, 'original', 'conv nrom act | conv norm | add | act')
    with pytest.raises(InputError, match="unknown operation 'nrom'; did you mean 'norm'"):
        make_block(BASIC).init(jax.random.key(0), jnp.zeros((1, 4, 4, 4)), train=False)


AXES = (PLACEMENTS, DESIGNS, SHORTCUTS, (False, True))
# One in three; together they hold every pair of values.
CASES = [
    pytest.param(*case, marks=[pytest.mark.slow] * (sum(number) % 3 > 0))
    for number, case in zip(
        itertools.product(*(range(len(axis)) for axis in AXES)),
        itertools.product(*AXES),
        strict=True,
    )
]


@pytest.mark.parametrize(('placement', 'design', 'shortcut', 'change'), CASES)
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
    'linear': ('norm relu', ''),
    # he2016, appendix: the activation behind the stem is the first unit's, which shares it with the
    # shortcut; one more activation follows the last addition.
    'relu_only_preact': ('norm', 'relu'),
    'full_preact': ('', 'norm relu'),
}


@pytest.mark.parametrize('bottleneck', [False, True], ids=['basic', 'bottleneck'])
@pytest.mark.parametrize('placement', members(STEM_AND_TAIL, ('relu_before_add', 'linear')))
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
    spelled = tuple(' '.join(op.name for op in part) for part in spell_out(design))
    assert spelled == expected


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
    # What the last convolution comes with is zero: its norm or itself. Other words that end the
    # branch have no weights.
    words = PLACEMENTS[placement].split('|')[1].split()
    kind = next(word for word in reversed(words) if word in ('conv', 'norm'))
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
        ('where_kept', set()),
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
