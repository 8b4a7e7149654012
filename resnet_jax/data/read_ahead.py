"""Call a function of the batch number ahead of time, in threads or worker processes, by Grain."""

import atexit
import contextlib
import functools
import gc
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Generator
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, TypeVar

from resnet_jax.data import shared_memory

if TYPE_CHECKING:
    import grain

BATCHES_PER_WORKER = 2  # that each worker process holds ready

T = TypeVar('T')


def default_workers() -> int:
    """Chooses the number of worker processes for this machine.

    0, meaning a thread for each core, up to 8 cores: decoding and resizing release Python's lock.
    On 2 cores, crops of 224x224 JPEGs came at 3,030 images/s from threads, 2,810 from 2 processes,
    which take 260 MiB each. Beyond 8, where a single Python lock should limit the threads (not
    measured), a process for every 4 cores, at most 8.
    """
    cores = usable_cores()
    return 0 if cores <= 8 else min(8, cores // 4)


def usable_cores() -> int:
    """Counts the CPU cores that this process may run on."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_ahead(make: Callable[[int], T], start: int, stop: int, workers: int) -> Generator[T]:
    """Calls a function of the batch number ahead of time, in threads or processes, by Grain.

    Args:
      make: gives a batch; picklable.
      start: the first number.
      stop: the number to stop before.
      workers: processes; 0 for a thread for each core of this process.

    Returns:
      An iterator of make(start), ..., make(stop - 1), in this order. It raises what `make` raises,
      and ChildProcessError if one of the processes was killed. Its close() ends the workers; so
      does dropping it.
    """
    batches = _read_ahead(make, start, stop, workers)
    # Grain fails with many lines when it is closed while the interpreter shuts down.
    atexit.register(_close, weakref.ref(batches))
    return batches


def _close(reference: 'weakref.ref[Generator[Any]]') -> None:
    batches = reference()
    if batches is not None:
        with contextlib.suppress(ValueError):  # another thread is still in it
            batches.close()


def _read_ahead(make: Callable[[int], T], start: int, stop: int, workers: int) -> Generator[T]:
    import grain

    batches = grain.MapDataset.range(start, stop).map(make)
    receiver = shared_memory.Receiver() if workers and shared_memory.is_available() else None
    if workers:
        if receiver is not None:
            batches = batches.map(functools.partial(shared_memory.send, receiver.address))
        dataset = _in_processes(batches, min(workers, max(stop - start, 1)))
    else:
        threads = usable_cores()
        dataset = batches.to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
        )
    iterator = iter(dataset)
    try:
        yield from iterator if receiver is None else map(receiver.take, iterator)
    except RuntimeError as error:  # Grain's own, about one of its processes
        died = re.search(r'Worker process was terminated.* exit code (-?\d+)', str(error))
        if not died:
            raise
        raise ChildProcessError(
            f'a process that reads images ended (exit code {died[1]}), as for lack of memory; '
            'fewer data.workers take less'
        ) from error
    finally:
        iterator.close()
        if receiver is not None:
            receiver.close()


def _in_processes(batches: 'grain.MapDataset', workers: int) -> 'grain.IterDataset':
    """Has worker processes read a Grain data set, in the same order."""
    import grain
    from absl import flags

    # Grain reads absl's flags when it starts processes, which fails in a program that has not
    # parsed them. One that parses its own later still can.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    # A finished reader's semaphores are in reference cycles. If Python happens to free them while
    # it registers a new one, it prints a traceback and leaks them (python/cpython#109629).
    gc.collect()
    _start_tracker_apart()
    # Grain spawns its workers, so a JAX that already runs threads here is not forked.
    dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    # Batches come in memory of our own (shared_memory.py), or else through a pipe. Grain's shared
    # memory leaks blocks when a program ends with batches in flight.
    no_shared_memory = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
    dataset = grain.experimental.WithOptionsIterDataset(dataset, no_shared_memory)
    options = grain.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=BATCHES_PER_WORKER
    )
    return dataset.mp_prefetch(options, worker_init_fn=_start_worker)


@functools.cache
def _start_tracker_apart() -> 'subprocess.Popen[bytes] | None':
    """Starts Python's resource tracker in a session of its own, unless it runs already.

    It unlinks the semaphores of a process that was killed. Python starts it in the process group of
    the program, where a kill -9 of the group, as a terminal or a scheduler sends it, ends it too.
    Where a future Python keeps its tracker elsewhere, this has no effect.
    """
    tracker = getattr(resource_tracker, '_resource_tracker', None)
    if getattr(tracker, '_fd', 0) is not None:
        return None
    program = (
        'import sys; from multiprocessing.resource_tracker import main; main(int(sys.argv[1]))'
    )
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, '-c', program, str(reader)],
        pass_fds=[reader],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(reader)
    vars(tracker).update(_fd=writer, _pid=process.pid)
    return process


def _start_worker(index: int, count: int) -> None:
    """Runs first in each worker process."""
    # Ctrl-C and a cluster's signals reach the whole group; the main process decides when to stop.
    for name in ('SIGINT', 'SIGTERM', 'SIGUSR1', 'SIGUSR2', 'SIGHUP'):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    # The devices are the main process's: nothing here computes with JAX, or could take one.
    os.environ['JAX_PLATFORMS'] = 'cpu'
    if 'jax' in sys.modules:
        sys.modules['jax'].config.update('jax_platforms', 'cpu')
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Ends a worker whose main process was killed; nothing else would."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
