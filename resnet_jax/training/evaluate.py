"""Evaluation: every example once, whatever the batch size."""

from collections.abc import Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from resnet_jax.data import Preprocessing
from resnet_jax.errors import choose
from resnet_jax.training.compilation import jit
from resnet_jax.training.tasks import TASKS, Task


def make_eval_step(
    model: nn.Module,
    preprocessing: Preprocessing,
    sharding: jax.sharding.Sharding | None = None,
    task: Task = TASKS['classification'],
    level: int | None = None,
    classes: Sequence[int] | None = None,
    with_outputs: bool = False,
    tta: str | None = None,
    compiled: bool = True,
) -> Any:
    """The jitted sums of one batch: (variables, batch) -> tree of sums, all with `sharding`.

    `batch` holds 'image' (uint8 [N, S, S, C]), the task's targets (of classification 'label', int32
    [N]) and 'mask' (bool [N], False for padding). `level` is XLA's optimisation level.
    `classes` are the outputs that count, in the order of the labels; None: all, in their own order.
    `with_outputs` gives (sums, outputs). `tta` is a key of `task.views`: the outputs are then
    logarithms of mean probabilities, and the images as large as its views need. Where the task
    judges each example by itself, the sums also hold 'rows', see `Task.eval_rows`.
    `compiled=False` is for a model whose `apply` is no function for JAX to trace; it is not jitted,
    and has no `sharding`.
    """

    def eval_step(variables: Any, batch: dict[str, Array]) -> Any:
        def outputs_of(images: Array) -> Any:
            found: Any = model.apply(variables, preprocessing.normalize(images), train=False)
            return found if classes is None else found[..., np.asarray(classes)]

        if tta is None:
            outputs = outputs_of(batch['image'])
        else:
            view = choose(f'--tta of {task.noun}', tta, task.views)
            outputs = view(outputs_of, batch['image'], preprocessing.image_size)
        sums = task.eval_sums(outputs, task.targets(batch), batch['mask'])
        if task.eval_rows is not None:
            sums['rows'] = {
                'mask': batch['mask'],
                **task.eval_rows(outputs, task.targets(batch)),
            }
        return (sums, outputs) if with_outputs else sums

    return jit(eval_step, level=level, out_shardings=sharding) if compiled else eval_step


def evaluate(
    eval_step: Any,
    variables: Any,
    batches: Iterable[dict[str, Any]],
    task: Task = TASKS['classification'],
) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures of merit over all batches, as `evaluate_each` of one model's variables."""
    return evaluate_each(eval_step, [variables], batches, task)[0]


def evaluate_each(
    eval_step: Any,
    variables: Sequence[Any],
    batches: Iterable[dict[str, Any]],
    task: Task = TASKS['classification'],
) -> list[tuple[dict[str, float], dict[str, Any]]]:
    """Figures of merit over all batches, each of which is read once for all variables.

    Args:
      eval_step: from `make_eval_step`.
      variables: of the model, one or more, such as the averaged and the plain ones.
      batches: from `data.eval_batches`.
      task: that of `eval_step`.

    Returns:
      For each of the variables: the task's figures, of classification {'n', 'loss', 'top1', 'top5',
      'ece'}: fractions of 1, and the loss in nats; and the sums that they come from, of
      classification also 'confusion', counts [classes, classes]: row the true class, column the
      predicted one.
    """
    totals: list[dict[str, Any]] | None = None
    rows: list[list[dict[str, np.ndarray]]] = [[] for _ in variables]
    for batch in batches:
        sums = [dict(eval_step(each, batch)) for each in variables]
        for found, one in zip(rows, sums, strict=True):
            found += [jax.tree.map(np.asarray, one.pop('rows'))] if 'rows' in one else []
        # Added on the host in float64 and integers: exact for any number of examples.
        sums = jax.tree.map(
            lambda x: np.asarray(x, np.int64 if x.dtype == jnp.int32 else np.float64), sums
        )
        totals = sums if totals is None else jax.tree.map(np.add, totals, sums)
    assert totals is not None, 'a source holds at least one example'
    whole = [_joined(found) for found in rows]
    return [
        (task.eval_figures(total, every), {**total, 'rows': every} if every else total)
        for total, every in zip(totals, whole, strict=True)
    ]


def _joined(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The rows of all examples, without padding."""
    if not rows:
        return {}
    whole = {name: np.concatenate([part[name] for part in rows]) for name in rows[0]}
    here = whole.pop('mask')
    return {name: values[here] for name, values in whole.items()}
