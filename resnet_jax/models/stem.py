"""The stem: the first convolutions of a network, and the pool behind them.

Source: he2015 is arXiv 1512.03385.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Num

from resnet_jax.errors import InputError, choose
from resnet_jax.models import layers
from resnet_jax.models.block import Context, Operation, Operations, apply_operations, pair_up
from resnet_jax.models.convolution import MakeConv
from resnet_jax.models.design import BlockDesign
from resnet_jax.models.norms import MakeNorm

Size = int | tuple[int, ...]  # in every dimension, or one for each


@dataclasses.dataclass(frozen=True)
class StemDesign:
    """The first layers of a network.

    Attributes:
      convolutions: (kernel size, stride, output channels as a share of the stem's width) of each;
        sizes and strides hold in every dimension, or are one for each.
      pool: a key of `STEM_POOLS`, each with stride 2.
      embedding: channels of a learnt vector for each whole number of the input, which the first
        convolution takes; 0: the input is numbers already.
    """

    convolutions: tuple[tuple[Size, Size, float], ...]
    pool: str = 'none'
    embedding: int = 0

    @property
    def input_dtype(self) -> Any:
        """Of what it takes: [N, L] whole numbers for an embedding, else images or series."""
        return jnp.int32 if self.embedding else jnp.float32

    @property
    def strides(self) -> tuple[Size, ...]:
        """All strides, in order."""
        return (*(stride for _, stride, _ in self.convolutions), 1 if self.pool == 'none' else 2)

    @property
    def reduction(self) -> int:
        """The factor by which the spatial sizes shrink; of video, height and width."""
        return math.prod(s if isinstance(s, int) else s[-1] for s in self.strides)

    @property
    def dimensions(self) -> int | None:
        """The number of spatial dimensions that it is made for; None: any."""
        sizes = [1] if self.embedding else []
        sizes += [
            len(size) for c in self.convolutions for size in c[:2] if not isinstance(size, int)
        ]
        return sizes[0] if sizes else None


STEM_POOLS: dict[str, Callable[[Array], Array]] = {
    'none': lambda x: x,
    'max': layers.max_pool,
    'max_zero': lambda x: layers.max_pool(x, border=0.0),  # of raw pixels: not the same
    'max_blur': lambda x: layers.blur_pool(layers.max_pool(x, stride=1), 2),  # arXiv 1904.11486
    'average': lambda x: layers.average_pool(x, 2),
}

_DEEP = ((3, 2, 0.5), (3, 1, 0.5), (3, 1, 1.0))  # ResNet-C, arXiv 1812.01187
STEMS = {
    'imagenet': StemDesign(((7, 2, 1.0),), 'max'),  # he2015, table 1
    'imagenet_deep': StemDesign(_DEEP, 'max'),
    'imagenet_tiered': StemDesign(((3, 2, 0.375), (3, 1, 0.5), (3, 1, 1.0)), 'max'),  # timm's -T
    'imagenet_blur': StemDesign(((7, 2, 1.0),), 'max_blur'),  # timm's resnetblur50
    'imagenet_deep_average': StemDesign(_DEEP, 'average'),  # timm's resnetaa50d
    'bit': StemDesign(((7, 2, 1.0),), 'max_zero'),  # google-research/big_transfer
    'cifar': StemDesign(((3, 1, 1.0),)),  # he2015, section 4.2
    'none': StemDesign(()),  # the first block takes the images, of series as arXiv 1611.06455
    'mobile': StemDesign(((3, 2, 1.0),)),  # arXiv 1801.04381, table 2
    # arXiv 1711.11248, table 1, and its (2+1)-D form as torchvision has it, with 45 of 64 channels.
    'video': StemDesign((((3, 7, 7), (1, 2, 2), 1.0),)),
    'video_space_time': StemDesign((((1, 7, 7), (1, 2, 2), 45 / 64), ((3, 1, 1), 1, 1.0))),
    'embedding': StemDesign(((3, 1, 1.0),), embedding=16),  # arXiv 1606.01781, section 3
}


def check_stem(stem: str, width: int, dimensions: int) -> None:
    """Refuses a stem that a network cannot have.

    Args:
      stem: a key of `STEMS`.
      width: its output channels.
      dimensions: of space, of the network.

    Raises:
      InputError: for another name, a convolution without channels, and other dimensions.
    """
    design = choose('stem', stem, STEMS)
    if int(width * min((share for _, _, share in design.convolutions), default=1)) < 1:
        raise InputError(f'stem_width {width} leaves a convolution without channels')
    if design.dimensions not in (None, dimensions):
        raise InputError(
            f'stem {stem!r} is made for dimensions={design.dimensions}, got {dimensions}'
        )


class Stem(nn.Module):
    """The first convolutions, and for ImageNet a pool. Parameter paths: `conv1`, `norm1`, ...

    Those of an embedding stand in `embedding`.

    Attributes:
      design: of the stem.
      block: the design of the network's blocks, for its activation.
      width: output channels.
      ops: kinds of the operations that follow the last convolution.
      inner_ops: kinds of those that follow the others.
      conv, norm: make a convolution and a norm.
      vocabulary: how many whole numbers an embedding knows, from 0.
      dtype: of the computation.
    """

    design: StemDesign
    block: BlockDesign
    width: int
    ops: tuple[str, ...]
    inner_ops: tuple[str, ...]
    conv: MakeConv
    norm: MakeNorm
    vocabulary: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Num[Array, 'n *space c'], train: bool) -> Num[Array, 'n *out width']:
        """The stem's features of images, [N, space ..., C], or of whole numbers, [N, L]."""
        if self.design.embedding:
            embed = nn.Embed(
                *(self.vocabulary, self.design.embedding), dtype=self.dtype, name='embedding'
            )
            x = embed(x)
        convs = [
            {'features': int(self.width * share), 'kernel_size': kernel_size, 'strides': stride}
            for kernel_size, stride, share in self.design.convolutions
        ]
        context = Context(self.block, self.conv, self.norm, train, convs)
        x = apply_operations(self.operations(), x, context)  # of no convolutions, x itself
        return STEM_POOLS[self.design.pool](x)

    @nn.nowrap
    def operations(self) -> Operations:
        """The operations before the pool, in order."""
        last, found = len(self.design.convolutions), []
        for i in range(1, last + 1):
            kinds = ('conv', *(self.ops if i == last else self.inner_ops))
            found += [Operation(kind, i) for kind in kinds]
        return pair_up(found)
