"""sweep.json: what a workdir was made for, written, read again and added to."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError
from resnet_jax.experiments.sweep import Fields, Sweep
from resnet_jax.records.writers import write_atomically
from resnet_jax.training import workdir as runs
from resnet_jax.training.config import FREE_FIELDS

SWEEP_FILE = 'sweep.json'


def to_json(sweep: Sweep) -> str:
    """All of a sweep but the base's content, indented."""
    return json.dumps(dataclasses.asdict(sweep), indent=2) + '\n'


def read_sweep(workdir: Path) -> Sweep:
    """The sweep that a workdir was made for.

    Raises:
      InputError: if there is none, or its description cannot be read.
    """
    path = workdir / SWEEP_FILE
    if not workdir.is_dir():
        raise InputError(f'workdir {workdir} does not exist; make one with `resnet-jax sweep`')
    if not path.is_file():
        hint = '`resnet-jax compare` compares single runs' if runs.is_run(workdir) else ''
        raise InputError(
            f'workdir {workdir} holds no sweep (it has no {SWEEP_FILE}); '
            + (hint or 'make one with `resnet-jax sweep`')
        )
    try:
        return _from_json(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        what = f'lacks {error}' if isinstance(error, KeyError) else str(error)
        raise InputError(f'{path} describes no sweep: {what}') from error


def _from_json(found: Any) -> Sweep:
    """The inverse of `to_json`; keys that it does not know are left out."""
    if not isinstance(found, dict):
        raise ValueError('it is no JSON object')
    sweep = Sweep(
        title=str(found['title']),
        base=str(found['base']),
        fields=dict(found['fields']),
        arms={str(arm): dict(fields) for arm, fields in found['arms'].items()},
        seeds=tuple(int(seed) for seed in found['seeds']),
        baseline=found['baseline'],
        published={arm: float(error) for arm, error in (found.get('published') or {}).items()},
        runs=dict(found.get('runs') or {}),
        source=str(found.get('source') or ''),
    )
    if sweep.baseline not in sweep.arms:
        raise ValueError(f'its baseline {sweep.baseline!r} is none of its arms')
    if not sweep.seeds:
        raise ValueError('it has no seeds')
    return sweep


def begin(sweep: Sweep, workdir: Path) -> None:
    """Makes a sweep's workdir, or adds the sweep's new arms and seeds to the one that is there.

    Raises:
      InputError: for a workdir that holds something else, such as arms of the same name with other
        fields.
    """
    if not (workdir / SWEEP_FILE).is_file():
        _check_empty(workdir)
    with runs.locked(workdir, wait=True):  # jobs of an array begin together
        try:
            _write(sweep, workdir)
        except OSError as error:
            raise InputError(f'cannot write in workdir {workdir}: {error.strerror}') from error


def _check_empty(workdir: Path) -> None:
    ours = (runs.LOCK, SWEEP_FILE, f'{SWEEP_FILE}.tmp')
    if workdir.is_dir() and all(path.name in ours for path in workdir.iterdir()):
        return
    if workdir.exists():
        raise InputError(f'workdir {workdir} is not empty and no sweep; use another --workdir')


def _write(sweep: Sweep, workdir: Path) -> None:
    if (workdir / SWEEP_FILE).is_file():
        old = read_sweep(workdir)
        _check_same(old, sweep, workdir)
        seeds = old.seeds + tuple(seed for seed in sweep.seeds if seed not in old.seeds)
        sweep = dataclasses.replace(sweep, seeds=seeds)
        if to_json(sweep) == to_json(old):
            return
    write_atomically(workdir / SWEEP_FILE, to_json(sweep))


def _check_same(old: Sweep, new: Sweep, workdir: Path) -> None:
    """Complains unless all runs of the old sweep are runs of the new one, but for their seeds."""
    changed = ['base'] if old.base != new.base else []
    changed += ['fields'] if _computed(old.fields) != _computed(new.fields) else []
    changed += [
        f'arm {name!r}'
        for name, fields in old.arms.items()
        if name not in new.arms or _computed(fields) != _computed(new.arms[name])
    ]
    if changed:
        raise InputError(
            f'workdir {workdir} holds another sweep (it differs in {", ".join(changed)}); use '
            'another --workdir, or the same sweep to continue; arms and seeds may be added'
        )


def _computed(fields: Fields) -> Any:
    """The fields that say what a run computes, as JSON has them."""
    return json.loads(json.dumps({k: v for k, v in fields.items() if k not in FREE_FIELDS}))
