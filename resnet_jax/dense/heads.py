"""Heads and necks: rows of small modules that turn feature maps into maps of logits.

Papers: FCN arXiv 1411.4038, as torchvision has it; DeepLabv3 1706.05587; PSPNet 1612.01105; U-Net
1505.04597; FPN 1612.03144.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.dense.resizing import pool_adaptively, resize_bilinear, resize_nearest
from resnet_jax.models.convolution import MakeConv
from resnet_jax.models.norms import MakeNorm

Maps = Float[Array, 'n h w c']
ASPP_RATES = (12, 24, 36)  # arXiv 1706.05587, section 4, at output stride 8
PSP_BINS = (1, 2, 3, 6)  # arXiv 1612.01105, section 3.2


class Head(nn.Module):
    """What heads have in common. Parameter paths: `conv1`, `norm1`, `conv2`, ..., `logits`.

    Attributes:
      num_classes: number of logits of a pixel.
      width: channels inside of it; 0: what its paper has.
      conv, norm: make a convolution and a norm.
      zero: whether the logits start at zero.
    """

    num_classes: int
    width: int
    conv: MakeConv
    norm: MakeNorm
    zero: bool = False

    @nn.nowrap
    def unit(
        self, x: Maps, number: int, width: int, train: bool, size: int = 3, **kwargs: Any
    ) -> Maps:
        """A convolution, norm and ReLU."""
        made = self.conv(width, size, name=f'conv{number}', use_bias=False, paired=True, **kwargs)
        return nn.relu(self.norm(train, f'norm{number}', paired=True)(made(x)))

    @nn.nowrap
    def classify(self, x: Maps, train: bool, dropout: float = 0.0) -> Maps:
        """The logits of every position."""
        x = nn.Dropout(dropout, deterministic=not train)(x)
        init = {'kernel_init': nn.initializers.zeros} if self.zero else {}
        return self.conv(self.num_classes, 1, name='logits', use_bias=True, **init)(x)


class FCNHead(Head):
    """torchvision's: a convolution of a quarter of the channels, and a classifier."""

    @nn.compact
    def __call__(self, features: Mapping[str, Maps], train: bool) -> Maps:
        """Logits at the size of the last feature map."""
        x = list(features.values())[-1]
        x = self.unit(x, 1, self.width or x.shape[-1] // 4, train)
        return self.classify(x, train, 0.1)


class ASPPHead(Head):
    """DeepLabv3: convolutions of several dilations beside the mean of the image.

    Paths: conv1 is 1x1, conv2 to conv4 dilated, conv5 of the mean, conv6 joins them.
    """

    @nn.compact
    def __call__(self, features: Mapping[str, Maps], train: bool) -> Maps:
        """Logits at the size of the last feature map."""
        x = list(features.values())[-1]
        width = self.width or 256
        found = [self.unit(x, 1, width, train, 1)]
        for i, rate in enumerate(ASPP_RATES, 2):
            found.append(self.unit(x, i, width, train, dilation=rate))
        mean = self.unit(jnp.mean(x, (1, 2), keepdims=True), 5, width, train, 1)
        found.append(jnp.broadcast_to(mean, found[0].shape))
        x = self.unit(jnp.concatenate(found, -1), 6, width, train, 1)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return self.classify(self.unit(x, 7, width, train), train)


class PSPHead(Head):
    """PSPNet: means over grids of 1, 2, 3 and 6 bins beside the features."""

    @nn.compact
    def __call__(self, features: Mapping[str, Maps], train: bool) -> Maps:
        """Logits at the size of the last feature map."""
        x = list(features.values())[-1]
        width = self.width or x.shape[-1] // len(PSP_BINS)
        found = [x]
        for i, bins in enumerate(PSP_BINS, 1):
            pooled = self.unit(pool_adaptively(x, bins), i, width, train, 1)
            found.append(resize_bilinear(pooled, x.shape[1:3]))
        x = self.unit(jnp.concatenate(found, -1), len(PSP_BINS) + 1, width, train)
        return self.classify(x, train, 0.1)


class UNetHead(Head):
    """U-Net's decoder: upward step by step, with the features of each size beside.

    Each step has two convolutions of half the channels of the one before, down to `width`.
    """

    @nn.compact
    def __call__(self, features: Mapping[str, Maps], train: bool) -> Maps:
        """Logits at the size of the first feature map."""
        x, *skips = reversed(list(features.values()))
        width, number = self.width or x.shape[-1] // 2, 1
        for skip in skips:
            x = jnp.concatenate([resize_nearest(x, skip.shape[1:3]), skip], -1)
            for _ in range(2):
                x = self.unit(x, number, width, train)
                number += 1
            width = max(width // 2, 1)
        return self.classify(x, train)


HEADS: dict[str, Callable[..., Head]] = {
    'fcn': FCNHead,
    'aspp': ASPPHead,
    'psp': PSPHead,
    'unet': UNetHead,
}


class FeaturePyramid(nn.Module):
    """FPN, with RetinaNet's two more levels, made of the last one as in torchvision.

    The paper, arXiv 1708.02002, makes them of the last feature map itself.

    Parameter paths: `inner1`, `layer1`, ... for each feature map, the largest first; `extra1`,
    `extra2`.

    Attributes:
      width: channels of all levels.
      extra: number of further levels, each half as large as the one before.
      conv: makes a convolution.
    """

    width: int
    extra: int
    conv: MakeConv

    @nn.compact
    def __call__(self, features: Mapping[str, Maps]) -> list[Maps]:
        """The levels, the largest first."""
        maps = list(features.values())
        levels: list[Maps] = []
        above: Maps | None = None
        for i in range(len(maps), 0, -1):
            x = self._conv(f'inner{i}', 1)(maps[i - 1])
            if above is not None:
                x = x + resize_nearest(above, x.shape[1:3])
            above = x
            levels.insert(0, self._conv(f'layer{i}', 3)(x))
        x = levels[-1]
        for i in range(1, self.extra + 1):
            x = self._conv(f'extra{i}', 3, strides=2)(x if i == 1 else nn.relu(x))
            levels.append(x)
        return levels

    @nn.nowrap
    def _conv(self, name: str, size: int, **kwargs: Any) -> Callable[[Array], Array]:
        # Kaiming uniform with a = 1, as torchvision: of limit sqrt(3 / fan_in).
        init = nn.initializers.variance_scaling(1.0, 'fan_in', 'uniform')
        return self.conv(self.width, size, name=name, use_bias=True, kernel_init=init, **kwargs)


class AnchorHead(nn.Module):
    """RetinaNet's: four convolutions and a last one, the same for every level.

    Parameter paths: `conv1` to `conv4`, `last`.

    Attributes:
      outputs: numbers for each anchor.
      anchors: of each position.
      bias: that the last convolution starts with.
      conv: makes a convolution.
      zero: whether the outputs start at the bias.
    """

    outputs: int
    anchors: int
    bias: float
    conv: MakeConv
    zero: bool = False

    @nn.compact
    def __call__(self, levels: list[Maps]) -> list[Float[Array, 'n h w anchors outputs']]:
        """The outputs of each level."""
        init = nn.initializers.normal(0.01)
        convs = [
            self.conv(levels[0].shape[-1], 3, name=f'conv{i}', use_bias=True, kernel_init=init)
            for i in range(1, 5)
        ]
        last = self.conv(
            *(self.outputs * self.anchors, 3),
            name='last',
            use_bias=True,
            kernel_init=nn.initializers.zeros if self.zero else init,
            bias_init=nn.initializers.constant(self.bias),
        )
        found = []
        for x in levels:
            for conv in convs:
                x = nn.relu(conv(x))
            y = last(x)
            found.append(y.reshape(*y.shape[:-1], self.anchors, self.outputs))
        return found
