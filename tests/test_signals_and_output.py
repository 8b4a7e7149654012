"""How commands end that are stopped, cannot write, or are pointed at what is no folder."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from running import checkpoint_steps, complains, flags, start

from resnet_jax import create_model
from resnet_jax.cli import main
from resnet_jax.errors import InputError
from resnet_jax.interop.weights import tensors_from_variables, variables_from_tensors
from resnet_jax.training import processes

STOPS = ('SIGTERM', 'SIGINT', 'SIGUSR1', 'SIGUSR2', 'SIGHUP')


@pytest.mark.parametrize('name', STOPS)
def test_a_signal_asks_a_run_to_stop(name):
    signum = getattr(signal, name)
    before = signal.getsignal(signum)
    with processes.stop_signals() as stop_requested:
        assert stop_requested(1) is None
        os.kill(os.getpid(), signum)
        deadline = time.monotonic() + 10
        while stop_requested(2) is None and time.monotonic() < deadline:
            time.sleep(0.001)
        assert stop_requested(3) == signum
    assert signal.getsignal(signum) == before


def test_a_signal_that_was_ignored_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with processes.stop_signals() as stop_requested:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop_requested(1) is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['SIGUSR1', 'SIGHUP'])
def test_a_stopped_run_is_saved_and_continued(name, tmp_path):
    folder, signum = tmp_path / 'run', getattr(signal, name)
    arguments = ['train', *flags({'train.steps': 100_000}), '--workdir', str(folder)]
    process = start(*arguments)
    deadline = time.monotonic() + 120
    while not ((folder / 'checkpoints').is_dir() and checkpoint_steps(folder)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert f'stopped by {name}' in err and 'run the same command again to continue' in err


@pytest.mark.parametrize('address', ['gs://bucket/run', 's3://bucket/run', 'https://host/run'])
@pytest.mark.parametrize('command', ['train', 'eval', 'report', 'sweep'])
def test_an_address_is_no_workdir(address, command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {'train': ['--config=digits'], 'sweep': ['--config=sweeps/norms']}.get(command, [])
    assert main([command, *config, '--workdir', address]) == 2
    err = capsys.readouterr().err
    assert '--workdir takes a path of a file system' in err and len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('redirection', ['>/dev/full', '>&-'])
def test_output_that_cannot_be_written(redirection):
    """One line, or nothing where nobody listens; never a traceback."""
    done = subprocess.run(
        f'{sys.executable} -m resnet_jax models "cifar_resnet2*" --json {redirection}',
        shell=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert 'Traceback' not in done.stderr and 'Exception' not in done.stderr
    if redirection == '>/dev/full':
        complains(done, 1, 'No space left on device')


@pytest.fixture(scope='module')
def tensors():
    import jax

    model = create_model('cifar_resnet8', 3)
    variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), train=False)
    return model, tensors_from_variables(jax.device_get(variables), model, 'cifar')


@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        (lambda x: np.full_like(x, np.nan), 'not finite'),
        (lambda x: np.where(np.arange(x.size).reshape(x.shape) == 0, np.inf, x), 'not finite'),
        (lambda x: x.astype(np.int64), 'int64'),
        (lambda x: x.astype(np.complex64), 'complex64'),
        (lambda x: x > 0, 'bool'),
    ],
)
def test_weights_that_are_no_finite_numbers_are_named(tensors, spoil, words):
    model, good = tensors
    for name in list(good)[:: max(len(good) // 6, 1)]:
        with pytest.raises(InputError) as caught:
            variables_from_tensors({**good, name: spoil(good[name])}, model, where='net.pth')
        assert name in str(caught.value) and words in str(caught.value)
        assert str(caught.value).startswith('net.pth: ')
    variables_from_tensors(good, model)
