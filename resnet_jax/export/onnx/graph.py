"""An ONNX graph in the making: nodes and constants, in the order of computation.

Tensors are [N, C, space ...], as ONNX defines convolutions and pools.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from resnet_jax.models.convolution import for_each, half_padding

OPSET = 17
IR_VERSION = 8  # of ONNX 1.12, which brought opset 17


class Tensor(NamedTuple):
    """A value of the graph.

    Attributes:
      name: of the value.
      channels: their number.
      size: spatial sizes; empty for [N, C].
    """

    name: str
    channels: int
    size: tuple[int, ...]


class Graph:
    """Nodes and constants.

    Attributes:
      nodes: ONNX nodes; each is called like its one output.
      constants: by name.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """Adds a constant and returns its name; the same one may be added again."""
        array = np.ascontiguousarray(np.asarray(value), dtype)
        assert np.array_equal(self.constants.setdefault(name, array), array), name
        return name

    def node(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Adds a node and returns the name of its output.

        Args:
          kind: of ONNX: 'Conv'.
          inputs: names of values and constants.
          name: of the node and its output.
          **attributes: of the node.
        """
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def unary(self, kind: str, x: Tensor, name: str, **attributes: Any) -> Tensor:
        """A node that maps a tensor to one of the same shape."""
        return x._replace(name=self.node(kind, [x.name], name, **attributes))

    def with_constant(self, kind: str, x: Tensor, value: Any, name: str) -> Tensor:
        """Adds, multiplies, ... a constant: one number, or [C] of one for each channel."""
        value = np.asarray(value, np.float32)
        if value.ndim:
            value = value.reshape(1, -1, *(1,) * len(x.size))
        constant = self.constant(f'{name}.constant', value)
        return x._replace(name=self.node(kind, [x.name, constant], name))

    def convolution(
        self,
        x: Tensor,
        kernel: np.ndarray,
        bias: np.ndarray | None,
        name: str,
        *,
        stride: int | Sequence[int] = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: int | None = None,
        node: str | None = None,
    ) -> Tensor:
        """A convolution.

        Args:
          x: the input.
          kernel: [*taps, channels per group, outputs], as Flax stores it.
          bias: [outputs], or None.
          name: of the node and, with an ending, of its weights.
          stride: in every dimension, or one for each.
          dilation: distance between the taps.
          groups: of channels.
          padding: zeros on each side; by default `convolution.half_padding` of the kernel.
          node: name of the node, where several have the same weights.
        """
        dims, window = len(x.size), kernel.shape[:-2]
        strides = for_each(stride, dims)
        if padding is None:
            pads = [half_padding(size, dilation) for size in window]
        else:
            pads = [(padding, padding)] * dims
        axes = (dims + 1, dims, *range(dims))
        inputs = [x.name, self.constant(f'{name}.kernel', kernel.transpose(axes))]
        if bias is not None:
            inputs.append(self.constant(f'{name}.bias', bias))
        node = node or name
        self.node(
            'Conv',
            inputs,
            node,
            kernel_shape=list(window),
            strides=list(strides),
            dilations=[dilation] * dims,
            pads=[before for before, _ in pads] + [after for _, after in pads],
            group=groups,
        )
        out = tuple(
            (n + sum(pad) - dilation * (size - 1) - 1) // stride + 1
            for n, pad, size, stride in zip(x.size, pads, window, strides, strict=True)
        )
        return Tensor(node, kernel.shape[-1], out)

    def pad(
        self, x: Tensor, before: Sequence[int], after: Sequence[int], name: str, mode: str
    ) -> str:
        """A pad of channels and space, by their numbers before and after; the output's name."""
        pads = self.constant(f'{name}.pads', [0, *before, 0, *after], np.int64)
        return self.node('Pad', [x.name, pads], name, mode=mode)

    def mean(self, x: Tensor, name: str) -> Tensor:
        """The mean over space, [N, C, 1, ...]."""
        self.node('GlobalAveragePool', [x.name], name)
        return Tensor(name, x.channels, (1,) * len(x.size))

    def reshape(self, x: str, shape: Sequence[int], name: str) -> str:
        """A reshape; 0 keeps an axis, -1 is what is left. Returns the name."""
        return self.node('Reshape', [x, self.constant(f'{name}.shape', shape, np.int64)], name)
