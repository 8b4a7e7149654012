"""A linear function with a hand-written transpose differentiates and batches like any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models.cpu.transpose import linear_with_transpose

RESIDUAL, A, B = np.array([1.0, -2.0, 3.0]), np.array([0.5, 1.0, 2.0]), np.arange(4.0)
CHANGES = (np.cos(RESIDUAL), np.sin(A), np.cos(B))


def plain(residual, a, b):
    return jnp.sin(residual) * (a + b.sum()), 2 * a


def transposed(residual, first, second):
    scaled = jnp.sin(residual) * first
    return scaled + 2 * second, jnp.full(4, scaled.sum())


def by_hand(residual, a, b):
    return linear_with_transpose(plain, transposed, residual, a, b)


def loss(function):
    def of(residual, a, b):
        first, second = function(residual, a, b)
        return jnp.sum(jnp.sin(first) * second)

    return of


def stacked(axis, *arrays):
    return [jnp.stack([array, array + 1], axis) for array in arrays]


ALL = (0, 1, 2)
CASES = {
    'value': lambda f: f(RESIDUAL, A, B),
    'gradient': lambda f: jax.grad(f, ALL)(RESIDUAL, A, B),
    'gradient of some': lambda f: jax.grad(f, (0, 2))(RESIDUAL, A, B),
    'direction': lambda f: jax.jvp(f, (RESIDUAL, A, B), CHANGES),
    'hessian': lambda f: jax.hessian(f, ALL)(RESIDUAL, A, B),
    'reverse over reverse': lambda f: jax.jacrev(jax.grad(f, ALL), ALL)(RESIDUAL, A, B),
    'recomputed': lambda f: jax.grad(jax.checkpoint(f), ALL)(RESIDUAL, A, B),
    'mapped': lambda f: jax.vmap(f, 1)(*stacked(1, RESIDUAL, A, B)),
    'mapped gradient': lambda f: jax.vmap(jax.grad(f, ALL), (None, 0, None))(
        RESIDUAL, *stacked(0, A), B
    ),
    'gradient of mapped': lambda f: jax.grad(
        lambda r, a, b: jax.vmap(f, (1, None, 0))(r, a, b).sum(), ALL
    )(*stacked(1, RESIDUAL), A, *stacked(0, B)),
    'shared residual': lambda f: jax.grad(
        lambda r, a, b: jax.vmap(f, (None, 1, 0))(r, a, b).sum(), ALL
    )(RESIDUAL, *stacked(1, A), *stacked(0, B)),
}


# Without jit each small operation is compiled by itself.
@pytest.mark.parametrize('jit', [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize('case', CASES)
def test_all_derivatives_equal_those_of_the_plain_function(case, jit):
    def run(function):
        compute = CASES[case]
        whole = lambda: compute(loss(function))  # noqa: E731
        return (jax.jit(whole) if jit else whole)()

    with jax.enable_x64(True):
        results = run(by_hand), run(plain)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12), *results)


def test_the_gradient_uses_the_given_transpose():
    """Otherwise the test above would prove nothing."""

    def wrong(residual, first, second):
        return jnp.full(3, 7.0), jnp.full(4, 5.0)

    gradients = jax.grad(loss(lambda *a: linear_with_transpose(plain, wrong, *a)), (1, 2))(
        RESIDUAL, A, B
    )
    np.testing.assert_array_equal(gradients[0], jnp.full(3, 7.0))
    np.testing.assert_array_equal(gradients[1], jnp.full(4, 5.0))
