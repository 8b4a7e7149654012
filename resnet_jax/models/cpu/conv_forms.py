"""Convolutions written for XLA's CPU backend; `convolve` chooses the form."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from resnet_jax.models.cpu.transpose import Function, linear_with_transpose

Images = Float[Array, 'n *space c']
Kernel = Float[Array, '*taps c features']
# Pixels whose windows fit into a processor's cache beside the gradient's.
PIXELS_AT_ONCE = 16384


def convolve(
    images: Images,
    kernel: Float[Array, '*taps c_per_group features'],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    in_scan: bool,
    **kwargs: Any,
) -> Float[Array, 'n *out features']:
    """`lax.conv_general_dilated` of [N, ..., C] images in the form that is fastest on a CPU.

    - In the body of a scan, convolutions of stride 1 take `convolve_plainly`: XLA runs only the
      layouts NHWC and HWIO fast, and brings others, which the gradient of
      `lax.conv_general_dilated` has, into these at the outermost level only. In a scan that
      gradient is some 25 times slower.
    - Images or results smaller than the kernel take `convolve_by_patches`: XLA exchanges the two
      operands, there or in the gradient, and misses its fast convolution: 0.27 s instead of 0.004 s
      for 512 channels, 3x3, on 32 images of 2x2 pixels; 0.07 s instead of 0.002 s for the gradient
      where they become so (jax 0.10.1, 2 cores).
    - Few channels take `convolve_narrowly`.

    Args:
      images: the images.
      kernel: the kernel.
      strides: in each dimension.
      padding: (before, after) in each dimension, of half the kernel.
      in_scan: whether the convolution stands in the body of a `lax.scan`.
      **kwargs: of `lax.conv_general_dilated`.
    """
    plain = kwargs['feature_group_count'] == 1
    dilation = set(kwargs.get('rhs_dilation') or (1,))
    large = all(i >= k for i, k in zip(images.shape[1:-1], kernel.shape[:-2], strict=True))
    odd = all(k % 2 for k in kernel.shape[:-2])
    if in_scan and plain and large and odd and set(strides) == {1} and len(dilation) == 1:
        return convolve_plainly(images, kernel, dilation.pop())
    # The gradient towards the kernel transposes the images, and XLA would recompute everything
    # since the previous convolution inside that transposition; through identity shortcuts that is
    # the whole stage, and two thirds of a step of ResNet-110. Only programs compiled with
    # compiler.CPU_OPTIONS keep the barrier; elsewhere it changes nothing.
    images = lax.optimization_barrier(images)
    plain = plain and dilation == {1}
    output = [-(-i // s) for i, s in zip(images.shape[1:-1], strides, strict=True)]
    if plain and math.prod(output) < math.prod(kernel.shape[:-2]):
        return convolve_by_patches(images, kernel, strides, padding)
    if plain and len(set(strides)) == 1 and is_narrow(images, kernel, strides[0]):
        return convolve_narrowly(images, kernel, strides[0])
    return lax.conv_general_dilated(images, kernel, strides, padding, **kwargs)


def convolve_plainly(
    images: Images, kernel: Kernel, dilation: int
) -> Float[Array, 'n *space features']:
    """A convolution of stride 1 whose gradients are convolutions in the same layouts.

    Args:
      images: padded by half the kernel.
      kernel: odd sizes.
      dilation: distance of the taps.
    """
    towards_kernel: Function = functools.partial(
        _kernel_gradient_plainly, padding=_half(kernel, dilation), dilation=dilation
    )
    if dilation == 1 and is_narrow(images, kernel, 1):
        towards_kernel = _kernel_gradient_by_rows
    towards_images = functools.partial(_image_gradient_plainly, dilation=dilation)
    return _convolve(images, kernel, 1, dilation, towards_images, towards_kernel)


def convolve_narrowly(
    images: Float[Array, 'n h w c'], kernel: Float[Array, '3 3 c features'], strides: int
) -> Float[Array, 'n h_out w_out features']:
    """A convolution of few channels (see `is_narrow`), with faster gradients than XLA's.

    Args:
      images: padded by one pixel.
      kernel: the kernel.
      strides: in both dimensions, 1 or 2.
    """
    if strides == 1:
        return _convolve(images, kernel, 1, 1, None, _kernel_gradient_by_rows)
    return _convolve(images, kernel, 2, 1, _image_gradient_by_phases, None)


def is_narrow(images: Images, kernel: Kernel, strides: int) -> bool:
    """Whether `convolve_narrowly` is the faster form of a convolution without groups.

    Measured in the step of ResNet-20 at batch 128 (jax 0.10.1, 2 cores): with 16 channels 6 ms
    instead of 8 for the gradient towards the kernel, and 7 instead of 12 for that towards the
    images with stride 2; with twice the channels both are slower.
    """
    *taps, channels, features = kernel.shape
    plain = taps == [3, 3] and images.dtype == kernel.dtype == jnp.float32
    if not plain or not 8 <= channels <= 16:
        return False
    if strides == 1:
        return 8 <= features <= 16
    return strides == 2 and features <= 32 and not any(size % 2 for size in images.shape[1:3])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4, 5))
def _convolve(
    images: Array,
    kernel: Array,
    strides: int,
    dilation: int,
    towards_images: Function | None,
    towards_kernel: Function | None,
) -> Array:
    """The convolution, with its gradients computed by two functions of the other operand and the
    gradient of the result; None leaves XLA's.
    """
    return _same_layout(images, kernel, _half(kernel, dilation), strides, dilation)


@functools.partial(_convolve.defjvp, symbolic_zeros=True)
def _convolve_jvp(
    strides: int,
    dilation: int,
    towards_images: Function | None,
    towards_kernel: Function | None,
    primals: Any,
    tangents: Any,
) -> Any:
    (images, kernel), (to_images, to_kernel) = primals, tangents
    padding = _half(kernel, dilation)

    def of_kernel(images: Array, kernel: Array) -> tuple[Array]:
        return (_same_layout(images, kernel, padding, strides, dilation),)

    def of_images(kernel: Array, images: Array) -> tuple[Array]:
        return of_kernel(images, kernel)

    changes: list[Array] = []
    for function, transpose, residual, tangent in (
        (of_images, towards_images, kernel, to_images),
        (of_kernel, towards_kernel, images, to_kernel),
    ):
        if isinstance(tangent, SymbolicZero):
            continue
        if transpose is None:
            changes += function(residual, tangent)
        else:
            changes += linear_with_transpose(function, transpose, residual, tangent)
    (result,) = of_kernel(images, kernel)
    return result, sum(changes[1:], changes[0]) if changes else jnp.zeros_like(result)


def _half(kernel: Array, dilation: int) -> list[tuple[int, int]]:
    return [(dilation * (k // 2),) * 2 for k in kernel.shape[:-2]]


def _same_layout(
    x: Array, kernel: Array, padding: Any, strides: int = 1, dilation: int = 1
) -> Array:
    dims = x.ndim - 2
    letters = 'DHW'[-dims:]
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides,) * dims,
        padding,
        rhs_dilation=(dilation,) * dims,
        dimension_numbers=(f'N{letters}C', f'{letters}IO', f'N{letters}C'),
    )


def _image_gradient_plainly(kernel: Array, grad: Array, *, dilation: int) -> tuple[Array]:
    """The convolution of the gradient with the kernel mirrored and its channels exchanged."""
    mirrored = jnp.flip(kernel, range(kernel.ndim - 2)).swapaxes(-1, -2)
    return (_same_layout(grad, mirrored, _half(kernel, dilation), dilation=dilation),)


def _image_gradient_by_phases(kernel: Array, grad: Array) -> tuple[Array]:
    """The gradient of a 3x3 convolution with stride 2 on even sizes.

    A 2x2 convolution with stride 1 computes each 2x2 pixels of the images as channels of one.
    """
    channels, features = kernel.shape[-2:]
    examples, height, width, _ = grad.shape
    # Tap (2 a + b) of a fourth row and column of zeros is tap a of phase b.
    taps = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    taps = taps.reshape(2, 2, 2, 2, channels, features)[::-1, :, ::-1]
    phases = taps.transpose(0, 2, 5, 1, 3, 4).reshape(2, 2, features, 4 * channels)
    pixels = _same_layout(grad, phases, [(1, 1)] * 2)
    pixels = pixels.reshape(examples, height + 1, width + 1, 2, 2, channels)
    pixels = pixels.transpose(0, 1, 3, 2, 4, 5)
    pixels = pixels.reshape(examples, 2 * height + 2, 2 * width + 2, channels)
    return (pixels[:, 1:-1, 1:-1],)


def _kernel_gradient_plainly(
    images: Array, grad: Array, *, padding: Any, dilation: int
) -> tuple[Array]:
    """A convolution of the images with the gradient, one result per tap.

    Channels and examples exchange their roles.
    """
    examples_last = jnp.moveaxis(images, 0, -1)
    channels_first = jnp.moveaxis(examples_last, -2, 0)
    by_tap = _same_layout(channels_first, jnp.moveaxis(grad, 0, -2), padding, strides=dilation)
    return (jnp.moveaxis(by_tap, 0, -2),)


def _kernel_gradient_by_rows(images: Array, grad: Array) -> tuple[Array]:
    """One matrix product for all taps of a 3x3 kernel.

    Its factors are the images shifted along the width and the gradient shifted along the height,
    for as many examples at a time as fit into the cache.
    """
    examples, height, width, channels = images.shape
    features = grad.shape[-1]
    parts = math.ceil(examples * height * width / PIXELS_AT_ONCE)
    parts = next((n for n in range(parts, examples) if examples % n == 0), examples)
    # Each part takes every parts-th example, so that devices that share the examples all have some.
    images, grad = (
        each.reshape(-1, parts, *each.shape[1:])
        for each in lax.optimization_barrier((images, grad))
    )

    def add_part(index: Array, total: Array) -> Array:
        image, other = (
            lax.dynamic_index_in_dim(each, index, 1, keepdims=False) for each in (images, grad)
        )
        windows, others = _shifted(image, 2, (-1, 0, 1)), _shifted(other, 1, (1, 0, -1))
        return total + lax.dot_general(windows, others, (((0,), (0,)), ((), ())))

    total = jnp.zeros((3 * channels, 3 * features), images.dtype)
    total = lax.fori_loop(0, parts, add_part, total)
    return (total.reshape(3, channels, 3, features).transpose(2, 0, 1, 3),)


def _shifted(x: Array, axis: int, shifts: Sequence[int]) -> Array:
    """Copies of [N, H, W, C] shifted along an axis, filled with zeros, side by side.

    Returns:
      [N * H * W, len(shifts) * C].
    """
    most = max(map(abs, shifts))
    padded = jnp.pad(x, [(most, most) if i == axis else (0, 0) for i in range(x.ndim)])
    size = x.shape[axis]
    copies = [lax.slice_in_dim(padded, most + s, most + s + size, axis=axis) for s in shifts]
    # Materialize the copies; fused into the product, each entry would select them again.
    return lax.optimization_barrier(
        jnp.concatenate(copies, -1).reshape(-1, len(shifts) * x.shape[-1])
    )


def convolve_by_patches(
    images: Images, kernel: Kernel, strides: Sequence[int], padding: Sequence[tuple[int, int]]
) -> Float[Array, 'n *out features']:
    """A convolution as one matrix product of the kernel with all patches that it covers.

    Args:
      images: the images.
      kernel: the kernel.
      strides: in each dimension.
      padding: (before, after) in each dimension.
    """
    images = jnp.pad(images, [(0, 0), *padding, (0, 0)])
    examples, *sizes, channels = images.shape
    *taps, _, features = kernel.shape
    output = [(i - k) // s + 1 for i, k, s in zip(sizes, taps, strides, strict=True)]
    patches = []
    for tap in itertools.product(*map(range, taps)):
        ends = [t + s * (o - 1) + 1 for t, s, o in zip(tap, strides, output, strict=True)]
        patches.append(
            lax.slice(images, (0, *tap, 0), (examples, *ends, channels), (1, *strides, 1))
        )
    # Transposed, so that the gradient towards the images multiplies with the kernel as it is
    # stored: transposing that takes longer than the product.
    columns = lax.optimization_barrier(
        jnp.concatenate(patches, -1).reshape(-1, kernel.size // features).T
    )
    product = lax.dot_general(columns, kernel.reshape(-1, features), (((0,), (0,)), ((), ())))
    return product.reshape(examples, *output, features)
