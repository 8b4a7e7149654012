"""Curvature: the largest eigenvalues and the trace of the Hessian of a network's loss.

The Hessian is that of the mean cross-entropy over the examples, in evaluation mode, with respect to
all parameters; batch norm's statistics are constants. It is never stored: products with vectors are
computed batch by batch, and the library matfree needs nothing else.
"""

import functools
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import Primitive
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from resnet_jax.analysis.examples import Batch
from resnet_jax.errors import InputError
from resnet_jax.training.compilation import jit

# A product with a symmetric matrix, computed on the host: runs programs, but is not traced.
Product = Callable[[Float[Array, ' size']], Float[Array, ' size']]
PROBES = 10  # random vectors for the trace


def need_matfree() -> None:
    """Checks that matfree is installed.

    Raises:
      InputError: if it is not; the message names the extra.
    """
    if importlib.util.find_spec('matfree') is None:
        raise InputError('--curvature needs matfree: pip install "resnet-jax[analysis]"')


def lanczos_steps(count: int, size: int) -> int:
    """The products for `count` eigenvalues: the outer ones, of which there are few, come first."""
    return min(size, 4 * count + 20)


def curvature(
    model: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[Batch],
    count: int,
    *,
    seed: int = 0,
    notice: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """The curvature of a network's loss at its weights.

    Args:
      model: the network.
      variables: `params` and `batch_stats`.
      batches: the examples, read once for each product.
      count: of eigenvalues.
      seed: of the random vectors.
      notice: called after each product.

    Returns:
      'eigenvalues', the largest, descending, and 'residuals', within which of each there is an
      eigenvalue for certain; 'smallest_eigenvalue'; 'convexity', |smallest| / largest (li2018,
      section 6; 0 in a convex place), None where the largest is not above zero; 'trace' and
      'trace_error', the standard error of this estimate.
    """
    product = hessian_product(model, variables, batches)

    def noticed(vector: Array) -> Array:
        found = product(vector)
        notice()
        return found

    size = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    values, residuals = eigenvalues(noticed, size, lanczos_steps(count, size), seed)
    mean, error = trace(noticed, size, PROBES, seed)
    largest, smallest = float(values[0]), float(values[-1])
    return {
        'eigenvalues': values[:count].tolist(),
        'residuals': residuals[:count].tolist(),
        'smallest_eigenvalue': smallest,
        'convexity': max(-smallest, 0.0) / largest if largest > 0 else None,
        'trace': mean,
        'trace_error': error,
    }


def hessian_product(
    model: nn.Module, variables: Mapping[str, Any], batches: Iterable[Batch]
) -> Product:
    """The product of the Hessian and a flat vector, in the order of `ravel_pytree(params)`.

    Args:
      model: the network.
      variables: `params` and `batch_stats`.
      batches: the examples, read once for each product.
    """
    program = _product_of_batch(model)

    def product(vector: Array) -> Array:
        total, n = np.zeros(vector.shape), 0
        for batch in batches:
            labels, mask = jnp.asarray(batch.labels), jnp.asarray(batch.mask)
            total += np.asarray(program(variables, vector, batch.images, labels, mask))
            n += int(batch.mask.sum())
        return jnp.asarray(total / n, vector.dtype)

    return product


@functools.lru_cache(maxsize=4)
def _product_of_batch(model: nn.Module) -> Any:
    def run(variables: Any, vector: Array, images: Array, labels: Array, mask: Array) -> Array:
        flat, shaped = ravel_pytree(variables['params'])

        def loss(flat: Array) -> Array:
            at = {**variables, 'params': shaped(flat)}
            logits: Any = model.apply(at, images, train=False)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.sum(jnp.where(mask, losses, 0))

        return jax.jvp(jax.grad(loss), (flat,), (vector,))[1]

    return jit(run)


def eigenvalues(
    product: Product, size: int, steps: int, seed: int = 0
) -> tuple[Float[np.ndarray, ' steps'], Float[np.ndarray, ' steps']]:
    """Approximate eigenvalues of a symmetric matrix, by Lanczos' method with matfree.

    The outer ones converge first. The basis of `steps` vectors is kept, and orthogonalised in each
    step: without, eigenvalues come out twice.

    Args:
      product: with the matrix.
      size: of the matrix.
      steps: products.
      seed: of the first vector.

    Returns:
      Eigenvalues, descending, and for each a distance within which the matrix has one.
    """
    from matfree import decomp

    start = jnp.asarray(np.random.default_rng(seed).standard_normal(size), jnp.float32)
    # matfree's loop is a program, which could not read examples. Without jit JAX runs it in Python,
    # and evaluates the primitive as it stands.
    with jax.disable_jit(), jax.numpy_dtype_promotion('standard'):
        found = decomp.tridiag_sym(steps, custom_vjp=False)(
            functools.partial(_on_host.bind, product=product), start
        )
    values, vectors = np.linalg.eigh(np.asarray(found.J_small, np.float64))
    residuals = np.linalg.norm(np.asarray(found.residual)) * np.abs(vectors[-1])
    residuals += np.finfo(np.float32).eps * np.abs(values).max()  # of the products themselves
    return values[::-1], residuals[::-1]


def trace(product: Product, size: int, probes: int, seed: int = 0) -> tuple[float, float]:
    """The trace of a symmetric matrix, by Hutchinson's estimator with matfree.

    Args:
      product: with the matrix.
      size: of the matrix.
      probes: random vectors of signs.
      seed: of these.

    Returns:
      The estimate, and its standard error.
    """
    from matfree import stochtrace

    of_one, draw = (
        stochtrace.monte_carlo_trace(),
        stochtrace.sampler_signs(jnp.zeros(size), num=1),
    )
    keys = jax.random.split(jax.random.key(seed), probes)
    found = [float(of_one(product, draw(key)[0])) for key in keys]
    return float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(probes))


def _run_product(vector: Array, *, product: Product) -> Array:
    with jax.disable_jit(False):
        return product(vector)


# A product as an operation that can be traced, and is run by Python: not by a callback from a
# program, inside of which other programs must not be started.
_on_host = Primitive('product_on_host')
_on_host.def_impl(_run_product)
_on_host.def_abstract_eval(lambda vector, *, product: vector)
