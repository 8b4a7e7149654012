"""The small parts that block designs may add, for any number of spatial dimensions."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from resnet_jax.errors import InputError
from resnet_jax.models.convolution import HE_NORMAL


def zero_pad_shortcut(
    x: Float[Array, 'n *space c'], channels: int, stride: int | tuple[int, ...]
) -> Float[Array, 'n *out channels']:
    """he2015 option A: every stride-th pixel, and zero channels on both sides.

    Args:
      x: the block's input.
      channels: number of output channels, at least c.
      stride: divides each spatial size, rounded up; one for all dimensions or for each.

    Raises:
      InputError: if there are more input than output channels.
    """
    # lax.slice and not x[:, ::2, ::2]: indexing becomes a gather when the model is exported.
    space = (stride,) * (x.ndim - 2) if isinstance(stride, int) else stride
    strides = (1, *space, 1)
    x = lax.slice(x, (0,) * x.ndim, x.shape, strides)
    extra = channels - x.shape[-1]
    if extra < 0:
        raise InputError(
            f'a zero_pad shortcut only adds channels, not {x.shape[-1]} to {channels}; '
            'lower stem_width, raise width or expansion, or use another shortcut'
        )
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((extra // 2, extra - extra // 2),))


def average_pool(x: Float[Array, 'n *space c'], stride: int) -> Float[Array, 'n *out c']:
    """Mean over windows of `stride`, cut short at the far edge (ResNet-D, arXiv 1812.01187)."""
    window = (stride,) * (x.ndim - 2)
    return nn.avg_pool(x, window, strides=window, padding='SAME', count_include_pad=False)


def blur_pool(x: Float[Array, 'n *space c'], stride: int) -> Float[Array, 'n *out c']:
    """A blur [1 2 1] / 4 in each dimension, then every stride-th pixel (arXiv 1904.11486)."""
    dims, channels = x.ndim - 2, x.shape[-1]
    taps = functools.reduce(jnp.multiply.outer, [jnp.asarray([0.25, 0.5, 0.25], x.dtype)] * dims)
    kernel = jnp.broadcast_to(taps[..., None, None], (*taps.shape, 1, channels))
    # Not min(...) > 1: the sizes may be symbols, of which only each by itself can be compared.
    edge = 'reflect' if all(n > 1 for n in x.shape[1:-1]) else 'edge'
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


def max_pool(
    x: Float[Array, 'n *space c'], stride: int = 2, border: float = -math.inf
) -> Float[Array, 'n *out c']:
    """The largest of the 3x3 pixels around every stride-th one; those outside are `border`."""
    # An explicit pad, because converters drop the padding argument of a pooling; -inf, because x is
    # not activated in pre-activation nets.
    dims = x.ndim - 2
    x = jnp.pad(x, ((0, 0), *((1, 1),) * dims, (0, 0)), constant_values=border)
    return nn.max_pool(x, window_shape=(3,) * dims, strides=(stride,) * dims, padding='VALID')


def shuffle(x: Float[Array, 'n *space c'], groups: int) -> Float[Array, 'n *space c']:
    """One channel of each group in turn, so that groups exchange them (arXiv 1707.01083, 3.1)."""
    return x.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(x.shape)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from all channels' means (arXiv 1709.01507, sec. 3).

    The hidden layer has `ratio` times the channels, rounded to a multiple of 8 (at least 8), as in
    timm. Paths: `reduce`, `expand`, both with bias.

    Attributes:
      ratio: hidden channels over channels; the paper's 1/r.
      dtype: of the computation.
    """

    ratio: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, 'n *space c']) -> Float[Array, 'n *space c']:
        """Gates the channels."""
        channels = x.shape[-1]
        hidden = max(8, int(channels * self.ratio + 4) // 8 * 8)
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=HE_NORMAL)
        # Products of two axes: LiteRT's converter takes no others.
        squeezed = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))
        gate = dense(channels, name='expand')(nn.relu(dense(hidden, name='reduce')(squeezed)))
        return x * jnp.expand_dims(nn.sigmoid(gate), tuple(range(1, x.ndim - 1)))


class EfficientChannelAttention(nn.Module):
    """Scales each channel by a gate computed from its neighbours' means (ECA, arXiv 1910.03151).

    The gate is a convolution over the channels, of |log2(C) + 1| / 2 channels, the nearest odd
    number above (at least 3; the paper's equation 12 as its authors and timm round it). Path:
    `conv`.

    Attributes:
      dtype: of the computation.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, 'n *space c']) -> Float[Array, 'n *space c']:
        """Gates the channels."""
        size = int((math.log2(x.shape[-1]) + 1) / 2)
        size = max(size + 1 - size % 2, 3)
        conv = nn.Conv(1, (size,), padding=size // 2, use_bias=False, dtype=self.dtype, name='conv')
        means = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))
        gate = nn.sigmoid(conv(means[..., None])[..., 0])
        return x * jnp.expand_dims(gate, tuple(range(1, x.ndim - 1)))


class Scale(nn.Module):
    """Multiplies by one learnt number, which starts at `initial`. Path: `scale`."""

    initial: float

    @nn.compact
    def __call__(self, x: Float[Array, '...']) -> Float[Array, '...']:
        """Scales x."""
        scale = self.param('scale', nn.initializers.constant(self.initial), (1,), jnp.float32)
        return x * scale.astype(x.dtype).reshape((1,) * x.ndim)


class Bias(nn.Module):
    """Adds one learnt number, which starts at zero (Fixup, arXiv 1901.09321). Path: `bias`."""

    @nn.compact
    def __call__(self, x: Float[Array, '...']) -> Float[Array, '...']:
        """Shifts x."""
        bias = self.param('bias', nn.initializers.zeros, (1,), jnp.float32)
        return x + bias.astype(x.dtype).reshape((1,) * x.ndim)


def drop_branch(
    branch: Float[Array, 'n *space c'], rate: float | Float[Array, ''], key: Key[Array, '']
) -> Float[Array, 'n *space c']:
    """Stochastic depth (arXiv 1603.09382): each example loses its branch with probability `rate`.

    Survivors are divided by the probability of surviving, so that the expectation is the branch
    itself and evaluation changes nothing. The paper draws once per batch and scales in evaluation;
    drawing per example has the same expectation and less variance.

    Args:
      branch: of a block.
      rate: probability in [0, 1).
      key: random key.
    """
    survive = 1.0 - jnp.asarray(rate, jnp.float32)
    keep = jax.random.bernoulli(key, survive, (branch.shape[0], *(1,) * (branch.ndim - 1)))
    return branch * (keep.astype(survive.dtype) / survive).astype(branch.dtype)
