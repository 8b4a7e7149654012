"""The convolution of every model, and what one backend needs to run it well."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

# he2015, section 3.4, initialises as He et al., arXiv 1502.01852: normal with variance 2 / fan. The
# authors' and torchvision's code take the fan-out.
HE_NORMAL = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def convolution(features: int, kernel_size: int, strides: int, **kwargs: Any) -> nn.Conv:
    """A square 2-D convolution without bias, padded by `kernel_size // 2` on both sides.

    This is how the PyTorch models pad; 'SAME' would pad one side more where the stride is 2.
    """
    return nn.Conv(
        features,
        kernel_size=(kernel_size, kernel_size),
        strides=(strides, strides),
        padding=[(kernel_size // 2, kernel_size // 2)] * 2,
        use_bias=False,
        kernel_init=kwargs.pop('kernel_init', HE_NORMAL),
        conv_general_dilated=_conv_general_dilated,
        **kwargs,
    )


def _conv_general_dilated(
    images: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **kwargs: Any,
) -> Array:
    """`lax.conv_general_dilated`, but for images smaller than the kernel on a CPU.

    There XLA exchanges the two operands, and the result runs without the fast convolution: 0.27 s
    instead of 0.01 s for 512 channels, 3x3, on 32 images of 2x2 pixels (jax 0.10.1, 2 cores).
    """
    smaller = any(i < k for i, k in zip(images.shape[1:3], kernel.shape[:2], strict=True))
    if smaller and jax.default_backend() == 'cpu' and kwargs['feature_group_count'] == 1:
        return convolve_by_position(images, kernel, strides, padding)
    return lax.conv_general_dilated(images, kernel, strides, padding, **kwargs)


def convolve_by_position(
    images: Array, kernel: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]]
) -> Array:
    """The same convolution as one matrix product for each pixel of a small output.

    Args:
      images: [N, H, W, C].
      kernel: [h, w, C, features].
      strides: (vertical, horizontal).
      padding: ((top, bottom), (left, right)).

    Returns:
      [N, H', W', features].
    """
    height, width = images.shape[1:3]
    # Output pixel (y, x) meets input pixel (i, j) at the tap (i - y * stride + top, ...). Taps
    # outside the kernel are zero, so each output pixel's taps are a window of the padded kernel.
    border = ((height, height), (width, width), (0, 0), (0, 0))
    taps = jnp.pad(kernel, border)
    (top, bottom), (left, right) = padding
    rows = range(0, height + top + bottom - kernel.shape[0] + 1, strides[0])
    columns = range(0, width + left + right - kernel.shape[1] + 1, strides[1])
    pixels = [
        [
            jnp.einsum(
                'nhwi,hwio->no',
                images,
                taps[height + top - y :][:height, width + left - x :][:, :width],
            )
            for x in columns
        ]
        for y in rows
    ]
    return jnp.stack([jnp.stack(row, axis=1) for row in pixels], axis=1)
