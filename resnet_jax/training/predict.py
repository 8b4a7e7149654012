"""Predictions for image files, with the preprocessing that the model was trained with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.data import decode_image
from resnet_jax.models.errors import InputError
from resnet_jax.training.compilation import jit
from resnet_jax.training.workdir import TrainedModel

BATCH_SIZE = 64


def predict(trained: TrainedModel, files: Sequence[Path], topk: int) -> list[dict[str, Any]]:
    """The most probable classes of each image.

    Args:
      trained: the model.
      files: JPEG or PNG images of any size, grey or colour.
      topk: how many classes; all of them if there are fewer.

    Returns:
      For each file {'image': path, 'top': [{'class': name, 'probability': p}, ...]}, best first.

    Raises:
      InputError: naming the file that cannot be read.
    """
    if topk < 1:
        raise InputError(f'--topk must be at least 1, got {topk}')
    preprocessing = trained.preprocessing
    names = preprocessing.class_names

    @jit
    def probabilities(variables: Any, images: jax.Array) -> jax.Array:
        logits: Any = trained.model.apply(variables, preprocessing.normalize(images), train=False)
        return jax.nn.softmax(logits)

    results = []
    size = min(BATCH_SIZE, len(files))
    for start in range(0, len(files), size):
        batch = files[start : start + size]
        images = [
            preprocessing.prepare(decode_image(file, preprocessing.channels)) for file in batch
        ]
        padding = [np.zeros_like(images[0])] * (size - len(images))  # one shape, one compilation
        found = np.asarray(probabilities(trained.variables, np.stack(images + padding)))
        for file, row in zip(batch, found, strict=False):
            best = np.argsort(-row, kind='stable')[:topk]
            top = [{'class': names[i], 'probability': float(row[i])} for i in best]
            results.append({'image': str(file), 'top': top})
    return results
