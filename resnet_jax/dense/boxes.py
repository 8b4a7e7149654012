"""Boxes: anchors, their coding, overlap, and the choice of detections.

A box is (left, top, right, bottom), in pixels of the image. Formulas: Faster R-CNN, arXiv
1506.01497, section 3.1.2; RetinaNet, arXiv 1708.02002, section 4.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Boxes = Float[Array, '*n 4']
# arXiv 1708.02002, section 4: three sizes and three shapes at each level; whole pixels, as
# torchvision has them.
SIZES = tuple(
    tuple(int(size * 2 ** (octave / 3)) for octave in range(3)) for size in (32, 64, 128, 256, 512)
)
RATIOS = (0.5, 1.0, 2.0)  # height over width
LARGEST_LOG = math.log(1000 / 16)  # of a side over the anchor's, as in Detectron


def anchors(
    image_size: tuple[int, int],
    grids: Sequence[tuple[int, int]],
    sizes: Sequence[Sequence[float]] = SIZES,
    ratios: Sequence[float] = RATIOS,
) -> list[Float[np.ndarray, 'positions anchors 4']]:
    """The anchors of each level, row by row.

    Args:
      image_size: height and width, pixels.
      grids: height and width of each level.
      sizes: of the anchors of each level, pixels: roots of their areas.
      ratios: their heights over their widths.
    """
    found = []
    for (height, width), of_level in zip(grids, sizes, strict=True):
        roots = np.sqrt(np.asarray(ratios))[:, None]
        half = np.stack([1 / roots * of_level, roots * of_level], -1).reshape(-1, 2) / 2
        cell = np.round(np.concatenate([-half, half], 1))
        rows = np.arange(height) * (image_size[0] // height)
        columns = np.arange(width) * (image_size[1] // width)
        y, x = np.meshgrid(rows, columns, indexing='ij')
        shifts = np.stack([x, y, x, y], -1).reshape(-1, 1, 4)
        found.append((shifts + cell).astype(np.float32))
    return found


def encode(boxes: Boxes, anchors: Boxes) -> Boxes:
    """Boxes as offsets from anchors: of the centre over the size, and logarithms of the sizes."""
    (centre, size), (from_centre, from_size) = _parts(boxes), _parts(anchors)
    return jnp.concatenate([(centre - from_centre) / from_size, jnp.log(size / from_size)], -1)


def decode(offsets: Boxes, anchors: Boxes) -> Boxes:
    """The inverse of `encode`; no side becomes more than 62.5 times the anchor's."""
    centre, size = _parts(anchors)
    centre = centre + offsets[..., :2] * size
    half = jnp.exp(jnp.minimum(offsets[..., 2:], LARGEST_LOG)) * size / 2
    return jnp.concatenate([centre - half, centre + half], -1)


def _parts(boxes: Boxes) -> tuple[Array, Array]:
    """Centre and size."""
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size


def clip(boxes: Boxes, image_size: tuple[int, int]) -> Boxes:
    """The part of boxes inside of the image."""
    height, width = image_size
    ends = jnp.asarray([width, height, width, height], boxes.dtype)
    return jnp.clip(boxes, 0, ends.reshape(*(1,) * (boxes.ndim - 1), 4))


def overlaps(first: Float[Array, 'n 4'], second: Float[Array, 'm 4']) -> Float[Array, 'n m']:
    """Intersection over union of all pairs; 0 where both are empty."""
    a, b = first[:, None], second[None]
    sides = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    both = jnp.prod(jnp.maximum(sides, 0), -1)
    areas = jnp.prod(a[..., 2:] - a[..., :2], -1) + jnp.prod(b[..., 2:] - b[..., :2], -1)
    return both / jnp.maximum(areas - both, jnp.finfo(both.dtype).tiny)


def suppress(
    boxes: Float[Array, 'n 4'],
    scores: Float[Array, ' n'],
    labels: Int[Array, ' n'],
    limit: float,
    count: int,
) -> tuple[Int[Array, ' count'], Bool[Array, ' count']]:
    """Greedy non-maximum suppression, class by class, for `jax.jit`.

    Args:
      boxes: candidates.
      scores: of them; those that are not above 0 are none.
      labels: of them; boxes of other classes do not suppress each other.
      limit: overlap above which the box with the lower score is left out.
      count: boxes to keep.

    Returns:
      The indices of the boxes kept, best first, and which of the `count` places are filled.
    """
    # Far apart by class, as torchvision's batched_nms has them.
    shifted = boxes + (labels.astype(boxes.dtype) * (jnp.max(boxes) + 1))[:, None]

    def keep(left: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        best = jnp.argmax(left)
        score = left[best]
        near = overlaps(shifted[best][None], shifted)[0] > limit
        left = jnp.where(near, 0, left).at[best].set(0)
        return left, (best, score > 0)

    _, found = jax.lax.scan(keep, jnp.maximum(scores, 0), length=count)
    return found
