"""Runs the block that a `BlockDesign` describes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.errors import InputError
from resnet_jax.models import layers
from resnet_jax.models.convolution import MakeConv
from resnet_jax.models.design import (
    ACTIVATIONS,
    GATES,
    SHORTCUTS,
    BlockDesign,
    kind_of,
    operations,
)
from resnet_jax.models.norms import MakeNorm

Array = jax.Array


class ResidualBlock(nn.Module):
    """Interprets one `BlockDesign`.

    Parameter paths: the names of its `Operations`, and `shortcut_conv`, `shortcut_norm`,
    `gate_conv`, `shortcut_scale`, `branch_scale`. Rng: `dropout`, where something is dropped.

    Attributes:
      design: what the block is.
      width: of the block; its output has `width * design.expansion` channels.
      stride: spatial stride.
      first: whether this is the network's first block.
      conv, norm: make a convolution and a norm.
      dilation: (of the convolutions up to the one that would carry a stride, of those behind it).
      fixup: 0, or the factor of the branch's initial weights under Fixup.
      dtype: of the computation.
    """

    design: BlockDesign
    width: int
    stride: int
    first: bool
    conv: MakeConv
    norm: MakeNorm
    dilation: tuple[int, int] = (1, 1)
    fixup: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool, drop_rate: float | Array = 0.0) -> Array:
        """Maps [N, ..., C] to [N, ..., width * expansion]; sizes are divided by the stride.

        `drop_rate` is the probability of stochastic depth; the float 0 costs nothing.
        """
        ops = operations(self.design, bool(self.fixup))
        shape_kept = self.stride == 1 and x.shape[-1] == self.width * self.design.expansion
        path = SHORTCUTS[self.design.shortcut][0 if shape_kept else 1]
        preactivated = self._apply(ops.before, x, train)
        # he2016, appendix: the first unit activates before splitting into two paths; so does, in
        # the authors' code, every unit whose shortcut is a convolution.
        first = self.first and not self.design.raw_first_shortcut
        shared = first or path in ('projection', 'conv')
        entry = preactivated if shared else x
        y = self._apply(ops.branch, preactivated, train)
        if path is not None:
            skip = self._shortcut(path, entry, ops.branch, train)
            skip, y = self._weigh(skip, y, entry)
            if train and not (isinstance(drop_rate, float) and drop_rate == 0.0):
                y = layers.drop_branch(y, drop_rate, self.make_rng('dropout'))
            y = y + skip
        return self._apply(ops.after, y, train)

    @nn.nowrap
    def _apply(self, names: tuple[str, ...], x: Array, train: bool) -> Array:
        design = self.design
        for name in names:
            match kind_of(name):
                case 'conv':
                    x = self._conv(name, x)
                case 'norm':
                    starts_at_zero = design.zero_init_last and name == self._last_weight()
                    init = {'scale_init': nn.initializers.zeros} if starts_at_zero else {}
                    x = self.norm(train, name, **init)(x)
                case 'act':
                    x = ACTIVATIONS[design.activation](x)
                case 'dropout':
                    x = nn.Dropout(design.branch_dropout, deterministic=not train)(x)
                case 'blur':
                    x = layers.blur_pool(x, self.stride) if self.stride > 1 else x
                case 'se':
                    x = layers.SqueezeExcite(design.se_ratio, self.dtype, name='se')(x)
                case 'bias':
                    x = layers.Bias(name=name)(x)
                case 'scale':
                    x = layers.Scale(1.0, name='scale')(x)
        return x

    @nn.nowrap
    def _conv(self, name: str, x: Array) -> Array:
        design, i = self.design, int(name.removeprefix('conv')) - 1
        last, strided = i + 1 == len(design.kernels), i == design.stride_at
        init: dict[str, Any] = {}
        zero = design.zero_init_last and name == self._last_weight()
        if zero or (last and self.fixup):
            init = {'kernel_init': nn.initializers.zeros}
        elif self.fixup:
            init = {'kernel_scale': self.fixup}
        return self.conv(
            features=self.width * design.expansion if last else design.inner_channels(self.width),
            kernel_size=design.kernels[i],
            strides=self.stride if strided and design.downsample != 'blur' else 1,
            dilation=self.dilation[0 if i <= design.stride_at else 1],
            groups=design.groups if design.kernels[i] > 1 else 1,
            name=name,
            **init,
        )(x)

    @nn.nowrap
    def _last_weight(self) -> str:
        """Name of the convolution or norm that ends the branch, what `zero_init_last` zeroes."""
        branch = [n for n in operations(self.design).branch if n not in ('se', 'blur')]
        if kind_of(branch[-1]) == 'act':
            raise InputError(
                f'zero_init_last does not go with placement {self.design.placement!r}: nothing '
                'before an activation learns from zero'
            )
        return branch[-1]

    @nn.nowrap
    def _shortcut(self, path: str, x: Array, branch: tuple[str, ...], train: bool) -> Array:
        design, channels = self.design, self.width * self.design.expansion
        stride = self.stride
        pool = layers.DOWNSAMPLINGS[design.downsample]
        if pool is not None and stride > 1 and path != 'identity':
            x, stride = pool(x, stride), 1
        if path == 'zero_pad':
            x = layers.zero_pad_shortcut(x, channels, stride)
        elif path in ('projection', 'conv'):
            x = self.conv(features=channels, kernel_size=1, strides=stride, name='shortcut_conv')(x)
            # Both summands normalised, or neither.
            last_conv = branch.index(f'conv{len(design.kernels)}')
            if path == 'projection' and any(kind_of(n) == 'norm' for n in branch[last_conv:]):
                x = self.norm(train, 'shortcut_norm')(x)
        if design.se_ratio and design.se_place == 'identity':
            x = layers.SqueezeExcite(design.se_ratio, self.dtype, name='se')(x)
        return nn.Dropout(design.shortcut_dropout, deterministic=not train)(x)

    @nn.nowrap
    def _weigh(self, skip: Array, branch: Array, entry: Array) -> tuple[Array, Array]:
        design = self.design
        gate = GATES[design.gate]
        if gate is not None:
            g = self.conv(
                features=branch.shape[-1],
                kernel_size=1,
                strides=self.stride,
                use_bias=True,
                bias_init=nn.initializers.constant(design.gate_bias),
                name='gate_conv',
            )(entry)
            skip, branch = gate(skip, branch, nn.sigmoid(g))
        return _scaled(skip, 'shortcut_scale', design), _scaled(branch, 'branch_scale', design)


def _scaled(x: Array, field: str, design: BlockDesign) -> Array:
    """A path times its constant factor, or its learnt one."""
    factor = getattr(design, field)
    if getattr(design, f'learn_{field}'):
        return layers.Scale(factor, name=field)(x)
    return x if factor == 1.0 else x * factor
