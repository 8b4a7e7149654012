"""Directions in the space of a network's weights, and the points along them.

Source: Li et al. 2018, arXiv 1712.09913, section 4 (filter-wise normalised random directions).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree


@dataclasses.dataclass(frozen=True)
class Grid:
    """Points in the line or plane of one or two directions.

    Attributes:
      directions: one or two, of the shapes of the parameters.
      x: multiples of the first direction, ascending.
      y: multiples of the second one; None: there is one direction.
    """

    directions: tuple[PyTree[Array], ...]
    x: Float[np.ndarray, ' columns']
    y: Float[np.ndarray, ' rows'] | None = None

    @property
    def points(self) -> Float[np.ndarray, 'points directions']:
        """The multiples of the directions at each point, row after row."""
        if self.y is None:
            return np.asarray(self.x)[:, None]
        return np.stack([axis.ravel() for axis in np.meshgrid(self.x, self.y)], axis=1)


def random_grid(
    params: PyTree[Array],
    dimensions: int,
    points: int,
    reach: float,
    *,
    seed: int = 0,
    norms: bool = False,
) -> Grid:
    """A grid along random directions, in whose middle the network is.

    Args:
      params: of the network.
      dimensions: 1 or 2.
      points: of each side.
      reach: the grid goes from -reach to reach; at 1 the change of each filter is as long as the
        filter.
      seed: of the directions; the first one is the same in one and two dimensions.
      norms: see `random_direction`.
    """
    rng = np.random.default_rng(seed)
    directions = tuple(random_direction(params, rng, norms) for _ in range(dimensions))
    axis = np.linspace(-reach, reach, points)
    return Grid(directions, axis, axis if dimensions == 2 else None)


def random_direction(
    params: PyTree[Array], rng: np.random.Generator, norms: bool = False
) -> PyTree[Array]:
    """A normal random direction with the norms of the network's filters (li2018, section 4).

    Each filter of a convolution, and each row of the head (the weights of one class), gets the norm
    of the same filter or row of the network.

    Args:
      params: of the network, without stacked blocks.
      rng: of the direction.
      norms: whether the direction also changes biases and the parameters of norms, each vector of
        them being rescaled as a whole. Otherwise it is zero there, as the paper has it.
    """

    def rescaled(weights: Array) -> Array:
        # Drawn for every array, so that `norms` does not change the others.
        drawn = rng.standard_normal(weights.shape)
        if weights.ndim < 2 and not norms:
            return jnp.zeros_like(weights)
        # The last axis is that of the outputs.
        axes = tuple(range(max(weights.ndim - 1, 1)))
        goal = np.linalg.norm(_rows(weights, axes), axis=-1)
        length = np.linalg.norm(_rows(drawn, axes), axis=-1)
        return jnp.asarray(drawn * (goal / length), weights.dtype)

    return jax.tree.map(rescaled, params)


def _rows(weights: Any, axes: tuple[int, ...]) -> Float[np.ndarray, '... size']:
    """Each filter as a row; a vector as one."""
    exact = np.asarray(weights, np.float64)
    return exact.reshape(-1, *exact.shape[len(axes) :]).T


def moved(
    params: PyTree[Array], directions: Sequence[PyTree[Array]], point: Sequence[Any] | Array
) -> PyTree[Array]:
    """The parameters plus, for each direction, its multiple at the point."""
    for i, direction in enumerate(directions):
        params = jax.tree.map(lambda w, d, i=i: w + point[i] * d, params, direction)
    return params
