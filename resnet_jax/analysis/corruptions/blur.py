"""Blurs: out of focus, behind frosted glass, in motion, while zooming."""

import functools

import numpy as np
from jaxtyping import Float64

from resnet_jax.analysis.corruptions.pixels import (
    Bytes,
    as_bytes,
    enlarged,
    moved_average,
    unit,
)


def defocus(image: Bytes, parameters: tuple[float, float], rng: np.random.Generator) -> Bytes:
    """Averages over a disk, with mirrored borders. Deterministic."""
    from scipy.signal import fftconvolve

    kernel = disk(*parameters)
    margin = len(kernel) // 2
    around = np.pad(unit(image), ((margin, margin), (margin, margin), (0, 0)), mode='reflect')
    return as_bytes(fftconvolve(around, kernel[:, :, None], mode='valid', axes=(0, 1)))


@functools.lru_cache(maxsize=32)
def disk(radius: float, edge: float) -> Float64[np.ndarray, 'side side']:
    """A disk of sum 1, its edge smoothed by a small Gaussian (3x3; of radii above 8, 5x5)."""
    from scipy.ndimage import correlate1d

    reach = max(8, int(radius))
    at = np.arange(-reach, reach + 1)
    kernel = (at[:, None] ** 2 + at[None] ** 2 <= radius**2).astype(float)
    kernel /= kernel.sum()
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    weights = np.exp(-(taps**2) / (2 * edge**2))
    weights /= weights.sum()
    for axis in (0, 1):
        kernel = correlate1d(kernel, weights, axis=axis, mode='mirror')
    # Without the rows and columns that hold nothing.
    used = np.abs(at[kernel.any(axis=0)]).max()
    return kernel[reach - used : reach + used + 1, reach - used : reach + used + 1]


def glass(image: Bytes, parameters: tuple[float, int, int], rng: np.random.Generator) -> Bytes:
    """Blurs, has pixels take the values of neighbours, and blurs again.

    The paper swaps neighbours. The program that made the published sets only copies: where it
    swaps, the second assignment reads what the first one has changed. So does this.
    """
    deviation, reach, rounds = parameters
    blurred = as_bytes(_smoothed(unit(image), deviation))
    side, channels = image.shape[0], image.shape[2]
    inner = max(side - 2 * reach, 0)
    shifts = rng.integers(-reach, reach, size=(rounds, inner, inner, 2))
    taken = copied_from(shifts, side, reach)
    shuffled = blurred.reshape(-1, channels)[taken].reshape(image.shape)
    return as_bytes(_smoothed(unit(shuffled), deviation))


def copied_from(shifts: np.ndarray, side: int, reach: int) -> np.ndarray:
    """Which pixel of the image each pixel shows in the end: numbers [side * side].

    Args:
      shifts: integers [rounds, rows, columns, 2], to the right and down; rows and columns count
        from the pixel `reach` before the image's end backwards.
      side: of the image.
      reach: pixels at the border that keep their values, though they are copied.
    """
    source = list(range(side * side))
    at = np.arange(side - reach, side - reach - shifts.shape[1], -1)
    here = (side * at[:, None] + at[None]).ravel().tolist()
    for each in shifts:
        there = side * (at[:, None] + each[:, :, 1]) + at[None] + each[:, :, 0]
        # In this order: a pixel may show what its neighbour took before.
        for i, j in zip(here, there.ravel().tolist(), strict=True):
            source[i] = source[j]
    return np.array(source)


def motion(image: Bytes, parameters: tuple[int, float], rng: np.random.Generator) -> Bytes:
    """Blurs along a path within 45 degrees of the horizontal."""
    moved = moved_average(unit(image), *parameters, angle=rng.uniform(-45, 45))
    return np.rint(np.clip(moved, 0, 1) * 255).astype(np.uint8)


def zoom(image: Bytes, parameters: tuple[float, float], rng: np.random.Generator) -> Bytes:
    """Averages the image and its enlargements. Deterministic."""
    factors = np.arange(1, *parameters)
    x = unit(image)
    total = x + sum(enlarged(x, float(factor)) for factor in factors)
    return as_bytes(total / (len(factors) + 1))


def _smoothed(x: np.ndarray, deviation: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    found: np.ndarray = gaussian_filter(x, (deviation, deviation, 0), mode='nearest', truncate=4)
    return found
