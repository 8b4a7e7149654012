"""Evaluation: every example once, whatever the batch size."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from resnet_jax.data import Preprocessing
from resnet_jax.training.compilation import jit
from resnet_jax.training.tasks import TASKS, Task


def make_eval_step(
    model: nn.Module,
    preprocessing: Preprocessing,
    sharding: jax.sharding.Sharding | None = None,
    task: Task = TASKS['classification'],
    level: int | None = None,
    classes: Sequence[int] | None = None,
) -> Any:
    """The jitted sums of one batch: (variables, batch) -> tree of sums, all with `sharding`.

    `batch` holds 'image' (uint8 [N, S, S, C]), the task's targets (of classification 'label', int32
    [N]) and 'mask' (bool [N], False for padding). `level` is XLA's optimisation level.
    `classes` are the outputs that count, in the order of the labels; None: all, in their own order.
    """

    @functools.partial(jit, level=level, out_shardings=sharding)
    def eval_step(variables: Any, batch: dict[str, Array]) -> dict[str, Array]:
        images = preprocessing.normalize(batch['image'])
        outputs: Any = model.apply(variables, images, train=False)
        if classes is not None:
            outputs = outputs[..., np.asarray(classes)]
        return task.eval_sums(outputs, task.targets(batch), batch['mask'])

    return eval_step


def evaluate(
    eval_step: Any,
    variables: Any,
    batches: Iterable[dict[str, Any]],
    task: Task = TASKS['classification'],
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Figures of merit over all batches.

    Args:
      eval_step: from `make_eval_step`.
      variables: the model's.
      batches: from `data.eval_batches`.
      task: that of `eval_step`.

    Returns:
      The task's figures, of classification {'n', 'loss', 'top1', 'top5', 'ece'}: fractions of 1,
      and the loss in nats; and the sums that they come from, of classification also 'confusion',
      counts [classes, classes]: row the true class, column the predicted one.
    """
    total = None
    for batch in batches:
        sums = eval_step(variables, batch)
        # Added on the host in float64 and integers: exact for any number of examples.
        sums = jax.tree.map(
            lambda x: np.asarray(x, np.int64 if x.dtype == jnp.int32 else np.float64), sums
        )
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    assert total is not None, 'a source holds at least one example'
    return task.eval_figures(total), total
