"""Fold batch norm into convolutions: the same function in evaluation, without statistics.

A batch norm with fixed statistics is a scale and a shift of each channel. Behind a convolution the
scale goes into its kernel and the shift becomes its bias. Elsewhere, as in front of the branch of a
pre-activation block, whose input the shortcut takes too, both are left: `norms.Affine`.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.dense.registry import Network, SomeNetwork, net_of, with_net_fields
from resnet_jax.models import ResNet
from resnet_jax.models.block import Operations, pairs, spell_out
from resnet_jax.models.convolution import STANDARDIZATIONS
from resnet_jax.models.stages import stack_blocks, unstack_blocks

# Of dense networks; all their convolutions are made as those of the network under them.
HEADS = ('head', 'aux_head', 'fpn', 'class_head', 'box_head')
Path = tuple[str, ...]  # of a module: ('stage1', 'block1', 'conv1')
_Arrays = dict[Path, np.ndarray]  # in float64


def fold(model: SomeNetwork, variables: Mapping[str, Any]) -> tuple[SomeNetwork, dict[str, Any]]:
    """Folds batch norms into convolutions, and standardised weights into plain ones.

    Args:
      model: any network. Norms that depend on each image (group, layer) stay as they are.
      variables: of the model.

    Returns:
      The model, with norm='folded' where its norm was 'batch', and weight_standardization=False;
      and its variables, computed in float64 and stored in the type of the old ones. In evaluation
      it is the same function up to rounding; of the running statistics, the ranges of quantised
      inputs are left. A model without anything to fold comes back as it is.
    """
    net = net_of(model)
    plain = unstack_blocks(variables) if net.scan_blocks else variables
    params = flax.traverse_util.flatten_dict(plain['params'])
    stats = flax.traverse_util.flatten_dict(plain.get('batch_stats', {}))
    found = {path: np.asarray(value, np.float64) for path, value in params.items()}
    fields: dict[str, Any] = {}
    if net.weight_standardization:
        found |= _standardized(net, found)
        fields['weight_standardization'] = False
    if net.norm == 'batch':
        found = _folded(model, found, stats)
        norms = {path[:-1] for path in stats if path[-1] == 'mean'}
        stats = {path: value for path, value in stats.items() if path[:-1] not in norms}
        fields |= {'norm': 'folded', 'ghost_batch': 0, 'bn_axis_name': None}
        # There is no norm left to start at zero.
        fields['block'] = dataclasses.replace(net.block, zero_init_last=False)
    if not fields:
        return model, dict(variables)
    any_other = next(iter(params.values()))  # for the type of new biases
    arrays = {path: _like(value, params.get(path, any_other)) for path, value in found.items()}
    result = {
        'params': flax.traverse_util.unflatten_dict(arrays),
        'batch_stats': flax.traverse_util.unflatten_dict(stats),
    }
    return with_net_fields(model, **fields), stack_blocks(result) if net.scan_blocks else result


def unfolded(model: Network, variables: Mapping[str, Any]) -> dict[str, str]:
    """What `fold` could not put into a convolution.

    Args:
      model: from `fold`.
      variables: from `fold`.

    Returns:
      Path of each norm that is left, 'stage1/block1/norm1' -> why.
    """
    net = net_of(model)
    plain = unstack_blocks(variables) if net.scan_blocks else variables
    paths = {path[:-1] for path in flax.traverse_util.flatten_dict(plain['params'])}
    why = (
        'it takes no output of a convolution, or one that the shortcut takes too'
        if net.norm == 'folded'
        else 'it normalises by the statistics of each image'
    )
    return {'/'.join(path): why for path in sorted(paths) if 'norm' in path[-1]}


def _folded(model: Network, params: _Arrays, stats: Mapping[Path, Any]) -> _Arrays:
    """The parameters of the folded model, by path."""
    found = dict(params)
    convolutions = {norm: conv for conv, norm in _pairs(model, params)}
    for norm in {path[:-1] for path in stats if path[-1] == 'mean'}:
        mean, var = (np.asarray(stats[(*norm, name)], np.float64) for name in ('mean', 'var'))
        scale, bias = found.pop((*norm, 'scale')), found.pop((*norm, 'bias'))
        scale = scale / np.sqrt(var + net_of(model).bn_epsilon)
        bias = bias - mean * scale
        conv = convolutions.get(norm)
        if conv is None:
            found |= {(*norm, 'scale'): scale, (*norm, 'bias'): bias}
        else:  # the last axis of a kernel is that of its output channels
            conv = (*conv, 'up') if (*conv, 'up', 'kernel') in found else conv  # of low rank
            bias = bias + scale * found.get((*conv, 'bias'), 0.0)
            found |= {(*conv, 'kernel'): found[(*conv, 'kernel')] * scale, (*conv, 'bias'): bias}
    return found


def _pairs(model: Network, params: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """The paths of each convolution behind which a norm stands, and of that norm."""
    if isinstance(model, ResNet):
        yield from _pairs_of_net(model, params)
        return
    inside = [path[1:] for path in params if path[0] == 'backbone']
    for conv, norm in _pairs_of_net(model.backbone.net, inside):
        yield ('backbone', *conv), ('backbone', *norm)
    for head, *modules, _ in params:  # a head is conv1, norm1, conv2, norm2, ...
        if head != 'backbone' and modules[0].startswith('norm'):
            yield (head, modules[0].replace('norm', 'conv')), (head, modules[0])


def _pairs_of_net(model: ResNet, params: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    stem, stages = model.body()
    branches = [spell_out(stage.plan.design, model.fixup)[1] for stage in stages]
    modules = {path[:n] for path in params for n in range(1, len(path))}
    for prefix, tail, _ in model.tail():
        for conv, norm in pairs(tail):
            yield (prefix + conv.name,), (prefix + norm.name,)
    for part in sorted({path[:-2] for path in params}):
        operations: Operations = stem.operations() if part == ('stem',) else ()
        if len(part) == 2:
            operations = branches[int(part[0].removeprefix('stage')) - 1]
        for conv, norm in pairs(operations):
            yield (*part, conv.name), (*part, norm.name)
        if (*part, 'shortcut_norm', 'scale') in params and (*part, 'shortcut_conv') in modules:
            yield (*part, 'shortcut_conv'), (*part, 'shortcut_norm')


def _like(value: np.ndarray, other: Any) -> Any:
    """An array of the kind and type of another one."""
    if isinstance(other, jax.Array):
        return jnp.asarray(value, other.dtype)
    return value.astype(other.dtype)


def _standardized(model: ResNet, params: _Arrays) -> _Arrays:
    """The kernels of all convolutions as weight standardisation makes them, by path."""
    divisor = STANDARDIZATIONS[model.standardized_to]
    found = {}
    for path, kernel in params.items():
        in_head = path[0] in HEADS and kernel.ndim > 2
        if path[-1] != 'kernel' or not (in_head or 'conv' in path[-2]) or path[-2] == 'conv':
            continue  # a fully connected layer, or channel attention
        axes, fan_in = tuple(range(kernel.ndim - 1)), kernel.size // kernel.shape[-1]
        var = kernel.var(axes)
        found[path] = (kernel - kernel.mean(axes)) / np.sqrt(divisor(var, fan_in))
    return found
