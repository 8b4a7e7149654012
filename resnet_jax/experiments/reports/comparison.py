"""Runs made by hand, side by side: how their configs differ, and their results."""

import dataclasses
import datetime
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError
from resnet_jax.experiments.reports.document import (
    Document,
    provenance_facts,
    timestamp,
    to_markdown,
    write_texts,
)
from resnet_jax.experiments.reports.findings import Arm, arm_json, curves, make_arms
from resnet_jax.experiments.reports.report_figures import draw_curves
from resnet_jax.experiments.reports.statement import arms_table, differences_table, verdict
from resnet_jax.experiments.results import RunResult, provenance, read_run
from resnet_jax.experiments.sweep import SWEEP_FILE
from resnet_jax.figures import write_figures
from resnet_jax.text import NOTHING, Table, number
from resnet_jax.training.config import FREE_FIELDS
from resnet_jax.training.effects import effective_fields
from resnet_jax.training.workdir import read_config

ABSENT = '(absent)'  # a field that one run's config has and neither another's nor the default has
_LONGEST_NAME = 60  # of a group, in characters


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs in groups that differ in the seed alone.

    Attributes:
      groups: the first is the baseline of the others.
      differs: field -> name of a group -> its value, for the fields in which groups differ.
    """

    groups: tuple[Arm, ...]
    differs: dict[str, dict[str, Any]]

    @property
    def statement(self) -> list[str]:
        """A sentence about each group but the first, if any of its runs has ended."""
        first, *others = self.groups
        return [
            verdict(group.name, first.name, group.difference)
            for group in others
            if group.error is not None
        ]


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Reads runs and groups those that differ in the seed alone.

    Args:
      folders: workdirs of at least two runs; the group of the first one is the baseline.

    Raises:
      InputError: for fewer runs, for a folder that is no run, and if no run has ended.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError('a workdir is given twice; name each run once')
    if len(folders) < 2:
        raise InputError('compare takes at least two workdirs of runs')
    runs = [_read(folder) for folder in folders]
    if not any(run.final for run in runs):
        raise InputError(f'nothing to compare: none of the {len(runs)} runs has ended')
    members: list[tuple[dict[str, Any], list[RunResult]]] = []
    for run in runs:
        settings = effective_settings(run.config)
        same = [others for theirs, others in members if theirs == settings]
        if same:
            same[0].append(run)
        else:
            members.append((settings, [run]))
    settings_of = [settings for settings, _ in members]
    fields = _differing(settings_of)
    names = _names(members, fields)
    return Comparison(
        groups=tuple(make_arms(dict(zip(names, [of for _, of in members], strict=True)), names[0])),
        differs={
            field: {
                name: _plain(settings.get(field, ABSENT))
                for name, settings in zip(names, settings_of, strict=True)
            }
            for field in fields
        },
    )


def _read(folder: Path) -> RunResult:
    if (folder / SWEEP_FILE).is_file():
        raise InputError(
            f'{folder} is a sweep: use `resnet-jax report`, or name runs in its runs/ARM/seedN'
        )
    read_config(folder)  # complains unless it is a run
    return read_run(folder)


def effective_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that determine what a run computes, apart from its seed.

    A model field that is not set has the value of the registered model.

    Args:
      config: dotted field -> value.
    """
    kept = {k: v for k, v in config.items() if k not in FREE_FIELDS and k != 'seed'}
    try:
        return effective_fields(kept)
    except InputError:
        return kept  # a model of another version of the package


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    return value if isinstance(value, bool | int | float | str | tuple | None) else str(value)


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields that do not have the same value everywhere, the model's name first."""
    fields = dict.fromkeys(['model.name', *(field for each in settings for field in each)])
    first = settings[0]
    return [f for f in fields if any(s.get(f, ABSENT) != first.get(f, ABSENT) for s in settings)]


def _names(
    members: Sequence[tuple[Mapping[str, Any], Sequence[RunResult]]], fields: Sequence[str]
) -> list[str]:
    """Names of groups: the fields in which they differ, or folders if that gets too long."""
    if len(members) == 1:
        return ['all runs']
    # Leave out fields that differ only because the registered models do.
    chosen = [f for f in fields if any(runs[0].config.get(f) is not None for _, runs in members)]
    names = [
        ', '.join(f'{f}={own[f]}' for f in chosen if own.get(f) is not None) for own, _ in members
    ]
    if not all(0 < len(name) <= _LONGEST_NAME for name in names) or len(set(names)) < len(names):
        names = [_folder_name(runs[0].folder) for _, runs in members]
    if len(set(names)) < len(names):
        names = [str(runs[0].folder) for _, runs in members]
    return names


def _folder_name(folder: Path) -> str:
    """A folder's name, or its parent's if it only tells the seed."""
    path = folder.resolve()
    return path.parent.name if re.fullmatch(r'(seed)?\d+', path.name) else path.name


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison for JSON; errors in %, differences in percentage points."""
    return {
        'differs': comparison.differs,
        'groups': [
            {
                **{key: arm_json(group)[key] for key in _GROUP_KEYS},
                'runs': [_run_json(run) for run in group.runs],
            }
            for group in comparison.groups
        ],
        'statement': comparison.statement,
    }


_GROUP_KEYS = (
    *('name', 'error', 'difference', 'parameters', 'images_per_second'),
    *('seconds', 'first_step_seconds', 'training_seconds'),
)


def _run_json(run: RunResult) -> dict[str, Any]:
    found = run.to_json()
    return {'workdir': found.pop('folder'), 'ended': run.final is not None, **found}


def tables(comparison: Comparison) -> list[Table]:
    """What differs, the runs, and, with several seeds, the groups and their differences."""
    groups = comparison.groups
    names = [group.name for group in groups]
    differing = tuple(
        (field, *(str(values[name]) for name in names))
        for field, values in comparison.differs.items()
    )
    found = [
        Table('Settings that differ', ('field', *names), differing),
        Table('Runs', _RUN_HEADER, tuple(_run_row(g, run) for g in groups for run in g.runs)),
    ]
    if any(len(group.runs) > 1 for group in groups):
        found += [arms_table(groups, 'Groups'), differences_table(groups, groups[0].name)]
    return [table for table in found if table.rows]


_RUN_HEADER = (
    *('run', 'group', 'seed', 'error %', 'steps', 'parameters', 'images/s', 'training s'),
)


def _run_row(group: Arm, run: RunResult) -> tuple[str, ...]:
    row = (str(run.folder), group.name, str(run.seed))
    if (final := run.final) is None:
        return (*row, run.state, *[NOTHING] * 4)
    figures = (f'{final.error:.2f}', f'{final.steps:,}', f'{final.parameters:,}')
    speed = number(final.images_per_second, ',.0f')
    return (*row, *figures, speed, f'{final.training_seconds:,.1f}')


def write_comparison(
    comparison: Comparison, folder: Path, now: datetime.datetime | None = None
) -> list[Path]:
    """Writes compare.md, and compare.png and compare.svg with the curves of all groups.

    Args:
      comparison: the comparison.
      folder: for the files; made if it does not exist.
      now: when it is written; None: now.

    Returns:
      The files.

    Raises:
      InputError: if they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'cannot write in {folder}: {error.strerror}') from error
    groups = comparison.groups
    runs = [run for group in groups for run in group.runs]
    title = f'Comparison of {len(runs)} runs'
    names, kind = [group.name for group in groups], runs[0].error_kind
    drawn = draw_curves(title, names, curves(groups), kind)
    figures = write_figures({'compare': drawn}, folder)
    document = Document(
        title=title,
        statement=comparison.statement,
        tables=tables(comparison),
        facts=provenance_facts({**provenance(runs), 'written': timestamp(now)}),
    )
    return [*write_texts(folder, {'compare.md': to_markdown(document, figures[:1])}), *figures]
