"""Runs that are killed, stopped and refused, as real processes."""

import json
import os
import pathlib
import random
import re
import resource
import signal
import time
import types

import pytest
from running import (
    STREAMED,
    TINY,
    checkpoint_steps,
    complains,
    differing,
    flags,
    load_state,
    start,
)

from resnet_jax.cli import main

# A checkpoint after every step: whenever a process is killed, one is being written.
EVERY_STEP = {**STREAMED, 'data.memory_mib': 64, 'model.dropout': 0.2, 'optim.ema': 0.9,
              'train.steps': 30, 'train.eval_every': 5, 'train.log_every': 3,
              'augment.transforms': 'pad_crop(pad=1), mixup', 'augment.repeats': 2,
              'checkpoint.every': 1}  # fmt: skip
# Streamed, by worker processes; most steps lie between two checkpoints.
SELDOM = {**EVERY_STEP, 'data.memory_mib': 0, 'checkpoint.every': 4, 'data.workers': 2}


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    """The workdir of a run of EVERY_STEP that nobody disturbed."""
    folder = tmp_path_factory.mktemp('runs') / 'uninterrupted'
    assert main(['train', *flags(EVERY_STEP), '--workdir', str(folder)]) == 0
    return folder


@pytest.fixture
def here(capfd):
    """Begins or continues a run in this process; gives its exit code and what it said."""

    def train_here(folder, fields):
        capfd.readouterr()
        code = main(['train', *flags(fields), '--workdir', str(folder)])
        out, err = capfd.readouterr()
        return types.SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return train_here


def train(folder, fields):
    """Begins or continues a run."""
    return start('train', *flags(fields), '--workdir', folder)


def train_to_the_end(folder):
    process = train(folder, EVERY_STEP)
    out, err = process.communicate(timeout=120)
    return types.SimpleNamespace(returncode=process.returncode, stdout=out, stderr=err)


def wait_for_step(process, folder: pathlib.Path, step: int) -> None:
    """Returns once a checkpoint of this step or a later one is complete."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if (folder / 'checkpoints').is_dir() and max(checkpoint_steps(folder), default=0) >= step:
            return
        time.sleep(0.005)
    process.kill()
    raise AssertionError(f'no step {step}: {process.communicate()}')


def stop(process, how: signal.Signals, code: int) -> str:
    """Sends a signal and gives what stood on standard error."""
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    return err


CLOCK = ('images_per_second', 'data_wait', 'data_read', 'data_send')


def figures(folder, split, without=CLOCK):
    """The lines of metrics.jsonl, without what depends on the clock."""
    lines = map(json.loads, (folder / 'metrics.jsonl').read_text().splitlines())
    return [
        {key: value for key, value in line.items() if key not in without}
        for line in lines
        if line['split'] == split
    ]


def continued_after(err: str) -> int:
    return int(re.search(r'continues after step (\d+),', err).group(1))


def finished(result) -> str:
    """Asserts that a run came to its end; gives what stood on standard error."""
    assert result.returncode == 0, result.stderr
    return result.stderr


def snapshot(folder):
    """Every file with its content, but for the lock."""
    files = (p for p in folder.rglob('*') if p.is_file() and p.name != '.lock')
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.mark.parametrize('targets', [(4,), pytest.param(range(3, 28, 4), marks=pytest.mark.slow)])
def test_killed_while_checkpoints_are_written(tmp_path, uninterrupted, here, targets):
    """kill -9 again and again, at random moments of steps that are mostly spent writing."""
    folder = tmp_path / 'run'
    reached = 0
    for target in targets:
        process = train(folder, EVERY_STEP)
        wait_for_step(process, folder, target)
        time.sleep(random.uniform(0, 0.06))
        err = stop(process, signal.SIGKILL, -signal.SIGKILL)
        if reached:
            assert continued_after(err) == reached  # all that was complete
        reached = max(checkpoint_steps(folder))
    assert continued_after(finished(here(folder, EVERY_STEP))) == reached
    assert differing(load_state(folder), load_state(uninterrupted)) == []
    assert differing(load_state(folder, 'best'), load_state(uninterrupted, 'best')) == []
    for split in ('train', 'eval'):
        assert figures(folder, split) == figures(uninterrupted, split)
    assert [line['step'] for line in figures(folder, 'train')] == list(range(1, 31))
    summaries = [json.loads((f / 'summary.json').read_text()) for f in (folder, uninterrupted)]
    for summary in summaries:
        assert summary['steps'] == 30
    assert summaries[0]['eval'] == summaries[1]['eval']
    # Nothing half-written is left.
    assert all(re.fullmatch(r'\d+', p.name) for p in (folder / 'checkpoints').iterdir())
    assert checkpoint_steps(folder) == checkpoint_steps(uninterrupted)


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path, uninterrupted, here):
    """kill -9 spread over the whole life of a process, its start and its end included."""
    began = time.monotonic()
    finished(train_to_the_end(tmp_path / 'whole'))
    life = time.monotonic() - began
    kills, folders = 12, [tmp_path / '0']
    for number in random.sample(range(kills), kills):
        process = train(folders[-1], EVERY_STEP)
        time.sleep(1.1 * life * (number + random.random()) / kills)
        process.kill()
        _, err = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), err
        if process.returncode == 0:  # it was through; the next kills are of a new run
            folders.append(tmp_path / str(len(folders)))
    for folder in folders:
        finished(here(folder, EVERY_STEP))
        assert differing(load_state(folder), load_state(uninterrupted)) == []
        for split in ('train', 'eval'):
            assert figures(folder, split) == figures(uninterrupted, split)


@pytest.mark.slow
def test_killed_and_stopped_while_streaming(tmp_path, uninterrupted, here):
    """kill -9, SIGTERM and SIGINT in turn; each stop saves its step and says how to go on."""
    folder = tmp_path / 'run'
    process = train(folder, SELDOM)
    wait_for_step(process, folder, 4)
    time.sleep(random.uniform(0, 0.1))
    stop(process, signal.SIGKILL, -signal.SIGKILL)
    reached = max(checkpoint_steps(folder))
    assert reached % 4 == 0
    for how, code, target in ((signal.SIGTERM, 143, 12), (signal.SIGINT, 130, 20)):
        process = train(folder, SELDOM)
        wait_for_step(process, folder, target)
        err = stop(process, how, code)
        assert continued_after(err) == reached
        assert 'Traceback' not in err
        said = re.search(r'stopped by (\w+); step (\d+) of 30 is saved; (.*)', err)
        assert said.group(1) == how.name
        assert 'run the same command again to continue' in said.group(3)
        reached = int(said.group(2))
        assert max(checkpoint_steps(folder)) == reached
    # How a run is watched and kept, and where its data lies, may change.
    free = {**SELDOM, 'checkpoint.every': 25, 'checkpoint.keep': 3, 'train.log_every': 30,
            'data.dir': '/nowhere'}  # fmt: skip
    assert continued_after(finished(here(folder, free))) == reached
    assert differing(load_state(folder), load_state(uninterrupted)) == []
    assert figures(folder, 'eval') == figures(uninterrupted, 'eval')
    steps = [line['step'] for line in figures(folder, 'train')]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_full_disk_on_the_way(tmp_path, uninterrupted, here):
    """No file may grow: the run fails with one line, and goes on from there with room again."""
    folder = tmp_path / 'run'
    process = train(folder, EVERY_STEP)
    wait_for_step(process, folder, 5)
    _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (200, most))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert 'Traceback' not in err, err
    message = err.splitlines()[-1]
    assert message.startswith('resnet-jax: ')
    kept = int(re.search(r'(?:complete one|good checkpoint) is of step (\d+)', message).group(1))
    assert 'run the same command again to continue from there' in message
    assert kept == max(checkpoint_steps(folder)) >= 5
    assert continued_after(finished(here(folder, EVERY_STEP))) == kept
    assert differing(load_state(folder), load_state(uninterrupted)) == []
    assert figures(folder, 'eval') == figures(uninterrupted, 'eval')


def test_run_that_has_ended_is_left_alone(uninterrupted, here):
    before = snapshot(uninterrupted)
    result = here(uninterrupted, EVERY_STEP)
    finished(result)
    assert result.stdout.startswith('30 steps')
    assert snapshot(uninterrupted) == before


def test_other_config_is_refused_and_nothing_changes(uninterrupted, here):
    before = snapshot(uninterrupted)
    other = {**EVERY_STEP, 'optim.learning_rate': 0.1, 'seed': 3}
    result = here(uninterrupted, other)
    complains(result, 2, 'optim.learning_rate: 0.2 -> 0.1', 'seed: 0 -> 3', str(uninterrupted))
    assert result.stdout == ''
    assert snapshot(uninterrupted) == before


@pytest.mark.slow
def test_stopped_before_the_first_checkpoint(tmp_path, here):
    """A second process is refused meanwhile; SIGTERM finishes a step and saves it."""
    folder = tmp_path / 'run'
    fields = {**TINY, 'train.steps': 1_000_000, 'checkpoint.every': 1_000_000,
              'train.eval_every': 0, 'train.log_every': 1_000_000}  # fmt: skip
    process = train(folder, fields)
    deadline = time.monotonic() + 60
    while not (folder / 'config.json').exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    complains(here(folder, fields), 2, 'another process is training in workdir', str(folder))
    err = stop(process, signal.SIGTERM, 143)
    (saved,) = checkpoint_steps(folder)
    assert f'step {saved} of 1000000 is saved' in err
    assert os.listdir(folder / 'checkpoints') == [str(saved)]
    assert int(load_state(folder).step) == saved
