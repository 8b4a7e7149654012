"""Running a sweep on this machine: what is not done yet, arm by arm, through any interruption."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from resnet_jax.experiments.sweep import Sweep, Unit, units
from resnet_jax.experiments.sweep_json import begin
from resnet_jax.models.errors import RunError
from resnet_jax.training.seeds import train_seeds
from resnet_jax.training.summary import read_summary
from resnet_jax.training.writers import Console, write_atomically

FAILED_FILE = 'failed.json'  # in a run's folder: what ended it


class SweepConsole(Console):
    """One bar over all runs on a terminal, else a line for each that ends, on standard error."""

    def __init__(self, runs: int, ended: int) -> None:
        super().__init__(ended, runs)
        self._bar.unit = 'run'
        self._runs, self._ended, self._now = runs, ended, 0
        self._began = time.monotonic()

    def advance(self, steps: int, total: int, runs: int = 1) -> None:
        """A run's part of the bar."""
        self._bar.update(runs * steps / total)

    def figures(
        self, step: int, figures: Mapping[str, float], images_left: int, name: str = ''
    ) -> None:
        """What a run shows on its way is in its folder."""

    def say(self, line: str) -> None:
        """Likewise."""

    def finished(self, folder: Path, summary: Mapping[str, Any]) -> None:
        """Says how a run ended."""
        error = 100 * (1 - summary['eval']['top1'])
        self.ended(folder, f'{error:.2f} % error, {summary["seconds"]:.0f} s')

    def ended(self, folder: Path, result: str) -> None:
        """One run more has ended, well or not."""
        self._ended, self._now = self._ended + 1, self._now + 1
        left = (time.monotonic() - self._began) / self._now * (self._runs - self._ended)
        self._bar.n = self._ended
        arm, seed = folder.parts[-2:]
        left_text = tqdm.format_interval(left)
        super().say(f'[{self._ended}/{self._runs}] {arm} {seed}: {result}; {left_text} left')


def run_sweep(sweep: Sweep, workdir: Path, shard: tuple[int, int] = (1, 1)) -> list[Unit]:
    """Trains the runs of a sweep that have not ended; one that fails does not stop the others.

    Args:
      sweep: the sweep.
      workdir: of the sweep; made if it does not exist.
      shard: (i, n): only the i-th of n parts of the runs, counted from 1.

    Returns:
      The runs of this part that failed.

    Raises:
      InputError: for a workdir that holds something else, or data that cannot be read.
      Interrupted: after SIGTERM or SIGINT; what runs is saved.
    """
    begin(sweep, workdir)
    mine = units(sweep, workdir)[shard[0] - 1 :: shard[1]]
    todo = [unit for unit in mine if read_summary(unit.folder) is None]
    display = SweepConsole(len(mine), len(mine) - len(todo))
    failed = []
    try:
        for arm in sweep.arms:
            if of_arm := [unit for unit in todo if unit.arm == arm]:
                failed += _train(sweep, of_arm, display)
    finally:
        display.close()
    return failed


def _train(sweep: Sweep, todo: Sequence[Unit], display: SweepConsole) -> list[Unit]:
    """Trains an arm's runs, which share a compiled program; gives those that failed."""
    config = sweep.config(todo[0].arm, todo[0].seed)
    # A CPU gains nothing from several seeds in a program: see docs/devices.md.
    place = 'serial' if jax.default_backend() == 'cpu' and jax.device_count() == 1 else None
    for unit in todo:
        unit.folder.parent.mkdir(parents=True, exist_ok=True)
    results = train_seeds(
        config, [unit.seed for unit in todo], [unit.folder for unit in todo], place, display
    )
    failed = []
    for unit, result in zip(todo, results, strict=True):
        if isinstance(result, RunError):
            failed.append(unit)
            display.ended(unit.folder, f'failed: {result}')
            write_atomically(
                unit.folder / FAILED_FILE, json.dumps({'error': str(result)}, indent=2) + '\n'
            )
        else:
            (unit.folder / FAILED_FILE).unlink(missing_ok=True)
    return failed
