"""failed.json: what ended a run that failed, in its folder."""

import json
from pathlib import Path
from typing import NamedTuple

from resnet_jax.errors import Diverged
from resnet_jax.records.writers import write_atomically

FAILED_FILE = 'failed.json'


class Failure(NamedTuple):
    """What ended a run.

    Attributes:
      error: one line.
      diverged: whether it was no longer finite: a result, not a fault.
    """

    error: str
    diverged: bool = False


def write_failure(folder: Path, error: Exception | str) -> None:
    """Says in a run's folder what ended it."""
    folder.mkdir(parents=True, exist_ok=True)
    failure = Failure(str(error), isinstance(error, Diverged))
    write_atomically(folder / FAILED_FILE, json.dumps(failure._asdict(), indent=2) + '\n')


def read_failure(folder: Path) -> Failure | None:
    """Why the run in a folder failed the last time, if it did and has not ended since."""
    path = folder / FAILED_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
        return Failure(str(found['error']), bool(found.get('diverged', False)))
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return Failure(f'{FAILED_FILE} cannot be read')
