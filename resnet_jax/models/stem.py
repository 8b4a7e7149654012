"""The stem: the first convolutions of a network, and the pool behind them.

Source: he2015 is arXiv 1512.03385.
"""

import dataclasses
import math
from collections.abc import Callable

import flax.linen as nn
from jaxtyping import Array, Float

from resnet_jax.models import layers
from resnet_jax.models.block import Context, Operation, Operations, apply_operations, pair_up
from resnet_jax.models.convolution import MakeConv
from resnet_jax.models.design import BlockDesign
from resnet_jax.models.norms import MakeNorm


@dataclasses.dataclass(frozen=True)
class StemDesign:
    """The first layers of a network.

    Attributes:
      convolutions: (kernel size, stride, output channels as a share of the stem's width) of each.
      pool: a key of `STEM_POOLS`, each with stride 2.
    """

    convolutions: tuple[tuple[int, int, float], ...]
    pool: str = 'none'

    @property
    def strides(self) -> tuple[int, ...]:
        """All strides, in order."""
        return (*(stride for _, stride, _ in self.convolutions), 1 if self.pool == 'none' else 2)

    @property
    def reduction(self) -> int:
        """The factor by which the spatial sizes shrink."""
        return math.prod(self.strides)


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
}


class Stem(nn.Module):
    """The first convolutions, and for ImageNet a pool. Parameter paths: `conv1`, `norm1`, ...

    Attributes:
      design: of the stem.
      block: the design of the network's blocks, for its activation.
      width: output channels.
      ops: kinds of the operations that follow the last convolution.
      inner_ops: kinds of those that follow the others.
      conv, norm: make a convolution and a norm.
    """

    design: StemDesign
    block: BlockDesign
    width: int
    ops: tuple[str, ...]
    inner_ops: tuple[str, ...]
    conv: MakeConv
    norm: MakeNorm

    @nn.compact
    def __call__(self, x: Float[Array, 'n *space c'], train: bool) -> Float[Array, 'n *out width']:
        """The stem's features of images."""
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
