"""What a reproduction found: ours beside published, for reading and for other programs."""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError
from resnet_jax.experiments.reports.document import WrittenReport, write_texts
from resnet_jax.experiments.reports.sweep_report import write_report
from resnet_jax.experiments.reproduce.plan import Plan
from resnet_jax.experiments.reproduce.verdicts import NOT_RUN, RowResult, is_accuracy, judge
from resnet_jax.experiments.results import RunResult, read_member
from resnet_jax.experiments.sweep import Sweep, read_sweep, units
from resnet_jax.json_files import read_json
from resnet_jax.papers.cifar import find_table
from resnet_jax.papers.table import PAPERS, PublishedRow, PublishedTable
from resnet_jax.text import (
    NOTHING,
    Table,
    aligned,
    bullets,
    escape,
    markdown,
    number,
    paragraph,
)

REPRODUCTION_FILE = 'reproduce.json'
RAN, BROKEN = 'ran', 'failed'  # verdicts at scale smoke
# Key of reproduce.json -> title of its section.
_SECTIONS = {
    'notes': 'Limits of this comparison',
    'scaled': 'Changed for this scale',
    'overridden': 'Changed on the command line',
    'differs': "Differs from the paper's recipe",
    'unstated': 'Not stated by the reference, chosen here',
}


def collect(plan: Plan, workdir: Path) -> dict[str, Any]:
    """All that is known of a reproduction so far, rows that have not been run included."""
    described = {
        'table': plan.key,
        'title': plan.table.title,
        'paper': PAPERS[plan.table.paper],
        'data': plan.table.data,
        'metric': plan.table.metric,
        'scale': plan.scale,
        'base': plan.sweep.base,
        'figures': plan.figures,
        **{key: list(getattr(plan, key)) for key in ('scaled', 'overridden', 'notes')},
        **{key: list(getattr(plan.recipe, key)) for key in ('differs', 'unstated')},
    }
    return {**described, 'rows': _rows(described, plan.table, plan.sweep, workdir)}


def _rows(
    described: Mapping[str, Any], table: PublishedTable, sweep: Sweep, workdir: Path
) -> list[dict[str, Any]]:
    by_row: dict[str, list[RunResult]] = {row.name: [] for row in table.rows}
    for unit in units(sweep, workdir):
        by_row[unit.arm].append(read_member(unit.folder, unit.seed))
    results = {name: _result(table, runs) for name, runs in by_row.items()}
    rows = [_row(row, by_row[row.name], results[row.name]) for row in table.rows]
    if described['scale'] == 'smoke':
        for found in rows:
            found['verdict'] = BROKEN if found['errors'] else RAN if found['values'] else NOT_RUN
            found['why'] = '; '.join(dict.fromkeys(found['errors']))
        return rows
    verdicts = judge(table, results, described['figures'])
    for found in rows:
        verdict = verdicts[found['name']]
        found['verdict'] = verdict.word
        found['why'] = '; '.join(filter(None, [verdict.why, *found['faults'][:1]]))
    return rows


def _result(table: PublishedTable, runs: Sequence[RunResult]) -> RowResult:
    errors = [run.final.error for run in runs if run.final is not None]
    return RowResult(
        values=tuple(100 - error if is_accuracy(table) else error for error in errors),
        diverged=sum(
            run.failure is not None and run.failure.diverged for run in runs if not run.final
        ),
        wanted=len(runs),
    )


def _row(row: PublishedRow, runs: Sequence[RunResult], result: RowResult) -> dict[str, Any]:
    finals = [run.final for run in runs if run.final is not None]
    failures = [run.failure for run in runs if run.state == 'failed' and run.failure]
    return {
        'name': row.name,
        'model': row.model,
        'published': row.value,
        'published_spread': row.spread,
        'published_failed': row.failed,
        'seeds': [run.seed for run in runs],
        'wanted': result.wanted,
        'values': [round(value, 4) for value in result.values],
        'mean': result.mean,
        'sd': result.sd,
        'diverged': result.diverged,
        'errors': [failure.error for failure in failures],
        'faults': [failure.error for failure in failures if not failure.diverged],
        'parameters': finals[0].parameters if finals else None,
        'steps': finals[0].steps if finals else None,
        'seconds': sum(final.seconds for final in finals) if finals else None,
    }


def published_table(found: Mapping[str, Any]) -> Table:
    """Ours beside published, of `collect`; at scale smoke, what ran."""
    if found['scale'] == 'smoke':
        header: tuple[str, ...] = ('row', 'parameters', 'steps', 'seconds', 'result')
        rows = tuple(_smoke_cells(row) for row in found['rows'])
        return Table('What ran', header, rows)
    header = ('row', 'published', 'ours', 'runs', 'verdict', 'why')
    note = f'{found["paper"]}. {found["data"]}, {found["metric"]}; +- is the deviation over runs.'
    rows = tuple(_cells(row) for row in found['rows'])
    return Table('Beside the published table', header, rows, (note,))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    diverged = f', {row["diverged"]} diverged' if row['diverged'] else ''
    return (
        row['name'],
        'failed' if row['published_failed'] else _figure(row['published'], row['published_spread']),
        _figure(row['mean'], row['sd']),
        f'{len(row["values"])} of {row["wanted"]}{diverged}',
        row['verdict'],
        row['why'],
    )


def _smoke_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    result = f'{row["verdict"]}: {row["why"]}' if row['why'] else row['verdict']
    figures = (number(row['parameters'], ','), number(row['steps'], 'd'))
    return (row['name'], *figures, number(row['seconds'], '.1f'), result)


def _figure(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return NOTHING
    return f'{mean:.2f}' if sd is None else f'{mean:.2f} +- {sd:.2f}'


def sections(found: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """What to know when reading a reproduction: (title, items) of the sections that have any."""
    return [(title, found[key]) for key, title in _SECTIONS.items() if found[key]]


def reproduction_markdown(found: Mapping[str, Any]) -> str:
    """A reproduction as Markdown."""
    parts = [
        f'# {escape(found["table"])}, {found["scale"]}',
        escape(_about(found)),
        markdown(published_table(found)),
    ]
    for title, items in sections(found):
        parts += [f'{title}:', '\n'.join(f'- {escape(item)}' for item in items)]
    return '\n\n'.join(parts) + '\n'


def reproduction_text(found: Mapping[str, Any], width: int | None) -> str:
    """A reproduction as `reproduce` prints it: fitted to a terminal, to a file as Markdown."""
    if width is None:
        return reproduction_markdown(found)
    table = published_table(found)
    parts = [
        f'{found["table"]}, {found["scale"]}',
        paragraph(_about(found), width),
        aligned(table.header, table.rows, width),
    ]
    parts += [f'{title}:\n{bullets(items, width)}' for title, items in sections(found)]
    return '\n\n'.join(parts) + '\n'


def _about(found: Mapping[str, Any]) -> str:
    return f'{found["title"]}. {found["paper"]}. {found["data"]}, {found["metric"]}.'


def write_reproduction(
    found: Mapping[str, Any], workdir: Path, now: datetime.datetime | None = None
) -> None:
    """Writes reproduce.md and reproduce.json, and, but at scale smoke, the report of the sweep.

    Args:
      found: as `collect` returns it.
      workdir: of the sweep.
      now: when it is written; None: now.

    Raises:
      InputError: if the files cannot be written.
    """
    text = json.dumps(found, indent=2) + '\n'
    write_texts(workdir, {'reproduce.md': reproduction_markdown(found), REPRODUCTION_FILE: text})
    if found['scale'] != 'smoke':  # two steps on synthetic images have no figures to report
        _write_report(found, workdir, now)


def _write_report(
    found: Mapping[str, Any], workdir: Path, now: datetime.datetime | None
) -> WrittenReport:
    return write_report(
        workdir,
        now,
        tables=[published_table(found)],
        lists=sections(found),
        found={'reproduction': found},
        partial=True,
    )


def write_sweep_or_reproduction(
    workdir: Path, now: datetime.datetime | None = None
) -> WrittenReport:
    """Writes the report of a sweep; that of a reproduction shows ours beside published as well.

    Args:
      workdir: of a sweep, or of a reproduction, whose rows are judged again as they are now.
      now: when it is written; None: now.

    Raises:
      InputError: if the workdir holds neither, nothing has ended, or it cannot be written.
    """
    path = workdir / REPRODUCTION_FILE
    if not path.is_file():
        return write_report(workdir, now)
    sweep = read_sweep(workdir)
    try:
        found = read_json(path, 'it describes no reproduction; run `resnet-jax reproduce` again')
        found.setdefault('figures', False)  # earlier versions lack it
        table = find_table(found['table'])
        found['rows'] = _rows(found, table, sweep, workdir)
        return _write_report(found, workdir, now)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        what = f'lacks {error}' if isinstance(error, KeyError) else str(error)
        raise InputError(
            f'{path} describes no reproduction: {what}; run `resnet-jax reproduce` again'
        ) from error
