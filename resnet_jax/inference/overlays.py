"""Pictures of dense predictions: segments and boxes over their image, depth beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_jax.data.target_pictures import class_colours, coloured
from resnet_jax.errors import InputError
from resnet_jax.figures import figure_text, new_figure
from resnet_jax.inference.dense import DensePrediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_INCHES = 4.2  # height of a picture
_MOST_NAMES = 20  # of classes in a legend
_DPI = 110


def draw_prediction(prediction: DensePrediction, names: Sequence[str], title: str) -> 'Figure':
    """The image, and beside it what was found.

    Args:
      prediction: of a network.
      names: of the classes.
      title: of the figure.
    """
    height, width = prediction.pixels.shape[:2]
    wide = min(max(width / height, 0.4), 2.5) * _INCHES
    figure = new_figure((2 * wide + 1.6, _INCHES + 0.6), title)
    image, found = figure.subplots(1, 2)
    show_image(image, prediction.pixels)
    image.set_title('image', fontsize=9)
    drawn = show_found(found, prediction, names)
    if prediction.classes is not None:
        _legend(figure, prediction.classes, names)
    if drawn is not None:
        figure.colorbar(drawn, ax=found, label='depth (m)', fraction=0.046)
    return figure


def show_found(
    axes: 'Axes', prediction: DensePrediction, names: Sequence[str]
) -> 'AxesImage | None':
    """Draws what was found in an image, with a title; of depth the map, for a colour bar."""
    if prediction.classes is not None:
        show_image(axes, coloured(prediction.pixels, prediction.classes, len(names)))
        axes.set_title('segments', fontsize=9)
    if prediction.objects is not None:
        show_image(axes, prediction.pixels)
        _boxes(axes, prediction, names)
        axes.set_title('objects', fontsize=9)
    if prediction.depth is None:
        return None
    axes.set_title('depth', fontsize=9)
    axes.set_axis_off()
    return axes.imshow(prediction.depth, cmap='viridis_r')


def show_image(axes: 'Axes', pixels: np.ndarray) -> None:
    """Draws an image, pixel by pixel."""
    grey: dict[str, Any] = {'cmap': 'grey', 'vmin': 0, 'vmax': 255}
    if pixels.shape[-1] == 3:
        axes.imshow(pixels, interpolation='nearest')
    else:
        axes.imshow(pixels[..., 0], interpolation='nearest', **grey)
    axes.set_axis_off()


def _legend(figure: 'Figure', classes: np.ndarray, names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    colours = class_colours(len(names)) / 255
    there = [int(number) for number in np.unique(classes) if 0 < number < len(names)]
    patches = [
        Patch(color=colours[number], label=figure_text(names[number]))
        for number in there[:_MOST_NAMES]
    ]
    if patches:
        figure.legend(handles=patches, loc='outside right upper', fontsize=8, frameon=False)


def _boxes(axes: 'Axes', prediction: DensePrediction, names: Sequence[str]) -> None:
    from matplotlib.patches import Rectangle

    colours = {
        name: colour / 255 for name, colour in zip(names, class_colours(len(names)), strict=True)
    }
    for one in prediction.objects or ():
        left, top, right, bottom = one.box
        colour = colours[one.name]
        corner = left - 0.5, top - 0.5  # imshow has the centre of the first pixel at 0
        axes.add_patch(
            Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=colour, linewidth=2)
        )
        axes.text(
            *corner,
            figure_text(f'{one.name} {100 * one.probability:.0f} %'),
            fontsize=7,
            color='white',
            va='bottom',
            bbox={'facecolor': colour, 'edgecolor': 'none', 'pad': 1},
        )


def write_overlay(
    prediction: DensePrediction, names: Sequence[str], folder: Path, number: int
) -> Path:
    """Writes the picture of a prediction into a folder, as NUMBER_NAME.png.

    Raises:
      InputError: if it cannot be written.
    """
    path = folder / f'{number:04d}_{prediction.path.stem[:80]}.png'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draw_prediction(prediction, names, prediction.path.name).savefig(path, dpi=_DPI)
    except OSError as error:
        raise InputError(f'cannot write {path}: {error.strerror}') from error
    return path
