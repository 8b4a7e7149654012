"""Models from files of weights, with the preprocessing that goes with them."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax import data, models
from resnet_jax.data import Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.inference.trained import TrainedModel
from resnet_jax.interop import files, hub, weights
from resnet_jax.models.registry import model_row


@dataclasses.dataclass(frozen=True)
class Published:
    """A file of weights, read.

    Attributes:
      model: with as many classes as the file has.
      tensors: what the file holds.
      layout: a key of `LAYOUTS`, or 'ours'.
      preprocessing: what it was trained with.
      assumed: whether that is but the usual, because nobody says.
    """

    model: models.ResNet
    tensors: files.Tensors
    layout: str
    preprocessing: Preprocessing
    assumed: bool


def read_published(
    name: str,
    source: str | os.PathLike[str],
    *,
    overrides: Mapping[str, Any] | None = None,
    known: str | None = None,
    changes: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
    data_names: Sequence[str] = (),
) -> Published:
    """Reads a file of weights.

    Args:
      name: of the registered model that it is for.
      source: a path, `hf:OWNER/REPO[/FILE]` or `torchvision:NAME`.
      overrides: fields of the model, as of `create_model`.
      known: name of a preprocessing (`data.PREPROCESSINGS`), instead of what the file says.
      changes: fields of `Preprocessing` to change.
      class_names: instead of what the file says.
      data_names: of the data's classes, where nothing else says; else numbers.

    Raises:
      InputError: if it cannot be read, or has another number of classes than there are names.
    """
    row, changes, overrides = model_row(name), dict(changes or {}), dict(overrides or {})
    model = models.create_model(name, **overrides)  # before anything is fetched
    tensors = files.read_tensors(hub.fetch(source))
    layout, classes = weights.describe(tensors.arrays, model)
    model = models.create_model(name, classes, **overrides)
    stored = tensors.metadata.get('preprocessing')
    base = Preprocessing.from_json(stored) if stored else None
    known = known or (None if base else hub.preprocessing_of(source))
    names = tuple(class_names) or (base.class_names if base else ())
    usual = tuple(data_names) if len(data_names) == model.num_classes else ()
    names = names or usual or tuple(map(str, range(model.num_classes)))
    if len(names) != model.num_classes:
        raise InputError(
            f'{source} has {model.num_classes} classes, but there are {len(names)} class names'
        )
    if known:
        base = data.known_preprocessing(known, names)
    assumed = base is None and not changes
    if base is None:  # what most weights for images of this size were trained with
        base = data.known_preprocessing('cifar' if row.image_size == 32 else 'torchvision', names)
    if 'image_size' in changes and 'resize' not in changes:
        changes['resize'] = None
    base = dataclasses.replace(base, class_names=names, **changes)
    return Published(model, tensors, layout, base, assumed)


def load_published(
    name: str, source: str | os.PathLike[str], **settings: Any
) -> tuple[TrainedModel, bool]:
    """A model from a file of weights, ready to evaluate and predict.

    Args:
      name: of the registered model.
      source: as of `read_published`.
      **settings: as of `read_published`.

    Returns:
      The model, and whether its preprocessing was assumed because nobody says.

    Raises:
      InputError: if the file cannot be read or does not fit the model.
    """
    found = read_published(name, source, **settings)
    variables = weights.variables_from_tensors(
        found.tensors.arrays, found.model, where=os.fspath(source)
    )
    trained = TrainedModel(
        found.model,
        jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables),
        found.preprocessing,
        {'model': name, 'weights': os.fspath(source)},
        f'{name}, {os.fspath(source)}',
    )
    return trained, found.assumed
