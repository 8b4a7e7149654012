"""Normalisation: a row for each kind, made once by the model and handed to its parts."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import InputError, unknown_name
from resnet_jax.models.cpu.transpose import linear

Array = jax.Array
# (train, name, scale_init) -> a function of [N, ..., C], of the same shape.
MakeNorm = Callable[..., Callable[[Array], Array]]


def _variables(norm: Any, channels: int) -> tuple[Any, Any, Array, Array]:
    """Running mean and variance, scale and bias, under the paths of `nn.BatchNorm`."""
    return (
        norm.variable('batch_stats', 'mean', jnp.zeros, channels, jnp.float32),
        norm.variable('batch_stats', 'var', jnp.ones, channels, jnp.float32),
        norm.param('scale', norm.scale_init, (channels,), jnp.float32),
        norm.param('bias', nn.initializers.zeros, (channels,), jnp.float32),
    )


class GhostBatchNorm(nn.Module):
    """Batch normalisation over groups of `examples` consecutive examples (arXiv 1705.08741).

    The running statistics average over the groups; evaluation is that of plain batch norm.

    Attributes:
      examples: in a group; must divide the batch.
      momentum, epsilon, dtype, scale_init: as of `nn.BatchNorm`.
      use_running_average: whether to normalise by the running statistics.
    """

    examples: int
    momentum: float
    epsilon: float
    dtype: Any
    use_running_average: bool
    scale_init: Any = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [N, ..., C] to the same shape."""
        channels = x.shape[-1]
        mean, var, scale, bias = _variables(self, channels)
        dtype = np.promote_types(np.float32, x.dtype)
        exact, scale, bias = x.astype(dtype), scale.astype(dtype), bias.astype(dtype)
        if self.use_running_average:
            mu, sigma2 = mean.value[None].astype(dtype), var.value[None].astype(dtype)
            groups = exact[None]
        else:
            if x.shape[0] % self.examples:
                raise InputError(
                    f'ghost_batch {self.examples} does not divide the batch of {x.shape[0]}'
                )
            groups = exact.reshape(-1, self.examples, *x.shape[1:])
            axes = tuple(range(1, groups.ndim - 1))
            mu, sigma2 = jnp.mean(groups, axes), jnp.var(groups, axes)  # [groups, C]
            if not self.is_initializing():
                keep = self.momentum
                for old, new in ((mean, mu), (var, sigma2)):
                    average = jnp.mean(new, 0).astype(old.value.dtype)
                    old.value = keep * old.value + (1 - keep) * average
        shape = (mu.shape[0], *(1,) * (x.ndim - 1), channels)
        factor = (scale[None] * jax.lax.rsqrt(sigma2 + self.epsilon)).reshape(shape)
        y = (groups - mu.reshape(shape)) * factor + bias.reshape(*(1,) * x.ndim, channels)
        return y.reshape(x.shape).astype(self.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def normalize_batch(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, Array, Array]:
    """Batch normalisation in training, with the gradient of arXiv 1502.03167, section 3.

    In a scan every array that the backward pass needs is copied into a stack; this one needs only
    x and a few numbers a channel, what automatic differentiation keeps is four times as much.

    Args:
      x: [N, ..., C], float32 or float64.
      scale: [C].
      bias: [C].
      epsilon: added to the variance.

    Returns:
      y as x; mean and (biased) variance [C].
    """
    count = x.size // x.shape[-1]
    mean, square = (each / count for each in _sums(x, x))
    var = jnp.maximum(0.0, square - jax.lax.square(mean))
    rows = _rows(x)
    y = (rows - _row(mean, rows)) * _row(jax.lax.rsqrt(var + epsilon) * scale, rows)
    return (y + _row(bias, rows)).reshape(x.shape), mean, var


@normalize_batch.defjvp
def _normalize_jvp(epsilon: float, primals: Any, tangents: Any) -> Any:
    x, scale, bias = primals
    y, mean, var = normalize_batch(x, scale, bias, epsilon)
    inverse = jax.lax.rsqrt(var + epsilon)
    factor, count = inverse * scale, x.size // x.shape[-1]
    to_x, to_scale, to_bias = tangents
    # All that happens to a channel is said in the sums of x' and x' x, and in a shift and a slope:
    # transposed, either is the other.
    to_mean, to_square = (each / count for each in linear(_sums, _spread, x, to_x))
    covariance = to_square - mean * to_mean
    slope = (to_scale - factor * inverse * covariance) * inverse
    shift = to_bias - factor * to_mean - mean * slope
    (spread,) = linear(_spread, _sums, x, shift, slope)
    rows = _rows(to_x)
    to_y = (rows * _row(factor, rows)).reshape(x.shape) + spread
    if jax.default_backend() == 'cpu':
        # Else what gives the gradient is computed once more inside the sums, and they run slowly.
        to_y = jax.lax.optimization_barrier(to_y)
    return (y, mean, var), (to_y, to_mean, 2.0 * covariance)


def _rows(x: Array) -> Array:
    """[N, ..., W, C] as [N * ..., W * C]: XLA for a CPU is faster over two axes than over four."""
    return x.reshape(-1, x.shape[-2] * x.shape[-1])


def _row(vector: Array, rows: Array) -> Array:
    return jnp.tile(vector[None], (1, rows.shape[-1] // vector.shape[-1]))


def _spread(x: Array, shift: Array, slope: Array) -> tuple[Array]:
    """(shift + slope x,) for [N, ..., C] and two of [C]."""
    rows = _rows(x)
    return ((_row(shift, rows) + _row(slope, rows) * rows).reshape(x.shape),)


@jax.custom_jvp
def _sums(x: Array, y: Array) -> tuple[Array, Array]:
    """The sums of y and of x y in each channel, [C], for two of [N, ..., C].

    One loop for both over pieces of 32 rows, which XLA for a CPU runs two to four times as fast as
    two sums, for which it first writes the product down (jax 0.10.1, 2 cores; 0.5 ms instead of 1.0
    for [128, 32, 32, 16]). Short sums round less, too.
    """
    if jax.default_backend() != 'cpu':
        return _plain_sums(x, y)
    rows, others = _rows(x), _rows(y)
    pieces = (-1, math.gcd(rows.shape[0], 32), rows.shape[-1])
    rows, others = rows.reshape(pieces), others.reshape(pieces)
    sums = jax.lax.reduce(
        (others, rows * others),
        (jnp.zeros((), x.dtype),) * 2,
        lambda one, other: (one[0] + other[0], one[1] + other[1]),
        (1,),
    )
    first, second = (each.sum(0).reshape(-1, x.shape[-1]).sum(0) for each in sums)
    return first, second


@_sums.defjvp
def _sums_jvp(primals: Any, tangents: Any) -> Any:
    (x, y), (to_x, to_y) = primals, tangents
    first, second = _plain_sums(x, to_y)
    return _sums(x, y), (first, second + _plain_sums(to_x, y)[1])


def _plain_sums(x: Array, y: Array) -> tuple[Array, Array]:
    axes = tuple(range(x.ndim - 1))
    return jnp.sum(y, axes), jnp.sum(x * y, axes)


class BatchNormInTraining(nn.Module):
    """`nn.BatchNorm` in training, by `normalize_batch`: the same paths, numbers and statistics.

    Attributes:
      momentum, epsilon, dtype, scale_init: as of `nn.BatchNorm`.
    """

    momentum: float
    epsilon: float
    dtype: Any
    scale_init: Any = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [N, ..., C] to the same shape."""
        mean, var, scale, bias = _variables(self, x.shape[-1])
        dtype = np.promote_types(np.float32, x.dtype)
        y, *batch = normalize_batch(
            x.astype(dtype), scale.astype(dtype), bias.astype(dtype), self.epsilon
        )
        if not self.is_initializing():
            for old, new in zip((mean, var), batch, strict=True):
                average = new.astype(old.value.dtype)
                old.value = self.momentum * old.value + (1 - self.momentum) * average
        return y.astype(self.dtype)


def _batch(
    train: bool,
    name: str,
    *,
    ghost_batch: int,
    axis_name: str | None,
    in_scan: bool = False,
    **kwargs: Any,
) -> Any:
    kwargs.pop('groups')
    # Outside of a scan it was measured on a CPU alone; elsewhere it stays Flax's.
    better = in_scan or jax.default_backend() == 'cpu'
    if better and train and not ghost_batch and axis_name is None:
        return BatchNormInTraining(name=name, **kwargs)
    if ghost_batch:
        return GhostBatchNorm(ghost_batch, use_running_average=not train, name=name, **kwargs)
    return nn.BatchNorm(use_running_average=not train, axis_name=axis_name, name=name, **kwargs)


def _group(
    train: bool, name: str, *, groups: int, epsilon: float, dtype: Any, **kwargs: Any
) -> Any:
    scale_init = kwargs.get('scale_init', nn.initializers.ones)

    def apply(x: Array) -> Array:
        if x.shape[-1] % groups:
            raise InputError(f'norm_groups {groups} does not divide {x.shape[-1]} channels')
        norm = nn.GroupNorm(groups, epsilon=epsilon, dtype=dtype, scale_init=scale_init, name=name)
        return norm(x)

    return apply


def _layer(train: bool, name: str, **kwargs: Any) -> Any:
    # Over positions and channels of an example together: group norm with one group.
    return _group(train, name, **{**kwargs, 'groups': 1})


def _none(train: bool, name: str, **kwargs: Any) -> Any:
    if 'scale_init' in kwargs:
        raise InputError(
            "zero_init_last has no norm to start at zero under norm='none': set "
            'learn_branch_scale=True and branch_scale=0.0 (SkipInit) instead'
        )
    return lambda x: x


NORMS: dict[str, Callable[..., Any]] = {
    'batch': _batch,  # arXiv 1502.03167
    'group': _group,  # arXiv 1803.08494
    'layer': _layer,  # arXiv 1607.06450
    'none': _none,
}


def make_norm(kind: str, **settings: Any) -> MakeNorm:
    """A function that makes the model's norms: (train, name, scale_init) -> module.

    Args:
      kind: a key of `NORMS`.
      **settings: momentum, epsilon, dtype, groups (of group norm), ghost_batch (examples in a group
        of batch norm; 0: the whole batch), axis_name (of the devices to average batch norm's
        statistics over; None: each by itself).
    """
    if kind not in NORMS:
        raise unknown_name('norm', kind, NORMS)

    def make(train: bool, name: str, **kwargs: Any) -> Callable[[Array], Array]:
        return NORMS[kind](train, name, **settings, **kwargs)

    return make
