"""Create the registered models, whose rows are in `rows.MODELS`."""

import dataclasses
import fnmatch
import numbers
import types
import typing
from typing import Any

import jax.numpy as jnp

from resnet_jax.errors import InputError, Range, check_choice, check_number, choose, shown
from resnet_jax.models.design import BlockDesign
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.rows import MODELS, ModelRow
from resnet_jax.models.single_layers import MOST_BITS

# Name of each field that can be overridden -> its type.
_BLOCK_FIELDS = {f.name: f.type for f in dataclasses.fields(BlockDesign)}
_MODEL_FIELDS = {
    f.name: f.type
    for f in dataclasses.fields(ResNet)
    if f.name not in ('parent', 'name', 'block', 'num_classes', 'dtype')
}


_SIZE = Range(1, 2**16, whole=True)
_RATE = Range(0, 1, open='high')
# The numbers that a field of a model takes; of a tuple, each of its items.
RANGES: dict[str, Range] = {
    'stage_sizes': Range(1, 10_000, whole=True),
    'kernels': Range(1, 255, whole=True),
    **dict.fromkeys(('expansion', 'groups', 'base_width', 'norm_groups'), _SIZE),
    **dict.fromkeys(('stem_width', 'width', 'stage_widths', 'pointwise_groups'), _SIZE),
    'stage_strides': Range(1, 255, whole=True),
    'last_width': Range(0, 2**16, whole=True),
    'vocabulary': Range(2, 2**24, whole=True),
    'inner_ratio': Range(0, 64),
    'stride_at': Range(0, whole=True),
    'dimensions': Range(1, 3, whole=True),
    **dict.fromkeys(('weight_bits', 'activation_bits'), Range(0, MOST_BITS, whole=True)),
    'output_stride': Range(0, 2**16, whole=True),
    'ghost_batch': Range(0, whole=True),
    'bn_momentum': Range(0, 1),
    'bn_epsilon': Range(0, open='low'),
    'se_ratio': Range(0, 64),
    **dict.fromkeys(('gate_bias', 'shortcut_scale', 'branch_scale'), Range()),
    **dict.fromkeys(('dropout', 'shortcut_dropout', 'branch_dropout', 'stochastic_depth'), _RATE),
}


def model_row(name: str) -> ModelRow:
    """The row of a registered model.

    Raises:
      InputError: for an unknown name, suggesting the nearest.
    """
    return choose('model', name, MODELS)


def create_model(
    name: str, num_classes: int | None = None, dtype: Any = jnp.float32, **overrides: Any
) -> ResNet:
    """Creates a registered model as a Flax module.

    Args:
      name: one of `list_models()`.
      num_classes: number of logits; by default as many as the paper's data set has classes.
      dtype: of the computation, such as `jnp.bfloat16`. Parameters, batch statistics and logits are
        float32.
      **overrides: any field of `ResNet` or of its `BlockDesign`, such as
        `placement='full_preact'`.

    Returns:
      The module, with `init(key, images, train=False)` and `apply(variables, images, train=...)`.

    Raises:
      InputError: for an unknown name or field, or a bad value.
    """
    settings = dict(model_row(name).settings)
    if {'weights', 'pretrained'} & overrides.keys():
        raise InputError(
            'create_model makes a model without weights; resnet_jax.from_pretrained(name, weights) '
            'returns the model and its variables'
        )
    known = _BLOCK_FIELDS | _MODEL_FIELDS
    for field, value in overrides.items():
        check_choice('model field', field, known)
        if not _has_type(value, known[field]):
            kind = getattr(known[field], '__name__', known[field])
            raise InputError(f'model field {field} takes {kind}, got {shown(value)}')
        if field in RANGES:
            for number in value if isinstance(value, tuple | list) else (value,):
                check_number(f'model field {field}', number, RANGES[field])
    block = {field: value for field, value in overrides.items() if field in _BLOCK_FIELDS}
    settings |= {field: value for field, value in overrides.items() if field in _MODEL_FIELDS}
    for field, value in settings.items():
        settings[field] = (
            tuple(value) if isinstance(value, list) else value
        )  # a config gives a list
    if num_classes is not None:
        settings['num_classes'] = num_classes
    if settings['num_classes'] < 1:
        raise InputError(f'num_classes must be at least 1, got {settings["num_classes"]}')
    settings['block'] = dataclasses.replace(settings['block'], **block)
    return ResNet(**settings, dtype=dtype)


def fields_of(name: str, model: ResNet) -> dict[str, Any]:
    """The overrides that make a model of a registered one: the model as a row of plain values.

    Args:
      name: of the registered model.
      model: any `ResNet`.

    Returns:
      Fields and values; `create_model(name, model.num_classes, model.dtype, **fields)` equals the
      model.
    """
    base = create_model(name)
    found = {field: getattr(model, field) for field in _MODEL_FIELDS}
    known = {field: getattr(base, field) for field in _MODEL_FIELDS}
    found |= {field: getattr(model.block, field) for field in _BLOCK_FIELDS}
    known |= {field: getattr(base.block, field) for field in _BLOCK_FIELDS}
    return {field: value for field, value in found.items() if value != known[field]}


def _has_type(value: Any, kind: Any) -> bool:
    """Whether a value has the type of a field; a list may stand for a tuple."""
    if isinstance(kind, types.UnionType):
        return any(_has_type(value, one) for one in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        items = isinstance(value, tuple | list)
        return items and all(_has_type(item, typing.get_args(kind)[0]) for item in value)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, {int: numbers.Integral, float: numbers.Real}.get(kind, kind))


def list_models(pattern: str = '*') -> list[str]:
    """Lists the registered models.

    Args:
      pattern: a shell pattern, such as 'cifar_*'.

    Returns:
      The names that match, in the registry's order.
    """
    return [name for name in MODELS if fnmatch.fnmatchcase(name, pattern)]
