"""The convolution of the models is the convolution, also where it is computed another way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from resnet_jax.models.convolution import convolution, convolve_by_position


def reference(images, kernel, stride):
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        images, kernel, (stride,) * 2, [(pad, pad)] * 2, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('kernel_size', [3, 7])
@pytest.mark.parametrize('size', [(1, 2), (2, 2), (4, 6)])
def test_by_position_equals_the_convolution_and_its_gradients(size, kernel_size, stride):
    keys = jax.random.split(jax.random.key(0), 2)
    images = jax.random.normal(keys[0], (2, *size, 3))
    kernel = jax.random.normal(keys[1], (kernel_size, kernel_size, 3, 4))
    pad = kernel_size // 2

    def by_position(images, kernel):
        return convolve_by_position(images, kernel, (stride,) * 2, [(pad, pad)] * 2)

    expected, expected_vjp = jax.vjp(lambda i, k: reference(i, k, stride), images, kernel)
    actual, actual_vjp = jax.vjp(by_position, images, kernel)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    for a, e in zip(actual_vjp(jnp.cos(expected)), expected_vjp(jnp.cos(expected)), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('size', [2, 8])
def test_the_module_pads_like_the_published_models(size):
    """Half the kernel on both sides, whichever way it is computed."""
    images = jax.random.normal(jax.random.key(0), (2, size, size, 3))
    module = convolution(4, 3, 2)
    variables = module.init(jax.random.key(1), images)
    expected = reference(images, variables['params']['kernel'], 2)
    np.testing.assert_allclose(module.apply(variables, images), expected, rtol=1e-5, atol=1e-6)
