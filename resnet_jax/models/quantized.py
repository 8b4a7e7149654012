"""Fake quantisation: float arithmetic on the values that integers of a few bits stand for.

Weights are symmetric, with a scale for each output channel; inputs of layers have a range with a
zero, and one scale. Source: Jacob et al., arXiv 1712.05877, sections 2 and 3; Krishnamoorthi, arXiv
1806.08342, sections 2 and 3.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

INPUT = '_input'  # ends the name of what quantises a layer's input: 'conv1_input'
RANGE = 'range'  # the name of the range that it keeps
_MOMENTUM = 0.99  # of the range in training, as arXiv 1712.05877, section 3.1, smooths it


def weight_scales(kernel: Float[Array, '*fan out'], bits: int) -> Float[Array, ' out']:
    """The scale of each output channel: max|w| / (2^(bits-1) - 1); 1 where all weights are 0.

    Args:
      kernel: its last axis is that of the output channels.
      bits: of the integers, from 2.
    """
    largest = jnp.max(jnp.abs(kernel), axis=tuple(range(kernel.ndim - 1)))
    return jnp.where(largest > 0, largest / (2 ** (bits - 1) - 1), jnp.ones_like(largest))


def quantize_weights(kernel: Float[Array, '*fan out'], bits: int) -> Float[Array, '*fan out']:
    """A kernel rounded to integers of `bits` bits; its gradient is that of the kernel.

    Args:
      kernel: its last axis is that of the output channels.
      bits: of the integers, from 2.
    """
    exact = kernel.astype(np.promote_types(np.float32, kernel.dtype))
    scales = jax.lax.stop_gradient(weight_scales(exact, bits))
    scales = scales.reshape((1,) * (kernel.ndim - 1) + (-1,))
    grid = jax.lax.stop_gradient(jnp.round(exact / scales) * scales)
    return _straight_through(exact, grid).astype(kernel.dtype)


def quantize_activations(
    x: Float[Array, '...'], limits: Float[Array, ' 2'], bits: int
) -> Float[Array, '...']:
    """The values that integers 0 to 2^bits - 1 stand for, with an integer for 0 itself.

    Args:
      x: any values; those beyond the limits are cut off, and have no gradient.
      limits: the lowest and the highest value; 0 is always among them.
      bits: of the integers.
    """
    exact = x.astype(np.promote_types(np.float32, x.dtype))
    scale, zero, top = activation_grid(limits.astype(exact.dtype), bits)
    inside = jnp.clip(exact, -zero * scale, (top - zero) * scale)
    grid = (jnp.round(inside / scale)) * scale
    return _straight_through(inside, jax.lax.stop_gradient(grid)).astype(x.dtype)


def activation_grid(limits: Float[Array, ' 2'], bits: int) -> tuple[Array, Array, float]:
    """Scale, the integer that stands for 0, and the largest integer, of values within limits."""
    top = float(2**bits - 1)
    low = jnp.minimum(limits[0], jnp.zeros_like(limits[0]))
    high = jnp.maximum(limits[1], jnp.zeros_like(limits[1]))
    scale = jnp.where(high > low, (high - low) / top, jnp.ones_like(low))
    return scale, jnp.round(-low / scale), top


def _straight_through(x: Array, value: Array) -> Array:
    """`value`, exactly, with the gradient of x (arXiv 1308.3432)."""
    return value + (x - jax.lax.stop_gradient(x))


class QuantizedInput(nn.Module):
    """Quantises a layer's input, in a range that is kept with the running statistics.

    The range is a moving average of the batches' lowest and highest values wherever `batch_stats`
    may change, from the first batch's on; a range of zeros is none, and the input stays as it is.
    Path: `range`, in `batch_stats`.

    Attributes:
      bits: of the integers.
    """

    bits: int

    @nn.compact
    def __call__(self, x: Float[Array, '...']) -> Float[Array, '...']:
        """Quantises."""
        held = self.variable('batch_stats', RANGE, jnp.zeros, 2, jnp.float32)
        if not self.is_mutable_collection('batch_stats'):
            known = jnp.any(held.value != 0)
            return jnp.where(known, quantize_activations(x, held.value, self.bits), x)
        still = jax.lax.stop_gradient(x)
        batch = jnp.stack([jnp.min(still), jnp.max(still)]).astype(held.value.dtype)
        if self.is_initializing():
            return quantize_activations(x, batch, self.bits)
        fresh = jnp.all(held.value == 0)
        average = _MOMENTUM * held.value + (1 - _MOMENTUM) * batch
        held.value = jnp.where(fresh, batch, average)
        return quantize_activations(x, held.value, self.bits)


def quantized_dot(bits: int) -> Any:
    """`lax.dot_general` for `nn.Dense`, with quantised weights."""

    def dot_general(x: Array, kernel: Array, *args: Any, **kwargs: Any) -> Array:
        return jax.lax.dot_general(x, quantize_weights(kernel, bits), *args, **kwargs)

    return dot_general
