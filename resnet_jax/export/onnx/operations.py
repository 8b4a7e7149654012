"""What each operation of a network is in ONNX: tables beside those of `resnet_jax.models`."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from resnet_jax.errors import InputError
from resnet_jax.export.onnx.graph import Graph, Tensor
from resnet_jax.models import ResNet
from resnet_jax.models.block import Operation


@dataclasses.dataclass(frozen=True)
class Part:
    """What an operation gets from its part of the network: the stem, a block or the tail.

    Attributes:
      graph: which is extended.
      model: the folded network.
      params: of this part, as NumPy arrays.
      path: of the part: 'stage1/block1'; empty for the tail.
      convs: arguments of each convolution, see `block.Context`.
      stride: of the block.
      prefix: of the names of parameters.
    """

    graph: Graph
    model: ResNet
    params: Mapping[str, Any]
    path: str
    convs: Sequence[Mapping[str, Any]] = ()
    stride: int = 1
    prefix: str = ''

    def name(self, *words: str) -> str:
        """The name of a node of this part."""
        return '/'.join(word for word in (self.path, *words) if word)


def row(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    """The row of one of the tables here.

    Raises:
      InputError: for a value of the grammar that has no form in ONNX.
    """
    if name not in table:
        raise InputError(
            f'{kind} {name!r} has no form in ONNX here; export with --format stablehlo instead'
        )
    return table[name]


def apply(operations: Iterable[Operation], x: Tensor, part: Part) -> Tensor:
    """Adds operations one after another."""
    for op in operations:
        x = row('operation', op.kind, OPERATIONS)(op, x, part)
    return x


def convolve(part: Part, x: Tensor, name: str, settings: Mapping[str, Any]) -> Tensor:
    """A convolution of the part, with the arguments of `models.convolution.convolution`."""
    params, where = part.params[name], part.name(name)
    # Of a convolution of low rank, thin ones stand in its place: the one with the window has the
    # stride and the dilation, or the first where all are 1x1.
    thin = [word for word in ('down', 'core', 'up') if word in params]
    pieces = [(params[word], f'{where}/{word}') for word in thin] or [(params, where)]
    windowed = 1 if 'core' in params else 0
    for i, (piece, title) in enumerate(pieces):
        given = settings if i == windowed else {}
        x = part.graph.convolution(
            x,
            piece['kernel'],
            piece.get('bias'),
            title,
            stride=given.get('strides', 1),
            dilation=given.get('dilation', 1),
            groups=given.get('groups', 1),
        )
    return x


def _norm(op: Operation, x: Tensor, part: Part) -> Tensor:
    name = part.prefix + op.name
    found: Tensor = row('norm', part.model.norm, NORMS)(x, part, name)
    return found


def _affine(x: Tensor, part: Part, name: str) -> Tensor:
    if name not in part.params:  # folded
        return x
    params, where = part.params[name], part.name(name)
    x = part.graph.with_constant('Mul', x, params['scale'], f'{where}/scale')
    return part.graph.with_constant('Add', x, params['bias'], f'{where}/bias')


def _group(x: Tensor, part: Part, name: str, groups: int | None = None) -> Tensor:
    """Opset 17 has no group norm: instance norm of the groups, each as one long channel."""
    groups = groups or part.model.norm_groups
    where, graph = part.name(name), part.graph
    y = graph.reshape(x.name, [0, groups, -1], f'{where}/groups')
    ones = graph.constant(f'{where}/ones', np.ones(groups))
    zeros = graph.constant(f'{where}/zeros', np.zeros(groups))
    epsilon = part.model.bn_epsilon
    y = graph.node('InstanceNormalization', [y, ones, zeros], f'{where}/norm', epsilon=epsilon)
    y = graph.reshape(y, [0, x.channels, *x.size], f'{where}/channels')
    return _affine(x._replace(name=y), part, name)


NORMS: dict[str, Callable[[Tensor, Part, str], Tensor]] = {
    'folded': _affine,
    'group': _group,
    'layer': lambda x, part, name: _group(x, part, name, 1),
    'none': lambda x, part, name: x,
}


def _gelu(x: Tensor, graph: Graph, name: str) -> Tensor:
    """The tanh approximation; opset 17 has no node for it."""
    cube = graph.node('Mul', [x.name, x.name], f'{name}/square')
    cube = graph.node('Mul', [cube, x.name], f'{name}/cube')
    y = graph.with_constant('Mul', x._replace(name=cube), 0.044715, f'{name}/cubic')
    y = y._replace(name=graph.node('Add', [x.name, y.name], f'{name}/sum'))
    y = graph.with_constant('Mul', y, math.sqrt(2 / math.pi), f'{name}/scaled')
    y = graph.with_constant('Add', graph.unary('Tanh', y, f'{name}/tanh'), 1.0, f'{name}/shifted')
    y = y._replace(name=graph.node('Mul', [x.name, y.name], f'{name}/product'))
    return graph.with_constant('Mul', y, 0.5, name)


def _silu(x: Tensor, graph: Graph, name: str) -> Tensor:
    gate = graph.node('Sigmoid', [x.name], f'{name}/sigmoid')
    return x._replace(name=graph.node('Mul', [x.name, gate], name))


def _relu6(x: Tensor, graph: Graph, name: str) -> Tensor:
    ends = [graph.constant(f'{name}.{end}', end) for end in (0.0, 6.0)]
    return x._replace(name=graph.node('Clip', [x.name, *ends], name))


ACTIVATIONS: dict[str, Callable[[Tensor, Graph, str], Tensor]] = {
    'relu': lambda x, graph, name: graph.unary('Relu', x, name),
    'leaky_relu': lambda x, graph, name: graph.unary('LeakyRelu', x, name, alpha=0.01),
    'gelu': _gelu,
    'silu': _silu,
    'elu': lambda x, graph, name: graph.unary('Elu', x, name, alpha=1.0),
    'relu6': _relu6,
}


def blur_pool(x: Tensor, stride: int, graph: Graph, name: str) -> Tensor:
    """`layers.blur_pool`: a pad and a convolution of each channel by itself."""
    dims = len(x.size)
    mode = 'reflect' if min(x.size) > 1 else 'edge'
    pads = [0, *(1,) * dims]
    padded = Tensor(
        graph.pad(x, pads, pads, f'{name}/pad', mode), x.channels, tuple(n + 2 for n in x.size)
    )
    taps = np.asarray([0.25, 0.5, 0.25])
    kernel = taps
    for _ in range(dims - 1):
        kernel = np.multiply.outer(kernel, taps)
    kernel = np.repeat(kernel[..., None, None], x.channels, axis=-1)
    return graph.convolution(
        padded, kernel, None, name, stride=stride, groups=x.channels, padding=0
    )


def average_pool(x: Tensor, stride: int, graph: Graph, name: str) -> Tensor:
    """`layers.average_pool`: windows cut short at the far edge."""
    dims, out = len(x.size), tuple(-(-n // stride) for n in x.size)
    missing = [n * stride - old for n, old in zip(out, x.size, strict=True)]
    pads = [m // 2 for m in missing] + [m - m // 2 for m in missing]
    graph.node(
        'AveragePool',
        [x.name],
        name,
        kernel_shape=[stride] * dims,
        strides=[stride] * dims,
        pads=pads,
        count_include_pad=0,
    )
    return Tensor(name, x.channels, out)


def max_pool(x: Tensor, graph: Graph, name: str, stride: int = 2, zeros: bool = False) -> Tensor:
    """`layers.max_pool`; ONNX leaves the padding out of the maximum, as if it were -inf."""
    dims, pads = len(x.size), [0 if zeros else 1] * 2 * len(x.size)
    source = graph.pad(x, [0, *(1,) * dims], [0, *(1,) * dims], f'{name}/pad', 'constant')\
        if zeros else x.name  # fmt: skip
    kernel = {'kernel_shape': [3] * dims, 'strides': [stride] * dims, 'pads': pads}
    graph.node('MaxPool', [source], name, **kernel)
    return Tensor(name, x.channels, tuple((n - 1) // stride + 1 for n in x.size))


STEM_POOLS: dict[str, Callable[[Tensor, Graph, str], Tensor]] = {
    'none': lambda x, graph, name: x,
    'max': max_pool,
    'max_zero': lambda x, graph, name: max_pool(x, graph, name, zeros=True),
    'max_blur': lambda x, graph, name: blur_pool(
        max_pool(x, graph, f'{name}/max', stride=1), 2, graph, name
    ),
    'average': lambda x, graph, name: average_pool(x, 2, graph, name),
}

Pool = Callable[[Tensor, int, Graph, str], Tensor]
# Of the shortcut and of the branch, as `design.DOWNSAMPLINGS`.
DOWNSAMPLINGS: dict[str, tuple[Pool | None, Pool | None]] = {
    'stride': (None, None),
    'average': (average_pool, None),
    'blur': (blur_pool, blur_pool),
    'blur_branch': (None, blur_pool),
    'average_both': (average_pool, average_pool),
}


def _pool(op: Operation, x: Tensor, part: Part) -> Tensor:
    _, pool = row('downsample', part.model.block.downsample, DOWNSAMPLINGS)
    if pool is None or part.stride == 1:
        return x
    found: Tensor = pool(x, part.stride, part.graph, part.name('pool'))
    return found


def squeeze_excite(x: Tensor, part: Part) -> Tensor:
    """`layers.SqueezeExcite`, its two layers as 1x1 convolutions."""
    graph, params, where = part.graph, part.params['se'], part.name('se')
    y = graph.mean(x, f'{where}/mean')
    for name, act in (('reduce', 'Relu'), ('expand', 'Sigmoid')):
        kernel = params[name]['kernel']
        kernel = kernel.reshape(*(1,) * len(x.size), *kernel.shape)
        y = graph.convolution(y, kernel, params[name]['bias'], f'{where}/{name}')
        y = graph.unary(act, y, f'{where}/{name}/{act.lower()}')
    return x._replace(name=graph.node('Mul', [x.name, y.name], where))


def _eca(op: Operation, x: Tensor, part: Part) -> Tensor:
    """`layers.EfficientChannelAttention`: a convolution over the channels."""
    graph, where = part.graph, part.name('eca')
    kernel = part.params['eca']['conv']['kernel']
    means = graph.mean(x, f'{where}/mean')
    line = graph.reshape(means.name, [0, 1, -1], f'{where}/line')
    gate = graph.convolution(Tensor(line, 1, (x.channels,)), kernel, None, f'{where}/conv')
    gate = graph.unary('Sigmoid', gate, f'{where}/sigmoid')
    shape = [0, x.channels, *(1,) * len(x.size)]
    gates = graph.reshape(gate.name, shape, f'{where}/gate')
    return x._replace(name=graph.node('Mul', [x.name, gates], where))


def _with_number(kind: str, x: Tensor, part: Part, name: str, leaf: str) -> Tensor:
    """A learnt number that is added, or multiplied by."""
    number = np.asarray(part.params[name][leaf]).reshape(())
    return part.graph.with_constant(kind, x, number, part.name(name))


def _shuffle(op: Operation, x: Tensor, part: Part) -> Tensor:
    """`layers.shuffle`."""
    graph, where = part.graph, part.name('shuffle')
    groups = next(conv['groups'] for conv in part.convs if conv['kernel_size'] == 1)
    y = graph.reshape(x.name, [0, groups, x.channels // groups, -1], f'{where}/groups')
    y = graph.node('Transpose', [y], f'{where}/exchanged', perm=[0, 2, 1, 3])
    return x._replace(name=graph.reshape(y, [0, x.channels, *x.size], where))


OPERATIONS: dict[str, Callable[[Operation, Tensor, Part], Tensor]] = {
    'conv': lambda op, x, part: convolve(part, x, part.prefix + op.name, part.convs[op.index - 1]),
    'norm': _norm,
    'act': lambda op, x, part: row('activation', part.model.block.activation, ACTIVATIONS)(
        x, part.graph, f'{x.name}/act'
    ),
    'dropout': lambda op, x, part: x,
    'pool': _pool,
    'shuffle': _shuffle,
    'se': lambda op, x, part: squeeze_excite(x, part),
    'eca': _eca,
    'bias': lambda op, x, part: _with_number('Add', x, part, part.prefix + op.name, 'bias'),
    'scale': lambda op, x, part: _with_number('Mul', x, part, op.name, 'scale'),
}
