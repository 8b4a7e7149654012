"""Made videos: a handwritten digit that moves in one of four directions."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from resnet_jax.data.sources import Catalog, Record

DIRECTIONS = {'up': (-1, 0), 'down': (1, 0), 'left': (0, -1), 'right': (0, 1)}
SIZES = {'train': 1200, 'test': 400}
FRAMES, SIDE, DIGIT = 8, 16, 8
Scans = Mapping[str, UInt8[np.ndarray, 'n 8 8 1']]


def moving_digits_catalog(scans: Scans) -> Catalog:
    """Videos of 8 frames of 16x16 pixels; no frame by itself tells the class.

    The digit moves a pixel from frame to frame, from a random place, and comes back on the other
    side where it leaves the picture.

    Args:
      scans: of the data set digits, by split.
    """
    labels = {split: np.arange(n) % len(DIRECTIONS) for split, n in SIZES.items()}
    return Catalog(
        SIZES,
        tuple(DIRECTIONS),
        1,
        lambda splits: functools.partial(_read, scans),
        version='1',
        labels=labels.__getitem__,
    )


def _read(scans: Scans, split: str, indices: Sequence[int]) -> list[Record]:
    return [(_video(scans, split, i), i % len(DIRECTIONS)) for i in indices]


def _video(scans: Scans, split: str, index: int) -> UInt8[np.ndarray, 't h w 1']:
    rng = np.random.default_rng([list(SIZES).index(split), index])
    frame = np.zeros((SIDE, SIDE, 1), np.uint8)
    frame[:DIGIT, :DIGIT] = scans[split][rng.integers(len(scans[split]))]
    frame = np.roll(frame, rng.integers(SIDE, size=2), (0, 1))
    down, right = list(DIRECTIONS.values())[index % len(DIRECTIONS)]
    return np.stack([np.roll(frame, (t * down, t * right), (0, 1)) for t in range(FRAMES)])
