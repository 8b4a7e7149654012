"""Plots of the evaluation of one model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from resnet_jax.errors import InputError
from resnet_jax.figures import figure_text
from resnet_jax.records.writers import check_file
from resnet_jax.text import printable, shortened

_LONGEST_NAME = 32  # of a class in a figure, in characters


def check_writable(path: Path, option: str) -> None:
    """Checks that a picture can be written, before anything is computed for it.

    Args:
      path: of the PNG.
      option: that gives it.

    Raises:
      InputError: if the path does not end in .png or cannot be opened for writing.
    """
    if path.suffix.lower() != '.png':
        raise InputError(f'{option} writes a PNG; give a name that ends in .png, not {path}')
    check_file(path, f'{option} {path}', 'name a file that can be written')


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
    labelled = classes <= 50  # more would be illegible
    short = [shortened(printable(name), _LONGEST_NAME) for name in class_names] * labelled
    names = [figure_text(name, f'class {i}') for i, name in enumerate(short)]
    labels = 0.07 * max(map(len, names), default=0)  # inches
    side = min(3.5 + 0.45 * classes, 30)
    figure = Figure(figsize=(side + 1 + labels, side + 0.7 * labels), layout='constrained')
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap='Blues', vmin=0, vmax=1)
    figure.colorbar(image, label='share of the true class', shrink=0.8)
    if labelled:
        axes.set_xticks(range(classes), names, rotation=45, ha='right')
        axes.set_yticks(range(classes), names)
    if classes <= 30:
        for i, j in np.argwhere(confusion):
            colour = 'white' if share[i, j] > 0.5 else 'black'
            axes.text(j, i, str(confusion[i, j]), ha='center', va='center', color=colour, size=8)
    axes.set_xlabel('predicted class')
    axes.set_ylabel('true class')
    figure.suptitle(figure_text(title), wrap=True, size='medium')
    FigureCanvasAgg(figure).print_png(path)
