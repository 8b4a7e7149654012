"""A folded network, walked from the images to the logits, as an ONNX graph."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from resnet_jax.errors import InputError
from resnet_jax.export.onnx import operations
from resnet_jax.export.onnx.graph import Graph, Tensor
from resnet_jax.export.onnx.operations import Part, row
from resnet_jax.models import ResNet
from resnet_jax.models.block import ResidualBlock, spell_out
from resnet_jax.models.convolution import for_each

INPUT, OUTPUT = 'images', 'logits'
PREPARATION = ('channels_first', 'pixels', 'unit_pixels', 'centred', 'normalized')  # its nodes


def add_network(graph: Graph, model: ResNet, params: Mapping[str, Any], x: Tensor) -> Tensor:
    """Adds a network to a graph.

    Args:
      graph: which is extended.
      model: folded, with its blocks by their own names.
      params: of the model, nested dicts of NumPy arrays.
      x: normalised images [N, C, space ...].

    Returns:
      The logits [N, classes], named `OUTPUT`.

    Raises:
      InputError: for a part of the model without a form in ONNX.
    """
    *_, x = add_body(graph, model, params, x).values()
    for prefix, tail, convs in model.tail():
        x = operations.apply(tail, x, Part(graph, model, params, '', convs, prefix=prefix))
    return _add_head(graph, params, x)


def add_body(
    graph: Graph, model: ResNet, params: Mapping[str, Any], x: Tensor
) -> dict[str, Tensor]:
    """Adds the stem and the stages, see `add_network`; the output of each by its name."""
    stem, stages = model.body()
    convs = [{'strides': stride} for _, stride, _ in stem.design.convolutions]
    part = Part(graph, model, params.get('stem', {}), 'stem', convs)
    if stem.design.embedding:
        x = _embedded(graph, part.params['embedding']['embedding'], x)
    x = operations.apply(stem.operations(), x, part)
    x = row('stem pool', stem.design.pool, operations.STEM_POOLS)(x, graph, 'stem/pool')
    found = {'stem': x}
    for i, stage in enumerate(stages, 1):
        for j in range(1, len(stage.plan.drop_rates) + 1):
            block, name = stage.block(j), f'block{j}'
            where = f'stage{i}/{name}'
            x = _add_block(graph, model, params[f'stage{i}'].get(name, {}), where, block, x)
        found[f'stage{i}'] = x
    return found


def _embedded(graph: Graph, vectors: np.ndarray, x: Tensor) -> Tensor:
    """The vectors [N, C, L] of whole numbers [N, L]."""
    table = graph.constant('stem.embedding', vectors)
    found = graph.node('Gather', [table, x.name], 'stem/embedding', axis=0)
    name = graph.node('Transpose', [found], 'stem/embedding_first', perm=[0, 2, 1])
    return Tensor(name, vectors.shape[-1], x.size)


def _add_head(graph: Graph, params: Mapping[str, Any], x: Tensor) -> Tensor:
    pooled = graph.node('Flatten', [graph.mean(x, 'pool').name], 'pooled', axis=1)
    y = Tensor(pooled, x.channels, ())
    if 'head_bias' in params:
        y = graph.with_constant('Add', y, params['head_bias']['bias'].reshape(()), 'head_bias')
    head = params['head']
    names = [graph.constant(f'head.{leaf}', head[leaf]) for leaf in ('kernel', 'bias')]
    graph.node('Gemm', [y.name, *names], OUTPUT)
    return Tensor(OUTPUT, head['kernel'].shape[-1], ())


def _add_block(
    graph: Graph,
    model: ResNet,
    params: Mapping[str, Any],
    where: str,
    block: ResidualBlock,
    x: Tensor,
) -> Tensor:
    """`ResidualBlock.__call__` in evaluation."""
    before, branch, after = spell_out(block.design, bool(block.fixup))
    convs = block.convolutions(x.channels, len(x.size))
    part = Part(graph, model, params, where, convs, block.stride)
    path = block.shortcut_path(x.channels)
    preactivated = operations.apply(before, x, part)
    entry = preactivated if block.shares_activation(path) else x
    y = operations.apply(branch, preactivated, part)
    if path is not None:
        skip = _shortcut(path, block, entry, part)
        skip, y = _weight(block, skip, y, entry, part)
        y = y._replace(name=graph.node('Add', [y.name, skip.name], part.name('add')))
    return operations.apply(after, y, part)


def _shortcut(path: str, block: ResidualBlock, x: Tensor, part: Part) -> Tensor:
    design, graph = block.design, part.graph
    stride = design.strides(block.stride, len(x.size))
    pool, _ = row('downsample', design.downsample, operations.DOWNSAMPLINGS)
    if pool is not None and block.stride > 1 and path != 'identity':
        x, stride = pool(x, block.stride, graph, part.name('shortcut_pool')), 1
    if path == 'zero_pad':
        x = _zero_pad(x, block.width * design.expansion, stride, part)
    elif path == 'norm':
        x = row('norm', part.model.norm, operations.NORMS)(x, part, 'shortcut_norm')
    elif path in ('projection', 'conv'):
        x = operations.convolve(part, x, 'shortcut_conv', {'strides': stride})
        if block.normalizes_shortcut(path):
            x = row('norm', part.model.norm, operations.NORMS)(x, part, 'shortcut_norm')
    if design.se_ratio and design.se_place == 'identity':
        x = operations.squeeze_excite(x, part)
    return x


def _zero_pad(x: Tensor, channels: int, stride: int | tuple[int, ...], part: Part) -> Tensor:
    """`layers.zero_pad_shortcut`."""
    graph, where, dims = part.graph, part.name('shortcut'), len(x.size)
    extra = channels - x.channels
    strides = for_each(stride, dims)
    if max(strides) > 1:
        rows = {
            'starts': [0] * dims,
            'ends': x.size,
            'axes': range(2, dims + 2),
            'steps': strides,
        }
        name = f'{where}/slice'
        inputs = [graph.constant(f'{name}.{k}', list(v), np.int64) for k, v in rows.items()]
        graph.node('Slice', [x.name, *inputs], name)
        x = Tensor(
            name, x.channels, tuple(-(-n // s) for n, s in zip(x.size, strides, strict=True))
        )
    if not extra:
        return x
    space = (0,) * dims
    pads = (extra // 2, *space), (extra - extra // 2, *space)
    return Tensor(graph.pad(x, *pads, f'{where}/pad', 'constant'), channels, x.size)


def _scale_both(skip: Tensor, branch: Tensor, gate: str, part: Part) -> tuple[Tensor, Tensor]:
    """he2016, figure 2c: (1 - g) * skip, g * branch."""
    graph = part.graph
    negative = graph.with_constant('Mul', skip._replace(name=gate), -1.0, part.name('gate/minus'))
    rest = graph.with_constant('Add', negative, 1.0, part.name('gate/rest'))
    return (
        skip._replace(name=graph.node('Mul', [skip.name, rest.name], part.name('gated_shortcut'))),
        branch._replace(name=graph.node('Mul', [branch.name, gate], part.name('gated_branch'))),
    )


def _scale_shortcut(skip: Tensor, branch: Tensor, gate: str, part: Part) -> tuple[Tensor, Tensor]:
    """he2016, figure 2d: (1 - g) * skip, branch."""
    graph = part.graph
    negative = graph.with_constant('Mul', skip._replace(name=gate), -1.0, part.name('gate/minus'))
    rest = graph.with_constant('Add', negative, 1.0, part.name('gate/rest'))
    name = graph.node('Mul', [skip.name, rest.name], part.name('gated_shortcut'))
    return skip._replace(name=name), branch


GATES: dict[str, Callable[[Tensor, Tensor, str, Part], tuple[Tensor, Tensor]] | None] = {
    'none': None,
    'exclusive': _scale_both,
    'shortcut_only': _scale_shortcut,
}


def _weight(
    block: ResidualBlock, skip: Tensor, branch: Tensor, entry: Tensor, part: Part
) -> tuple[Tensor, Tensor]:
    """Gates and scales the two paths."""
    gate = row('gate', block.design.gate, GATES)
    if gate is not None:
        strides = block.design.strides(block.stride, len(entry.size))
        g = operations.convolve(part, entry, 'gate_conv', {'strides': strides})
        g = part.graph.unary('Sigmoid', g, part.name('gate'))
        skip, branch = gate(skip, branch, g.name, part)
    return _scaled(skip, 'shortcut_scale', block, part), _scaled(
        branch, 'branch_scale', block, part
    )


def _scaled(x: Tensor, field: str, block: ResidualBlock, part: Part) -> Tensor:
    factor = getattr(block.design, field)
    if getattr(block.design, f'learn_{field}'):
        factor = np.asarray(part.params[field]['scale']).reshape(())
    elif factor == 1.0:
        return x
    return part.graph.with_constant('Mul', x, factor, part.name(field))


def add_input(
    graph: Graph,
    model: ResNet,
    size: tuple[int, ...],
    channels: int,
    normalization: tuple[np.ndarray, np.ndarray] | None,
    channels_last: bool,
) -> Tensor:
    """What precedes the network: normalised images [N, C, space ...] from the graph's input.

    Args:
      graph: which is extended.
      model: the network.
      size: of the images, in each dimension.
      channels: of the images.
      normalization: mean and standard deviation for pixels in [0, 1], where the input is uint8
        pixels: [C], or [H, W, C] of the mean.
      channels_last: whether the input is [N, space ..., C].
    """
    dims = model.dimensions
    x = Tensor(INPUT, channels, size)
    if np.issubdtype(model.input_dtype, np.integer):
        return x  # of an embedding, [N, L]
    if channels_last:
        axes = [0, dims + 1, *range(1, dims + 1)]
        x = x._replace(name=graph.node('Transpose', [x.name], 'channels_first', perm=axes))
    if normalization is None:
        return x
    from onnx import TensorProto

    mean, std = normalization
    x = x._replace(name=graph.node('Cast', [x.name], 'pixels', to=TensorProto.FLOAT))
    x = graph.with_constant('Mul', x, np.float32(1 / 255), 'unit_pixels')
    if mean.ndim > 1:
        minus = graph.constant('mean', mean.transpose(2, 0, 1)[None])
        x = x._replace(name=graph.node('Sub', [x.name, minus], 'centred'))
    else:
        x = graph.with_constant('Sub', x, mean, 'centred')
    return graph.with_constant('Mul', x, 1 / std, 'normalized')


def check_exportable(model: ResNet, dtype: str = 'float32') -> None:
    """Refuses a network of another type than float32, and quantised inputs in a file of floats.

    Raises:
      InputError: naming the formats that take it.
    """
    if model.dtype != np.float32:
        raise InputError(
            f'ONNX is written in float32, not {np.dtype(model.dtype).name}: onnxruntime computes '
            'no bfloat16 on a CPU, so that the file could not be checked; use --format stablehlo'
        )
    if model.activation_bits and dtype != 'int8':
        raise InputError(
            "this model quantises its layers' inputs, which an ONNX file of floats does not; give "
            '--dtype int8, or --format stablehlo'
        )
