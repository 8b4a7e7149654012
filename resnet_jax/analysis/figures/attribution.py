"""Pictures of maps of attribution and of their checks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from resnet_jax.analysis.attribution import METHODS, enlarged
from resnet_jax.analysis.faithfulness import RANDOM
from resnet_jax.data import Preprocessing
from resnet_jax.figures import figure_text, new_figure, styles
from resnet_jax.inference.sheet import RIGHT, WRONG

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL = 1.5  # inches
MOST_COLUMNS = 8  # of a contact sheet of few methods
MOST_PIXELS = 384  # longer side of an image in the picture
MAP_SIDE = 224  # pixels of a drawn map
PERCENTILE = 99.5  # of a signed map's magnitudes, beyond which colours do not change
UNSIGNED, SIGNED = 'inferno', 'RdBu_r'
GREY = '#777777'

Box = tuple[float, float, float, float]  # left, top, right, bottom


class Row(NamedTuple):
    """An example of the contact sheet.

    Attributes:
      image: as it was before its preprocessing.
      box: of what the model sees of it, in its pixels.
      input_size: side of the model's input, pixels.
      maps: by method, raw.
      true, predicted: names of classes.
      confidence: probability of the predicted class.
    """

    image: UInt8[np.ndarray, 'height width c']
    box: Box
    input_size: int
    maps: Mapping[str, Float[np.ndarray, 'h w']]
    true: str
    predicted: str
    confidence: float


def crop_box(shape: tuple[int, ...], preprocessing: Preprocessing) -> Box:
    """What `Preprocessing.prepare` leaves of an image of a shape, in the image's own pixels."""
    height, width = shape[:2]
    if preprocessing.fit == 'pad':  # the image lies in the top left of a square
        return 0.0, 0.0, float(max(height, width)), float(max(height, width))
    size = preprocessing.image_size
    resize = size if preprocessing.resize is None else preprocessing.resize
    ends = []
    for side in (width, height):
        resized = side * resize // min(height, width)
        start, scale = round((resized - size) / 2), side / resized
        ends.append((start * scale, (start + size) * scale))
    (left, right), (top, bottom) = ends
    return left, top, right, bottom


def draw(found: Mapping[str, Any], rows: Sequence[Row], title: str) -> 'dict[str, Figure]':
    """The contact sheet, and the curves of the checks that were made.

    Args:
      found: the JSON of the analysis.
      rows: the examples to show.
      title: of the figures.
    """
    figures = {'maps': _sheet(rows, title)}
    if 'curves' in found:
        figures['curves'] = _curves(found, title)
    if 'sanity' in found:
        figures['sanity'] = _sanity(found, title)
    return figures


def _sheet(rows: Sequence[Row], title: str) -> 'Figure':
    methods = list(rows[0].maps)
    columns = 2 + len(methods)
    # Of few methods, several examples beside each other.
    across = max(1, min(MOST_COLUMNS // columns, len(rows)))
    down = -(-len(rows) // across)
    figure = new_figure((max(7.0, CELL * columns * across), CELL * down + 1.6), title)
    panels = figure.subplots(down, across * columns, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    groups = panels.reshape(down, across, columns)
    for i, row in enumerate(rows):
        words, picture, *others = groups[i // across, i % across]
        _caption(words, row)
        _image(picture, row, np.asarray(_rgb(row.image)))
        for name, axes in zip(methods, others, strict=True):
            _overlay(axes, row, name)
    for top in groups[0]:
        for axes, head in zip(
            top[1:], ('image', *(METHODS[name].title for name in methods)), strict=True
        ):
            axes.set_title(head, size='small')
    _colour_bars(figure, panels.ravel().tolist(), methods)
    return figure


def _caption(axes: 'Axes', row: Row) -> None:
    """The true class, and the predicted one in the colour of right or wrong."""
    is_right = row.true == row.predicted
    axes.text(1.0, 0.56, _short(row.true), ha='right', va='bottom', weight='bold', size='small')
    guess = f'{"✓" if is_right else "✗"} {_short(row.predicted)}\n{100 * row.confidence:.1f} %'
    colour = RIGHT if is_right else WRONG
    axes.text(1.0, 0.5, guess, ha='right', va='top', color=colour, size='small')


def _short(name: str, most: int = 20) -> str:
    return figure_text(name if len(name) <= most else f'{name[: most - 1]}…')


def _image(axes: 'Axes', row: Row, pixels: np.ndarray) -> None:
    """The whole image, with a frame around what the model sees."""
    from matplotlib.patches import Rectangle

    height, width = row.image.shape[:2]
    # Small images as they are, pixel by pixel; others smoothed to the picture's resolution.
    method = 'nearest' if max(height, width) < 100 else 'antialiased'
    axes.imshow(pixels, extent=(0, width, height, 0), interpolation=method)
    left, top, right, bottom = row.box
    if min(left, top) > 0.5 or right < width - 0.5 or bottom < height - 0.5:
        corner, sides = (left, top), (right - left, bottom - top)
        axes.add_patch(Rectangle(corner, *sides, fill=False, edgecolor='white', linewidth=1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)


def _overlay(axes: 'Axes', row: Row, method: str) -> None:
    """A map over the grey image, where the model's crop lies in it."""
    import matplotlib

    grey = np.asarray(_rgb(row.image).convert('L'), np.float32) / 255
    _image(axes, row, np.repeat((0.25 + 0.7 * grey)[..., None], 3, axis=2))
    values = row.maps[method]
    if len(values) < row.input_size:  # else of pixels, and drawn as they are
        values = enlarged(values[None], max(MAP_SIDE, row.input_size))[0]
    shades, strength = _scaled(values, METHODS[method].signed)
    colours = matplotlib.colormaps[SIGNED if METHODS[method].signed else UNSIGNED](shades)
    colours[..., 3] = strength
    left, top, right, bottom = row.box
    axes.imshow(colours, extent=(left, right, bottom, top), interpolation='antialiased')
    height, width = row.image.shape[:2]
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)


def _scaled(values: np.ndarray, signed: bool) -> tuple[np.ndarray, np.ndarray]:
    """A map as positions in its colours, and as opacity, both in [0, 1]."""
    if signed:
        limit = np.percentile(np.abs(values), PERCENTILE) or np.abs(values).max() or 1.0
        relative = np.clip(values / limit, -1, 1)
        return 0.5 + 0.5 * relative, 0.25 + 0.6 * np.abs(relative)
    relative = np.clip(values, 0, None) / (values.max() if values.max() > 0 else 1.0)
    return relative, 0.85 * np.sqrt(relative)


def _rgb(image: np.ndarray) -> Image.Image:
    """An image of at most `MOST_PIXELS`, of more bands the first three, of two the first."""
    image = image[:, :, : 3 if image.shape[2] >= 3 else 1]
    found = Image.fromarray(np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))))
    found.thumbnail((MOST_PIXELS, MOST_PIXELS))
    return found


def _colour_bars(figure: 'Figure', axes: 'list[Axes]', methods: Sequence[str]) -> None:
    """A bar for each kind of map: every map has its own scale."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    kinds = sorted({METHODS[name].signed for name in methods})
    words = {-1: 'against the class', 0: '0', 1: 'for the class'}
    for signed in kinds:
        scale = ScalarMappable(Normalize(-signed, 1), SIGNED if signed else UNSIGNED)
        bar = figure.colorbar(
            scale, ax=axes, location='bottom', panchor=False, aspect=50, shrink=0.5, pad=0.01
        )
        ticks = [-1, 0, 1] if signed else [0, 1]
        bar.set_ticks(ticks, labels=[words[tick] for tick in ticks], size='x-small')
        if signed == kinds[0]:
            bar.set_label('relative to the largest value of each map', size='x-small')


def _curves(found: Mapping[str, Any], title: str) -> 'Figure':
    figure = new_figure((9.5, 4.4 + 0.1 * len(found['deletion'])), title)
    panels = figure.subplots(1, 2, sharey=True)
    looks = styles([name for name in found['deletion'] if name != RANDOM])
    share = [100 * x for x in found['curves']['fraction']]
    for axes, kind, label in zip(
        panels,
        ('deletion', 'insertion'),
        ('pixels removed (%)', 'pixels inserted (%)'),
        strict=True,
    ):
        for name, each in found['curves'][kind].items():
            colour, dashes = looks.get(name, (GREY, (4, 2)))
            says = 'random order' if name == RANDOM else METHODS[name].title
            axes.plot(
                share,
                each['mean'],
                color=colour,
                dashes=dashes or (None, None),
                label=f'{says}: {found[kind][name]:.3f}',
            )
        axes.set_title(kind, size='medium')
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
        look = {'frameon': False, 'fontsize': 'small', 'title_fontsize': 'small', 'ncols': 2}
        axes.legend(title='area', loc='upper center', bbox_to_anchor=(0.5, -0.15), **look)
    panels[0].set_ylabel('mean probability of the class')
    panels[0].set_ylim(0, 1)
    return figure


def _sanity(found: Mapping[str, Any], title: str) -> 'Figure':
    parts = list(next(iter(found['sanity'].values())))
    figure = new_figure((max(7.0, 2.5 + 0.28 * len(parts)), 4.6), title)
    axes = figure.add_subplot()
    for name, (colour, dashes) in styles(list(found['sanity'])).items():
        each = found['sanity_intervals'][name]
        means = [1.0, *(np.nan if x['mean'] is None else x['mean'] for x in each.values())]
        look = dashes or (None, None)
        positions = range(len(parts) + 1)
        axes.plot(
            positions, means, 'o-', color=colour, dashes=look, ms=3, label=METHODS[name].title
        )
        low, high = (
            [np.nan if x[end] is None else x[end] for x in each.values()] for end in ('low', 'high')
        )
        axes.fill_between(positions[1:], low, high, color=colour, alpha=0.15, linewidth=0)
        if (other := found['sanity_other_images'][name]) is not None:
            axes.axhline(other, color=colour, linewidth=0.8, linestyle=':')
    axes.plot([], [], color=GREY, linewidth=0.8, linestyle=':', label='maps of other images')
    axes.set_xticks(range(len(parts) + 1), ['none', *parts], rotation=90, size='x-small')
    axes.set_xlabel('weights made random, from the head down to and including')
    axes.set_ylabel("rank correlation with the\ntrained network's map")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize='small')
    return figure
