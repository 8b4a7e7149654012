"""Draw a contact sheet: images as a model sees them, with bars of the predicted classes."""

import bisect
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from resnet_jax.errors import RunError
from resnet_jax.figures import figure_text
from resnet_jax.inference.predict import Prediction
from resnet_jax.text import ELLIPSIS

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

LIMIT = 100  # images on a sheet
MOST_CLASSES = 5  # bars beside each image
# In pixels of the sheet.
SMALLEST, LARGEST = 160, 256  # side of an image: smaller ones are enlarged, larger ones reduced
GAP = 16
LINE = 15  # height of a line of text
NAME = LINE + 6  # that of an image's name, with the space below
PANEL = 190  # width of the bars beside an image
BESIDE = 14  # between an image and its bars
FRAME = 4  # around an image whose class is known
BAR = 6  # height of a bar
ROW = LINE - 1 + BAR + 9  # a class: its name close above its bar
VERDICT = LINE + 5
PERCENT = 52  # width of a percentage
DPI = 100
FONT_SIZE = 8  # points
# Green and red that most kinds of colour blindness tell apart by their lightness.
RIGHT, WRONG, OTHER, TRACK = '#2f9e55', '#b3123f', '#3b7dd8', '#e9ecf1'

Rectangle = tuple[int, int, int, int]  # left, top, width, height
Words = tuple[int, int, str, dict[str, Any]]  # left, top, what it says, how it looks


def write_sheet(predictions: Sequence[Prediction], total: int, topk: int, path: Path) -> None:
    """Draws the images in a grid, each below its file name and beside its classes, as a PNG.

    Each of at most `MOST_CLASSES` classes has its name, its probability and a bar, whose grey track
    is 100 %. Where the true class of an image is known, a line with a mark says whether the best
    class is right; the image has a frame, and the classes bars, in that colour. Text that does not
    fit is shortened in the middle. Images smaller than `SMALLEST` are enlarged by a whole factor,
    without smoothing.

    Args:
      predictions: at least one; those beyond `LIMIT` are not drawn.
      total: the number of images, written above the grid if not all are drawn.
      topk: the number of classes that the user asked for.
      path: of the PNG file.

    Raises:
      RunError: if the file cannot be written.
    """
    shown = predictions[:LIMIT]
    images = [_scaled(item.pixels) for item in shown]
    side = images[0].shape[0]
    judged = any(item.true is not None for item in shown)
    bars = min(topk, MOST_CLASSES, max(len(item.top) for item in shown))
    cell_width = side + BESIDE + PANEL + GAP
    cell_height = NAME + max(side, judged * VERDICT + bars * ROW) + GAP
    # Somewhat wider than high.
    columns = max(1, round(math.sqrt(1.4 * len(shown) * cell_height / cell_width)))
    title = _title(shown, total)
    header = 2 * LINE if title else 0
    width = columns * cell_width + GAP
    height = math.ceil(len(shown) / columns) * cell_height + GAP + header
    picture = np.full((height, width, 3), 255, np.uint8)
    words: list[Words] = [(GAP, GAP, title, {'weight': 'bold', 'limit': width - 2 * GAP})]
    for i, (item, image) in enumerate(zip(shown, images, strict=True)):
        left = GAP + i % columns * cell_width
        top = GAP + header + i // columns * cell_height
        name = {'weight': 'bold', 'limit': side + BESIDE + PANEL}
        words.append((left, top, item.path.name, name))
        top += NAME
        if item.true is not None:
            frame = (left - FRAME, top - FRAME, side + 2 * FRAME, side + 2 * FRAME)
            _fill(picture, frame, RIGHT if item.is_right else WRONG)
        picture[top : top + side, left : left + side] = image
        words += _classes(picture, item, bars, left + side + BESIDE, top)
    _write(picture, words, path)


def _title(shown: Sequence[Prediction], total: int) -> str:
    """How many are shown and how many of them are right; empty where neither needs saying."""
    part = f'the first {len(shown)} of {total} images' if total > len(shown) else ''
    judged = [item for item in shown if item.true is not None]
    right = f'{sum(item.is_right for item in judged)} of {len(judged)} right' if judged else ''
    return '; '.join(filter(None, (part, right)))


def _classes(
    picture: UInt8[np.ndarray, 'height width 3'], item: Prediction, bars: int, left: int, top: int
) -> list[Words]:
    """Draws the bars of an image into the picture; gives the text that belongs to them."""
    words: list[Words] = []
    if item.true is not None:
        look = {'weight': 'bold', 'color': RIGHT if item.is_right else WRONG, 'limit': PANEL}
        begin, name = ('✓ right', '') if item.is_right else ('✗ wrong, it is ', item.true)
        words.append((left, top, name, {**look, 'begin': begin}))
        top += VERDICT
    for rank, (name, probability) in enumerate(item.top[:bars]):
        colour = OTHER
        if name == item.true:
            colour = RIGHT
        elif item.true is not None and rank == 0:
            colour = WRONG
        weight = 'bold' if name == item.true else 'normal'
        words.append((left, top, name, {'weight': weight, 'limit': PANEL - PERCENT}))
        percent = {'ha': 'right', 'limit': PANEL, 'weight': weight}
        words.append((left + PANEL, top, f'{100 * probability:.1f} %', percent))
        _fill(picture, (left, top + LINE - 1, PANEL, BAR), TRACK)
        _fill(picture, (left, top + LINE - 1, round(probability * PANEL), BAR), colour)
        top += ROW
    return words


def _fill(picture: UInt8[np.ndarray, 'height width 3'], area: Rectangle, colour: str) -> None:
    left, top, width, height = area
    picture[top : top + height, left : left + width] = tuple(bytes.fromhex(colour[1:]))


def _scaled(pixels: np.ndarray) -> np.ndarray:
    """Scales an image for the sheet: uint8 [side, side, 3], side at least `SMALLEST`."""
    # Of more bands, the first three as RGB; of two, the first.
    pixels = pixels[:, :, : 3 if pixels.shape[2] >= 3 else 1]
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    size = len(pixels)
    if size > LARGEST:
        return np.asarray(Image.fromarray(pixels).resize((LARGEST, LARGEST)))
    factor = math.ceil(SMALLEST / size)
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _write(
    picture: UInt8[np.ndarray, 'height width 3'], words: Sequence[Words], path: Path
) -> None:
    """Writes a picture with text on it.

    Each text is shortened to its 'limit' of pixels, but for what stands before it, its 'begin'.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width, _ = picture.shape
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    figure.figimage(picture, origin='upper')
    fit = _shortener(canvas)
    for left, top, says, look in words:
        style = {name: value for name, value in look.items() if name not in ('limit', 'begin')}
        text = fit(look.get('begin', ''), says, look['weight'], look['limit'])
        figure.text(left / width, 1 - top / height, text, size=FONT_SIZE, va='top', **style)
    out = io.BytesIO()
    canvas.print_png(out)
    try:
        path.write_bytes(out.getvalue())
    except OSError as error:
        raise RunError(f'--sheet {path}: cannot write this file ({error.strerror})') from error


def _shortener(canvas: 'FigureCanvasAgg') -> Callable[[str, str, str, int], str]:
    """Makes a function that removes the middle of a text until it fits a width in pixels."""
    from matplotlib.font_manager import FontProperties

    measure = canvas.get_renderer().get_text_width_height_descent

    def fits(text: str, font: FontProperties, width: int) -> bool:
        drawn = figure_text(text).replace(r'\$', '$')
        return measure(drawn, font, ismath=False)[0] <= width

    def shorten(begin: str, text: str, weight: str, width: int) -> str:
        font = FontProperties(size=FONT_SIZE, weight=weight)
        if fits(begin + text, font, width):
            return figure_text(begin + text)
        kept = bisect.bisect(
            range(1, len(text)), False, key=lambda n: not fits(begin + _cut(text, n), font, width)
        )
        return figure_text(begin + _cut(text, kept))

    return shorten


def _cut(text: str, kept: int) -> str:
    """Shortens a text to `kept` characters, half from either end, around an ellipsis."""
    return text[: (kept + 1) // 2] + ELLIPSIS + text[len(text) - kept // 2 :]
