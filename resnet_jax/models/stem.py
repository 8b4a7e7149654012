"""Stems: what comes before the first block. he2015 is arXiv 1512.03385."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.models import layers
from resnet_jax.models.convolution import MakeConv
from resnet_jax.models.design import ACTIVATIONS
from resnet_jax.models.norms import MakeNorm

Array = jax.Array

# Convolutions as (kernel, stride, share of the stem's width), whether a 3x3/2 max-pool follows.
STEMS = {
    'imagenet': (((7, 2, 1.0),), True),  # he2015, table 1
    'imagenet_deep': (((3, 2, 0.5), (3, 1, 0.5), (3, 1, 1.0)), True),  # ResNet-C, arXiv 1812.01187
    'cifar': (((3, 1, 1.0),), False),  # he2015, section 4.2
}


class Stem(nn.Module):
    """The first convolutions, and for ImageNet a max-pool. Paths: `conv1`, `norm1`, ...

    Attributes:
      kind: a key of `STEMS`.
      width: output channels.
      ops: what follows the last convolution: some of 'norm', 'bias', 'act'.
      inner_ops: what follows the others.
      activation: a key of `ACTIVATIONS`.
      conv, norm: make a convolution and a norm.
    """

    kind: str
    width: int
    ops: tuple[str, ...]
    inner_ops: tuple[str, ...]
    activation: str
    conv: MakeConv
    norm: MakeNorm

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps [N, ..., C] to [N, ..., width], sizes a quarter for ImageNet, kept for CIFAR."""
        convolutions, pool = STEMS[self.kind]
        for i, (kernel, stride, share) in enumerate(convolutions, 1):
            width = int(self.width * share)
            x = self.conv(features=width, kernel_size=kernel, strides=stride, name=f'conv{i}')(x)
            for op in self.ops if i == len(convolutions) else self.inner_ops:
                if op == 'norm':
                    x = self.norm(train, f'norm{i}')(x)
                elif op == 'bias':
                    x = layers.Bias(name=f'bias{i}')(x)
                else:
                    x = ACTIVATIONS[self.activation](x)
        if pool:
            # An explicit pad, because converters drop the padding argument of a pooling; -inf,
            # because x is not activated in pre-activation nets.
            dims = x.ndim - 2
            border = ((0, 0), *((1, 1),) * dims, (0, 0))
            x = jnp.pad(x, border, constant_values=-jnp.inf)
            x = nn.max_pool(x, window_shape=(3,) * dims, strides=(2,) * dims, padding='VALID')
        return x
