"""Parameters and multiply-adds of a model, exactly and without computing anything."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import core

from resnet_jax.models import cpu
from resnet_jax.models.counts import COUNTS
from resnet_jax.models.registry import create_model, model_row

# A training step computes each product three times (forward, and the gradients of both factors),
# and a multiply-add is two operations.
FLOPS_PER_MULTIPLY_ADD = 3 * 2


class Counts(NamedTuple):
    """The size of a model.

    Attributes:
      parameters: entries of `params`.
      multiply_adds: of the forward pass for one image.
    """

    parameters: int
    multiply_adds: int


def count(model: nn.Module, image_shape: tuple[int, ...]) -> Counts:
    """Counts a model by tracing its `init`, which is also its forward pass.

    Multiply-adds follow the published figures (he2015, table 1, "FLOPs"): convolutions and matrix
    products only, positions in the padding included.

    Args:
      model: a module with the interface of `ResNet`. A deep one is counted in a fraction of the
        time with scan_blocks=True, and comes out the same.
      image_shape: [H, W, C] in two dimensions, [T, H, W, C] in three; [L] for an embedding.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), getattr(model, 'input_dtype', jnp.float32))

    def init(x: jax.Array) -> Any:
        return model.init(jax.random.key(0), x, train=False)

    with cpu.disabled():
        jaxpr, variables = jax.make_jaxpr(init, return_shape=True)(images)
    return Counts(
        count_parameters(variables['params']),
        sum(times * _multiply_adds(eqn) for eqn, times in _equations(jaxpr.jaxpr)),
    )


def model_counts(name: str) -> Counts:
    """Counts of a registered model for one image of its published size.

    Looked up in counts.py; a model that is not stored there is traced, which takes seconds.

    Raises:
      InputError: for an unknown name.
    """
    row = model_row(name)
    if name in COUNTS:
        return Counts(*COUNTS[name])
    return count(create_model(name, scan_blocks=True), row.image_shape)


def count_parameters(params: Any) -> int:
    """Number of entries in a tree of arrays or of `jax.ShapeDtypeStruct`."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _equations(jaxpr: core.Jaxpr) -> Iterator[tuple[core.JaxprEqn, int]]:
    """All equations, including those inside others, and how often each is computed."""
    for eqn in jaxpr.eqns:
        yield eqn, 1
        times = eqn.params['length'] if eqn.primitive.name == 'scan' else 1
        for value in eqn.params.values():
            inner = value.jaxpr if isinstance(value, core.ClosedJaxpr) else value
            if isinstance(inner, core.Jaxpr):
                for each, inside in _equations(inner):
                    yield each, times * inside


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
