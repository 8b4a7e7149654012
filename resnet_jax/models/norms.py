"""Normalisation: a row for each kind, made once by the model and handed to its parts."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.models.errors import InputError, unknown_name

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
    the normalised x and a few numbers a channel, what automatic differentiation keeps is four times
    as much.

    Args:
      x: [N, ..., C], float32 or float64.
      scale: [C].
      bias: [C].
      epsilon: added to the variance.

    Returns:
      y as x; mean and (biased) variance [C].
    """
    return _normalize(x, scale, bias, epsilon)[:3]


def _normalize(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, Array, Array, Array, Array]:
    """What `normalize_batch` returns, the rows of the normalised x, their factor in y."""
    rows, channels = _rows(x), x.shape[-1]
    mean = _mean(rows, channels)
    var = jnp.maximum(0.0, _mean(jax.lax.square(rows), channels) - jax.lax.square(mean))
    inverse = jax.lax.rsqrt(var + epsilon)
    centred = rows - _row(mean, rows)
    y = centred * _row(inverse * scale, rows) + _row(bias, rows)
    return y.reshape(x.shape), mean, var, centred * _row(inverse, rows), inverse * scale


@normalize_batch.defjvp
def _normalize_jvp(epsilon: float, primals: Any, tangents: Any) -> Any:
    x, scale, bias = primals
    y, mean, var, normal, factor = _normalize(x, scale, bias, epsilon)
    x, scale, bias = tangents
    rows, channels = _rows(x), x.shape[-1]
    to_mean, to_slope = _mean(rows, channels), _mean(rows * normal, channels)
    to_var = 2.0 * to_slope * jnp.sqrt(var + epsilon)
    # What belongs to a channel is added first: transposed, this takes two sums over all positions.
    shift, slope = bias - factor * to_mean, scale - factor * to_slope
    to_y = rows * _row(factor, rows) + _row(shift, rows) + normal * _row(slope, rows)
    return (y, mean, var), (to_y.reshape(x.shape), to_mean, to_var)


def _rows(x: Array) -> Array:
    """[N, ..., W, C] as [N * ..., W * C].

    For a CPU: XLA sums over the first of two axes twice to four times as fast as over all but the
    last of four (jax 0.10.1, 2 cores; 1.8 ms instead of 4.7 for the mean and the mean of the
    squares of [128, 32, 32, 16]), and in shorter sums, which round less.
    """
    return x.reshape(-1, x.shape[-2] * x.shape[-1])


def _row(vector: Array, rows: Array) -> Array:
    return jnp.tile(vector[None], (1, rows.shape[-1] // vector.shape[-1]))


def _mean(rows: Array, channels: int) -> Array:
    return jnp.mean(jnp.mean(rows, 0).reshape(-1, channels), 0)


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
