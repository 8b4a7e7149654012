"""The residual block, as data.

A block computes `after(shortcut(x) + branch(x))`. The *branch* F(x) is what He et al. call the
residual function; the *shortcut* is the path around it. What stands where is a row of plain values,
read by one interpreter, `ResidualBlock`; a new design is a new row here, not a new class.

Sources: he2015 is arXiv 1512.03385, he2016 is arXiv 1603.05027.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from resnet_jax.models.errors import InputError, unknown_name

Array = jax.Array
# Makes a convolution or a norm with the model's dtype, initialiser and momentum already filled in.
MakeModule = Callable[..., Any]

# Where normalisation and activation stand: the columns of he2016, figure 4, read downwards.
# The first cell is a unit that repeats for every convolution but the last, so that the same row
# describes a basic block (two convolutions) and a bottleneck (three).
PLACEMENTS = {
    #                each convolution but the last | the last      | add | after the addition
    'original':     'conv norm act                 | conv norm     | add | act',
    'full_preact':  'norm act conv                 | norm act conv | add |    ',
}  # fmt: skip

# What the skip path does where the block keeps the shape, and where it changes resolution or width.
SHORTCUTS = {
    #                   shape kept     shape changed
    'zero_pad':       ('identity',    'zero_pad'),      # he2015 option A: no parameters
    'projection':     ('identity',    'projection'),    # he2015 option B
    'projection_all': ('projection',  'projection'),    # he2015 option C
    'none':           (None,          None),            # plain net: no shortcut, no addition
}  # fmt: skip

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {'relu': nn.relu}


@dataclasses.dataclass(frozen=True)
class BlockDesign:
    """One residual block design, in plain values.

    Attributes:
      kernels: kernel size of each convolution of the branch, in order.
      expansion: output channels of the block over those of its inner convolutions.
      stride_at: index of the convolution that carries the block's stride.
      placement: a key of `PLACEMENTS`.
      shortcut: a key of `SHORTCUTS`.
      activation: a key of `ACTIVATIONS`.
      zero_init_last: start every branch at zero, so that a block with an identity shortcut starts
        as the identity (arXiv 1706.02677, section 5.1): the scale of a norm that ends the branch,
        else the kernel of the convolution that does (a zero scale *before* an activation would
        never receive a gradient).
    """

    kernels: tuple[int, ...] = (3, 3)
    expansion: int = 1
    stride_at: int = 0
    placement: str = 'original'
    shortcut: str = 'projection'
    activation: str = 'relu'
    zero_init_last: bool = False

    def __post_init__(self) -> None:
        for field, known in (
            ('placement', PLACEMENTS),
            ('shortcut', SHORTCUTS),
            ('activation', ACTIVATIONS),
        ):
            if getattr(self, field) not in known:
                raise unknown_name(field, getattr(self, field), known)
        object.__setattr__(self, 'kernels', tuple(self.kernels))  # a config gives a list
        if not self.kernels or any(k < 1 or k % 2 == 0 for k in self.kernels):
            raise InputError(f'kernels must be odd positive sizes, got {self.kernels}')
        if not 0 <= self.stride_at < len(self.kernels):
            raise InputError(
                f'stride_at is the index of one of {len(self.kernels)} convolutions, '
                f'got {self.stride_at}'
            )
        if self.expansion < 1:
            raise InputError(f'expansion must be at least 1, got {self.expansion}')


BASIC = BlockDesign()  # he2015, figure 5 left
BOTTLENECK = BlockDesign(kernels=(1, 3, 1), expansion=4, stride_at=1)  # figure 5 right, "v1.5"
BOTTLENECK_V1 = dataclasses.replace(BOTTLENECK, stride_at=0)  # the stride as he2015 has it


@dataclasses.dataclass(frozen=True)
class Operations:
    """A placement spelt out for a given number of convolutions, in the order they are applied.

    Attributes:
      before: what precedes the first convolution (empty unless pre-activation). he2016 shares it
        with the shortcut in some blocks, leaves it out of the stem, and repeats it after the last
        block (appendix, "Implementation details").
      branch: from the first convolution to the addition.
      after: what follows the addition.
    """

    before: tuple[str, ...]
    branch: tuple[str, ...]
    after: tuple[str, ...]


def operations(design: BlockDesign) -> Operations:
    """Spells the row of `PLACEMENTS` out for the design's number of convolutions."""
    inner, last, _, after = (cell.split() for cell in PLACEMENTS[design.placement].split('|'))
    sequence = inner * (len(design.kernels) - 1) + last
    first_conv = sequence.index('conv')
    return Operations(tuple(sequence[:first_conv]), tuple(sequence[first_conv:]), tuple(after))


def zero_pad_shortcut(x: Array, channels: int, stride: int) -> Array:
    """he2015 option A: every stride-th pixel, and zero channels on both sides.

    Args:
      x: [N, H, W, C].
      channels: number of output channels, at least C.
      stride: spatial stride.

    Returns:
      [N, ceil(H / stride), ceil(W / stride), channels].
    """
    # lax.slice and not x[:, ::2, ::2]: indexing becomes a gather when the model is exported.
    x = lax.slice(x, (0, 0, 0, 0), x.shape, (1, stride, stride, 1))
    extra = channels - x.shape[-1]
    if extra < 0:
        raise InputError(f'a zero_pad shortcut cannot go from {x.shape[-1]} to {channels} channels')
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))


class ResidualBlock(nn.Module):
    """Interprets one `BlockDesign`.

    Parameter paths: `conv1`, `conv2`, ... and `norm1`, `norm2`, ... in the order of use, and
    `shortcut_conv`, `shortcut_norm`.

    Attributes:
      design: what the block is.
      width: channels of the inner convolutions; the block's output has `width * design.expansion`.
      stride: spatial stride.
      first: whether this is the network's first block.
      conv: makes a convolution from `features`, `kernel_size`, `strides`, `name`.
      norm: makes a norm from `use_running_average`, `name`.
    """

    design: BlockDesign
    width: int
    stride: int
    first: bool
    conv: MakeModule
    norm: MakeModule

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), width * expansion]."""
        ops = operations(self.design)
        act = ACTIVATIONS[self.design.activation]
        channels = self.width * self.design.expansion
        shape_kept = self.stride == 1 and x.shape[-1] == channels
        shortcut = SHORTCUTS[self.design.shortcut][0 if shape_kept else 1]
        convs, norms = iter(range(len(self.design.kernels))), iter(range(100))

        def conv(x: Array, is_last: bool) -> Array:
            i = next(convs)
            kwargs: dict[str, Any] = {'kernel_init': nn.initializers.zeros} if is_last else {}
            return self.conv(
                features=channels if i + 1 == len(self.design.kernels) else self.width,
                kernel_size=self.design.kernels[i],
                strides=self.stride if i == self.design.stride_at else 1,
                name=f'conv{i + 1}',
                **kwargs,
            )(x)

        def norm(x: Array, is_last: bool) -> Array:
            kwargs = {'scale_init': nn.initializers.zeros} if is_last else {}
            name = f'norm{next(norms) + 1}'
            return self.norm(use_running_average=not train, name=name, **kwargs)(x)

        def apply(names: tuple[str, ...], x: Array, zero: int = -1) -> Array:
            for i, name in enumerate(names):
                x = act(x) if name == 'act' else {'conv': conv, 'norm': norm}[name](x, i == zero)
            return x

        preactivated = apply(ops.before, x)
        # he2016, appendix: the first unit activates before splitting into two paths; so does, in
        # the authors' code, every unit whose shortcut is a convolution.
        shared = self.first or shortcut == 'projection'
        skip = preactivated if shared else x
        ends_branch = len(ops.branch) - 1 if self.design.zero_init_last else -1
        y = apply(ops.branch, preactivated, zero=ends_branch)

        if shortcut == 'zero_pad':
            skip = zero_pad_shortcut(skip, channels, self.stride)
        elif shortcut == 'projection':
            skip = self.conv(
                features=channels, kernel_size=1, strides=self.stride, name='shortcut_conv'
            )(skip)
            if ops.branch[-1] == 'norm':  # both summands normalised, or neither
                skip = self.norm(use_running_average=not train, name='shortcut_norm')(skip)
        if shortcut is not None:
            y = y + skip
        return apply(ops.after, y)
