"""How fast the training images of a config come, with no model that takes them."""

import concurrent.futures
import contextlib
import itertools
import time
from collections.abc import Generator, Iterable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from resnet_jax import data
from resnet_jax.data import Source
from resnet_jax.training.build import stack
from resnet_jax.training.inputs import (
    Batch,
    Inputs,
    is_resident,
    open_splits,
    train_image_size,
    unmeasured,
    workers,
)
from resnet_jax.training.placement import make_placement

_TOGETHER = 64  # images that a thread decodes at a time
_MANY = 10**9  # steps: more than are taken


def measure(config: ConfigDict, seconds: float) -> dict[str, Any]:
    """Measures decoding, preparing and sending for so many seconds each.

    Args:
      config: of a run, checked by `checks.resolve`.
      seconds: of each of the three; the first images of each are not timed.

    Returns:
      'n' training images, 'batch_size', 'image_size', 'workers' and 'threads' that read; images per
      second 'decoded' (whole, a thread for each core), 'prepared' (batches as a run takes them) and
      'delivered' (the same on the devices); 'seconds_per_batch' and 'seconds_per_epoch' at that
      speed; 'resident', whether a run would keep them on the device instead.

    Raises:
      InputError: for data that does not exist, cannot be read, or does not fit the config.
    """
    size, (train, _) = config.train.batch_size, open_splits(config)
    placement = make_placement(config.parallel, size, config.optim.accumulate)
    with contextlib.closing(_batches(config, train)) as stream:
        prepared = _speed(map(_length, stream), seconds)
    with contextlib.closing(_batches(config, train)) as stream:
        sent = ((placement.put_train_batches(stack([batch])), _length(batch)) for batch in stream)
        delivered = _speed((jax.block_until_ready(each) and n for each, n in sent), seconds)
    return {
        'n': len(train),
        'batch_size': size,
        'image_size': train_image_size(config),
        'workers': workers(config),
        'threads': 0 if workers(config) else data.usable_cores(),
        'decoded': _decoded(train, seconds),
        'prepared': prepared,
        'delivered': delivered,
        'seconds_per_batch': size / delivered,
        'seconds_per_epoch': len(train) / delivered,
        'resident': is_resident(config, train),
    }


def _batches(config: ConfigDict, train: Source) -> Generator[Batch]:
    """The training batches of a run, streamed whether or not a run would."""
    inputs = Inputs(config, train, train, unmeasured(config, train), {}, arrays=None)
    return inputs.train_batches(0, _MANY)


def _length(batch: Batch) -> int:
    return len(batch['image'])


def _speed(counts: Iterable[int], seconds: float) -> float:
    """Images per second of a stream of numbers of images, from its second item on."""
    iterator = iter(counts)
    next(iterator)
    began, total = time.perf_counter(), 0
    for count in iterator:
        total += count
        if time.perf_counter() - began > seconds:
            break
    return total / (time.perf_counter() - began)


def _decoded(source: Source, seconds: float) -> float:
    order = data.epoch_order(0, 0, len(source))

    def decode(start: int) -> int:
        chosen = np.take(order, range(start, start + _TOGETHER), mode='wrap')
        for picture, _ in source.pictures(chosen):
            picture.whole()
        return len(chosen)

    threads = data.usable_cores()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        starts = itertools.count(0, _TOGETHER)

        def counts() -> Iterable[int]:
            waiting = [pool.submit(decode, next(starts)) for _ in range(2 * threads)]
            while True:
                yield waiting.pop(0).result()
                waiting.append(pool.submit(decode, next(starts)))

        return _speed(counts(), seconds)
