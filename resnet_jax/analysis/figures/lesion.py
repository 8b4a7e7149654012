"""Pictures of a lesion study."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resnet_jax.figures import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(found: Mapping[str, Any], title: str) -> 'dict[str, Figure]':
    """The error with each part removed, and with several removed or swapped.

    Args:
      found: as `lesion.study` returns it.
      title: of the figures.
    """
    figures = {'removed': _removed(found, title)}
    if found['random'] or found['swapped']:
        figures['several'] = _several(found, title)
    return figures


def _removed(found: Mapping[str, Any], title: str) -> 'Figure':
    names = list(found['removed'])
    figure = new_figure((max(6.0, 2 + 0.16 * len(names)), 4.2), title)
    axes = figure.add_subplot()
    heights = [100 * error for error in found['removed'].values()]
    stages = sorted({name.split('/')[0] for name in names})
    colours = [COLOURS[stages.index(name.split('/')[0]) % len(COLOURS)] for name in names]
    axes.bar(range(len(names)), heights, color=colours)
    _undamaged(axes, found['error'])
    axes.legend(loc='upper right', frameon=False, fontsize='small')
    axes.margins(y=0.15)
    # Of many names, those of the stages' first parts and a few more are legible.
    step = -(-len(names) // 60)
    axes.set_xticks(range(0, len(names), step), names[::step], rotation=90, size='x-small')
    axes.set_xlim(-0.7, len(names) - 0.3)
    axes.set_xlabel('what is removed')
    axes.set_ylabel('error (%)')
    axes.grid(axis='y', alpha=0.3)
    return figure


def _several(found: Mapping[str, Any], title: str) -> 'Figure':
    from matplotlib.ticker import MaxNLocator

    figure = new_figure((9.0, 4.2), title)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, label in zip(
        panels,
        ('random', 'swapped'),
        ('number of blocks removed', 'number of pairs swapped'),
        strict=True,
    ):
        _draws(axes, found[key])
        _undamaged(axes, found['error'])
        if found[key]:
            axes.legend(loc='lower right', fontsize='small')
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel('error (%)')
    return figure


def _draws(axes: 'Axes', groups: Mapping[str, Any]) -> None:
    """Every draw as a dot, and the mean with its interval."""
    if not groups:
        axes.text(0.5, 0.5, 'no such blocks', ha='center', transform=axes.transAxes)
        return
    numbers = [int(n) for n in groups]
    for n, each in zip(numbers, groups.values(), strict=True):
        dots = [100 * error for error in each['errors']]
        axes.plot([n] * len(dots), dots, '.', color=COLOURS[0], alpha=0.35, markersize=5)
    means = [100 * each['mean'] for each in groups.values()]
    axes.plot(numbers, means, color=COLOURS[0], label='mean of the draws')
    ends = [(each['low'], each['high']) for each in groups.values()]
    if all(low is not None for low, _ in ends):
        low, high = zip(*ends, strict=True)
        axes.fill_between(
            numbers,
            [100 * x for x in low],
            [100 * x for x in high],
            color=COLOURS[0],
            alpha=0.18,
            linewidth=0,
            label='95 % interval of the mean',
        )


def _undamaged(axes: 'Axes', error: float) -> None:
    label = f'undamaged: {100 * error:.2f} %'
    axes.axhline(100 * error, color='#555555', linestyle='--', linewidth=1, label=label)
