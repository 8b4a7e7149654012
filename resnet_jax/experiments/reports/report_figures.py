"""The figures of reports, as PNG and SVG."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_jax.experiments.reports.findings import Arm
from resnet_jax.figures import Look, figure_text, new_figure, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from resnet_jax.experiments.probe import FewShot, Result

_INCHES = (9.0, 4.2)


def draw_curves(
    title: str, arms: Sequence[str], curves: Sequence[Mapping[str, Any]], kind: str = 'top-1'
) -> 'Figure':
    """The errors over the steps: a line for each arm, with a band from its best to its worst seed.

    Args:
      title: of the figure.
      arms: names, in order.
      curves: as `findings.curves` returns them. A split without any, as the training images of
        most dense tasks, has no panel.
      kind: of error.
    """
    looks = styles(arms)
    legend_rows = -(-len(arms) // 3)
    figure = new_figure((_INCHES[0], _INCHES[1] + 0.25 * legend_rows), title)
    drawn = [curve for curve in curves if curve['mean']]
    both = 'train', 'test'
    splits = [split for split in both if any(curve['split'] == split for curve in drawn)] or both
    panels = figure.subplots(1, len(splits), sharex=True, sharey=True, squeeze=False)[0]
    for axes, split in zip(panels, splits, strict=True):
        for curve in (curve for curve in drawn if curve['split'] == split):
            steps, mean, low, high = zip(*curve['mean'], strict=True)
            _line(axes, steps, mean, looks[curve['arm']])
            if len(curve['seeds']) > 1:
                colour = looks[curve['arm']][0]
                axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    for axes, split in zip(panels, splits, strict=True):  # afterwards: they share their limits
        name = 'training' if split == 'train' else 'test'
        _label(axes, f'{name} error, {kind} (%)')
        axes.set_title('training, augmented images' if split == 'train' else 'test', fontsize=10)
    _legend(figure, looks, 'line: mean over seeds; band: from the lowest to the highest seed')
    return figure


def draw_run(title: str, panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> 'Figure':
    """The figures of one run over its steps, side by side.

    Args:
      title: of the figure.
      panels: label of the vertical axis -> name of a line -> points (step, value).
    """
    looks = styles(list(dict.fromkeys(name for lines in panels.values() for name in lines)))
    figure = new_figure((_INCHES[0] * len(panels) / 2, _INCHES[1]), title)
    for axes, (label, lines) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for name, points in lines.items():
            if points:
                steps, values = zip(*points, strict=True)
                _line(axes, steps, values, looks[name])
        _label(axes, label)
    _legend(figure, looks)
    return figure


def draw_rates(
    title: str,
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    chosen: float | None,
) -> 'Figure':
    """The loss of a learning-rate range test against the rate.

    Args:
      title: of the figure.
      rates: of each step.
      losses: of each step.
      smoothed: their average, of each step.
      chosen: the rate that is suggested; None: none.
    """
    figure = new_figure((6.4, 4), title)
    axes = figure.subplots()
    axes.plot(rates, losses, color='0.75', lw=1, label='loss of the step')
    axes.plot(rates, smoothed, color='C0', label='smoothed')
    if chosen is not None:
        axes.axvline(chosen, color='C1', ls='--', label=f'steepest descent, {chosen:.2g}')
    top = 1.2 * max(smoothed)
    axes.set(xscale='log', xlabel='learning rate', ylabel='training loss (nats)', ylim=(0, top))
    axes.legend()
    return figure


def draw_few_shot(
    found: 'Sequence[FewShot]', whole: 'Sequence[Result]', per_class: float, title: str
) -> 'Figure':
    """A figure of the accuracy over the number of examples per class, with 95 % intervals.

    Args:
      found: the tests with few examples.
      whole: those with all.
      per_class: the number of training examples per class, on average.
      title: of the figure.

    Returns:
      A Matplotlib figure.
    """
    figure = new_figure((7.0, 4.2), title)
    axes = figure.subplots()
    lines = {f'{r.layer}, {r.classifier}': r for r in whole}
    for (name, last), (colour, dashes) in zip(
        lines.items(), styles(list(lines)).values(), strict=True
    ):
        points = [f for f in found if (f.layer, f.classifier) == (last.layer, last.classifier)]
        x = [*(f.shots for f in points), per_class]
        y = np.asarray([*(f.estimate.mean for f in points), last.accuracy])
        ends = [(f.estimate.low, f.estimate.high) for f in points] + [(last.low, last.high)]
        below = [y_ - (y_ if low is None else low) for y_, (low, _) in zip(y, ends, strict=True)]
        above = [(y_ if high is None else high) - y_ for y_, (_, high) in zip(y, ends, strict=True)]
        axes.errorbar(
            x,
            100 * y,
            yerr=100 * np.asarray([below, above]),
            label=figure_text(name),
            color=colour,
            linestyle=(0, dashes) if dashes else '-',
            marker='o',
            capsize=3,
        )
    axes.set_xscale('log')
    ticks = sorted({f.shots for f in found})
    axes.set_xticks([*ticks, per_class], [*map(str, ticks), f'all\n({per_class:.0f})'])
    axes.minorticks_off()
    axes.set_xlabel('training examples per class')
    axes.set_ylabel('test accuracy, %')
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _line(axes: 'Axes', steps: Sequence[float], values: Sequence[float], look: Look) -> None:
    marker = '.' if len(steps) < 30 else ''
    axes.plot(steps, values, color=look[0], dashes=look[1], marker=marker, linewidth=1.5)


def _label(axes: 'Axes', name: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel('training step')
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator('auto', integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.set_ylabel(name)
    axes.grid(alpha=0.3)


def _legend(figure: 'Figure', looks: Mapping[str, Look], title: str | None = None) -> None:
    """A legend below the panels, of all lines, including those without points."""
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=colour, dashes=dashes, label=figure_text(_short(name)))
        for name, (colour, dashes) in looks.items()
    ]
    figure.legend(
        handles=lines,
        loc='outside lower center',
        ncols=min(3, max(len(lines), 1)),
        fontsize=8,
        title=title,
        title_fontsize=8,
        handlelength=3.5,
    )


def _short(text: str, limit: int = 44) -> str:
    return text if len(text) <= limit else f'{text[: limit - 1]}…'


def draw_final_errors(title: str, arms: Sequence[Arm], kind: str = 'top-1') -> 'Figure':
    """The final errors, an arm below the other: a dot for each seed, the mean and its interval."""
    figure = new_figure((_INCHES[0], 1.6 + 0.42 * len(arms)), title)
    axes = figure.subplots()
    looks = styles([arm.name for arm in arms])
    for place, arm in enumerate(arms):
        _final_row(axes, place, arm, looks[arm.name][0])
    names = [figure_text(_short(arm.name)) for arm in arms]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, 0), min(high, 100))
    axes.set_ylabel('arm')
    published = any(arm.published is not None for arm in arms)
    axes.set_xlabel(
        f'final test error, {kind} (%)\n'
        'dots: seeds; diamond and bar: mean and its 95 % interval'
        + ('; cross: published' if published else ''),
        fontsize=9,
    )
    axes.grid(axis='x', alpha=0.3)
    return figure


def _final_row(axes: 'Axes', place: int, arm: Arm, colour: str) -> None:
    if arm.published is not None:
        axes.plot(arm.published, place - 0.22, 'x', color='black', markersize=7)
    if arm.error is None:
        axes.text(
            0.01, place, 'no run has finished', transform=axes.get_yaxis_transform(), va='center'
        )
        return
    errors = [run.final.error for run in arm.runs if run.final is not None]
    axes.plot(errors, [place + 0.22] * len(errors), 'o', color=colour, alpha=0.55, markersize=4)
    if arm.error.low is not None and arm.error.high is not None:
        axes.plot([arm.error.low, arm.error.high], [place, place], color=colour, linewidth=2)
    axes.plot(arm.error.mean, place, 'D', color=colour, markersize=6)
