"""Curves of each class against the rest."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resnet_jax.analysis.gallery import Curves
from resnet_jax.figures import figure_text, new_figure, styles
from resnet_jax.text import printable, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES = 20  # in one figure
_LONGEST_NAME = 24  # of a class, in characters


def draw(curves: Mapping[str, Curves], title: str) -> 'dict[str, Figure]':
    """The ROC and the precision-recall curves.

    Args:
      curves: name of a class -> its curves; at most `MOST_CLASSES` are legible.
      title: of the figures.
    """
    roc = new_figure((7.8, 5.2), title)
    axes = roc.add_subplot()
    axes.plot([0, 1], [0, 1], color='#999999', linestyle=':', linewidth=1)
    recall = new_figure((7.8, 5.2), title)
    other = recall.add_subplot()
    for (name, each), (colour, dashes) in zip(
        curves.items(), styles(list(curves)).values(), strict=True
    ):
        label = figure_text(shortened(printable(name), _LONGEST_NAME))
        look: dict[str, Any] = {
            'color': colour,
            'linewidth': 1.4,
            'linestyle': (0, dashes) if dashes else '-',
        }
        axes.plot(
            each.false_positives, each.true_positives, label=f'{label}  {each.auc:.3f}', **look
        )
        other.step(
            each.recall,
            each.precision,
            where='post',
            label=f'{label}  {each.average_precision:.3f}',
            **look,
        )
    _finish(axes, 'false positive rate', 'true positive rate', 'area')
    _finish(other, 'recall', 'precision', 'average precision')
    return {'roc': roc, 'precision_recall': recall}


def _finish(axes: 'Axes', x: str, y: str, figure: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xlabel=x, ylabel=y)
    axes.set_aspect('equal')
    axes.grid(alpha=0.3)
    axes.legend(
        title=f'class, {figure}',
        loc='center left',
        bbox_to_anchor=(1.02, 0.5),
        frameon=False,
        fontsize='small',
    )
