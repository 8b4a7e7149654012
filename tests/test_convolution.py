"""The models' convolution in all its forms equals XLA's, and so do its derivatives."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from members import members

from resnet_jax.models.convolution import convolution
from resnet_jax.models.cpu.conv_forms import (
    PIXELS_AT_ONCE,
    convolve_by_patches,
    convolve_narrowly,
    convolve_plainly,
    is_narrow,
)


def reference(images, kernel, stride):
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        images, kernel, (stride,) * 2, [(pad, pad)] * 2, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('kernel_size', [3, 7])
@pytest.mark.parametrize('size', [(1, 2), (2, 2), (4, 6)])
def test_by_patches_equals_the_convolution_and_its_gradients(size, kernel_size, stride):
    keys = jax.random.split(jax.random.key(0), 2)
    images = jax.random.normal(keys[0], (2, *size, 3))
    kernel = jax.random.normal(keys[1], (kernel_size, kernel_size, 3, 4))
    pad = kernel_size // 2

    def by_patches(images, kernel):
        return convolve_by_patches(images, kernel, (stride,) * 2, [(pad, pad)] * 2)

    @functools.partial(jax.jit, static_argnums=0)
    def with_gradients(conv, images, kernel):
        y, pull = jax.vjp(conv, images, kernel)
        return y, pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    expected = with_gradients(lambda i, k: reference(i, k, stride), images, kernel)
    actual = with_gradients(by_patches, images, kernel)
    for e, a in zip(*map(jax.tree.leaves, (expected, actual)), strict=True):
        assert a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('size', [2, 8])
def test_the_module_pads_like_the_published_models(size):
    """Half the kernel on both sides, in every form."""
    images = jax.random.normal(jax.random.key(0), (2, size, size, 3))
    module = convolution(4, 3, 2)
    variables = module.init(jax.random.key(1), images)
    expected = reference(images, variables['params']['kernel'], 2)
    np.testing.assert_allclose(module.apply(variables, images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('dimensions', [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_module_where_the_result_is_smaller_than_the_kernel(dimensions):
    """Including its gradients and its directional derivative."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 2)
        images = jax.random.normal(keys[0], (2, *(4, 3, 4)[:dimensions], 3), float)
        kernel = jax.random.normal(keys[1], (*(3,) * dimensions, 3, 5), float)
        module = convolution(5, 3, 2, dimensions=dimensions, dtype=float)
        letters = 'DHW'[-dimensions:]
        expected = functools.partial(
            lax.conv_general_dilated,
            window_strides=(2,) * dimensions,
            padding=[(1, 1)] * dimensions,
            dimension_numbers=(f'N{letters}C', f'{letters}IO', f'N{letters}C'),
        )
        results = []
        for conv in (expected, lambda x, k: module.apply({'params': {'kernel': k}}, x)):
            y, tangent = jax.jvp(conv, (images, kernel), (jnp.sin(images), jnp.cos(kernel)))
            gradients = jax.vjp(conv, images, kernel)[1](jnp.cos(y))
            results.append((y, tangent, gradients))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), *results)


# Of few channels


def narrow_operands(shape=(6, 8, 10, 8), features=16):
    """Images, kernel and a tangent of each, in the default precision."""
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = (shape, (3, 3, shape[-1], features)) * 2
    images, kernel, *changes = map(jax.random.normal, keys, shapes)
    return (images, kernel), tuple(changes)


def second_order(conv, operands, changes):
    """The directional derivative of the gradient of a function of the convolution."""

    def gradient(images, kernel):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(conv(*a))), (0, 1))(images, kernel)

    return jax.jvp(gradient, operands, changes)


# 66 images of 32x16 are three parts of the kernel's gradient, 6 of 8x10 are one.
@pytest.mark.parametrize('shape', [(6, 8, 10, 8), (66, 32, 16, 8), (1, 2, 2, 12)], ids=str)
@pytest.mark.parametrize('stride', [pytest.param(1, marks=pytest.mark.slow), 2])
def test_narrow_convolution_and_its_derivatives(shape, stride):
    assert is_narrow(*narrow_operands(shape)[0], stride)
    assert (math.prod(shape[:3]) > PIXELS_AT_ONCE) == (shape[0] == 66)

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(function, operands, changes):
        def conv(images, kernel):
            return function(images, kernel, stride)

        y, tangent = jax.jvp(conv, operands, changes)
        return y, tangent, jax.vjp(conv, *operands)[1](changes[0].sum() * jnp.cos(y))

    with jax.enable_x64(True):
        results = [derivatives(f, *narrow_operands(shape)) for f in (reference, convolve_narrowly)]
    for e, a in zip(*map(jax.tree.leaves, results), strict=True):
        assert a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=1e-10, atol=1e-12 * np.abs(e).max())


@pytest.mark.parametrize('stride', [1, 2])
def test_narrow_convolution_is_differentiated_twice_and_mapped(stride):
    def mapped(conv, axes):
        def loss(images, kernel):
            return jnp.sum(jnp.sin(jax.vmap(conv, axes, axes[0] or 0)(images, kernel)))

        return jax.grad(loss, (0, 1))

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(function, operands, changes):
        def conv(images, kernel):
            return function(images, kernel, stride)

        images, kernel = operands
        many_images, many_kernels = (jnp.stack([each, 2 * each], 1) for each in operands)
        return (
            second_order(conv, operands, changes),
            mapped(conv, (1, 1))(many_images, many_kernels),
            mapped(conv, (1, None))(many_images, kernel),
            mapped(conv, (None, 1))(images, many_kernels),
            jax.vmap(mapped(conv, (1, None)), (0, None))(many_images[None], kernel),
        )

    with jax.enable_x64(True):
        results = [derivatives(f, *narrow_operands()) for f in (reference, convolve_narrowly)]
    for e, a in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-10, atol=1e-12 * np.abs(e).max())


def test_derivatives_of_one_operand_leave_the_other_alone():
    """A frozen kernel costs nothing; operations are counted in the program before compilation."""
    (images, kernel), _ = narrow_operands()

    def count(function):
        text = jax.jit(function).lower(images, kernel).as_text()
        return text.count('stablehlo.convolution'), text.count('stablehlo.dot_general')

    def gradient(argument):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(convolve_narrowly(*a, 1))), argument)

    def direction(images, kernel):
        return jax.jvp(lambda i: convolve_narrowly(i, kernel, 1), (images,), (images,))

    assert count(gradient(0)) == (2, 0)
    assert count(gradient(1)) == (1, 1)
    assert count(direction) == (2, 0)


# In a scan


def reference_nd(images, kernel, dilation):
    dims = images.ndim - 2
    letters = 'DHW'[-dims:]
    return lax.conv_general_dilated(
        images,
        kernel,
        (1,) * dims,
        [(dilation * (k // 2),) * 2 for k in kernel.shape[:-2]],
        rhs_dilation=(dilation,) * dims,
        dimension_numbers=(f'N{letters}C', f'{letters}IO', f'N{letters}C'),
    )


@pytest.mark.parametrize('dilation', members([1, 2], (1,)))
@pytest.mark.parametrize(
    ('size', 'kernel_size'), [((9,), 3), ((9,), 5), ((7, 6), 1), ((7, 6), 3), ((5, 6, 7), 3)]
)
def test_plain_convolution_and_its_gradients(size, kernel_size, dilation):
    dims = len(size)
    keys = jax.random.split(jax.random.key(0), 2)
    images = jax.random.normal(keys[0], (2, *size, 3))
    kernel = jax.random.normal(keys[1], (*(kernel_size,) * dims, 3, 4))
    expected, expected_vjp = jax.vjp(lambda i, k: reference_nd(i, k, dilation), images, kernel)
    actual, actual_vjp = jax.vjp(lambda i, k: convolve_plainly(i, k, dilation), images, kernel)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    for a, e in zip(actual_vjp(jnp.cos(expected)), expected_vjp(jnp.cos(expected)), strict=True):
        assert a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5 * jnp.abs(e).max())


@pytest.mark.parametrize('size', members([2, 7], (2,)))
@pytest.mark.parametrize(
    'settings',
    members(
        [{}, {'strides': 2}, {'dilation': 2}, {'groups': 2}, {'standardize': 'fan_in'}],
        ({'strides': 2}, {'groups': 2}),
    ),
    ids=str,
)
def test_the_module_is_the_same_in_a_scan(settings, size):
    images = jax.random.normal(jax.random.key(0), (2, size, size, 4))
    outside, inside = (convolution(4, 3, **settings, in_scan=scan) for scan in (False, True))
    variables = outside.init(jax.random.key(1), images)

    def loss(module, variables):
        return jnp.sum(jnp.sin(module.apply(variables, images)))

    for module in (outside, inside):
        kernel = variables['params']['kernel']
        if settings.get('standardize'):
            continue
        expected = lax.conv_general_dilated(
            images,
            kernel,
            (settings.get('strides', 1),) * 2,
            [(settings.get('dilation', 1),) * 2] * 2,
            rhs_dilation=(settings.get('dilation', 1),) * 2,
            feature_group_count=settings.get('groups', 1),
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )
        np.testing.assert_allclose(module.apply(variables, images), expected, rtol=1e-5, atol=1e-5)
    results = [jax.value_and_grad(loss, 1)(module, variables) for module in (outside, inside)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)
