"""The engine for one machine: in this process, or in several, one for each device.

The processes take what is left, a few runs of one arm at a time. One that dies is replaced; what it
trained is continued, from its checkpoint, by whoever is next. None outlives this process.
"""

import collections
import contextlib
import dataclasses
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from resnet_jax.experiments.engines.display import SweepConsole
from resnet_jax.experiments.engines.engine import check_all_ended, in_this_process, stop_signals
from resnet_jax.experiments.engines.gpus import visible_gpus
from resnet_jax.experiments.results import write_failure
from resnet_jax.experiments.sweep import Sweep, Unit
from resnet_jax.training.config import to_json
from resnet_jax.training.summary import read_summary

LOGS = 'logs'  # in the sweep's workdir: what the processes print
_PATIENCE = 0.2  # seconds between looks at signals and at processes that died
_FRACTION = 'XLA_PYTHON_CLIENT_MEM_FRACTION'
_GPU_MEMORY = 0.9  # of a GPU that several processes share


def run_local(
    sweep: Sweep,
    workdir: Path,
    todo: Sequence[Unit],
    display: SweepConsole,
    workers: int | None = None,
    retries: int = 2,
) -> list[Unit]:
    """An `engine.Engine`.

    Args:
      sweep: the sweep.
      workdir: of the sweep.
      todo: the runs.
      display: where they are shown.
      workers: how many processes; None: one for each of several NVIDIA GPUs, where a run needs no
        more than one. 1 is this process.
      retries: how often a run begins again whose process died.

    Returns:
      The runs that failed.

    Raises:
      InputError: for data that cannot be read.
      Interrupted: after SIGTERM or SIGINT; what runs is saved.
    """
    gpus = visible_gpus()
    if workers is None:
        workers = 1 if _needs_several(sweep, todo) else len(gpus)
    workers = min(workers, len(todo))
    if workers <= 1:
        return in_this_process(sweep, workdir, todo, display)
    environments = [_environment(gpus, workers, number) for number in range(workers)]
    return _in_processes(sweep, workdir, todo, display, environments, retries)


def _needs_several(sweep: Sweep, todo: Sequence[Unit]) -> bool:
    """Whether some run says how it is divided among devices."""
    parallel = [sweep.config(arm, 0).parallel for arm in {unit.arm for unit in todo}]
    return any(p.devices not in (None, 1) or p.batch_norm == 'per_replica' for p in parallel)


def _environment(gpus: Sequence[str], workers: int, number: int) -> dict[str, str]:
    """What a process is told of its device, if it is a GPU."""
    if not gpus:
        return {}
    told = {'CUDA_VISIBLE_DEVICES': gpus[number % len(gpus)]}
    sharing = math.ceil(workers / len(gpus))
    if sharing > 1 and _FRACTION not in os.environ:
        told[_FRACTION] = f'{_GPU_MEMORY / sharing:.3f}'
    return told


@dataclasses.dataclass
class _Worker:
    """A process, and the runs that it has to train."""

    number: int
    process: subprocess.Popen[bytes]
    connection: Connection
    log: Path
    units: list[Unit]

    def undone(self) -> list[Unit]:
        """Those that have not ended."""
        return [unit for unit in self.units if read_summary(unit.folder) is None]


def _in_processes(
    sweep: Sweep,
    workdir: Path,
    todo: Sequence[Unit],
    display: SweepConsole,
    environments: Sequence[Mapping[str, str]],
    retries: int,
) -> list[Unit]:
    left, deaths = collections.deque(todo), collections.Counter[Unit]()
    workers: list[_Worker] = []
    failed: list[Unit] = []
    errors: list[str] = []
    with contextlib.ExitStack() as stack:
        stopped = stack.enter_context(stop_signals())
        stack.callback(_end, workers)
        passed_on = False
        while True:
            if not (stopped or errors):
                _hand_out(sweep, workdir, left, deaths, workers, environments)
            elif not passed_on:
                passed_on = True
                for worker in workers:
                    worker.process.send_signal((stopped or [signal.SIGTERM])[0])
            busy = [worker for worker in workers if worker.units]
            if not busy:
                break
            for worker, message in _messages(busy):
                match message:
                    case ('moved', runs):
                        display.moved(runs, worker.number)
                        continue
                    case ('ended', folder, result):
                        display.ended(folder, result, worker.number)
                        continue
                    case ('done', bad):
                        failed += bad
                    case ('input', text):
                        errors.append(text)
                        left.extend(worker.undone())
                    case None if not passed_on:
                        failed += _bury(worker, left, deaths, retries, display)
                    case _:  # it was told to stop
                        left.extend(worker.undone())
                display.idle(worker.number)
                worker.units = []
    check_all_ended(errors, stopped, len(left))
    return failed


def _hand_out(
    sweep: Sweep,
    workdir: Path,
    left: collections.deque[Unit],
    deaths: Mapping[Unit, int],
    workers: list[_Worker],
    environments: Sequence[Mapping[str, str]],
) -> None:
    """Gives runs to those who have none, starting them where they are not there."""
    workers[:] = [worker for worker in workers if worker.units or worker.process.poll() is None]
    for number, environment in enumerate(environments):
        mine = [worker for worker in workers if worker.number == number]
        if not left or (mine and mine[0].units):
            continue
        if not mine:
            workers += (mine := [_start(number, workdir, environment)])
        # Fewer and fewer, so that all end at about the same time.
        mine[0].units = _take(left, math.ceil(len(left) / len(environments)), deaths)
        config = sweep.config(mine[0].units[0].arm, mine[0].units[0].seed)
        with contextlib.suppress(OSError):  # it has died: the next look finds that
            mine[0].connection.send((to_json(config), mine[0].units))


def _take(left: collections.deque[Unit], most: int, deaths: Mapping[Unit, int]) -> list[Unit]:
    """The next runs of one arm; alone if its process died, lest it takes others with it again."""
    taken = [left.popleft()]
    while (
        left and len(taken) < most and left[0].arm == taken[0].arm and not deaths.get(taken[0], 0)
    ):
        taken.append(left.popleft())
    return taken


def _start(number: int, workdir: Path, environment: Mapping[str, str]) -> _Worker:
    ours, theirs = Pipe()
    log = workdir / LOGS / f'{socket.gethostname()}-{os.getpid()}-{number + 1}.log'
    log.parent.mkdir(exist_ok=True)
    with log.open('a') as printed:
        process = subprocess.Popen(
            [sys.executable, '-m', 'resnet_jax.experiments.engines.worker', str(theirs.fileno())],
            env={**os.environ, **environment},
            pass_fds=(theirs.fileno(),),
            process_group=0,  # else Ctrl-C would reach it twice
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
        )
    theirs.close()
    return _Worker(number, process, ours, log, [])


def _messages(workers: Sequence[_Worker]) -> Iterator[tuple[_Worker, Any]]:
    """What they say; None of one that has died, after its last words."""
    ready = wait([worker.connection for worker in workers], _PATIENCE)
    for worker in workers:
        dead = worker.process.poll() is not None
        if not dead and worker.connection not in ready:
            continue
        try:
            while worker.connection.poll():
                yield worker, worker.connection.recv()
        except (EOFError, OSError):
            dead = True
        if dead and worker.units:
            yield worker, None


def _bury(
    worker: _Worker,
    left: collections.deque[Unit],
    deaths: collections.Counter[Unit],
    retries: int,
    display: SweepConsole,
) -> list[Unit]:
    """Puts back what a dead process trained; gives the runs that nobody tries again."""
    code = worker.process.wait()
    if code < 0:
        reason = f'its process was killed by {signal.Signals(-code).name}'
    else:
        last = worker.log.read_text(errors='replace').strip().splitlines()[-1:]
        reason = f'its process ended with code {code} ({"".join(last)[:200]})'
    undone = worker.undone()
    deaths.update(undone)
    given_up = [unit for unit in undone if deaths[unit] > retries]
    left.extendleft(unit for unit in reversed(undone) if unit not in given_up)
    for unit in given_up:
        text = f'{reason}, {deaths[unit]} times; what it printed is in {worker.log}'
        display.ended(unit.folder, f'failed: {text}', worker.number)
        write_failure(unit.folder, text)
    return given_up


def _end(workers: Sequence[_Worker]) -> None:
    """Ends the processes, at once, and leaves no empty logs."""
    for worker in workers:
        worker.connection.close()
    for worker in workers:
        worker.process.wait()
        if not worker.log.stat().st_size:
            worker.log.unlink()
    for worker in workers[:1]:
        with contextlib.suppress(OSError):  # others are in it
            worker.log.parent.rmdir()
