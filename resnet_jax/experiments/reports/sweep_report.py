"""The report of a sweep, in its workdir: for reading, for looking at, for other programs."""

import datetime
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError
from resnet_jax.experiments.reports.document import (
    Document,
    WrittenReport,
    provenance_facts,
    timestamp,
    to_html,
    to_markdown,
    write_texts,
)
from resnet_jax.experiments.reports.findings import (
    Arm,
    Findings,
    curves,
    findings_json,
    read_findings,
)
from resnet_jax.experiments.reports.report_figures import draw_curves, draw_final_errors
from resnet_jax.experiments.reports.statement import arms_table, differences_table, statement
from resnet_jax.figures import styles, write_figures
from resnet_jax.text import NOTHING, Table, comma_separated

# Columns of report.csv and runs.csv, keys of the report's JSON.
_ESTIMATE = ('mean', 'sd', 'n', 'low', 'high')
_TEST = ('p', 'corrected', 'differs', 'seeds_needed')
_ARM = (
    *('ended', 'failed', 'unfinished', 'steps', 'parameters', 'multiply_adds'),
    *('images_per_second', 'seconds', 'first_step_seconds', 'training_seconds', 'published'),
)
_RUN = (
    *('arm', 'seed', 'state', 'error', 'last_step', 'parameters', 'images_per_second'),
    *('seconds', 'first_step_seconds', 'training_seconds', 'device', 'git_commit'),
    *('failure', 'folder'),
)
# Charts of which the page shows one at a time.
_PANELS = (
    {'name': 'test', 'label': 'test error', 'axis': 'test error, {} (%)', 'percent': True},
    {
        'name': 'train',
        'label': 'training error',
        'axis': 'training error, {} (%)',
        'percent': True,
    },
)
_CURVES_NOTE = (
    'Line: mean over the seeds that have finished (over all, if none has); band: from the lowest '
    'to the highest of them. Training error is of augmented images, averaged since the previous '
    'point.'
)


def write_report(
    workdir: Path,
    now: datetime.datetime | None = None,
    tables: Sequence[Table] = (),
    lists: Sequence[tuple[str, Sequence[str]]] = (),
    found: Mapping[str, Any] | None = None,
    partial: bool = False,
) -> WrittenReport:
    """Writes the report of a sweep into its workdir, of what there is so far.

    report.md, report.html, report.json (with the curves), report.csv (a line for each arm),
    runs.csv (a line for each run), and curves and final_error as PNG and SVG.

    Args:
      workdir: of the sweep.
      now: when the report is written, the only thing in it that does not follow from the runs;
        None: now.
      tables: further tables, which come first.
      lists: (title, items) of further sections.
      found: further keys of report.json.
      partial: whether to write a report even if no run has ended.

    Raises:
      InputError: if the workdir holds no sweep, no run of it has ended, or it cannot be written.
    """
    findings = read_findings(workdir)
    if not partial:
        _check_reportable(findings)
    drawn, kind = curves(findings.arms), findings.error_kind
    content = {**findings_json(findings, statement(findings), timestamp(now)), **(found or {})}
    document = _document(findings, content, tables, lists)
    title, names = document.title, [arm.name for arm in findings.arms]
    figures = write_figures(
        {
            'curves': draw_curves(title, names, drawn, kind),
            'final_error': draw_final_errors(title, findings.arms, kind),
        },
        workdir,
    )
    charts = {'arms': _chart_arms(findings.arms), 'curves': drawn, 'panels': _panels(drawn, kind)}
    texts = {
        'report.md': to_markdown(document, [f for f in figures if f.suffix == '.png']),
        'report.html': to_html(document, charts, ('Errors over the steps', _CURVES_NOTE)),
        'report.json': json.dumps({**content, 'curves': drawn}, indent=1) + '\n',
        'report.csv': _arms_csv(content),
        'runs.csv': comma_separated(
            _RUN, ([run.get(name) for name in _RUN] for run in content['runs'])
        ),
    }
    return WrittenReport(document, content, [*write_texts(workdir, texts), *figures])


def _check_reportable(findings: Findings) -> None:
    failed, every = findings.runs('failed'), findings.runs()
    if findings.runs('ended'):
        return
    text = f'nothing to report: none of the {len(every)} runs in {findings.workdir} has finished'
    if failed and failed[0].failure:
        arm = next(arm.name for arm in findings.arms if failed[0] in arm.runs)
        text += f'; {len(failed)} failed ({arm} seed {failed[0].seed}: {failed[0].failure.error})'
    if begun := len(findings.runs('unfinished')):
        text += f'; {begun} have begun; run the command of the sweep again to resume them'
    raise InputError(text)


def _document(
    findings: Findings,
    content: Mapping[str, Any],
    tables: Sequence[Table],
    lists: Sequence[tuple[str, Sequence[str]]],
) -> Document:
    arms, base = findings.arms, findings.baseline.name
    own = [
        arms_table(arms, budget=budget(findings)),
        *([differences_table(arms, base)] if findings.comparable else []),
        _settings_table(findings),
        _unfinished_table(findings),
    ]
    return Document(
        title=findings.sweep.title,
        statement=content['statement'],
        tables=[*tables, *(table for table in own if table.rows)],
        facts=[*_facts(findings), *provenance_facts(content)],
        lists=[(title, items) for title, items in lists if items],
        blocks=_commands(findings),
    )


def _settings_table(findings: Findings) -> Table:
    rows = tuple(
        (arm, ', '.join(f'{k}={v}' for k, v in fields.items()) or 'nothing')
        for arm, fields in findings.sweep.arms.items()
    )
    return Table('What each arm sets', ('arm', 'fields'), rows)


def _unfinished_table(findings: Findings) -> Table:
    """The runs that have not ended, and why."""
    rows = []
    for arm in findings.arms:
        for run in arm.runs:
            if run.state == 'ended':
                continue
            step = f'at step {run.last_step:,}' if run.last_step else NOTHING
            why = run.failure.error if run.failure else step
            rows.append((arm.name, str(run.seed), run.state, why))
    return Table('Failed and unfinished runs', ('arm', 'seed', 'state', 'why'), tuple(rows))


def budget(findings: Findings) -> str:
    """Data, batch size and length of the runs, in words."""
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
    if steps:
        parts.append(f'{" or ".join(f"{n:,}" for n in steps)} steps')
    return ', '.join(parts) or 'unknown'


def _facts(findings: Findings) -> list[tuple[str, str]]:
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


def _commands(findings: Findings) -> list[tuple[str, str]]:
    """The command that made the sweep, and the one that trains the baseline's first run alone."""
    sweep, workdir = findings.sweep, shlex.quote(str(findings.workdir))
    seeds = ','.join(map(str, sweep.seeds))
    if sweep.seeds == tuple(range(len(sweep.seeds))):
        seeds = str(len(sweep.seeds))
    fields = {**sweep.fields, **sweep.arms[sweep.baseline], 'seed': sweep.seeds[0]}
    flags = ' '.join(shlex.quote(f'--config.{k}={v}') for k, v in fields.items())
    base = shlex.quote(os.path.normpath(sweep.base))
    source = sweep.source or 'sweep --config SWEEP.py'
    return [
        ('All runs', f'resnet-jax {source} --workdir {workdir} --seeds {seeds}'),
        (
            "The baseline's first run alone",
            f'resnet-jax train --config {base} --workdir RUN {flags}',
        ),
    ]


def _chart_arms(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """The arms as the page's script draws them."""
    looks = styles([arm.name for arm in arms])
    return [
        {
            'name': arm.name,
            'colour': looks[arm.name][0],
            'dashes': list(looks[arm.name][1]),
            'error': arm.error
            and {name: getattr(arm.error, name) for name in ('mean', 'low', 'high', 'n')},
            'errors': [run.final.error for run in arm.runs if run.final is not None],
            'published': arm.published,
        }
        for arm in arms
    ]


def _panels(drawn: Sequence[Mapping[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [
        {
            **panel,
            'axis': str(panel['axis']).format(kind),
            'curves': [i for i, c in enumerate(drawn) if c['split'] == panel['name']],
        }
        for panel in _PANELS
    ]


def _arms_csv(content: Mapping[str, Any]) -> str:
    """A line for each arm; errors in %, differences to the baseline in percentage points."""
    header = ['arm', *(f'error_{name}' for name in _ESTIMATE)]
    header += [*(f'difference_{name}' for name in _ESTIMATE), *_TEST, *_ARM]
    rows = []
    for arm in content['arms']:
        error, difference = arm['error'] or {}, arm['difference'] or {}
        row = [arm['name'], *(error.get(name) for name in _ESTIMATE)]
        row += [difference.get(name) for name in (*_ESTIMATE, *_TEST)]
        rows.append([*row, *(arm[name] for name in _ARM)])
    return comma_separated(header, rows)
