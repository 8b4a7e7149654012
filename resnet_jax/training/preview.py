"""The first batch of a run as the model would see it, beside the images as they are stored."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from resnet_jax import data
from resnet_jax.data.target_pictures import in_words, painted
from resnet_jax.errors import InputError
from resnet_jax.training.build import make_prepare
from resnet_jax.training.inputs import Batch, open_inputs
from resnet_jax.training.tasks import TASKS

LEAST_SHARE = 0.005  # of a class in a mixed label that is named


@dataclasses.dataclass(frozen=True)
class Preview:
    """Examples of the first step of a run.

    Attributes:
      stored: the images as they are stored, [height, width, channels].
      read: as they are read, cut to the model's size by the transforms of the host.
      seen: as the model sees them, after those of the device, without its normalisation; crops of
        a smaller size stand to the right.
      classes: the class of each.
      targets: what the model is to answer, in words: the class, or each of several that were mixed
        with its share.
    """

    stored: Sequence[np.ndarray]
    read: UInt8[np.ndarray, 'n size size c']
    seen: UInt8[np.ndarray, 'n height width c']
    classes: tuple[str, ...]
    targets: tuple[tuple[str, ...], ...]


def preview(config: ConfigDict, count: int) -> Preview:
    """Reads the first batch of a run and prepares it, with the code and the seed of the run.

    Args:
      config: of the run.
      count: examples of the batch to return; at most all of it.

    Raises:
      InputError: for data that does not exist or cannot be read.
    """
    inputs = open_inputs(config)
    if inputs.preprocessing.dimensions != 2:
        noun = inputs.preprocessing.noun
        raise InputError(f'{config.data.name} holds {noun}, and pictures are drawn of images only')
    preprocessing, task = inputs.preprocessing, TASKS[config.task]
    batches = inputs.train_batches(0, 1)
    batch = next(batches)
    batches.close()
    if inputs.arrays is not None:
        batch = {name: array[batch['index']] for name, array in inputs.arrays.items()}
    prepare = jax.jit(make_prepare(config, preprocessing, config.seed))
    positions = jnp.arange(len(batch['image']))
    given = {name: jnp.asarray(array) for name, array in batch.items()}
    images, targets = prepare(
        given['image'], task.targets(given), jnp.zeros((), jnp.int32), positions
    )
    pixels = 255 * _beside(images, count, preprocessing)
    source = inputs.train.with_bands(preprocessing.channels)
    seen = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    stored = [example['image'] for example in source.take(inputs.indices(0)[:count].tolist())]
    names = inputs.train.class_names
    if task.is_dense:
        return _dense(stored, batch, seen, {k: np.asarray(x) for k, x in targets.items()}, names)
    labels = batch['label'][:count].tolist()
    return Preview(
        stored,
        batch['image'][:count],
        seen,
        tuple(names[label] for label in labels),
        tuple(_words(names, target) for target in np.asarray(targets)[:count]),
    )


def _dense(
    stored: Sequence[np.ndarray],
    batch: Batch,
    seen: np.ndarray,
    targets: dict[str, np.ndarray],
    names: Sequence[str],
) -> Preview:
    """Examples of masks, boxes or depth, which are drawn over what the model sees."""
    count = range(len(seen))
    read = [{name: batch[name][i] for name in targets} for i in count]
    after = [{name: values[i] for name, values in targets.items()} for i in count]
    drawn = [painted(seen[i], after[i], len(names)) for i in count]
    words = [tuple(dict.fromkeys(in_words(one, names))) for one in after]
    classes = tuple(', '.join(dict.fromkeys(in_words(one, names))) for one in read)
    return Preview(stored, batch['image'][: len(seen)], np.stack(drawn), classes, tuple(words))


def _beside(images: Any, count: int, preprocessing: data.Preprocessing) -> np.ndarray:
    """The first images without normalisation, and right of each its smaller views, on grey."""
    std, mean = (np.asarray(x, np.float32) for x in (preprocessing.std, preprocessing.mean))
    if not isinstance(images, tuple):
        return np.asarray(images[:count], np.float32) * std + mean
    whole, views = (np.asarray(part[:count], np.float32) * std for part in images)
    whole, views = whole + mean, views + mean.reshape(-1, mean.shape[-1]).mean(axis=0)
    height, size = whole.shape[1], views.shape[2]
    rows = max(height // size, 1)
    columns = -(-views.shape[1] // rows)
    shape = (len(whole), max(height, size), whole.shape[2] + columns * size, whole.shape[3])
    sheet = np.full(shape, 0.5, np.float32)
    sheet[:, :height, : whole.shape[2]] = whole
    for number in range(views.shape[1]):
        column, row = divmod(number, rows)
        left = whole.shape[2] + column * size
        sheet[:, row * size : (row + 1) * size, left : left + size] = views[:, number]
    return sheet


def _words(names: Sequence[str], target: np.ndarray) -> tuple[str, ...]:
    """A label, or a distribution over the classes, in words."""
    if target.ndim == 0:
        return (names[int(target)],)
    order = [int(i) for i in np.argsort(-target, kind='stable') if target[i] >= LEAST_SHARE]
    if len(order) == 1:
        return (names[order[0]],)
    return tuple(f'{names[i]} {100 * target[i]:.0f} %' for i in order)
