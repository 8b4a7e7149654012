"""Keep what libraries in C++ print from standard error."""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """A context in which nothing that the process prints reaches standard error, C++ included.

    Errors of libraries arrive as exceptions; what they print besides is advice on delegates,
    instruction sets and logging. Without a standard error, as where it is closed, nothing happens.
    """
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (OSError, AttributeError, ValueError):
        yield
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)
