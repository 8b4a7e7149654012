"""Networks as chains of parts, and lesion studies, against networks with edited weights."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from members import members
from random_models import assert_close, fast_jit, random_images, random_variables
from running import flags

from resnet_jax import create_model
from resnet_jax.analysis import lesion
from resnet_jax.analysis.examples import Batch
from resnet_jax.analysis.lesion import Lesion
from resnet_jax.analysis.parts import chain
from resnet_jax.cli import main
from resnet_jax.errors import InputError
from resnet_jax.models.stages import stack_blocks

# Orbax closes its event loop while reads of other files are pending.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

SIZE, CLASSES, EPSILON = 8, 5, 1e-5
SMALL = {'num_classes': CLASSES, 'stage_sizes': (3, 2), 'width': 4, 'stem_width': 4}
RESIDUAL = ['cifar_resnet20', 'cifar_preact_resnet20', 'cifar_resnet164']
# What ends a branch: set to zero, it leaves the shortcut alone.
LAST = {
    'cifar_resnet20': [('norm2', 'scale'), ('norm2', 'bias')],
    'cifar_preact_resnet20': [('conv2', 'kernel')],
    'cifar_resnet164': [('norm3', 'scale'), ('norm3', 'bias')],
}


def network(name, **overrides):
    model = create_model(name, **{**SMALL, **overrides})
    return model, random_variables(model, (1, SIZE, SIZE, 3)), chain(model, SIZE)


def edited(variables, block, changes):
    """Variables with some parameters of a block replaced."""
    stage, number = block.split('/')
    params = dict(variables['params'])
    new = {name: dict(tree) for name, tree in params[stage][number].items()}
    for (part, leaf), value in changes.items():
        new[part][leaf] = value
    params[stage] = {**params[stage], number: new}
    return {**variables, 'params': params}


def logits_of(model, variables, images):
    return fast_jit(lambda v, x: model.apply(v, x, train=False))(variables, images)


def batches(images, labels):
    """Two batches, the second one padded."""
    half = len(images) // 2 + 1
    yield Batch(images[:half], labels[:half], np.ones(half, bool))
    rest = len(images) - half
    padding = jnp.zeros((half - rest, *images.shape[1:]))
    more = np.concatenate([labels[half:], np.zeros(half - rest, labels.dtype)])
    yield Batch(jnp.concatenate([images[half:], padding]), more, np.arange(half) < rest)


@pytest.fixture(scope='module')
def images():
    return random_images((40, SIZE, SIZE, 3))


@pytest.mark.parametrize(
    'name',
    members(
        [*RESIDUAL, 'cifar_plain20', 'wrn16_4', 'cifar_se_resnet20'], ('wrn16_4', 'cifar_plain20')
    ),
)
@pytest.mark.parametrize('stacked', [False, True], ids=['', 'scanned'])
def test_the_parts_of_a_network_give_its_logits(name, stacked, images):
    model, variables, parts = network(name)
    if stacked:
        parts = chain(model.clone(scan_blocks=True), SIZE)
    split = parts.split(stack_blocks(variables) if stacked else variables)
    x = images
    for part in parts:
        assert x.shape[1:] == part.inputs
        x = part(split[part.name], x)
        assert x.shape[1:] == part.outputs
    assert_close(x, logits_of(model, variables, images), 1e-4)
    blocks = ['stage1/block1', 'stage1/block2', 'stage1/block3', 'stage2/block1', 'stage2/block2']
    assert list(parts.names) == blocks


def test_equal_blocks_compile_once():
    parts = chain(create_model('cifar_resnet110'), 32)
    assert len(parts.blocks) == 54 and len({id(block.module) for block in parts.blocks}) == 6


@pytest.mark.parametrize('name', RESIDUAL)
def test_a_removed_block_is_one_whose_branch_is_zero(name, images):
    model, variables, parts = network(name)
    intact = logits_of(model, variables, images)
    for block in parts.names:
        tree = variables['params'][block.split('/')[0]][block.split('/')[1]]
        zero = {(part, leaf): jnp.zeros_like(tree[part][leaf]) for part, leaf in LAST[name]}
        expected = logits_of(model, edited(variables, block, zero), images)
        found = lesion.logits(parts, variables, images, Lesion(removed=(block,)))
        assert_close(found, expected, 1e-4)
        assert jnp.abs(found - intact).max() > 0.01, 'the removal does nothing'


def test_a_removed_layer_of_a_plain_net_is_an_identity(images):
    model, variables, parts = network('cifar_plain20')
    delta = jnp.zeros((3, 3, 4, 4)).at[1, 1].set(jnp.eye(4))
    changes = {
        ('conv1', 'kernel'): delta,
        ('norm1', 'scale'): jnp.full(4, np.sqrt(1 + EPSILON), jnp.float32),
        ('norm1', 'bias'): jnp.zeros(4),
    }
    new = edited(variables, 'stage1/block2', changes)
    stats = {**new['batch_stats']['stage1']['block2']}
    stats['norm1'] = {'mean': jnp.zeros(4), 'var': jnp.ones(4)}
    stage = {**new['batch_stats']['stage1'], 'block2': stats}
    new['batch_stats'] = {**new['batch_stats'], 'stage1': stage}
    removed = Lesion(removed=('stage1/block2/conv1',))
    found = lesion.logits(parts, variables, images, removed)
    assert_close(found, logits_of(model, new, images), 1e-4)


def test_errors_count_the_examples_and_not_the_padding(images):
    _, variables, parts = network('cifar_resnet20')
    labels = np.arange(len(images)) % CLASSES
    lesions = [Lesion(), Lesion(removed=('stage1/block2', 'stage2/block1'))]
    found = lesion.errors(parts, variables, batches(images, labels), lesions)
    for error, each in zip(found, lesions, strict=True):
        guessed = np.asarray(lesion.logits(parts, variables, images, each)).argmax(1)
        assert error == pytest.approx(np.mean(guessed != labels))


def test_a_plain_net_loses_what_keeps_the_shape():
    names = lesion.removable(network('cifar_plain20')[2])
    assert 'stage1/block1' in names and 'stage2/block2/conv2' in names
    assert not {'stage2/block1', 'stage2/block1/conv1'} & set(names)
    assert 'stage2/block1/conv2' in names
    assert lesion.removable(network('cifar_resnet20')[2]) == network('cifar_resnet20')[2].names


def test_swapped_blocks_exchange_their_weights(images):
    model, variables, parts = network('cifar_resnet20')
    new = {}
    for kind, tree in variables.items():
        stage = {**tree['stage1']}
        stage['block1'], stage['block3'] = stage['block3'], stage['block1']
        new[kind] = {**tree, 'stage1': stage}
    swap = Lesion(swapped=(('stage1/block1', 'stage1/block3'),))
    found = lesion.logits(parts, variables, images, swap)
    assert_close(found, logits_of(model, new, images), 1e-4)


def test_blocks_that_are_thinner_inside_are_not_swapped():
    """As of a network whose channels were pruned."""
    thin = {'stage_sizes': (3,), 'inner_channels': ('stage1/block2=2',)}
    _, _, parts = network('cifar_resnet20', **thin)
    assert lesion.swappable(parts) == (('stage1/block1', 'stage1/block3'),)


def test_draws_are_of_blocks_that_fit():
    parts = network('cifar_resnet20', stage_sizes=(4, 3))[2]
    rng = np.random.default_rng(0)
    for each in lesion.random_removals(parts, 3, 20, rng):
        assert len(set(each.removed)) == 3 and 'stage2/block1' not in each.removed
    assert lesion.swappable(parts) == (
        tuple(f'stage1/block{i}' for i in range(1, 5)),
        ('stage2/block2', 'stage2/block3'),
    )
    for each in lesion.random_swaps(parts, lesion.most_swaps(parts), 20, rng):
        blocks = [block for pair in each.swapped for block in pair]
        assert len(blocks) == len(set(blocks)) == 6
        assert all(a.split('/')[0] == b.split('/')[0] for a, b in each.swapped)


def test_an_unknown_block_is_refused_with_the_nearest(images):
    _, variables, parts = network('cifar_resnet20')
    with pytest.raises(InputError, match=r'stage1/block4.*stage1/block'):
        lesion.logits(parts, variables, images, Lesion(removed=('stage1/block4',)))


def test_the_command_writes_figures_and_pictures(ask, capsys, tmp_path):
    run = tmp_path / 'run'
    assert main(['train', *flags({'model.stage_sizes': '(2,)'}), '--workdir', str(run)]) == 0
    evaluated = ask('eval', '--workdir', run)
    found = ask('analyze', 'lesion', '--workdir', run, '--draws', 2)
    assert found['error'] == pytest.approx(1 - evaluated['top1'])
    assert list(found['removed']) == ['stage1/block1', 'stage1/block2']
    assert list(found['random']) == ['1', '2'] and list(found['swapped']) == ['1']
    # Both blocks, whatever the draw, and the swap of the only pair.
    assert (
        len(set(found['random']['2']['errors'])) == len(set(found['swapped']['1']['errors'])) == 1
    )
    assert json.loads((run / 'analysis' / 'lesion' / 'lesion.json').read_text()) == found
    for name in ('removed.png', 'several.png', 'removed.svg'):
        assert (run / 'analysis' / 'lesion' / name).stat().st_size > 1000
    assert main(['analyze', 'lesion', '--workdir', str(run), '--removed', '3']) == 2
    assert '--removed takes numbers from 1 to 2' in capsys.readouterr().err
