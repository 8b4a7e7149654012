"""The errors that the program reports in one line, and look-ups that suggest near-miss names."""

import difflib
import math
import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

Row = TypeVar('Row')

# Ends of a range that has none of its own: what int32 and float32, in which JAX computes, hold.
LARGEST_INT = 2**31 - 1
LARGEST_FLOAT = 1e38


class InputError(ValueError):
    """Bad input: a name, value, file or folder that the caller gave.

    The message is one line: what is wrong, where, and what to do. The command line prints it
    without a traceback and exits with code 2.
    """


class UnknownSplit(InputError):
    """A data set has no split of the name that was asked for."""


class Unreadable(InputError):
    """A workdir, a checkpoint or another file that this program wrote cannot be read back.

    It affects one run: a sweep lists that run as failed and continues with the others.
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


class Range(NamedTuple):
    """The numbers that a field takes, all of them finite.

    Attributes:
      low, high: the ends; None: as large as JAX's own numbers.
      whole: whether they are whole numbers.
      open: which ends are not included: '', 'low' or 'high'.
    """

    low: float | None = None
    high: float | None = None
    whole: bool = False
    open: str = ''

    def holds(self, value: Any) -> bool:
        """Whether a value is a number of the range."""
        if not self.is_number(value):
            return False
        low, high = self.ends
        above = low < value if self.open == 'low' else low <= value
        return above and (value < high if self.open == 'high' else value <= high)

    def is_number(self, value: Any) -> bool:
        """Whether a value has the type of the range's numbers."""
        kind = numbers.Integral if self.whole else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)

    @property
    def words(self) -> str:
        """The range for a message: 'at least 1', 'in [0, 1)'."""
        low, high = self.ends
        if self.open == 'high':
            return f'in [{low}, {high})'
        return f'{"above" if self.open == "low" else "at least"} {low}'

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest number, where the ends are included."""
        largest = LARGEST_INT if self.whole else LARGEST_FLOAT
        return (
            -largest if self.low is None else self.low,
            largest if self.high is None else self.high,
        )


def check_number(kind: str, value: Any, allowed: Range) -> None:
    """Refuses what is not a number of a range.

    Args:
      kind: what the number stands for, used in the message: 'config field seed'.
      value: the value.
      allowed: the range.

    Raises:
      InputError: saying what is allowed.
    """
    if allowed.holds(value):
        return
    if not allowed.is_number(value):
        words = f'a {"whole " if allowed.whole else ""}number'
    elif value != value or value in (math.inf, -math.inf):
        words = 'a finite number'
    elif value > allowed.ends[1] and allowed.open != 'high':
        words = f'at most {allowed.ends[1]}'
    else:
        words = allowed.words
    raise InputError(f'{kind} must be {words}, got {shown(value)}')


def shown(value: Any, limit: int = 80) -> str:
    """A value as Python writes it, cut short where it is long, to quote in a message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an int of thousands of digits, a deep nest
        text = f'a {type(value).__name__}'
    return text if len(text) <= limit else f'{text[: limit - 24]}... ({len(text)} characters)'


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


def unknown_name(
    kind: str, name: str, known: Iterable[str], near: Sequence[str] = ()
) -> InputError:
    """The `InputError` for a name that is not among the known ones, suggesting the nearest.

    Args:
      kind: what the name stands for, used in the message.
      name: the name given.
      known: all valid names.
      near: the nearest; by default those of `known` that are spelt alike.

    Returns:
      The error, for the caller to raise.
    """
    known = sorted(known)
    near = near or near_names(str(name), known)
    if near:
        hint = 'did you mean ' + ' or '.join(repr(n) for n in near) + '?'
    elif len(known) <= 15:
        hint = 'known: ' + ', '.join(known)
    else:
        hint = f'there are {len(known)}, such as ' + ', '.join(known[:5])
    return InputError(f'unknown {kind} {shown(name)}; {hint}')


def near_names(name: str, known: Sequence[str]) -> list[str]:
    """Names of these initials, as learning_rate of lr, or else up to three that are spelt alike.

    A section that fields share does not count.
    """
    section, dot, field = name.rpartition('.')
    inside = [n.removeprefix(section + dot) for n in known if n.startswith(section + dot)]
    if meant := [n for n in inside if '_' in n and ''.join(re.findall(r'(?:^|_)(.)', n)) == field]:
        return [section + dot + n for n in meant]
    if dot and (near := difflib.get_close_matches(field, inside, n=3, cutoff=0.6)):
        return [section + dot + n for n in near]
    return difflib.get_close_matches(name, known, n=3, cutoff=0.6)


def fault_of_jax(error: BaseException) -> InputError | RunError | None:
    """What JAX says without words of its own, in one line: no memory, or no device.

    Args:
      error: any; JAX is not imported for it.

    Returns:
      The error to report; None for all others.
    """
    found = str(error)
    if type(error).__name__ == 'JaxRuntimeError' and 'RESOURCE_EXHAUSTED' in found:
        return RunError(
            f'the device is out of memory: {first_line(error).rstrip(".")}; take a smaller batch '
            '(train.batch_size, --batch-size), optim.accumulate, model.remat=True or '
            'model.dtype=bfloat16'
        )
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = trace.tb_frame.f_code.co_filename if trace is not None else ''
    if found.startswith('Unable to initialize backend') or (
        isinstance(error, AssertionError) and place.endswith('xla_bridge.py')
    ):
        return InputError(
            f'JAX finds no device{": " * bool(found)}{first_line(error) if found else ""}; set the '
            'variable JAX_PLATFORMS to one that is there, such as cpu, or install JAX for the '
            'device: docs/install.md'
        )
    return None


def message(error: BaseException) -> str:
    """What another library's error says; its kind where it says nothing."""
    if isinstance(error, KeyError):
        return f'it lacks {error}'
    return str(error).strip() or type(error).__name__


def first_line(error: BaseException, limit: int = 200) -> str:
    """The first line of another library's error message, to quote in one of ours."""
    return message(error).splitlines()[0][:limit]
