"""The figure of a search: the results of the trials against each searched field."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_jax.experiments.search.search import Range, Search
from resnet_jax.experiments.search.trials import Trial, ranked

_PANEL_INCHES = (4.6, 4.4)
_LABELS = {'error': 'top-1 error (%)', 'loss': 'loss (nats)'}
# State -> marker, and whether it is filled. A failed trial has no value and is drawn at the top.
_MARKERS = {'complete': ('o', True), 'pruned': ('v', False), 'failed': ('x', True)}


def write_figure(search: Search, trials: Sequence[Trial], path: Path) -> None:
    """Draws a panel for each searched field, with a marker for each evaluated or failed trial.

    Args:
      search: the search.
      trials: its trials.
      path: path of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    columns = min(3, len(search.space))
    rows = -(-len(search.space) // columns)
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * columns + 0.8, height * rows), layout='constrained')
    figure.suptitle(search.title.replace('$', r'\$'), wrap=True)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    colours = ScalarMappable(Normalize(0, max(len(trials) - 1, 1)), 'viridis')
    split = search.config(trials[0].values).data.eval_split
    for axes, field in zip(panels, search.space, strict=False):
        _marks(axes, search, field, trials, colours)
        _ring(axes, search, field, trials)
        axes.set_xlabel(field)
        axes.grid(alpha=0.3)
    for axes in panels[:: len(panels) // rows]:
        axes.set_ylabel(f'{_LABELS[search.metric]}, last evaluation on {split}')
    for axes in panels[len(search.space) :]:
        axes.set_visible(False)
    seen = [y for trial in trials if (y := _height(search, trial)) is not None]
    if min(seen) > 0 and max(seen) > 10 * min(seen):
        panels[0].set_yscale('log')
        panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[0].yaxis.set_major_formatter('{x:g}')
        panels[0].yaxis.set_minor_formatter(NullFormatter())
    figure.colorbar(colours, ax=list(panels[: len(search.space)]), label='trial, in order')
    _legend(figure, trials)
    FigureCanvasAgg(figure).print_png(path)


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
    values = search.space[field]
    if isinstance(values, Range):
        axes.set_xscale('log' if values.kind == 'log' else 'linear')
        axes.plot(values.ends, [0.5, 0.5], alpha=0, transform=axes.get_xaxis_transform())
    else:
        axes.set_xticks(range(len(values.choices)), values.choices)
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
