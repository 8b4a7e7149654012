"""The examples that an analysis runs on, a batch at a time, as often as it needs them."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from resnet_jax import data
from resnet_jax.analysis.image_scores import main_classes
from resnet_jax.data import Preprocessing, Source
from resnet_jax.training.compilation import jit


class Batch(NamedTuple):
    """A batch of examples.

    Attributes:
      images: normalised.
      labels: numbers of the model's classes; of dense data see `image_scores.main_classes`.
      mask: False for padding, which the last batch may have.
    """

    images: Float[Array, 'n h w c']
    labels: Int[np.ndarray, ' n']
    mask: Bool[np.ndarray, ' n']


@dataclasses.dataclass(frozen=True)
class Examples:
    """Examples in the order of their split; each iteration reads them again.

    Attributes:
      source: the examples.
      preprocessing: of the model.
      classes: the model's class of each of the data's.
      batch_size: examples per batch.
      workers: number of reading processes.
    """

    source: Source
    preprocessing: Preprocessing
    classes: tuple[int, ...]
    batch_size: int = 100
    workers: int = 0

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(self.source)

    def __len__(self) -> int:
        """Number of batches."""
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """The batches, all of one size."""
        normalize = _normalizer(self.preprocessing)
        numbers = np.asarray(self.classes, np.int32)
        size = min(self.batch_size, self.count)
        for batch in data.eval_batches(self.source, self.preprocessing, size, self.workers):
            images = normalize(jnp.asarray(batch['image']))
            yield Batch(images, numbers[main_classes(batch)], np.asarray(batch['mask']))


@functools.lru_cache(maxsize=16)
def _normalizer(preprocessing: Preprocessing) -> Any:
    return jit(preprocessing.normalize)


def predictions(
    model: nn.Module, variables: Mapping[str, Any], batches: Iterable[Batch]
) -> tuple[Float[np.ndarray, 'n classes'], Int[np.ndarray, ' n']]:
    """The logits of all examples, float32, and their labels, without padding.

    Memory grows with the number of examples: 50,000 of 1,000 classes take 200 MB.

    Args:
      model: the network.
      variables: `params` and `batch_stats`.
      batches: the examples.
    """
    logits, labels = [], []
    run = compiled_logits(model)
    for batch in batches:
        logits.append(np.asarray(run(variables, batch.images), np.float32)[batch.mask])
        labels.append(batch.labels[batch.mask])
    return np.concatenate(logits), np.concatenate(labels)


@functools.lru_cache(maxsize=16)
def compiled_logits(model: nn.Module) -> Any:
    """The jitted function (variables, images) -> logits in evaluation."""
    return jit(lambda variables, images: model.apply(variables, images, train=False))
