"""Predict the classes of image files, with the preprocessing that the model was trained with."""

import concurrent.futures
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float32, UInt8
from tqdm import tqdm

from resnet_jax.data import (
    ImageFile,
    printable,
    read_example,
    usable_cores,
)
from resnet_jax.errors import InputError
from resnet_jax.inference.class_matching import class_finder
from resnet_jax.inference.trained import TrainedModel
from resnet_jax.training.compilation import jit

BATCH_SIZE = 64
PREFETCH = 2 * BATCH_SIZE  # images decoded before the device needs them, at most


@dataclass(frozen=True)
class Prediction:
    """The prediction of a model for an image.

    Attributes:
      path: of the image.
      pixels: the image as the model saw it, before normalisation.
      top: (class name, probability) of the most probable classes, best first.
      true: the name of its class, where it is known.
    """

    path: Path
    pixels: UInt8[np.ndarray, 'size size channels']
    top: tuple[tuple[str, float], ...]
    true: str | None = None

    @property
    def is_right(self) -> bool:
        """Whether the most probable class is the true one."""
        return self.top[0][0] == self.true


def predict(
    trained: TrainedModel,
    files: Sequence[ImageFile],
    topk: int,
    skip: Callable[[InputError], None] | None = None,
    progress: bool = False,
    labels: Mapping[str, str] | None = None,
    temperature: float = 1.0,
) -> Iterator[Prediction]:
    """Predicts the most probable classes of each image, in the order of the files.

    Args:
      trained: the model.
      files: images of any size, grey or colour; of other data see `data.find_examples`.
      topk: the number of classes; all of them if there are fewer.
      skip: called with the error for an unreadable file that the caller did not name itself
        (`ImageFile.named`), which is then left out. By default such an error is raised, too.
      progress: show a bar if standard error is a terminal and it takes over a second.
      labels: path, name or name without suffix of an image -> its class. An image that is not there
        is of the class that its folder is called by, if that is one of the model's.
      temperature: divides the logits, see `analysis.calibration`.

    Returns:
      An iterator that computes lazily, a batch at a time.

    Raises:
      InputError: if topk is less than 1; from the iterator, on a file that cannot be read, naming
        it.
    """
    if topk < 1:
        raise InputError(f'--topk must be at least 1, got {topk}')
    return _predictions(trained, files, topk, skip, progress, labels or {}, temperature)


def _predictions(
    trained: TrainedModel,
    files: Sequence[ImageFile],
    topk: int,
    skip: Callable[[InputError], None] | None,
    progress: bool,
    labels: Mapping[str, str],
    temperature: float,
) -> Iterator[Prediction]:
    preprocessing = trained.preprocessing
    names = preprocessing.class_names

    def probabilities(
        variables: dict[str, Any], images: UInt8[Array, 'n h w c']
    ) -> Float32[Array, 'n classes']:
        logits: Any = trained.model.apply(variables, preprocessing.normalize(images), train=False)
        return jax.nn.softmax(logits / temperature)

    compute: Callable[..., Any] = jit(probabilities) if trained.traceable else probabilities
    find = class_finder(names)

    def true_class(path: Path) -> str | None:
        keys = (str(path), path.name, path.stem)
        given = next((labels[key] for key in keys if key in labels), path.absolute().parent.name)
        return None if (found := find(given)) is None else names[found]

    size = min(BATCH_SIZE, len(files))

    def prepare(file: ImageFile) -> np.ndarray:
        example = read_example(file.path, preprocessing)
        try:
            return preprocessing.prepare(example)
        except InputError as error:
            raise InputError(f'{printable(str(file.path))}: {error}') from error

    images = decode_ahead(files, prepare, skip)
    with tqdm(total=len(files), unit='image', delay=1, disable=None if progress else True) as bar:
        while batch := list(itertools.islice(images, size)):
            # One shape, so that it compiles once.
            padded = np.zeros((size, *batch[0][1].shape), preprocessing.dtype)
            padded[: len(batch)] = [pixels for _, pixels in batch]
            predicted = np.asarray(compute(trained.variables, padded))
            bar.update(len(batch))
            for (path, pixels), row in zip(batch, predicted, strict=False):
                best = np.argsort(-row, kind='stable')[:topk]
                top = tuple((names[i], float(row[i])) for i in best)
                yield Prediction(path, pixels, top, true_class(path))


def decode_ahead(
    files: Sequence[ImageFile],
    read: Callable[[ImageFile], np.ndarray],
    skip: Callable[[InputError], None] | None,
) -> Iterator[tuple[Path, np.ndarray]]:
    """Reads files in threads while the device computes: the path of each, and what was read.

    Args:
      files: in this order.
      read: reads one.
      skip: as for `predict`.
    """
    pool = concurrent.futures.ThreadPoolExecutor(usable_cores())
    waiting: deque[tuple[ImageFile, concurrent.futures.Future[np.ndarray]]] = deque()
    remaining = iter(files)
    try:
        while True:
            for file in itertools.islice(remaining, PREFETCH - len(waiting)):
                waiting.append((file, pool.submit(read, file)))
            if not waiting:
                return
            file, image = waiting.popleft()
            try:
                pixels = image.result()
            except InputError as error:
                if file.named or skip is None:
                    raise
                skip(error)
                continue
            yield file.path, pixels
    finally:
        # On an error or an interrupt, do not read the images that have not been started.
        pool.shutdown(cancel_futures=True)
