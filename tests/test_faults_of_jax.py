"""What JAX raises where there is no memory or no device is one line too."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from resnet_jax.cli import main
from resnet_jax.commands import models
from resnet_jax.errors import InputError, RunError, fault_of_jax
from resnet_jax.training import loop
from resnet_jax.training.config import load_config


def too_much(*_, **__):
    """Asks for a petabyte."""
    return jax.block_until_ready(jnp.zeros(1 << 48, jnp.float32))


def test_a_command_without_memory_fails_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(models, 'run', too_much)
    assert main(['models']) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert 'out of memory: RESOURCE_EXHAUSTED' in line and 'take a smaller batch' in line


def test_a_run_without_memory_says_what_is_kept(tmp_path, monkeypatch):
    config = load_config('digits', [('train.steps', '4')])
    monkeypatch.setattr(loop, '_take_steps', too_much)
    with pytest.raises(RunError, match=r'out of memory.*nothing was saved yet'):
        loop.train(config, tmp_path / 'run')


@pytest.mark.parametrize('platform', ['cuda', 'nonsense'])
def test_a_device_that_is_not_there(platform, tmp_path):
    if platform == 'cuda' and any(device.platform == 'gpu' for device in jax.devices()):
        pytest.skip('there is a GPU')
    workdir = tmp_path / 'run'
    done = subprocess.run(
        [sys.executable, '-m', 'resnet_jax', 'train', '--config=digits', f'--workdir={workdir}'],
        env=os.environ | {'JAX_PLATFORMS': platform},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and not workdir.exists()
    line = done.stderr.splitlines()[-1]
    assert line.startswith('resnet-jax: JAX finds no device') and 'JAX_PLATFORMS' in line
    assert 'Traceback' not in done.stderr


def test_other_errors_are_not_theirs():
    assert fault_of_jax(ValueError('RESOURCE_EXHAUSTED of another service')) is None
    try:
        raise AssertionError
    except AssertionError as error:
        assert fault_of_jax(error) is None
    assert isinstance(fault_of_jax(RuntimeError('Unable to initialize backend x')), InputError)
