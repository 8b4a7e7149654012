"""Parts of a model by pattern, and what an optimiser does with each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from members import members
from running import CONFIGS

from resnet_jax.errors import InputError
from resnet_jax.models import create_model
from resnet_jax.models.patterns import check_patterns, matches
from resnet_jax.training import optim
from resnet_jax.training.config import load_config
from resnet_jax.training.groups import (
    block_depths,
    by_path,
    paths_of,
    rate_factors,
    read_groups,
)

PATHS = ('stem/conv1', 'stage1/block1/conv1', 'stage1/block10/conv1', 'stage4/block1/norm1', 'head')


def tree(leaf=0.0):
    return traverse_util.unflatten_dict({(*p.split('/'), 'kernel'): leaf for p in PATHS})


def settings(fields):
    return load_config(str(CONFIGS / 'default.py'), list(fields.items()))


def variables(name='cifar_resnet20', **overrides):
    model = create_model(name, 10, **overrides)
    images = jnp.zeros((1, 32, 32, 3))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))


@pytest.mark.parametrize(
    ('pattern', 'meant'),
    [
        ('stem', 'stem/conv1'),
        ('stem*', 'stem/conv1'),
        ('stage1/', 'stage1/block1/conv1 stage1/block10/conv1'),
        ('stage1/block1', 'stage1/block1/conv1'),  # not the beginning of block10
        ('stage[14]*', 'stage1/block1/conv1 stage1/block10/conv1 stage4/block1/norm1'),
        ('*/norm*', 'stage4/block1/norm1'),
        ('all but head stage1', 'stem/conv1 stage4/block1/norm1'),
        ('all', ' '.join(PATHS)),
        ('Stem', ''),
    ],
)
def test_patterns_mean_paths_and_their_beginnings(pattern, meant):
    found = [path for path in paths_of(tree()) if matches(path, pattern)]
    assert {path.removesuffix('/kernel') for path in found} == set(meant.split())


@pytest.mark.parametrize(
    ('pattern', 'words'),
    [
        ('stemm', "train.freeze 'stemm'; did you mean 'stem'"),
        ('all but haed', "train.freeze 'haed'; did you mean 'head'"),
        ('stage1/block2', "train.freeze 'stage1/block2'; did you mean 'stage1/block1'"),
        ('all but', "train.freeze 'all but'"),
    ],
)
def test_a_pattern_that_means_nothing_is_refused(pattern, words):
    with pytest.raises(InputError) as error:
        check_patterns(['head', pattern], paths_of(tree()), 'parameters in train.freeze')
    assert words in str(error.value)


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({'train.freeze': 'all'}, 'leaves no parameter to train'),
        ({'train.freeze': 'stem', 'train.unfreeze': 'head@5'}, "'head@5' names nothing"),
        ({'train.freeze': 'stem', 'train.unfreeze': 'stem@100'}, "'stem@100' is step 100, and"),
        ({'train.freeze': 'stem', 'train.unfreeze': 'stem'}, 'entries such as stage4@5, got'),
        ({'train.freeze': 'stem', 'train.unfreeze': 'stem@0'}, 'must be above 0, got 0.0'),
        ({'train.unfreeze': 'stem@5'}, 'no effect without train.freeze'),
        ({'optim.rates': 'head=fast'}, 'entries such as head=10, got'),
        ({'optim.rates': 'head=-1'}, 'must be above 0, got -1.0'),
        ({'optim.rates': 'haed=10'}, "optim.rates 'haed'; did you mean 'head'"),
        ({'optim.layer_decay': '1.5'}, 'optim.layer_decay must be at most 1'),
        ({'train.freeze_batch_norm': 'head'}, "train.freeze_batch_norm 'head'"),
        ({'optim.freeze': 'stem'}, "did you mean 'train.freeze'"),
    ],
)
def test_bad_groups(fields, words):
    with pytest.raises(InputError) as error:
        read_groups(settings(fields), variables(), 10.0, 100)
    assert words in str(error.value)


def test_the_first_time_that_a_part_is_named_holds():
    config = settings(
        {
            'train.freeze': 'all but head',
            'train.unfreeze': 'all@4,stage3@1.5,stage[23]@3',
            'train.freeze_batch_norm': 'stage3',
            'optim.schedule_unit': 'epochs',
        }
    )
    groups = read_groups(config, variables(), 10.0, 100)
    assert groups.starts == (40, 15, 30)
    later = traverse_util.flatten_dict(groups.later, sep='/')
    assert later['head/kernel'] == -1 and later['stem/conv1/kernel'] == 0
    assert later['stage2/block1/conv1/kernel'] == 2 and later['stage3/block1/conv1/kernel'] == 1
    assert later['stage3/block1/norm1/scale'] is None
    trained = traverse_util.flatten_dict(groups.trained, sep='/')
    frozen = {path.rpartition('/')[0] for path, keep in trained.items() if not keep}
    norms = {f'stage3/block{i}/norm{j}' for i in (1, 2, 3) for j in (1, 2)}
    assert frozen == groups.still == norms


def test_layer_decay_counts_blocks_from_the_head():
    """ResNet-20: nine blocks; BEiT's rule with the stem at depth 0 and the head at depth 10."""
    optim_settings = settings({'optim.layer_decay': 0.5, 'optim.rates': 'head=8,head/bias=2'}).optim
    found = traverse_util.flatten_dict(rate_factors(optim_settings, variables()['params']), sep='/')
    assert found['stem/conv1/kernel'] == 0.5**10
    assert found['stage1/block1/conv1/kernel'] == 0.5**9
    assert found['stage2/block1/norm2/scale'] == 0.5**6
    assert found['stage3/block3/conv2/kernel'] == 0.5
    assert (found['head/kernel'], found['head/bias']) == (8, 2)


def test_layer_decay_of_stacked_blocks_is_that_of_the_blocks():
    config = settings({'optim.layer_decay': 0.5}).optim
    params = variables(scan_blocks=True)['params']
    assert block_depths(params)[0]['stage2/blocks'] == [5, 6]
    found = rate_factors(config, params)['stage2']['blocks']['conv1']['kernel']
    np.testing.assert_array_equal(found, np.reshape([0.5**5, 0.5**4], (2, 1, 1, 1, 1)))
    norm = rate_factors(config, params)['stage2']['blocks']['norm1']['scale']
    assert norm.shape == (2, 1)


def test_no_factors_where_all_are_one():
    assert rate_factors(settings({}).optim, variables()['params']) is None


def moved(optimizer, params, grads, steps):
    """The parameters after some steps with these gradients, and the state."""
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = optimizer.update(grads(step), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params, state


def random_grads(params):
    """Gradients of each step, and the parameters' own random values."""

    def at(step):
        keys = by_path(params, lambda path, _: sum(map(ord, path)) + 1000 * step)
        return jax.tree.map(
            lambda p, k: jax.random.normal(jax.random.key(k), p.shape), params, keys
        )

    return at


NAMES = ('sgd', 'adam', 'adamw', 'lamb')


@pytest.mark.parametrize('name', members(NAMES, ('adam', 'lamb')))
def test_a_part_that_trains_later_begins_as_if_the_run_began_there(name):
    """Its state and its bias corrections start then; the schedule has gone on."""
    momentum = {} if name != 'sgd' else {'optim.nesterov': 'true'}
    fields = {'optim.name': name, 'optim.weight_decay': 0.1, 'train.freeze': 'stem,stage1'}
    fields |= momentum | {'train.unfreeze': 'stage1@3'}
    config, params = settings(fields), tree(jnp.arange(1.0, 4.0))
    groups = read_groups(config, {'params': params}, 1.0, 10)
    grads, rate = random_grads(params), lambda step: 0.1 / (1 + step)
    plain = optim.make_optimizer(config.optim, rate)
    parts = optim.make_optimizer(config.optim, rate, groups)
    now, state = moved(parts, params, grads, 3)
    for part in ('stem', 'stage1'):
        assert jax.tree.all(jax.tree.map(np.array_equal, now[part], params[part]))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if 'stage1' in jax.tree_util.keystr(path):
            assert not np.any(leaf), path  # no momentum has gathered
        assert "'stem'" not in jax.tree_util.keystr(path)
    now, _ = moved(parts, params, grads, 6)
    whole, _ = moved(plain, params, grads, 6)
    late, _ = moved(
        optim.make_optimizer(config.optim, lambda step: rate(step + 3)),
        params,
        lambda step: grads(step + 3),
        3,
    )
    np.testing.assert_array_equal(now['stem']['conv1']['kernel'], params['stem']['conv1']['kernel'])
    for part, expected in (('head', whole), ('stage4', whole), ('stage1', late)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), now[part], expected[part]
        )


def test_clipping_leaves_out_what_does_not_train_yet():
    config = settings({'train.freeze': 'all but head', 'train.unfreeze': 'all@1',
                       'optim.clip_norm': 1.0, 'optim.weight_decay': 0.0})  # fmt: skip
    params = tree(jnp.zeros(1))
    groups = read_groups(config, {'params': params}, 1.0, 10)
    optimizer = optim.make_optimizer(config.optim, lambda step: 1.0, groups)
    now, state = moved(optimizer, params, lambda step: tree(jnp.ones(1)), 1)
    assert now['head']['kernel'] == -1.0  # alone it has norm 1
    updates, _ = optimizer.update(tree(jnp.ones(1)), state, now)
    np.testing.assert_allclose(updates['stem']['conv1']['kernel'], -(5**-0.5), rtol=1e-6)


@pytest.mark.parametrize('name', ['sgd', 'adam', 'adamw'])
def test_factors_are_the_rates_of_pytorchs_parameter_groups(name):
    torch = pytest.importorskip('torch')
    fields = {'optim.name': name, 'optim.weight_decay': 0.05, 'optim.rates': 'head=10,stem*=0.25'}
    config, params = settings(fields), tree(jnp.arange(1.0, 4.0))
    grads = random_grads(params)
    groups = read_groups(config, {'params': params}, 1.0, 10)
    found, _ = moved(
        optim.make_optimizer(config.optim, lambda step: 0.01, groups), params, grads, 5
    )
    theirs = {p: torch.nn.Parameter(torch.arange(1.0, 4.0)) for p in paths_of(params)}
    rates = {path: 0.01 for path in theirs} | {'head/kernel': 0.1, 'stem/conv1/kernel': 0.0025}
    kind = {'sgd': torch.optim.SGD, 'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}[name]
    more = {'momentum': 0.9} if name == 'sgd' else {}
    parts = [{'params': [p], 'lr': rates[path]} for path, p in theirs.items()]
    optimizer = kind(parts, weight_decay=0.05, **more)
    for step in range(5):
        flat = traverse_util.flatten_dict(grads(step), sep='/')
        for path, p in theirs.items():
            p.grad = torch.from_numpy(np.array(flat[path]))
        optimizer.step()
    for path, leaf in traverse_util.flatten_dict(found, sep='/').items():
        np.testing.assert_allclose(leaf, theirs[path].detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize('name', NAMES)
def test_decay_towards_the_start_is_decay_of_the_distance(name):
    """L2-SP: a run that starts at w and decays towards it moves as one at 0 that decays to 0.

    That holds where nothing else depends on the parameters: not of lamb, whose trust ratio does.
    """
    fields = {'optim.name': name, 'optim.weight_decay': 0.3, 'init.weights': 'x'}
    fields |= {'optim.momentum': 0.9} if name == 'sgd' else {}
    start = tree(jnp.arange(1.0, 4.0))
    config = settings({**fields, 'init.reset_head': True, 'optim.decay_towards': 'start'})
    groups = read_groups(config, {'params': start}, 1.0)
    plain = optim.make_optimizer(settings(fields).optim, lambda step: 0.01)
    grads = random_grads(start)
    ours = optim.make_optimizer(config.optim, lambda step: 0.01, groups)
    found, _ = moved(ours, start, grads, 6)
    whole, _ = moved(plain, start, grads, 6)
    shifted, _ = moved(plain, tree(jnp.zeros(3)), grads, 6)
    jax.tree.map(np.testing.assert_array_equal, found['head'], whole['head'])  # as new: to zero
    distance = jax.tree.map(jnp.subtract, found['stem'], start['stem'])
    if name == 'lamb':
        assert not np.allclose(found['stem']['conv1']['kernel'], whole['stem']['conv1']['kernel'])
    else:
        expected = shifted['stem']['conv1']['kernel']
        np.testing.assert_allclose(distance['conv1']['kernel'], expected, rtol=1e-4, atol=1e-6)
