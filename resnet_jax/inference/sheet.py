"""A contact sheet: images as a model sees them, with what it makes of each."""

import bisect
import io
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnet_jax.data import printable
from resnet_jax.errors import InputError, RunError
from resnet_jax.inference.predict import Prediction

LIMIT = 100  # images on a sheet
MOST_CLASSES = 3  # lines of classes under each
# Pixels of the picture.
SMALLEST, LARGEST = 160, 256  # side of an image: small ones are enlarged, large ones reduced
GAP = 16
LINE = 15  # height of a line of text
DPI = 100
FONT_SIZE = 8  # points
ELLIPSIS = '…'


def check_writable(path: Path) -> None:
    """Refuses a file that could not be written, before anything is computed for it.

    Raises:
      InputError: if it is no .png or cannot be opened for writing.
    """
    if path.suffix.lower() != '.png':
        raise InputError(f'--sheet writes a PNG; give a name that ends in .png, not {path}')
    existed = path.exists()
    try:
        path.open('ab').close()
    except OSError as error:
        raise InputError(f'--sheet {path}: cannot write this file ({error.strerror})') from None
    if not existed:
        path.unlink()


def write_sheet(predictions: Sequence[Prediction], total: int, topk: int, path: Path) -> None:
    """Draws the images in a grid, under each its file name and class as a PNG.

    Where `topk` is at least 3 the three best classes are written. Text that does not fit under its
    image is shortened in the middle. Images smaller than `SMALLEST` are enlarged by a whole factor,
    without smoothing.

    Args:
      predictions: at least one; those beyond `LIMIT` are left out.
      total: how many images there were, which is written above where not all are drawn.
      topk: how many classes were asked for.
      path: of the file.

    Raises:
      RunError: if the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = predictions[:LIMIT]
    lines = [[printable(item.path.name), *_class_lines(item, topk)] for item in shown]
    images = [_drawn(item.pixels) for item in shown]
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


def _drawn(pixels: np.ndarray) -> np.ndarray:
    """The image as it is drawn: uint8 [side, side, 3], side from `SMALLEST` to about `LARGEST`."""
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    size = len(pixels)
    if size > LARGEST:
        return np.asarray(Image.fromarray(pixels).resize((LARGEST, LARGEST)))
    factor = math.ceil(SMALLEST / size)
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _shortener(canvas: Any, width: int) -> Callable[[str, str], str]:
    """A function that shortens a text in the middle until it is no wider than `width` pixels."""
    from matplotlib.font_manager import FontProperties

    measure = canvas.get_renderer().get_text_width_height_descent

    def fits(text: str, font: FontProperties) -> bool:
        return measure(text, font, ismath=False)[0] <= width

    def shorten(text: str, weight: str) -> str:
        font = FontProperties(size=FONT_SIZE, weight=weight)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of letters that the font lacks
            if fits(text, font):
                return text
            kept = bisect.bisect(
                range(1, len(text)), False, key=lambda n: not fits(_cut(text, n), font)
            )
        return _cut(text, kept)

    return shorten


def _cut(text: str, kept: int) -> str:
    """As many letters of the text, from its two ends."""
    return text[: (kept + 1) // 2] + ELLIPSIS + text[len(text) - kept // 2 :]


def _save(canvas: Any, path: Path) -> None:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of letters that the font lacks
        canvas.print_png(out)
    try:
        path.write_bytes(out.getvalue())
    except OSError as error:
        raise RunError(f'--sheet {path}: cannot write this file ({error.strerror})') from error
