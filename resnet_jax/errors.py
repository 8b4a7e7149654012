"""The kinds of error that the command line reports in one line.

They live with the models because imports in this package go one way and all may import models.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: a name, value, file or folder that the caller gave.

    The message is one line that says what was wrong, where, and what to do. The command line prints
    it without a traceback and exits with code 2.
    """


class RunError(RuntimeError):
    """A failure inside a run that is not the input's: diverged, disk full.

    The message says what is kept and how to go on. The command line prints it without a traceback
    and exits with code 1.
    """


class Diverged(RunError):
    """Training met a loss or a state that is not finite; the same config would meet it again."""


class Interrupted(Exception):
    """The run was asked to stop, and has saved its state.

    Attributes:
      signum: the signal that asked.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class Stopped(Exception):
    """A run was ended before its last step by the caller of `loop.train`; it is saved."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An `InputError` for a name that is not among the known ones, showing the nearest.

    Args:
      kind: what the name names, for the message, e.g. 'model'.
      name: the name given.
      known: all valid names.

    Returns:
      The error, to be raised by the caller.
    """
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    if near:
        hint = 'did you mean ' + ' or '.join(repr(n) for n in near) + '?'
    elif len(known) <= 12:
        hint = 'known: ' + ', '.join(known)
    else:
        hint = f'there are {len(known)}, such as ' + ', '.join(known[:5])
    return InputError(f'unknown {kind} {name!r}; {hint}')


def first_line(error: BaseException, limit: int = 200) -> str:
    """The first line of another library's message, for one of ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:limit]
