"""Test-time augmentation: several views of each image, whose predictions are averaged.

A row is a function (outputs of a batch of images, images [N, S, S, C], side of the model's input)
-> outputs, which are logarithms of mean probabilities.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from resnet_jax.dense.resizing import resize_bilinear

OutputsOf = Callable[[Array], Any]
Views = Mapping[str, Callable[[OutputsOf, Array, int], Any]]
SCALES = (0.75, 1.0, 1.25)  # arXiv 1706.05587, section 4.1, has six of 0.5 to 1.75
WINDOW = 0.5  # side of a window over that of the image
STRIDE = 0.5  # from one window to the next, over its side


def _flipped(images: Array, size: int) -> list[Array]:
    return [images, images[:, :, ::-1]]


def _ten_crops(images: Array, size: int) -> list[Array]:
    room = images.shape[1] - size
    middle = room // 2
    corners = [(0, 0), (0, room), (room, 0), (room, room), (middle, middle)]
    crops = [images[:, top : top + size, left : left + size] for top, left in corners]
    return [view for crop in crops for view in _flipped(crop, size)]


def _whole(images: Array, size: int) -> list[Array]:
    return [images]


def _classes(cut: Callable[[Array, int], list[Array]]) -> Callable[[OutputsOf, Array, int], Array]:
    def averaged(outputs_of: OutputsOf, images: Array, size: int) -> Array:
        each = [jax.nn.log_softmax(outputs_of(view)) for view in cut(images, size)]
        return _mean(jnp.stack(each))

    return averaged


def _mean(logarithms: Array) -> Array:
    """The logarithm of the mean of probabilities, over the first axis."""
    count = np.log(len(logarithms)).astype(logarithms.dtype)
    return jax.nn.logsumexp(logarithms, axis=0) - count


# Name -> (images [N, S, S, C], side of the model's input) -> the views of each image. 'ten_crop' is
# that of Krizhevsky et al. 2012, section 4.1: the corners and the middle of the resized square, and
# their mirror images. 'whole' is that square itself, which the model sees at its size, as he2015,
# section 3.4, "fully-convolutional".
VIEWS: Mapping[str, Callable[[Array, int], list[Array]]] = {
    'flip': _flipped,
    'ten_crop': _ten_crops,
    'whole': _whole,
}
CLASSIFICATION_VIEWS: Views = {name: _classes(cut) for name, cut in VIEWS.items()}


def _maps(outputs_of: OutputsOf, images: Array) -> Array:
    return jax.nn.log_softmax(outputs_of(images)['out'])


def _flipped_maps(outputs_of: OutputsOf, images: Array, size: int) -> Any:
    turned = _maps(outputs_of, images[:, :, ::-1])[:, :, ::-1]
    return {'out': _mean(jnp.stack([_maps(outputs_of, images), turned]))}


def _scaled_maps(outputs_of: OutputsOf, images: Array, size: int) -> Any:
    shape = images.shape[1], images.shape[2]
    each = []
    for scale in SCALES:
        sides = tuple(round(scale * side) for side in shape)
        view = resize_bilinear(images, sides) if scale != 1 else images
        for mirrored in (False, True):
            found = _maps(outputs_of, view[:, :, ::-1] if mirrored else view)
            found = found[:, :, ::-1] if mirrored else found
            each.append(jax.nn.log_softmax(resize_bilinear(found, shape)))
    return {'out': _mean(jnp.stack(each))}


def _windowed_maps(outputs_of: OutputsOf, images: Array, size: int) -> Any:
    """Windows that overlap, as of pictures larger than those of the training."""
    sides = [max(1, round(WINDOW * side)) for side in images.shape[1:3]]
    total: Any = 0.0
    counts = np.zeros((1, *images.shape[1:3], 1), np.float32)
    for top, left in itertools.product(
        *(_starts(whole, side) for whole, side in zip(images.shape[1:3], sides, strict=True))
    ):
        rows, columns = slice(top, top + sides[0]), slice(left, left + sides[1])
        found = jnp.exp(_maps(outputs_of, images[:, rows, columns]))
        whole = jnp.zeros((*images.shape[:3], found.shape[-1]), found.dtype)
        total = total + whole.at[:, rows, columns].set(found)
        counts[:, rows, columns] += 1
    return {'out': jnp.log(jnp.maximum(total / counts, jnp.finfo(total.dtype).tiny))}


def _starts(whole: int, side: int) -> list[int]:
    """Where windows begin: at even distances of at most `STRIDE` of their side."""
    count = 1 + -(-(whole - side) // max(1, round(STRIDE * side)))
    return [int(start) for start in np.linspace(0, whole - side, count).round()]


SEGMENTATION_VIEWS: Views = {
    'flip': _flipped_maps,
    'scales': _scaled_maps,
    'windows': _windowed_maps,
}
