"""Pictures of the similarity of layers, and of the size of branches."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from resnet_jax.figures import COLOURS, figure_text, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_WITH_NUMBERS = 14  # layers of a heat map with a number in each cell
_MOST_LABELS = 60


def draw(
    values: Float[np.ndarray, 'a b'],
    first: Sequence[str],
    second: Sequence[str],
    titles: tuple[str, str | None],
    branches: Mapping[str, Mapping[str, float]],
) -> 'dict[str, Figure]':
    """A heat map of CKA, and bars of ||F(x)|| / ||x||.

    Args:
      values: CKA.
      first: layers of its rows.
      second: layers of its columns.
      titles: of the first network, which is that of the figures, and of the second, if it is
        another.
      branches: name of a network -> block -> ratio.
    """
    figures = {'cka': _heat_map(values, first, second, titles)}
    if any(branches.values()):
        figures['branch'] = _bars(branches, titles[0])
    return figures


def _heat_map(
    values: Float[np.ndarray, 'a b'],
    first: Sequence[str],
    second: Sequence[str],
    titles: tuple[str, str | None],
) -> 'Figure':
    rows, columns = len(first), len(second)
    with_numbers = max(rows, columns) <= _MOST_WITH_NUMBERS
    cell = 0.42 if with_numbers else 0.26 if max(rows, columns) <= 30 else 0.17  # inches
    width, height = (min(max(3.0, cell * n), 11) for n in (columns, rows))
    title = titles[0] if titles[1] is None else f'{titles[0]}, and {titles[1]}'
    figure = new_figure((max(width + 2.6, 6), height + 2.0), title)
    figure.set_layout_engine('compressed')  # which knows that the axes keep their shape
    axes = figure.add_subplot()
    # The unbiased estimator can give values below 0.
    lowest = min(0.0, float(np.nanmin(values))) if np.isfinite(values).any() else 0.0
    image = axes.imshow(values, cmap='magma', vmin=lowest, vmax=1, origin='lower', aspect='equal')
    figure.colorbar(image, ax=axes, label='linear CKA', aspect=30)
    for names, place, rotation in (
        (second, axes.set_xticks, 90),
        (first, axes.set_yticks, 0),
    ):
        step = -(-len(names) // _MOST_LABELS)
        labels = [figure_text(name) for name in names[::step]]
        place(range(0, len(names), step), labels, rotation=rotation, size='x-small')
    axes.set_xlabel('layer' if titles[1] is None else 'layer of the second network')
    axes.set_ylabel('layer' if titles[1] is None else 'layer of the first network')
    if with_numbers:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = 'black' if value > 0.57 else 'white'
                style: Any = {'ha': 'center', 'va': 'center', 'color': colour, 'size': 6.5}
                axes.text(j, i, f'{value:.2f}', **style)
    return figure


def _bars(branches: Mapping[str, Mapping[str, float]], title: str) -> 'Figure':
    names = sorted({name for ratios in branches.values() for name in ratios}, key=_place)
    figure = new_figure(
        (max(6.0, 2 + 0.2 * len(names) * len(branches)), 4.0 + 0.3 * len(branches)), title
    )
    axes = figure.add_subplot()
    share = 0.8 / len(branches)
    for i, (network, ratios) in enumerate(branches.items()):
        at = [names.index(name) + share * (i - (len(branches) - 1) / 2) for name in ratios]
        label = figure_text(network) if len(branches) > 1 else None
        axes.bar(at, list(ratios.values()), share, color=COLOURS[i], label=label)
    axes.axhline(1, color='#555555', linestyle='--', linewidth=1)
    step = -(-len(names) // _MOST_LABELS)
    labels = [figure_text(name) for name in names[::step]]
    axes.set_xticks(range(0, len(names), step), labels, rotation=90, size='x-small')
    axes.set_xlim(-0.7, len(names) - 0.3)
    axes.set_xlabel('block')
    axes.set_ylabel('||F(x)|| / ||x||')
    axes.grid(axis='y', alpha=0.3)
    if len(branches) > 1:
        figure.legend(loc='outside lower center', frameon=False, fontsize='small')
    return figure


def _place(block: str) -> list[int]:
    """Of a block such as 'stage2/block10', by which it is sorted."""
    return [int(number) for number in re.findall(r'\d+', block)]
