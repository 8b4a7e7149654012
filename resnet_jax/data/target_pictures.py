"""Targets drawn over their image: segments in colours, boxes as frames, depth as shades."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from resnet_jax.data.targets import IGNORED, NOTHING

SHARE = 0.6  # of the colour of a class, over the image


def class_colours(count: int) -> UInt8[np.ndarray, 'count 3']:
    """A colour for each class: Pascal VOC's, in which every bit of the number moves the colour."""
    found = np.zeros((count, 3), np.uint8)
    for number in range(count):
        for bit in range(8):
            for channel in range(3):
                found[number, channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
    return found


def coloured(
    pixels: UInt8[np.ndarray, 'h w c'], classes: UInt8[np.ndarray, 'h w'], count: int
) -> UInt8[np.ndarray, 'h w 3']:
    """An image with the colour of its class over each pixel, but for class 0 and ignored ones."""
    colours = class_colours(max(count, 1))
    known = (classes != IGNORED) & (classes > 0)
    over = colours[np.where(known, classes, 0)]
    image = _colour(pixels)
    mixed = np.where(known[..., None], (1 - SHARE) * image + SHARE * over, image)
    return np.rint(mixed).astype(np.uint8)


def _colour(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., :1], 3, -1) if pixels.shape[-1] < 3 else pixels[..., :3]


def painted(
    pixels: UInt8[np.ndarray, 'h w c'], targets: Mapping[str, np.ndarray], count: int
) -> UInt8[np.ndarray, 'h w 3']:
    """An image with its targets; frames are a pixel wide, and a nearer place is lighter.

    Args:
      pixels: the image.
      targets: of it, see `targets`.
      count: number of classes.
    """
    if 'segmentation' in targets:
        return coloured(pixels, targets['segmentation'], count)
    if 'depth' in targets:
        depth = targets['depth']
        known = depth > 0
        nearest = depth[known].min() if known.any() else 1.0
        shade = np.where(known, 255 * nearest / np.maximum(depth, nearest), 0)
        return np.repeat(np.rint(shade).astype(np.uint8)[..., None], 3, -1)
    found, colours = _colour(pixels).copy(), class_colours(count)
    for box, number in zip(targets['boxes'], targets['classes'], strict=True):
        if number == NOTHING:
            continue
        left, top, right, bottom = (round(float(side)) for side in box)
        rows, columns = slice(max(top, 0), bottom), slice(max(left, 0), right)
        for row in (max(top, 0), bottom - 1):
            found[row : row + 1, columns] = colours[number]
        for column in (max(left, 0), right - 1):
            found[rows, column : column + 1] = colours[number]
    return found


def in_words(targets: Mapping[str, np.ndarray], names: Sequence[str]) -> tuple[str, ...]:
    """What is in an image: the classes of its pixels or objects, or the range of its depth."""
    if 'depth' in targets:
        known = targets['depth'][targets['depth'] > 0]
        return (f'{known.min():.1f} to {known.max():.1f} m',) if known.size else ('unknown',)
    if 'segmentation' in targets:
        there = np.unique(targets['segmentation'])
        return tuple(names[i] for i in there if 0 < i != IGNORED) or ('nothing',)
    return tuple(names[i] for i in targets['classes'] if i != NOTHING) or ('no objects',)
