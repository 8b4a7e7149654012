"""The path of a run's weights during training, in the plane of their principal components.

Source: Li et al. 2018, arXiv 1712.09913, section 7.2.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from resnet_jax.analysis.directions import Grid
from resnet_jax.errors import InputError
from resnet_jax.inference.trained import load_trained
from resnet_jax.models.stages import unstack_blocks
from resnet_jax.training.checkpoint import saved_steps

LEAST = 3  # checkpoints that span a plane
_MARGIN = 0.25  # of the way's extent in each direction, that the plane shows around it
_FLAT = 1e-10  # share of the variance below which the second direction would be rounding


@dataclasses.dataclass(frozen=True)
class Plane:
    """A plane through the last of several sets of weights.

    Attributes:
      directions: two, orthogonal and of length 1, of the shapes of the parameters.
      path: multiples of the directions: the projection of each set of weights; the last is (0, 0).
      explained: share of the variance along each direction.
    """

    directions: tuple[PyTree, PyTree]
    path: Float[np.ndarray, 'steps 2']
    explained: tuple[float, float]


def read_checkpoints(workdir: Path, last: int) -> dict[int, PyTree]:
    """The parameters in a run's checkpoints up to a step, by step, ascending.

    Args:
      workdir: of the run.
      last: the step of the network that is analysed.

    Raises:
      InputError: if there are fewer than three, or one cannot be read.
    """
    steps = [step for step in saved_steps(workdir) if step <= last]
    if len(steps) < LEAST:
        raise InputError(
            f'--trajectory needs at least {LEAST} checkpoints up to step {last}, and {workdir} has '
            f'{len(steps)}: train with --config.checkpoint.keep=20 and a smaller '
            '--config.checkpoint.every'
        )
    return {
        step: unstack_blocks(load_trained(workdir, str(step)).variables['params']) for step in steps
    }


def plane(weights: Sequence[PyTree]) -> Plane:
    """The plane of the first two principal components of the differences from the last weights.

    Args:
      weights: parameters of one network at successive steps, at least three.

    Raises:
      InputError: if they lie on a line.
    """
    leaves = [jax.tree.leaves(each) for each in weights]
    stacks = [np.stack([np.asarray(x) for x in same]) for same in zip(*leaves, strict=True)]
    # Between sets, of which there are few: the components follow from their scalar products.
    products = sum(_flat(_centred(stack)) @ _flat(_centred(stack)).T for stack in stacks)
    values, vectors = np.linalg.eigh(products)
    values, vectors = values[::-1], vectors[:, ::-1]
    if not values[1] > _FLAT * values[0]:
        raise InputError('the checkpoints of the run lie on a line: they span no plane')
    # Of the two signs, the one with which the way comes from the right and from above.
    start = vectors[0, :2] - vectors[-1, :2]
    factors = vectors[:, :2] * np.where(start < 0, -1, 1) / np.sqrt(values[:2])
    axes = [np.tensordot(factors.T, _centred(stack), 1) for stack in stacks]
    path: Any = sum(
        _flat(np.subtract(stack, stack[-1], dtype=np.float64)) @ _flat(axis).T
        for stack, axis in zip(stacks, axes, strict=True)
    )
    structure = jax.tree.structure(weights[0])
    first, second = (
        jax.tree.unflatten(structure, [jnp.asarray(axis[i], jnp.float32) for axis in axes])
        for i in range(2)
    )
    shares = values[:2] / values.sum()
    return Plane((first, second), path, (float(shares[0]), float(shares[1])))


def _centred(stack: np.ndarray) -> np.ndarray:
    exact = stack.astype(np.float64)
    return exact - exact.mean(axis=0)


def _flat(stack: np.ndarray) -> Float[np.ndarray, 'sets size']:
    return stack.reshape(len(stack), -1)


def plane_grid(found: Plane, points: int) -> Grid:
    """A grid in a plane that covers the path, with a margin.

    Args:
      found: the plane.
      points: of each side.
    """
    low, high = found.path.min(axis=0), found.path.max(axis=0)
    # A way that hardly leaves the first direction still gets a plane to look at.
    extent = np.maximum(high - low, 0.1 * np.max(high - low))
    middle, half = (low + high) / 2, extent * (0.5 + _MARGIN)
    x, y = (np.linspace(m - h, m + h, points) for m, h in zip(middle, half, strict=True))
    return Grid(found.directions, x, y)
