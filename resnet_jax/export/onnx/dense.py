"""A folded dense network as an ONNX graph: backbone, heads and pyramid, as `resnet_jax.dense`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from resnet_jax.dense.backbone import Backbone
from resnet_jax.dense.detector import EXTRA_LEVELS, Detector
from resnet_jax.dense.heads import ASPP_RATES, PSP_BINS
from resnet_jax.dense.resizing import bin_weights
from resnet_jax.dense.segmenter import Segmenter
from resnet_jax.export.onnx import operations
from resnet_jax.export.onnx.graph import Graph, Tensor
from resnet_jax.export.onnx.network import OUTPUT, add_body
from resnet_jax.export.onnx.operations import Part, convolve, row

Features = Mapping[str, Tensor]


def add_dense(
    graph: Graph,
    model: Segmenter | Detector,
    params: Mapping[str, Any],
    x: Tensor,
    task: str,
    channels_last: bool,
) -> None:
    """Adds a network for segmentation, detection or depth to a graph, with its outputs.

    Args:
      graph: which is extended.
      model: folded, with its blocks by their own names.
      params: of the model, nested dicts of NumPy arrays.
      x: normalised images [N, C, H, W].
      task: of the model, a key of `export.outputs.OUTPUTS`.
      channels_last: whether maps come out as [N, H, W, C].

    Raises:
      InputError: for a part of the model without a form in ONNX.
    """
    features = _backbone(graph, model.backbone, params['backbone'], x)
    net = model.backbone.net
    if isinstance(model, Detector):
        levels = _pyramid(features, Part(graph, net, params['fpn'], 'fpn'))
        for head, output in (('class_head', OUTPUT), ('box_head', 'offsets')):
            _anchors(levels, Part(graph, net, params[head], head), model, output)
        return
    main = {k: v for k, v in features.items() if model.head == 'unet' or k != model.aux}
    part = Part(graph, net, params['head'], 'head')
    y = resize(row('head', model.head, HEADS)(main, part), x.size, graph, 'upsampled', 'linear')
    if task == 'depth':  # of one channel, [N, 1, H, W]
        graph.node('Squeeze', [y.name, graph.constant('channel', [1], np.int64)], 'log_depth')
    elif channels_last:
        graph.node('Transpose', [y.name], OUTPUT, perm=[0, 2, 3, 1])
    else:
        graph.nodes[-1].output[0] = OUTPUT


def resize(x: Tensor, size: Sequence[int], graph: Graph, name: str, mode: str) -> Tensor:
    """`dense.resizing.resize_bilinear` ('linear') and `resize_nearest` ('nearest')."""
    rule = {
        'linear': {'coordinate_transformation_mode': 'half_pixel'},
        'nearest': {'coordinate_transformation_mode': 'asymmetric', 'nearest_mode': 'floor'},
    }
    # The sizes are of all axes, and the number of images is known only as the graph runs.
    shape = graph.node('Shape', [x.name], f'{name}/shape', end=2)
    space = graph.constant(f'{name}.size', size, np.int64)
    sizes = graph.node('Concat', [shape, space], f'{name}/sizes', axis=0)
    graph.node('Resize', [x.name, '', '', sizes], name, mode=mode, **rule[mode])
    return Tensor(name, x.channels, tuple(size))


def _backbone(
    graph: Graph, backbone: Backbone, params: Mapping[str, Any], x: Tensor
) -> dict[str, Tensor]:
    """`Backbone.__call__` in evaluation."""
    found = {}
    count = len(backbone.net.stage_sizes)
    for i, (name, y) in enumerate(add_body(graph, backbone.net, params, x).items()):
        if name in backbone.features:
            prefix = 'final_' if i == count else f'{name}_'
            part = Part(graph, backbone.net, params, name, prefix=prefix)
            found[name] = operations.apply(backbone.ending(i), y, part)
    return found


def _unit(x: Tensor, number: int, part: Part, **settings: Any) -> Tensor:
    """`Head.unit`."""
    x = convolve(part, x, f'conv{number}', settings)
    x = row('norm', part.model.norm, operations.NORMS)(x, part, f'norm{number}')
    return part.graph.unary('Relu', x, part.name(f'act{number}'))


def _classify(x: Tensor, part: Part) -> Tensor:
    return convolve(part, x, 'logits', {})


def _join(maps: Sequence[Tensor], name: str, graph: Graph) -> Tensor:
    """The channels of maps of one size, one after another."""
    graph.node('Concat', [x.name for x in maps], name, axis=1)
    return Tensor(name, sum(x.channels for x in maps), maps[0].size)


def _fcn(features: Features, part: Part) -> Tensor:
    return _classify(_unit(list(features.values())[-1], 1, part), part)


def _aspp(features: Features, part: Part) -> Tensor:
    x = list(features.values())[-1]
    found = [_unit(x, 1, part)]
    found += [_unit(x, i, part, dilation=rate) for i, rate in enumerate(ASPP_RATES, 2)]
    mean = _unit(part.graph.mean(x, part.name('mean')), 5, part)
    found.append(resize(mean, x.size, part.graph, part.name('spread'), 'nearest'))
    x = _unit(_join(found, part.name('joined'), part.graph), 6, part)
    return _classify(_unit(x, 7, part), part)


def _psp(features: Features, part: Part) -> Tensor:
    x, graph = list(features.values())[-1], part.graph
    found = [x]
    for i, bins in enumerate(PSP_BINS, 1):
        name = part.name(f'bins{bins}')
        rows, columns = (bin_weights(side, bins).astype(np.float32) for side in x.size)
        pooled = graph.node(
            'MatMul', [x.name, graph.constant(f'{name}.columns', columns)], f'{name}/columns'
        )
        graph.node('MatMul', [graph.constant(f'{name}.rows', rows.T), pooled], name)
        y = _unit(Tensor(name, x.channels, (bins, bins)), i, part)
        found.append(resize(y, x.size, graph, f'{name}/spread', 'linear'))
    x = _unit(_join(found, part.name('joined'), graph), len(PSP_BINS) + 1, part)
    return _classify(x, part)


def _unet(features: Features, part: Part) -> Tensor:
    x, *skips = reversed(list(features.values()))
    for i, skip in enumerate(skips):
        x = resize(x, skip.size, part.graph, part.name(f'up{i + 1}'), 'nearest')
        x = _join([x, skip], part.name(f'joined{i + 1}'), part.graph)
        x = _unit(_unit(x, 2 * i + 1, part), 2 * i + 2, part)
    return _classify(x, part)


HEADS: dict[str, Callable[[Features, Part], Tensor]] = {
    'fcn': _fcn,
    'aspp': _aspp,
    'psp': _psp,
    'unet': _unet,
}


def _pyramid(features: Features, part: Part) -> list[Tensor]:
    """`FeaturePyramid.__call__`."""
    graph, maps = part.graph, list(features.values())
    levels: list[Tensor] = []
    above: Tensor | None = None
    for i in range(len(maps), 0, -1):
        x = convolve(part, maps[i - 1], f'inner{i}', {})
        if above is not None:
            spread = resize(above, x.size, graph, part.name(f'up{i}'), 'nearest')
            x = x._replace(name=graph.node('Add', [x.name, spread.name], part.name(f'sum{i}')))
        above = x
        levels.insert(0, convolve(part, x, f'layer{i}', {}))
    x = levels[-1]
    for i in range(1, EXTRA_LEVELS + 1):
        x = x if i == 1 else graph.unary('Relu', x, part.name(f'act{i}'))
        x = convolve(part, x, f'extra{i}', {'strides': 2})
        levels.append(x)
    return levels


def _anchors(levels: Sequence[Tensor], part: Part, model: Detector, output: str) -> None:
    """`AnchorHead.__call__`, all levels in one array [N, anchors, outputs]."""
    graph, found = part.graph, []
    outputs = model.num_classes if output == OUTPUT else 4

    def conv(x: Tensor, name: str, where: str) -> Tensor:
        params = part.params[name]
        node = f'{where}/{name}'
        return graph.convolution(x, params['kernel'], params['bias'], part.name(name), node=node)

    for number, x in enumerate(levels, 1):
        where = part.name(f'level{number}')
        for i in range(1, 5):
            x = graph.unary('Relu', conv(x, f'conv{i}', where), f'{where}/act{i}')
        y = conv(x, 'last', where)
        name = graph.node('Transpose', [y.name], f'{where}/channels_last', perm=[0, 2, 3, 1])
        found.append(graph.reshape(name, [0, -1, outputs], f'{where}/anchors'))
    graph.node('Concat', found, output, axis=1)
