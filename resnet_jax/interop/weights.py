"""Weights in and out: files of PyTorch's or our own to a model's variables, and back."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import unknown_name
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
    dtype: Any = jnp.float32,
) -> dict[str, Any]:
    """The variables of a model from a file of weights.

    Reads what torchvision, timm, Hugging Face and the CIFAR ports publish and what we write; the
    layout is recognised by the names. Nothing in a file is ever run.

    Args:
      path: a .safetensors, .pth, .pt, .bin (the last three with PyTorch installed) or .npz file, a
        run's folder or a checkpoint, `hf:OWNER/REPO[/FILE]` or `torchvision:NAME`.
      model: the model to fill; from `create_model`.
      reset_head: take all but the head, which is initialised.
      key: for the head; `jax.random.key(0)` by default.
      dtype: to convert to; None keeps the file's.

    Returns:
      {'params': ..., 'batch_stats': ...}, for `model.apply`.

    Raises:
      InputError: for a file that cannot be read or does not fit, saying which tensors and which
        registered models would.
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


def _new_head(model: ResNet, channels: int, key: jax.Array) -> Any:
    images = jnp.zeros((1, *(32,) * model.dimensions, channels))
    # Under jit the rest of the model is not computed.
    return jax.jit(lambda: model.init(key, images, train=False)['params']['head'])()


def variables_from_tensors(
    tensors: Mapping[str, np.ndarray],
    model: ResNet,
    *,
    reset_head: bool = False,
    where: str = 'the file',
) -> dict[str, Any]:
    """The variables of a model from named arrays, in the arrays' dtypes.

    Args:
      tensors: NumPy arrays by name, in one of the `LAYOUTS` or our own.
      model: the model to fill.
      reset_head: leave the head out.
      where: what to call the tensors in messages.

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
    variables = {'batch_stats': {}, **flax.traverse_util.unflatten_dict(flat)}
    return stack_blocks(variables) if model.scan_blocks else variables


def describe(tensors: Mapping[str, np.ndarray], model: ResNet) -> tuple[str, int | None]:
    """The layout of named arrays, and for how many classes their head is, if they have one.

    Args:
      tensors: NumPy arrays by name.
      model: a model that they fit but for its head; its own number of classes does not matter.
    """
    sizes = {name: tuple(array.shape) for name, array in tensors.items()}
    found = matching.match(sizes, model, reset_head=True)
    biases = [sizes[name] for name in found.head if name in sizes and len(sizes[name]) == 1]
    return found.layout, biases[0][0] if biases else None


def tensors_from_variables(variables: Any, model: ResNet, layout: str) -> dict[str, np.ndarray]:
    """The inverse of `variables_from_tensors`.

    Args:
      variables: `params` and `batch_stats` of the model.
      model: the model.
      layout: a key of `LAYOUTS`, or 'ours'.

    Raises:
      InputError: for an unknown layout, or one that has no name for a part of the model.
    """
    if layout != OURS and layout not in LAYOUTS:
        raise unknown_name('layout', layout, [OURS, *LAYOUTS])
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
    variables: Any,
    model: ResNet,
    *,
    layout: str = OURS,
    dtype: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes the variables of a model to a file.

    Args:
      path: .safetensors, .npz, .pth or .pt; replaced if it exists, complete or not at all.
      variables: `params` and `batch_stats` of the model.
      model: the model.
      layout: a key of `LAYOUTS`: a file that PyTorch's model of that publisher loads; or 'ours'.
      dtype: one of `DTYPES` to convert to; None keeps that of the variables.
      metadata: texts to keep beside the tensors.

    Raises:
      InputError: for a path, layout or dtype that cannot be.
    """
    arrays = tensors_from_variables(variables, model, layout)
    if dtype is not None:
        if dtype not in DTYPES:
            raise unknown_name('dtype', dtype, DTYPES)
        arrays = {name: array.astype(jnp.dtype(dtype)) for name, array in arrays.items()}
    write_tensors(Path(path), Tensors(arrays, dict(metadata or {})))
