"""The engine for one machine: in this process, or in several, one for each device.

The processes take the remaining runs, a few of one arm at a time. One that dies is replaced, and
whoever is next resumes its runs from their checkpoints. None outlives this process.
"""

import collections
import contextlib
import dataclasses
import importlib.metadata
import itertools
import math
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from resnet_jax.experiments.engines.engine import (
    GPU_MEMORY,
    MEMORY_FRACTION,
    SweepConsole,
    check_all_ended,
    in_this_process,
    received_signals,
)
from resnet_jax.experiments.results import write_failure
from resnet_jax.experiments.sweep import Sweep, Unit
from resnet_jax.training.config import to_json
from resnet_jax.training.workdir import is_ended

LOGS = 'logs'  # folder in the sweep's workdir for the output of the processes
_POLL_SECONDS = 0.2  # between checks for signals and dead processes


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
      workdir: the sweep's workdir.
      todo: the runs to train.
      display: shows their progress.
      workers: number of processes; 1 is this process. None: one for each NVIDIA GPU if there are
        several and no run needs more than one, otherwise 1.
      retries: how often a run is restarted after its process died.

    Returns:
      The runs that failed.

    Raises:
      InputError: for data that cannot be read.
      Interrupted: after SIGTERM or SIGINT; the runs under way have been saved.
    """
    gpus = visible_gpus()
    if workers is None:
        workers = 1 if _needs_several_devices(sweep, todo) else len(gpus)
    workers = min(workers, len(todo))
    if workers <= 1:
        return in_this_process(sweep, workdir, todo, display)
    environments = [_environment(gpus, workers, number) for number in range(workers)]
    return _in_processes(sweep, workdir, todo, display, environments, retries)


def _needs_several_devices(sweep: Sweep, todo: Sequence[Unit]) -> bool:
    """Whether the config of a run asks for several devices."""
    parallel = [sweep.config(arm, 0).parallel for arm in {unit.arm for unit in todo}]
    return any(p.devices not in (None, 1) or p.batch_norm == 'per_replica' for p in parallel)


def visible_gpus() -> list[str]:
    """The GPUs that JAX would use, as CUDA_VISIBLE_DEVICES names them.

    They are counted without starting JAX, which would reserve them for this process.
    """
    plugins = importlib.metadata.entry_points(group='jax_plugins')
    platforms = {name for name in os.environ.get('JAX_PLATFORMS', '').split(',') if name}
    if not any('cuda' in plugin.name for plugin in plugins):
        return []
    if platforms and not platforms & {'cuda', 'gpu'}:
        return []
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if visible is not None:
        names = (name.strip() for name in visible.split(','))
        return list(itertools.takewhile(lambda name: name not in ('', '-1'), names))
    try:
        listed = subprocess.run(
            ['nvidia-smi', '-L'], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    if 'UUID: MIG-' in listed:
        return []  # by default, CUDA shows only one partition of a partitioned GPU
    return re.findall(r'^GPU \d+: .*\(UUID: (GPU-[^)]+)\)', listed, re.MULTILINE)


def _environment(gpus: Sequence[str], workers: int, number: int) -> dict[str, str]:
    """Environment variables that give a process its GPU, or its share of one."""
    if not gpus:
        return {}
    variables = {'CUDA_VISIBLE_DEVICES': gpus[number % len(gpus)]}
    sharing = math.ceil(workers / len(gpus))
    if sharing > 1 and MEMORY_FRACTION not in os.environ:
        variables[MEMORY_FRACTION] = f'{GPU_MEMORY / sharing:.3f}'
    return variables


@dataclasses.dataclass
class _Worker:
    """A worker process, and the runs that it is training."""

    number: int
    process: subprocess.Popen[bytes]
    connection: Connection
    log: Path
    units: list[Unit]

    def unfinished(self) -> list[Unit]:
        """The runs that have not ended."""
        return [unit for unit in self.units if not is_ended(unit.folder)]


def _in_processes(
    sweep: Sweep,
    workdir: Path,
    todo: Sequence[Unit],
    display: SweepConsole,
    environments: Sequence[Mapping[str, str]],
    retries: int,
) -> list[Unit]:
    queue, deaths = collections.deque(todo), collections.Counter[Unit]()
    workers: list[_Worker] = []
    failed: list[Unit] = []
    errors: list[str] = []
    with contextlib.ExitStack() as stack:
        stopped = stack.enter_context(received_signals())
        stack.callback(_shut_down, workers)
        stopping = False
        while True:
            if not (stopped or errors):
                _dispatch(sweep, workdir, queue, deaths, workers, environments)
            elif not stopping:
                stopping = True
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
                        queue.extend(worker.unfinished())
                    case None if not stopping:
                        failed += _requeue(worker, queue, deaths, retries, display)
                    case _:  # it was told to stop
                        queue.extend(worker.unfinished())
                display.idle(worker.number)
                worker.units = []
    check_all_ended(errors, stopped, len(queue))
    return failed


def _dispatch(
    sweep: Sweep,
    workdir: Path,
    queue: collections.deque[Unit],
    deaths: Mapping[Unit, int],
    workers: list[_Worker],
    environments: Sequence[Mapping[str, str]],
) -> None:
    """Sends runs to idle workers, starting those that do not run."""
    workers[:] = [worker for worker in workers if worker.units or worker.process.poll() is None]
    for number, environment in enumerate(environments):
        mine = [worker for worker in workers if worker.number == number]
        if not queue or (mine and mine[0].units):
            continue
        if not mine:
            workers += (mine := [_start(number, workdir, environment)])
        # Ever smaller parts, so that all workers end at about the same time.
        mine[0].units = _next_runs(queue, math.ceil(len(queue) / len(environments)), deaths)
        config = sweep.config(mine[0].units[0].arm, mine[0].units[0].seed)
        with contextlib.suppress(OSError):  # it has died, which `_messages` will notice
            mine[0].connection.send((to_json(config), mine[0].units))


def _next_runs(queue: collections.deque[Unit], most: int, deaths: Mapping[Unit, int]) -> list[Unit]:
    """Takes the next runs of one arm; a run whose process has died before is trained alone."""
    taken = [queue.popleft()]
    if deaths.get(taken[0], 0):
        return taken
    while queue and len(taken) < most and queue[0].arm == taken[0].arm:
        taken.append(queue.popleft())
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
            process_group=0,  # otherwise Ctrl-C would reach it twice
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
        )
    theirs.close()
    return _Worker(number, process, ours, log, [])


def _messages(workers: Sequence[_Worker]) -> Iterator[tuple[_Worker, Any]]:
    """Messages of workers; None is the last one of a worker that has died."""
    ready = wait([worker.connection for worker in workers], _POLL_SECONDS)
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


def _requeue(
    worker: _Worker,
    queue: collections.deque[Unit],
    deaths: collections.Counter[Unit],
    retries: int,
    display: SweepConsole,
) -> list[Unit]:
    """Puts the runs of a dead process back into the queue.

    Returns:
      Those that have used up their retries instead; they have failed.
    """
    code = worker.process.wait()
    if code < 0:
        reason = f'its process was killed by {signal.Signals(-code).name}'
    else:
        last = worker.log.read_text(errors='replace').strip().splitlines()[-1:]
        reason = f'its process ended with code {code} ({"".join(last)[:200]})'
    unfinished = worker.unfinished()
    deaths.update(unfinished)
    given_up = [unit for unit in unfinished if deaths[unit] > retries]
    queue.extendleft(unit for unit in reversed(unfinished) if unit not in given_up)
    for unit in given_up:
        text = f'{reason}, {deaths[unit]} times; what it printed is in {worker.log}'
        display.ended(unit.folder, f'failed: {text}', worker.number)
        write_failure(unit.folder, text)
    return given_up


def _shut_down(workers: Sequence[_Worker]) -> None:
    """Ends the processes, which exit when their connection closes, and removes empty logs."""
    for worker in workers:
        worker.connection.close()
    for worker in workers:
        worker.process.wait()
        if not worker.log.stat().st_size:
            worker.log.unlink()
    for worker in workers[:1]:
        with contextlib.suppress(OSError):  # not empty
            worker.log.parent.rmdir()
