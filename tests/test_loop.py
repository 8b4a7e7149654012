"""The training loop, its step and its evaluation: what they compute and what they leave behind."""

import dataclasses
import json
import math
import os
import struct
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import members
from running import STREAMED, checkpoint_steps, differing, load_state, tiny, whole_split

from resnet_jax import data
from resnet_jax.errors import RunError, Stopped
from resnet_jax.inference.trained import load_trained
from resnet_jax.models import InputError, create_model
from resnet_jax.training import loop, metrics, step, workdir
from resnet_jax.training.build import build_run
from resnet_jax.training.evaluate import evaluate, evaluate_each, make_eval_step
from resnet_jax.training.inputs import open_inputs
from resnet_jax.training.optim import evaluated_params
from resnet_jax.training.session import Session

STOCHASTIC = {'model.dropout': 0.3, 'augment.transforms': 'pad_crop(pad=1)'}


def lines(folder, split):
    found = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    return [line for line in found if line['split'] == split]


@pytest.fixture(scope='module')
def learnt(tmp_path_factory):
    """A run that is long enough to learn: (folder, summary)."""
    folder = tmp_path_factory.mktemp('runs') / 'learnt'
    fields = {'model.width': 8, 'model.stem_width': 8, 'train.batch_size': 64, 'train.steps': 160,
              'train.log_every': 20, 'train.eval_every': 80, 'checkpoint.every': 80,
              'optim.schedule': 'cosine', 'optim.learning_rate': 0.2}  # fmt: skip
    return folder, loop.train(tiny(fields), folder)


def test_loss_falls_and_digits_are_learnt(learnt):
    folder, summary = learnt
    train = lines(folder, 'train')
    assert train[-1]['loss'] < 0.5 * train[0]['loss']
    assert summary['eval']['top1'] > 0.6  # chance is 0.1


def test_metrics_file(learnt):
    folder, _ = learnt
    train, evaluation = lines(folder, 'train'), lines(folder, 'eval')
    assert [line['step'] for line in train] == list(range(20, 161, 20))
    assert [line['step'] for line in evaluation] == [80, 160]
    assert all(line['n'] == 360 for line in evaluation)
    for line in train:
        done = line['step'] - 1  # the rate of the last step taken
        rate = 0.2 * 0.5 * (1 + math.cos(math.pi * done / 160))
        assert line['learning_rate'] == pytest.approx(rate, rel=1e-5)
        assert 0 <= line['top1'] <= line['top5'] <= 1
        assert line['images_per_second'] > 0


def test_summary(learnt):
    folder, summary = learnt
    assert json.loads((folder / 'summary.json').read_text()) == summary
    state = load_state(folder)
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    assert (summary['parameters'], summary['steps'], summary['seed']) == (parameters, 160, 0)
    assert summary['model'] == 'cifar_resnet8'
    assert summary['versions']['jax'] == jax.__version__
    assert summary['eval'].items() <= lines(folder, 'eval')[-1].items()
    assert summary['train'].items() <= lines(folder, 'train')[-1].items()
    assert summary['seconds'] > 0
    speeds = [line['images_per_second'] for line in lines(folder, 'train')]
    assert min(speeds) <= summary['images_per_second'] <= max(speeds)
    assert {'device', 'git_commit'} <= summary.keys()


def events(folder):
    """The scalars of all TensorBoard files: (tag, step) -> value, read by the TFRecord format."""
    from tensorboardX.proto.event_pb2 import Event

    scalars = {}
    for path in sorted(folder.glob('events.out.tfevents.*')):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack('<Q', content[:8])
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                scalars[value.tag, event.step] = value.simple_value
    return scalars


def test_tensorboard_holds_the_same_figures(learnt):
    folder, _ = learnt
    expected = {
        (f'{split}/{name}', line['step']): pytest.approx(value, rel=1e-6)
        for split in ('train', 'eval')
        for line in lines(folder, split)
        for name, value in line.items()
        if name not in ('step', 'split')
    }
    assert events(folder) == expected


def test_run_that_has_ended_is_left_alone(learnt):
    folder, summary = learnt
    before = {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}
    again = loop.train(workdir.read_config(folder), folder)
    assert again == summary
    after = {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}
    lock = folder / '.lock'
    assert after.pop(lock) >= before.pop(lock)
    assert after == before


def test_evaluation_is_that_of_the_model(learnt):
    """A plain NumPy evaluation of the whole split at once."""
    folder, summary = learnt
    trained = load_trained(folder)
    _, arrays = whole_split(workdir.read_config(folder))
    mean, std = (np.asarray(x) for x in (trained.preprocessing.mean, trained.preprocessing.std))
    images = (arrays['image'] / 255 - mean) / std
    logits = np.asarray(
        trained.model.apply(trained.variables, jnp.asarray(images, jnp.float32), train=False),
        np.float64,
    )
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    order = np.argsort(-logits, axis=1)
    labels = arrays['label']
    loss = -logs[np.arange(360), labels].mean()
    assert summary['eval']['loss'] == pytest.approx(loss, rel=1e-4)
    assert summary['eval']['top1'] == (order[:, 0] == labels).mean()
    assert summary['eval']['top5'] == (order[:, :5] == labels[:, None]).any(axis=1).mean()


def test_every_example_counts_once_whatever_the_batch(learnt):
    folder, _ = learnt
    trained = load_trained(folder)
    config = workdir.read_config(folder)
    source = data.open_source('digits', 'test[:100]', None)
    eval_step = make_eval_step(trained.model, trained.preprocessing)
    assert config.data.eval_split == 'test'
    results = []
    for size in (100, 1, 7, 50, 333):
        batches = data.eval_batches(source, trained.preprocessing, size)
        results.append(evaluate(eval_step, trained.variables, batches))
    (first, sums), *others = results
    confusion = sums['confusion']
    labels = [source[i]['label'] for i in range(100)]
    assert first['n'] == 100
    np.testing.assert_array_equal(confusion.sum(axis=1), np.bincount(labels, minlength=10))
    assert confusion.diagonal().sum() == round(100 * first['top1'])
    for figures, sums in others:
        np.testing.assert_array_equal(sums['confusion'], confusion)
        assert (figures['n'], figures['top1'], figures['top5']) == (
            first['n'], first['top1'], first['top5'],
        )  # fmt: skip
        # float32 convolutions of other batch sizes may sum in another order
        assert figures['loss'] == pytest.approx(first['loss'], rel=1e-5)
        assert figures['ece'] == pytest.approx(first['ece'], abs=1e-5)


def final(fields, folder):
    """The state at the end of a run."""
    loop.train(tiny(fields), folder)
    return load_state(folder)


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """The final state of a short run with everything random switched on."""
    return final(
        {**STOCHASTIC, **STREAMED, 'data.memory_mib': 64}, tmp_path_factory.mktemp('a') / 'r'
    )


@pytest.mark.skipif(
    'use_fusion_emitters=false' in os.environ.get('XLA_FLAGS', ''),
    reason='XLA without its fusion emitters rounds differently in different programs',
)
def test_same_seed_same_parameters_streamed_or_not(plain, tmp_path):
    """Data on the device and data read step by step give the same run, bit for bit."""
    assert differing(final({**STOCHASTIC, **STREAMED}, tmp_path / 'run'), plain) == []


def test_other_seed_other_parameters(plain, tmp_path):
    fields = {**STOCHASTIC, **STREAMED, 'data.memory_mib': 64, 'seed': 1}
    other = final(fields, tmp_path / 'run')
    kernels = [s.params['stage1']['block1']['conv1']['kernel'] for s in (plain, other)]
    assert not np.allclose(*kernels, atol=1e-2)


def one_step(fields):
    """(function of (state, batch) that takes a step, initial state, a batch)."""
    config = tiny(fields)
    inputs = open_inputs(config)
    run = build_run(config, inputs)
    indices = data.batch_indices(0, 0, config.train.batch_size, len(inputs.train))
    batch = {name: array[indices] for name, array in inputs.arrays.items()}
    zeros = {name: jnp.zeros(()) for name in ('n', 'loss', 'top1', 'top5')}

    def take(state, batch=batch):
        copy = jax.tree.map(jnp.copy, state)  # the step donates its state
        batches = {name: x[None] for name, x in batch.items()}
        return run.train_step(run.seed, copy, jax.tree.map(jnp.copy, zeros), None, batches)

    return take, run.init_state(), batch


@pytest.mark.parametrize(
    'random',
    [
        {'model.dropout': 0.5},
        {'augment.transforms': 'pad_crop(pad=1)'},
        {'augment.transforms': 'mixup'},
    ],
    ids=str,
)
def test_randomness_is_a_function_of_the_step(random):
    """The same state and batch at another step drop, crop or mix otherwise."""
    fields = {'optim.schedule': 'constant', 'augment.transforms': '', 'model.dropout': 0.0}
    take, state, _ = one_step({**fields, **random})
    first, again = take(state), take(state)
    later = take(state.replace(step=state.step + 1))
    assert differing(first, again) == []
    assert float(first[1]['loss']) != float(later[1]['loss'])


def test_nothing_else_depends_on_the_step():
    take, state, _ = one_step({'augment.transforms': '', 'optim.schedule': 'constant'})
    later = take(state.replace(step=state.step + 1))
    assert differing(take(state)[0].params, later[0].params) == []


def test_step_is_the_gradient_of_the_smoothed_loss():
    """One step of plain SGD, computed by hand; the logged loss is the unsmoothed one."""
    fields = {'augment.transforms': '', 'optim.schedule': 'constant', 'optim.momentum': 0,
              'optim.weight_decay': 0, 'optim.learning_rate': 0.5,
              'loss.label_smoothing': 0.2}  # fmt: skip
    take, state, batch = one_step(fields)
    config = tiny(fields)
    preprocessing = open_inputs(config).preprocessing
    model = create_model('cifar_resnet8', 10, stage_sizes=(1,), width=4, stem_width=4)
    targets = 0.8 * jax.nn.one_hot(batch['label'], 10) + 0.02
    images = preprocessing.normalize(jnp.asarray(batch['image']))

    def loss(params, targets):
        variables = {'params': params, 'batch_stats': state.batch_stats}
        logits, _ = model.apply(variables, images, train=True, mutable=['batch_stats'])
        return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=1))

    expected = jax.tree.map(
        lambda p, g: p - 0.5 * g, state.params, jax.grad(loss)(state.params, targets)
    )
    after, sums = take(state)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), after.params, expected
    )
    assert int(after.step) == 1
    unsmoothed = float(loss(state.params, jax.nn.one_hot(batch['label'], 10)))
    assert metrics.averages(sums)['loss'] == pytest.approx(unsmoothed, rel=1e-5)
    assert float(sums['n']) == 32


def test_ema_is_the_average_of_parameters_and_statistics():
    """ema = d ema + (1 - d) new, from the initial variables, and it is what is evaluated.

    After t steps d is (1 + t) / (10 + t), where that is less than the config's.
    """
    take, state, _ = one_step({'optim.ema': 0.25, 'optim.schedule': 'constant'})
    average = {'params': state.params, 'batch_stats': state.batch_stats}
    assert differing(state.ema, average) == []
    average = jax.tree.map(lambda x: np.asarray(x, np.float64), average)
    for d in (1 / 10, 2 / 11, 3 / 12, 0.25, 0.25):
        state, _ = take(state)
        new = {'params': state.params, 'batch_stats': state.batch_stats}
        average = jax.tree.map(lambda a, x, d=d: d * a + (1 - d) * np.asarray(x), average, new)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7), state.ema, average
        )
    assert step.eval_variables(state) is state.ema
    plain = state.replace(ema=None)
    assert step.eval_variables(plain)['params'] is state.params


@pytest.mark.parametrize('streamed', members([False, True], (False,)))
def test_run_with_ema_evaluates_the_average(tmp_path, streamed):
    fields = {'optim.ema': 0.9, 'train.steps': 6, 'checkpoint.every': 6}
    config = tiny({**fields, **(STREAMED if streamed else {})})
    summary = loop.train(config, tmp_path / 'run')
    state = load_state(tmp_path / 'run')
    trained = load_trained(tmp_path / 'run')
    assert differing(trained.variables, state.ema) == []
    inputs = open_inputs(config)
    eval_step = make_eval_step(trained.model, trained.preprocessing)
    figures, _ = evaluate(eval_step, state.ema, inputs.eval_batches())
    assert figures['loss'] == pytest.approx(summary['eval']['loss'], rel=1e-6)
    raw = {'params': state.params, 'batch_stats': state.batch_stats}
    plain, _ = evaluate(eval_step, raw, inputs.eval_batches())
    assert plain['loss'] != figures['loss']
    assert plain['loss'] == pytest.approx(summary['eval']['raw_loss'], rel=1e-6)
    assert plain['top1'] == pytest.approx(summary['eval']['raw_top1'])


@pytest.mark.slow
def test_the_average_of_a_short_run_has_left_the_initial_variables(tmp_path):
    """With a constant decay of 0.9999 it would still hold 99.8 % of them after 24 steps."""
    config = tiny({'optim.ema': 0.9999, 'train.steps': 24, 'train.eval_every': 0})
    summary = loop.train(config, tmp_path / 'run')['eval']
    start = open_inputs(config)
    run = build_run(config, start)
    initial = step.eval_variables(run.init_state())
    before, _ = evaluate(run.eval_step, initial, start.eval_batches())
    assert summary['loss'] < before['loss'] - 0.5 * (before['loss'] - summary['raw_loss'])


def test_divergence_stops_and_keeps_what_was_good(tmp_path):
    """A rate that explodes after step 8: one message, and the checkpoint before it is finite."""
    fields = {'optim.schedule': 'piecewise', 'optim.boundaries': '(8,)', 'train.steps': 40,
              'optim.decay_factor': 1e30, 'train.log_every': 3}  # fmt: skip
    with pytest.raises(RunError) as error:
        loop.train(tiny(fields), tmp_path / 'run')
    message = str(error.value)
    assert 'not finite' in message
    assert 'the last good checkpoint is of step 8' in message
    assert '\n' not in message
    assert checkpoint_steps(tmp_path / 'run')[-1] == 8
    state = load_state(tmp_path / 'run')
    assert int(state.step) == 8
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert not (tmp_path / 'run' / 'summary.json').exists()
    assert all(math.isfinite(line['loss']) for line in lines(tmp_path / 'run', 'train'))


def test_divergence_of_anything_that_is_saved_is_seen(tmp_path):
    """Finite loss and parameters, but an infinite average or statistic, is no good checkpoint."""
    config = tiny({'train.steps': 4, 'optim.ema': 0.5})
    run = build_run(config, open_inputs(config))
    state = run.init_state()
    bad = state.replace(batch_stats=jax.tree.map(lambda x: x * jnp.inf, state.batch_stats))
    saved = []

    class Recorder:
        def save(self, *args):
            saved.append(args)

        def steps(self):
            return []

        def wait(self):
            pass

    session = Session(run, tmp_path, Recorder(), None)
    with pytest.raises(RunError, match='not finite'):
        session.save(1, bad, None)
    assert saved == []
    session.save(1, state, None)
    assert len(saved) == 1


@pytest.mark.usefixtures('standard_promotion')
def test_bfloat16_trains(tmp_path):
    """Parameters and statistics stay float32."""
    fields = {'model.dtype': 'bfloat16', 'train.steps': 24, 'train.eval_every': 24}
    summary = loop.train(tiny(fields), tmp_path / 'run')
    state = load_state(tmp_path / 'run')
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype(jnp.float32)}
    train = lines(tmp_path / 'run', 'train')
    assert train[-1]['loss'] < train[0]['loss']
    assert summary['eval']['n'] == 360


@pytest.mark.parametrize('name', ['adamw', pytest.param('lamb', marks=pytest.mark.slow)])
def test_other_optimizers_learn(name):
    """Twelve steps on one batch lower its loss."""
    fields = {'optim.name': name, 'optim.learning_rate': 0.01, 'optim.schedule': 'constant',
              'augment.transforms': '', 'optim.clip_norm': 1.0}  # fmt: skip
    take, state, _ = one_step(fields)
    losses = []
    for _ in range(12):
        state, sums = take(state)
        losses.append(metrics.averages(sums)['loss'])
    assert losses[-1] < losses[0] - 0.1


def test_epochs_set_the_length(tmp_path):
    """2.5 epochs of 100 images in batches of 32 are 7.8 steps: 8."""
    config = tiny({'data.train_split': 'train[:100]', 'train.steps': None, 'train.epochs': 2.5})
    assert open_inputs(config).total_steps == 8
    assert open_inputs(config).steps_per_epoch == 3.125


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({'data.normalize': 'chanel'}, "did you mean 'channel'"),
        ({'augment.transforms': 'pad_crop(mode=zeros)'}, "did you mean 'zero'"),
        (
            {'augment.transforms': 'pad_crop(mode=reflect, pad=8)'},
            'cannot reflect an image of 8 pixels',
        ),
        ({'data.memory_mib': 0}, 'set data.mean and data.std'),
        ({'data.normalize': 'pixel', 'data.mean': '(0.5,)'}, 'unset data.mean and data.std'),
        ({'data.mean': '(0.5, 0.5, 0.5)'}, 'data.mean takes one number for each of data.channels'),
        ({'model.dtype': 'bfloat'}, "did you mean 'bfloat16'"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, fields, words):
    with pytest.raises(InputError) as error:
        loop.train(tiny(fields), tmp_path / 'run')
    assert words in str(error.value)
    assert not (tmp_path / 'run').exists()


def test_pixel_mean_is_subtracted_and_kept(tmp_path):
    """he2015, section 4.2: the per-pixel mean, and no scaling."""
    config = tiny({'data.normalize': 'pixel', 'train.steps': 2})
    loop.train(config, tmp_path / 'run')
    preprocessing = load_trained(tmp_path / 'run').preprocessing
    images = open_inputs(config).arrays['image']
    np.testing.assert_allclose(preprocessing.mean, images.mean(axis=0) / 255, atol=1e-6)
    assert preprocessing.std == (1.0,)


@pytest.mark.parametrize('together', [3, pytest.param(5, marks=pytest.mark.slow)])
def test_several_steps_in_a_dispatch_are_the_same_steps(together, tmp_path):
    """Also where what is due falls between: figures every 4 steps, evaluation every 6."""
    ends = {}
    for name, count in (('one', 1), ('several', together)):
        transforms = 'pad_crop(pad=1), cutmix'
        fields = {'train.steps_per_dispatch': count, 'augment.transforms': transforms}
        ends[name] = final(fields, tmp_path / name)
    for a, b in zip(*map(jax.tree.leaves, ends.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for split in ('train', 'eval'):
        one, several = (lines(tmp_path / name, split) for name in ends)
        assert [line['step'] for line in several] == [line['step'] for line in one]
        assert [line['loss'] for line in several] == pytest.approx([line['loss'] for line in one])


def test_frozen_parameters_are_those_of_the_start(tmp_path):
    """Everything else learns; an evaluation and a resumption work as usual."""
    config = tiny({'train.freeze': 'stem,stage1/block1/conv1', 'train.steps': 6})
    loop.train(config, tmp_path / 'run')
    before = build_run(config).init_state().params
    after = load_state(tmp_path / 'run').params
    moved = set(differing(before, after))
    assert not {path for path in moved if "'stem'" in path or "'conv1'" in path}
    assert {path for path in moved if "'conv2'" in path or "'head'" in path}
    assert load_trained(tmp_path / 'run').origin['step'] == 6
    with pytest.raises(InputError, match=r"train\.freeze 'stage9'"):
        loop.train(tiny({'train.freeze': 'stage9'}), tmp_path / 'other')
    assert not (tmp_path / 'other').exists()


@pytest.mark.parametrize(
    'optimiser', members(['sgd', 'schedule_free_adamw', 'muon'], ('schedule_free_adamw', 'muon'))
)
def test_a_stop_asked_for_by_the_caller(tmp_path, optimiser):
    """`on_evaluation` sees each evaluation but the last; False stops the run, which can resume."""
    seen, fields = [], {'optim.name': optimiser}

    def stop_at_six(step, figures):
        seen.append((step, figures['n']))
        return step != 6

    with pytest.raises(Stopped):
        loop.train(tiny(fields), tmp_path / 'run', on_evaluation=stop_at_six)
    assert checkpoint_steps(tmp_path / 'run')[-1] == 6
    loop.train(tiny(fields), tmp_path / 'run', on_evaluation=stop_at_six)
    assert seen == [(6, 360)]
    loop.train(tiny(fields), tmp_path / 'whole')
    assert differing(load_state(tmp_path / 'run'), load_state(tmp_path / 'whole')) == []


@pytest.mark.slow
def test_speed_leaves_evaluation_out(tmp_path, monkeypatch):
    """An evaluation between two logged steps, which takes long, does not slow the next figure."""

    def slow(*arguments):
        time.sleep(2)
        return evaluate_each(*arguments)

    monkeypatch.setattr('resnet_jax.training.session.evaluate_each', slow)
    fields = {'train.steps': 40, 'train.log_every': 20, 'train.eval_every': 30,
              'checkpoint.every': 40}  # fmt: skip
    loop.train(tiny(fields), tmp_path / 'run')
    speed = lines(tmp_path / 'run', 'train')[-1]['images_per_second']
    assert speed > 20 * 32 / 2


@pytest.mark.slow
@pytest.mark.parametrize('streamed', [False, True])
def test_training_images_of_another_size(tmp_path, streamed):
    """Each is what `prepare` gives at that size; evaluation and prediction keep their own."""
    fields = {'data.train_image_size': 6, 'train.steps': 2, **(STREAMED if streamed else {})}
    config = tiny(fields)
    inputs = open_inputs(config)
    batch = next(inputs.train_batches(0, 1))
    if not streamed:
        batch = {name: array[batch['index']] for name, array in inputs.arrays.items()}
    assert batch['image'].shape == (config.train.batch_size, 6, 6, 1)
    smaller = dataclasses.replace(inputs.preprocessing, image_size=6)
    (example,) = inputs.train.take([int(inputs.indices(0)[0])])
    np.testing.assert_array_equal(batch['image'][0], smaller.prepare(example['image']))
    assert next(iter(inputs.eval_batches()))['image'].shape[1:] == (8, 8, 1)
    summary = loop.train(config, tmp_path / 'run')
    assert load_trained(tmp_path / 'run').preprocessing.image_size == 8
    assert math.isfinite(summary['eval']['loss'])


@pytest.mark.slow
def test_a_schedule_free_run_evaluates_the_average(tmp_path):
    """And stores it: what is loaded from the run is what was evaluated."""
    fields = {'optim.name': 'schedule_free_sgd', 'optim.learning_rate': 0.5, 'train.steps': 6}
    config = tiny({**fields, 'optim.schedule': 'constant', 'checkpoint.every': 6})
    summary = loop.train(config, tmp_path / 'run')
    state = load_state(tmp_path / 'run')
    average = evaluated_params(config.optim)(state.opt_state, state.params)
    trained = load_trained(tmp_path / 'run')
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
        trained.variables['params'],
        average,
    )
    assert differing(state.params, average) != []
    inputs = open_inputs(config)
    eval_step = make_eval_step(trained.model, trained.preprocessing)
    figures, _ = evaluate(eval_step, trained.variables, inputs.eval_batches())
    assert figures['loss'] == pytest.approx(summary['eval']['loss'], rel=1e-6)
