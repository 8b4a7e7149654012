"""The small parts that block designs may add; all take [N, ..., C] of any dimensions."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from resnet_jax.errors import InputError
from resnet_jax.models.convolution import HE_NORMAL

Array = jax.Array


def zero_pad_shortcut(x: Array, channels: int, stride: int) -> Array:
    """he2015 option A: every stride-th pixel, and zero channels on both sides.

    Args:
      x: [N, ..., C].
      channels: number of output channels, at least C.
      stride: spatial stride.

    Returns:
      [N, ..., channels], each spatial size divided by the stride, rounded up.
    """
    # lax.slice and not x[:, ::2, ::2]: indexing becomes a gather when the model is exported.
    strides = (1, *(stride,) * (x.ndim - 2), 1)
    x = lax.slice(x, (0,) * x.ndim, x.shape, strides)
    extra = channels - x.shape[-1]
    if extra < 0:
        raise InputError(f'a zero_pad shortcut cannot go from {x.shape[-1]} to {channels} channels')
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((extra // 2, extra - extra // 2),))


def average_pool(x: Array, stride: int) -> Array:
    """Mean over windows of `stride`, cut short at the far edge (ResNet-D, arXiv 1812.01187)."""
    window = (stride,) * (x.ndim - 2)
    return nn.avg_pool(x, window, strides=window, padding='SAME', count_include_pad=False)


def blur_pool(x: Array, stride: int) -> Array:
    """A blur [1 2 1] / 4 in each dimension, then every stride-th pixel (arXiv 1904.11486)."""
    dims, channels = x.ndim - 2, x.shape[-1]
    taps = functools.reduce(jnp.multiply.outer, [jnp.asarray([0.25, 0.5, 0.25], x.dtype)] * dims)
    kernel = jnp.broadcast_to(taps[..., None, None], (*taps.shape, 1, channels))
    edge = 'reflect' if min(x.shape[1:-1]) > 1 else 'edge'
    x = jnp.pad(x, ((0, 0), *((1, 1),) * dims, (0, 0)), mode=edge)
    letters = 'DHW'[-dims:]
    numbers = (f'N{letters}C', f'{letters}IO', f'N{letters}C')
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride,) * dims,
        'VALID',
        dimension_numbers=numbers,
        feature_group_count=channels,
    )


DOWNSAMPLINGS = {'stride': None, 'average': average_pool, 'blur': blur_pool}


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate made of all channels' means (arXiv 1709.01507, section 3).

    The hidden layer has `ratio` times the channels, rounded to a multiple of 8 (at least 8), as in
    timm. Paths: `reduce`, `expand`, both with bias.

    Attributes:
      ratio: hidden channels over channels; the paper's 1/r.
      dtype: of the computation.
    """

    ratio: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [N, ..., C] to the same shape."""
        channels = x.shape[-1]
        hidden = max(8, int(channels * self.ratio + 4) // 8 * 8)
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=HE_NORMAL)
        squeezed = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), keepdims=True)
        gate = dense(channels, name='expand')(nn.relu(dense(hidden, name='reduce')(squeezed)))
        return x * nn.sigmoid(gate)


class Scale(nn.Module):
    """Multiplies by one learnt number. Path: `scale`."""

    initial: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps any shape to itself."""
        scale = self.param('scale', nn.initializers.constant(self.initial), (1,), jnp.float32)
        return x * scale.astype(x.dtype).reshape((1,) * x.ndim)


class Bias(nn.Module):
    """Adds one learnt number, from zero (Fixup, arXiv 1901.09321). Path: `bias`."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps any shape to itself."""
        bias = self.param('bias', nn.initializers.zeros, (1,), jnp.float32)
        return x + bias.astype(x.dtype).reshape((1,) * x.ndim)


def drop_branch(branch: Array, rate: float | Array, key: Array) -> Array:
    """Stochastic depth (arXiv 1603.09382): each example loses its branch with probability `rate`.

    Survivors are divided by the probability of surviving, so that the expectation is the branch
    itself and evaluation changes nothing. The paper draws once for a whole batch and scales in
    evaluation; drawing by example has the same expectation and less variance.

    Args:
      branch: [N, ..., C].
      rate: probability in [0, 1).
      key: random key.

    Returns:
      Same shape.
    """
    survive = 1.0 - jnp.asarray(rate, jnp.float32)
    keep = jax.random.bernoulli(key, survive, (branch.shape[0], *(1,) * (branch.ndim - 1)))
    return branch * (keep.astype(survive.dtype) / survive).astype(branch.dtype)
