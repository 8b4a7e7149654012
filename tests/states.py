"""A training state made by hand, and how its checkpoints are kept."""

import jax.numpy as jnp
import numpy as np
from running import tiny

from resnet_jax.training.step import TrainState

SIZE = 200_000


def make_state(step: int, value: float | None = None) -> TrainState:
    """A state of every kind of leaf; large enough that writing takes time."""
    rng = np.random.default_rng(step)
    kernel = rng.standard_normal(SIZE).astype(np.float32) if value is None else np.full(SIZE, value)
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params={'head': {'kernel': jnp.asarray(kernel, jnp.float32)}},
        batch_stats={'norm1': {'mean': jnp.asarray([np.float32(1) / 3, -0.0, 1e-42])}},
        opt_state=(jnp.asarray(7, jnp.int32), {'half': jnp.asarray([1 / 3], jnp.bfloat16)}),
        ema={'params': {'kernel': jnp.asarray(kernel[:100] + 1, jnp.float32)}},
    )


def settings(**fields):
    return tiny({f'checkpoint.{name}': value for name, value in fields.items()}).checkpoint
