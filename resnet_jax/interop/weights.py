"""Convert between files of weights, PyTorch's or our own, and the variables of a model."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from resnet_jax.errors import InputError, check_choice
from resnet_jax.interop import layouts, matching
from resnet_jax.interop.files import Tensors, read_tensors, write_tensors
from resnet_jax.interop.hub import fetch
from resnet_jax.interop.layouts import LAYOUTS, OURS
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.stages import stack_blocks, unstack_blocks

DTYPES = ('float32', 'float16', 'bfloat16', 'float64')


def load_weights(
    path: str | os.PathLike[str],
    model: ResNet,
    *,
    reset_head: bool = False,
    key: jax.Array | None = None,
    dtype: DTypeLike | None = jnp.float32,
) -> dict[str, Any]:
    """Loads the variables of a model from a file of weights.

    Reads files from torchvision, timm, Hugging Face, the CIFAR ports and this package; recognises
    the layout by the names of the tensors. No code in a file is ever run.

    Args:
      path: a .safetensors, .pth, .pt, .bin (the last three need PyTorch) or .npz file, the folder
        of a run or checkpoint, `hf:OWNER/REPO[/FILE]` or `torchvision:NAME`.
      model: from `create_model`.
      reset_head: load everything but the head, and initialise the head.
      key: for the head; `jax.random.key(0)` by default.
      dtype: of the result; None keeps the file's.

    Returns:
      {'params': ..., 'batch_stats': ...}, for `model.apply`.

    Raises:
      InputError: if the file cannot be read or does not fit; the message lists the tensors that do
        not fit and the registered models that would.
    """
    file = fetch(path)
    tensors = read_tensors(file)
    variables = variables_from_tensors(
        tensors.arrays, model, reset_head=reset_head, where=file.name
    )
    variables = jax.tree.map(lambda x: jnp.asarray(x, dtype), variables)
    if reset_head:
        channels = variables['params']['stem']['conv1']['kernel'].shape[-2]
        head = _new_head(model, channels, jax.random.key(0) if key is None else key)
        variables['params']['head'] = jax.tree.map(lambda x: x.astype(dtype or x.dtype), head)
    return variables


def _new_head(model: ResNet, channels: int, key: jax.Array) -> dict[str, jax.Array]:
    images = jnp.zeros((1, *(32,) * model.dimensions, channels))
    # Under jit the rest of the model is eliminated as dead code.
    return jax.jit(lambda: model.init(key, images, train=False)['params']['head'])()


def variables_from_tensors(
    tensors: Mapping[str, np.ndarray],
    model: ResNet,
    *,
    reset_head: bool = False,
    where: str = 'the file',
) -> dict[str, Any]:
    """Converts named arrays to the variables of a model, in the arrays' dtypes.

    Args:
      tensors: NumPy arrays by name, in one of the `LAYOUTS` or our own.
      model: the model.
      reset_head: leave out the head.
      where: the source of the tensors, for messages.

    Returns:
      {'params': ..., 'batch_stats': ...}.

    Raises:
      InputError: if they do not fit.
    """
    sizes = {name: tuple(array.shape) for name, array in tensors.items()}
    found = matching.match(sizes, model, reset_head)
    matching.check(found, sizes, where, model, reset_head)
    flat = {
        path: layouts.to_ours(path, tensors[name], found.layout)
        for path, name in found.names.items()
    }
    for path, name in found.names.items():
        _check_numbers(flat[path], name, where)
    variables = {'batch_stats': {}, **flax.traverse_util.unflatten_dict(flat)}
    return stack_blocks(variables) if model.scan_blocks else variables


def _check_numbers(array: np.ndarray, name: str, where: str) -> None:
    """Refuses weights that are no finite real numbers."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(f'{where}: {name} holds {array.dtype} and no floating-point numbers')
    if not np.isfinite(np.asarray(array, np.float32 if array.itemsize < 4 else None)).all():
        raise InputError(f'{where}: {name} holds values that are not finite (NaN or infinite)')


def describe(tensors: Mapping[str, np.ndarray], model: ResNet) -> tuple[str, int | None]:
    """Finds the layout of named arrays and the number of classes of their head.

    Args:
      tensors: NumPy arrays by name.
      model: a model that they fit except for the head; its number of classes does not matter.

    Returns:
      A key of `LAYOUTS` or 'ours', and the number of classes, None without a head.
    """
    sizes = {name: tuple(array.shape) for name, array in tensors.items()}
    found = matching.match(sizes, model, reset_head=True)
    biases = [sizes[name] for name in found.head if name in sizes and len(sizes[name]) == 1]
    return found.layout, biases[0][0] if biases else None


def tensors_from_variables(
    variables: Mapping[str, Any], model: ResNet, layout: str
) -> dict[str, np.ndarray]:
    """Converts the variables of a model to named arrays; inverse of `variables_from_tensors`.

    Args:
      variables: `params` and `batch_stats` of the model.
      model: the model.
      layout: a key of `LAYOUTS`, or 'ours'.

    Raises:
      InputError: for an unknown layout, or one without a name for a part of the model.
    """
    check_choice('layout', layout, [OURS, *LAYOUTS])
    wanted = {name: variables[name] for name in ('params', 'batch_stats') if variables.get(name)}
    if model.scan_blocks:
        wanted = unstack_blocks(wanted)
    flat = flax.traverse_util.flatten_dict(wanted)
    names = layouts.tensor_names(model, flat, layout)
    return {
        names[path]: layouts.to_theirs(path, np.asarray(array), layout)
        for path, array in flat.items()
    }


def save_weights(
    path: str | os.PathLike[str],
    variables: Mapping[str, Any],
    model: ResNet,
    *,
    layout: str = OURS,
    dtype: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes the variables of a model to a file, atomically.

    Args:
      path: .safetensors, .npz, .pth or .pt; replaced if it exists.
      variables: `params` and `batch_stats` of the model.
      model: the model.
      layout: a key of `LAYOUTS`, for a file that PyTorch's model of that publisher loads; or
        'ours'.
      dtype: one of `DTYPES` to convert to; None keeps that of the variables.
      metadata: texts to store with the tensors.

    Raises:
      InputError: for an unknown layout or dtype, or a file that cannot be written.
    """
    arrays = tensors_from_variables(variables, model, layout)
    if dtype is not None:
        check_choice('dtype', dtype, DTYPES)
        arrays = {name: array.astype(jnp.dtype(dtype)) for name, array in arrays.items()}
    write_tensors(Path(path), Tensors(arrays, dict(metadata or {})))
