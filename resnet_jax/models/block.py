"""A design spelled out as operations, and the block that runs them.

Sources: he2015 is arXiv 1512.03385, he2016 is arXiv 1603.05027.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.errors import InputError, choose
from resnet_jax.models import layers
from resnet_jax.models.convolution import MakeConv
from resnet_jax.models.design import (
    ACTIVATIONS,
    DOWNSAMPLINGS,
    GATES,
    PLACEMENTS,
    SHORTCUTS,
    BlockDesign,
    along,
)
from resnet_jax.models.kinds import fit_to_layers
from resnet_jax.models.norms import MakeNorm

# A block may hold several of these, each with parameters of its own: conv1, conv2, ...
NUMBERED = ('conv', 'norm', 'bias')


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of a block.

    Attributes:
      kind: a key of `OPERATIONS`.
      index: its number, from 1, among those of its kind; 0 for kinds that are not `NUMBERED`.
      starts_at_zero: whether its weight is zero at the start of training.
      paired: of a convolution, whether a norm takes its output; of a norm, whether that output is
        what it takes. A pool, which is linear, may stand between the two.
    """

    kind: str
    index: int = 0
    starts_at_zero: bool = False
    paired: bool = False

    @property
    def name(self) -> str:
        """The name of its parameters: 'conv1', 'norm2', 'se'."""
        return f'{self.kind}{self.index or ""}'


Operations = tuple[Operation, ...]


def spell_out(
    design: BlockDesign, fixup: bool = False
) -> tuple[Operations, Operations, Operations]:
    """The operations of a block, in the order in which they are applied.

    Args:
      design: the design.
      fixup: whether a learnt bias before each convolution and activation, and a learnt scale at the
        end of the branch, replace norms (arXiv 1901.09321, section 3).

    Returns:
      before: what precedes the first convolution (nothing unless pre-activation). he2016 shares it
        with the shortcut in some blocks, leaves it out of the stem and repeats it after the last
        block (appendix, "Implementation details").
      branch: from the first convolution to the addition.
      after: what follows the addition.

    Raises:
      InputError: if `zero_init_last` is set and an activation ends the branch.
    """
    inner, last, _, after = (cell.split() for cell in PLACEMENTS[design.placement].split('|'))
    kinds = inner * (len(design.layers) - 1) + last
    fit_to_layers(kinds, design)
    first = kinds.index('conv')
    before, branch = kinds[:first], kinds[first:]
    if design.branch_dropout:  # only in the branch, never in `before`, which others share
        branch.insert(len(branch) - 1 - branch[::-1].index('conv'), 'dropout')
    if fixup:
        before, branch, after = map(_norms_to_biases, (before, branch, after))
        branch.append('scale')
    if design.se_ratio:
        branch = ['se'] * (design.se_place == 'pre') + branch
        branch = branch + ['se'] * (design.se_place == 'standard')
        after = after + ['se'] * (design.se_place == 'post')  # section 6.5: after the relu
    if design.eca:
        branch = [*branch, 'eca']
    counts: collections.Counter[str] = collections.Counter()
    parts = [tuple(_numbered(part, counts)) for part in (before, branch, after)]
    if design.zero_init_last or fixup:
        parts[1] = _zero_at_start(parts[1], design)
    return parts[0], pair_up(parts[1]), parts[2]


def pairs(operations: Sequence[Operation]) -> list[tuple[Operation, Operation]]:
    """Each convolution whose output a norm takes, directly or through a pool, and that norm."""
    linear = [op for op in operations if op.kind != 'pool']
    return [(a, b) for a, b in itertools.pairwise(linear) if (a.kind, b.kind) == ('conv', 'norm')]


def pair_up(operations: Sequence[Operation]) -> Operations:
    """The operations with `Operation.paired` set."""
    paired = {op for pair in pairs(operations) for op in pair}
    return tuple(dataclasses.replace(op, paired=op in paired) for op in operations)


def _norms_to_biases(kinds: list[str]) -> list[str]:
    """Without norms, and with a bias before each convolution and activation."""
    new = {'norm': (), 'conv': ('bias', 'conv'), 'act': ('bias', 'act')}
    return [each for kind in kinds for each in new.get(kind, (kind,))]


def _numbered(kinds: Iterable[str], counts: collections.Counter[str]) -> Iterable[Operation]:
    """Operations of these kinds, numbered from `counts`, which is updated."""
    for kind in kinds:
        counts[kind] += kind in NUMBERED
        yield Operation(kind, counts[kind])


def _zero_at_start(branch: Operations, design: BlockDesign) -> Operations:
    """The branch with its last weight set to start at zero, and with it the whole branch."""
    kinds = [op.kind for op in branch]
    last = max(i for i, kind in enumerate(kinds) if kind in ('conv', 'norm'))
    if design.zero_init_last and 'act' in kinds[last:]:
        raise InputError(
            f'zero_init_last does not go with placement {design.placement!r}: nothing before an '
            'activation learns from zero'
        )
    zero = dataclasses.replace(branch[last], starts_at_zero=True)
    return (*branch[:last], zero, *branch[last + 1 :])


@dataclasses.dataclass(frozen=True)
class Context:
    """What an operation gets from its part of the network: a block, the stem or the tail.

    Attributes:
      design: of the network's blocks.
      conv, norm: make a convolution and a norm.
      train: whether to normalise by the batch's own statistics, and to drop out.
      convs: arguments of each convolution: features, kernel_size, strides, ...
      stride: of the block, for a pool that takes its place.
      dtype: of the computation.
      prefix: of the names of parameters.
    """

    design: BlockDesign
    conv: MakeConv
    norm: MakeNorm
    train: bool
    convs: Sequence[dict[str, Any]] = ()
    stride: int = 1
    dtype: Any = jnp.float32
    prefix: str = ''


def _conv(op: Operation, x: Array, context: Context) -> Array:
    zero = {'kernel_init': nn.initializers.zeros} if op.starts_at_zero else {}
    arguments = context.convs[op.index - 1]
    return context.conv(**arguments, **zero, paired=op.paired, name=context.prefix + op.name)(x)


def _norm(op: Operation, x: Array, context: Context) -> Array:
    zero = {'scale_init': nn.initializers.zeros} if op.starts_at_zero else {}
    return context.norm(context.train, context.prefix + op.name, paired=op.paired, **zero)(x)


def _pool(op: Operation, x: Array, context: Context) -> Array:
    _, pool = DOWNSAMPLINGS[context.design.downsample]
    return x if pool is None or context.stride == 1 else pool(x, context.stride)


def _dropout(op: Operation, x: Array, context: Context) -> Array:
    return nn.Dropout(context.design.branch_dropout, deterministic=not context.train)(x)


OPERATIONS: dict[str, Callable[[Operation, Array, Context], Array]] = {
    'conv': _conv,
    'norm': _norm,
    'act': lambda op, x, context: ACTIVATIONS[context.design.activation](x),
    'dropout': _dropout,
    'pool': _pool,
    'shuffle': lambda op, x, context: layers.shuffle(x, context.design.pointwise_groups),
    'se': lambda op, x, context: layers.SqueezeExcite(
        context.design.se_ratio, context.dtype, name=op.name
    )(x),
    'eca': lambda op, x, context: layers.EfficientChannelAttention(context.dtype, name=op.name)(x),
    'bias': lambda op, x, context: layers.Bias(name=context.prefix + op.name)(x),
    'scale': lambda op, x, context: layers.Scale(1.0, name=op.name)(x),
}


def apply_operations(operations: Iterable[Operation], x: Array, context: Context) -> Array:
    """Applies operations one after another, inside a compact module."""
    for op in operations:
        x = choose('operation', op.kind, OPERATIONS)(op, x, context)
    return x


class ResidualBlock(nn.Module):
    """A residual block of one `BlockDesign`.

    Parameter paths: the names of its operations, `shortcut_conv`, `shortcut_norm`, `gate_conv`,
    `shortcut_scale` and `branch_scale`. Rng: `dropout`, if anything is dropped.

    Attributes:
      design: of the block.
      width: of the block; its output has `width * design.expansion` channels.
      stride: divides the spatial sizes.
      first: whether this is the network's first block.
      conv, norm: make a convolution and a norm.
      dilation: of the convolutions up to and including `design.stride_at`, and of those after it.
      fixup: 0, or the factor of the branch's initial weights under Fixup.
      dtype: of the computation.
      channels: (name, output channels) of convolutions that have others than the design's.
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
    channels: tuple[tuple[str, int], ...] = ()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'n *space c'],
        train: bool,
        drop_rate: float | Float[Array, ''] = 0.0,
    ) -> Float[Array, 'n *out c_out']:
        """The block's output.

        Args:
          x: the previous block's output.
          train: whether to use and update batch statistics, and to drop out.
          drop_rate: probability of stochastic depth; the float 0 costs nothing.
        """
        before, branch, after = spell_out(self.design, bool(self.fixup))
        context = Context(
            design=self.design,
            conv=self.conv,
            norm=self.norm,
            train=train,
            convs=self.convolutions(x.shape[-1], x.ndim - 2),
            stride=self.stride,
            dtype=self.dtype,
        )
        path = self.shortcut_path(x.shape[-1])
        preactivated = apply_operations(before, x, context)
        entry = preactivated if self.shares_activation(path) else x
        y = apply_operations(branch, preactivated, context)
        if path is not None:
            skip = self._shortcut(path, entry, train)
            skip, y = self._weight(skip, y, entry)
            if train and not (isinstance(drop_rate, float) and drop_rate == 0.0):
                y = layers.drop_branch(y, drop_rate, self.make_rng('dropout'))
            y = self.add(skip, y)
        return apply_operations(after, y, context)

    def add(self, shortcut: Array, branch: Array) -> Array:
        """The addition of the paths; a method of its own, so that an analysis can intercept it."""
        return branch + shortcut

    @nn.nowrap
    def convolutions(self, entering: int, dimensions: int) -> list[dict[str, Any]]:
        """The arguments of each convolution of the branch.

        Args:
          entering: input channels of the block.
          dimensions: of space.
        """
        design, found = self.design, []
        others = {int(name.removeprefix('conv')) - 1: n for name, n in self.channels}
        pooled = DOWNSAMPLINGS[design.downsample][1] is not None
        features = design.channels(self.width, entering, dimensions, others)
        before = [entering, *features]
        for layer, channels, n in zip(design.layers, features, before, strict=False):
            stride = self.stride if layer.strided and not pooled else 1
            found.append(
                {
                    'features': channels,
                    'kernel_size': along(layer.dimensions, layer.kernel, dimensions),
                    'strides': along(layer.dimensions, stride, dimensions),
                    'dilation': self.dilation[layer.entry > design.stride_at],
                    'groups': design.groups_of(layer, n),
                    'kernel_scale': self.fixup or 1.0,
                }
            )
        return found

    @nn.nowrap
    def shortcut_path(self, channels: int) -> str | None:
        """What the shortcut is for an input of this many channels; None: there is none."""
        kept = self.stride == 1 and channels == self.width * self.design.expansion
        return SHORTCUTS[self.design.shortcut][0 if kept else 1]

    @nn.nowrap
    def shares_activation(self, path: str | None) -> bool:
        """Whether what precedes the first convolution also precedes a shortcut of this kind."""
        # he2016, appendix: the first block activates before it splits into two paths; in the
        # authors' code so does every block whose shortcut is a convolution.
        first = self.first and not self.design.raw_first_shortcut
        return first or path in ('projection', 'conv')

    @nn.nowrap
    def normalizes_shortcut(self, path: str | None) -> bool:
        """Whether a norm follows a shortcut of this kind: both summands have one, or neither."""
        _, branch, _ = spell_out(self.design, bool(self.fixup))
        tail = itertools.takewhile(lambda op: op.kind != 'conv', reversed(branch))
        return path == 'projection' and any(op.kind == 'norm' for op in tail)

    @nn.nowrap
    def _shortcut(self, path: str, x: Array, train: bool) -> Array:
        design, channels = self.design, self.width * self.design.expansion
        stride = design.strides(self.stride, x.ndim - 2)
        pool, _ = DOWNSAMPLINGS[design.downsample]
        if pool is not None and self.stride > 1 and path != 'identity':
            x, stride = pool(x, self.stride), 1
        if path == 'zero_pad':
            x = layers.zero_pad_shortcut(x, channels, stride)
        elif path == 'norm':
            x = self.norm(train, 'shortcut_norm')(x)
        elif path in ('projection', 'conv'):
            normalized = self.normalizes_shortcut(path)
            settings = {'features': channels, 'kernel_size': 1, 'strides': stride}
            x = self.conv(**settings, paired=normalized, name='shortcut_conv')(x)
            if normalized:
                x = self.norm(train, 'shortcut_norm', paired=True)(x)
        if design.se_ratio and design.se_place == 'identity':
            x = layers.SqueezeExcite(design.se_ratio, self.dtype, name='se')(x)
        return nn.Dropout(design.shortcut_dropout, deterministic=not train)(x)

    @nn.nowrap
    def _weight(self, skip: Array, branch: Array, entry: Array) -> tuple[Array, Array]:
        """Gates and scales the two paths."""
        design = self.design
        gate = GATES[design.gate]
        if gate is not None:
            g = self.conv(
                features=branch.shape[-1],
                kernel_size=1,
                strides=design.strides(self.stride, entry.ndim - 2),
                use_bias=True,
                bias_init=nn.initializers.constant(design.gate_bias),
                name='gate_conv',
            )(entry)
            skip, branch = gate(skip, branch, nn.sigmoid(g))
        return _scaled(skip, 'shortcut_scale', design), _scaled(branch, 'branch_scale', design)


def _scaled(x: Array, field: str, design: BlockDesign) -> Array:
    """A path times its constant or learnt factor."""
    factor = getattr(design, field)
    if getattr(design, f'learn_{field}'):
        return layers.Scale(factor, name=field)(x)
    return x if factor == 1.0 else x * factor
