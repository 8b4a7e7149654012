"""Normalisation: a row for each kind, made once by the model and handed to its parts."""

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
        mean = self.variable('batch_stats', 'mean', jnp.zeros, channels, jnp.float32)
        var = self.variable('batch_stats', 'var', jnp.ones, channels, jnp.float32)
        scale = self.param('scale', self.scale_init, (channels,), jnp.float32)
        bias = self.param('bias', nn.initializers.zeros, (channels,), jnp.float32)
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


def _batch(
    train: bool, name: str, *, ghost_batch: int, axis_name: str | None, **kwargs: Any
) -> Any:
    kwargs.pop('groups')
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
