"""The residual block, as data.

A block computes `after(shortcut(x) + branch(x))`. The *branch* F(x) is what He et al. call the
residual function; the *shortcut* is the path around it. What each contains is a row of plain values
here, which block.py spells out and runs; a new design is a new row, not a new class.

Sources: he2015 is arXiv 1512.03385, he2016 is arXiv 1603.05027.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
from jaxtyping import Array

from resnet_jax.errors import InputError, check_choice
from resnet_jax.models import layers

# The order of operations: each row is a column of he2016, figure 4, read downwards. The words are
# keys of block.OPERATIONS. The first cell repeats for every convolution but the last, so that the
# same row describes a block of one convolution, a basic block (two) and a bottleneck (three).
PLACEMENTS = {
    #                    each convolution but the last | the last      | add | after the addition
    'original':         'conv norm act                 | conv norm     | add | act',
    'bn_after_add':     'conv norm act                 | conv          | add | norm act',
    'relu_before_add':  'conv norm act                 | conv norm act | add |    ',
    'relu_only_preact': 'act conv norm                 | act conv norm | add |    ',
    'full_preact':      'norm act conv                 | norm act conv | add |    ',
    # arXiv 1801.04381, figure 4d: linear from the last convolution of a block to the next block.
    'linear':           'conv norm act                 | conv norm     | add |    ',
}  # fmt: skip

# The shortcut of a block that keeps the shape, and of one that changes resolution or width. A
# projection ends with a norm if the branch does.
SHORTCUTS = {
    #                   shape kept     shape changed
    'zero_pad':       ('identity',    'zero_pad'),      # he2015 option A: no parameters
    'projection':     ('identity',    'projection'),    # he2015 option B
    'projection_all': ('projection',  'projection'),    # he2015 option C
    'conv1x1':        ('conv',        'conv'),          # he2016, figure 2e: without a norm
    'normed':         ('norm',        'projection'),    # arXiv 1611.06455, of series
    'where_kept':     ('identity',    None),            # arXiv 1801.04381, section 3.3
    'none':           (None,          None),            # plain net: no shortcut, no addition
}  # fmt: skip

# What stands for each convolution that is larger than 1x1: one convolution or several, each with
# the dimensions in which it has the window and the stride, and whether each channel is convolved by
# itself. Time is the first of several dimensions, space are the others.
CONVOLUTIONS: dict[str, tuple[tuple[str, bool], ...]] = {
    #              dimensions, by channel
    'full':       (('all', False),),
    'spatial':    (('space', False),),                   # arXiv 1711.11248: later stages of MC3
    'space_time': (('space', False), ('time', False)),   # arXiv 1711.11248: R(2+1)D
    'depthwise':  (('all', True),),                      # arXiv 1801.04381, table 1
    'separable':  (('all', True), ('none', False)),      # arXiv 1704.04861, figure 3
}  # fmt: skip

Pool = Callable[[Array, int], Array]  # (x [N, ..., C], stride) -> [N, ..., C]

# What takes the place of a stride in each path; None: the convolution strides.
DOWNSAMPLINGS: dict[str, tuple[Pool | None, Pool | None]] = {
    #                  shortcut             branch
    'stride':         (None,                None),
    'average':        (layers.average_pool, None),                 # ResNet-D, arXiv 1812.01187
    'blur':           (layers.blur_pool,    layers.blur_pool),     # arXiv 1904.11486
    'blur_branch':    (None,                layers.blur_pool),     # timm's resnetblur50
    'average_both':   (layers.average_pool, layers.average_pool),  # timm's resnetaa50d
}  # fmt: skip

# How shortcut and branch are weighted, with g = sigmoid(conv1x1(x) + gate_bias): he2016, figure 2.
GATES: dict[str, Callable[[Array, Array, Array], tuple[Array, Array]] | None] = {
    'none': None,
    'exclusive': lambda skip, branch, g: ((1 - g) * skip, g * branch),  # figure 2c
    'shortcut_only': lambda skip, branch, g: ((1 - g) * skip, branch),  # figure 2d
}

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    'relu': nn.relu,
    'leaky_relu': nn.leaky_relu,  # slope 0.01
    'gelu': nn.gelu,  # the tanh approximation
    'silu': nn.silu,
    'elu': nn.elu,
    'relu6': nn.relu6,
}

# The place of squeeze-and-excitation: arXiv 1709.01507, figure 5.
SE_PLACES = ('standard', 'pre', 'post', 'identity')


class Layer(NamedTuple):
    """A convolution of a branch.

    Attributes:
      kernel: side of its window.
      dimensions: those in which it has window and stride: 'all', 'space', 'time' or 'none'.
      depthwise: whether each channel is convolved by itself.
      strided: whether the block's stride, or its part in these dimensions, is here.
      entry: the index in `BlockDesign.kernels` of the convolution that it stands for.
      ends: whether it is the last one that stands for it.
    """

    kernel: int
    dimensions: str
    depthwise: bool
    strided: bool
    entry: int
    ends: bool


def along(dimensions: str, size: int, count: int) -> int | tuple[int, ...]:
    """A size in some dimensions, and 1 in the others.

    Args:
      dimensions: as in `Layer`.
      size: of a window, or a stride.
      count: of all dimensions.

    Returns:
      One number if it holds everywhere, else one for each dimension.
    """
    if size == 1 or dimensions in ('all', 'none'):
        return 1 if dimensions == 'none' else size
    time, space = (1, size) if dimensions == 'space' else (size, 1)
    return (time, *(space,) * (count - 1))


@dataclasses.dataclass(frozen=True)
class BlockDesign:
    """One residual block design, in plain values.

    Attributes:
      kernels: kernel size of each convolution of the branch, in order; `convolution.half_padding`
        says how even ones are padded.
      convolution: a key of `CONVOLUTIONS`: what stands for each that is larger than 1x1.
      expansion: output channels of the block divided by its width.
      groups: channel groups of the convolutions larger than 1x1 (arXiv 1611.05431).
      base_width: channels per group in a stage of width 64: all convolutions but the last have
        `width * base_width / 64 * groups` output channels.
      inner_ratio: if not 0, the output channels of these convolutions divided by the input channels
        of the block (the expansion factor of arXiv 1801.04381).
      pointwise_groups: channel groups of the 1x1 convolutions; if there are several, a channel
        shuffle follows the first of them (arXiv 1707.01083, figure 2b).
      linear_depthwise: whether no activation follows a depthwise convolution (arXiv 1707.01083,
        after 1610.02357).
      stride_at: index of the convolution that carries the block's stride.
      placement: a key of `PLACEMENTS`.
      shortcut: a key of `SHORTCUTS`.
      raw_first_shortcut: whether the network's first block, if pre-activation, keeps its identity
        shortcut free of the activation, as in timm's resnetv2_18 and many PyTorch ports. In he2016
        (appendix) the first block activates before it splits into branch and shortcut.
      gate, gate_bias: a key of `GATES`, and the initial bias of its convolution.
      shortcut_scale, branch_scale: constant factors of the two paths, or the initial values of
        learnt ones.
      learn_shortcut_scale, learn_branch_scale: whether the factors are learnt (SkipInit, arXiv
        2002.10444, is a learnt branch_scale that starts at 0).
      shortcut_dropout: rate of dropout on the shortcut (he2016, figure 2f).
      branch_dropout: rate of dropout before the last convolution (arXiv 1605.07146, figure 1d).
      se_ratio, se_place: the ratio of hidden to all channels in squeeze-and-excitation (0: none),
        and one of `SE_PLACES`.
      eca: whether efficient channel attention ends the branch (arXiv 1910.03151).
      downsample: a key of `DOWNSAMPLINGS`. A pool precedes the shortcut's projection; in the branch
        it follows the activation behind the convolution at `stride_at`.
      activation: a key of `ACTIVATIONS`.
      zero_init_last: whether every branch starts at zero, so that a block with an identity shortcut
        starts as the identity (arXiv 1706.02677, section 5.1): the scale of the norm that ends the
        branch is zero, or the kernel of the convolution that does.
    """

    kernels: tuple[int, ...] = (3, 3)
    convolution: str = 'full'
    expansion: int = 1
    groups: int = 1
    base_width: int = 64
    inner_ratio: float = 0.0
    pointwise_groups: int = 1
    linear_depthwise: bool = False
    stride_at: int = 0
    placement: str = 'original'
    shortcut: str = 'projection'
    raw_first_shortcut: bool = False
    gate: str = 'none'
    gate_bias: float = 0.0
    shortcut_scale: float = 1.0
    branch_scale: float = 1.0
    learn_shortcut_scale: bool = False
    learn_branch_scale: bool = False
    shortcut_dropout: float = 0.0
    branch_dropout: float = 0.0
    se_ratio: float = 0.0
    se_place: str = 'standard'
    eca: bool = False
    downsample: str = 'stride'
    activation: str = 'relu'
    zero_init_last: bool = False

    def __post_init__(self) -> None:
        for field, known in _CHOICES.items():
            check_choice(field, getattr(self, field), known)
        object.__setattr__(self, 'kernels', tuple(self.kernels))  # a config gives a list
        if not self.kernels or min(self.kernels) < 1:
            raise InputError(f'kernels must be positive sizes, got {self.kernels}')
        if not 0 <= self.stride_at < len(self.kernels):
            raise InputError(
                f'stride_at is the index of one of {len(self.kernels)} convolutions, from 0, '
                f'got {self.stride_at}'
            )
        for field in ('expansion', 'groups', 'base_width', 'pointwise_groups'):
            if getattr(self, field) < 1:
                raise InputError(f'{field} must be at least 1, got {getattr(self, field)}')
        for field in ('shortcut_dropout', 'branch_dropout'):
            if not 0 <= getattr(self, field) < 1:
                raise InputError(f'{field} must be in [0, 1), got {getattr(self, field)}')

        if self.inner_ratio < 0:
            raise InputError(f'inner_ratio must be at least 0, got {self.inner_ratio}')
        if self.convolution == 'spatial' and self.downsample != 'stride':
            raise InputError(
                f"convolution='spatial' goes with downsample='stride' only: {self.downsample!r} "
                'would also shorten the time'
            )

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The convolutions of the branch, in order."""
        found = []
        for entry, kernel in enumerate(self.kernels):
            parts = CONVOLUTIONS[self.convolution if kernel > 1 else 'full']
            for i, (dimensions, depthwise) in enumerate(parts, 1):
                size = 1 if dimensions == 'none' else kernel
                strided = entry == self.stride_at and dimensions != 'none'
                ends = i == len(parts)
                found.append(Layer(size, dimensions, depthwise, strided, entry, ends))
        return tuple(found)

    @property
    def is_plain(self) -> bool:
        """Whether every convolution connects all channels, by one window in all dimensions."""
        groups = self.groups if max(self.kernels) > 1 else 1
        return groups == self.pointwise_groups == 1 and self.convolution == 'full'

    def inner_channels(self, width: int, entering: int) -> int:
        """Output channels of all convolutions but the last, in a block of this width.

        Args:
          width: of the block.
          entering: input channels of the block.
        """
        if self.inner_ratio:
            return round(entering * self.inner_ratio)
        return width * self.base_width // 64 * self.groups

    def channels(
        self, width: int, entering: int, dimensions: int, others: Mapping[int, int] | None = None
    ) -> list[int]:
        """Output channels of each of the `layers`.

        Args:
          width: of the block.
          entering: input channels of the block.
          dimensions: of space.
          others: index of one of the layers -> its channels, where the design does not hold.
        """
        inner, found = self.inner_channels(width, entering), [entering]
        for i, layer in enumerate(self.layers):
            if layer.ends:
                last = layer.entry == len(self.kernels) - 1
                features = width * self.expansion if last else inner
            elif layer.depthwise:
                features = found[-1]
            else:
                features = _middle(layer.kernel, dimensions, entering, width)
            found.append((others or {}).get(i, features))
        return found[1:]

    def strides(self, stride: int, dimensions: int) -> int | tuple[int, ...]:
        """The stride of a block as `along` gives it: what it divides in each dimension."""
        shortened = 'space' if self.convolution == 'spatial' else 'all'
        return along(shortened, stride, dimensions)

    def groups_of(self, layer: Layer, entering: int) -> int:
        """Channel groups of a layer with this many input channels."""
        if layer.depthwise:
            return entering
        return self.pointwise_groups if layer.kernel == 1 else self.groups


def _middle(kernel: int, dimensions: int, entering: int, width: int) -> int:
    """Channels between space and time for as many weights as the full convolution has.

    arXiv 1711.11248, section 3.5; of the block's first convolution, and the same in the others, as
    in torchvision.
    """
    space = kernel ** (dimensions - 1)
    return space * kernel * entering * width // (space * entering + kernel * width)


_CHOICES: dict[str, Any] = {
    'placement': PLACEMENTS,
    'shortcut': SHORTCUTS,
    'convolution': CONVOLUTIONS,
    'gate': GATES,
    'activation': ACTIVATIONS,
    'se_place': SE_PLACES,
    'downsample': DOWNSAMPLINGS,
}

BASIC = BlockDesign()  # he2015, figure 5 left
BOTTLENECK = BlockDesign(kernels=(1, 3, 1), expansion=4, stride_at=1)  # figure 5 right, "v1.5"
BOTTLENECK_V1 = dataclasses.replace(BOTTLENECK, stride_at=0)  # the stride as he2015 has it
# arXiv 1711.11248, figure 1e, and 1801.04381, figure 4d.
R2PLUS1D = dataclasses.replace(BASIC, convolution='space_time')
INVERTED = BlockDesign(
    kernels=(1, 3, 1),
    convolution='depthwise',
    inner_ratio=6.0,
    stride_at=1,
    placement='linear',
    shortcut='where_kept',
    activation='relu6',
)
# arXiv 1707.01083, figure 2b: a bottleneck of depthwise and grouped convolutions.
SHUFFLED = dataclasses.replace(BOTTLENECK, convolution='depthwise', linear_depthwise=True)
