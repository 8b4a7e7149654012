"""Small models with random weights, and what tests compute with them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from formulas import EPSILON

from resnet_jax.models import create_model
from resnet_jax.models.block import ResidualBlock
from resnet_jax.models.convolution import convolution
from resnet_jax.models.design import BASIC, BOTTLENECK, BlockDesign
from resnet_jax.models.norms import make_norm
from resnet_jax.models.rows import MODELS

LABELS = jnp.array([0, 1, 2, 1])
# For what runs once or twice on little: compiles in a fraction of the time.
fast_jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
ONE_LAYER = BlockDesign(kernels=(3,))  # he2016, table 3
DESIGNS = {'one_layer': ONE_LAYER, 'basic': BASIC, 'bottleneck': BOTTLENECK}


def make_block(design, width=4, stride=1, first=False, dimensions=2, norm='batch', **kwargs):
    settings = {'momentum': 0.9, 'epsilon': EPSILON, 'dtype': jnp.float32}
    settings |= {'groups': 2, 'ghost_batch': 0, 'axis_name': None}
    conv = functools.partial(convolution, dimensions=dimensions)
    return ResidualBlock(design, width, stride, first, conv, make_norm(norm, **settings), **kwargs)


def distinct_designs():
    """The distinct designs of the registered models, at reduced depth, with their first names."""
    found = {}
    for name, row in MODELS.items():
        stages = len(row.settings['stage_sizes'])
        found.setdefault(create_model(name, stage_sizes=(2,) + (1,) * (stages - 1)), name)
    return found


def randomised(variables, seed=0):
    """A tree of the same shapes with random weights, scales, biases and statistics."""
    leaves, tree = jax.tree.flatten_with_path(variables)
    rng = np.random.default_rng(seed)
    new = []
    for path, leaf in leaves:
        low, high = (0.5, 1.5) if path[-1].key in ('scale', 'var') else (-0.5, 0.5)
        new.append(jnp.asarray(rng.uniform(low, high, leaf.shape), leaf.dtype))
    return jax.tree.unflatten(tree, new)


def random_variables(model, shape, seed=0):
    """Random variables of a model or block for images of this shape."""
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    return randomised(
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images), seed
    )


def random_images(shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def assert_close(actual, expected, tolerance=1e-5):
    """Equal up to float32 rounding, relative to the largest entry."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    atol = tolerance * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=atol)


def replace(design=BASIC, **fields):
    return dataclasses.replace(design, **fields)


def loss_and_all(model, variables, images, **rngs):
    """Loss, (new batch statistics, logits) and gradients of one training step."""

    def loss(params):
        logits, state = model.apply(
            {**variables, 'params': params}, images, train=True, mutable=['batch_stats'], **rngs
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
        return losses.mean(), (state, logits)

    (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(variables['params'])
    return value, aux, gradient
