"""Runs of several seeds in one program are what each would be alone."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from placements import assert_same, made
from running import STREAMED, checkpoint_steps, load_state, tiny
from seed_runs import FIELDS, SEEDS, folders_in

from resnet_jax.errors import RunError
from resnet_jax.experiments.seeds import train_seeds
from resnet_jax.models import InputError
from resnet_jax.training import loop
from resnet_jax.training.checkpoint import Checkpoints


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    """seed -> folder of a run alone."""
    base = tmp_path_factory.mktemp('alone')
    for seed in SEEDS:
        loop.train(tiny({**FIELDS, 'seed': seed}), base / str(seed))
    return {seed: base / str(seed) for seed in SEEDS}


def lines(folder):
    """The lines of metrics.jsonl, without speeds."""
    found = map(json.loads, (folder / 'metrics.jsonl').read_text().splitlines())
    return [{k: v for k, v in line.items() if 'second' not in k} for line in found]


def assert_as_alone(folders, alone):
    for seed, folder in zip(SEEDS, folders, strict=True):
        assert_same(load_state(folder), load_state(alone[seed]))
        for ours, other in zip(lines(folder), lines(alone[seed]), strict=True):
            assert ours.pop('split') == other.pop('split')
            assert ours == pytest.approx(other, rel=1e-4, abs=1e-6)
        assert json.loads((folder / 'config.json').read_text())['seed'] == seed


@pytest.fixture(scope='module')
def vmapped(tmp_path_factory):
    """(folders, summaries) of the same in one program."""
    folders = folders_in(tmp_path_factory.mktemp('vmapped'))
    return folders, train_seeds(tiny(FIELDS), SEEDS, folders, 'vmapped')


def test_vmapped_runs_are_runs_alone(vmapped, alone):
    folders, summaries = vmapped
    assert_as_alone(folders, alone)
    for folder, summary in zip(folders, summaries, strict=True):
        assert summary == json.loads((folder / 'summary.json').read_text())
        assert summary['trained_together'] == 3
    kernels = [load_state(f).params['stem']['conv1']['kernel'] for f in folders]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1  # seeds differ


@pytest.mark.slow
def test_runs_on_their_own_devices_are_runs_alone(alone, tmp_path_factory):
    folder = made(tmp_path_factory, 'seeds', [['seeds']])
    for place in ('one on each', 'two on each'):
        assert_as_alone(folders_in(folder / place), alone)


def copies(vmapped, path):
    """The runs of `vmapped` as if stopped after step 4."""
    folders = folders_in(path)
    for before, folder in zip(vmapped[0], folders, strict=True):
        shutil.copytree(before, folder)
        shutil.rmtree(folder / 'checkpoints' / '8')
        (folder / 'summary.json').unlink()
    return folders


def test_runs_that_were_stopped_are_continued_together(vmapped, alone, tmp_path, capsys):
    folders = copies(vmapped, tmp_path)
    summaries = train_seeds(tiny(FIELDS), SEEDS, folders, 'vmapped')
    assert 'continues after step 4' in capsys.readouterr().err
    assert [summary['trained_together'] for summary in summaries] == [3, 3, 3]
    assert_as_alone(folders, alone)


@pytest.mark.slow
def test_runs_at_different_steps_are_continued_one_after_another(vmapped, alone, tmp_path, capsys):
    folders = copies(vmapped, tmp_path)
    shutil.rmtree(folders[1] / 'checkpoints' / '4')
    summaries = train_seeds(tiny(FIELDS), SEEDS, folders, 'vmapped')
    assert [summary['trained_together'] for summary in summaries] == [1, 1, 1]
    assert_as_alone(folders, alone)
    # What has ended is left as it is.
    assert train_seeds(tiny(FIELDS), SEEDS, folders) == summaries


@pytest.mark.slow
def test_one_that_diverges_does_not_stop_the_others(vmapped, alone, tmp_path, capsys):
    folders = copies(vmapped, tmp_path)
    state = load_state(folders[1], '4')
    bad = state.replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params))
    shutil.rmtree(folders[1] / 'checkpoints' / '4')
    checkpoints = Checkpoints(folders[1], tiny(FIELDS).checkpoint)
    checkpoints.save(bad, 1.0)
    checkpoints.close()
    good, error, other = train_seeds(tiny(FIELDS), SEEDS, folders, 'vmapped')
    assert isinstance(error, RunError)
    assert 'diverged' in str(error) and 'seed 0: training diverged' in capsys.readouterr().err
    assert checkpoint_steps(folders[1]) == [4]
    assert good['eval']['n'] == other['eval']['n'] == 360
    for i in (0, 2):
        assert_same(load_state(folders[i]), load_state(alone[SEEDS[i]]))


@pytest.mark.slow
def test_a_probe_chooses(alone, tmp_path, capsys):
    folders = folders_in(tmp_path)
    summaries = train_seeds(tiny(FIELDS), SEEDS, folders)
    probe = capsys.readouterr().err.splitlines()[0]
    assert probe.startswith('a step of 3 seeds: serial ') and 'vmapped ' in probe
    times = dict(zip(probe.split()[5::3], map(float, probe.split()[6::3]), strict=True))
    together = 1 if min(times, key=times.get) == 'serial' else 3
    assert [summary['trained_together'] for summary in summaries] == [together] * 3
    assert_as_alone(folders, alone)


@pytest.mark.slow
def test_streams_are_trained_one_after_another(tmp_path):
    folders = folders_in(tmp_path)[:2]
    fields = {**FIELDS, **STREAMED, 'train.steps': 2}
    summaries = train_seeds(tiny(fields), SEEDS[:2], folders, 'vmapped')
    assert [summary['trained_together'] for summary in summaries] == [1, 1]


@pytest.mark.parametrize(
    ('seeds', 'names', 'place', 'message'),
    [
        ((0, 0), ('a', 'b'), None, 'each run needs its own'),
        ((0, 1), ('a', 'a'), None, 'each run needs its own'),
        ((0, 1), ('a',), None, '2 seeds and 1 folders'),
        ((0, 1), ('a', 'b'), 'vmaped', "unknown place 'vmaped'; did you mean 'vmapped'"),
    ],
)
def test_bad_seeds(seeds, names, place, message, tmp_path):
    with pytest.raises(InputError, match=message):
        train_seeds(tiny(FIELDS), seeds, [tmp_path / name for name in names], place)
    assert not any(tmp_path.iterdir())
