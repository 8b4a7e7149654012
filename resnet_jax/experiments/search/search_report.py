"""The report of a search: tables, a figure, and how to continue from the best trial."""

import json
import pprint
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_jax.experiments.search.search import Range, Search
from resnet_jax.experiments.search.study import STATES, Trial, ranked
from resnet_jax.figures import figure_text, new_figure
from resnet_jax.records.writers import write_atomically
from resnet_jax.text import NOTHING, aligned, comma_separated, paragraph, shell_command
from resnet_jax.training import config_files

SEARCH_FILE, CSV_FILE, FIGURE = 'search.json', 'search.csv', 'search.png'
BEST_FILE, CONFIRM_FILE = 'best.json', 'confirm.py'
_SHOWN = 10  # of the best trials
_CONFIRMED, _SEEDS = 3, 5  # how many of the best are trained again, with how many other seeds
# Fields that say which images are for training and which for evaluation.
_SPLITS = ('data.train_split', 'data.eval_split')
_CONFIRM = '''"""The best trials of a search, with other seeds than the one that selected them.

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
    """A value for people."""
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def _leaf(field: str) -> str:
    return field.rpartition('.')[2]


def write_tables(search: Search, workdir: Path, trials: Sequence[Trial]) -> None:
    """Writes search.json and search.csv."""
    best = ranked(trials)[:1]
    found = {
        'search': search.described(),
        'best': best[0].number if best else None,
        'trials': [_trial_json(workdir, trial) for trial in trials],
    }
    write_atomically(workdir / SEARCH_FILE, json.dumps(found, indent=2) + '\n')
    write_atomically(workdir / CSV_FILE, _csv(search, workdir, trials))


def _trial_json(workdir: Path, trial: Trial) -> dict[str, Any]:
    return {
        'number': trial.number,
        'folder': _folder(workdir, trial),
        'state': trial.state,
        'values': dict(trial.values),
        'step': trial.step,
        'error': trial.error,
        'loss': trial.loss,
        'value': trial.value,
        'seconds': trial.seconds,
        'failure': trial.failure,
    }


def _folder(workdir: Path, trial: Trial) -> str:
    return str(trial.run.folder.relative_to(workdir))


def _csv(search: Search, workdir: Path, trials: Sequence[Trial]) -> str:
    """A line for each trial; errors in %."""
    header = ['trial', 'state', *search.space, 'error', 'loss', 'step', 'seconds', 'failure']
    rows = []
    for trial in trials:
        error = None if trial.error is None else 100 * trial.error
        values = [trial.values.get(field) for field in search.space]
        figures = [error, trial.loss, trial.step, trial.seconds, trial.failure]
        rows.append([trial.number, trial.state, *values, *figures, _folder(workdir, trial)])
    return comma_separated([*header, 'folder'], rows)


def write_search_report(search: Search, workdir: Path, trials: Sequence[Trial]) -> None:
    """Writes the tables, the figure, best.json and confirm.py, as far as there are results."""
    write_tables(search, workdir, trials)
    if any(trial.error is not None for trial in trials):
        write_figure(search, trials, workdir / FIGURE)
    if best := ranked(trials):
        first = best[0]
        found = {
            'trial': first.number,
            'folder': _folder(workdir, first),
            'values': dict(first.values),
            'error': first.error,
            'loss': first.loss,
            'seed': search.seed,
            'command': search.command(first.values, workdir / 'best'),
        }
        write_atomically(workdir / BEST_FILE, json.dumps(found, indent=2) + '\n')
        write_atomically(workdir / CONFIRM_FILE, _confirm(search, workdir, best[:_CONFIRMED]))


def _confirm(search: Search, workdir: Path, best: Sequence[Trial]) -> str:
    """A sweep file of the best trials, evaluated on the evaluation split of the base config."""
    names = [f'trial {trial.number}' for trial in best]
    sweep = {
        'title': f'the best of: {search.title}',
        'base': config_files.absolute(search.base),
        'fields': {k: v for k, v in search.fields.items() if k not in _SPLITS},
        'arms': {name: search.effective(t.values) for name, t in zip(names, best, strict=True)},
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


def summary(
    search: Search, workdir: Path, trials: Sequence[Trial], width: int | None = None
) -> str:
    """The best trials as a table, what may be concluded from them, and the next commands.

    Args:
      search: the search.
      workdir: its folder.
      trials: as many as there are.
      width: of the lines, but for commands, which are to be copied; None: any.
    """
    counts = {state: sum(trial.state == state for trial in trials) for state in STATES}
    states = ', '.join(f'{count} {state}' for state, count in counts.items() if count)
    lines = [
        paragraph(search.title, width),
        paragraph(
            f'{search.sampler} sampler, {search.pruner} pruner: {len(trials)} of {search.trials} '
            f'trials, {states or "none has begun"}',
            width,
        ),
    ]
    best = ranked(trials)
    if not best:
        return '\n'.join([*lines, f'no trial is complete; see {workdir / SEARCH_FILE}'])
    header = ['trial', *map(_leaf, search.space), 'error %', 'loss']
    rows = [
        [
            str(trial.number),
            *(shown(trial.values[field]) for field in search.space),
            NOTHING if trial.error is None else f'{100 * trial.error:.2f}',
            NOTHING if trial.loss is None else f'{trial.loss:.4f}',
        ]
        for trial in best[:_SHOWN]
    ]
    return '\n'.join(
        [
            *lines,
            aligned(header, rows, width),
            *_advice(search, workdir, best[0], len(trials), width),
        ]
    )


def _advice(search: Search, workdir: Path, best: Trial, count: int, width: int | None) -> list[str]:
    split = search.config(best.values).data.eval_split
    return [
        paragraph(
            f'Trial {best.number} is the best of {count} with one seed, selected by its '
            f'{search.metric} on {split}, so that figure is optimistic. The first command trains '
            'the same run again; the second trains the best trials with other seeds:',
            width,
        ),
        *(
            f'  {shell_command(command, width and width - 2, " " * 6)}'
            for command in (
                search.command(best.values, workdir / 'best'),
                confirm_command(search, workdir),
            )
        ),
    ]


_PANEL_INCHES = (4.6, 4.4)
_LABELS = {'error': 'error, {} (%)', 'loss': 'loss (nats)'}
# State -> marker, and whether it is filled. A failed trial has no value and is drawn at the top.
_MARKERS = {'complete': ('o', True), 'pruned': ('v', False), 'failed': ('x', True)}


def write_figure(search: Search, trials: Sequence[Trial], path: Path) -> None:
    """Draws a panel for each searched field, with a marker for each evaluated or failed trial.

    Args:
      search: the search.
      trials: its trials.
      path: path of the PNG.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    columns = min(3, len(search.space))
    rows = -(-len(search.space) // columns)
    width, height = _PANEL_INCHES
    figure = new_figure((width * columns + 0.8, height * rows), search.title)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    colours = ScalarMappable(Normalize(0, max(len(trials) - 1, 1)), 'viridis')
    split, kind = search.config(trials[0].values).data.eval_split, trials[0].run.error_kind
    for axes, field in zip(panels, search.space, strict=False):
        _marks(axes, search, field, trials, colours)
        _ring(axes, search, field, trials)
        axes.set_xlabel(field)
        axes.grid(alpha=0.3)
    for axes in panels[:: len(panels) // rows]:
        label = _LABELS[search.metric].format(kind)
        axes.set_ylabel(f'{label}, last evaluation on {split}')
    for axes in panels[len(search.space) :]:
        axes.set_visible(False)
    seen = [y for trial in trials if (y := _height(search, trial)) is not None]
    if min(seen) > 0 and max(seen) > 10 * min(seen):
        panels[0].set_yscale('log')
        panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[0].yaxis.set_major_formatter('{x:g}')
        panels[0].yaxis.set_minor_formatter(NullFormatter())
    shown = list(panels[: len(search.space)])
    whole = MaxNLocator(integer=True)
    figure.colorbar(colours, ax=shown, label='trial, in order', ticks=whole)
    _legend(figure, trials)
    figure.savefig(path)


def _height(search: Search, trial: Trial) -> float | None:
    """The metric at the last evaluation, in the unit of the axis; None if there is no value."""
    if trial.state not in ('complete', 'pruned'):
        return None
    if search.metric == 'loss':
        return trial.loss
    return None if trial.error is None else 100 * trial.error


def _place(search: Search, field: str, trial: Trial) -> float:
    """The position of a trial's value on the field's axis."""
    values = search.space[field]
    if isinstance(values, Range):
        return float(trial.values[field])
    return values.choices.index(trial.values[field])


def _marks(axes: Any, search: Search, field: str, trials: Sequence[Trial], colours: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    values = search.space[field]
    if isinstance(values, Range):
        axes.set_xscale('log' if values.kind == 'log' else 'linear')
        if values.kind == 'int':
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.plot(values.ends, [0.5, 0.5], alpha=0, transform=axes.get_xaxis_transform())
    else:
        axes.set_xticks(range(len(values.choices)), [*map(figure_text, values.choices)])
    for trial in trials:
        x, y = _place(search, field, trial), _height(search, trial)
        colour = colours.to_rgba(trial.number)
        if trial.state == 'failed':
            at = axes.get_xaxis_transform()
            axes.plot(x, 0.98, 'x', color=colour, transform=at, markersize=7)
        elif y is not None:
            marker, filled = _MARKERS[trial.state]
            face = colour if filled else 'none'
            axes.plot(x, y, marker, color=colour, markerfacecolor=face, markersize=7)


def _ring(axes: Any, search: Search, field: str, trials: Sequence[Trial]) -> None:
    """Draws a ring around the best trial."""
    for trial in ranked(trials)[:1]:
        axes.plot(
            _place(search, field, trial),
            _height(search, trial),
            'o',
            color='#c94f7c',
            markerfacecolor='none',
            markersize=13,
            markeredgewidth=2,
        )


def _legend(figure: Any, trials: Sequence[Trial]) -> None:
    from matplotlib.lines import Line2D

    notes = {'complete': 'complete', 'pruned': 'pruned early', 'failed': 'failed: no value'}
    present = [state for state in notes if any(trial.state == state for trial in trials)]
    lines = []
    for state in present:
        marker, filled = _MARKERS[state]
        face = 'grey' if filled else 'none'
        look: dict[str, Any] = {'color': 'grey', 'markerfacecolor': face, 'linestyle': 'none'}
        lines.append(Line2D([], [], marker=marker, label=notes[state], **look))
    if ranked(trials):
        look = {'color': '#c94f7c', 'markerfacecolor': 'none', 'linestyle': 'none'}
        lines.append(Line2D([], [], marker='o', markersize=10, label='the best', **look))
    figure.legend(handles=lines, loc='outside lower center', ncols=len(lines), fontsize=9)
