"""Linear functions with a hand-written transpose.

Gradients consist of transposed linear functions, which JAX derives: a broadcast becomes a sum, a
convolution in its kernel becomes a convolution with other layouts. Where a backend runs the derived
transpose slowly, `linear_with_transpose` puts another in its place. Forward differentiation still
works, unlike with `jax.custom_vjp`, and so does `vmap`, unlike with
`jax.custom_derivatives.linear_call`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

# (residual, *args) -> results
Function = Callable[..., Sequence[Array]]


def linear_with_transpose(
    function: Function, transpose: Function, residual: Array, *args: Array
) -> list[Array]:
    """Computes `function(residual, *args)`; its transpose in `args` is `transpose`.

    Args:
      function: returns a sequence of arrays, linear in `args`.
      transpose: maps the residual and the cotangents of all results to those of all `args`.
      residual: the argument in which the function need not be linear; differentiated as usual.
      *args: arrays.
    """
    return primitive.bind(residual, *args, function=function, transpose=transpose)


def _call(*args: Array, function: Function, transpose: Function) -> list[Array]:
    return list(function(*args))


def _abstract(*args: Any, function: Function, transpose: Function) -> list[Any]:
    shapes = jax.eval_shape(function, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in args))
    return [jax.core.ShapedArray(shape.shape, shape.dtype) for shape in shapes]


def _jvp(primals: Any, tangents: Any, **rules: Function) -> tuple[list[Array], list[Array]]:
    (residual, *args), (to_residual, *to_args) = primals, tangents
    results = primitive.bind(residual, *args, **rules)
    changes = []
    if any(type(tangent) is not ad.Zero for tangent in to_args):
        changes.append(primitive.bind(residual, *map(ad.instantiate_zeros, to_args), **rules))
    if type(to_residual) is not ad.Zero:
        in_residual = functools.partial(_in_residual, rules['function'], args)
        changes.append(jax.jvp(in_residual, (residual,), (to_residual,))[1])
    return results, [sum(each[1:], each[0]) for each in zip(*changes, strict=True)]


def _in_residual(function: Function, args: Sequence[Array], residual: Array) -> list[Array]:
    return list(function(residual, *args))


def _transpose(
    cotangents: Any, residual: Array, *args: Any, function: Function, transpose: Function
) -> list[Any]:
    given = map(ad.instantiate_zeros, cotangents)
    found = primitive.bind(residual, *given, function=transpose, transpose=function)
    return [
        None,
        *(
            cotangent if ad.is_undefined_primal(arg) else None
            for arg, cotangent in zip(args, found, strict=True)
        ),
    ]


def _batch(
    args: Any, axes: Any, function: Function, transpose: Function
) -> tuple[list[Array], list[int]]:
    moved = [
        arg if axis is None else jax.numpy.moveaxis(arg, axis, 0)
        for arg, axis in zip(args, axes, strict=True)
    ]
    first = [None if axis is None else 0 for axis in axes]

    def transpose_all(residual: Array, *cotangents: Array) -> list[Array]:
        mapped = jax.vmap(transpose, (first[0], *(0,) * len(cotangents)))(residual, *cotangents)
        # An argument that all examples share gets the sum of their cotangents.
        return [
            each.sum(0) if axis is None else each
            for axis, each in zip(first[1:], mapped, strict=True)
        ]

    results = primitive.bind(*moved, function=jax.vmap(function, first), transpose=transpose_all)
    return results, [0] * len(results)


primitive = Primitive('linear_with_transpose')
primitive.multiple_results = True
primitive.def_impl(_call)
primitive.def_abstract_eval(_abstract)
ad.primitive_jvps[primitive] = _jvp
ad.primitive_transposes[primitive] = _transpose
batching.primitive_batchers[primitive] = _batch
mlir.register_lowering(primitive, mlir.lower_fun(_call, multiple_results=True))
