"""Operations on uint8 images as Pillow defines them; RandAugment and its relatives choose of them.

An operation is a number and an amount, both of which may be traced: every stage below runs for
every image, and does nothing where another operation was chosen. Under `vmap` a switch would
compute all of its branches anyway; here those that look up a table share one look-up, and those
that move pixels share one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

Image = UInt8[Array, 'h w c']
Scalar = Float[Array, ''] | float
Table = Int[Array, '256 c']  # a new value for each old one, of each channel
Matrix = Float[Array, '6']  # Pillow's (a, b, c, d, e, f): x' = a x + b y + c, y' = d x + e y + f

SAMPLINGS = ('nearest', 'bilinear')
_FIXED = 65536  # Pillow's nearest sampling counts pixels in 16 binary places
_LUMA = np.asarray(
    [[[19595, 38470, 7471]]], np.uint32
)  # ITU-R BT.601 in 16 binary places, as Pillow


def luma(image: Image) -> Image:
    """An RGB image in grey, as three equal channels; one of another number of channels itself."""
    if image.shape[-1] != 3:
        return image
    grey = (jnp.sum(image.astype(jnp.uint32) * _LUMA, axis=-1, keepdims=True) + 0x8000) >> 16
    return jnp.broadcast_to(grey.astype(jnp.uint8), image.shape)


def blend(
    start: UInt8[Array, '*s'] | Int[Array, '*s'], end: UInt8[Array, '*s'], factor: Scalar
) -> UInt8[Array, '*s']:
    """Computes start + factor * (end - start), cut to 0 to 255 and to whole steps."""
    first, last = start.astype(jnp.float32), end.astype(jnp.float32)
    return jnp.clip(first + factor * (last - first), 0, 255).astype(jnp.uint8)


def smoothed(image: Image) -> Image:
    """Pillow's SMOOTH: 3x3 means in which the middle counts five times; the border stays."""
    height, width, _ = image.shape
    if height < 3 or width < 3:
        return image
    x = image.astype(jnp.int32)
    rows = x[:-2] + x[1:-1] + x[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * x[1:-1, 1:-1]
    means = (2 * total + 13) // 26  # rounded
    return image.at[1:-1, 1:-1].set(means.astype(jnp.uint8))


def brightness(image: Image, factor: Scalar) -> Image:
    """`PIL.ImageEnhance.Brightness`: 0 is black, 1 the image."""
    return blend(jnp.zeros_like(image), image, factor)


def contrast(image: Image, factor: Scalar) -> Image:
    """`PIL.ImageEnhance.Contrast`: 0 is the mean grey, 1 the image."""
    return blend(jnp.broadcast_to(_mean_grey(image), image.shape), image, factor)


def saturation(image: Image, factor: Scalar) -> Image:
    """`PIL.ImageEnhance.Color`: 0 is grey, 1 the image."""
    return blend(luma(image), image, factor)


def sharpness(image: Image, factor: Scalar) -> Image:
    """`PIL.ImageEnhance.Sharpness`: 0 is smoothed, 1 the image."""
    return blend(smoothed(image), image, factor)


def _mean_grey(image: Image) -> UInt8[Array, '']:
    grey = luma(image)[..., :1]
    whole, rest = jnp.divmod(jnp.sum(grey.astype(jnp.uint32)), np.uint32(grey.size))
    return jnp.where(2 * rest >= grey.size, whole + 1, whole).astype(jnp.uint8)


def _values(image: Image) -> Table:
    """The table that changes nothing."""
    return jnp.broadcast_to(jnp.arange(256)[:, None], (256, image.shape[-1]))


def _entries(image: Image) -> Int[Array, 'h w c']:
    """The places of an image's values in a table as one row."""
    channels = image.shape[-1]
    return image.astype(jnp.int32) * channels + jnp.arange(channels)[None, None]


def _brightness_table(image: Image, factor: Scalar) -> Table:
    return brightness(_values(image).astype(jnp.uint8), factor).astype(jnp.int32)


def _contrast_table(image: Image, factor: Scalar) -> Table:
    values = _values(image).astype(jnp.uint8)
    grey = jnp.broadcast_to(_mean_grey(image), values.shape)
    return blend(grey, values, factor).astype(jnp.int32)


def _posterize_table(image: Image, bits: Scalar) -> Table:
    dropped = 8 - jnp.asarray(bits).astype(jnp.int32)
    return (_values(image) >> dropped) << dropped


def _solarize_table(image: Image, threshold: Scalar) -> Table:
    values = _values(image)
    return jnp.where(values.astype(jnp.float32) < threshold, values, 255 - values)


def _invert_table(image: Image, amount: Scalar) -> Table:
    return 255 - _values(image)


def _autocontrast_table(image: Image, amount: Scalar) -> Table:
    """`PIL.ImageOps.autocontrast` in whole numbers; by its floats Pillow may be one step darker."""
    low = jnp.min(image, axis=(0, 1)).astype(jnp.int32)[None]
    span = jnp.max(image, axis=(0, 1)).astype(jnp.int32)[None] - low
    values = _values(image)
    stretched = jnp.clip((values - low) * 255 // jnp.maximum(span, 1), 0, 255)
    return jnp.where(span > 0, stretched, values)


def _equalize_table(image: Image, amount: Scalar) -> Table:
    """`PIL.ImageOps.equalize`."""
    height, width, channels = image.shape
    counts = jnp.zeros(256 * channels, jnp.int32).at[_entries(image)].add(1).reshape(256, channels)
    highest = jnp.max(image, axis=(0, 1)).astype(jnp.int32)[None]
    last = jnp.take_along_axis(counts, highest, axis=0)
    step = (height * width - last) // 255
    below = jnp.cumsum(counts, axis=0) - counts
    table = (below + step // 2) // jnp.maximum(step, 1)
    return jnp.where(step > 0, jnp.minimum(table, 255), _values(image))


TABLES: dict[str, Callable[[Image, Scalar], Table]] = {
    'brightness': _brightness_table,
    'contrast': _contrast_table,
    'posterize': _posterize_table,
    'solarize': _solarize_table,
    'autocontrast': _autocontrast_table,
    'equalize': _equalize_table,
    'invert': _invert_table,
}
BLENDS = {'color': saturation, 'sharpness': sharpness}
# (amount, height, width) -> where each pixel comes from.
MATRICES: dict[str, Callable[[Scalar, int, int], Matrix]] = {
    'shear_x': lambda amount, h, w: _matrix(1, amount, 0, 0, 1, 0),
    'shear_y': lambda amount, h, w: _matrix(1, 0, 0, amount, 1, 0),
    'translate_x': lambda amount, h, w: _matrix(1, 0, amount, 0, 1, 0),
    'translate_y': lambda amount, h, w: _matrix(1, 0, 0, 0, 1, amount),
    'rotate': lambda amount, h, w: rotation(amount, h, w),
}
# The number of an operation is its place here.
OPERATIONS = ('identity', *MATRICES, *TABLES, *BLENDS)


def _matrix(*entries: Scalar) -> Matrix:
    return jnp.stack([jnp.asarray(entry, jnp.float32) for entry in entries])


def rotation(degrees: Scalar, height: int, width: int) -> Matrix:
    """The matrix of `PIL.Image.rotate`: counter-clockwise about the middle."""
    angle = -jnp.deg2rad(jnp.asarray(degrees, jnp.float32))
    # In 20 binary places, so that right angles are exact.
    cos, sin = (jnp.round(x * 2**20) / 2**20 for x in (jnp.cos(angle), jnp.sin(angle)))
    x, y = width / 2, height / 2
    return _matrix(cos, sin, x - x * cos - y * sin, -sin, cos, y + x * sin - y * cos)


def warp(image: Image, matrix: Matrix, fill: Scalar, interpolation: str) -> Image:
    """`PIL.Image.transform` by an affine matrix, to the same size.

    Args:
      image: the image.
      matrix: where a pixel comes from, in pixels whose middles lie at halves.
      fill: the value of pixels from outside.
      interpolation: one of `SAMPLINGS`.
    """
    height, width, _ = image.shape
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None]
    if interpolation == 'nearest':
        a, b, c, d, e, f = _fixed(matrix)
        x = (a * columns + b * rows + c) >> 16
        y = (d * columns + e * rows + f) >> 16
        found = image[jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)]
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    else:
        across, down = columns.astype(jnp.float32) + 0.5, rows.astype(jnp.float32) + 0.5
        x = matrix[0] * across + matrix[1] * down + matrix[2]
        y = matrix[3] * across + matrix[4] * down + matrix[5]
        found = _bilinear(image, x - 0.5, y - 0.5)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return jnp.where(inside[:, :, None], found, jnp.asarray(fill).astype(jnp.uint8))


def _fixed(matrix: Matrix) -> tuple[Int[Array, ''], ...]:
    """The matrix in 16 binary places, from the middle of the first pixel."""
    a, b, c, d, e, f = matrix
    moved = a, b, c + 0.5 * a + 0.5 * b, d, e, f + 0.5 * d + 0.5 * e
    return tuple(jnp.floor(entry * _FIXED + 0.5).astype(jnp.int32) for entry in moved)


def _bilinear(image: Image, x: Float[Array, 'h w'], y: Float[Array, 'h w']) -> Image:
    """Values between pixels, of which those of the border go on outside."""
    height, width, _ = image.shape
    left, top = jnp.floor(x), jnp.floor(y)
    across, down = (x - left)[:, :, None], (y - top)[:, :, None]

    def at(row: jax.Array, column: jax.Array) -> jax.Array:
        row = jnp.clip(row.astype(jnp.int32), 0, height - 1)
        column = jnp.clip(column.astype(jnp.int32), 0, width - 1)
        return image[row, column].astype(jnp.float32)

    upper = at(top, left) * (1 - across) + at(top, left + 1) * across
    lower = at(top + 1, left) * (1 - across) + at(top + 1, left + 1) * across
    return (upper * (1 - down) + lower * down).astype(jnp.uint8)


def operate(
    image: Image, number: Int[Array, ''], amount: Scalar, fill: Scalar, interpolation: str
) -> Image:
    """Applies one of `OPERATIONS`.

    Args:
      image: of 1 or 3 channels.
      number: its place in `OPERATIONS`.
      amount: factor, bits, threshold, shear, pixels or degrees, as the operation has it.
      fill: the value of pixels from outside.
      interpolation: one of `SAMPLINGS`.
    """

    def chosen(name: str) -> Bool[Array, '']:
        return number == OPERATIONS.index(name)

    tables = [make(image, amount) for make in TABLES.values()]
    table = jnp.select([chosen(name) for name in TABLES], tables, _values(image))
    image = table.astype(jnp.uint8).reshape(-1)[_entries(image)]
    for name, change in BLENDS.items():
        image = change(image, jnp.where(chosen(name), amount, 1.0))
    height, width, _ = image.shape
    matrices = [make(amount, height, width) for make in MATRICES.values()]
    matrix = jnp.select([chosen(name) for name in MATRICES], matrices, _matrix(1, 0, 0, 0, 1, 0))
    return warp(image, matrix, fill, interpolation)
