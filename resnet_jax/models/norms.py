"""Normalisation: one row per kind. The model makes its norms once and hands them to its parts."""

import contextlib
from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from resnet_jax.errors import InputError, choose
from resnet_jax.models import cpu
from resnet_jax.models.cpu.batch_norm import normalize_batch

# Maps [N, ..., C] to the same shape.
Norm = Callable[[Array], Array]
# (train, name, scale_init=...) -> a norm.
MakeNorm = Callable[..., Norm]

# A row takes all of `make_norm`'s settings, and those of a single norm, by keyword.
NORMS: dict[str, Callable[..., Norm]] = {
    'batch': lambda **settings: _batch(**settings),  # arXiv 1502.03167
    'group': lambda **settings: _group(**settings),  # arXiv 1803.08494
    # arXiv 1607.06450, over positions and channels together: group norm with one group.
    'layer': lambda **settings: _group(**settings | {'groups': 1}),
    'none': lambda **settings: _none(**settings),
    # Batch norm with fixed statistics, see `compress.fold`: behind a convolution it is a factor of
    # the kernel and a bias of the convolution, elsewhere a scale and a bias of each channel.
    'folded': lambda **settings: _folded(**settings),
}


def make_norm(kind: str, **settings: Any) -> MakeNorm:
    """A function that makes a model's norms.

    Args:
      kind: a key of `NORMS`.
      **settings: momentum, epsilon, dtype, groups (of group norm), ghost_batch (examples per group
        of batch norm; 0: the whole batch), axis_name (of the devices over which batch norm averages
        its statistics; None: each device by itself).

    Returns:
      (train, name, *, scale_init, in_scan, paired) -> a norm; the last three may be left out.

    Raises:
      InputError: for an unknown kind.
    """
    row = choose('norm', kind, NORMS)

    def make(train: bool, name: str, **kwargs: Any) -> Norm:
        return row(train=train, name=name, **settings, **kwargs)

    return make


def _batch(
    *,
    train: bool,
    ghost_batch: int,
    axis_name: str | None,
    in_scan: bool = False,
    groups: int,
    paired: bool = False,
    **settings: Any,
) -> nn.Module:
    del groups, paired  # of other norms
    if ghost_batch:
        return GhostBatchNorm(ghost_batch, use_running_average=not train, **settings)
    norm = nn.BatchNorm
    if train and axis_name is None:
        if cpu.enabled():
            return BatchNormInTraining(**settings)
        if in_scan:
            # A scan copies everything that the backward pass needs into a stack: keep only the
            # input, instead of about four arrays of its size.
            norm = nn.remat(nn.BatchNorm, prevent_cse=False)
    return norm(use_running_average=not train, axis_name=axis_name, **settings)


def _group(
    *,
    name: str,
    groups: int,
    epsilon: float,
    dtype: Any,
    scale_init: Any = nn.initializers.ones,
    **others: Any,
) -> Norm:
    def apply(x: Array) -> Array:
        if x.shape[-1] % groups:
            raise InputError(f'norm_groups {groups} does not divide {x.shape[-1]} channels')
        norm = nn.GroupNorm(groups, epsilon=epsilon, dtype=dtype, scale_init=scale_init, name=name)
        return norm(x)

    return apply


def _none(**settings: Any) -> Norm:
    if 'scale_init' in settings:
        raise InputError(
            "zero_init_last has no norm to start at zero under norm='none' or 'folded': set "
            'learn_branch_scale=True and branch_scale=0.0 (SkipInit) instead'
        )
    return lambda x: x


def _folded(*, name: str, dtype: Any, paired: bool = False, **others: Any) -> Norm:
    return _none(**others) if paired else Affine(dtype, name=name)


class Affine(nn.Module):
    """A scale and a bias of each channel: what is left of a batch norm with fixed statistics.

    Paths: `scale`, `bias`.

    Attributes:
      dtype: of the result.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, 'n *space c']) -> Float[Array, 'n *space c']:
        """Scales and shifts the channels."""
        channels, dtype = x.shape[-1], np.promote_types(np.float32, x.dtype)
        shape = (1,) * (x.ndim - 1) + (channels,)
        scale = self.param('scale', nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param('bias', nn.initializers.zeros, (channels,), jnp.float32)
        y = x.astype(dtype) * scale.astype(dtype).reshape(shape)
        return (y + bias.astype(dtype).reshape(shape)).astype(self.dtype)


class GhostBatchNorm(nn.Module):
    """Batch normalisation over groups of `examples` consecutive examples (arXiv 1705.08741).

    The running statistics average over the groups; evaluation is that of plain batch norm.

    Attributes:
      examples: per group; must divide the batch.
      momentum, epsilon, dtype, scale_init: of `nn.BatchNorm`.
      use_running_average: whether to normalise by the running statistics.
    """

    examples: int
    momentum: float
    epsilon: float
    dtype: Any
    use_running_average: bool
    scale_init: Any = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, 'n *space c']) -> Float[Array, 'n *space c']:
        """Normalises a batch.

        Raises:
          InputError: in training, if the groups do not divide the batch.
        """
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
            _update(self, (mean, var), (jnp.mean(mu, 0), jnp.mean(sigma2, 0)))
        shape = (mu.shape[0], *(1,) * (x.ndim - 1), channels)
        factor = (scale[None] * jax.lax.rsqrt(sigma2 + self.epsilon)).reshape(shape)
        y = (groups - mu.reshape(shape)) * factor + bias.reshape(*(1,) * x.ndim, channels)
        return y.reshape(x.shape).astype(self.dtype)


class BatchNormInTraining(nn.Module):
    """`nn.BatchNorm` in training in its form for a CPU: the same paths, numbers and statistics.

    Attributes:
      momentum, epsilon, dtype, scale_init: of `nn.BatchNorm`.
    """

    momentum: float
    epsilon: float
    dtype: Any
    scale_init: Any = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, 'n *space c']) -> Float[Array, 'n *space c']:
        """Normalises a batch by its own statistics, and updates the running ones."""
        mean, var, scale, bias = _variables(self, x.shape[-1])
        dtype = np.promote_types(np.float32, x.dtype)
        y, *batch = normalize_batch(
            x.astype(dtype), scale.astype(dtype), bias.astype(dtype), self.epsilon
        )
        _update(self, (mean, var), batch)
        return y.astype(self.dtype)


def evaluated(paths: Collection[str]) -> contextlib.AbstractContextManager[None]:
    """A context in which some batch norms run as in evaluation, in training too.

    They normalise by their running statistics, and leave these as they are.

    Args:
      paths: of the norms: 'stage1/block1/norm1'.
    """

    def call(run: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        norm: Any = context.module
        kinds = nn.BatchNorm, GhostBatchNorm, BatchNormInTraining
        if not isinstance(norm, kinds) or '/'.join(norm.path) not in paths:
            return run(*args, **kwargs)
        plain = nn.BatchNorm(
            use_running_average=True, epsilon=norm.epsilon, dtype=norm.dtype, parent=None
        )
        return plain.apply(norm.variables, *args)

    return nn.intercept_methods(call)


def _variables(norm: Any, channels: int) -> tuple[Any, Any, Array, Array]:
    """Running mean and variance, scale and bias, under the paths of `nn.BatchNorm`."""
    return (
        norm.variable('batch_stats', 'mean', jnp.zeros, channels, jnp.float32),
        norm.variable('batch_stats', 'var', jnp.ones, channels, jnp.float32),
        norm.param('scale', norm.scale_init, (channels,), jnp.float32),
        norm.param('bias', nn.initializers.zeros, (channels,), jnp.float32),
    )


def _update(norm: Any, running: Any, batch: Any) -> None:
    """Moves the running statistics towards those of a batch, except during initialisation."""
    if norm.is_initializing():
        return
    for old, new in zip(running, batch, strict=True):
        average = new.astype(old.value.dtype)
        old.value = norm.momentum * old.value + (1 - norm.momentum) * average
