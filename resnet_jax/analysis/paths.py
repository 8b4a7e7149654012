"""Paths through a residual network: how many have each length, and how much gradient they carry.

A network of L residual blocks is a sum over 2^L paths: each block is passed through its branch or
through its shortcut, and a path's length is the number of branches. Source: Veit, Wilber and
Belongie 2016, arXiv 1605.06431, sections 3 and 5 and figure 6.
"""

import functools
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from resnet_jax.analysis.examples import Batch
from resnet_jax.analysis.networks import Network, run_module
from resnet_jax.analysis.parts import Chain
from resnet_jax.analysis.signal import loss_gradient
from resnet_jax.errors import InputError
from resnet_jax.statistics import estimate
from resnet_jax.training.compilation import jit

HELD = 0.95  # of all gradient, by the effective path lengths
_MOST_LENGTHS = 25  # measured by default


def check_residual(chain: Chain) -> None:
    """Refuses a network in which a block has no path around its branch.

    Raises:
      InputError: naming the block.
    """
    for block in chain.blocks:
        if not block.has_shortcut:
            raise InputError(
                f'a plain net has a single path: {block.name} has no shortcut; paths needs a '
                'residual net'
            )


def shares(blocks: int) -> list[float]:
    """The share of paths of each length, from 0 to `blocks`: a binomial distribution."""
    return [math.comb(blocks, k) / 2**blocks for k in range(blocks + 1)]


def default_lengths(blocks: int) -> list[int]:
    """The lengths that are measured: all, or some from 0 to the number of blocks."""
    count = min(blocks + 1, _MOST_LENGTHS)
    return sorted({round(k) for k in np.linspace(0, blocks, count)})


def sampled(
    blocks: int, length: int, draws: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """Paths of a length, each as the numbers of the blocks that it passes through the branch.

    Args:
      blocks: number of blocks.
      length: of the paths.
      draws: number of paths; all of them where there are no more.
      rng: draws them.
    """
    if math.comb(blocks, length) <= draws:
        return list(itertools.combinations(range(blocks), length))
    return [tuple(sorted(rng.choice(blocks, length, replace=False))) for _ in range(draws)]


@functools.lru_cache(maxsize=256)
def _forward(module: nn.Module, own: bool) -> Any:
    return jit(lambda variables, x: run_module(module, variables, x, own))


@functools.lru_cache(maxsize=256)
def _linearized(module: nn.Module, own: bool, kept: int) -> Any:
    """(variables, x) -> a block's output, and its pullback if one of the two paths is a constant.

    Everything is evaluated at the actual sum, so what follows the addition is differentiated there,
    and the two pullbacks add up to the block's own. `kept` is the position of the path that is
    differentiated among the arguments of `ResidualBlock.add`: 0 for the shortcut, 1 for the branch.
    """

    def intercept(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name == 'add':
            stopped = [a if i == kept else jax.lax.stop_gradient(a) for i, a in enumerate(args)]
            return run(*stopped, **kwargs)
        return run(*args, **kwargs)

    def block(variables: Any, x: Array) -> Array:
        with nn.intercept_methods(intercept):
            return run_module(module, variables, x, own)

    return jit(lambda variables, x: jax.vjp(functools.partial(block, variables), x))


@jit
def _pulled(pull: Any, gradient: Array) -> Array:
    """A pullback applied; it is a pytree of what it keeps of the forward pass."""
    found: Array = pull(gradient)[0]
    return found


@jit
def _mean_norm(gradient: Array, mask: Array) -> Array:
    """The mean, over the examples that count, of the norm of each one's gradient."""
    axes = tuple(range(1, gradient.ndim))
    norms = jnp.sqrt(jnp.sum(jnp.square(gradient.astype(jnp.float32)), axes))
    return jnp.mean(norms, where=mask)


class Backward:
    """The backward pass of a batch, path by path, the forward pass being as always."""

    def __init__(self, network: Network, batch: Batch) -> None:
        chain, own = network.chain, network.own_statistics
        split = chain.split(network.variables)
        x = _forward(chain.stem.module, own)(split[chain.stem.name], batch.images)
        self._pulls = []
        for block in chain.blocks:
            variables, given = split[block.name], x
            x, shortcut = _linearized(block.module, own, 0)(variables, given)
            _, branch = _linearized(block.module, own, 1)(variables, given)
            self._pulls.append((shortcut, branch))
        tail = split[chain.tail.name]
        _, self._last = loss_gradient(chain.tail, own)(tail, x, batch.labels, batch.mask)

    def gradient(self, branches: Collection[int]) -> Float[Array, 'n ... c']:
        """The gradient at the stem's output of the summed cross entropy, along one path.

        Args:
          branches: the numbers of the blocks that the path passes through the branch; the others it
            passes through the shortcut.
        """
        found = self._last
        for i, pulls in reversed(list(enumerate(self._pulls))):
            found = _pulled(pulls[i in branches], found)
        return found


def norms(
    network: Network,
    batches: Iterable[Batch],
    lengths: Sequence[int],
    draws: int,
    seed: int,
) -> dict[int, list[float]]:
    """The norm of the gradient along sampled paths.

    Args:
      network: a residual network.
      batches: the examples.
      lengths: of the paths.
      draws: number of paths of each length, drawn for each batch.
      seed: of the paths.

    Returns:
      Length -> a norm for each batch and path: that of the gradient of an example's cross entropy
      at the stem's output, its mean over the examples of the batch.
    """
    check_residual(network.chain)
    rng, blocks = np.random.default_rng(seed), len(network.chain.blocks)
    found: dict[int, list[float]] = {length: [] for length in lengths}
    for each in batches:
        batch = network.batch(each)
        backward = Backward(network, batch)
        values = {
            length: [
                _mean_norm(backward.gradient(path), batch.mask)
                for path in sampled(blocks, length, draws, rng)
            ]
            for length in lengths
        }
        for length, more in jax.device_get(values).items():
            found[length] += map(float, more)
    return found


def study(
    network: Network,
    batches: Iterable[Batch],
    lengths: Sequence[int] | None = None,
    *,
    draws: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Measures paths, in one pass over the examples.

    Args:
      network: a residual network.
      batches: the examples.
      lengths: to measure; None: `default_lengths`.
      draws: number of paths of each length, drawn for each batch.
      seed: of the paths.

    Returns:
      'statistics': those of batch norm, 'running' or 'batch'.
      'share': length -> its share among all paths.
      'gradient': length -> {'mean', 'low', 'high'}, the norm of `norms` with the 95 % interval of
        its mean over batches and paths.
      'decay': slope of the logarithm of the mean norm, per branch; None where it is undefined.
      'effective': see `effective_lengths`.

    Raises:
      InputError: for a plain net.
    """
    blocks = len(network.chain.blocks)
    measured = default_lengths(blocks) if lengths is None else sorted(lengths)
    values = norms(network, batches, measured, draws, seed)
    means = {length: estimate(values[length], (0.0, math.inf)) for length in measured}
    mean = {length: each.mean for length, each in means.items()}
    return {
        'statistics': network.statistics,
        'share': {str(k): share for k, share in enumerate(shares(blocks))},
        'gradient': {
            str(length): {'mean': each.mean, 'low': each.low, 'high': each.high}
            for length, each in means.items()
        },
        'decay': decay(mean),
        'effective': effective_lengths(blocks, mean),
    }


def decay(mean: Mapping[int, float]) -> float | None:
    """The slope of log(norm) by length, by least squares; None for fewer than two norms above 0."""
    lengths = [length for length, norm in mean.items() if norm > 0]
    if len(lengths) < 2:
        return None
    return float(np.polyfit(lengths, np.log([mean[k] for k in lengths]), 1)[0])


def effective_lengths(blocks: int, mean: Mapping[int, float]) -> dict[str, Any]:
    """How much of the gradient the paths of each length contribute.

    Args:
      blocks: number of blocks.
      mean: length -> mean norm of a path's gradient. Lengths between those given are interpolated,
        in the logarithm; lengths beyond them do not count.

    Returns:
      'contribution': length -> share of paths times norm, as a fraction of the total; 'low',
      'high': ends of the shortest range of lengths that holds 95 % of the total; 'share': its share
      of all paths. None in their place if all norms are 0.
    """
    known = sorted(mean)
    lengths = np.arange(known[0], known[-1] + 1)
    tiny = np.finfo(np.float64).tiny
    means = np.asarray([mean[k] for k in known], np.float64)
    logs = np.interp(lengths, known, np.log(np.maximum(means, tiny)))
    norm = np.where(logs > np.log(2 * tiny), np.exp(logs), 0.0)
    share = np.asarray(shares(blocks))[lengths]
    product = share * norm
    if not product.sum() > 0:
        return {'contribution': {}, 'low': None, 'high': None, 'share': None}
    part = product / product.sum()
    low, high = _shortest_range(part, HELD)
    return {
        'contribution': {str(k): float(x) for k, x in zip(lengths, part, strict=True)},
        'low': int(lengths[low]),
        'high': int(lengths[high]),
        'share': float(share[low : high + 1].sum()),
    }


def _shortest_range(part: Float[np.ndarray, ' n'], held: float) -> tuple[int, int]:
    """The ends of the shortest range that holds a share; of several, the one that holds most."""
    sums = np.concatenate([[0.0], np.cumsum(part)])
    for size in range(1, len(part) + 1):
        within = sums[size:] - sums[:-size]
        best = int(np.argmax(within))
        if within[best] >= held * (1 - 1e-12):
            return best, best + size - 1
    return 0, len(part) - 1
