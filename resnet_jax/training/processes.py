"""Several processes that train one model together, each with devices of its own.

They run the same program; what a process reads, writes and decides by itself is said here and where
`is_first` and `part` are asked. Two things are agreed on: the config, and when to stop.
"""

import contextlib
import os
import signal
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from resnet_jax.errors import InputError

# Seconds without a sign of life after which JAX takes a process for dead and ends the others.
HEARTBEAT = 30
# Seconds that processes wait for each other at the beginning.
PATIENCE = 300


def join(coordinator: str | None, processes: int | None, process_id: int | None) -> None:
    """Makes this process one of several, before JAX is used for anything else.

    Args:
      coordinator: HOST:PORT at which the first process listens; None here and below: as SLURM, Open
        MPI, Kubernetes or a TPU pod says.
      processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      InputError: if something is left open that no cluster says, or the others do not come.
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
            f'{error} No cluster that JAX knows says it; give --coordinator HOST:PORT, '
            '--processes and --process-id to each process'
        ) from error
    except RuntimeError as error:
        raise InputError(f'the processes did not find each other: {error}') from error


def is_first() -> bool:
    """Whether this process writes and shows what is written and shown once."""
    return jax.process_index() == 0


def part() -> tuple[int, int]:
    """(i, n): of every batch this process reads the i-th of n equal parts."""
    return jax.process_index(), jax.process_count()


def meet(place: str) -> None:
    """Waits until all processes are at this place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


def agree(text: str, what: str) -> None:
    """Refuses what is not the same text in all processes.

    Raises:
      InputError: in all of them.
    """
    if jax.process_count() > 1:
        found = multihost_utils.process_allgather(np.uint32(zlib.crc32(text.encode())))
        if len(np.unique(found)) > 1:
            raise InputError(f'the processes were started with different {what}')


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[int], int | None]]:
    """Collects SIGTERM and SIGINT instead of dying of them; a second SIGINT interrupts at once.

    Yields:
      asked: (dispatch) -> the number of the signal that asks for an end, or None. It is called
      after each dispatch, counted from 1. Of several processes any one may get the signal, and all
      stop after the same dispatch.
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

    def asked(dispatch: int) -> int | None:
        if not several:
            return received[0] if received else None
        reached = multihost_utils.reached_preemption_sync_point(dispatch)
        return signal.SIGTERM if reached else None

    mine = (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT)
    old = {s: signal.signal(s, handler) for s in mine}
    try:
        yield asked
    finally:
        for signum, previous in old.items():
            signal.signal(signum, previous)
