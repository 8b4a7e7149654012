"""A run on another machine, or on this one: what a Ray worker does.

Where it sees the sweep's workdir it trains there. Elsewhere it trains in a folder of its own, and
the run's folder travels back.
"""

import contextlib
import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError, Interrupted
from resnet_jax.experiments.engines import archives
from resnet_jax.experiments.engines.display import RunsConsole
from resnet_jax.experiments.engines.engine import train_runs
from resnet_jax.experiments.sweep import Unit
from resnet_jax.training import compilation
from resnet_jax.training.checkpoint import saved_steps
from resnet_jax.training.config import from_json


@dataclasses.dataclass(frozen=True)
class Task:
    """A run, with all that a worker must know of it.

    Attributes:
      unit: the run, as the one who asks sees it.
      config: as JSON.
      token: a file that is there for those who see the same files.
      key: the same for all tries of this run, and of no other.
      current: folder that relative paths in the config start from.
      saved: Ray's reference to what there is of the run, packed; None if nothing is.
      step: of the last checkpoint in `saved`.
    """

    unit: Unit
    config: str
    token: Path
    key: str
    current: str
    saved: Any
    step: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of it.

    Attributes:
      kind: 'ended', 'failed', 'stopped' (it has saved, and is to be continued), or 'input'.
      text: how it ended, or the InputError's message.
      folder: its folder, packed, if the one who asks does not see it.
    """

    kind: str
    text: str
    folder: bytes | None


class _Result(RunsConsole):
    """Keeps how the run ended."""

    def __init__(self) -> None:
        super().__init__(0, 1, quiet=True)
        self.text = ''

    def ended(self, folder: Path, result: str) -> None:
        self.text = result


def train(task: Task) -> Outcome:
    """Trains a run, or continues it, from what is there or from what came with it."""
    if os.path.isdir(task.current):
        os.chdir(task.current)
    compilation.keep_compiled()
    if task.token.is_file():
        return Outcome(*_train(task, task.unit), None)
    # Not in a temporary folder: after a crash of the machine it is continued.
    folder = compilation.cache_folder().parents[1] / 'runs' / task.key
    if task.saved is not None and saved_steps(folder)[-1:] < [task.step]:
        import ray

        archives.unpack(ray.get(task.saved), folder)
    kind, text = _train(task, dataclasses.replace(task.unit, folder=folder))
    if kind == 'input':  # perhaps because another process is training there
        return Outcome(kind, text, None)
    packed = archives.pack(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome(kind, text, packed)


def _train(task: Task, unit: Unit) -> tuple[str, str]:
    result = _Result()
    with contextlib.closing(result):
        try:
            failed = train_runs(from_json(task.config), [unit], result)
        except InputError as error:
            return 'input', str(error)
        except Interrupted as stop:
            return 'stopped', str(stop)
    return 'failed' if failed else 'ended', result.text
