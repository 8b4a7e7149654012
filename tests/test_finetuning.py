"""Runs of which parts are frozen, begin later, or start from weights."""

import jax
import numpy as np
import pytest
from running import differing, load_state, tiny

from resnet_jax.errors import InputError, Stopped
from resnet_jax.records.writers import read_metrics
from resnet_jax.training import loop, workdir
from resnet_jax.training.build import build_run
from resnet_jax.training.checkpoint import saved_steps
from resnet_jax.training.inputs import open_inputs

# Everything that could move a parameter which has no gradient.
PULLS = {'optim.ema': 0.9, 'optim.weight_decay': 0.1, 'model.dropout': 0.2}
HELD = {
    **PULLS,
    'model.stage_sizes': (1, 2),
    'train.freeze': 'all but head stage2',
    'train.freeze_batch_norm': 'stem,stage2/block1',
    'train.steps': 5,
    'train.eval_every': 5,
}


def started(config, folder):
    """The state at the start of a run, and at its end."""
    loop.train(config, folder)
    return build_run(config).init_state(), load_state(folder)


def moved(before, after):
    """Paths of the leaves that are not bit for bit as before."""
    return {path.replace("']['", '/').strip("[]'") for path in differing(before, after)}


@pytest.mark.parametrize(
    'fields',
    [
        {'optim.name': 'sgd', 'optim.nesterov': True},
        pytest.param(
            {'optim.name': 'adamw', 'optim.learning_rate': 0.01, 'parallel.mode': 'shard_map'},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {'model.scan_blocks': True, 'model.remat': True, 'optim.accumulate': 2},
            marks=pytest.mark.slow,
        ),
        pytest.param({'parallel.batch_norm': 'groups:8'}, marks=pytest.mark.slow),
    ],
)
def test_nothing_of_a_frozen_part_changes_by_a_bit(fields, tmp_path):
    before, after = started(tiny({**HELD, **fields}), tmp_path / 'run')
    for old, new in (
        (before.params, after.params),
        (before.ema['params'], after.ema['params']),
    ):
        paths = moved(old, new)
        assert not {p for p in paths if p.startswith(('stem', 'stage1', 'stage2/block1/norm'))}
        assert {'head/kernel', 'stage2/block1/conv1/kernel'} <= paths
    for old, new in (
        (before.batch_stats, after.batch_stats),
        (before.ema['batch_stats'], after.ema['batch_stats']),
    ):
        paths = moved(old, new)
        # The kernels of stage 1 are frozen, the statistics of its norms are not.
        assert 'stage1/block1/norm1/mean' in paths
        assert not {p for p in paths if p.startswith(('stem', 'stage2/block1'))}
    state = [
        jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(after.opt_state)
    ]
    assert not [p for p in state if "'stem'" in p or ("'norm1'" in p and "'stage1'" in p)]
    assert [p for p in state if "'head'" in p]


@pytest.mark.slow
def test_parts_begin_at_their_time_also_after_an_interruption(tmp_path):
    fields = {**PULLS, 'model.stage_sizes': (1, 1), 'train.freeze': 'all but head',
              'train.unfreeze': 'stage2@4,all@8', 'optim.name': 'adam', 'train.steps': 12,
              'optim.learning_rate': 0.01, 'checkpoint.keep': 9}  # fmt: skip
    config = tiny(fields)
    loop.train(config, tmp_path / 'whole')
    with pytest.raises(Stopped):
        loop.train(config, tmp_path / 'parts', on_evaluation=lambda step, figures: False)
    assert load_state(tmp_path / 'parts').step == 6
    loop.train(config, tmp_path / 'parts')
    assert differing(load_state(tmp_path / 'whole'), load_state(tmp_path / 'parts')) == []
    start = build_run(config).init_state()
    seen = {step: moved(start.params, load_state(tmp_path / 'whole', str(step)).params)
            for step in (4, 8, 12)}  # fmt: skip
    assert {path.partition('/')[0] for path in seen[4]} == {'head'}
    assert {path.partition('/')[0] for path in seen[8]} == {'head', 'stage2'}
    assert {path.partition('/')[0] for path in seen[12]} == {'head', 'stage1', 'stage2', 'stem'}
    averaged = load_state(tmp_path / 'whole', '8').ema['params']
    assert not {p for p in moved(start.params, averaged) if p.startswith(('stem', 'stage1'))}


@pytest.mark.slow
def test_decay_towards_the_weights_that_a_run_starts_from(tmp_path):
    """With a strong decay and hardly any gradient the body returns to them, the new head to 0."""
    shape = {'model.stage_sizes': (1,), 'train.steps': 6, 'train.eval_every': 3}
    loop.train(tiny({**shape, 'train.eval_every': 6}), tmp_path / 'source')
    config = tiny({**shape, 'init.weights': tmp_path / 'source', 'init.reset_head': True,
                   'optim.decay_towards': 'start', 'optim.schedule': 'constant',
                   'optim.weight_decay': 50.0, 'optim.momentum': 0.0, 'optim.learning_rate': 0.01,
                   'checkpoint.every': 3})  # fmt: skip
    with pytest.raises(Stopped):
        loop.train(config, tmp_path / 'run', on_evaluation=lambda step, figures: False)
    loop.train(config, tmp_path / 'run')
    loop.train(config, tmp_path / 'whole')
    end = load_state(tmp_path / 'run')
    assert differing(end, load_state(tmp_path / 'whole')) == []
    source = load_state(tmp_path / 'source')
    pulled, kept = end.params['stem']['conv1']['kernel'], source.params['stem']['conv1']['kernel']
    assert abs(pulled - kept).max() < 0.1 * abs(kept).max()
    assert (
        abs(end.params['head']['kernel']).max() < 0.2 * abs(source.params['head']['kernel']).max()
    )


def test_class_weights_of_the_training_split(tmp_path):
    config = tiny({'loss.class_weights': 'balanced', 'data.train_split': 'train[:100]'})
    inputs = open_inputs(config)
    counts = np.bincount(inputs.arrays['label'], minlength=10)
    np.testing.assert_allclose(inputs.class_weights(), 100 / (10 * counts), rtol=1e-6)
    assert (inputs.class_weights() * counts).sum() == pytest.approx(100)
    given = tiny({'loss.class_weights': '1,2,3,4,5,6,7,8,9,0.5', 'train.steps': 1})
    assert open_inputs(given).class_weights()[[0, 9]].tolist() == [1.0, 0.5]
    for weights, words in (
        ('1,2', 'must be balanced or 10 numbers, one for each class, got 2'),
        ('balance', 'a weight must be a number, got'),
        ('1,-2', 'a weight must be at least 0, got -2'),
    ):
        with pytest.raises(InputError, match=words):
            loop.train(tiny({'loss.class_weights': weights}), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


CONSTANT = {'model.stage_sizes': (1,), 'optim.schedule': 'constant', 'optim.learning_rate': 0.05}


@pytest.mark.slow
def test_an_extended_run_is_the_longer_run(tmp_path, capfd):
    """With a schedule that does not depend on the length; without --extend it is refused."""
    short, long = (tiny({**CONSTANT, 'train.steps': steps}) for steps in (6, 12))
    loop.train(long, tmp_path / 'whole')
    loop.train(short, tmp_path / 'run')
    with pytest.raises(InputError, match='or --extend to train it further'):
        loop.train(long, tmp_path / 'run')
    capfd.readouterr()
    summary = loop.train(long, tmp_path / 'run', extend=True)
    assert 'extended from 6 to 12 steps' in capfd.readouterr().err
    assert summary['steps'] == 12
    assert differing(load_state(tmp_path / 'run'), load_state(tmp_path / 'whole')) == []
    evaluations = [
        [line for line in read_metrics(tmp_path / name) if line['split'] == 'eval']
        for name in ('run', 'whole')
    ]
    assert evaluations[0] == evaluations[1]
    assert workdir.read_config(tmp_path / 'run').train.steps == 12
    # The same command again, with and without --extend: the run has finished.
    for extend in (True, False):
        assert loop.train(long, tmp_path / 'run', extend=extend) == summary
    for config, words in (
        (short, 'has taken 12 steps already; --extend needs a train.steps or'),
        (tiny({**CONSTANT, 'train.steps': 18, 'seed': 1}), r'another config \(seed: 0 -> 1\); use'),
    ):
        with pytest.raises(InputError, match=words):
            loop.train(config, tmp_path / 'run', extend=True)
    with pytest.raises(InputError, match=r'no run in workdir .* to extend'):
        loop.train(long, tmp_path / 'new', extend=True)


@pytest.mark.slow
def test_an_extension_says_what_the_schedule_does(tmp_path, capfd):
    """Of a cosine, 0.05 (1 + cos(pi 5 / 6)) / 2 is followed by 0.05 (1 + cos(pi 6 / 24)) / 2."""
    cosine = {**CONSTANT, 'optim.schedule': 'cosine'}
    loop.train(tiny({**cosine, 'train.steps': 6}), tmp_path / 'run')
    with pytest.raises(Stopped):
        loop.train(tiny({**cosine, 'train.steps': 24}), tmp_path / 'run', extend=True,
                   on_evaluation=lambda step, figures: False)  # fmt: skip
    said = ' '.join(capfd.readouterr().err.split())
    assert 'the learning rate goes from 0.00335 to 0.0427 at step 6' in said
    # Its summary, of the shorter run, is gone. The same command continues, --extend or not.
    assert not (tmp_path / 'run' / 'summary.json').exists()
    assert loop.train(tiny({**cosine, 'train.steps': 24}), tmp_path / 'run')['steps'] == 24


# Without learning nothing improves after the first evaluation.
STILL = {**CONSTANT, 'optim.learning_rate': 0.0, 'train.steps': 20, 'train.eval_every': 2,
         'train.patience': 3, 'checkpoint.best': 'top1', 'checkpoint.every': 20}  # fmt: skip


@pytest.mark.slow
def test_a_run_ends_early_where_nothing_improves(tmp_path, capfd):
    """Batch norm's statistics are frozen too: evaluations at 2, 4, 6 and 8 are all the same."""
    config = tiny({**STILL, 'train.freeze_batch_norm': 'all'})
    summary = loop.train(config, tmp_path / 'whole')
    assert (summary['steps'], summary['planned_steps'], summary['stopped_early']) == (8, 20, True)
    assert load_state(tmp_path / 'whole').step == 8
    with pytest.raises(Stopped):
        loop.train(config, tmp_path / 'run', on_evaluation=lambda step, figures: step < 4)
    assert loop.train(config, tmp_path / 'run')['steps'] == 8  # it counts those before
    assert differing(load_state(tmp_path / 'run'), load_state(tmp_path / 'whole')) == []
    capfd.readouterr()
    assert loop.train(config, tmp_path / 'run')['steps'] == 8
    assert 'has finished: it ended early, after step 8 of 20' in capfd.readouterr().err
    with pytest.raises(InputError, match=r'with another train.patience than 3, 0 for none'):
        loop.train(tiny({**STILL, 'train.steps': 22, 'train.freeze_batch_norm': 'all'}),
                   tmp_path / 'run', extend=True)  # fmt: skip
    longer = tiny({**STILL, 'train.steps': 22, 'train.freeze_batch_norm': 'all',
                   'train.patience': 0})  # fmt: skip
    summary = loop.train(longer, tmp_path / 'run', extend=True)
    assert (summary['steps'], summary['stopped_early']) == (22, False)


def test_the_best_so_many_checkpoints_are_kept(tmp_path):
    config = tiny({**CONSTANT, 'train.steps': 12, 'train.eval_every': 2, 'checkpoint.every': 2,
                   'checkpoint.best': 'ece', 'checkpoint.keep_best': 3,
                   'checkpoint.keep': 1})  # fmt: skip
    loop.train(config, tmp_path)
    found = {
        line['step']: line['ece'] for line in read_metrics(tmp_path) if line['split'] == 'eval'
    }
    best = sorted(found, key=found.__getitem__)[:3]
    assert saved_steps(tmp_path) == sorted({*best, 12})
