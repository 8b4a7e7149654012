"""What the tests of training share: tiny runs, and the command line as another process."""

import os
import pathlib
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from resnet_jax import data
from resnet_jax.training import build, workdir
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.config import load_config
from resnet_jax.training.inputs import Inputs, open_inputs
from resnet_jax.training.start import run_model
from resnet_jax.training.step import TrainState

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = ROOT / 'configs'
DIGITS = CONFIGS / 'digits.py'

# One block: compiles in a second or two, and learns.
TINY = {
    'model.stage_sizes': '(1,)',
    'model.width': '4',
    'model.stem_width': '4',
    'train.batch_size': '32',
    'train.steps': '12',
    'train.log_every': '4',
    'train.eval_every': '6',
    'checkpoint.every': '4',
}
# The same examples, read step by step instead of from the device.
STREAMED = {'data.memory_mib': '0', 'data.mean': '(0.3,)', 'data.std': '(0.4,)'}


def tiny(fields: Mapping[str, Any] | None = None) -> ConfigDict:
    """The digits config made tiny, with these fields changed."""
    values = {**TINY, **(fields or {})}
    return load_config(str(DIGITS), [(name, str(value)) for name, value in values.items()])


def flags(fields: Mapping[str, Any] | None = None) -> list[str]:
    """The same for the command line."""
    values = {**TINY, **(fields or {})}
    return [f'--config={DIGITS}', *(f'--config.{name}={value}' for name, value in values.items())]


def command(
    *arguments: Any, timeout: float = 300, **options: Any
) -> subprocess.CompletedProcess[str]:
    """`python -m resnet_jax` in another process, to its end, which comes within so many seconds."""
    process = start(*arguments, **options)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start(*arguments: Any, env: Mapping[str, str | None] | None = None) -> subprocess.Popen[str]:
    """`python -m resnet_jax` in another process, just begun; None unsets a variable."""
    variables = {**os.environ, 'JAX_PLATFORMS': 'cpu', **(env or {})}
    return subprocess.Popen(
        [sys.executable, '-m', 'resnet_jax', *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={name: value for name, value in variables.items() if value is not None},
    )


def free_port() -> int:
    """A port of this machine that nobody listens at just now."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


def complains(result: Any, code: int, *words: str) -> str:
    """Asserts that a command failed with this code and one line on standard error; gives it."""
    assert result.returncode == code, result.stderr
    assert 'Traceback' not in result.stderr
    # What a run says of its progress may stand before the complaint.
    lines = result.stderr.splitlines()
    assert lines[-1].startswith('resnet-jax: '), result.stderr
    assert sum(line.startswith('resnet-jax: ') for line in lines) == 1
    for word in words:
        assert word in lines[-1]
    return lines[-1]


def load_state(folder: pathlib.Path, which: str = 'latest') -> TrainState:
    """The state in a checkpoint of a run."""
    config = workdir.read_config(folder)
    preprocessing = workdir.read_preprocessing(folder)
    model = run_model(config, len(preprocessing.class_names))
    checkpoints = Checkpoints(folder, config.checkpoint, read_only=True)
    template = build.state_template(config, model, preprocessing)
    state, _ = checkpoints.restore(template, checkpoints.find(which))
    checkpoints.close()
    return state


def checkpoint_steps(folder: pathlib.Path) -> list[int]:
    """The steps whose folders bear a checkpoint's final name."""
    names = (p.name for p in (folder / 'checkpoints').iterdir())
    return sorted(int(name) for name in names if re.fullmatch(r'\d+', name))


def differing(a: Any, b: Any) -> list[str]:
    """Paths of the leaves of two trees that are not bit for bit the same."""
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree_util.tree_leaves_with_path(b), strict=True
    )
    return [
        jax.tree_util.keystr(path)
        for (path, x), (other, y) in pairs
        if path != other or np.asarray(x).tobytes() != np.asarray(y).tobytes()
    ]


def whole_split(config: ConfigDict) -> tuple[Inputs, dict[str, np.ndarray]]:
    """A config's inputs, and its evaluation split as arrays."""
    inputs = open_inputs(config)
    return inputs, data.load_arrays(inputs.eval, inputs.preprocessing, progress=False)
