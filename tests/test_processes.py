"""Several processes train one model: 2 real ones with 2 devices each, over loopback."""

import json
import shutil
import signal
import time

import pytest
from placement_runs import FIELDS
from placements import assert_same
from running import (
    checkpoint_steps,
    command,
    complains,
    flags,
    free_port,
    load_state,
    start,
    tiny,
)

from resnet_jax.training import loop, processes

TWO_DEVICES = '--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0'
# 360 examples are evaluated by 100: the last batch is short and the devices' shares are ragged.
SHORT = {
    **FIELDS,
    'train.steps': '8',
    'checkpoint.every': '4',
    'train.eval_every': '4',
    'train.eval_batch_size': '100',
}
LONG = {**FIELDS, 'train.steps': '100_000', 'train.eval_every': '0', 'checkpoint.every': '4'}


def start_two(folder, fields, others=None):
    """Both processes just begun; `others` are fields of the second."""
    place = f'127.0.0.1:{free_port()}'
    return [
        start(
            'train',
            *flags({**fields, **more}),
            *('--workdir', folder, '--coordinator', place),
            *('--processes', 2, '--process-id', number),
            env={'XLA_FLAGS': TWO_DEVICES},
        )
        for number, more in enumerate(({}, others or {}))
    ]


def ends(started, timeout=120):
    """(exit code, standard output, standard error) of each."""
    texts = [process.communicate(timeout=timeout) for process in started]
    return [(p.returncode, *text) for p, text in zip(started, texts, strict=True)]


def wait_for_checkpoint(folder, started):
    until = time.monotonic() + 120
    while not (folder / 'checkpoints').is_dir() or not checkpoint_steps(folder):
        assert all(process.poll() is None for process in started), ends(started)
        assert time.monotonic() < until
        time.sleep(0.1)


def figures(folder):
    """(step, split, figures but for the speed) of each line."""
    lines = map(json.loads, (folder / 'metrics.jsonl').read_text().splitlines())
    return [
        (line.pop('step'), line.pop('split'), {k: v for k, v in line.items() if 'second' not in k})
        for line in lines
    ]


@pytest.mark.slow
def test_processes_continue_what_one_began_and_the_reverse(tmp_path):
    one, two = tmp_path / 'one', tmp_path / 'two'
    loop.train(tiny(SHORT), one)
    (code, out, err), (code_2, out_2, err_2) = ends(start_two(two, SHORT))
    assert code == code_2 == 0, err + err_2
    assert '2 processes, 4 x cpu' in err
    assert 'images evaluated' in out and 'images evaluated' not in out_2 and 'loss' not in err_2
    expected = load_state(one)
    assert_same(load_state(two), expected)
    # The first process alone wrote, and every example was evaluated once.
    written = figures(two)
    assert [line[:2] for line in written] == [line[:2] for line in figures(one)]
    for (*_, ours), (*_, other) in zip(written, figures(one), strict=True):
        assert ours == pytest.approx(other, rel=1e-4, abs=1e-6)
    assert written[-1][2]['n'] == 360
    # Each goes on from the other's checkpoint of step 4.
    for folder in (one, two):
        shutil.rmtree(folder / 'checkpoints' / '8')
        (folder / 'summary.json').unlink()
    (_, _, err), _ = ends(start_two(one, SHORT))
    assert 'continues after step 4' in err
    loop.train(tiny(SHORT), two)
    for folder in (one, two):
        assert checkpoint_steps(folder) == [4, 8]
        assert_same(load_state(folder), expected)


@pytest.mark.slow
def test_a_signal_to_one_stops_all(tmp_path):
    folder = tmp_path / 'run'
    started = start_two(folder, LONG)
    wait_for_checkpoint(folder, started)
    started[1].send_signal(signal.SIGTERM)
    ended = ends(started)
    lines = [err.splitlines()[-1] for _, _, err in ended]
    assert [code for code, *_ in ended] == [128 + signal.SIGTERM] * 2
    assert lines[0] == lines[1]
    step = checkpoint_steps(folder)[-1]
    assert f'stopped by SIGTERM; step {step} of 100000 is saved' in lines[0]
    assert int(load_state(folder).step) == step


def killed(folder, number):
    """The other's complaint after one is killed, and the seconds that it went on."""
    started = start_two(folder, LONG)
    wait_for_checkpoint(folder, started)
    started[number].kill()
    since = time.monotonic()
    code, _, err = ends(started, timeout=4 * processes.HEARTBEAT)[1 - number]
    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith('resnet-jax: ') and 'another process of the run ended' in last
    assert 'start all processes again with the same command' in last
    step = checkpoint_steps(folder)[-1]
    assert f'checkpoint is of step {step};' in last
    assert int(load_state(folder).step) == step  # it can be read
    return time.monotonic() - since


@pytest.mark.slow
def test_without_the_first_process_the_other_ends(tmp_path):
    assert killed(tmp_path / 'run', 0) < processes.HEARTBEAT


@pytest.mark.slow
def test_without_the_second_process_the_first_ends(tmp_path):
    assert killed(tmp_path / 'run', 1) < 3 * processes.HEARTBEAT


@pytest.mark.slow
def test_different_configs_are_refused_by_all(tmp_path):
    folder = tmp_path / 'run'
    ended = ends(start_two(folder, SHORT, {'optim.momentum': '0.5'}))
    assert [code for code, *_ in ended] == [2, 2]
    for *_, err in ended:
        assert 'were started with different configs' in err.splitlines()[-1]
    assert not folder.exists()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--distributed'], 'give --coordinator HOST:PORT'),
        pytest.param(
            ['--coordinator', 'here', '--processes', 2, '--process-id', 0],
            'is HOST:PORT',
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ['--coordinator', 'here:80', '--processes', 2, '--process-id', 2],
            'in 0 to 1, got 2',
            marks=pytest.mark.slow,
        ),
    ],
)
def test_bad_places(options, message, tmp_path):
    result = command('train', *flags(), '--workdir', tmp_path / 'run', *options)
    complains(result, 2, message)
    assert not (tmp_path / 'run').exists()
