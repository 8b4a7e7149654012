"""The convolution of all models: padding, initial weights, standardised and quantised weights."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from resnet_jax.errors import InputError, choose
from resnet_jax.models import cpu
from resnet_jax.models.cpu.conv_forms import convolve
from resnet_jax.models.quantized import INPUT, QuantizedInput, quantize_weights

# Makes a convolution: a function [N, ..., C] -> [N, ..., features].
MakeConv = Callable[..., Callable[[Array], Array]]

# he2015, section 3.4, initialises as He et al., arXiv 1502.01852: normal with variance 2 / fan. The
# authors' and torchvision's code take the fan-out. Fixup (arXiv 1901.09321) starts from He's too.
# Glorot and Bengio 2010, equation 16, is Keras' default, of the head too.
# Key -> variance times the fan, the fan, the distribution.
_Mode = Literal['fan_in', 'fan_out', 'fan_avg']
INITIALISERS: dict[str, tuple[float, _Mode, Literal['normal', 'uniform']]] = {
    'he_fan_out': (2.0, 'fan_out', 'normal'),
    'he_fan_in': (2.0, 'fan_in', 'normal'),
    'fixup': (2.0, 'fan_in', 'normal'),
    'glorot_uniform': (1.0, 'fan_avg', 'uniform'),
}


# Variance that standardised weights get -> the square of what they are divided by, from an output
# channel's own variance and its fan-in; of JAX's arrays and of NumPy's.
STANDARDIZATIONS: dict[str, Callable[[Any, int], Any]] = {
    'fan_in': lambda var, fan_in: (var * fan_in).clip(1e-4),  # arXiv 2101.08692
    'one': lambda var, fan_in: var + 1e-10,  # arXiv 1912.11370
}


def initialiser(init: str, scale: float = 1.0) -> nn.initializers.Initializer:
    """The initialiser of a key of `INITIALISERS`, its standard deviation multiplied by `scale`.

    Raises:
      InputError: for an unknown key.
    """
    variance, fan, distribution = choose('init', init, INITIALISERS)
    return nn.initializers.variance_scaling(variance * scale**2, fan, distribution)


HE_NORMAL = initialiser('he_fan_out')


def half_padding(kernel_size: int, dilation: int = 1) -> tuple[int, int]:
    """What is padded before and after, so that stride 1 keeps the size: Keras' and JAX's SAME.

    An even kernel gets one more after than before.
    """
    total = dilation * (kernel_size - 1)
    return total // 2, total - total // 2


def convolution(
    features: int,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    *,
    dimensions: int = 2,
    dilation: int = 1,
    groups: int = 1,
    init: str = 'he_fan_out',
    kernel_scale: float = 1.0,
    standardize: str | None = None,
    in_scan: bool = False,
    use_bias: bool = False,
    paired: bool = False,
    folded: bool = False,
    bits: int = 0,
    input_bits: int = 0,
    **kwargs: Any,
) -> Callable[[Array], Array]:
    """A convolution, padded by half the kernel on both sides.

    PyTorch models pad like this, and 'SAME' one side less at a stride of 2; see `half_padding`.

    Args:
      features: output channels.
      kernel_size: in every dimension, or one for each.
      strides: in every dimension, or one for each.
      dimensions: 1, 2 or 3 spatial dimensions.
      dilation: distance between the kernel's taps.
      groups: number of channel groups.
      init: a key of `INITIALISERS`.
      kernel_scale: factor of the initial weights' standard deviation.
      standardize: a key of `STANDARDIZATIONS` for weight standardisation (arXiv 1903.10520).
      in_scan: whether the convolution stands in the body of a `lax.scan`.
      use_bias: whether to add a bias.
      paired: whether a norm takes the output.
      folded: whether norms are folded: into convolutions that are paired, which then add a bias.
      bits: of the weights, see `quantized.quantize_weights`; 0: floats.
      input_bits: of the input of quantised weights; 0: floats.
      **kwargs: of `nn.Conv`.
    """
    general: Any = functools.partial(_convolve, in_scan=in_scan)
    if bits:
        general = functools.partial(_convolve_quantized, general, bits)
    if standardize is not None:
        general = functools.partial(_convolve_standardized, general, STANDARDIZATIONS[standardize])
    kwargs.setdefault('kernel_init', initialiser(init, kernel_scale))
    window = for_each(kernel_size, dimensions)
    conv = nn.Conv(
        features,
        kernel_size=window,
        strides=for_each(strides, dimensions),
        padding=[half_padding(size, dilation) for size in window],
        kernel_dilation=dilation,
        feature_group_count=groups,
        use_bias=use_bias or (paired and folded),
        conv_general_dilated=general,
        **kwargs,
    )
    return _with_quantized_input(conv, input_bits) if bits and input_bits else conv


def for_each(size: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    """A size of each dimension, from one for all or one for each."""
    return (size,) * dimensions if isinstance(size, int) else tuple(size)


def _with_quantized_input(conv: nn.Conv, bits: int) -> Callable[[Array], Array]:
    quantized = QuantizedInput(bits, name=f'{conv.name}{INPUT}')
    return lambda x: conv(quantized(x))


def _convolve_quantized(
    general: Callable[..., Array],
    bits: int,
    images: Float[Array, 'n *space c'],
    kernel: Float[Array, '*taps c_per_group features'],
    *args: Any,
    **kwargs: Any,
) -> Float[Array, 'n *out features']:
    """The convolution with quantised weights."""
    return general(images, quantize_weights(kernel, bits), *args, **kwargs)


def _convolve(
    images: Float[Array, 'n *space c'],
    kernel: Float[Array, '*taps c_per_group features'],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    in_scan: bool,
    **kwargs: Any,
) -> Float[Array, 'n *out features']:
    """`lax.conv_general_dilated`, or its form for a CPU."""
    channels = kernel.shape[-2] * kwargs['feature_group_count']
    if images.shape[-1] != channels:
        raise InputError(
            f'a convolution made for {channels} channels got images of {images.shape[-1]}'
        )
    if cpu.enabled():
        return convolve(images, kernel, strides, padding, in_scan=in_scan, **kwargs)
    return lax.conv_general_dilated(images, kernel, strides, padding, **kwargs)


def _convolve_standardized(
    general: Callable[..., Array],
    squared_divisor: Callable[[Array, int], Array],
    images: Float[Array, 'n *space c'],
    kernel: Float[Array, '*taps c_per_group features'],
    *args: Any,
    **kwargs: Any,
) -> Float[Array, 'n *out features']:
    """The convolution with each output channel's weights at mean 0 and a fixed variance."""
    axes = tuple(range(kernel.ndim - 1))
    exact = kernel.astype(np.promote_types(np.float32, kernel.dtype))
    fan_in = exact.size // exact.shape[-1]
    mean = jnp.mean(exact, axes, keepdims=True)
    var = jnp.var(exact, axes, keepdims=True)
    exact = (exact - mean) * lax.rsqrt(squared_divisor(var, fan_in))
    return general(images, exact.astype(kernel.dtype), *args, **kwargs)
