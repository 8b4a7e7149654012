"""Pixels as uint8 and as numbers in [0, 1]; filters that several corruptions share."""

import functools

import numpy as np
from jaxtyping import Float64, Int, UInt8

Bytes = UInt8[np.ndarray, 'h w c']
Unit = Float64[np.ndarray, 'h w c']

LUMA = np.array([0.299, 0.587, 0.114])  # of ITU-R BT.601


def unit(image: Bytes) -> Unit:
    """Values scaled to [0, 1]."""
    return image / 255.0


def as_bytes(x: Unit) -> Bytes:
    """Values in [0, 1] as uint8: clipped, and cut off as in the published sets."""
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)


def grey(x: Unit) -> Unit:
    """The luma, with one channel."""
    return x if x.shape[2] == 1 else (x @ LUMA)[:, :, None]


@functools.lru_cache(maxsize=256)
def _zoom_points(
    side: int, factor: float
) -> tuple[Int[np.ndarray, ' side'], Int[np.ndarray, ' side'], Float64[np.ndarray, ' side']]:
    """Along one axis: the two pixels between which each pixel of an enlargement lies, and where."""
    kept = int(np.ceil(side / factor))
    whole = round(kept * factor)
    trim = (whole - side) // 2
    at = np.arange(trim, trim + side) * ((kept - 1) / max(whole - 1, 1))
    low = np.minimum(at.astype(int), max(kept - 2, 0))
    first = (side - kept) // 2
    return first + low, first + np.minimum(low + 1, kept - 1), at - low


def enlarged(x: Unit, factor: float) -> Unit:
    """The centre of a square image enlarged to its size, by linear interpolation.

    The `ceil(side / factor)` central pixels are enlarged so that the first and the last stay at the
    ends (as `scipy.ndimage.zoom` does), and what exceeds the side is trimmed equally.
    """
    low, high, between = _zoom_points(len(x), factor)
    between = between[:, None, None]
    x = x[low] * (1 - between) + x[high] * between
    between = between[:, 0][None]
    return x[:, low] * (1 - between) + x[:, high] * between


def moved_average(x: Unit, radius: int, sigma: float, angle: float) -> Unit:
    """The mean along a straight path from each pixel: blur by motion, as in ImageMagick.

    The weights fall from the pixel on, as a Gaussian does; points of the path are rounded to
    pixels, and those outside take the nearest pixel inside.

    Args:
      x: the image.
      radius: the path has 2 * radius + 1 points.
      sigma: standard deviation of the weights, pixels.
      angle: of the path, degrees; 0 is to the right, 90 down.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    turn = np.deg2rad(angle)
    down = np.ceil(steps * np.sin(turn) - 0.5).astype(int)
    right = np.ceil(steps * np.cos(turn) - 0.5).astype(int)
    margin = 2 * radius + 1
    padded = np.pad(x, ((margin, margin), (margin, margin), (0, 0)), mode='edge')
    height, width = x.shape[:2]
    total = np.zeros_like(x)
    for weight, i, j in zip(weights, down + margin, right + margin, strict=True):
        total += weight * padded[i : i + height, j : j + width]
    return total


def plasma(side: int, decay: float, rng: np.random.Generator) -> Float64[np.ndarray, 'side side']:
    """A cloudy pattern from 0 to 1 by the diamond-square algorithm, on a torus.

    Args:
      side: a power of two.
      decay: factor by which the disturbance falls from one scale to the next.
      rng: its random numbers.
    """
    field = np.zeros((side, side))
    step, amplitude = side, 100.0

    def disturbed(sums: np.ndarray) -> np.ndarray:
        return sums / 4 + amplitude * rng.uniform(-amplitude, amplitude, sums.shape)

    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        beside, below = np.roll(corners, -1, axis=1), np.roll(corners, -1, axis=0)
        centres = disturbed(corners + beside + below + np.roll(below, -1, axis=1))
        field[half::step, half::step] = centres
        field[::step, half::step] = disturbed(corners + beside + centres + np.roll(centres, 1, 0))
        field[half::step, ::step] = disturbed(corners + below + centres + np.roll(centres, 1, 1))
        step, amplitude = half, amplitude / decay
    field -= field.min()
    return field / field.max()


def clouds(side: int, decay: float, rng: np.random.Generator) -> Float64[np.ndarray, 'side side']:
    """As `plasma`, for any side: the corner of one whose side is the next power of two."""
    power = 2 ** max(1, (side - 1).bit_length())
    return plasma(power, decay, rng)[:side, :side]
