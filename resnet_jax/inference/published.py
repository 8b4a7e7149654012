"""Load published models: files of weights and the preprocessing that belongs to them."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from resnet_jax import data, models, text
from resnet_jax.data import Preprocessing
from resnet_jax.dense.registry import DENSE_MODELS
from resnet_jax.errors import InputError
from resnet_jax.inference.published_dense import load_published_dense
from resnet_jax.inference.trained import TrainedModel
from resnet_jax.interop import files, hub
from resnet_jax.interop.weights import (
    describe,
    fields_for,
    finished,
    variables_from_tensors,
)
from resnet_jax.json_files import parse_json
from resnet_jax.models.registry import model_row
from resnet_jax.models.rows import ModelRow


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """A file of weights and what is known about it.

    Attributes:
      model: with as many classes as the file has.
      source: where the file comes from.
      tensors: the contents of the file.
      weights_key: which of them, see `interop.load_weights`.
      classes: the number of classes of the file's head, None without a head.
      layout: a key of `LAYOUTS`, or 'ours'.
      preprocessing: of the training.
      assumed: whether the preprocessing is a guess, because neither the file nor the caller gives
        it.
    """

    model: models.ResNet
    source: str
    tensors: files.Tensors
    weights_key: str | None
    classes: int | None
    layout: str
    preprocessing: Preprocessing
    assumed: bool

    def variables(self, **settings: Any) -> dict[str, Any]:
        """The variables of the model, on the host; notes go to standard error.

        Args:
          **settings: `reset_head`, `channels`, `adapt_stem`, as for `interop.load_weights`.

        Raises:
          InputError: if the tensors do not fit.
        """
        return variables_from_tensors(
            self.tensors.arrays,
            self.model,
            where=self.source,
            weights_key=self.weights_key,
            say=text.note,
            **settings,
        )


def read_published(
    name: str,
    source: str | os.PathLike[str],
    *,
    overrides: Mapping[str, Any] | None = None,
    weights_key: str | None = None,
    known: str | None = None,
    changes: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
    data_names: Sequence[str] = (),
    adopt_layout: bool = False,
) -> PublishedModel:
    """Reads a file of weights.

    Args:
      name: of a registered model.
      source: as for `from_pretrained`.
      overrides: fields of the model, as for `create_model`.
      weights_key: which weights of several in the file, see `interop.load_weights`.
      known: a key of `data.PREPROCESSINGS`, which replaces the preprocessing stored in the file.
      changes: fields of `Preprocessing` to change.
      class_names: replace those stored in the file.
      data_names: of the data, used if neither of these gives names; the fallback is numbers.
      adopt_layout: also set the fields of the model that the file's layout needs.

    Raises:
      InputError: if the file cannot be read, does not fit the model, or has another number of
        classes than there are names.
    """
    if name in DENSE_MODELS:
        raise InputError(
            f'{name} is a network of {DENSE_MODELS[name].task}; load its weights with '
            'resnet_jax.load_weights'
        )
    row, changes, overrides = model_row(name), dict(changes or {}), dict(overrides or {})
    model = models.create_model(name, **overrides)  # fails on bad fields before fetching anything
    source = hub.completed(source, name)
    tensors = files.read_tensors(hub.fetch(source))
    overrides = {**_stored_fields(tensors, name, source), **overrides}
    model = models.create_model(name, **overrides)
    if adopt_layout:
        overrides = {**fields_for(tensors.arrays, model, weights_key), **overrides}
        model = models.create_model(name, **overrides)
    layout, classes = describe(tensors.arrays, model, weights_key)
    model = models.create_model(name, classes, **overrides)
    base = _stored_preprocessing(tensors, source)
    known = known or (None if base else hub.preprocessing_of(source))
    names = _class_names(model, source, class_names, base, data_names)
    if known:
        base = data.known_preprocessing(known, names)
    assumed = base is None and not changes
    base = base or _usual_preprocessing(row, model, names)
    if 'image_size' in changes and 'resize' not in changes:
        changes['resize'] = None
    base = dataclasses.replace(base, class_names=names, **changes)
    return PublishedModel(
        model, os.fspath(source), tensors, weights_key, classes, layout, base, assumed
    )


def _usual_preprocessing(
    row: ModelRow, model: models.ResNet, names: tuple[str, ...]
) -> Preprocessing:
    """What most weights of such a model were trained with."""
    if model.dimensions == 1:  # each series by itself
        zeros, ones = (0.0,) * row.channels, (1.0,) * row.channels
        about = row.image_size, row.channels, None, zeros, ones, names
        return Preprocessing(*about, dimensions=1, standardize=True)
    return data.known_preprocessing('cifar' if row.image_size == 32 else 'torchvision', names)


def _class_names(
    model: models.ResNet,
    source: str | os.PathLike[str],
    given: Sequence[str],
    stored: Preprocessing | None,
    data_names: Sequence[str],
) -> tuple[str, ...]:
    names = (
        tuple(given)
        or (stored.class_names if stored else ())
        or (tuple(data_names) if len(data_names) == model.num_classes else ())
        or tuple(map(str, range(model.num_classes)))
    )
    if len(names) != model.num_classes:
        raise InputError(
            f'{source} has {model.num_classes} classes, but there are {len(names)} class names; '
            'give one name for each class'
        )
    return names


def _stored_preprocessing(
    tensors: files.Tensors, source: str | os.PathLike[str]
) -> Preprocessing | None:
    stored = tensors.metadata.get('preprocessing')
    try:
        return Preprocessing.from_json(stored) if stored else None
    except InputError as error:
        raise InputError(f'{source}: {error}; restore it from a copy') from error


def _stored_fields(
    tensors: files.Tensors, name: str, source: str | os.PathLike[str]
) -> dict[str, Any]:
    """Fields of the model that a compressed one stores with its weights, for its own name."""
    stored = tensors.metadata.get('fields')
    if stored is None or tensors.metadata.get('model') != name:
        return {}
    try:
        return dict(parse_json(stored))
    except (ValueError, TypeError) as error:
        raise InputError(
            f'{source}: its model cannot be read: {error}; compress it again'
        ) from error


def load_published(
    name: str, source: str | os.PathLike[str], *, headless: bool = False, **settings: Any
) -> tuple[TrainedModel, bool]:
    """Loads a model from a file of weights, ready to evaluate and predict.

    Args:
      name: of a registered model.
      source: as for `read_published`.
      headless: whether the file may lack a head, which is then random.
      **settings: as for `read_published`.

    Returns:
      The model, and whether its preprocessing is assumed, see `PublishedModel`.

    Raises:
      InputError: if the file cannot be read or does not fit the model.
    """
    if name in DENSE_MODELS:
        return load_published_dense(name, source, **settings)
    found = read_published(name, source, **settings)
    has_head = found.classes is not None or not headless
    trained = TrainedModel(
        found.model,
        finished(found.variables(reset_head=not has_head), found.model),
        found.preprocessing,
        {'model': name, 'weights': os.fspath(source)},
        f'{name}, {os.fspath(source)}',
        has_head=has_head,
    )
    return trained, found.assumed


def from_pretrained(
    name: str,
    weights: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    key: jax.Array | None = None,
    dtype: DTypeLike = jnp.float32,
    weights_key: str | None = None,
    channels: int | None = None,
    adapt_stem: bool = False,
    **overrides: Any,
) -> tuple[models.ResNet, dict[str, Any]]:
    """Creates a model and loads its weights.

        model, variables = from_pretrained('resnet50', 'torchvision:v2')
        logits = model.apply(variables, images, train=False)

    Args:
      name: of a registered model.
      weights: a path, `hf:OWNER/REPO[/FILE]`, `torchvision:NAME[:VARIANT]`, or
        `torchvision:VARIANT` for the same name.
      num_classes: by default, and if it is the same, the file's head is taken with its number of
        classes; else a new head is initialised.
      key: for a new head; `jax.random.key(0)` by default.
      dtype: of the computation; the variables are float32.
      weights_key: which weights of several in the file, as for `load_weights`.
      channels: of the images, as for `load_weights`.
      adapt_stem: whether to convert the stem for them, as for `load_weights`.
      **overrides: fields of the model, as for `create_model`. What the file's layout needs, such as
        raw_first_shortcut, is set unless it is given here.

    Returns:
      The model and {'params': ..., 'batch_stats': ...}.

    Raises:
      InputError: if the file cannot be read or does not fit the model, or has no head and
        `num_classes` is not given.
    """
    found = read_published(
        name, weights, overrides=overrides, weights_key=weights_key, adopt_layout=True
    )
    classes = found.classes if num_classes is None else num_classes
    if classes is not None:
        found = dataclasses.replace(found, model=found.model.clone(num_classes=classes))
    reset_head = found.classes is None or classes != found.classes
    variables = found.variables(reset_head=reset_head, channels=channels, adapt_stem=adapt_stem)
    if classes is None:
        raise InputError(
            f'{found.source} has no head, so its number of classes is not known; give num_classes '
            'for a new head'
        )
    return found.model.clone(dtype=dtype), finished(variables, found.model, key)


def pretrained_preprocessing(
    name: str, weights: str | os.PathLike[str], **settings: Any
) -> tuple[Preprocessing, bool]:
    """The preprocessing that weights were trained with.

    Args:
      name: of a registered model.
      weights: as for `from_pretrained`.
      **settings: as for `read_published`.

    Returns:
      `prepare` and `normalize` make a model's input of an image; and whether it is the most common
      one for this model instead, because neither the file nor the caller gives it.

    Raises:
      InputError: if the file cannot be read or does not fit the model.
    """
    found = read_published(name, weights, adopt_layout=True, **settings)
    return found.preprocessing, found.assumed
