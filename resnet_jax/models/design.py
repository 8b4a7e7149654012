"""The residual block, as data.

A block computes `after(shortcut(x) + branch(x))`. The *branch* F(x) is what He et al. call the
residual function; the *shortcut* is the path around it. What stands where is a row of plain values,
read by one interpreter (interpreter.py); a new design is a new row here, not a new class.

Sources: he2015 is arXiv 1512.03385, he2016 is arXiv 1603.05027.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from resnet_jax.errors import InputError, unknown_name
from resnet_jax.models import layers

Array = jax.Array

# Where normalisation and activation stand: the columns of he2016, figure 4, read downwards.
# The first cell is a unit that repeats for every convolution but the last, so that the same row
# describes a unit of one layer, a basic block (two convolutions) and a bottleneck (three).
PLACEMENTS = {
    #                    each convolution but the last | the last      | add | after the addition
    'original':         'conv norm act                 | conv norm     | add | act',
    'bn_after_add':     'conv norm act                 | conv          | add | norm act',
    'relu_before_add':  'conv norm act                 | conv norm act | add |    ',
    'relu_only_preact': 'act conv norm                 | act conv norm | add |    ',
    'full_preact':      'norm act conv                 | norm act conv | add |    ',
}  # fmt: skip

# What the skip path does where the block keeps the shape, and where it changes resolution or width.
# The norm of a projection is there where the branch ends with one too.
SHORTCUTS = {
    #                   shape kept     shape changed
    'zero_pad':       ('identity',    'zero_pad'),      # he2015 option A: no parameters
    'projection':     ('identity',    'projection'),    # he2015 option B
    'projection_all': ('projection',  'projection'),    # he2015 option C
    'conv1x1':        ('conv',        'conv'),          # he2016, figure 2e: without a norm
    'none':           (None,          None),            # plain net: no shortcut, no addition
}  # fmt: skip

# How shortcut and branch are joined, with g = sigmoid(conv1x1(x) + gate_bias): he2016, figure 2.
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

# Where squeeze-and-excitation stands: arXiv 1709.01507, figure 5.
SE_PLACES = ('standard', 'pre', 'post', 'identity')


@dataclasses.dataclass(frozen=True)
class BlockDesign:
    """One residual block design, in plain values.

    Attributes:
      kernels: kernel size of each convolution of the branch, in order.
      expansion: output channels of the block over its width.
      groups: groups of the convolutions that are larger than 1x1 (arXiv 1611.05431).
      base_width: channels of a group in a stage of width 64: the inner convolutions have
        `width * base_width / 64 * groups` channels.
      stride_at: index of the convolution that carries the block's stride.
      placement: a key of `PLACEMENTS`.
      shortcut: a key of `SHORTCUTS`.
      raw_first_shortcut: whether the network's first block activates its branch alone; in he2016
        (appendix) it activates before it splits into branch and shortcut. timm's resnetv2_18 and
        many PyTorch ports do the former. For a shortcut that keeps the shape.
      gate, gate_bias: a key of `GATES`, and the initial bias of its convolution.
      shortcut_scale, branch_scale: constant factors of the two paths; where `learn_shortcut_scale`
        or `learn_branch_scale` is set they are learnt, from these values (SkipInit, arXiv
        2002.10444, is a learnt branch_scale from 0).
      shortcut_dropout: rate of dropout on the shortcut (he2016, figure 2f).
      branch_dropout: rate of dropout before the last convolution (arXiv 1605.07146, figure 1d).
      se_ratio, se_place: squeeze-and-excitation (0: none), and one of `SE_PLACES`.
      downsample: 'stride'; 'average': the shortcut's projection follows an average pool (ResNet-D,
        arXiv 1812.01187); 'blur': strides become blurred pooling (arXiv 1904.11486).
      activation: a key of `ACTIVATIONS`.
      zero_init_last: start every branch at zero, so that a block with an identity shortcut starts
        as the identity (arXiv 1706.02677, section 5.1): the scale of a norm that ends the branch,
        else the kernel of the convolution that does (a zero scale *before* an activation would
        never receive a gradient).
    """

    kernels: tuple[int, ...] = (3, 3)
    expansion: int = 1
    groups: int = 1
    base_width: int = 64
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
    downsample: str = 'stride'
    activation: str = 'relu'
    zero_init_last: bool = False

    def __post_init__(self) -> None:
        for field, known in _CHOICES.items():
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
        for field in ('expansion', 'groups', 'base_width'):
            if getattr(self, field) < 1:
                raise InputError(f'{field} must be at least 1, got {getattr(self, field)}')
        for field in ('shortcut_dropout', 'branch_dropout'):
            if not 0 <= getattr(self, field) < 1:
                raise InputError(f'{field} must be in [0, 1), got {getattr(self, field)}')

    def inner_channels(self, width: int) -> int:
        """Channels of the convolutions but the last, in a block of this width."""
        return width * self.base_width // 64 * self.groups


_CHOICES: dict[str, Any] = {
    'placement': PLACEMENTS,
    'shortcut': SHORTCUTS,
    'gate': GATES,
    'activation': ACTIVATIONS,
    'se_place': SE_PLACES,
    'downsample': layers.DOWNSAMPLINGS,
}

BASIC = BlockDesign()  # he2015, figure 5 left
BOTTLENECK = BlockDesign(kernels=(1, 3, 1), expansion=4, stride_at=1)  # figure 5 right, "v1.5"
BOTTLENECK_V1 = dataclasses.replace(BOTTLENECK, stride_at=0)  # the stride as he2015 has it


@dataclasses.dataclass(frozen=True)
class Operations:
    """A design spelt out: names of operations in the order they are applied.

    Each is a kind with a number where it has parameters: `conv1`, `norm1`, `bias1`, `act`, `blur`,
    `dropout`, `se`, `scale`.

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


def operations(design: BlockDesign, fixup: bool = False) -> Operations:
    """Spells a design out, for its number of convolutions.

    Args:
      design: the design.
      fixup: replace norms by a learnt bias before each convolution and activation, and a learnt
        scale at the end of the branch (arXiv 1901.09321, section 3).
    """
    inner, last, _, after = (cell.split() for cell in PLACEMENTS[design.placement].split('|'))
    convs = len(design.kernels)
    sequence = inner * (convs - 1) + last
    if design.downsample == 'blur':
        sequence.insert(_blur_position(sequence, design.stride_at), 'blur')
    first = sequence.index('conv')
    before, branch = sequence[:first], sequence[first:]
    if design.branch_dropout:  # of the branch alone, whatever else shares `before`
        branch.insert(len(branch) - 1 - branch[::-1].index('conv'), 'dropout')
    if fixup:
        before, branch, after = (_with_biases(ops) for ops in (before, branch, after))
        branch.append('scale')
    if design.se_ratio:
        branch = (
            ['se'] * (design.se_place == 'pre') + branch + ['se'] * (design.se_place == 'standard')
        )
        after = after + ['se'] * (design.se_place == 'post')  # section 6.5: after the relu
    names = _numbered([*before, '|', *branch, '|', *after])
    cuts = [i for i, name in enumerate(names) if name == '|']
    return Operations(
        tuple(names[: cuts[0]]), tuple(names[cuts[0] + 1 : cuts[1]]), tuple(names[cuts[1] + 1 :])
    )


def kind_of(name: str) -> str:
    """The kind of a numbered operation: 'norm' of 'norm2'."""
    return name.rstrip('0123456789')


def _blur_position(sequence: list[str], stride_at: int) -> int:
    """Behind the activation that follows the strided convolution, else behind that itself."""
    conv = [i for i, op in enumerate(sequence) if op == 'conv'][stride_at]
    later = sequence[conv:]
    return conv + 1 + (later.index('act') if 'act' in later else 0)


def _with_biases(ops: list[str]) -> list[str]:
    kept = [op for op in ops if op != 'norm']
    return [name for op in kept for name in (('bias', op) if op in ('conv', 'act') else (op,))]


def _numbered(ops: list[str]) -> list[str]:
    counts: dict[str, int] = {}
    names = []
    for op in ops:
        counts[op] = counts.get(op, 0) + 1
        names.append(f'{op}{counts[op]}' if op in ('conv', 'norm', 'bias') else op)
    return names
