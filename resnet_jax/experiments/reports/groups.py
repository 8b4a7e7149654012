"""Runs made by hand, side by side: what differs in their configs and in what came out."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError
from resnet_jax.experiments import statistics as comparison
from resnet_jax.experiments.results import read_run
from resnet_jax.experiments.statistics import Difference, Estimate
from resnet_jax.experiments.sweep_json import SWEEP_FILE
from resnet_jax.training import workdir
from resnet_jax.training.config import FREE_FIELDS, flatten

ABSENT = '(absent)'  # a field that a run of another version does not have


@dataclasses.dataclass(frozen=True)
class Single:
    """A run.

    Attributes:
      folder: its workdir.
      seed: of its config.
      config: its other fields, but for those that do not change what is computed.
      final: what it ended with; None if it has not.
    """

    folder: Path
    seed: int
    config: Mapping[str, Any]
    final: Any


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs whose configs differ in the seed alone.

    Attributes:
      name: 'A' for the first, 'B', ...
      runs: in the order given.
      values: of the fields in which groups differ.
      error: final test error in %, over the seeds that have ended; None where none has. Runs with
        the same seed count once, with their mean.
      difference: to group A, in percentage points; None for A and without a common seed.
    """

    name: str
    runs: tuple[Single, ...]
    values: dict[str, Any]
    error: Estimate | None
    difference: Difference | None

    def median(self, figure: str) -> float | None:
        """Of a figure of `Final`, over the runs that have ended and have it."""
        found = [getattr(run.final, figure) for run in self.runs if run.final is not None]
        found = [value for value in found if value is not None]
        return statistics.median(found) if found else None


def group(folders: Sequence[Path]) -> list[Group]:
    """Reads runs and puts those together that differ in the seed alone.

    Args:
      folders: workdirs of at least two runs; the first one's group is what others are compared
        with.

    Raises:
      InputError: for fewer, for a folder that is no run, and if none has ended.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError('a workdir is given twice; name each run once')
    if len(folders) < 2:
        raise InputError('compare takes at least two workdirs of runs')
    singles = [_read(folder) for folder in folders]
    if not any(run.final for run in singles):
        raise InputError(f'nothing to compare: none of the {len(singles)} runs has ended')
    members: list[list[Single]] = []
    for run in singles:
        for others in members:
            if others[0].config == run.config:
                others.append(run)
                break
        else:
            members.append([run])
    named = {_name(i): runs for i, runs in enumerate(members)}
    errors = {name: _errors(runs) for name, runs in named.items()}
    differences = comparison.compare(errors, _name(0))
    fields = _differing([runs[0].config for runs in members])
    return [
        Group(
            name=name,
            runs=tuple(runs),
            values={field: runs[0].config.get(field, ABSENT) for field in fields},
            error=comparison.estimate(list(errors[name].values())) if errors[name] else None,
            difference=differences.get(name),
        )
        for name, runs in named.items()
    ]


def _read(folder: Path) -> Single:
    if (folder / SWEEP_FILE).is_file():
        raise InputError(
            f'{folder} is a sweep: use `resnet-jax report`, or name runs in its runs/ARM/seedN'
        )
    config = flatten(workdir.read_config(folder))
    kept = {k: v for k, v in config.items() if k not in FREE_FIELDS and k != 'seed'}
    return Single(folder, config.get('seed', 0), kept, read_run(folder).final)


def _name(number: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    rest, letter = divmod(number, 26)
    return (_name(rest - 1) if rest else '') + chr(ord('A') + letter)


def _errors(runs: Sequence[Single]) -> dict[int, float]:
    by_seed: dict[int, list[float]] = {}
    for run in runs:
        if run.final is not None:
            by_seed.setdefault(run.seed, []).append(run.final.error)
    return {seed: statistics.fmean(errors) for seed, errors in by_seed.items()}


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Fields that do not have the same value in all of some configs, in the configs' order."""
    fields = dict.fromkeys(field for config in configs for field in config)
    first = configs[0]
    return [f for f in fields if any(c.get(f, ABSENT) != first.get(f, ABSENT) for c in configs)]


def to_json(groups: Sequence[Group]) -> dict[str, Any]:
    """All of it, for JSON; errors in %, differences in percentage points."""
    return {
        'differs': {
            field: {group.name: group.values[field] for group in groups}
            for field in groups[0].values
        },
        'groups': [
            {
                'name': group.name,
                'error': group.error and dataclasses.asdict(group.error),
                'difference': group.difference and comparison.difference_json(group.difference),
                'parameters': group.median('parameters'),
                'images_per_second': group.median('images_per_second'),
                'runs': [_run_json(run) for run in group.runs],
            }
            for group in groups
        ],
    }


def _run_json(run: Single) -> dict[str, Any]:
    final = None if run.final is None else dataclasses.asdict(run.final)
    return {
        'workdir': str(run.folder),
        'seed': run.seed,
        'ended': final is not None,
        **(final or {}),
    }
