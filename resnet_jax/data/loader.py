"""Read examples in a fixed order, ahead of the training.

The stream of training examples is the order of epoch 0, then that of epoch 1, and so on; step s
takes the positions [s * B, (s + 1) * B) of it. The step number is therefore the whole state of the
data, and no example is dropped at the end of an epoch.
"""

import concurrent.futures
import contextlib
import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int32
from tqdm import tqdm

from resnet_jax.data.bad_images import BadImages, read_or_replace
from resnet_jax.data.pictures import Picture
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.read_ahead import read_ahead, usable_cores
from resnet_jax.data.sources import Source
from resnet_jax.data.targets import empty_targets
from resnet_jax.data.transforms import Chosen, check_transforms, read_transforms
from resnet_jax.errors import InputError

# numpy's generators of the order of examples are seeded with [seed, ORDER_STREAM, epoch], those of
# host transforms with [seed, transform.stream, position].
ORDER_STREAM = 1
READ_TOGETHER = 256  # examples that one thread of load_arrays reads in one call

Batch = dict[str, np.ndarray]


def epoch_order(seed: int, epoch: int, n: int) -> Int[np.ndarray, ' n']:
    """Shuffles the examples of an epoch.

    Args:
      seed: of the run, not negative.
      epoch: from 0.
      n: number of examples.

    Returns:
      A read-only permutation of range(n); a function of the arguments alone (and of the version of
      numpy, which may change its streams).
    """
    order = np.random.default_rng([seed, ORDER_STREAM, epoch]).permutation(n)
    order = order.astype(np.int32)  # kept, in each process
    order.flags.writeable = False
    return order


# Every step asks for an order; threads that read ahead may be in the next epoch already.
_recent_order = functools.lru_cache(maxsize=4)(epoch_order)


def batch_positions(step: int, batch_size: int) -> Int[np.ndarray, ' batch_size']:
    """Computes the positions in the stream of examples that a step takes."""
    return np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)


def batch_indices(
    seed: int, step: int, batch_size: int, n: int, repeats: int = 1
) -> Int32[np.ndarray, ' batch_size']:
    """Computes which examples a training step takes.

    Args:
      seed: of the run.
      step: from 0.
      batch_size: examples a step, at most `n`.
      n: examples in the training set.
      repeats: times that the stream has each example, one after the other (repeated augmentation,
        arXiv 1901.09335, section 3).

    Returns:
      Indices in range(n).

    Raises:
      InputError: if the batch is larger than the data set.
    """
    _check_batch_size(batch_size, n)
    (first, begin), (last, end) = (
        divmod(position // repeats, n)
        for position in (step * batch_size, (step + 1) * batch_size - 1)
    )
    if first == last and repeats == 1:  # the usual case, in a tenth of the time
        return _recent_order(seed, first, n)[begin : end + 1].copy()
    epochs, offsets = np.divmod(batch_positions(step, batch_size) // repeats, n)
    indices = np.empty(batch_size, np.int32)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _recent_order(seed, int(epoch), n)[offsets[here]]
    return indices


def rows(batch_size: int, part: tuple[int, int]) -> slice:
    """The rows of a batch in part (i, n), the i-th of n equal parts; n divides the batch."""
    size = batch_size // part[1]
    return slice(part[0] * size, (part[0] + 1) * size)


def _check_batch_size(batch_size: int, n: int) -> None:
    if not 0 < batch_size <= n:
        raise InputError(
            f'the batch of {batch_size} must be between 1 and the {n} examples of the data set; '
            'change train.batch_size'
        )


def load_arrays(
    source: Source,
    preprocessing: Preprocessing,
    progress: bool = True,
    bad: BadImages | None = None,
) -> Batch:
    """Reads a whole split into memory, in order, with a thread for each core.

    Args:
      source: the split.
      preprocessing: its `prepare` is applied to each image.
      progress: show a bar where standard error is a terminal and it takes over a second.
      bad: counts the images that cannot be read, in whose place others are read; None: such an
        image is an error.

    Returns:
      {'image': uint8 [N, S, S, C], 'label': int32 [N]}; of dense data its targets in place of the
      label, see `targets`.

    Raises:
      InputError: on an image that cannot be read or a label outside the classes.
    """
    arrays = _empty_batch(len(source), preprocessing, source)
    source = source.with_bands(preprocessing.channels)

    def prepare(picture: Picture, label: Any) -> Batch:
        return _example(preprocessing, picture, label)

    def fill(start: int) -> tuple[int, list[str]]:
        stop, faults = min(start + READ_TOGETHER, len(source)), []
        for i, (picture, label) in enumerate(source.pictures(range(start, stop)), start):
            example, fault = _read(source, picture, label, prepare, (0, i), bad is not None)
            faults += fault
            for name, value in example.items():
                arrays[name][i] = value
        return stop - start, faults

    pool = concurrent.futures.ThreadPoolExecutor(usable_cores())
    title = f'{source.name} {source.split}'
    bar = tqdm(total=len(source), desc=title, delay=1, disable=None if progress else True)
    try:
        for done, faults in pool.map(fill, range(0, len(source), READ_TOGETHER)):
            bar.update(done)
            if bad is not None:
                bad.add(faults, done)
    finally:
        # On an error or an interrupt, do not read the chunks that have not been started.
        pool.shutdown(cancel_futures=True)
        bar.close()
    return arrays


def train_batches(
    source: Source,
    preprocessing: Preprocessing,
    *,
    seed: int,
    batch_size: int,
    first_step: int,
    last_step: int,
    part: tuple[int, int] = (0, 1),
    workers: int = 0,
    transforms: Sequence[str] = (),
    repeats: int = 1,
    bad: BadImages | None = None,
) -> Iterator[Batch]:
    """Streams the training batches of steps `first_step` to `last_step - 1`.

    What a step gets is a function of (seed, step) alone: not of the number of workers, nor of where
    the iterator began.

    Args:
      source: the training split.
      preprocessing: gives the size and channels; without host transforms its `prepare` is applied
        to each image.
      seed: of the run.
      batch_size: examples a step.
      first_step: the first step to read for, from 0.
      last_step: the step to stop before.
      part: (i, n): read only the i-th of n equal parts of each batch, as one of n processes.
      workers: processes that read ahead; 0 for threads of this process.
      transforms: as of `read_transforms`; those of the host replace `preprocessing.prepare`, those
        of the device are skipped.
      repeats: as of `batch_indices`.
      bad: counts the images that cannot be read, in whose place others are read, the same ones
        whoever reads them; None: such an image is an error.

    Returns:
      An iterator of {'image': uint8 [B, S, S, C], 'label': int32 [B]}, B the part's size. Its
      close() stops the workers, also when it is dropped half-way.

    Raises:
      InputError: if the batch is larger than the data set, or the transforms do not fit together;
        while iterating, on an image that cannot be read or a label outside the classes.
    """
    _check_batch_size(batch_size, len(source))
    of_pixels = not preprocessing.spectrogram
    shape = preprocessing.model_shape
    check_transforms(transforms, shape, of_pixels=of_pixels, dense=source.is_dense)
    source = source.with_bands(preprocessing.channels)
    # Rows, not names: a worker process imports the table anew, without rows added at run time.
    chosen = read_transforms(transforms)
    host = tuple(one for one in chosen if one.transform.where == 'host')
    fixed = source, preprocessing, seed, batch_size, part, host, repeats, bad is not None
    batches = read_ahead(functools.partial(_train_batch, *fixed), first_step, last_step, workers)
    return _without_faults(batches, bad)


def _without_faults(
    batches: Generator[tuple[Batch, list[str]]], bad: BadImages | None
) -> Generator[Batch]:
    """The batches, without what was wrong with images that were replaced."""
    with contextlib.closing(batches):
        for batch, faults in batches:
            if bad is not None:
                bad.add(faults, len(batch['image']))
            yield batch


def eval_batches(
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    workers: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Streams a split once, in order.

    Args:
      source: the split.
      preprocessing: its `prepare` is applied to each image.
      batch_size: examples a batch.
      workers: processes that read ahead; 0 for threads of this process.
      part: as in `train_batches`.

    Returns:
      An iterator of {'image': uint8 [B, S, S, C], 'label': int32 [B], 'mask': bool [B]}, B the
      part's size. The last batch is padded with black images of label 0 whose mask is False.

    Raises:
      InputError: while iterating, as `train_batches`.
    """
    if batch_size < 1:
        raise InputError(f'batch_size must be positive, not {batch_size}')
    make = functools.partial(eval_batch, source, preprocessing, batch_size, part=part)
    return read_ahead(make, 0, -(-len(source) // batch_size), workers)


def _empty_batch(size: int, preprocessing: Preprocessing, source: Source) -> Batch:
    return {
        'image': np.zeros((size, *preprocessing.input_shape), preprocessing.dtype),
        **empty_targets(source.targets, size, preprocessing.image_size),
    }


def _example(preprocessing: Preprocessing, picture: Picture, label: Any) -> Batch:
    """What a batch holds of an example; the errors of targets name their image."""
    if not callable(label):
        return preprocessing.prepare_example(picture.whole(), label)
    image, targets = picture.whole(), label()
    try:
        return preprocessing.prepare_example(image, targets)
    except InputError as error:
        raise InputError(f'{picture.name}: {error}') from None


def _read(
    source: Source,
    picture: Picture,
    label: Any,
    prepare: Callable[[Picture, Any], Batch],
    place: tuple[int, int],
    skip: bool,
) -> tuple[Batch, list[str]]:
    """What a batch holds of an example, and what was wrong with it if another takes its place."""
    if skip:
        return read_or_replace(source, picture, label, prepare, place)
    return prepare(picture, label), []


def _train_batch(
    source: Source,
    preprocessing: Preprocessing,
    seed: int,
    batch_size: int,
    part: tuple[int, int],
    host_transforms: tuple[Chosen, ...],
    repeats: int,
    skip: bool,
    step: int,
) -> tuple[Batch, list[str]]:
    """The batch of a step, and what was wrong with images that others have replaced."""
    mine = rows(batch_size, part)
    positions = batch_positions(step, batch_size)[mine]
    batch = _empty_batch(len(positions), preprocessing, source)
    indices = batch_indices(seed, step, batch_size, len(source), repeats)[mine]
    examples = source.pictures(indices, preprocessing.channels)
    faults: list[str] = []
    for i, (position, (picture, label)) in enumerate(zip(positions, examples, strict=True)):
        make = functools.partial(
            _train_example, preprocessing, seed, int(position), host_transforms
        )
        example, fault = _read(source, picture, label, make, (seed, int(position)), skip)
        faults += fault
        for name, value in example.items():
            batch[name][i] = value
    return batch, faults


def _train_example(
    preprocessing: Preprocessing,
    seed: int,
    position: int,
    host_transforms: tuple[Chosen, ...],
    picture: Picture,
    label: Any,
) -> Batch:
    if not host_transforms:
        return _example(preprocessing, picture, label)
    image: Picture | np.ndarray = picture
    for one in host_transforms:
        rng = np.random.default_rng([seed, one.transform.stream, position])
        image = one.apply(rng, image, preprocessing.image_size)
    assert isinstance(image, np.ndarray)
    return {'image': image, 'label': label}


def eval_batch(
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    number: int,
    part: tuple[int, int] = (0, 1),
) -> Batch:
    """Reads one batch of `eval_batches`.

    Args:
      source: the split.
      preprocessing: its `prepare` is applied to each image.
      batch_size: examples a batch.
      number: of the batch, from 0.
      part: as in `train_batches`.
    """
    here = range(number * batch_size, (number + 1) * batch_size)[rows(batch_size, part)]
    batch = _empty_batch(len(here), preprocessing, source)
    size, here = len(here), here[: max(0, len(source) - here.start)]
    for i, (picture, label) in enumerate(source.with_bands(preprocessing.channels).pictures(here)):
        for name, value in _example(preprocessing, picture, label).items():
            batch[name][i] = value
    return batch | {'mask': np.arange(size) < len(here)}
