"""summary.json: what became of a run, and with what."""

import dataclasses
import importlib.metadata
import json
import statistics
import subprocess
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from resnet_jax.models.counting import count_parameters
from resnet_jax.records.writers import read_metrics, write_atomically
from resnet_jax.training.memory import device_peak_bytes
from resnet_jax.training.step import TrainState

PACKAGES = ('resnet-jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


@dataclasses.dataclass(frozen=True)
class Start:
    """What the first step of a process showed; None where no step was taken or nothing says.

    Attributes:
      first_step_seconds: until it was done, with what came before it, such as compiling.
      step_bytes: `memory.compiled_bytes` of it.
    """

    first_step_seconds: float | None = None
    step_bytes: int | None = None


def write_summary(
    workdir: Path,
    config: ConfigDict,
    state: TrainState,
    seconds: float,
    start: Start,
    together: int = 1,
) -> dict[str, Any]:
    """Writes summary.json from the run's metrics.

    Args:
      workdir: of the run.
      config: of the run.
      state: the final one, or its shapes.
      seconds: trained in all, over all continuations.
      start: of this process.
      together: how many runs shared each step; the speed is that of one of them.

    Returns:
      What it wrote. `images_per_second` is the median over the logged stretches, so that
      compilation does not count; evaluation and saving are left out of each.
    """
    lines = list(read_metrics(workdir))
    train = [line for line in lines if line['split'] == 'train']
    final = [line for line in lines if line['split'] == 'eval'][-1]
    speeds = [line['images_per_second'] for line in train if 'images_per_second' in line]
    summary = {
        'model': config.model.name,
        'data': config.data.name,
        'seed': config.seed,
        'parameters': count_parameters(state.params),
        'steps': final['step'],
        'seconds': round(seconds, 3),
        'first_step_seconds': start.first_step_seconds and round(start.first_step_seconds, 3),
        'trained_together': together,
        'images_per_second': statistics.median(speeds) if speeds else None,
        'train': _figures(train[-1]),
        'eval': _figures(final),
        'memory': {'step_bytes': start.step_bytes, 'device_peak_bytes': device_peak_bytes()},
        'device': jax.devices()[0].device_kind,
        'versions': {name: importlib.metadata.version(name) for name in PACKAGES},
        'git_commit': git_commit(),
    }
    write_atomically(workdir / 'summary.json', json.dumps(summary, indent=2) + '\n')
    return summary


def read_summary(workdir: Path) -> dict[str, Any] | None:
    """What `write_summary` wrote, or None if the run has not ended."""
    path = workdir / 'summary.json'
    return json.loads(path.read_text()) if path.is_file() else None


def _figures(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in ('step', 'split')}


def git_commit() -> str | None:
    """The commit of the code's checkout, with '+' if it has changes; None outside a checkout."""

    def git(*args: str) -> str:
        return subprocess.run(
            ['git', '-C', str(Path(__file__).parent), *args],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        return git('rev-parse', 'HEAD') + ('+' if git('status', '--porcelain', '-uno') else '')
    except (OSError, subprocess.CalledProcessError):
        return None
