"""Weights of dense networks: torchvision's names of their tensors, and our own."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from resnet_jax.dense import Detector, Segmenter
from resnet_jax.errors import InputError
from resnet_jax.interop import layouts
from resnet_jax.interop.files import read_tensors
from resnet_jax.interop.layouts import OURS
from resnet_jax.interop.layouts import Path as TensorPath
from resnet_jax.interop.publishers import LAYOUTS

Dense = Segmenter | Detector
TORCHVISION = 'torchvision'
# Our names of the layers of a head -> torchvision's.
_FCN = {'conv1': '0', 'norm1': '1', 'logits': '4'}
_ASPP = {
    **{f'conv{i + 1}': f'0.convs.{i}.0' for i in range(4)},
    **{f'norm{i + 1}': f'0.convs.{i}.1' for i in range(4)},
    **{'conv5': '0.convs.4.1', 'norm5': '0.convs.4.2'},
    **{'conv6': '0.project.0', 'norm6': '0.project.1'},
    **{'conv7': '1', 'norm7': '2', 'logits': '4'},
}
HEADS = {'fcn': _FCN, 'aspp': _ASPP}
# Of a RetinaNet: names of today's files, and of those that were published first.
_LEVELS = {'inner': 'inner_blocks', 'layer': 'layer_blocks'}
_ANCHOR_HEADS = {
    'class_head': ('classification_head', 'cls_logits'),
    'box_head': ('regression_head', 'bbox_reg'),
}


def shapes_of(model: Dense) -> dict[TensorPath, tuple[int, ...]]:
    """Path -> shape of every array of a network's variables."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    found = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    return {path: x.shape for path, x in flax.traverse_util.flatten_dict(dict(found)).items()}


def names_of(model: Dense, layout: str = TORCHVISION) -> dict[TensorPath, tuple[str, ...]]:
    """The names of every array in a layout, the usual one first.

    Args:
      model: the network.
      layout: 'torchvision' or 'ours'.

    Raises:
      InputError: for a part that the layout has no name for.
    """
    paths = list(shapes_of(model))
    if layout == OURS:
        return {path: ('/'.join(path),) for path in paths}
    inside = {path: (path[0], *path[2:]) for path in paths if path[1] == 'backbone'}
    body = layouts.tensor_names(model.backbone.net, list(inside.values()), layout)
    prefix = 'backbone.body.' if isinstance(model, Detector) else 'backbone.'
    names: dict[TensorPath, tuple[str, ...]] = {
        path: (prefix + body[short],) for path, short in inside.items()
    }
    for path in paths:
        if path not in names:
            names[path] = tuple(_names(model, path))
    return names


def _names(model: Dense, path: TensorPath) -> Iterator[str]:
    """The names of an array that is not of the backbone."""
    _, part, module, leaf = path
    row = LAYOUTS[TORCHVISION]
    leaf = (row.norm_leaves if 'norm' in module else row.leaves)[leaf]
    if isinstance(model, Segmenter):
        table = HEADS.get(model.head if part == 'head' else 'fcn')
        if table is None:
            raise InputError(
                f'torchvision has no head {model.head!r}; write our own layout instead (--layout '
                f'{OURS})'
            )
        whole = 'classifier' if part == 'head' else 'aux_classifier'
        yield f'{whole}.{table[module]}.{leaf}'
        return
    kind, number = module.rstrip('0123456789'), int(''.join(filter(str.isdigit, module)) or 0)
    if part == 'fpn' and kind == 'extra':
        yield f'backbone.fpn.extra_blocks.p{number + 5}.{leaf}'
    elif part == 'fpn':
        for end in ('.0', ''):
            yield f'backbone.fpn.{_LEVELS[kind]}.{number - 1}{end}.{leaf}'
    else:
        whole, last = _ANCHOR_HEADS[part]
        if kind == 'last':
            yield f'head.{whole}.{last}.{leaf}'
        else:
            yield f'head.{whole}.conv.{number - 1}.0.{leaf}'
            yield f'head.{whole}.conv.{2 * (number - 1)}.{leaf}'


def load_dense_weights(
    path: str | os.PathLike[str], model: Dense, dtype: DTypeLike | None = jnp.float32
) -> dict[str, Any]:
    """Reads the variables of a dense network from a file in torchvision's layout or our own.

    Args:
      path: of a safetensors or PyTorch file.
      model: from `dense.create_model`.
      dtype: of the result; None keeps that of the file.

    Raises:
      InputError: if the file cannot be read or does not fit, naming the first tensors at fault.
    """
    tensors = read_tensors(Path(path)).arrays
    found = variables_from_tensors(tensors, model, os.fspath(path))
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), found)


def variables_from_tensors(
    tensors: Mapping[str, np.ndarray], model: Dense, where: str = 'the file'
) -> dict[str, Any]:
    """Converts named arrays to the variables of a dense network.

    Raises:
      InputError: if they do not fit.
    """
    shapes = shapes_of(model)
    layout = OURS if any('/' in name for name in tensors) else TORCHVISION
    found, faults = {}, []
    names = names_of(model, layout)
    for path, shape in shapes.items():
        name = next((name for name in names[path] if name in tensors), None)
        expected = layouts.their_shape(path, shape, layout)
        if name is None:
            faults.append(f'{names[path][0]} is missing')
        elif tensors[name].shape != expected:
            faults.append(f'{name} has shape {list(tensors[name].shape)}, not {list(expected)}')
        else:
            found[path] = layouts.to_ours(path, tensors[name], layout)
    if faults:
        more = f' and {len(faults) - 3} more' if len(faults) > 3 else ''
        raise InputError(f'{where} does not fit this network: {"; ".join(faults[:3])}{more}')
    return {'batch_stats': {}, **flax.traverse_util.unflatten_dict(found)}


def named_tensors(
    variables: Mapping[str, Any], model: Dense, layout: str = TORCHVISION
) -> dict[str, np.ndarray]:
    """The arrays of a dense network by their names in a layout."""
    flat = flax.traverse_util.flatten_dict(dict(variables))
    return {
        names[0]: layouts.to_theirs(path, np.asarray(flat[path]), layout)
        for path, names in names_of(model, layout).items()
    }
