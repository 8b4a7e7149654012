"""Digital changes: brightness, contrast, elastic deformation, large pixels, JPEG."""

import functools
import io

import numpy as np
from jaxtyping import Float64
from PIL import Image

from resnet_jax.analysis.corruptions.pixels import Bytes, as_bytes, unit


def brightness(image: Bytes, added: float, rng: np.random.Generator) -> Bytes:
    """Raises the largest channel; hue and saturation stay (the V of HSV). Deterministic."""
    x = unit(image)
    value = x.max(axis=2, keepdims=True)
    raised = np.minimum(value + added, 1)
    # Black has no hue, and becomes grey.
    return as_bytes(np.where(value > 0, x * raised / np.where(value > 0, value, 1), raised))


def contrast(image: Bytes, factor: float, rng: np.random.Generator) -> Bytes:
    """Shrinks the differences from each channel's mean. Deterministic."""
    x = unit(image)
    mean = x.mean(axis=(0, 1), keepdims=True)
    return as_bytes((x - mean) * factor + mean)


def pixelate(image: Bytes, factor: float, rng: np.random.Generator) -> Bytes:
    """Reduces and enlarges, by averages over boxes. Deterministic."""
    side = image.shape[0]
    small = max(1, int(side * factor))
    picture = _picture(image).resize((small, small), Image.Resampling.BOX)
    return _array(picture.resize((side, side), Image.Resampling.BOX))


def jpeg(image: Bytes, quality: int, rng: np.random.Generator) -> Bytes:
    """Compresses as JPEG with Pillow. Deterministic."""
    out = io.BytesIO()
    _picture(image).save(out, 'JPEG', quality=quality)
    with Image.open(out) as opened:
        return _array(opened)


def _picture(image: Bytes) -> Image.Image:
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def _array(picture: Image.Image) -> Bytes:
    found = np.asarray(picture)
    return found if found.ndim == 3 else found[:, :, None]


def elastic(
    image: Bytes, parameters: tuple[float, float, float], rng: np.random.Generator
) -> Bytes:
    """Moves three corners at random, then every pixel by a smooth random displacement."""
    amplitude, smoothness, shift = (len(image) * each for each in parameters)
    x = warped(unit(image), rng.uniform(-shift, shift, (3, 2)))
    right, down = (
        amplitude * _smoothed(rng.uniform(-1, 1, x.shape[:2]), smoothness) for _ in range(2)
    )
    rows, columns = np.indices(x.shape[:2])
    return as_bytes(_sampled(x, rows + down, columns + right, 'reflect'))


def warped(
    x: Float64[np.ndarray, 'side side c'], shifts: Float64[np.ndarray, '3 2']
) -> Float64[np.ndarray, 'side side c']:
    """The affine image in which three corners of a centred square have moved.

    Args:
      x: the image.
      shifts: of the corners at the bottom right, the top right and the top left, to the right and
        down, pixels.
    """
    side = len(x)
    middle, third = side // 2, side // 3
    corners = middle + third * np.array([[1, 1], [1, -1], [-1, -1]])
    if not third:
        return x  # of fewer than three pixels
    # Which point of the image is seen at a point: the map from the moved corners to the corners.
    moved = np.column_stack([corners + shifts, np.ones(3)])
    matrix = np.linalg.solve(moved, corners.astype(float))
    rows, columns = np.indices((side, side))
    seen = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ matrix
    return _sampled(x, seen[:, :, 1], seen[:, :, 0], 'mirror')


def _sampled(x: np.ndarray, rows: np.ndarray, columns: np.ndarray, outside: str) -> np.ndarray:
    """Linear interpolation at fractional positions, with mirrored borders.

    As `scipy.ndimage.map_coordinates`, whose names of the two ways of mirroring it takes, and six
    times as fast: 'mirror' repeats no pixel, 'reflect' repeats the one at the border.
    """
    top, left = np.floor(rows), np.floor(columns)
    lower, righter = (rows - top)[:, :, None], (columns - left)[:, :, None]
    (up, down), (near, far) = (
        [_inside(first.astype(int) + step, len(x), outside) for step in (0, 1)]
        for first in (top, left)
    )
    above = x[up, near] * (1 - righter) + x[up, far] * righter
    below = x[down, near] * (1 - righter) + x[down, far] * righter
    found: np.ndarray = above * (1 - lower) + below * lower
    return found


def _inside(index: np.ndarray, side: int, outside: str) -> np.ndarray:
    last = 2 * side - 2 if outside == 'mirror' else 2 * side - 1
    period = max(last + (outside == 'reflect'), 1)
    folded = index % period
    return np.where(folded < side, folded, last - folded)


def _smoothed(x: np.ndarray, deviation: float) -> np.ndarray:
    if not deviation:
        return x
    matrix = _smoothing(len(x), deviation)
    found: np.ndarray = matrix @ x @ matrix.T
    return found


@functools.lru_cache(maxsize=32)
def _smoothing(side: int, deviation: float) -> Float64[np.ndarray, 'side side']:
    """The matrix of a Gaussian filter along one axis, cut off at 3 deviations."""
    from scipy.ndimage import gaussian_filter1d

    found: np.ndarray = gaussian_filter1d(
        np.eye(side), deviation, axis=0, mode='reflect', truncate=3
    )
    return found
