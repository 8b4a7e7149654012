"""Pictures of calibration: reliability diagrams."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resnet_jax.figures import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GAP = '#c0392b'


def draw(
    before: Mapping[str, Any],
    after: Mapping[str, Any] | None,
    temperature: float | None,
    title: str,
) -> 'dict[str, Figure]':
    """Reliability diagrams with histograms of the confidences, before and after scaling.

    Args:
      before: as `calibration.figures` returns it.
      after: the same with the temperature; None without one.
      temperature: the temperature.
      title: of the figure.
    """
    columns = [(before, 'as trained')]
    if after is not None:
        columns.append((after, f'logits divided by {temperature:.3g}'))
    figure = new_figure((4.6 * len(columns) + 0.4, 6.4), title)
    grid = figure.subplots(
        2, len(columns), sharex=True, sharey='row', squeeze=False, height_ratios=(3, 1)
    )
    for i, (found, name) in enumerate(columns):
        _diagram(grid[0, i], found, name)
        _histogram(grid[1, i], found)
    grid[0, 0].set_ylabel('accuracy')
    grid[1, 0].set_ylabel('images (%)')
    grid[0, 0].legend(loc='upper left', fontsize='small')
    return {'reliability': figure}


def _diagram(axes: 'Axes', found: Mapping[str, Any], name: str) -> None:
    """The accuracy of each bin, and how far it is from the mean confidence there."""
    bins = [b for b in found['bins'] if b['n']]
    left, width = [b['low'] for b in bins], [b['high'] - b['low'] for b in bins]
    accuracy = [b['accuracy'] for b in bins]
    gaps = [b['confidence'] - b['accuracy'] for b in bins]
    common: Any = {'align': 'edge', 'edgecolor': 'white', 'linewidth': 0.7}
    axes.bar(left, accuracy, width, color=COLOURS[0], label='accuracy', **common)
    common |= {'edgecolor': _GAP, 'facecolor': '#c0392b33', 'hatch': '///'}
    axes.bar(left, gaps, width, bottom=accuracy, label='gap to the confidence', **common)
    axes.plot([0, 1], [0, 1], color='#555555', linestyle='--', linewidth=1)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_title(name, size='medium')
    axes.text(
        0.97,
        0.04,
        '\n'.join(
            [
                f'ECE {_percent(found, "ece")}',
                f'adaptive {_percent(found, "ece_adaptive")}',
                f'NLL {found["nll"]:.3f} nats',
                f'Brier {found["brier"]:.3f}',
            ]
        ),
        transform=axes.transAxes,
        ha='right',
        va='bottom',
        size='small',
        bbox={'facecolor': 'white', 'alpha': 0.9, 'edgecolor': '#cccccc'},
    )
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3)


def _percent(found: Mapping[str, Any], key: str) -> str:
    text = f'{100 * found[key]:.2f} %'
    interval = found[f'{key}_interval']
    if interval is None:
        return text
    return f'{text} ({100 * interval[0]:.2f} to {100 * interval[1]:.2f})'


def _histogram(axes: 'Axes', found: Mapping[str, Any]) -> None:
    """The share of the images in each bin, and the two means that calibration makes equal."""
    bins = found['bins']
    n = sum(b['n'] for b in bins)
    axes.bar(
        [b['low'] for b in bins],
        [100 * b['n'] / n for b in bins],
        [b['high'] - b['low'] for b in bins],
        align='edge',
        color='#b8c4d6',
        edgecolor='white',
        linewidth=0.7,
    )
    axes.axvline(found['accuracy'], color=COLOURS[0], label='accuracy')
    axes.axvline(found['confidence'], color=_GAP, linestyle='--', label='mean confidence')
    axes.set_xlabel('confidence (probability of the predicted class)')
    axes.legend(loc='upper left', frameon=False, fontsize='small')
    axes.grid(axis='y', alpha=0.3)
