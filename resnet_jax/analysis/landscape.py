"""Loss surfaces: the loss and the error of a network along directions from its weights.

Source: Li, Xu, Taylor, Studer and Goldstein 2018, "Visualizing the loss landscape of neural nets",
arXiv 1712.09913.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree
from tqdm import tqdm

from resnet_jax.analysis.directions import Grid, moved
from resnet_jax.analysis.examples import Batch, Examples
from resnet_jax.models import ResNet
from resnet_jax.models.stages import unstack_blocks
from resnet_jax.training.compilation import jit

# Batch norm's running statistics at other points than the network's own: those of the network, or
# recomputed from the examples.
KEEP, RECOMPUTE = BATCH_NORM = ('keep', 'recompute')
NO_BATCH_NORM = 'none'  # of a network without

Batches = Examples | Sequence[Batch]


def unrolled(model: ResNet, variables: Mapping[str, Any]) -> tuple[ResNet, dict[str, Any]]:
    """The same network and its variables without `scan_blocks` and `remat`."""
    return model.unrolled(), unstack_blocks(variables)


@dataclasses.dataclass(frozen=True)
class Measured:
    """Figures of each point, means over the examples.

    Attributes:
      loss: cross-entropy, nats.
      error: fraction of 1.
    """

    loss: Float[np.ndarray, ' points']
    error: Float[np.ndarray, ' points']


def measure(
    model: nn.Module,
    variables: Mapping[str, Any],
    directions: Sequence[PyTree[Array]],
    points: Float[np.ndarray, 'points directions'],
    batches: Batches,
    *,
    batch_norm: str = KEEP,
    chunk: int = 1,
    progress: bool = False,
) -> Measured:
    """Loss and error at points along directions, in evaluation mode.

    Each batch is read once for all points, twice where statistics are recomputed. Memory does not
    grow with the number of examples.

    Args:
      model: without stacked blocks; to recompute statistics, a ResNet.
      variables: `params` and `batch_stats`.
      directions: of the shapes of `params`.
      points: multiples of the directions.
      batches: the examples.
      batch_norm: a name of `BATCH_NORM`. 'recompute' gives each point the statistics of the
        examples, see `statistics`.
      chunk: points that one program computes together.
      progress: whether to show a bar on standard error, if that is a terminal.
    """
    run = _Run(model, dict(variables), tuple(directions), np.asarray(points, np.float32), chunk)
    passes = 2 if batch_norm == RECOMPUTE else 1
    total = passes * len(batches) * len(run.chunks)
    with tqdm(total=total, unit='chunk', delay=1, disable=None if progress else True) as bar:
        stats = _statistics(run, batches, bar) if batch_norm == RECOMPUTE else None
        program = _compiled(_sums, model, chunk, stats is None)
        kept = run.variables.get('batch_stats', {})
        loss, wrong = np.zeros(len(points)), np.zeros(len(points), np.int64)
        n = 0
        for batch in batches:
            labels, mask = jnp.asarray(batch.labels), jnp.asarray(batch.mask)
            for where, each in run.chunks:
                own = kept if stats is None else _float32(stats, where, chunk)
                found = program(
                    run.variables['params'], run.directions, own, each, batch.images, labels, mask
                )
                size = where.stop - where.start
                loss[where] += np.asarray(found[0], np.float64)[:size]
                wrong[where] += np.asarray(found[1], np.int64)[:size]
                bar.update()
            n += int(batch.mask.sum())
    return Measured(loss / n, wrong / n)


def statistics(
    model: ResNet,
    variables: Mapping[str, Any],
    directions: Sequence[PyTree[Array]],
    points: Float[np.ndarray, 'points directions'],
    batches: Batches,
    *,
    chunk: int = 1,
) -> PyTree[Float[np.ndarray, 'points channels']]:
    """Batch norm's statistics at points, from the examples.

    Each batch is normalised by its own statistics, as in training, and those of all examples follow
    from the batches' means and variances: the variance is that of all examples, and not the mean of
    the batches' variances. With one batch they are exact in every layer; with several, a layer
    behind the first norm has seen inputs that were normalised batch by batch, as also where the
    statistics of averaged weights are computed (arXiv 1803.05407, section 3.3).

    Args:
      model: without stacked blocks.
      variables: `params` and `batch_stats`.
      directions: of the shapes of `params`.
      points: multiples of the directions.
      batches: the examples.
      chunk: points that one program computes together.

    Returns:
      A tree as `batch_stats`, float64.
    """
    run = _Run(model, dict(variables), tuple(directions), np.asarray(points, np.float32), chunk)
    return _statistics(run, batches, tqdm(disable=True))


@dataclasses.dataclass(frozen=True)
class _Run:
    """What all batches share, and the chunks of points."""

    model: nn.Module
    variables: dict[str, Any]
    directions: tuple[PyTree[Array], ...]
    points: Float[np.ndarray, 'points directions']
    chunk: int

    @functools.cached_property
    def chunks(self) -> list[tuple[slice, Array]]:
        """Positions and points of each chunk, all of one size: the last one repeats its last."""
        found = []
        for start in range(0, len(self.points), self.chunk):
            some = self.points[start : start + self.chunk]
            rest = self.chunk - len(some)
            padded = np.concatenate([some, np.repeat(some[-1:], rest, axis=0)])
            found.append((slice(start, start + len(some)), jnp.asarray(padded)))
        return found


def _statistics(run: _Run, batches: Batches, bar: 'tqdm[Any]') -> Any:
    program = _compiled(_moments, run.model, run.chunk, True)
    old = run.variables['batch_stats']

    def empty(leaf: Array) -> Any:
        return np.zeros((len(run.points), *leaf.shape))

    sums, n = jax.tree.map(empty, old), 0
    for batch in batches:
        # Padding would be part of the statistics.
        images = batch.images if batch.mask.all() else batch.images[np.flatnonzero(batch.mask)]
        for where, each in run.chunks:
            found = program(run.variables['params'], run.directions, old, each, images)
            size = where.stop - where.start
            jax.tree.map(
                functools.partial(_add, where=where, size=size, weight=len(images)),
                sums,
                _raw_moments(jax.device_get(found)),
            )
            bar.update()
        n += len(images)
    return _central_moments(jax.tree.map(lambda total: total / n, sums))


def _add(total: Any, found: Any, *, where: slice, size: int, weight: int) -> None:
    total[where] += weight * found[:size]


def _raw_moments(stats: Any) -> Any:
    """Mean and variance of each norm -> mean and mean square, in float64, under the same names."""
    return _each_norm(stats, lambda mean, var: var + mean**2)


def _central_moments(stats: Any) -> Any:
    """The inverse."""
    return _each_norm(stats, lambda mean, square: np.maximum(square - mean**2, 0))


def _each_norm(stats: Any, change: Any) -> Any:
    if 'mean' in stats and 'var' in stats:
        mean, second = (np.asarray(stats[key], np.float64) for key in ('mean', 'var'))
        return {'mean': mean, 'var': change(mean, second)}
    return {key: _each_norm(tree, change) for key, tree in stats.items()}


def _float32(stats: Any, where: slice, chunk: int) -> Any:
    """The statistics of a chunk's points; those that only fill it have the last one's."""

    def some(leaf: Any) -> Array:
        found = leaf[where]
        rest = np.repeat(found[-1:], chunk - len(found), axis=0)
        return jnp.asarray(np.concatenate([found, rest]), jnp.float32)

    return jax.tree.map(some, stats)


def _sums(
    model: nn.Module,
    params: PyTree[Array],
    directions: Sequence[PyTree[Array]],
    stats: Any,
    point: Array,
    images: Array,
    labels: Array,
    mask: Array,
) -> tuple[Array, Array]:
    """Sum of the losses, number of mistakes."""
    at = {'params': moved(params, directions, point), 'batch_stats': stats}
    logits: Any = model.apply(at, images, train=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    wrong = (jnp.argmax(logits, axis=-1) != labels) & mask
    return jnp.sum(jnp.where(mask, losses, 0)), jnp.sum(wrong)


def _moments(
    model: ResNet,
    params: PyTree[Array],
    directions: Sequence[PyTree[Array]],
    stats: Any,
    point: Array,
    images: Array,
) -> Any:
    """The statistics of one batch, as a tree like `stats`."""
    at = {'params': moved(params, directions, point), 'batch_stats': stats}
    # Without momentum, the running statistics become those of the batch.
    training = model.clone(
        bn_momentum=0.0, ghost_batch=0, bn_axis_name=None, dropout=0.0, stochastic_depth=0.0
    )
    _, new = training.apply(at, images, train=True, mutable=['batch_stats'])
    return new['batch_stats']


@functools.lru_cache(maxsize=16)
def _compiled(function: Any, model: nn.Module, chunk: int, shared: bool) -> Any:
    """A function of one point as a program for a chunk of them.

    `shared` says whether all points have the same statistics, without an axis of points.

    Over weights, vmap turns convolutions into grouped ones, which XLA's CPU backend runs slower
    than one after the other: ResNet-20 at 32x32 and batch 100, on 2 cores, 400 images/s with a
    chunk of 1, and 149, 121 and 115 with 2, 4 and 8. So a chunk of 1 stays without vmap, and
    `default_chunk` chooses it there.
    """
    whole = functools.partial(function, model)

    def run(
        params: PyTree[Array], directions: Any, stats: Any, points: Array, *batch: Array
    ) -> Any:
        if chunk > 1:
            over = jax.vmap(whole, (None, None, None if shared else 0, 0, *(None,) * len(batch)))
            return over(params, directions, stats, points, *batch)
        own = stats if shared else jax.tree.map(lambda x: x[0], stats)
        found = whole(params, directions, own, points[0], *batch)
        return jax.tree.map(lambda x: x[None], found)

    return jit(run)


_ROOM = 2**30  # bytes for the largest activations of a chunk, on an accelerator
_MOST = 32


def default_chunk(batch_size: int, largest: int) -> int:
    """How many points to compute together: one on a CPU, see `_compiled`; else what fits in 1 GiB.

    Args:
      batch_size: examples per batch.
      largest: numbers in the largest activation of one example.
    """
    if jax.default_backend() == 'cpu':
        return 1
    # The input and the output of a layer, in float32.
    return max(1, min(_MOST, _ROOM // (2 * 4 * batch_size * largest)))


def study(
    model: ResNet,
    variables: Mapping[str, Any],
    grid: Grid,
    batches: Batches,
    *,
    batch_norm: str = KEEP,
    chunk: int = 1,
    path: Float[np.ndarray, 'steps 2'] | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """A loss surface.

    Args:
      model: without stacked blocks, see `unrolled`.
      variables: `params` and `batch_stats`.
      grid: where to measure.
      batches: the examples.
      batch_norm: as in `measure`.
      chunk: as in `measure`.
      path: further points in the plane.
      progress: as in `measure`.

    Returns:
      'x' and, in two dimensions, 'y'; 'loss' and 'error' of the points, in two dimensions a row for
      each of 'y'; 'centre' and 'centre_error' at the network itself; 'batch_norm', 'none' for a
      network without; with `path` also 'path', the losses there.
    """
    further = np.zeros((1, len(grid.directions)))
    if path is not None:
        further = np.concatenate([further, path])
    has_norm = bool(variables.get('batch_stats'))
    found = measure(
        model,
        variables,
        grid.directions,
        np.concatenate([grid.points, further]),
        batches,
        batch_norm=batch_norm if has_norm else KEEP,
        chunk=chunk,
        progress=progress,
    )
    many = len(grid.points)
    shape = (len(grid.x),) if grid.y is None else (len(grid.y), len(grid.x))
    result = {
        'x': grid.x.tolist(),
        **({} if grid.y is None else {'y': grid.y.tolist()}),
        'loss': found.loss[:many].reshape(shape).tolist(),
        'error': found.error[:many].reshape(shape).tolist(),
        'centre': float(found.loss[many]),
        'centre_error': float(found.error[many]),
        'batch_norm': batch_norm if has_norm else NO_BATCH_NORM,
    }
    return result if path is None else {**result, 'path': found.loss[many + 1 :].tolist()}
