"""Made scenes of real handwritten digits, with exact masks, boxes and depth.

Each scene has a wall and two to four of scikit-learn's scans of digits in front of it, each in its
own plane: the nearer, the larger, and it hides what is behind. The digits of the scenes for testing
are in none of the others.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from resnet_jax.data.sources import Catalog, Record

SIZES = {'train': 2000, 'test': 400}
SIDE = 64
WALL = 4.0  # its distance, metres
NEAREST, FARTHEST = 1.2, 3.0  # of the digits, metres
HEIGHT = 30.0  # of a digit at one metre, pixels
COUNTS = (2, 4)
INK = 0.35  # of a stroke, from 0 to 1, from which a pixel is the digit's
HIDDEN = 0.5  # of a digit, at most, behind others
TRIES = 50  # places that a digit is tried at
CLASS_NAMES = ('background', *'0123456789')
Scans = Mapping[str, UInt8[np.ndarray, 'n 8 8 1']]


def digits_scenes_catalog(scans: Scans, labels: Mapping[str, np.ndarray]) -> Catalog:
    """Scenes of 64x64 pixels, RGB; see above.

    Args:
      scans: of the data set digits, by split.
      labels: their digits.
    """
    return Catalog(
        SIZES,
        CLASS_NAMES,
        3,
        lambda splits: functools.partial(_read, scans, labels),
        version='1',
        noun='scenes',
        targets=('segmentation', 'boxes', 'classes', 'depth'),
    )


def _read(
    scans: Scans, labels: Mapping[str, np.ndarray], split: str, indices: Sequence[int]
) -> list[Record]:
    return [_scene(scans[split], labels[split], list(SIZES).index(split), i) for i in indices]


def _scene(
    scans: UInt8[np.ndarray, 'n 8 8 1'], labels: np.ndarray, split: int, index: int
) -> Record:
    rng = np.random.default_rng([split, index])
    image = _wall(rng)
    depth = np.full((SIDE, SIDE), WALL, np.float32)
    owner = np.zeros((SIDE, SIDE), np.int32)  # number of the digit that is seen, from 1
    strokes: list[np.ndarray] = []
    classes: list[int] = []
    # From the back to the front.
    for distance in sorted(rng.uniform(NEAREST, FARTHEST, rng.integers(*COUNTS, endpoint=True)))[
        ::-1
    ]:
        which = int(rng.integers(len(scans)))
        stroke = _placed(rng, scans[which, :, :, 0] / 255, round(HEIGHT / distance), owner, strokes)
        if stroke is None:
            continue
        colour = rng.uniform(0, 1, 3) + (image.mean() < 0.5) * np.asarray(0.5)
        colour = np.clip(colour, 0.05, 1.0)
        image = image + stroke[..., None] * (colour - image)
        inked = stroke >= INK
        strokes.append(inked)
        classes.append(int(labels[which]) + 1)
        owner[inked], depth[inked] = len(strokes), distance
    pixels = np.clip(np.rint(255 * (image + rng.normal(0, 0.02, image.shape))), 0, 255)
    numbers = np.asarray([0, *classes], np.uint8)
    return pixels.astype(np.uint8), {
        'segmentation': numbers[owner],
        'boxes': np.asarray(
            [_box(owner == i + 1) for i in range(len(strokes))], np.float32
        ).reshape(-1, 4),
        'classes': np.asarray(classes, np.int32),
        'depth': depth,
    }


def _wall(rng: np.random.Generator) -> Float[np.ndarray, 'side side 3']:
    """A smooth mixture of two colours."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    share = 0.5 + 0.5 * np.sin(angle + 4 * (np.cos(angle) * rows + np.sin(angle) * columns))
    first, second = rng.uniform(0.1, 0.9, (2, 3))
    return first + share[..., None] * (second - first)


def _placed(
    rng: np.random.Generator,
    scan: Float[np.ndarray, '8 8'],
    height: int,
    owner: np.ndarray,
    strokes: Sequence[np.ndarray],
) -> Float[np.ndarray, 'side side'] | None:
    """A digit somewhere whole in the picture, where it hides no other too much; None if nowhere."""
    large = _enlarged(scan, height)
    for _ in range(TRIES):
        top, left = rng.integers(SIDE - height + 1, size=2)
        stroke = np.zeros((SIDE, SIDE))
        stroke[top : top + height, left : left + height] = large
        left_over = np.where(stroke >= INK, 0, owner)
        seen = [(left_over == i + 1).sum() / ink.sum() for i, ink in enumerate(strokes)]
        if all(share >= 1 - HIDDEN for share in seen):
            return stroke
    return None


def _enlarged(scan: Float[np.ndarray, '8 8'], side: int) -> Float[np.ndarray, 'side side']:
    """The scan at another size, linearly between pixels."""
    places = np.clip((np.arange(side) + 0.5) * 8 / side - 0.5, 0, 7)
    low = np.minimum(places.astype(int), 6)
    weights = np.zeros((side, 8))
    weights[np.arange(side), low] = 1 - (places - low)
    weights[np.arange(side), low + 1] = places - low
    found: np.ndarray = weights @ scan @ weights.T
    return found


def _box(seen: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is seen of a digit."""
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
