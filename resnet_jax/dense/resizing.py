"""Resize and pool feature maps as PyTorch does."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Maps = Float[Array, 'n h w c']


def resize_bilinear(x: Maps, size: Sequence[int]) -> Maps:
    """`torch.nn.functional.interpolate(mode='bilinear', align_corners=False)`."""
    for axis, side in zip((1, 2), size, strict=True):
        if x.shape[axis] == 1:  # the same values; LiteRT's XNNPACK fails on a product over one row
            x = jnp.repeat(x, side, axis)
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), 'bilinear', antialias=False)


def resize_nearest(x: Maps, size: Sequence[int]) -> Maps:
    """`torch.nn.functional.interpolate(mode='nearest')`: pixel i shows floor(i * old / new)."""
    rows, columns = (
        np.arange(new) * old // new for old, new in zip(x.shape[1:3], size, strict=True)
    )
    return x[:, rows][:, :, columns]


def pool_adaptively(x: Maps, bins: int) -> Float[Array, 'n bins bins c']:
    """`torch.nn.functional.adaptive_avg_pool2d`: means over bins that may overlap by a pixel."""
    for axis in (1, 2):
        means = jnp.asarray(bin_weights(x.shape[axis], bins), x.dtype)
        x = jnp.moveaxis(jnp.moveaxis(x, axis, -1) @ means, -1, axis)
    return x


def bin_weights(size: int, count: int) -> Float[np.ndarray, 'size count']:
    """The weight of each pixel in the mean of each bin along an axis."""
    found = np.zeros((size, count))
    for i in range(count):
        first, last = i * size // count, -(-(i + 1) * size // count)
        found[first:last, i] = 1 / (last - first)
    return found
