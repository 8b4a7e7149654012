"""Published weights of networks for segmentation and detection, ready to evaluate and predict."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from resnet_jax import data, dense
from resnet_jax.data.masks import VOC_CLASSES
from resnet_jax.dense.registry import DENSE_MODELS
from resnet_jax.errors import InputError
from resnet_jax.inference.trained import TrainedModel
from resnet_jax.interop import load_weights


def load_published_dense(
    name: str,
    source: str | os.PathLike[str],
    *,
    overrides: Mapping[str, Any] | None = None,
    weights_key: str | None = None,
    known: str | None = None,
    changes: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
) -> tuple[TrainedModel, bool]:
    """Loads a dense network from a file of weights; arguments as for `published.read_published`.

    Without `class_names` the network has the classes of the published weights: Pascal VOC's 21, or
    COCO's numbers from 0 to 90.

    Returns:
      The model, and whether its preprocessing is assumed: ImageNet's mean and deviation.

    Raises:
      InputError: if the file cannot be read or does not fit the model.
    """
    row = DENSE_MODELS[name]
    if weights_key is not None:
        raise InputError(f'--weights-key does not go with {name}; leave it out')
    names = tuple(class_names) or (
        VOC_CLASSES
        if row.num_classes == len(VOC_CLASSES)
        else tuple(map(str, range(row.num_classes)))
    )
    model = dense.create_model(name, len(names), **dict(overrides or {}))
    variables = load_weights(source, model)
    usual = data.known_preprocessing(known or 'torchvision', names)
    given = {'image_size': row.image_size, 'resize': None, 'fit': 'pad', **dict(changes or {})}
    trained = TrainedModel(
        model,
        variables,
        dataclasses.replace(usual, **given),
        {'model': name, 'weights': os.fspath(source)},
        f'{name}, {os.fspath(source)}',
        task=row.task,
    )
    return trained, known is None and not changes
