"""Several processes that train one model together, each with its own devices.

All run the same program. `part` says which examples a process reads, `is_first` which of them
writes and prints; they must have the same config, and they stop after the same step.
"""

import contextlib
import os
import signal
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from resnet_jax.errors import InputError

# Seconds without a heartbeat after which JAX takes a process for dead and ends the others.
HEARTBEAT = 30
# Seconds that processes wait for each other at the start.
PATIENCE = 300


def join(coordinator: str | None, processes: int | None, process_id: int | None) -> None:
    """Makes this process one of several, before JAX is used for anything else.

    Args:
      coordinator: HOST:PORT at which process 0 listens. None, here and below: detected by JAX under
        SLURM, Open MPI, Kubernetes or on a TPU pod.
      processes: number of processes.
      process_id: number of this one, from 0.

    Raises:
      InputError: if an argument is missing and cannot be detected, or the others do not connect.
    """
    host, _, port = (coordinator or 'host:1').rpartition(':')
    if not host or not port.isdigit():
        raise InputError(f'--coordinator is HOST:PORT, got {coordinator!r}')
    if processes is not None and process_id is not None and not 0 <= process_id < processes:
        raise InputError(f'--process-id must be in 0 to {processes - 1}, got {process_id}')
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process_id,
            heartbeat_timeout_seconds=HEARTBEAT,
            initialization_timeout=PATIENCE,
            shutdown_timeout_seconds=HEARTBEAT,
        )
    except ValueError as error:  # what JAX could not find out
        raise InputError(
            f'{error} JAX detects no cluster here: give --coordinator HOST:PORT, --processes and '
            '--process-id to each process'
        ) from error
    except RuntimeError as error:
        raise InputError(f'the processes did not find each other: {error}') from error


def is_first() -> bool:
    """Whether this is the process that writes and prints what all have in common."""
    return jax.process_index() == 0


def part() -> tuple[int, int]:
    """(i, n): this process reads the i-th of n equal parts of each batch."""
    return jax.process_index(), jax.process_count()


def barrier(place: str) -> None:
    """Waits until all processes have reached this place in the program."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


def require_same(text: str, what: str) -> None:
    """Refuses a text that is not the same in all processes.

    Raises:
      InputError: in all of them.
    """
    if jax.process_count() > 1:
        found = multihost_utils.process_allgather(np.uint32(zlib.crc32(text.encode())))
        if len(np.unique(found)) > 1:
            raise InputError(f'the processes were started with different {what}')


# Batch systems announce the end of a job with USR1 or USR2, a closed terminal with HUP.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
_OFTEN_IGNORED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


@contextlib.contextmanager
def handling(
    handler: Callable[[int, Any], None], signums: Sequence[signal.Signals] = STOPPING
) -> Iterator[None]:
    """Handles signals while the context is open; only in the main thread.

    One that the process was told to ignore at its start, as HUP by nohup, stays ignored.
    """
    old = {
        s: signal.signal(s, handler)
        for s in signums
        if s not in _OFTEN_IGNORED or signal.getsignal(s) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for signum, previous in old.items():
            signal.signal(signum, previous)


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[int], int | None]]:
    """Collects the signals of `STOPPING`, so that a run can save its step.

    A second SIGINT interrupts.

    Yields:
      stop_requested: (dispatch) -> the number of the signal received, or None. Call it after each
      dispatch, counted from 1. Any one of several processes may receive the signal; all stop after
      the same dispatch.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda dispatch: None  # only the main thread may set handlers
        return
    several = jax.process_count() > 1

    def handler(signum: int, frame: Any) -> None:
        if received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signum)
        if several:  # JAX's own handler tells the other processes
            os.kill(os.getpid(), signal.SIGTERM)

    def stop_requested(dispatch: int) -> int | None:
        if not several:
            return received[0] if received else None
        reached = multihost_utils.reached_preemption_sync_point(dispatch)
        return signal.SIGTERM if reached else None

    mine = [s for s in STOPPING if s != signal.SIGTERM or not several]
    with handling(handler, mine):
        yield stop_requested
