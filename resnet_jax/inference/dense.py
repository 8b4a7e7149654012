"""Predict segments, objects and depth of image files, at the size of each image."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8
from tqdm import tqdm

from resnet_jax.data import ImageFile, printable, read_example
from resnet_jax.data.targets import fitted_size, nearest
from resnet_jax.dense.detector import detect
from resnet_jax.errors import InputError, Range, check_number
from resnet_jax.inference.predict import decode_ahead
from resnet_jax.inference.trained import TrainedModel
from resnet_jax.training.compilation import jit

BATCH_SIZE = 16


@dataclasses.dataclass(frozen=True)
class Found:
    """An object in an image.

    Attributes:
      name: of its class.
      probability: of it.
      box: left, top, right, bottom, in pixels of the image.
    """

    name: str
    probability: float
    box: tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class DensePrediction:
    """What a network says of an image.

    Attributes:
      path: of the image.
      pixels: the image.
      classes: of segmentation, the number of the class of each pixel.
      objects: of detection, the most probable first.
      depth: in metres, of each pixel.
    """

    path: Path
    pixels: UInt8[np.ndarray, 'h w c']
    classes: UInt8[np.ndarray, 'h w'] | None = None
    objects: tuple[Found, ...] | None = None
    depth: Float32[np.ndarray, 'h w'] | None = None


def predict_dense(
    trained: TrainedModel,
    files: Sequence[ImageFile],
    score: float = 0.5,
    skip: Callable[[InputError], None] | None = None,
    progress: bool = False,
) -> Iterator[DensePrediction]:
    """Predicts each image, in the order of the files.

    Args:
      trained: a network for segmentation, detection or depth.
      files: images of any size, grey or colour.
      score: the least probability of an object.
      skip: as for `predict.predict`.
      progress: show a bar if standard error is a terminal and it takes over a second.

    Raises:
      InputError: for a bad score, and from the iterator, on a file that cannot be read, naming it.
    """
    check_number('--score', score, Range(0, 1))
    return _predictions(trained, files, score, skip, progress)


def _predictions(
    trained: TrainedModel,
    files: Sequence[ImageFile],
    score: float,
    skip: Callable[[InputError], None] | None,
    progress: bool,
) -> Iterator[DensePrediction]:
    preprocessing = trained.preprocessing

    def outputs_of(variables: Any, images: Any) -> Any:
        outputs = trained.model.apply(variables, preprocessing.normalize(images), train=False)
        return _READERS[trained.task](outputs, score)

    compute = jit(outputs_of) if trained.traceable else outputs_of
    size = min(BATCH_SIZE, len(files))
    read = decode_ahead(files, lambda file: read_example(file.path, preprocessing), skip)
    with tqdm(total=len(files), unit='image', delay=1, disable=None if progress else True) as bar:
        while batch := list(itertools.islice(read, size)):
            padded = np.zeros((size, *preprocessing.input_shape), np.uint8)
            padded[: len(batch)] = [preprocessing.prepare(pixels) for _, pixels in batch]
            found = jax.tree.map(np.asarray, compute(trained.variables, padded))
            bar.update(len(batch))
            for i, (path, pixels) in enumerate(batch):
                one = jax.tree.map(lambda x, i=i: x[i], found)
                yield _at_size(one, path, pixels, trained)


def _segments(outputs: Any, score: float) -> dict[str, Array]:
    return {'classes': jnp.argmax(outputs['out'], -1).astype(jnp.uint8)}


def _objects(outputs: Any, score: float) -> dict[str, Array]:
    found = detect(outputs, score=score, count=100)
    there = found.found & (found.scores >= score)
    return {
        'boxes': found.boxes,
        'scores': jnp.where(there, found.scores, 0),
        'labels': found.labels,
    }


def _depths(outputs: Any, score: float) -> dict[str, Array]:
    return {'depth': jnp.exp(outputs['out'][..., 0])}


_READERS: dict[str, Callable[[Any, float], dict[str, Array]]] = {
    'segmentation': _segments,
    'detection': _objects,
    'depth': _depths,
}


def _at_size(
    found: dict[str, np.ndarray], path: Path, pixels: np.ndarray, trained: TrainedModel
) -> DensePrediction:
    """What was found in the square that the model saw, in the image."""
    size = (pixels.shape[0], pixels.shape[1])
    inner = fitted_size(size, trained.preprocessing.image_size)
    if 'boxes' in found:
        scale = np.asarray([size[1] / inner[1], size[0] / inner[0]] * 2)
        ends = np.asarray([size[1], size[0]] * 2)
        names = trained.preprocessing.class_names
        objects = tuple(
            Found(names[label], float(value), tuple(np.clip(box * scale, 0, ends).tolist()))
            for box, value, label in zip(
                found['boxes'], found['scores'], found['labels'], strict=True
            )
            if value > 0
        )
        return DensePrediction(path, pixels, objects=objects)
    ((name, values),) = found.items()
    rows, columns = (nearest(old, new) for old, new in zip(inner, size, strict=True))
    return DensePrediction(path, pixels, **{name: values[rows][:, columns]})


def as_json(prediction: DensePrediction, names: Sequence[str]) -> dict[str, Any]:
    """A prediction for JSON: objects, the share of each class, or figures of the depth."""
    found: dict[str, Any] = {'image': str(prediction.path)}
    if prediction.objects is not None:
        found['objects'] = [
            {'class': one.name, 'probability': one.probability, 'box': list(one.box)}
            for one in prediction.objects
        ]
    if prediction.classes is not None:
        counts = np.bincount(prediction.classes.ravel(), minlength=len(names))
        shares = counts / prediction.classes.size
        order = [int(i) for i in np.argsort(-shares, kind='stable') if shares[i]]
        found['classes'] = [{'class': names[i], 'share': float(shares[i])} for i in order]
    if prediction.depth is not None:
        depth = prediction.depth
        found['depth'] = {
            'nearest': float(depth.min()),
            'median': float(np.median(depth)),
            'farthest': float(depth.max()),
        }
    return found


def in_words(prediction: DensePrediction, names: Sequence[str]) -> list[str]:
    """The same, for people: a few words for each part."""
    found = as_json(prediction, names)
    if 'objects' in found:
        return [
            f'{printable(one["class"])} {100 * one["probability"]:.0f} % at '
            + ', '.join(f'{side:.0f}' for side in one['box'])
            for one in found['objects']
        ] or ['no objects']
    if 'classes' in found:
        return [
            f'{100 * one["share"]:5.1f} % {printable(one["class"])}' for one in found['classes']
        ]
    return ['{nearest:.2f} to {farthest:.2f} m, median {median:.2f} m'.format(**found['depth'])]
