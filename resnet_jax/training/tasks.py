"""What is learnt: a table of tasks, each with its targets, losses, sums and figures.

Models and the training step know nothing of labels: they ask the task. A new task is a row of
`TASKS` and its functions.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Array, Float, PyTree
from ml_collections import ConfigDict

from resnet_jax.errors import choose
from resnet_jax.training import metrics

Targets: TypeAlias = PyTree[Array]
Sums = dict[str, Any]
Loss = Callable[[Array, Targets], Float[Array, ' n']]


@dataclasses.dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
      targets: batch -> what the model's outputs are compared with.
      losses: name -> (outputs, targets, config.loss, weights of the classes or None) -> loss of
        each example [N], whose mean is minimised.
      train_sums: (outputs, targets) -> sums over a training batch, scalars by name.
      sum_names: the names of `train_sums`.
      eval_sums: (outputs, targets, mask [N], False for padding) -> sums over an evaluation batch.
      train_figures: total of `train_sums` -> figures that are logged, among them 'loss'.
      eval_figures: total of `eval_sums` -> figures of an evaluation, among them 'n' and 'loss'.
    """

    targets: Callable[[Mapping[str, Array]], Targets]
    losses: Mapping[str, Callable[..., Float[Array, ' n']]]
    train_sums: Callable[[Array, Targets], Sums]
    sum_names: tuple[str, ...]
    eval_sums: Callable[[Array, Targets, Array], Sums]
    train_figures: Callable[[Sums], dict[str, float]]
    eval_figures: Callable[[Sums], dict[str, float]]

    def no_sums(self) -> dict[str, np.ndarray]:
        """`train_sums` of no examples."""
        return {name: np.zeros((), np.float32) for name in self.sum_names}

    def loss(self, settings: ConfigDict, class_weights: np.ndarray | None = None) -> Loss:
        """The loss that config.loss describes, as a function of (outputs, targets).

        Args:
          settings: config.loss.
          class_weights: [classes]; None: all 1.
        """
        loss = choose('loss.name', settings.name, self.losses)
        return lambda outputs, targets: loss(outputs, targets, settings, class_weights)


def _classification_eval_sums(logits: Array, targets: Targets, mask: Array) -> Sums:
    return {
        **metrics.batch_sums(logits, targets, mask),
        **metrics.calibration_sums(logits, targets, mask),
        'confusion': metrics.confusion_sums(logits, targets, mask),
    }


def _classification_eval_figures(sums: Sums) -> dict[str, float]:
    return {
        'n': int(sums['n']),
        **metrics.averages(sums),
        'ece': metrics.expected_calibration_error(sums),
    }


TASKS: dict[str, Task] = {
    # One class for each image: a label, or a distribution over the classes.
    'classification': Task(
        targets=lambda batch: batch['label'],
        losses={
            'cross_entropy': lambda x, t, loss, weights: metrics.cross_entropy(
                x, t, loss.label_smoothing, weights
            ),
            'focal': lambda x, t, loss, weights: metrics.focal_loss(
                x, t, loss.gamma, loss.alpha, weights
            ),
            'binary_cross_entropy': lambda x, t, loss, weights: metrics.binary_cross_entropy(
                x, t, loss.label_smoothing, weights, loss.target_threshold
            ),
        },
        train_sums=metrics.batch_sums,
        sum_names=metrics.SUMS,
        eval_sums=_classification_eval_sums,
        train_figures=metrics.averages,
        eval_figures=_classification_eval_figures,
    ),
}
