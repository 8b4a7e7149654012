"""Evaluation: every example once, whatever the batch size."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from resnet_jax.data import Preprocessing
from resnet_jax.training.compilation import jit
from resnet_jax.training.tasks import TASKS, Task


def _flipped(images: Array, size: int) -> list[Array]:
    return [images, images[:, :, ::-1]]


def _ten_crops(images: Array, size: int) -> list[Array]:
    room = images.shape[1] - size
    middle = room // 2
    corners = [(0, 0), (0, room), (room, 0), (room, room), (middle, middle)]
    crops = [images[:, top : top + size, left : left + size] for top, left in corners]
    return [view for crop in crops for view in _flipped(crop, size)]


def _whole(images: Array, size: int) -> list[Array]:
    return [images]


# Test-time augmentation: (images [N, S, S, C], side of the model's input) -> the views of each
# image whose probabilities are averaged. 'ten_crop' is that of Krizhevsky et al. 2012, section 4.1:
# the corners and the middle of the resized square, and their mirror images. 'whole' is that square
# itself, which the model sees at its size, as he2015, section 3.4, "fully-convolutional".
VIEWS: Mapping[
    str, Callable[[Shaped[Array, 'n s s c'], int], list[Shaped[Array, 'n side side c']]]
] = {'flip': _flipped, 'ten_crop': _ten_crops, 'whole': _whole}


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
    `with_outputs` gives (sums, outputs). `tta` is a key of `VIEWS`: the outputs are then logarithms
    of mean probabilities, and the images as large as its views need. `compiled=False` is for a
    model whose `apply` is no function for JAX to trace; it is not jitted, and has no `sharding`.
    """

    def eval_step(variables: Any, batch: dict[str, Array]) -> Any:
        def outputs_of(images: Array) -> Any:
            found: Any = model.apply(variables, preprocessing.normalize(images), train=False)
            return found if classes is None else found[..., np.asarray(classes)]

        if tta is None:
            outputs = outputs_of(batch['image'])
        else:
            views = VIEWS[tta](batch['image'], preprocessing.image_size)
            each = jnp.stack([jax.nn.log_softmax(outputs_of(view)) for view in views])
            outputs = jax.nn.logsumexp(each, axis=0) - np.log(len(views)).astype(each.dtype)
        sums = task.eval_sums(outputs, task.targets(batch), batch['mask'])
        return (sums, outputs) if with_outputs else sums

    return jit(eval_step, level=level, out_shardings=sharding) if compiled else eval_step


def evaluate(
    eval_step: Any,
    variables: Any,
    batches: Iterable[dict[str, Any]],
    task: Task = TASKS['classification'],
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Figures of merit over all batches, as `evaluate_each` of one model's variables."""
    return evaluate_each(eval_step, [variables], batches, task)[0]


def evaluate_each(
    eval_step: Any,
    variables: Sequence[Any],
    batches: Iterable[dict[str, Any]],
    task: Task = TASKS['classification'],
) -> list[tuple[dict[str, float], dict[str, np.ndarray]]]:
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
    totals = None
    for batch in batches:
        sums = [eval_step(each, batch) for each in variables]
        # Added on the host in float64 and integers: exact for any number of examples.
        sums = jax.tree.map(
            lambda x: np.asarray(x, np.int64 if x.dtype == jnp.int32 else np.float64), sums
        )
        totals = sums if totals is None else jax.tree.map(np.add, totals, sums)
    assert totals is not None, 'a source holds at least one example'
    return [(task.eval_figures(total), total) for total in totals]
