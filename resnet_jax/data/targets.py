"""What examples of dense tasks hold besides the image: masks, boxes, maps of depth.

The targets of an example, or of a batch of them, are a dict of arrays by the names of `TARGETS`.
They follow the image wherever it goes: into the square that the model sees, and through the
transforms that move pixels. Coordinates are pixels of the image, from its top left corner.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from resnet_jax.errors import InputError

IGNORED = 255  # the class of a pixel that counts nowhere
NOTHING = -1  # the class of a place without an object
MOST_OBJECTS = 100  # of an image, as COCO's evaluation counts them
LEAST_VISIBLE = 0.25  # of a box, below which a cut object is none
Targets = Mapping[str, Array]


class Target(NamedTuple):
    """A kind of target.

    Attributes:
      shape: of one example's: 'side' stands for that of the image.
      dtype: of the array.
      empty: what stands where nothing is known.
    """

    shape: tuple[int | str, ...]
    dtype: Any
    empty: float


TARGETS: dict[str, Target] = {
    'label': Target((), np.int32, 0),
    'segmentation': Target(('side', 'side'), np.uint8, IGNORED),  # the class of each pixel
    'boxes': Target((MOST_OBJECTS, 4), np.float32, 0.0),  # left, top, right, bottom
    'classes': Target((MOST_OBJECTS,), np.int32, NOTHING),  # of the boxes
    'depth': Target(('side', 'side'), np.float32, 0.0),  # of each pixel; 0 is unknown
}
_MAPS = ('segmentation', 'depth')  # a value for every pixel


def empty_targets(names: Sequence[str], count: int, side: int) -> dict[str, np.ndarray]:
    """Targets of a batch, in which nothing is known."""
    rows = {name: TARGETS[name] for name in names}
    return {
        name: np.full(
            (count, *(side if isinstance(size, str) else size for size in row.shape)),
            row.empty,
            row.dtype,
        )
        for name, row in rows.items()
    }


def fitted_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width of an image whose longer side is scaled to `side`."""
    longer = max(size)
    height, width = (max(1, round(length * side / longer)) for length in size)
    return height, width


def nearest(old: int, new: int) -> Int[np.ndarray, ' new']:
    """The nearest of `old` pixels in a row for each of `new` that take their place."""
    return ((np.arange(new) + 0.5) * old / new).astype(int)


def fit_targets(
    targets: Mapping[str, np.ndarray], size: tuple[int, int], side: int
) -> dict[str, np.ndarray]:
    """The targets of an image that was scaled into the top left of a square.

    Args:
      targets: of an image; 'boxes' [k, 4] and 'classes' [k] for any number of objects.
      size: height and width of that image.
      side: of the square, pixels.

    Raises:
      InputError: for a map of another size than the image, or more than `MOST_OBJECTS`.
    """
    inner = fitted_size(size, side)
    found = {name: x[0] for name, x in empty_targets(list(targets), 1, side).items()}
    for name, values in targets.items():
        if name in _MAPS:
            if values.shape != size:
                raise InputError(
                    f'its {name} has {values.shape[1]}x{values.shape[0]} pixels and the image '
                    f'{size[1]}x{size[0]}'
                )
            rows, columns = (nearest(old, new) for old, new in zip(size, inner, strict=True))
            found[name][: inner[0], : inner[1]] = values[rows][:, columns]
            continue
        if len(values) > MOST_OBJECTS:
            raise InputError(f'it has {len(values)} objects; at most {MOST_OBJECTS} are taken')
        scale = np.asarray([inner[1] / size[1], inner[0] / size[0]] * 2, np.float32)
        found[name][: len(values)] = values * scale if name == 'boxes' else values
    return found


def mirror_targets(targets: Targets, width: int, mirrored: Array) -> dict[str, Array]:
    """The targets of an image that is mirrored left to right, where `mirrored` is true."""
    found = dict(targets)
    for name, x in targets.items():
        if name in _MAPS:
            found[name] = jnp.where(mirrored, jnp.flip(x, -1), x)
    if 'boxes' in targets:
        left, top, right, bottom = jnp.moveaxis(targets['boxes'], -1, 0)
        turned = jnp.stack([width - right, top, width - left, bottom], -1)
        there = (targets['classes'] != NOTHING)[..., None]
        found['boxes'] = jnp.where(mirrored & there, turned, targets['boxes'])
    return found


def move_targets(
    targets: Targets, size: tuple[int, int], factor: Array | float, shift: Float[Array, '2']
) -> dict[str, Array]:
    """The targets of an image that is scaled, and then moved.

    Args:
      targets: of one example.
      size: height and width of the image, which stay.
      factor: by which it is scaled.
      shift: pixels by which it is moved down, and to the right.

    Returns:
      Pixels from outside are unknown; of a box what is inside is left, or nothing where that is
      less than `LEAST_VISIBLE` of it.
    """
    found = dict(targets)
    for name in _MAPS:
        if name in targets:
            found[name] = _moved_map(targets[name], TARGETS[name].empty, factor, shift)
    if 'boxes' in targets:
        whole = targets['boxes'] * factor + jnp.stack([shift[1], shift[0]] * 2)[None]
        ends = jnp.asarray([size[1], size[0]] * 2, whole.dtype)
        cut = jnp.clip(whole, 0, ends[None])
        area = _area(cut)
        seen = (area > 0) & (area >= LEAST_VISIBLE * _area(whole))
        left = seen & (targets['classes'] != NOTHING)
        found['boxes'] = jnp.where(left[:, None], cut, 0)
        found['classes'] = jnp.where(left, targets['classes'], NOTHING)
    return found


def _moved_map(
    values: Shaped[Array, 'h w'], empty: float, factor: Array | float, shift: Array
) -> Shaped[Array, 'h w']:
    places, inside = [], []
    for axis, length in enumerate(values.shape):
        middle = jnp.arange(length, dtype=jnp.float32) + 0.5
        place = jnp.floor((middle - shift[axis]) / factor).astype(jnp.int32)
        inside.append((place >= 0) & (place < length))
        places.append(jnp.clip(place, 0, length - 1))
    moved = values[places[0]][:, places[1]]
    known = inside[0][:, None] & inside[1][None]
    return jnp.where(known, moved, jnp.asarray(empty, values.dtype))


def _area(boxes: Float[Array, 'n 4']) -> Float[Array, ' n']:
    return jnp.prod(jnp.maximum(boxes[:, 2:] - boxes[:, :2], 0), -1)


def check_targets(targets: Mapping[str, np.ndarray], classes: int, where: str) -> None:
    """Refuses classes that the data set does not have, and boxes that are none.

    Raises:
      InputError: naming the example by `where`.
    """
    for name in ('segmentation', 'classes'):
        values = targets.get(name, np.zeros(0, np.int32))
        known, other = (values < classes) & (values >= 0), ''
        if name == 'segmentation':
            known, other = known | (values == IGNORED), f', or {IGNORED} to ignore'
        if not known.all():
            first = int(values[~known].ravel()[0])
            raise InputError(
                f'{where} has class {first}, outside its {classes} classes (0 to '
                f'{classes - 1}{other}); correct it'
            )
    boxes = targets.get('boxes')
    if boxes is not None and not (np.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all()):
        raise InputError(
            f'{where} has a box without area, or of numbers that are not finite; correct it'
        )


def is_dense(targets: Any) -> bool:
    """Whether the targets of examples are such a dict, and not labels."""
    return isinstance(targets, Mapping)
