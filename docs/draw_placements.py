"""Draws the placements of norm and activation side by side, like He et al. 2016, figure 4.

Each box is an operation of a row of `PLACEMENTS`, spelled out by the function that the blocks use,
so that the picture shows what they compute.

    python docs/draw_placements.py    # writes docs/placements.png
"""

import dataclasses
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from resnet_jax.models.block import spell_out
from resnet_jax.models.design import BASIC, PLACEMENTS

LABELS = {'conv': '3x3 conv', 'norm': 'BN', 'act': 'ReLU'}
COLOURS = {'conv': '#cfe2f3', 'norm': '#fce5cd', 'act': '#d9ead3'}
STEP, WIDTH, HEIGHT = 1.0, 1.3, 0.6


def boxes(placement):
    """The kinds of operation from the block's input to its output, 'add' for the addition."""
    before, branch, after = spell_out(dataclasses.replace(BASIC, placement=placement))
    kinds = [op.kind for op in (*before, *branch)]
    return [*kinds, 'add', *(op.kind for op in after)]


def draw(axes, placement, rows):
    """One block: the branch on the right, the shortcut as a line on the left."""
    column = boxes(placement)
    arrow = {'arrowstyle': '-|>', 'color': 'black', 'shrinkA': 0, 'shrinkB': 0}
    top = 0.0
    axes.text(0, top + 0.15, 'x', ha='center', va='bottom', style='italic')
    for i, kind in enumerate(column, 1):
        y = -i * STEP
        axes.annotate('', (0, y + HEIGHT / 2), (0, y + STEP - HEIGHT / 2), arrowprops=arrow)
        if kind == 'add':
            axes.text(0, y, '+', ha='center', va='center', size=15)
            axes.add_patch(_circle(y))
            axes.plot([0, -1.1, -1.1], [top - 0.1, top - 0.1, y], color='black', lw=1)
            axes.annotate('', (-0.27, y), (-1.1, y), arrowprops=arrow)
        else:
            axes.text(
                0,
                y,
                LABELS[kind],
                ha='center',
                va='center',
                size=9,
                bbox={'boxstyle': 'square,pad=0.45', 'fc': COLOURS[kind], 'ec': 'black', 'lw': 0.8},
            )
    end = -(len(column) + 1) * STEP
    axes.annotate('', (0, end + 0.2), (0, end + STEP - HEIGHT / 2), arrowprops=arrow)
    axes.set_title(placement, size=10, family='monospace')
    axes.set_xlim(-1.5, 1.1)
    axes.set_ylim(-(rows + 1.2) * STEP, 0.7)
    axes.axis('off')


def _circle(y):
    from matplotlib.patches import Circle

    return Circle((0, y), 0.27, fill=False, lw=1)


def main():
    """Writes the picture beside this script."""
    rows = max(len(boxes(p)) for p in PLACEMENTS)
    figure = Figure(figsize=(2.3 * len(PLACEMENTS), 0.62 * (rows + 2)), layout='constrained')
    for axes, placement in zip(figure.subplots(1, len(PLACEMENTS)), PLACEMENTS, strict=True):
        draw(axes, placement, rows)
        axes.set_aspect('equal')
    path = Path(__file__).with_name('placements.png')
    FigureCanvasAgg(figure).print_png(path)
    print(path)


if __name__ == '__main__':
    main()
