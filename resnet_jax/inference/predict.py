"""Predictions for image files, with the preprocessing that the model was trained with."""

import concurrent.futures
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from resnet_jax.data import ImageFile, Preprocessing, decode_image, usable_cores
from resnet_jax.errors import InputError
from resnet_jax.inference.trained import TrainedModel
from resnet_jax.training.compilation import jit

BATCH_SIZE = 64
AHEAD = 2 * BATCH_SIZE  # images decoded before the device is ready for them, at most


@dataclass(frozen=True)
class Prediction:
    """What a model makes of an image.

    Attributes:
      path: of the image.
      pixels: the image as the model saw it, before normalisation: uint8 [size, size, channels].
      top: (class name, probability) of the most probable classes, best first.
    """

    path: Path
    pixels: np.ndarray
    top: tuple[tuple[str, float], ...]


def predict(
    trained: TrainedModel,
    files: Sequence[ImageFile],
    topk: int,
    skip: Callable[[InputError], None] | None = None,
    progress: bool = False,
) -> Iterator[Prediction]:
    """The most probable classes of each image, in the order of the files.

    Args:
      trained: the model.
      files: images of any size, grey or colour.
      topk: how many classes; all of them if there are fewer.
      skip: called with the error of a file that cannot be read and that the caller did not name
        (`ImageFile.named`), which is then left out; without it that error is raised too.
      progress: whether to show a bar where standard error is a terminal and it takes long.

    Returns:
      An iterator that computes as it goes, a batch at a time.

    Raises:
      InputError: if topk is less than 1; from the iterator, naming the file that cannot be read.
    """
    if topk < 1:
        raise InputError(f'--topk must be at least 1, got {topk}')
    return _predictions(trained, files, topk, skip, progress)


def _predictions(
    trained: TrainedModel,
    files: Sequence[ImageFile],
    topk: int,
    skip: Callable[[InputError], None] | None,
    progress: bool,
) -> Iterator[Prediction]:
    preprocessing = trained.preprocessing
    names = preprocessing.class_names

    @jit
    def probabilities(variables: Any, images: jax.Array) -> jax.Array:
        logits: Any = trained.model.apply(variables, preprocessing.normalize(images), train=False)
        return jax.nn.softmax(logits)

    size = min(BATCH_SIZE, len(files))
    images = _read_ahead(files, preprocessing, skip)
    with tqdm(total=len(files), unit='image', delay=1, disable=None if progress else True) as bar:
        while batch := list(itertools.islice(images, size)):
            padded = np.zeros((size, *batch[0][1].shape), np.uint8)  # one shape, one compilation
            padded[: len(batch)] = [pixels for _, pixels in batch]
            found = np.asarray(probabilities(trained.variables, padded))
            bar.update(len(batch))
            for (path, pixels), row in zip(batch, found, strict=False):
                best = np.argsort(-row, kind='stable')[:topk]
                yield Prediction(path, pixels, tuple((names[i], float(row[i])) for i in best))


def _read_ahead(
    files: Sequence[ImageFile],
    preprocessing: Preprocessing,
    skip: Callable[[InputError], None] | None,
) -> Iterator[tuple[Path, np.ndarray]]:
    """The prepared image of each file, decoded in threads while the device computes."""

    def prepare(file: ImageFile) -> np.ndarray:
        return preprocessing.prepare(decode_image(file.path, preprocessing.channels))

    pool = concurrent.futures.ThreadPoolExecutor(usable_cores())
    waiting: deque[tuple[ImageFile, concurrent.futures.Future[np.ndarray]]] = deque()
    remaining = iter(files)
    try:
        while True:
            for file in itertools.islice(remaining, AHEAD - len(waiting)):
                waiting.append((file, pool.submit(prepare, file)))
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
        # On an error or an interrupt the images not yet begun are not read.
        pool.shutdown(cancel_futures=True)
