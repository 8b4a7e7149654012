"""A worker process of the local engine: trains the runs that its parent sends, and reports back.

`python -m resnet_jax.experiments.engines.worker FD`, where FD is a socket to the parent. The worker
exits when the parent closes the connection or dies.
"""

import logging
import os
import queue
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError, Interrupted
from resnet_jax.experiments.engines.engine import RunsConsole, train_runs
from resnet_jax.experiments.sweep import Unit
from resnet_jax.training import compilation
from resnet_jax.training.config import from_json

_REPORT_SECONDS = 0.5  # between two progress messages


class _Reports(RunsConsole):
    """Sends what a display shows to the parent."""

    def __init__(self, parent: Connection) -> None:
        super().__init__(0, 1, quiet=True)
        self._parent, self._moved, self._sent_at = parent, 0.0, 0.0

    def advance(self, steps: int, total: int, runs: int = 1) -> None:
        self._moved += runs * steps / total
        if time.monotonic() - self._sent_at > _REPORT_SECONDS:
            self._parent.send(('moved', self._moved))
            self._moved, self._sent_at = 0.0, time.monotonic()

    def ended(self, folder: Path, result: str) -> None:
        self._parent.send(('ended', folder, result))


def serve(parent: Connection) -> None:
    """Trains what the parent sends until it closes the connection or dies.

    It sends (config as JSON, runs of one arm). The replies are ('moved', runs) and ('ended',
    folder, result) on the way, and at the end of each request one of ('done', failed runs),
    ('input', an InputError's message) and ('stopped',).
    """
    jobs: queue.SimpleQueue[tuple[str, list[Unit]]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(parent, jobs), daemon=True).start()
    compilation.keep_compiled()
    while True:
        config, units = jobs.get()
        reply: tuple[Any, ...]
        try:
            reply = 'done', train_runs(from_json(config), units, _Reports(parent))
        except InputError as error:
            reply = 'input', str(error)
        except Interrupted:
            reply = ('stopped',)
        parent.send(reply)


def _listen(parent: Connection, jobs: 'queue.SimpleQueue[Any]') -> None:
    try:
        while True:
            jobs.put(parent.recv())
    except (EOFError, OSError):  # the parent closed the connection, or died
        os._exit(0)


if __name__ == '__main__':
    # This process is the program's own, so its global state may be set here.
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # between runs: no traceback
    # Orbax warns through it; the command line silences it too.
    logging.getLogger('absl').setLevel(logging.CRITICAL)
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)  # otherwise subprocesses would keep it open
    serve(Connection(descriptor))
