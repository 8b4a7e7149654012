"""The progress display of a sweep: all its runs together."""

import collections
import time
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from resnet_jax.records.writers import Console


class RunsConsole(Console):
    """A console shared by several runs: shows how each ends, and none of the figures on the way."""

    def figures(
        self, step: int, figures: Mapping[str, float], images_left: int, name: str = ''
    ) -> None:
        """Shows nothing: the figures are in the run's folder."""

    def say(self, line: str) -> None:
        """Shows nothing."""

    def finished(self, folder: Path, summary: Mapping[str, Any]) -> None:
        """Shows how a run ended."""
        error = 100 * (1 - summary['eval']['top1'])
        self.ended(folder, f'{error:.2f} % error, {summary["seconds"]:.0f} s')

    def ended(self, folder: Path, result: str) -> None:
        """Counts a run that has ended or failed."""


class SweepConsole(RunsConsole):
    """One bar for all runs on a terminal, otherwise a line for each that ends, on stderr."""

    def __init__(self, runs: int, ended: int) -> None:
        super().__init__(ended, runs)
        self._bar.unit = 'run'
        self._runs, self._ended, self._now = runs, ended, 0
        self._began = time.monotonic()
        self._under_way: dict[Hashable, float] = collections.defaultdict(float)

    def advance(self, steps: int, total: int, runs: int = 1) -> None:
        """Advances the bar by part of a run."""
        self.moved(runs * steps / total)

    def moved(self, runs: float, process: Hashable = None) -> None:
        """Advances the bar by runs, or part of one, that one of several processes has trained."""
        self._under_way[process] += runs
        self._bar.update(self._done() - self._bar.n)

    def ended(self, folder: Path, result: str, process: Hashable = None) -> None:
        """Counts a run that has ended or failed, and prints a line for it."""
        self._ended, self._now = self._ended + 1, self._now + 1
        self._under_way[process] = max(0.0, self._under_way[process] - 1)
        left = (time.monotonic() - self._began) / self._now * (self._runs - self._ended)
        self._bar.n = self._done()
        arm, seed = folder.parts[-2:]
        left_text = tqdm.format_interval(left)
        # Not this class's own `say`, which shows nothing.
        Console.say(self, f'[{self._ended}/{self._runs}] {arm} {seed}: {result}; {left_text} left')

    def idle(self, process: Hashable) -> None:
        """Forgets the partly trained runs of a process that has stopped training."""
        self._under_way.pop(process, None)

    def _done(self) -> float:
        return round(min(self._ended + sum(self._under_way.values()), self._runs), 2)
