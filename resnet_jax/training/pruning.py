"""Weights that are zero and stay zero: masks by magnitude, and pruning while a run trains.

Sources: Zhu and Gupta, arXiv 1710.01878, section 3; of N:M, Mishra et al., arXiv 2104.08378.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree
from ml_collections import ConfigDict

from resnet_jax.errors import InputError, shown

# none; keep: what is zero at the start stays so; gradual: more and more become zero.
SCHEDULES = ('none', 'keep', 'gradual')
Masks = dict[str, Bool[Array, '...']]  # path of a kernel -> False where it is zero


class Pruned(NamedTuple):
    """The state of the last transformation of an optimiser that prunes.

    Attributes:
      taken: number of steps.
      masks: of every kernel.
    """

    taken: Int[Array, '']
    masks: Masks


def check_settings(prune: ConfigDict, averaged: bool) -> None:
    """Refuses settings of pruning that contradict each other.

    Args:
      prune: config.prune.
      averaged: whether the run keeps averaged variables.

    Raises:
      InputError: naming the field.
    """
    if prune.schedule != 'gradual':
        return
    if not prune.sparsity:
        raise InputError('config field prune.schedule=gradual needs prune.sparsity, such as 0.8')
    if prune.begin >= prune.end:
        raise InputError(
            f'config field prune.begin must be below prune.end={prune.end}, got {prune.begin}'
        )
    if averaged:
        raise InputError(
            'config field prune.schedule=gradual does not go with optim.ema, whose averages '
            'remember weights from before they were zero; set optim.ema=0'
        )


def kernels(params: PyTree[Array]) -> dict[str, Array]:
    """The kernels of all convolutions and fully connected layers, by path."""
    flat = flax.traverse_util.flatten_dict(params, sep='/')
    return {path: x for path, x in flat.items() if path.rpartition('/')[2] == 'kernel'}


def magnitude_masks(params: PyTree[Array], sparsity: float | Float[Array, '']) -> Masks:
    """Masks that leave out the smallest weights of all kernels together.

    Args:
      params: of a model.
      sparsity: the share of weights to leave out, in [0, 1); may be traced. Equal weights are left
        out together.
    """
    held = kernels(params)
    sizes = jnp.sort(jnp.concatenate([jnp.abs(x).ravel() for x in held.values()]))
    count = jnp.round(jnp.asarray(sparsity, jnp.float32) * sizes.size).astype(jnp.int32)
    largest = sizes[jnp.maximum(count - 1, 0)]
    limit = jnp.where(count > 0, largest, -jnp.ones_like(largest))
    return {path: jnp.abs(x) > limit for path, x in held.items()}


def n_of_m_masks(params: PyTree[Array], n: int, m: int) -> Masks:
    """Masks that keep the n largest of each m input channels in a row, for each output and tap.

    Kernels of input channels that m does not divide, such as the stem's, are kept whole.

    Args:
      params: of a model.
      n: weights that are kept of each m.
      m: weights in a group.
    """

    def mask(x: Array) -> Array:
        if x.shape[-2] % m:
            return jnp.ones(x.shape, bool)
        groups = jnp.abs(jnp.moveaxis(x, -2, -1)).reshape(-1, m)
        rank = jnp.argsort(jnp.argsort(-groups, axis=-1), axis=-1)  # 0 for the largest
        turned = (*x.shape[:-2], x.shape[-1], x.shape[-2])
        return jnp.moveaxis((rank < n).reshape(turned), -1, -2)

    return {path: mask(x) for path, x in kernels(params).items()}


def read_pattern(text: str) -> tuple[int, int]:
    """(2, 4) for '2:4'.

    Raises:
      InputError: for another text.
    """
    match = re.fullmatch(r'(\d{1,3}):(\d{1,3})', text)
    if not match or not 0 < int(match[1]) < int(match[2]):
        raise InputError(f'a pattern is N:M with N below M, such as 2:4, got {shown(text)}')
    return int(match[1]), int(match[2])


def masked(params: PyTree[Array], masks: Mapping[str, Array]) -> PyTree[Array]:
    """Parameters with zeros where masks are False; those without a mask are as they were."""
    flat = flax.traverse_util.flatten_dict(params, sep='/')
    flat |= {path: jnp.where(mask, flat[path], 0) for path, mask in masks.items()}
    return flax.traverse_util.unflatten_dict(flat, sep='/')


def sparsity_at(step: Int[Array, ''], sparsity: float, begin: int, end: int) -> Float[Array, '']:
    """The share of zeros after a step: s (1 - (1 - (t - begin) / (end - begin))^3).

    Source: arXiv 1710.01878, equation 1, from no zeros on.
    """
    done = jnp.clip((step - begin).astype(jnp.float32) / max(end - begin, 1), 0.0, 1.0)
    return sparsity * (1.0 - (1.0 - done) ** 3)


def with_zeros(
    optimizer: optax.GradientTransformation, settings: ConfigDict, total_steps: int
) -> optax.GradientTransformation:
    """An optimiser under which zeros stay zero, as config.prune has it.

    The masks come last, so that neither momentum nor decay moves a weight away from zero. They are
    part of the optimiser's state, and so of a checkpoint.

    Args:
      optimizer: of the run.
      settings: config.prune.
      total_steps: length of the run.
    """
    if settings.schedule == 'none':
        return optimizer
    if settings.schedule == 'keep':
        return optax.chain(optimizer, _masking(lambda count, new, masks: masks))
    begin = round(settings.begin * total_steps)
    end = max(round(settings.end * total_steps), begin + 1)
    every, sparsity = settings.every, settings.sparsity

    def renewed(count: Array, new: Any, masks: Masks) -> Masks:
        due = (count >= begin) & (count <= end)
        due &= ((count - begin) % every == 0) | (count == end)
        target = sparsity_at(count, sparsity, begin, end)
        return jax.lax.cond(due, lambda: magnitude_masks(masked(new, masks), target), lambda: masks)

    return optax.chain(optimizer, _masking(renewed))


def _masking(renewed: Callable[[Array, Any, Masks], Masks]) -> optax.GradientTransformation:
    """Updates that make the weights outside of the masks zero.

    Args:
      renewed: (steps taken with this one, parameters as they would be, masks) -> masks.
    """

    def init(params: Any) -> Pruned:
        return Pruned(jnp.zeros((), jnp.int32), {k: x != 0 for k, x in kernels(params).items()})

    def update(updates: Any, state: Pruned, params: Any = None) -> tuple[Any, Pruned]:
        count = state.taken + 1
        masks = renewed(count, optax.apply_updates(params, updates), state.masks)
        flat = flax.traverse_util.flatten_dict(updates, sep='/')
        held = kernels(params)
        flat |= {path: jnp.where(mask, flat[path], -held[path]) for path, mask in masks.items()}
        return flax.traverse_util.unflatten_dict(flat, sep='/'), Pruned(count, masks)

    return optax.GradientTransformation(init, update)
