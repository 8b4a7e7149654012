"""Load published models: files of weights and the preprocessing that belongs to them."""

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
class PublishedModel:
    """A file of weights and what is known about it.

    Attributes:
      model: with as many classes as the file has.
      tensors: the contents of the file.
      layout: a key of `LAYOUTS`, or 'ours'.
      preprocessing: of the training.
      assumed: whether the preprocessing is a guess, because neither the file nor the caller gives
        it.
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
) -> PublishedModel:
    """Reads a file of weights.

    Args:
      name: of a registered model.
      source: a path, `hf:OWNER/REPO[/FILE]` or `torchvision:NAME`.
      overrides: fields of the model, as for `create_model`.
      known: a key of `data.PREPROCESSINGS`, which replaces the preprocessing stored in the file.
      changes: fields of `Preprocessing` to change.
      class_names: replace those stored in the file.
      data_names: class names of the data, used if neither of these gives names; the fallback is
        numbers.

    Raises:
      InputError: if the file cannot be read, does not fit the model, or has another number of
        classes than there are names.
    """
    row, changes, overrides = model_row(name), dict(changes or {}), dict(overrides or {})
    model = models.create_model(name, **overrides)  # fails on bad fields before fetching anything
    tensors = files.read_tensors(hub.fetch(source))
    layout, classes = weights.describe(tensors.arrays, model)
    model = models.create_model(name, classes, **overrides)
    stored = tensors.metadata.get('preprocessing')
    try:
        base = Preprocessing.from_json(stored) if stored else None
    except InputError as error:
        raise InputError(f'{source}: {error}; restore it from a copy') from error
    known = known or (None if base else hub.preprocessing_of(source))
    names = (
        tuple(class_names)
        or (base.class_names if base else ())
        or (tuple(data_names) if len(data_names) == model.num_classes else ())
        or tuple(map(str, range(model.num_classes)))
    )
    if len(names) != model.num_classes:
        raise InputError(
            f'{source} has {model.num_classes} classes, but there are {len(names)} class names; '
            'give one name for each class'
        )
    if known:
        base = data.known_preprocessing(known, names)
    assumed = base is None and not changes
    if base is None:  # most weights for images of this size were trained with these
        base = data.known_preprocessing('cifar' if row.image_size == 32 else 'torchvision', names)
    if 'image_size' in changes and 'resize' not in changes:
        changes['resize'] = None
    base = dataclasses.replace(base, class_names=names, **changes)
    return PublishedModel(model, tensors, layout, base, assumed)


def load_published(
    name: str, source: str | os.PathLike[str], **settings: Any
) -> tuple[TrainedModel, bool]:
    """Loads a model from a file of weights, ready to evaluate and predict.

    Args:
      name: of a registered model.
      source: as for `read_published`.
      **settings: as for `read_published`.

    Returns:
      The model, and whether its preprocessing is assumed, see `PublishedModel`.

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
