"""Parameters and multiply-adds, counted from the model itself without computing anything."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import core


class Counts(NamedTuple):
    """The size of a model: entries of `params`, and multiply-adds of one image's forward pass."""

    parameters: int
    multiply_adds: int


def count(model: nn.Module, image_shape: tuple[int, int, int]) -> Counts:
    """Counts a model by tracing its `init`, which is also its forward pass.

    Multiply-adds follow the published figures (he2015, table 1, "FLOPs"): convolutions and matrix
    products alone, positions in the padding included.

    Args:
      model: a module called as `ResNet` is.
      image_shape: [H, W, C].
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)

    def init(x: jax.Array) -> Any:
        return model.init(jax.random.key(0), x, train=False)

    jaxpr, variables = jax.make_jaxpr(init, return_shape=True)(images)
    return Counts(
        count_parameters(variables['params']),
        sum(_multiply_adds(eqn) for eqn in _equations(jaxpr.jaxpr)),
    )


def count_parameters(params: Any) -> int:
    """Number of entries in a tree of arrays or of `jax.ShapeDtypeStruct`."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            if isinstance(value, core.ClosedJaxpr):
                yield from _equations(value.jaxpr)
            elif isinstance(value, core.Jaxpr):
                yield from _equations(value)


def _shape(variable: core.Var | core.Literal) -> tuple[int, ...]:
    aval = variable.aval
    assert isinstance(aval, jax.core.ShapedArray)
    return aval.shape


def _multiply_adds(eqn: core.JaxprEqn) -> int:
    if eqn.primitive.name == 'conv_general_dilated':
        kernel = _shape(eqn.invars[1])
        output_channels = kernel[eqn.params['dimension_numbers'].rhs_spec[0]]
        # Each output entry sums over the kernel's taps and the input channels of its group.
        return math.prod(_shape(eqn.outvars[0])) * math.prod(kernel) // output_channels
    if eqn.primitive.name == 'dot_general':
        (contracted, _), _ = eqn.params['dimension_numbers']
        left = _shape(eqn.invars[0])
        return math.prod(_shape(eqn.outvars[0])) * math.prod(left[i] for i in contracted)
    return 0
