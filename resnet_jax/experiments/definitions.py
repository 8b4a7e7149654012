"""What `get_sweep()` and `get_search()` return, checked before any of it is used."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resnet_jax.errors import InputError, check_choice, shown

Check = Callable[[Any], bool]
LONGEST_NAME = 200  # of an arm, in bytes: its folder's name


def is_text(value: Any) -> bool:
    """Whether a value is a text that says something."""
    return isinstance(value, str) and bool(value.strip())


def is_count(value: Any) -> bool:
    """Whether a value is a whole number from 1."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31


def is_fields(value: Any) -> bool:
    """Whether a value is a dict, field -> value."""
    return isinstance(value, Mapping) and all(map(is_text, value))


def is_arms(value: Any) -> bool:
    """Whether a value is a dict, name -> fields; an empty one lacks its arms."""
    return (
        isinstance(value, Mapping)
        and all(is_text(name) and len(name.encode()) <= LONGEST_NAME for name in value)
        and all(map(is_fields, value.values()))
    )


def is_figures(value: Any) -> bool:
    """Whether a value is a dict, arm -> finite number."""
    return isinstance(value, Mapping) and all(
        isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)
        for x in value.values()
    )


def is_counts(value: Any) -> bool:
    """Whether a value is a dict, arm -> whole number from 1."""
    return isinstance(value, Mapping) and all(map(is_count, value.values()))


# A check -> what it asks for.
_WORDS: dict[Check, str] = {
    is_text: 'a text',
    is_count: 'a whole number from 1',
    is_fields: 'a dict, field -> value',
    is_arms: f'a dict, name (at most {LONGEST_NAME} bytes) -> dict of fields',
    is_figures: 'a dict, arm -> number',
    is_counts: 'a dict, arm -> whole number from 1',
}
SWEEP: dict[str, Check | None] = {
    'title': is_text,
    'base': is_text,
    'fields': is_fields,
    'arms': is_arms,
    'seeds': is_count,
    'baseline': is_text,
    'published': is_figures,
    'runs': is_counts,
}
# None: `search.py` checks it, which knows what it may be.
SEARCH: dict[str, Check | None] = {
    'title': is_text,
    'base': is_text,
    'fields': is_fields,
    **dict.fromkeys(('space', 'trials', 'sampler', 'pruner', 'seed', 'metric')),
}


def check_definition(
    found: Any,
    where: str,
    function: str,
    keys: Mapping[str, Check | None],
    required: Sequence[str],
) -> None:
    """Refuses the result of a file's function unless it is a dict of what it should hold.

    Args:
      found: the result.
      where: the file, for messages.
      function: its name.
      keys: what it may hold: `SWEEP` or `SEARCH`.
      required: what it must hold.

    Raises:
      InputError: naming the first key that is unknown, missing or of another type.
    """
    if not isinstance(found, Mapping):
        raise InputError(f'{where}: {function}() must return a dict, got {shown(found)}')
    for key in found:
        check_choice(f'key of {where}:', str(key), keys)
    missing = [key for key in required if not found.get(key)]
    if missing:
        raise InputError(f'{where} lacks {", ".join(missing)}')
    for key, value in found.items():
        check = keys[key]
        if check is not None and not check(value):
            raise InputError(f'{where}: {key} must be {_WORDS[check]}, got {shown(value)}')
