"""Convert between files of weights, PyTorch's or our own, and the variables of a model."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from resnet_jax import text
from resnet_jax.dense import Detector, Segmenter
from resnet_jax.errors import InputError, check_choice
from resnet_jax.interop import layouts, matching
from resnet_jax.interop.dense_weights import load_dense_weights
from resnet_jax.interop.files import Tensors, read_tensors, write_tensors
from resnet_jax.interop.hub import fetch
from resnet_jax.interop.layouts import OURS
from resnet_jax.interop.publishers import LAYOUTS
from resnet_jax.models.inputs import example_input
from resnet_jax.models.quantized import RANGE
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.stages import stack_blocks, unstack_blocks

DTYPES = ('float32', 'float16', 'bfloat16', 'float64')


def load_weights(
    path: str | os.PathLike[str],
    model: ResNet | Segmenter | Detector,
    *,
    reset_head: bool = False,
    key: jax.Array | None = None,
    dtype: DTypeLike | None = jnp.float32,
    weights_key: str | None = None,
    channels: int | None = None,
    adapt_stem: bool = False,
) -> dict[str, Any]:
    """Loads the variables of a model from a file of weights.

    Reads files from torchvision, timm, Hugging Face, the CIFAR ports and this package, and the
    checkpoints of training scripts around such nets; recognises format and layout by the content.
    No code in a file is ever run. If something in the file is not used, a line on standard error
    says what was taken and what is left over.

    Args:
      path: a safetensors, PyTorch (needs PyTorch) or .npz file of any name, the folder of a run or
        checkpoint, `hf:OWNER/REPO[/FILE]` or `torchvision:NAME`.
      model: from `create_model`; of a dense one see `dense_weights`, which takes `dtype` alone.
      reset_head: load everything but the head, and initialise the head.
      key: for the head; `jax.random.key(0)` by default.
      dtype: of the result; None keeps the file's.
      weights_key: which weights of several in a file, such as 'state_dict_ema' or 'student': part
        of what precedes their names. By default, of those that fit the averaged ones, the
        teacher's, the online or query encoder's, then any other (`interop.branches.RANKS`).
      channels: of the images that the model is to take; None: as many as the file's stem takes.
      adapt_stem: whether to convert the stem of a file for images of another number of channels,
        see `adapt_kernel`; else they are refused.

    Returns:
      {'params': ..., 'batch_stats': ...}, for `model.apply`.

    Raises:
      InputError: if the file cannot be read or does not fit; the message lists the tensors that do
        not fit and the registered models that would.
    """
    if isinstance(model, Segmenter | Detector):
        if reset_head or weights_key or channels or adapt_stem:
            raise InputError(
                'reset_head, weights_key, channels and adapt_stem go with classifiers only; leave '
                'them out'
            )
        return load_dense_weights(fetch(path), model, dtype)
    file = fetch(path)
    tensors = read_tensors(file)
    variables = variables_from_tensors(
        tensors.arrays,
        model,
        reset_head=reset_head,
        where=file.name,
        weights_key=weights_key,
        channels=channels,
        adapt_stem=adapt_stem,
        say=text.note,
    )
    return finished(variables, model, key, dtype)


def finished(
    variables: dict[str, Any],
    model: ResNet,
    key: jax.Array | None = None,
    dtype: DTypeLike | None = jnp.float32,
) -> dict[str, Any]:
    """The variables on the device, with a new head where they have none.

    Args:
      variables: from `variables_from_tensors`.
      model: the model.
      key: for the head; `jax.random.key(0)` by default.
      dtype: of the result; None keeps that of the variables.
    """
    variables = jax.tree.map(lambda x: jnp.asarray(x, dtype), variables)
    if 'head' not in variables['params']:
        channels = image_channels(variables['params'])
        head = _new_head(model, channels, jax.random.key(0) if key is None else key)
        variables['params']['head'] = jax.tree.map(lambda x: x.astype(dtype or x.dtype), head)
    return variables


def _new_head(model: ResNet, channels: int, key: jax.Array) -> dict[str, jax.Array]:
    shape = example_input(model, 32, channels)

    @jax.jit  # the rest of the model is eliminated as dead code
    def head() -> dict[str, jax.Array]:
        images = jnp.zeros(shape.shape, shape.dtype)
        found: dict[str, jax.Array] = model.init(key, images, train=False)['params']['head']
        return found

    return head()


def variables_from_tensors(
    tensors: Mapping[str, np.ndarray],
    model: ResNet,
    *,
    reset_head: bool = False,
    where: str = 'the file',
    weights_key: str | None = None,
    channels: int | None = None,
    adapt_stem: bool = False,
    say: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Converts named arrays to the variables of a model, in the arrays' dtypes.

    Args:
      tensors: NumPy arrays by name, in one of the `LAYOUTS` or our own.
      model: the model.
      reset_head: leave out the head.
      where: the source of the tensors, for messages.
      weights_key: as for `load_weights`.
      channels: as for `load_weights`.
      adapt_stem: as for `load_weights`.
      say: called with a line about what is left over, and one about an adapted stem.

    Returns:
      {'params': ..., 'batch_stats': ...}.

    Raises:
      InputError: if they do not fit.
    """
    sizes = {name: tuple(array.shape) for name, array in tensors.items()}
    found = matching.match(sizes, model, reset_head, weights_key)
    matching.check(found, sizes, where, model)
    if say and (note := matching.choice_note(found)):
        say(f'{where}: {note}')
    flat = {
        path: layouts.to_ours(path, tensors[name], found.layout)
        for path, name in found.names.items()
    }
    for path, name in found.names.items():
        _check_numbers(flat[path], name, where)
    firsts = matching.image_kernels(model)
    theirs = flat[firsts[0]].shape[-2]
    if channels is not None and channels != theirs:
        if not adapt_stem:
            raise InputError(
                f'{where} takes images of {theirs} channels, the model is to take {channels}; set '
                f'adapt_stem=True to sum or spread the weights of its stem, or give it images of '
                f'{theirs} (for training, data.channels={theirs})'
            )
        flat |= {path: adapt_kernel(flat[path], channels) for path in firsts if path in flat}
        if say:
            how = 'summed to' if channels == 1 else 'spread over'
            say(f'{where}: the weights of its stem for {theirs} channels are {how} {channels}')
    for path, shape in layouts.model_shapes(model).items():
        if path[-1] == RANGE:  # of a quantised input, which a file of floats does not have
            flat.setdefault(path, np.zeros(shape.shape, np.float32))
    variables = {'batch_stats': {}, **flax.traverse_util.unflatten_dict(flat)}
    return stack_blocks(variables) if model.scan_blocks else variables


def image_channels(params: Mapping[str, Any]) -> int:
    """The channels of the images that parameters of a model are for."""
    first = params['stem'] if 'stem' in params else params['stage1']['block1']
    return int(first['conv1']['kernel'].shape[-2])


def adapt_kernel(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Converts a stem's kernel to images of another number of channels.

    As timm's adapt_input_conv (timm/models/_manipulate.py), for any number of channels: to one
    channel the weights are summed; to N they are repeated in turn, R G B R ..., and scaled by the
    old number over N. An image of equal channels then gives what it gave before, exactly where N is
    a multiple of the old number; else about that, as the first channels are repeated once more.

    Args:
      kernel: [window ..., channels, outputs].
      channels: of the result.
    """
    theirs = kernel.shape[-2]
    wide = kernel.astype(np.float32) if kernel.itemsize < 4 else kernel
    if channels == 1:
        return wide.sum(axis=-2, keepdims=True).astype(kernel.dtype)
    repeated = np.take(wide, np.arange(channels) % theirs, axis=-2)
    return (repeated * (theirs / channels)).astype(kernel.dtype)


def _check_numbers(array: np.ndarray, name: str, where: str) -> None:
    """Refuses weights that are no finite real numbers."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(f'{where}: {name} holds {array.dtype} and no floating-point numbers')
    if not np.isfinite(np.asarray(array, np.float32 if array.itemsize < 4 else None)).all():
        raise InputError(f'{where}: {name} holds values that are not finite (NaN or infinite)')


def describe(
    tensors: Mapping[str, np.ndarray], model: ResNet, weights_key: str | None = None
) -> tuple[str, int | None]:
    """Finds the layout of named arrays and the number of classes of their head.

    Args:
      tensors: NumPy arrays by name.
      model: a model that they fit except for the head; its number of classes does not matter.
      weights_key: as for `load_weights`.

    Returns:
      A key of `LAYOUTS` or 'ours', and the number of classes, None without a head.
    """
    sizes = {name: tuple(array.shape) for name, array in tensors.items()}
    found = matching.match(sizes, model, True, weights_key)
    biases = [sizes[name] for name in found.head if name in sizes and len(sizes[name]) == 1]
    return found.layout, biases[0][0] if biases else None


def fields_for(
    tensors: Mapping[str, np.ndarray], model: ResNet, weights_key: str | None = None
) -> dict[str, Any]:
    """The fields of a model that named arrays need; arguments as for `describe`.

    Returns:
      Names and values for `create_model`, such as raw_first_shortcut for nets of the CIFAR ports.
    """
    sizes = {name: tuple(array.shape) for name, array in tensors.items()}
    return matching.needed_fields(sizes, model, weights_key)


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
