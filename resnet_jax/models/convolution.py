"""The convolution of every model, and what backends need to run it well."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from resnet_jax.errors import InputError, unknown_name
from resnet_jax.models.cpu.convolution import (
    convolve_by_patches,
    convolve_narrowly,
    convolve_plainly,
    is_narrow,
)

Array = jax.Array
MakeConv = Callable[..., nn.Conv]

# he2015, section 3.4, initialises as He et al., arXiv 1502.01852: normal with variance 2 / fan. The
# authors' and torchvision's code take the fan-out. Fixup (arXiv 1901.09321) starts from He's too.
INITIALISERS: dict[str, Literal['fan_in', 'fan_out']] = {
    'he_fan_out': 'fan_out',
    'he_fan_in': 'fan_in',
    'fixup': 'fan_in',
}


def he_normal(init: str, scale: float = 1.0) -> Any:
    """He's initialiser of a kind of `INITIALISERS`, its deviation multiplied by `scale`."""
    if init not in INITIALISERS:
        raise unknown_name('init', init, INITIALISERS)
    return nn.initializers.variance_scaling(2.0 * scale**2, INITIALISERS[init], 'normal')


HE_NORMAL = he_normal('he_fan_out')


def convolution(
    features: int,
    kernel_size: int,
    strides: int = 1,
    *,
    dimensions: int = 2,
    dilation: int = 1,
    groups: int = 1,
    init: str = 'he_fan_out',
    kernel_scale: float = 1.0,
    standardize: bool = False,
    in_scan: bool = False,
    use_bias: bool = False,
    **kwargs: Any,
) -> nn.Conv:
    """A convolution with equal sizes in all dimensions, padded by half the kernel on both sides.

    This is how the PyTorch models pad; 'SAME' would pad one side more where the stride is 2.

    Args:
      features: output channels.
      kernel_size: odd, in every dimension.
      strides: in every dimension.
      dimensions: 1, 2 or 3 spatial dimensions.
      dilation: distance of the kernel's taps.
      groups: of channels.
      init: a key of `INITIALISERS`.
      kernel_scale: factor of the initial weights' deviation.
      standardize: weight standardisation (arXiv 1903.10520).
      in_scan: whether it stands inside a `lax.scan`.
      use_bias: whether to add a bias.
      **kwargs: of `nn.Conv`.
    """
    general = _conv_in_scan if in_scan else _conv_general_dilated
    if standardize:
        general = functools.partial(_standardized, general)
    kwargs.setdefault('kernel_init', he_normal(init, kernel_scale))
    return nn.Conv(
        features,
        kernel_size=(kernel_size,) * dimensions,
        strides=(strides,) * dimensions,
        padding=[(dilation * (kernel_size // 2),) * 2] * dimensions,
        kernel_dilation=dilation,
        feature_group_count=groups,
        use_bias=use_bias,
        conv_general_dilated=general,
        **kwargs,
    )


def _standardized(general: Any, images: Array, kernel: Array, *args: Any, **kwargs: Any) -> Array:
    """The convolution with each output channel's weights at mean 0 and variance 1 / fan-in."""
    axes = tuple(range(kernel.ndim - 1))
    exact = kernel.astype(np.promote_types(np.float32, kernel.dtype))
    fan_in = exact.size // exact.shape[-1]
    mean = jnp.mean(exact, axes, keepdims=True)
    var = jnp.var(exact, axes, keepdims=True)
    exact = (exact - mean) * lax.rsqrt(jnp.maximum(var * fan_in, 1e-4))
    return general(images, exact.astype(kernel.dtype), *args, **kwargs)


def _conv_general_dilated(
    images: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **kwargs: Any,
) -> Array:
    """`lax.conv_general_dilated`, but for a CPU, and images or results smaller than the kernel.

    For those XLA exchanges the two operands, there or in the gradient, and the result runs without
    the fast convolution: 0.27 s instead of 0.004 s for 512 channels, 3x3, on 32 images of 2x2
    pixels; 0.07 s instead of 0.002 s for the gradient where they become so (jax 0.10.1, 2 cores).
    """
    channels = images.shape[-1]
    if channels != kernel.shape[-2] * kwargs['feature_group_count']:
        raise InputError(
            f'a convolution made for {kernel.shape[-2] * kwargs["feature_group_count"]} channels '
            f'got {channels}'
        )
    if jax.default_backend() == 'cpu':
        # The gradient towards the kernel transposes the images, and XLA would compute everything
        # since the last convolution once more inside that transposition, through identity shortcuts
        # the whole stage: two thirds of a step of ResNet-110. Only programs compiled with
        # training.compilation.CPU_OPTIONS keep the barrier; elsewhere it changes nothing.
        images = lax.optimization_barrier(images)
        plain = kwargs['feature_group_count'] == 1
        plain = plain and all(d == 1 for d in kwargs.get('rhs_dilation') or ())
        output = [-(-i // s) for i, s in zip(images.shape[1:-1], strides, strict=True)]
        if plain and math.prod(output) < math.prod(kernel.shape[:-2]):
            return convolve_by_patches(images, kernel, strides, padding)
        if plain and len(set(strides)) == 1 and is_narrow(images, kernel, strides[0]):
            return convolve_narrowly(images, kernel, strides[0])
    return lax.conv_general_dilated(images, kernel, strides, padding, **kwargs)


def _conv_in_scan(
    images: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **kwargs: Any,
) -> Array:
    """The same where XLA on a CPU takes only the layouts NHWC and HWIO: in the body of a loop.

    XLA brings other layouts into these at the outermost level alone; in a scan the gradient of
    `lax.conv_general_dilated`, which has others, runs some 25 times slower.
    """
    dilation = kwargs.get('rhs_dilation') or (1,)
    plain = kwargs['feature_group_count'] == 1 and set(strides) == {1} and len(set(dilation)) == 1
    small = any(i < k for i, k in zip(images.shape[1:-1], kernel.shape[:-2], strict=True))
    if not plain or small or jax.default_backend() != 'cpu':
        return _conv_general_dilated(images, kernel, strides, padding, **kwargs)
    return convolve_plainly(images, kernel, dilation[0])
