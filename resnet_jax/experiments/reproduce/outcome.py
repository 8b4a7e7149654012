"""What a reproduction found: ours beside published, as data and as text."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_jax.experiments.reproduce.plan import Plan
from resnet_jax.experiments.reproduce.verdicts import NOT_RUN, Outcome, judge
from resnet_jax.experiments.results import Failure, read_failure
from resnet_jax.experiments.sweep import Unit, units
from resnet_jax.papers.table import PAPERS, Row
from resnet_jax.records.writers import write_atomically
from resnet_jax.training.summary import read_summary

RAN, BROKEN = 'ran', 'failed'


def collect(plan: Plan, workdir: Path) -> dict[str, Any]:
    """All that is known of a reproduction so far; what has not run is among it."""
    by_row: dict[str, list[Unit]] = {row.name: [] for row in plan.table.rows}
    for unit in units(plan.sweep, workdir):
        by_row[unit.arm].append(unit)
    rows = [_row(plan, row, by_row[row.name]) for row in plan.table.rows]
    if plan.scale == 'smoke':
        for found in rows:
            found['verdict'] = BROKEN if found['errors'] else RAN if found['values'] else NOT_RUN
            found['why'] = '; '.join(dict.fromkeys(found['errors']))
    else:
        outcomes = {
            found['name']: Outcome(tuple(found['values']), found['diverged'], found['wanted'])
            for found in rows
        }
        verdicts = judge(plan.table, outcomes, plan.figures)
        for found in rows:
            verdict = verdicts[found['name']]
            found['verdict'] = verdict.word
            found['why'] = '; '.join(filter(None, [verdict.why, *found['faults'][:1]]))
    return {
        'table': plan.key,
        'title': plan.table.title,
        'paper': PAPERS[plan.table.paper],
        'data': plan.table.data,
        'metric': plan.table.metric,
        'scale': plan.scale,
        'base': plan.sweep.base,
        'scaled': list(plan.scaled),
        'overridden': list(plan.overridden),
        'notes': list(plan.notes),
        'differs': list(plan.recipe.differs),
        'unstated': list(plan.recipe.unstated),
        'rows': rows,
    }


def _row(plan: Plan, row: Row, mine: list[Unit]) -> dict[str, Any]:
    summaries: list[Mapping[str, Any]] = []
    failures: list[Failure] = []
    for unit in mine:
        if (summary := read_summary(unit.folder)) is not None:
            summaries.append(summary)
        elif failure := read_failure(unit.folder):
            failures.append(failure)
    values = tuple(_metric(plan, summary) for summary in summaries)
    diverged = sum(failure.diverged for failure in failures)
    outcome = Outcome(values, diverged, len(mine))
    return {
        'name': row.name,
        'model': row.model,
        'published': row.value,
        'published_spread': row.spread,
        'published_failed': row.failed,
        'seeds': [unit.seed for unit in mine],
        'wanted': outcome.wanted,
        'values': [round(value, 4) for value in values],
        'mean': outcome.mean,
        'sd': outcome.sd,
        'diverged': outcome.diverged,
        'errors': [failure.error for failure in failures],
        'faults': [failure.error for failure in failures if not failure.diverged],
        'parameters': summaries[0]['parameters'] if summaries else None,
        'steps': summaries[0]['steps'] if summaries else None,
        'seconds': sum(summary['seconds'] for summary in summaries) if summaries else None,
    }


def _metric(plan: Plan, summary: Mapping[str, Any]) -> float:
    top1 = 100.0 * summary['eval']['top1']
    return top1 if 'accuracy' in plan.table.metric else 100.0 - top1


def to_markdown(report: Mapping[str, Any]) -> str:
    """A reproduction for people: what was run, the table, what it cannot show."""
    smoke = report['scale'] == 'smoke'
    header = (
        ('row', 'parameters', 'steps', 'seconds', 'result')
        if smoke
        else ('row', 'published', 'ours', 'runs', 'verdict', 'why')
    )
    lines = [
        f'# {report["table"]}, {report["scale"]}',
        '',
        f'{report["title"]}. {report["paper"]}. {report["data"]}, {report["metric"]}.',
        '',
        _line(header),
        _line(['---'] * len(header)),
        *(_line(_smoke_cells(row) if smoke else _cells(row)) for row in report['rows']),
    ]
    sections = (
        ('Read this with it', report['notes']),
        ('Changed for this scale', report['scaled']),
        ('Changed on the command line', report['overridden']),
        ("Not the paper's", report['differs']),
        ('Not stated by the reference, chosen here', report['unstated']),
    )
    for title, items in sections:
        if items:
            lines += ['', f'{title}:', '', *(f'- {item}' for item in items)]
    return '\n'.join(lines) + '\n'


def _line(cells: Any) -> str:
    return '| ' + ' | '.join(str(cell).replace('|', '/') for cell in cells) + ' |'


def _cells(row: Mapping[str, Any]) -> list[str]:
    published = _figure(row['published'], row['published_spread'])
    return [
        row['name'],
        'failed' if row['published_failed'] else published,
        _figure(row['mean'], row['sd']),
        f'{len(row["values"])} of {row["wanted"]}'
        + (f', {row["diverged"]} diverged' if row['diverged'] else ''),
        row['verdict'],
        row['why'],
    ]


def _smoke_cells(row: Mapping[str, Any]) -> list[str]:
    result = f'{row["verdict"]}: {row["why"]}' if row['why'] else row['verdict']
    ran = row['parameters'] is not None
    parameters = f'{row["parameters"]:,}' if ran else '-'
    seconds = f'{row["seconds"]:.1f}' if ran else '-'
    return [row['name'], parameters, str(row['steps'] or '-'), seconds, result]


def _figure(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return '-'
    return f'{mean:.2f}' if sd is None else f'{mean:.2f} +- {sd:.2f}'


def write_report(report: Mapping[str, Any], workdir: Path) -> None:
    """Writes reproduce.md and reproduce.json into the sweep's folder."""
    write_atomically(workdir / 'reproduce.md', to_markdown(report))
    write_atomically(workdir / 'reproduce.json', json.dumps(report, indent=2) + '\n')
