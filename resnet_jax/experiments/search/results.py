"""What a search found: tables, a figure, and how to go on from the best trial."""

import csv
import dataclasses
import io
import json
import pprint
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_jax.experiments.search.figure import write_figure
from resnet_jax.experiments.search.search import Search
from resnet_jax.experiments.search.trials import STATES, Trial, ranked
from resnet_jax.records.writers import write_atomically
from resnet_jax.training import config_files

SEARCH_FILE, CSV_FILE, FIGURE = 'search.json', 'search.csv', 'search.png'
BEST_FILE, CONFIRM_FILE = 'best.json', 'confirm.py'
# How many of the best are shown, and are trained again with how many other seeds.
_SHOWN, _CONFIRMED, _SEEDS = 10, 3, 5
# What says which images are for training and for evaluation.
_SPLITS = ('data.train_split', 'data.eval_split')
_CONFIRM = '''"""The best trials of a search, for other seeds than the one that chose them.

    {command}
"""


def get_sweep():
    return {sweep}
'''


def in_words(search: Search, trial: Trial) -> str:
    """How a trial ended, in a line."""
    values = ', '.join(f'{_leaf(field)}={shown(v)}' for field, v in trial.values.items())
    error = '' if trial.error is None else f'{100 * trial.error:.2f} % error'
    ends = {
        'complete': f'{error}, {trial.seconds or 0:.0f} s',
        'pruned': f'pruned at step {trial.step} with {error}',
        'failed': f'failed: {trial.failure}',
    }
    return f'{values}: {ends.get(trial.state, trial.state)}'


def shown(value: Any) -> str:
    """A value as people read it."""
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def _leaf(field: str) -> str:
    return field.rpartition('.')[2]


def write_tables(search: Search, workdir: Path, trials: Sequence[Trial]) -> None:
    """Writes search.json and search.csv."""
    best = ranked(trials)[:1]
    found = {
        'search': search.described(),
        'best': best[0].number if best else None,
        'trials': [_row(workdir, trial) for trial in trials],
    }
    write_atomically(workdir / SEARCH_FILE, json.dumps(found, indent=2) + '\n')
    write_atomically(workdir / CSV_FILE, _csv(search, workdir, trials))


def _row(workdir: Path, trial: Trial) -> dict[str, Any]:
    folder = trial.folder.relative_to(workdir)
    return {**dataclasses.asdict(trial), 'folder': str(folder), 'values': dict(trial.values)}


def _csv(search: Search, workdir: Path, trials: Sequence[Trial]) -> str:
    """A line for each trial; errors in %."""
    header = ['trial', 'state', *search.space, 'error', 'loss', 'step', 'seconds', 'failure']
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow([*header, 'folder'])
    for trial in trials:
        error = None if trial.error is None else 100 * trial.error
        found = [error, trial.loss, trial.step, trial.seconds, trial.failure]
        values = [trial.values.get(field) for field in search.space]
        folder = trial.folder.relative_to(workdir)
        writer.writerow([trial.number, trial.state, *values, *found, folder])
    return out.getvalue()


def write(search: Search, workdir: Path, trials: Sequence[Trial]) -> None:
    """Writes the tables, the figure, best.json and confirm.py, as far as there is something."""
    write_tables(search, workdir, trials)
    if any(trial.error is not None for trial in trials):
        write_figure(search, trials, workdir / FIGURE)
    if best := ranked(trials):
        first = best[0]
        found = {
            'trial': first.number,
            'folder': str(first.folder.relative_to(workdir)),
            'values': dict(first.values),
            'error': first.error,
            'loss': first.loss,
            'seed': search.seed,
            'command': search.command(first.values, workdir / 'best'),
        }
        write_atomically(workdir / BEST_FILE, json.dumps(found, indent=2) + '\n')
        write_atomically(workdir / CONFIRM_FILE, _confirm(search, workdir, best[:_CONFIRMED]))


def _confirm(search: Search, workdir: Path, best: Sequence[Trial]) -> str:
    """A sweep file of the best trials, evaluated on what the base config evaluates on."""
    names = [f'trial {trial.number}' for trial in best]
    sweep = {
        'title': f'the best of: {search.title}',
        'base': config_files.absolute(search.base),
        'fields': {k: v for k, v in search.fields.items() if k not in _SPLITS},
        'arms': {name: dict(t.values) for name, t in zip(names, best, strict=True)},
        'baseline': names[0],
        'seeds': _SEEDS,
    }
    text = pprint.pformat(sweep, indent=4, width=96, sort_dicts=False).replace('\n', '\n    ')
    return _CONFIRM.format(command=confirm_command(search, workdir), sweep=text)


def confirm_command(search: Search, workdir: Path) -> str:
    """The command that trains the best trials with other seeds than the search's."""
    seeds = ','.join(str(search.seed + 1 + i) for i in range(_SEEDS))
    file, folder = workdir / CONFIRM_FILE, workdir / 'confirm'
    return f'resnet-jax sweep --config {file} --workdir {folder} --seeds {seeds}'


def text(search: Search, workdir: Path, trials: Sequence[Trial]) -> str:
    """The best trials as a table, and what may be said of them."""
    counts = {state: sum(trial.state == state for trial in trials) for state in STATES}
    states = ', '.join(f'{count} {state}' for state, count in counts.items() if count)
    lines = [
        search.title,
        f'{search.sampler} sampler, {search.pruner} pruner: {len(trials)} of {search.trials} '
        f'trials, {states or "none has begun"}',
    ]
    best = ranked(trials)
    if not best:
        return '\n'.join([*lines, f'no trial is complete; see {workdir / SEARCH_FILE}'])
    header = ['trial', *map(_leaf, search.space), 'error %', 'loss']
    rows = [
        [
            str(trial.number),
            *(shown(trial.values[field]) for field in search.space),
            f'{100 * (trial.error or 0):.2f}',
            f'{trial.loss:.4f}',
        ]
        for trial in best[:_SHOWN]
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        lines.append('  '.join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    return '\n'.join([*lines, *_advice(search, workdir, best[0], len(trials))])


def _advice(search: Search, workdir: Path, best: Trial, count: int) -> list[str]:
    split = search.config(best.values).data.eval_split
    return [
        f'Trial {best.number} is the best of {count} with one seed, chosen by its {search.metric} '
        f'on {split}: that figure is',
        'optimistic. Trained again it is the same run; other seeds say how good it is:',
        f'  {search.command(best.values, workdir / "best")}',
        f'  {confirm_command(search, workdir)}',
    ]
