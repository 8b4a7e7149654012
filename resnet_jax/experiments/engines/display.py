"""What a sweep shows while it goes: all its runs on one display."""

import collections
import time
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from resnet_jax.records.writers import Console


class RunsConsole(Console):
    """Of several runs: how far each is and how it ends, nothing else."""

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


class SweepConsole(RunsConsole):
    """One bar over all runs on a terminal, else a line for each that ends, on standard error."""

    def __init__(self, runs: int, ended: int) -> None:
        super().__init__(ended, runs)
        self._bar.unit = 'run'
        self._runs, self._ended, self._now = runs, ended, 0
        self._began = time.monotonic()
        self._under_way: dict[Hashable, float] = collections.defaultdict(float)

    def advance(self, steps: int, total: int, runs: int = 1) -> None:
        """A run's part of the bar."""
        self.moved(runs * steps / total)

    def moved(self, runs: float, process: Hashable = None) -> None:
        """So many runs more, or a part of one, were trained in one of several processes."""
        self._under_way[process] += runs
        self._bar.update(self._done() - self._bar.n)

    def ended(self, folder: Path, result: str, process: Hashable = None) -> None:
        """One run more has ended, well or not."""
        self._ended, self._now = self._ended + 1, self._now + 1
        self._under_way[process] = max(0.0, self._under_way[process] - 1)
        left = (time.monotonic() - self._began) / self._now * (self._runs - self._ended)
        self._bar.n = self._done()
        arm, seed = folder.parts[-2:]
        left_text = tqdm.format_interval(left)
        # Not this class's, which keeps silent.
        Console.say(self, f'[{self._ended}/{self._runs}] {arm} {seed}: {result}; {left_text} left')

    def idle(self, process: Hashable) -> None:
        """A process trains nothing more: what it did in part counts no longer."""
        self._under_way.pop(process, None)

    def _done(self) -> float:
        return round(min(self._ended + sum(self._under_way.values()), self._runs), 2)
