"""Plots of the evaluation of one model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int


def plot_confusion(
    confusion: Int[np.ndarray, 'classes classes'],
    class_names: Sequence[str],
    title: str,
    path: Path,
) -> None:
    """Draws a confusion matrix as a PNG.

    Args:
      confusion: counts; rows are true classes, columns predicted ones.
      class_names: of the rows and columns.
      title: of the figure.
      path: of the PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = len(class_names)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = min(4 + 0.45 * classes, 30)
    figure = Figure(figsize=(side + 1, side), layout='constrained')
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap='Blues', vmin=0, vmax=1)
    figure.colorbar(image, label='share of the true class', shrink=0.8)
    if classes <= 50:  # more would be illegible
        axes.set_xticks(range(classes), class_names, rotation=45, ha='right')
        axes.set_yticks(range(classes), class_names)
    if classes <= 30:
        for i, j in np.argwhere(confusion):
            colour = 'white' if share[i, j] > 0.5 else 'black'
            axes.text(j, i, str(confusion[i, j]), ha='center', va='center', color=colour, size=8)
    axes.set_xlabel('predicted class')
    axes.set_ylabel('true class')
    axes.set_title(title)
    FigureCanvasAgg(figure).print_png(path)
