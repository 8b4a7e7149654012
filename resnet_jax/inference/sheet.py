"""Draw a contact sheet: images as a model sees them, with the predicted classes."""

import bisect
import io
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from resnet_jax.data import printable
from resnet_jax.errors import RunError
from resnet_jax.inference.predict import Prediction

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

LIMIT = 100  # images on a sheet
MOST_CLASSES = 3  # lines of classes under each image
# In pixels of the sheet.
SMALLEST, LARGEST = 160, 256  # side of an image: smaller ones are enlarged, larger ones reduced
GAP = 16
LINE = 15  # height of a line of text
DPI = 100
FONT_SIZE = 8  # points
ELLIPSIS = '…'


def write_sheet(predictions: Sequence[Prediction], total: int, topk: int, path: Path) -> None:
    """Draws the images in a grid, each above its file name and predicted class, as a PNG.

    Writes the three best classes if `topk` is at least 3, else one. Shortens text that does not fit
    under its image in the middle. Enlarges images smaller than `SMALLEST` by a whole factor,
    without smoothing.

    Args:
      predictions: at least one; those beyond `LIMIT` are not drawn.
      total: the number of images, written above the grid if not all are drawn.
      topk: the number of classes that the user asked for.
      path: of the PNG file.

    Raises:
      RunError: if the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = predictions[:LIMIT]
    lines = [[printable(item.path.name), *_class_lines(item, topk)] for item in shown]
    images = [_scaled(item.pixels) for item in shown]
    side = images[0].shape[0]
    columns = math.ceil(math.sqrt(len(shown)))
    cell_width, cell_height = side + GAP, side + GAP + LINE * len(lines[0])
    header = 2 * LINE if total > len(shown) else 0
    width = columns * cell_width + GAP
    height = math.ceil(len(shown) / columns) * cell_height + GAP + header
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    style: dict[str, Any] = {'size': FONT_SIZE, 'va': 'top', 'parse_math': False}
    if header:
        text = f'the first {len(shown)} of {total} images'
        figure.text(GAP / width, 1 - GAP / height, text, **style)
    fit = _shortener(canvas, side)
    for i, (image, texts) in enumerate(zip(images, lines, strict=True)):
        left = GAP + i % columns * cell_width
        top = GAP + header + i // columns * cell_height
        figure.figimage(image, left, height - top - side, origin='upper')
        for j, text in enumerate(texts):
            y = 1 - (top + side + 3 + j * LINE) / height
            weight = 'normal' if j else 'bold'
            figure.text(left / width, y, fit(text, weight), weight=weight, **style)
    _save(canvas, path)


def _class_lines(item: Prediction, topk: int) -> list[str]:
    best = item.top[: MOST_CLASSES if topk >= MOST_CLASSES else 1]
    return [f'{name}  {100 * probability:.1f} %' for name, probability in best]


def _scaled(pixels: np.ndarray) -> np.ndarray:
    """Scales an image for the sheet: uint8 [side, side, 3], side at least `SMALLEST`."""
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    size = len(pixels)
    if size > LARGEST:
        return np.asarray(Image.fromarray(pixels).resize((LARGEST, LARGEST)))
    factor = math.ceil(SMALLEST / size)
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _shortener(canvas: 'FigureCanvasAgg', width: int) -> Callable[[str, str], str]:
    """Makes a function that shortens text in the middle until it is at most `width` pixels wide."""
    from matplotlib.font_manager import FontProperties

    measure = canvas.get_renderer().get_text_width_height_descent

    def fits(text: str, font: FontProperties) -> bool:
        return measure(text, font, ismath=False)[0] <= width

    def shorten(text: str, weight: str) -> str:
        font = FontProperties(size=FONT_SIZE, weight=weight)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # about characters that the font lacks
            if fits(text, font):
                return text
            kept = bisect.bisect(
                range(1, len(text)), False, key=lambda n: not fits(_cut(text, n), font)
            )
        return _cut(text, kept)

    return shorten


def _cut(text: str, kept: int) -> str:
    """Shortens a text to `kept` characters, half from either end, around an ellipsis."""
    return text[: (kept + 1) // 2] + ELLIPSIS + text[len(text) - kept // 2 :]


def _save(canvas: 'FigureCanvasAgg', path: Path) -> None:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about characters that the font lacks
        canvas.print_png(out)
    try:
        path.write_bytes(out.getvalue())
    except OSError as error:
        raise RunError(f'--sheet {path}: cannot write this file ({error.strerror})') from error
