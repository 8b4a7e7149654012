"""A sweep's findings as tables of text: Markdown, and aligned for a terminal."""

import dataclasses
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from resnet_jax.experiments.reports.findings import Arm, Findings
from resnet_jax.experiments.reports.statement import interval, p_value
from resnet_jax.experiments.statistics import Estimate

NOTHING = '-'


@dataclasses.dataclass(frozen=True)
class Listing:
    """A table of text.

    Attributes:
      title: of the table.
      header: of its columns.
      rows: one text for each column.
      notes: what a reader must know, below it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns for a terminal: the first to the left, the others, mostly numbers, to the right."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        right = [cell.rjust(width) for cell, width in others]
        return '  '.join([first[0].ljust(first[1]), *right]).rstrip()

    return '\n'.join(map(line, lines))


def arms_listing(findings: Findings) -> Listing:
    """The arms: errors over seeds, size, speed, the published error where there is one."""
    published = any(arm.published is not None for arm in findings.arms)
    incomplete = len(findings.runs('ended')) < len(findings.runs())
    header = ['arm', 'mean error %', 'sd', 'n', '95 % interval', 'parameters', 'multiply-adds']
    header += ['images/s', 'wall s', *['published error %'] * published]
    header += ['failed', 'unfinished'] * incomplete
    rows = []
    for arm in findings.arms:
        row = [arm.name, *error_cells(arm.error), *_size(arm)]
        row += [number(arm.published, '.2f')] * published
        left = arm.count('unfinished') + arm.count('not begun')
        row += [str(arm.count('failed')), str(left)] * incomplete
        rows.append(tuple(row))
    return Listing('Arms', tuple(header), tuple(rows), tuple(_arm_notes(findings, published)))


def error_cells(error: Estimate | None) -> tuple[str, str, str, str]:
    """Mean, sd, n and interval of an error in %."""
    if error is None:
        return NOTHING, NOTHING, '0', NOTHING
    low, high = error.low, error.high
    between = NOTHING if low is None or high is None else f'{low:.2f} to {high:.2f}'
    return f'{error.mean:.2f}', number(error.sd, '.2f'), str(error.n), between


def _size(arm: Arm) -> tuple[str, str, str, str]:
    adds = arm.multiply_adds
    return (
        number(arm.median('parameters'), ',.0f'),
        NOTHING if adds is None else f'{adds / 1e6:,.1f} M',
        number(arm.median('images_per_second'), ',.0f'),
        number(arm.median('seconds'), ',.1f'),
    )


def number(value: float | None, form: str) -> str:
    """Formats a number; '-' for None."""
    return NOTHING if value is None else format(value, form)


def _arm_notes(findings: Findings, published: bool) -> list[str]:
    images = sorted({run.final.images for run in findings.runs() if run.final and run.final.images})
    on = f' of {" or ".join(f"{n:,}" for n in images)} images' if images else ''
    devices = sorted({run.final.device for run in findings.runs() if run.final})
    notes = [
        f'Error: top-1, of the evaluation split{on}, after the last step. sd: over seeds (n - 1). '
        "Interval: of the mean, Student's t over seeds. Multiply-adds: of one image's forward "
        f'pass. images/s and wall s: medians over seeds, on {", ".join(devices)}.'
    ]
    together = max((run.final.together for run in findings.runs() if run.final), default=1)
    if together > 1:
        notes.append(
            f'Up to {together} runs shared each training step: images/s is that of one of them.'
        )
    if published:
        notes.append(
            "Published errors are the papers', on their data with their recipe and budget; here: "
            f'{budget(findings)}. Unless these are the same, compare the order of the arms, not '
            'the errors.'
        )
    return notes


def differences_listing(findings: Findings) -> Listing:
    """Each arm but the baseline against it."""
    base = findings.baseline.name
    header = ('arm', 'points', '95 % interval', 'pairs', 'p', 'corrected p', 'seeds needed')
    rows = []
    for arm in findings.others:
        found = arm.difference
        if found is None:
            rows.append((arm.name, NOTHING, NOTHING, '0', NOTHING, NOTHING, NOTHING))
            continue
        needed = NOTHING if found.seeds_needed is None else f'{found.seeds_needed:,}'
        row = (arm.name, f'{found.estimate.mean:+.2f}', interval(found), str(found.estimate.n))
        rows.append((*row, p_value(found.p), p_value(found.corrected), needed))
    notes = (
        f"Points: percentage points of test error, the arm's minus {base}'s with the same seed, on "
        "average; below 0 the arm is better. Interval and p: Student's paired t, which takes "
        f"differences to be about normal. Corrected p: Holm's, for {findings.tests} "
        f'test{"s" * (findings.tests != 1)}; intervals are not corrected. Seeds needed: to show '
        'this difference, if it is the true one, with a power of 80 % after correction.',
    )
    return Listing(f'Paired differences to {base}', header, tuple(rows), notes)


def runs_listing(findings: Findings) -> Listing | None:
    """The runs that have not ended well, and why; None if there are none."""
    rows = tuple(
        (
            arm.name,
            str(run.seed),
            run.state,
            run.failure.error
            if run.failure
            else f'at step {run.last_step:,}'
            if run.last_step
            else NOTHING,
        )
        for arm in findings.arms
        for run in arm.runs
        if run.state != 'ended'
    )
    return (
        Listing('Failed and unfinished runs', ('arm', 'seed', 'state', 'why'), rows)
        if rows
        else None
    )


def changes_listing(findings: Findings) -> Listing:
    """What each arm sets."""
    rows = tuple(
        (arm, ', '.join(f'{k}={v}' for k, v in fields.items()) or 'nothing')
        for arm, fields in findings.sweep.arms.items()
    )
    return Listing('What each arm sets', ('arm', 'fields'), rows)


def listings(findings: Findings) -> list[Listing]:
    """All tables of a report, in order."""
    last = runs_listing(findings)
    tables = [arms_listing(findings), differences_listing(findings), changes_listing(findings)]
    return [table for table in tables if table.rows] + ([last] if last else [])


def budget(findings: Findings) -> str:
    """Data, batch and length of the runs, in words."""
    settings = findings.settings
    parts = []
    if 'data.name' in settings:
        parts.append(f'data {settings["data.name"]}')
    if 'data.train_split' in settings and 'data.eval_split' in settings:
        parts.append(f'{settings["data.train_split"]} / {settings["data.eval_split"]}')
    if 'data.image_size' in settings:
        parts.append(f'{settings["data.image_size"]} pixels')
    if 'train.batch_size' in settings:
        parts.append(f'batch {settings["train.batch_size"]}')
    if 'train.epochs' in settings:
        parts.append(f'{settings["train.epochs"]:g} epochs')
    steps = sorted({run.final.steps for run in findings.runs() if run.final})
    parts.append(f'{" or ".join(f"{n:,}" for n in steps)} steps')
    return ', '.join(parts)


def facts(findings: Findings) -> list[tuple[str, str]]:
    """How the sweep was made: pairs of a name and a text."""
    sweep = findings.sweep
    ended, every = len(findings.runs('ended')), len(findings.runs())
    return [
        ('budget of a run', budget(findings)),
        ('config of all arms', os.path.normpath(sweep.base)),
        ('fields of all arms', ', '.join(f'{k}={v}' for k, v in sweep.fields.items()) or 'none'),
        ('seeds', ', '.join(map(str, sweep.seeds))),
        ('baseline', sweep.baseline),
        ('runs', f'{ended} of {every} ended, {len(findings.runs("failed"))} failed'),
    ]


def commands(findings: Findings) -> list[str]:
    """The command that made the sweep, and what trains the baseline's first run alone."""
    sweep, workdir = findings.sweep, shlex.quote(str(findings.workdir))
    seeds = ','.join(map(str, sweep.seeds))
    if sweep.seeds == tuple(range(len(sweep.seeds))):
        seeds = str(len(sweep.seeds))
    fields = {**sweep.fields, **sweep.arms[sweep.baseline], 'seed': sweep.seeds[0]}
    flags = ' '.join(shlex.quote(f'--config.{k}={v}') for k, v in fields.items())
    base = shlex.quote(os.path.normpath(sweep.base))
    source = sweep.source or 'sweep --config SWEEP.py'
    return [
        f'resnet-jax {source} --workdir {workdir} --seeds {seeds}',
        f'resnet-jax train --config {base} --workdir RUN {flags}',
    ]


def markdown(findings: Findings, statement: Sequence[str], figures: Sequence[Path]) -> str:
    """The report as Markdown."""
    made, alone = commands(findings)
    parts = [
        f'# {_escape(findings.sweep.title)}',
        '\n'.join(f'- {_escape(sentence)}' for sentence in statement),
        *(f'![{path.stem.replace("_", " ")}]({path.name})' for path in figures),
    ]
    for table in listings(findings):
        parts += [f'## {_escape(table.title)}', _markdown_table(table), *map(_escape, table.notes)]
    parts += [
        '## How it was made',
        '\n'.join(f'- {name}: {_escape(text)}' for name, text in facts(findings)),
        f'```\n{made}\n```',
        "One run alone, the baseline's first:",
        f'```\n{alone}\n```',
    ]
    return '\n\n'.join(parts) + '\n'


def _markdown_table(table: Listing) -> str:
    rules = ('---', *('---:' if numeric(table, i) else '---' for i in range(1, len(table.header))))
    lines = [map(_escape, table.header), rules, *(map(_escape, row) for row in table.rows)]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def numeric(table: Listing, column: int) -> bool:
    """Whether a column is set to the right."""
    cells = [row[column] for row in table.rows]
    return all(cell == NOTHING or cell.lstrip('+-< ')[:1].isdigit() for cell in cells)


def _escape(text: str) -> str:
    """A text in Markdown: on one line, no HTML, no cell that ends early."""
    plain = ' '.join(text.split()).replace('&', '&amp;').replace('<', '&lt;')
    for mark in '\\|*_`[]':
        plain = plain.replace(mark, f'\\{mark}')
    return plain
