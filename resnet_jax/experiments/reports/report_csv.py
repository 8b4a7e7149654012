"""A sweep's findings for spreadsheets: the report's JSON as CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

_ESTIMATE = ('mean', 'sd', 'n', 'low', 'high')
_TEST = ('p', 'corrected', 'differs', 'seeds_needed')
_ARM = (
    *('ended', 'failed', 'unfinished', 'steps', 'parameters', 'multiply_adds'),
    *('images_per_second', 'seconds', 'published'),
)
_RUN = (
    *('arm', 'seed', 'state', 'error', 'last_step', 'parameters', 'images_per_second'),
    *('seconds', 'device', 'failure', 'folder'),
)


def arms_csv(found: dict[str, Any]) -> str:
    """A line for each arm; errors in %, differences to the baseline in percentage points.

    Args:
      found: as `findings.to_json` gives it.
    """
    header = ['arm', *(f'error_{name}' for name in _ESTIMATE)]
    header += [*(f'difference_{name}' for name in _ESTIMATE), *_TEST, *_ARM]
    return _csv(header, map(_arm, found['arms']))


def _arm(arm: dict[str, Any]) -> list[Any]:
    error, difference = arm['error'] or {}, arm['difference'] or {}
    return [
        arm['name'],
        *(error.get(name) for name in _ESTIMATE),
        *(difference.get(name) for name in (*_ESTIMATE, *_TEST)),
        *(arm[name] for name in _ARM),
    ]


def runs_csv(found: dict[str, Any]) -> str:
    """A line for each run; `found` as in `arms_csv`."""
    return _csv(_RUN, ([run.get(name) for name in _RUN] for run in found['runs']))


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator='\n').writerows([header, *rows])
    return out.getvalue()
