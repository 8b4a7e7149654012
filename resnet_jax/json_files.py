"""JSON in and out: where every JSON file is read, and every `--json` is written."""

import json
import math
from pathlib import Path
from typing import Any

from resnet_jax.errors import Unreadable, first_line


def read_json(path: Path, hint: str = '') -> dict[str, Any]:
    """The object in a JSON file.

    Args:
      path: the file.
      hint: what to do about a file that cannot be read.

    Raises:
      Unreadable: in one line, whatever is wrong with the file.
    """
    try:
        return parse_json(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise unreadable(path, error, hint) from error


def parse_json(text: str) -> dict[str, Any]:
    """The object that a text of JSON describes.

    Raises:
      ValueError: if it describes none, or is nested deeper than Python can follow.
    """
    if not text.strip():
        raise ValueError('it is empty')
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError('it is nested too deep') from None
    if not isinstance(found, dict):
        raise ValueError('it holds no JSON object')
    return found


def unreadable(path: Path, error: BaseException | str, hint: str = '') -> Unreadable:
    """The error for a file that cannot be read, or whose contents mean nothing.

    Args:
      path: the file.
      error: what went wrong with it.
      hint: what to do about it.
    """
    what = error.strerror if isinstance(error, OSError) and error.strerror else error
    if isinstance(error, UnicodeDecodeError):
        what = 'it holds no text in UTF-8'
    elif isinstance(error, BaseException) and not isinstance(error, OSError):
        what = first_line(error)
    return Unreadable(f'cannot read {path}: {what}' + (f'; {hint}' if hint else ''))


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON of a value; numbers that are not finite, for which JSON has no word, become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
