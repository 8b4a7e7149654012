"""The first batch of a run as the model would see it, beside the images as they are stored."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from resnet_jax.errors import InputError
from resnet_jax.training.build import make_prepare
from resnet_jax.training.inputs import open_inputs
from resnet_jax.training.tasks import TASKS

LEAST_SHARE = 0.005  # of a class in a mixed label that is named


@dataclasses.dataclass(frozen=True)
class Preview:
    """Examples of the first step of a run.

    Attributes:
      stored: the images as they are stored, [height, width, channels].
      read: as they are read, cut to the model's size by the transforms of the host.
      seen: as the model sees them, after those of the device, without its normalisation.
      classes: the class of each.
      targets: what the model is to answer, in words: the class, or each of several that were mixed
        with its share.
    """

    stored: Sequence[np.ndarray]
    read: UInt8[np.ndarray, 'n size size c']
    seen: UInt8[np.ndarray, 'n size size c']
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
    if inputs.train.space:
        raise InputError(f'{config.data.name} holds series, and pictures are drawn of images only')
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
    std = np.asarray(preprocessing.std, np.float32)
    pixels = (np.asarray(images[:count], np.float32) * std + np.asarray(preprocessing.mean)) * 255
    source = inputs.train.with_bands(preprocessing.channels)
    names, labels = inputs.train.class_names, batch['label'][:count].tolist()
    return Preview(
        [example['image'] for example in source.take(inputs.indices(0)[:count].tolist())],
        batch['image'][:count],
        np.clip(np.rint(pixels), 0, 255).astype(np.uint8),
        tuple(names[label] for label in labels),
        tuple(_words(names, target) for target in np.asarray(targets)[:count]),
    )


def _words(names: Sequence[str], target: np.ndarray) -> tuple[str, ...]:
    """A label, or a distribution over the classes, in words."""
    if target.ndim == 0:
        return (names[int(target)],)
    order = [int(i) for i in np.argsort(-target, kind='stable') if target[i] >= LEAST_SHARE]
    if len(order) == 1:
        return (names[order[0]],)
    return tuple(f'{names[i]} {100 * target[i]:.0f} %' for i in order)
