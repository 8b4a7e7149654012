"""Pruning: masks against NumPy, smaller networks against whole ones with edited weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from members import members
from ml_collections import ConfigDict
from random_models import assert_close, fast_jit, random_images, random_variables
from running import tiny

from resnet_jax import create_model
from resnet_jax.analysis import lesion
from resnet_jax.analysis.examples import Batch
from resnet_jax.analysis.parts import chain
from resnet_jax.compress import prune
from resnet_jax.errors import InputError
from resnet_jax.models.counting import count
from resnet_jax.training import pruning

pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

SIZE = 8
SMALL = {'num_classes': 5, 'stage_sizes': (2, 2), 'width': 4, 'stem_width': 4}
# Norms between, before and behind convolutions; three convolutions; attention; folded norms.
NETS = {
    'original': ('cifar_resnet20', {}),
    'preact': ('cifar_preact_resnet20', {}),
    'relu_only_preact': ('cifar_resnet20', {'placement': 'relu_only_preact'}),
    'bn_after_add': ('cifar_resnet20', {'placement': 'bn_after_add'}),
    'bottleneck': ('cifar_resnet164', {'se_ratio': 0.25}),
    'folded': ('cifar_resnet20', {'norm': 'folded'}),
    'scanned': ('cifar_resnet20', {'scan_blocks': True, 'stage_sizes': (3, 2)}),
}


def network(name, **overrides):
    model = create_model(name, **{**SMALL, **overrides})
    return model, random_variables(model, (1, SIZE, SIZE, 3))


def logits_of(model, variables, images):
    return fast_jit(lambda v, x: model.apply(v, x, train=False))(variables, images)


def params_of(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: {'kernel': jnp.asarray(rng.normal(size=shape), jnp.float32), 'bias': jnp.ones(3)}
        for name, shape in sizes.items()
    }


@pytest.mark.parametrize('sparsity', [0.0, 0.3, 0.9])
def test_the_smallest_weights_of_all_kernels_become_zero(sparsity):
    params = params_of({'conv1': (3, 3, 2, 4), 'head': (5, 7)})
    masks = fast_jit(pruning.magnitude_masks)(params, sparsity)
    sizes = {name: np.abs(np.asarray(part['kernel'])) for name, part in params.items()}
    everything = np.sort(np.concatenate([x.ravel() for x in sizes.values()]))
    removed = round(sparsity * everything.size)
    assert set(masks) == {'conv1/kernel', 'head/kernel'}
    assert sum(int((~mask).sum()) for mask in masks.values()) == removed
    for name, x in sizes.items():
        lost = x[~np.asarray(masks[f'{name}/kernel'])]
        assert lost.size == 0 or lost.max() <= everything[removed - 1]


def test_two_of_four_input_channels_stay():
    params = params_of({'conv1': (3, 3, 8, 4), 'stem': (3, 3, 3, 4), 'head': (8, 5)})
    found = pruning.masked(params, pruning.n_of_m_masks(params, 2, 4))
    assert bool((found['stem']['kernel'] == params['stem']['kernel']).all())
    for name in ('conv1', 'head'):
        old, new = np.asarray(params[name]['kernel']), np.asarray(found[name]['kernel'])
        for group in range(2):
            part = old[..., 4 * group : 4 * group + 4, :]
            kept = new[..., 4 * group : 4 * group + 4, :]
            assert ((kept != 0).sum(axis=-2) == 2).all()
            largest = np.sort(np.abs(part), axis=-2)[..., 2:, :]
            left = np.sort(np.abs(kept), axis=-2)[..., 2:, :]
            np.testing.assert_array_equal(largest, left)
    assert bool((found['conv1']['bias'] == 1).all())


@pytest.mark.parametrize('text', ['2', '4:2', '0:4', 'a:b', '2:4:8', ''])
def test_a_pattern_that_is_none(text):
    with pytest.raises(InputError, match='2:4'):
        pruning.read_pattern(text)


def test_the_cubic_schedule():
    """arXiv 1710.01878, equation 1, with s_i = 0, t_0 = 10 and n dt = 40."""
    expected = {0: 0.0, 10: 0.0, 20: 0.8 * (1 - 0.75**3), 30: 0.8 * (1 - 0.5**3), 50: 0.8, 90: 0.8}
    for step, share in expected.items():
        found = pruning.sparsity_at(jnp.asarray(step), 0.8, 10, 50)
        assert float(found) == pytest.approx(share, abs=1e-6)


def settings(**fields):
    base = {'schedule': 'gradual', 'sparsity': 0.5, 'begin': 0.0, 'end': 0.5, 'every': 2}
    return ConfigDict({**base, **fields})


def test_momentum_moves_no_weight_away_from_zero():
    """The masks come last: what sgd with momentum and decay wants is not done."""
    params = {'conv': {'kernel': jnp.asarray([[1.0, 0.0, -2.0]]), 'bias': jnp.asarray([0.0])}}
    optimizer = pruning.with_zeros(optax.sgd(0.1, momentum=0.9), settings(schedule='keep'), 10)
    state = optimizer.init(params)
    for _ in range(3):
        grads = jax.tree.map(jnp.ones_like, params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    # Steps of 0.1 (1, 1.9, 2.71).
    np.testing.assert_allclose(params['conv']['kernel'], [[0.439, 0.0, -2.561]], rtol=1e-5)
    np.testing.assert_allclose(params['conv']['bias'], [-0.561], rtol=1e-5)


def test_gradual_pruning_ends_with_its_share_of_zeros():
    params = params_of({'conv1': (3, 3, 4, 4), 'head': (4, 5)})
    optimizer = pruning.with_zeros(optax.sgd(0.01, momentum=0.9), settings(), 20)
    state, shares = optimizer.init(params), []

    @fast_jit
    def step(params, state):
        grads = jax.tree.map(jnp.sin, params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(20):
        params, state = step(params, state)
        kernels = [np.asarray(x).ravel() for x in pruning.kernels(params).values()]
        shares.append(float((np.concatenate(kernels) == 0).mean()))
    assert shares == sorted(shares) and shares[0] == 0
    assert shares[9:] == [0.5] * 11


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({}, 'needs prune.sparsity'),
        ({'prune.sparsity': 0.5, 'prune.begin': 0.9}, 'prune.begin must be below'),
        ({'prune.sparsity': 0.5, 'optim.ema': 0.9}, 'set optim.ema=0'),
    ],
)
def test_settings_that_contradict_each_other(fields, words):
    with pytest.raises(InputError, match=words):
        tiny({'prune.schedule': 'gradual', **fields})


def muted(model, variables, kept):
    """The whole network, in which nothing takes the channels that are not kept."""
    flat = flatten_dict(variables)
    for inner in prune.inner_convolutions(model):
        path = ('params', *inner.following.split('/'), 'kernel')
        mask = np.isin(np.arange(flat[path].shape[-2]), kept[inner.path])
        flat[path] = np.asarray(flat[path]) * np.float32(mask)[:, None]
    return unflatten_dict(flat)


@pytest.mark.parametrize(
    'net', members(NETS, ('relu_only_preact', 'bn_after_add', 'original', 'folded', 'bottleneck'))
)
def test_a_network_without_channels_is_the_whole_one_that_ignores_them(net):
    name, overrides = NETS[net]
    model, variables = network(name, **overrides)
    rng = np.random.default_rng(0)
    unscanned, images = model.unrolled(), random_images((3, SIZE, SIZE, 3))
    plain = variables
    if model.scan_blocks:
        from resnet_jax.models.stages import unstack_blocks

        plain = unstack_blocks(variables)
    flat, kept = flatten_dict(plain), {}
    for inner in prune.inner_convolutions(unscanned):
        channels = flat[('params', *inner.path.split('/'), 'kernel')].shape[-1]
        kept[inner.path] = np.sort(rng.choice(channels, rng.integers(1, channels), replace=False))
    smaller, found = prune.keep_channels(model, variables, kept)
    expected = logits_of(unscanned, muted(unscanned, plain, kept), images)
    assert_close(logits_of(smaller, found, images), expected, 2e-5)
    shapes = jax.eval_shape(lambda: smaller.init(jax.random.key(0), images, train=False))
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, found)


def test_the_counts_of_a_smaller_network_are_exact():
    """A basic block of width w with c inner channels has 18 w c weights, and 2 c + 2 w of norms."""
    model, variables = network('cifar_resnet20')
    kept = {'stage1/block1/conv1': np.asarray([0, 2, 3]), 'stage2/block2/conv1': np.asarray([1])}
    smaller, _ = prune.keep_channels(model, variables, kept)
    assert smaller.inner_channels == ('stage1/block1/conv1=3', 'stage2/block2/conv1=1')
    before, after = count(model, (8, 8, 3)), count(smaller, (8, 8, 3))
    assert before.parameters - after.parameters == (18 * 4 + 2) * 1 + (18 * 8 + 2) * 7
    assert before.multiply_adds - after.multiply_adds == 64 * 18 * 4 * 1 + 16 * 18 * 8 * 7


def test_channels_are_chosen_by_their_scores():
    scores = {'a': np.asarray([3.0, 1.0, 2.0, 8.0]), 'b': np.asarray([0.1, 0.2, 9.0, 0.3])}
    kept = prune.choose_channels(scores, 0.5)
    assert {k: v.tolist() for k, v in kept.items()} == {'a': [0, 2, 3], 'b': [2]}
    kept = prune.choose_channels(scores, 0.5, multiple=2)
    assert {k: v.tolist() for k, v in kept.items()} == {'a': [0, 1, 2, 3], 'b': [2, 3]}
    kept = prune.choose_channels(scores, 0.99)
    assert {k: v.tolist() for k, v in kept.items()} == {'a': [3], 'b': [2]}


def test_the_size_of_a_filter_is_that_of_the_folded_one():
    from resnet_jax.compress.fold import fold

    model, variables = network('cifar_resnet20')
    scores = prune.magnitude_scores(model, variables)
    folded, plain = fold(model, variables)
    again = prune.magnitude_scores(folded, plain)
    for path, each in scores.items():
        np.testing.assert_allclose(each, again[path], rtol=1e-5)
        assert each.mean() == pytest.approx(1)


def test_taylor_scores_are_the_derivatives_by_a_gate():
    """Compared with finite differences of the loss, one gate after another."""
    model, variables = network('cifar_resnet20', stage_sizes=(1,), activation='silu')
    images = random_images((4, SIZE, SIZE, 3))
    labels, mask = np.asarray([0, 1, 2, 3]), np.asarray([True, True, True, False])
    scores = prune.taylor_scores(model, variables, [Batch(images, labels, mask)])
    path = ('params', 'stage1', 'block1', 'conv2', 'kernel')

    def loss(channel, factor):
        flat = flatten_dict(variables)
        gate = np.ones(4, np.float32)
        gate[channel] = factor
        flat[path] = np.asarray(flat[path]) * gate[:, None]
        logits = np.asarray(logits_of(model, unflatten_dict(flat), images), np.float64)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return -log_p[np.arange(3), labels[:3]].mean()

    slopes = [(loss(c, 1.05) - loss(c, 0.95)) / 0.1 for c in range(4)]
    np.testing.assert_allclose(scores['stage1/block1/conv1'], np.square(slopes), rtol=0.05)


@pytest.mark.parametrize('name', ['cifar_resnet20', 'cifar_preact_resnet20', 'cifar_resnet164'])
def test_a_network_without_a_block_is_one_with_a_lesion(name):
    model, variables = network(name, stage_sizes=(3, 2))
    parts, images = chain(model, SIZE), jnp.abs(random_images((3, SIZE, SIZE, 3)))
    names = ['stage1/block2', 'stage2/block2']
    assert set(names) <= set(prune.removable_blocks(model, parts))
    smaller, found = prune.remove_blocks(model, variables, names)
    assert smaller.stage_sizes == (2, 1)
    expected = lesion.logits(parts, variables, images, lesion.Lesion(removed=tuple(names)))
    assert_close(logits_of(smaller, found, images), expected)


def test_the_blocks_without_which_the_error_is_lowest_go_first():
    model, variables = network('cifar_resnet20', stage_sizes=(3, 2))
    flat = flatten_dict(variables)
    for leaf in ('scale', 'bias'):  # a block that does nothing
        flat[('params', 'stage1', 'block3', 'norm2', leaf)] *= 0
    images = random_images((24, SIZE, SIZE, 3))
    mean = logits_of(model, unflatten_dict(flat), images).mean(axis=0)
    flat[('params', 'head', 'bias')] -= mean  # so that not all images get one class
    variables, parts = unflatten_dict(flat), chain(model, SIZE)
    labels = np.asarray(jnp.argmax(logits_of(model, variables, images), axis=1))
    batches = [Batch(images, labels, np.ones(24, bool))]
    chosen = {}
    names = prune.choose_blocks(model, parts, variables, batches, 1, chosen.__setitem__)
    assert names == ['stage1/block3'] and chosen == {'stage1/block3': 0.0}
    with pytest.raises(InputError, match='3 blocks can be removed at most'):
        prune.choose_blocks(model, parts, variables, batches, 4)


def test_grouped_convolutions_keep_their_channels():
    model, variables = network('cifar_resnet20', groups=2)
    with pytest.raises(InputError, match='grouped'):
        prune.magnitude_scores(model, variables)
    with pytest.raises(InputError, match='groups=1 and full convolutions only'):
        create_model('cifar_resnet20', groups=2, inner_channels=('stage1=4',))


@pytest.mark.parametrize(
    ('entry', 'words'),
    [
        ('stage1/block1', "entries such as stage1/block1/conv1=12, got 'stage1/block1'"),
        ('stage1/block1=0', 'takes entries'),
        ('stage9=4', "unknown convolution in inner_channels 'stage9'"),
        ('stage1/block1/conv2=4', 'unknown convolution'),  # its outputs are the block's
    ],
)
def test_an_entry_that_means_nothing(entry, words):
    with pytest.raises(InputError, match=words):
        create_model('cifar_resnet20', inner_channels=(entry,))


def test_blocks_that_differ_are_not_scanned():
    with pytest.raises(InputError, match='equal blocks'):
        create_model('cifar_resnet20', inner_channels=('stage1/block2=4',), scan_blocks=True)
    equal = create_model('cifar_resnet20', inner_channels=('stage*/*/conv1=4',), scan_blocks=True)
    assert equal.scannable


def test_every_field_of_pruning_is_in_the_config():
    config = tiny({'prune.schedule': 'gradual', 'prune.sparsity': 0.5})
    assert set(json.loads(config.to_json())['prune']) == set(settings())
