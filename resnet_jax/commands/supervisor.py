"""A parent of one of several processes, which reports in one line what ended its child.

When one of several processes dies, JAX aborts the others from a C++ thread with a stack trace, and
Python gets no chance to report more. The parent uses no device and survives.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

from resnet_jax.errors import RunError

# Holds the descriptor of a pipe that closes when the parent is gone.
_PIPE = 'RESNET_JAX_SUPERVISOR'


def is_supervised() -> bool:
    """Whether this process is a supervised child."""
    return _PIPE in os.environ


def supervise(workdir: Path) -> NoReturn:
    """Runs this program again as a child, and exits with its exit code.

    The signals that stop a run are passed on. If this process is killed, the child ends too.

    Args:
      workdir: of the run.

    Raises:
      SystemExit: with the child's exit code.
      RunError: if the child was killed, or aborted by JAX.
    """
    read, write = os.pipe()
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env={**os.environ, _PIPE: str(read)},
        pass_fds=(read,),
        process_group=0,  # else Ctrl-C would reach it twice
    )
    os.close(read)
    from resnet_jax.training.processes import handling

    with handling(lambda number, frame: child.send_signal(number)):
        code = child.wait()
    os.close(write)
    if code >= 0:
        raise SystemExit(code)  # the child has printed why
    if -code == signal.SIGABRT:
        reason = 'another process of the run ended or cannot be reached (JAX names it above)'
    else:
        reason = f'its process was killed by {signal.Signals(-code).name}'
    raise RunError(
        f'the run in {workdir} failed: {reason}; {_kept(workdir)}; start all processes again with '
        'the same command to continue'
    )


def end_with_parent() -> None:
    """Ends this process, a supervised child, when its parent ends."""
    pipe = int(os.environ[_PIPE])

    def watch() -> None:
        os.read(pipe, 1)  # nothing is ever written: it returns when the parent's end is closed
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def leave(code: int) -> int:
    """Returns the exit code; a supervised child exits with it at once, skipping JAX's barrier."""
    if is_supervised():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _kept(workdir: Path) -> str:
    from resnet_jax.training.checkpoint import saved_steps

    steps = saved_steps(workdir)
    return f'the last good checkpoint is of step {steps[-1]}' if steps else 'nothing was saved yet'
