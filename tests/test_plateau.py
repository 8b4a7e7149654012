"""A rate that falls where the training loss does not, and the parameters of the lowest loss."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from running import differing, flags, load_state, tiny

from resnet_jax.cli import main
from resnet_jax.errors import InputError
from resnet_jax.inference.trained import load_trained
from resnet_jax.training import loop, optim, step
from resnet_jax.training.build import build_run
from resnet_jax.training.inputs import open_inputs

# Three steps an epoch. With so high a rate the loss of an epoch falls and rises.
PLATEAU = {
    'data.train_split': 'train[:96]', 'augment.transforms': '', 'optim.learning_rate': 8.0,
    'optim.schedule': 'plateau', 'optim.decay_factor': 0.5, 'optim.plateau_patience': 1,
    'optim.plateau_threshold': 0.02, 'optim.plateau_floor': 1.6, 'checkpoint.best': 'train_loss',
    'train.steps': 33, 'train.eval_every': 15, 'train.log_every': 3,
}  # fmt: skip


class Callbacks:
    """Keras' ReduceLROnPlateau(monitor='loss') and ModelCheckpoint(save_best_only=True)."""

    def __init__(self, rate, factor, patience, threshold, least):
        self.rate, self.factor, self.patience = rate, factor, patience
        self.threshold, self.least = threshold, least
        self.wait, self.lowest, self.best, self.saved = 0, np.inf, np.inf, None

    def end_epoch(self, loss, variables):
        if loss < self.best:
            self.best, self.saved = loss, variables
        if loss < self.lowest - self.threshold:
            self.lowest, self.wait = loss, 0
        else:
            self.wait += 1
            if self.wait >= self.patience:
                self.rate, self.wait = max(self.rate * self.factor, self.least), 0


def test_rate_and_evaluated_parameters_are_those_of_keras_callbacks():
    config = tiny(PLATEAU)
    run = build_run(config, open_inputs(config))
    assert optim.whole_epoch(run.inputs.steps_per_epoch) == 3
    keras = Callbacks(8.0, 0.5, 1, 0.02, 1.6)
    arrays = run.placement.put_whole(run.arrays)
    state, losses, rates = run.placement.put_state(run.init_state()), [], []
    for done, _, batches in run.dispatches(0):
        placed = run.placement.put_train_batches(batches)
        state, sums = run.train_step(run.seed, state, run.no_totals(), arrays, placed)
        losses.append(float(sums['loss'] / sums['n']))
        if done % 3 == 0:
            variables = {'params': state.params, 'batch_stats': state.batch_stats}
            keras.end_epoch(np.mean(losses[-3:]), jax.tree.map(np.asarray, variables))
        rates.append(8.0 * float(optim.rate_factor(state.opt_state)))
        assert rates[-1] == pytest.approx(keras.rate)
        if keras.saved is None:  # before an epoch has ended
            assert differing(step.eval_variables(state)['params'], state.params) == []
        else:
            assert differing(step.eval_variables(state), keras.saved) == []
            assert step.lowest_loss(state) == pytest.approx(keras.best, rel=1e-5)
    assert sorted(set(rates)) == pytest.approx([1.6, 2.0, 4.0, 8.0])
    epochs = np.mean(np.reshape(losses, (-1, 3)), axis=1)
    worse = epochs[1:] > np.minimum.accumulate(epochs)[:-1]
    assert worse.any() and not worse.all()  # or the last parameters would do, or the first


def test_the_factor_multiplies_the_update():
    """Also of momentum and of the parts of a network that have rates of their own."""
    config = tiny(
        {
            **PLATEAU,
            'optim.learning_rate': 0.5,
            'optim.plateau_floor': 0.1,
            'optim.rates': 'head=0.5',
        }
    )
    rule = optim.make_optimizer(config.optim, lambda step: 0.5, steps_per_epoch=1.0)
    plain = optim.make_optimizer(
        tiny({'optim.schedule': 'constant', 'optim.rates': 'head=0.5'}).optim, lambda step: 0.5
    )
    params = {'conv1': {'kernel': jnp.ones(3)}, 'head': {'kernel': jnp.ones(2)}}
    grads = jax.tree.map(lambda x: 0.3 * x, params)
    ours, theirs = rule.init(params), plain.init(params)
    for loss, factor in ((1.0, 1.0), (1.0, 0.5), (0.5, 0.5), (0.5, 0.25), (2.0, 0.2), (2.0, 0.2)):
        update, ours = rule.update(grads, ours, params, value=jnp.float32(loss))
        other, theirs = plain.update(grads, theirs, params)
        jax.tree.map(
            lambda a, b, f=factor: np.testing.assert_allclose(a, f * b, rtol=1e-6), update, other
        )


@pytest.mark.slow
def test_a_run_evaluates_and_gives_the_parameters_of_the_lowest_loss(tmp_path):
    config = tiny({**PLATEAU, 'checkpoint.every': 3})
    summary = loop.train(config, tmp_path / 'run')
    state, trained = load_state(tmp_path / 'run'), load_trained(tmp_path / 'run')
    assert differing(trained.variables, step.eval_variables(state)) == []
    lines = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').open()]
    logged = [line['loss'] for line in lines if line['split'] == 'train']
    assert summary['eval']['train_loss'] == pytest.approx(min(logged), rel=1e-5)
    assert summary['eval']['raw_loss'] != summary['eval']['loss']
    rates = [line['learning_rate'] for line in lines if line['split'] == 'train']
    assert rates[0] == pytest.approx(8.0) and rates[-1] == pytest.approx(1.6)
    best = load_trained(tmp_path / 'run', 'best')
    assert differing(best.variables, trained.variables) == []


@pytest.mark.slow
def test_a_run_that_is_stopped_continues_bit_for_bit(tmp_path):
    """Inside of an epoch, with the mean of its losses half made."""
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    loop.train(tiny(PLATEAU), whole)
    fields = {**PLATEAU, 'checkpoint.every': 4}
    stopped = []

    def stop(done, figures):
        stopped.append(done)
        return False

    with pytest.raises(Exception, match='stopped after step 15'):
        loop.train(tiny({**fields, 'train.log_every': 7}), parts, on_evaluation=stop)
    (parts / 'checkpoints' / '15').rename(tmp_path / 'gone')
    loop.train(tiny(fields), parts)  # from step 12; then the whole again
    assert stopped == [15]
    assert differing(load_state(whole), load_state(parts)) == []


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'optim.ema': 0.9}, 'set optim.ema=0'),
        ({'optim.decay_factor': 1.0}, 'decay_factor between 0 and 1'),
        ({'optim.name': 'schedule_free_sgd', 'optim.ema': 0}, 'does not go with'),
        ({'optim.plateau_patience': 0}, 'must be at least 1'),
    ],
)
def test_what_does_not_go_together_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        tiny({**PLATEAU, **fields})


def test_settings_of_a_plateau_need_it(tmp_path, capsys):
    code = main(['train', *flags({'optim.plateau_patience': 3}), '--workdir', str(tmp_path)])
    assert code == 2
    assert 'has no effect without optim.schedule=plateau' in capsys.readouterr().err
