"""The errors that the program reports in one line, and look-ups that suggest near-miss names."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Row = TypeVar('Row')


class InputError(ValueError):
    """Bad input: a name, value, file or folder that the caller gave.

    The message is one line: what is wrong, where, and what to do. The command line prints it
    without a traceback and exits with code 2.
    """


class Unreadable(InputError):
    """A workdir, a checkpoint or another file that this program wrote cannot be read back.

    It concerns one run: a sweep lists that run as failed and goes on with the others.
    """


class RunError(RuntimeError):
    """A run failed for a reason other than its input, such as a full disk.

    The message says what is kept and how to resume. The command line prints it without a traceback
    and exits with code 1.
    """


class Diverged(RunError):
    """The loss or the training state is not finite; the same config would diverge again."""


class Interrupted(Exception):
    """A signal stopped the run, which has saved its state.

    Attributes:
      signum: the signal.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class Stopped(Exception):
    """The caller of `loop.train` stopped the run before its last step; its state is saved."""


def choose(kind: str, name: str, table: Mapping[str, Row]) -> Row:
    """The row of a table, by its name.

    Args:
      kind: what the name stands for, used in the message: 'model', 'optim.name'.
      name: the key to look up.
      table: name -> row.

    Raises:
      InputError: if the table has no such row; the message suggests the nearest names.
    """
    check_choice(kind, name, table)
    return table[name]


def check_choice(kind: str, name: str, known: Iterable[str]) -> None:
    """Refuses a name that is not among the known ones.

    Raises:
      InputError: suggesting the nearest names.
    """
    known = list(known)
    if name not in known:
        raise unknown_name(kind, name, known)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The `InputError` for a name that is not among the known ones, suggesting the nearest.

    Args:
      kind: what the name stands for, used in the message.
      name: the name given.
      known: all valid names.

    Returns:
      The error, for the caller to raise.
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
    """The first line of another library's error message, to quote in one of ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:limit]
