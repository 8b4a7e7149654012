"""Running a sweep: trains the runs that have not ended, and shows how far they have come."""

import collections
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from resnet_jax.errors import InputError, Interrupted, RunError, Unreadable
from resnet_jax.experiments.results import forget_failure, write_failure
from resnet_jax.experiments.seeds import Outcome, train_seeds
from resnet_jax.experiments.sweep import Sweep, Unit, begin, units
from resnet_jax.records.writers import Console, signs_of_life
from resnet_jax.text import printable
from resnet_jax.training.optim import rate_note
from resnet_jax.training.processes import handling
from resnet_jax.training.tasks import score_of
from resnet_jax.training.workdir import check_readable, is_ended, is_run


class RunsConsole(Console):
    """A console shared by several runs: shows how each ends, and none of the figures on the way."""

    def figures(
        self,
        step: int,
        shown: str,
        figures: Mapping[str, float],
        images_left: int,
        name: str = '',
    ) -> None:
        """Shows nothing: the figures are in the run's folder."""

    def say(self, line: str) -> None:
        """Shows nothing."""

    def finished(self, folder: Path, summary: Mapping[str, Any]) -> None:
        """Shows how a run ended."""
        error = 100 * (1 - (score_of(summary['eval']) or 0.0))
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

    def signs_of_life(self, doing: str) -> contextlib.AbstractContextManager[None]:
        """Reports progress: a line now and then, or the clock of a bar."""
        if self._bar.disable:
            return signs_of_life(doing, lambda line: Console.say(self, line))
        return signs_of_life(doing, self._tick, 1.0, growth=1.0)

    def _tick(self, line: str) -> None:
        self._bar.refresh()

    def idle(self, process: Hashable) -> None:
        """Forgets the partly trained runs of a process that has stopped training."""
        self._under_way.pop(process, None)

    def _done(self) -> float:
        return round(min(self._ended + sum(self._under_way.values()), self._runs), 2)


# A process's share of a GPU's memory; JAX reads the variable when it starts.
MEMORY_FRACTION = 'XLA_PYTHON_CLIENT_MEM_FRACTION'
GPU_MEMORY = 0.9  # fraction of a GPU's memory for the processes that share it
# Trains runs of a sweep and shows their progress:
# (sweep, its workdir, runs that have not ended, display) -> runs that failed.
Engine = Callable[[Sweep, Path, Sequence[Unit], SweepConsole], list[Unit]]


def in_this_process(
    sweep: Sweep, workdir: Path, todo: Sequence[Unit], display: SweepConsole
) -> list[Unit]:
    """The engine that trains one arm after another in this process, on all its devices."""
    failed = []
    for arm in sweep.arms:
        if of_arm := [unit for unit in todo if unit.arm == arm]:
            failed += train_runs(sweep.config(arm, of_arm[0].seed), of_arm, display)
    return failed


def run_sweep(
    sweep: Sweep,
    workdir: Path,
    shard: tuple[int, int] = (1, 1),
    engine: Engine = in_this_process,
    arms: Collection[str] | None = None,
) -> list[Unit]:
    """Trains the runs of a sweep that have not ended; one that fails does not stop the others.

    Args:
      sweep: the sweep.
      workdir: the sweep's workdir; created if it does not exist.
      shard: (i, n): only the i-th of n parts of the runs, counted from 1.
      engine: trains the runs.
      arms: whose runs are trained now; None: all.

    Returns:
      The runs of this part that failed.

    Raises:
      InputError: for a workdir that holds something else, or data that cannot be read.
      Interrupted: after SIGTERM or SIGINT; the runs under way have been saved.
    """
    begin(sweep, workdir)
    wanted = [unit for unit in units(sweep, workdir) if arms is None or unit.arm in arms]
    mine = wanted[shard[0] - 1 :: shard[1]]
    todo = [unit for unit in mine if not is_ended(unit.folder)]
    if not todo:
        return []
    display = SweepConsole(len(mine), len(mine) - len(todo))
    for note in _rate_notes(sweep, todo):
        Console.say(display, note)
    try:
        with display.signs_of_life(f'training {len(todo)} runs'):
            return engine(sweep, workdir, todo, display)
    finally:
        display.close()


def _rate_notes(sweep: Sweep, todo: Sequence[Unit]) -> Iterator[str]:
    """Notes about learning rates, one for all arms that it applies to."""
    arms: dict[str, list[str]] = {}
    for name in dict.fromkeys(unit.arm for unit in todo):
        config = sweep.config(name, sweep.seeds[0])
        if note := rate_note(config.optim, config.train.batch_size):
            arms.setdefault(note, []).append(name)
    for note, names in arms.items():
        yield f'{note} ({printable("; ".join(names))})'


def train_runs(config: ConfigDict, todo: Sequence[Unit], display: RunsConsole) -> list[Unit]:
    """Trains runs of one arm, which share a compiled program, in this process.

    Args:
      config: the config of any of them; its seed is not used.
      todo: the runs.
      display: shows their progress.

    Returns:
      The runs that failed; failed.json in their folders gives the reason.
    """
    # A CPU gains nothing from several seeds in a program: see docs/devices.md.
    place = 'serial' if jax.default_backend() == 'cpu' and jax.device_count() == 1 else None
    results: dict[Unit, Outcome] = {}
    for unit in todo:
        unit.folder.parent.mkdir(parents=True, exist_ok=True)
        if not is_run(unit.folder):  # its process died before it began
            forget_failure(unit.folder)
        try:
            check_readable(unit.folder)
        except Unreadable as error:
            results[unit] = error
    if sound := [unit for unit in todo if unit not in results]:
        folders = [unit.folder for unit in sound]
        trained = train_seeds(config, [unit.seed for unit in sound], folders, place, display)
        results |= dict(zip(sound, trained, strict=True))
    failed = []
    for unit, result in results.items():
        if isinstance(result, RunError | Unreadable):
            failed.append(unit)
            display.ended(unit.folder, f'failed: {result}')
            write_failure(unit.folder, result)
        else:
            forget_failure(unit.folder)
    return failed


@contextlib.contextmanager
def received_signals() -> Iterator[list[int]]:
    """Collects the signals that stop a run, for engines that train in other processes.

    A second SIGINT raises KeyboardInterrupt. Unlike `processes.stop_signals` this does not start
    JAX, which would reserve the devices.

    Yields:
      The signals received so far.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread can set handlers
        return

    def handler(signum: int, frame: Any) -> None:
        if received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signum)

    with handling(handler):
        yield received


def check_all_ended(errors: Sequence[str], stopped: Sequence[int], left: int) -> None:
    """Raises if an engine that trains in other processes has left runs unfinished.

    Args:
      errors: messages about data or configs that could not be read.
      stopped: the signals received.
      left: number of runs that have not ended.

    Raises:
      InputError: with the first of the errors.
      Interrupted: if runs are left.
    """
    if errors:
        raise InputError(errors[0])
    if left:
        raise Interrupted(
            stopped[0],
            f'stopped by {signal.Signals(stopped[0]).name}; {left} runs are left, and those '
            'under way are saved; run the same command again to continue',
        )
