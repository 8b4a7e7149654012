"""Stages: blocks of one width one after another, in a Python loop or a scan."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.errors import InputError
from resnet_jax.models.block import ResidualBlock
from resnet_jax.models.convolution import MakeConv
from resnet_jax.models.design import SHORTCUTS, BlockDesign
from resnet_jax.models.norms import MakeNorm
from resnet_jax.models.single_layers import (
    PLAIN,
    SingleLayers,
    bits_of,
    channels_of,
    ranks_of,
    read_entries,
)


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """The layout of a stage.

    Attributes:
      width: of the blocks.
      stride: of the first block.
      reduction: the product of all strides up to and including this stage's.
      dilation_before, dilation: up to and including the first block's strided convolution, and
        after it.
      first: whether this is the network's first stage.
      drop_rates: probability of stochastic depth, one for each block.
      design: of the blocks.
    """

    width: int
    stride: int
    reduction: int
    dilation_before: int
    dilation: int
    first: bool
    drop_rates: tuple[float, ...]
    design: BlockDesign

    @property
    def channels(self) -> int:
        """Output channels of the blocks."""
        return self.width * self.design.expansion


def plan_stages(
    stage_sizes: Sequence[int],
    *,
    width: int,
    reduction: int,
    output_stride: int,
    drop_rate: float,
    constant_rate: bool,
    designs: Sequence[BlockDesign],
    widths: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> list[StagePlan]:
    """Lays out the stages: each doubles the width and halves the resolution, up to a limit.

    Args:
      stage_sizes: number of blocks in each stage.
      width: of the first stage.
      reduction: of the stem.
      output_stride: upper limit of the reduction; a stage that would exceed it doubles its dilation
        instead of striding, as torchvision's replace_stride_with_dilation. 0: no limit.
      drop_rate: probability of stochastic depth for the last block.
      constant_rate: whether it holds for all blocks; otherwise block l of L has l / L of it (arXiv
        1603.09382, section 3).
      designs: of the blocks of each stage.
      widths: of each stage, where they do not double.
      strides: of each stage, where they are not 1, 2, 2, ...

    Raises:
      InputError: if the limit is below the stem's reduction, or for widths or strides of another
        number of stages.
    """
    _check_lists(stage_sizes, widths, strides, output_stride)
    _check_numbers(stage_sizes, width, widths, reduction, output_stride)
    total, block, dilation, plans = sum(stage_sizes), 0, 1, []
    for i, blocks in enumerate(stage_sizes):
        stride, before = strides[i] if strides else 1 if i == 0 else 2, dilation
        if output_stride and reduction * stride > output_stride:
            dilation, stride = dilation * stride, 1
        reduction *= stride
        numbers = range(block + 1, block + blocks + 1)
        block += blocks
        rates = tuple(float(drop_rate) if constant_rate else drop_rate * n / total for n in numbers)
        wide = widths[i] if widths else width * 2**i
        plans.append(
            StagePlan(wide, stride, reduction, before, dilation, i == 0, rates, designs[i])
        )
    return plans


def _check_numbers(
    stage_sizes: Sequence[int],
    width: int,
    widths: Sequence[int],
    reduction: int,
    output_stride: int,
) -> None:
    if output_stride and output_stride < reduction:
        raise InputError(
            f'output_stride must be at least the reduction of the stem, {reduction}, or 0 for no '
            f'limit, got {output_stride}'
        )
    if output_stride and (
        output_stride % reduction or (output_stride // reduction).bit_count() > 1
    ):
        raise InputError(
            f'output_stride must be the reduction of the stem, {reduction}, times a power of two, '
            f'got {output_stride}'
        )
    if not widths and width * 2 ** min(len(stage_sizes), 64) > 2**21:
        raise InputError(
            f'stage_sizes has {len(stage_sizes)} stages, and width {width} doubles in each: more '
            'than a million channels; lower one of them'
        )


def _check_lists(
    stage_sizes: Sequence[int], widths: Sequence[int], strides: Sequence[int], output_stride: int
) -> None:
    for field, given in (('stage_widths', widths), ('stage_strides', strides)):
        if given and (len(given) != len(stage_sizes) or min(given) < 1):
            raise InputError(
                f'{field} must be numbers from 1, one for each of {len(stage_sizes)} stages, got '
                f'{tuple(given)}'
            )
    if output_stride and any(stride.bit_count() > 1 for stride in strides):
        raise InputError('output_stride goes with stage_strides of powers of two only')


def convolution_paths(
    plans: Sequence[StagePlan], stem_width: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The paths of the convolutions of the blocks.

    Returns:
      All; and those inside a branch, which are all but the last: their output channels concern
      nothing outside of the block.
    """
    found: list[str] = []
    inner: list[str] = []
    before = stem_width
    for stage, plan in enumerate(plans, 1):
        for number in range(1, len(plan.drop_rates) + 1):
            part = f'stage{stage}/block{number}'
            paths = [f'{part}/conv{i}' for i in range(1, len(plan.design.layers) + 1)]
            found += paths
            inner += paths[:-1]
            kept = before == plan.channels and (number > 1 or plan.stride == 1)
            if SHORTCUTS[plan.design.shortcut][0 if kept else 1] in ('projection', 'conv'):
                found.append(f'{part}/shortcut_conv')
            before = plan.channels
    return tuple(found), tuple(inner)


def plan_layers(
    inner_channels: Sequence[str],
    ranks: Sequence[str],
    layer_bits: Sequence[str],
    plans: Sequence[StagePlan],
    stem_width: int,
    stem_convolutions: int,
) -> SingleLayers:
    """Reads the values of single layers; the arguments are fields of `ResNet`.

    Raises:
      InputError: for an entry that cannot be read, or means no layer.
    """
    if not (inner_channels or ranks or layer_bits):
        return PLAIN
    inside, inner = convolution_paths(plans, stem_width)
    all_layers = [*(f'stem/conv{i + 1}' for i in range(stem_convolutions)), *inside, 'head']
    entry = 'stage1/block1/conv1'
    return SingleLayers(
        read_entries('inner_channels', inner_channels, inner, channels_of, f'{entry}=12'),
        read_entries('ranks', ranks, inside, ranks_of, f'{entry}=8x12'),
        read_entries('layer_bits', layer_bits, all_layers, bits_of, 'head=8'),
    )


def check_channels(
    plans: Sequence[StagePlan], stem_width: int, dimensions: int, layers: SingleLayers = PLAIN
) -> None:
    """Refuses sizes at which a convolution has no channels, or groups that do not divide them.

    Raises:
      InputError: naming the field and the channels.
    """
    before = stem_width
    for stage, plan in enumerate(plans, 1):
        if dimensions == 1 and plan.design.convolution in ('spatial', 'space_time'):
            raise InputError(
                f'convolution {plan.design.convolution!r} tells time from space: dimensions must '
                'be 2 or 3, got 1'
            )
        # Of the stage's first block, and of the others.
        for entry in (before, plan.channels) if len(plan.drop_rates) > 1 else (before,):
            _check_branch(stage, plan, entry, dimensions)
        before = plan.channels
    single = [*layers.channels, *layers.ranks]
    others = [plan.design for plan in plans if not plan.design.is_plain]
    if single and others:
        raise InputError(
            'inner_channels and ranks go with groups=1 and full convolutions only, here groups is '
            f'{others[0].groups} and convolution {others[0].convolution!r}; leave {single[0]} as '
            'it is'
        )


def _check_branch(stage: int, plan: StagePlan, entering: int, dimensions: int) -> None:
    design = plan.design
    features = design.channels(plan.width, entering, dimensions)
    if not min(features):
        field = 'inner_ratio' if design.inner_ratio else 'base_width'
        raise InputError(
            f'{field} {getattr(design, field)} leaves no channels in a block of width {plan.width}'
        )
    for layer, before, after in zip(design.layers, [entering, *features], features, strict=False):
        groups = design.groups_of(layer, before)
        if before % groups or after % groups:
            field = 'pointwise_groups' if layer.kernel == 1 else 'groups'
            what = 'a convolution of each channel' if layer.depthwise else f'{field} {groups}'
            raise InputError(
                f'{what} does not divide the channels of a convolution of stage {stage}, which '
                f'goes from {before} to {after}'
            )


def fixup_factor(block: BlockDesign, stage_sizes: Sequence[int]) -> float:
    """Fixup, section 3: L^(-1 / (2m - 2)) scales the weights of L branches of m layers."""
    layers_in_branch = len(block.layers)
    if layers_in_branch == 1:
        return 1.0
    return float(sum(stage_sizes) ** (-1 / (2 * layers_in_branch - 2)))


class Stage(nn.Module):
    """Blocks of one width; the first one carries the stride.

    Parameter paths: `block1`, `block2`, ...; in a scan `block1`, and `blocks` with the others
    stacked.

    Attributes:
      plan: the layout of the stage.
      fixup: of `ResidualBlock`.
      scan: whether to run the blocks after the first, which are equal, as a scan.
      remat: whether to recompute each block in the backward pass.
      conv, norm: make a convolution and a norm.
      dtype: of the computation.
      layers: values of single convolutions, one for each block; () for none. In a scan those of
        the second block hold for all after it.
    """

    plan: StagePlan
    fixup: float
    scan: bool
    remat: bool
    conv: MakeConv
    norm: MakeNorm
    dtype: Any
    layers: tuple[SingleLayers, ...] = ()

    @nn.compact
    def __call__(self, x: Float[Array, 'n *space c'], train: bool) -> Float[Array, 'n *out c_out']:
        """Runs the blocks on the previous stage's features."""
        rates = self.plan.drop_rates
        x = self._run(self.block(1), x, train, rates[0])
        if not self.scan or len(rates) < 2:
            for i, rate in enumerate(rates[1:], 2):
                x = self._run(self.block(i), x, train, rate)
            return x

        def body(block: ResidualBlock, x: Array, rate: Array) -> tuple[Array, None]:
            return self._run(block, x, train, rate if any(rates) else 0.0), None

        scanned = nn.scan(
            body,
            variable_axes={'params': 0, 'batch_stats': 0},
            split_rngs={'params': True, 'dropout': True},
            length=len(rates) - 1,
        )
        block = self.block(2, 'blocks', in_scan=True)
        x, _ = scanned(block, x, jnp.asarray(rates[1:], jnp.float32))
        return x

    @nn.nowrap
    def _run(self, block: ResidualBlock, x: Array, train: bool, rate: float | Array) -> Array:
        def run(block: ResidualBlock, x: Array) -> Array:
            return block(x, train, rate)

        if self.remat:
            # Outside a scan XLA would recognise the recomputation as a common subexpression (CSE).
            run = nn.remat(run, prevent_cse=block.name != 'blocks')
        return run(block, x)

    @nn.nowrap
    def block(self, number: int, name: str = '', in_scan: bool = False) -> ResidualBlock:
        """A block, counted from 1: a new module, unbound outside of a call of the stage."""
        first, plan = number == 1, self.plan
        layers = self.layers[number - 1] if self.layers else PLAIN
        conv = functools.partial(self.conv, in_scan=True) if in_scan else self.conv
        return ResidualBlock(
            design=plan.design,
            width=plan.width,
            stride=plan.stride if first else 1,
            first=plan.first and first,
            dilation=(plan.dilation_before if first else plan.dilation, plan.dilation),
            fixup=self.fixup,
            conv=layers.maker(conv),
            norm=functools.partial(self.norm, in_scan=True) if in_scan else self.norm,
            dtype=self.dtype,
            channels=tuple(layers.channels.items()),
            name=name or f'block{number}',
        )


def stack_blocks(variables: Any) -> Any:
    """Converts variables from the layout of scan_blocks=False to that of scan_blocks=True.

    Args:
      variables: one or all collections of a `ResNet`, or a tree of dicts, lists and (named) tuples
        that contains some, such as an Optax state with momentum.

    Returns:
      The same numbers, with block2, block3, ... of each stage stacked as `blocks`.
    """

    def convert(tree: Any) -> Any:
        if not isinstance(tree, dict):
            return _convert_inside(tree, convert)
        later = sorted((k for k in tree if _block_number(k) > 1), key=_block_number)
        kept = {k: convert(v) for k, v in tree.items() if k not in later}
        if later:
            kept['blocks'] = jax.tree.map(lambda *x: jnp.stack(x), *(tree[k] for k in later))
        return kept

    return convert(variables)


def unstack_blocks(variables: Any) -> Any:
    """Converts variables back; the inverse of `stack_blocks`."""

    def convert(tree: Any) -> Any:
        if not isinstance(tree, dict):
            return _convert_inside(tree, convert)
        kept = {k: convert(v) for k, v in tree.items() if k != 'blocks'}
        if 'blocks' in tree:
            count = len(jax.tree.leaves(tree['blocks'])[0])
            for i in range(count):
                kept[f'block{i + 2}'] = jax.tree.map(lambda x, i=i: x[i], tree['blocks'])
        return kept

    return convert(variables)


def _convert_inside(tree: Any, convert: Callable[[Any], Any]) -> Any:
    if not isinstance(tree, list | tuple):
        return tree
    parts = [convert(part) for part in tree]
    return type(tree)(*parts) if hasattr(tree, '_fields') else type(tree)(parts)


def _block_number(name: str) -> int:
    number = name.removeprefix('block')
    return int(number) if name.startswith('block') and number.isdigit() else 0
