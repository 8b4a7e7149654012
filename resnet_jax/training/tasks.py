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
from resnet_jax.training import dense_metrics, detection, metrics
from resnet_jax.training.views import CLASSIFICATION_VIEWS, SEGMENTATION_VIEWS, Views

Targets: TypeAlias = PyTree[Array]
Sums = dict[str, Any]
Loss = Callable[[Array, Targets], Float[Array, ' n']]


@dataclasses.dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
      noun: its name, in words.
      takes: what it needs of each example, names of `data.targets.TARGETS`.
      targets: batch -> what the model's outputs are compared with.
      losses: name -> (outputs, targets, config.loss, weights of the classes or None) -> loss of
        each example [N], whose mean is minimised.
      train_sums: (outputs, targets) -> sums over a training batch, scalars by name.
      sum_names: the names of `train_sums`.
      eval_sums: (outputs, targets, mask [N], False for padding) -> sums over an evaluation batch.
      train_figures: total of `train_sums` -> figures that are logged, among them 'loss'.
      eval_figures: (total of `eval_sums`, rows of all examples) -> figures of an evaluation, among
        them 'n' and 'loss'.
      score: the figure that says how good a model is, from 0 to 1; what it lacks of 1 is the error
        of reports.
      error: what kind of error that is, in words.
      shown: figures from 0 to 1 -> what a line of progress calls them.
      best: figures that can choose a checkpoint -> whether the largest is the best.
      views: of test-time augmentation, see `views`.
      eval_rows: (outputs, targets) -> what `eval_figures` gets of each example [N, ...], where sums
        do not say enough; None: nothing.
      outputs: number of classes of the data -> `num_classes` of the model.
      network: the task of the models that it trains, see `dense.task_of`.
    """

    noun: str
    takes: tuple[str, ...]
    targets: Callable[[Mapping[str, Array]], Targets]
    losses: Mapping[str, Callable[..., Float[Array, ' n']]]
    train_sums: Callable[[Any, Targets], Sums]
    sum_names: tuple[str, ...]
    eval_sums: Callable[[Any, Targets, Array], Sums]
    train_figures: Callable[[Sums], dict[str, float]]
    eval_figures: Callable[[Sums, Any], dict[str, float]]
    score: str
    error: str
    shown: Mapping[str, str]
    best: Mapping[str, bool]
    views: Views
    eval_rows: Callable[[Any, Targets], Sums] | None = None
    outputs: Callable[[int], int] = lambda classes: classes
    network: str = 'classification'

    @property
    def is_dense(self) -> bool:
        """Whether it learns something of every place of an image."""
        return self.takes != ('label',)

    def shares(self, figures: Mapping[str, Any]) -> list[str]:
        """The figures that are shown, each in words: 'top1 97.22 %'."""
        return [
            f'{label} {100 * figures[name]:.2f} %'
            for name, label in self.shown.items()
            if name in figures
        ]

    def text(self, figures: Mapping[str, Any]) -> str:
        """The loss and the figures that are shown, for a line of progress."""
        return '  '.join([f'loss {figures["loss"]:.4f}', *self.shares(figures)])

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


def _classification_eval_figures(sums: Sums, rows: Any) -> dict[str, float]:
    return {
        'n': int(sums['n']),
        **metrics.averages(sums),
        'ece': metrics.expected_calibration_error(sums),
    }


def _heads(loss: Callable[..., Array]) -> Callable[..., Array]:
    """A loss of maps as one of a network's heads."""

    def of_heads(outputs: Any, targets: Targets, settings: ConfigDict, weights: Any) -> Array:
        return dense_metrics.over_heads(
            outputs, settings.aux_weight, lambda x: loss(x, targets, settings, weights)
        )

    return of_heads


def _detection_loss(outputs: Any, targets: Targets, settings: ConfigDict, weights: Any) -> Array:
    of_classes, of_boxes = detection.detection_losses(
        outputs, targets, settings.gamma, settings.alpha
    )
    return of_classes + settings.box_weight * of_boxes


TASKS: dict[str, Task] = {
    # One class for each image: a label, or a distribution over the classes.
    'classification': Task(
        noun='classification',
        takes=('label',),
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
        score='top1',
        error='top-1',
        shown={'top1': 'top1'},
        best={'top1': True, 'top5': True, 'loss': False, 'ece': False},
        views=CLASSIFICATION_VIEWS,
    ),
    # A class for every pixel.
    'segmentation': Task(
        noun='segmentation',
        takes=('segmentation',),
        targets=lambda batch: {'segmentation': batch['segmentation']},
        losses={
            'cross_entropy': _heads(
                lambda x, t, loss, weights: dense_metrics.pixel_cross_entropy(
                    x, t, loss.label_smoothing, weights
                )
            ),
            'focal': _heads(
                lambda x, t, loss, weights: dense_metrics.pixel_focal_loss(
                    x, t, loss.gamma, loss.alpha, weights
                )
            ),
            'dice': _heads(lambda x, t, loss, weights: dense_metrics.dice_loss(x, t)),
            'cross_entropy_dice': _heads(
                lambda x, t, loss, weights: (
                    dense_metrics.pixel_cross_entropy(x, t, loss.label_smoothing, weights)
                    + dense_metrics.dice_loss(x, t)
                )
            ),
        },
        train_sums=dense_metrics.segmentation_sums,
        sum_names=dense_metrics.SEGMENTATION_SUMS,
        eval_sums=dense_metrics.segmentation_eval_sums,
        train_figures=dense_metrics.segmentation_train_figures,
        eval_figures=dense_metrics.segmentation_figures,
        score='miou',
        error='1 - mean IoU',
        shown={'miou': 'mean IoU', 'pixel_accuracy': 'pixels'},
        network='segmentation',
        best={'miou': True, 'pixel_accuracy': True, 'loss': False},
        views=SEGMENTATION_VIEWS,
    ),
    # Boxes of the objects, and their classes.
    'detection': Task(
        noun='detection',
        takes=('boxes', 'classes'),
        targets=lambda batch: {'boxes': batch['boxes'], 'classes': batch['classes']},
        losses={'focal': _detection_loss},
        train_sums=detection.detection_sums,
        sum_names=detection.SUMS,
        eval_sums=detection.detection_sums,
        train_figures=detection.detection_train_figures,
        eval_figures=detection.detection_figures,
        score='ap',
        error='1 - AP',
        shown={'ap': 'AP', 'ap50': 'AP50'},
        network='detection',
        best={'ap': True, 'ap50': True, 'ap75': True, 'loss': False},
        views={},
        eval_rows=detection.detection_rows,
    ),
    # The distance of every pixel.
    'depth': Task(
        noun='depth',
        takes=('depth',),
        targets=lambda batch: {'depth': batch['depth']},
        losses={
            'scale_invariant': _heads(
                lambda x, t, loss, weights: dense_metrics.scale_invariant_loss(
                    x, t, loss.scale_invariance
                )
            ),
            'log_l1': _heads(lambda x, t, loss, weights: dense_metrics.log_l1_loss(x, t)),
        },
        train_sums=dense_metrics.depth_sums,
        sum_names=dense_metrics.DEPTH_SUMS,
        eval_sums=dense_metrics.depth_sums,
        train_figures=dense_metrics.depth_figures,
        eval_figures=dense_metrics.depth_figures,
        score='delta1',
        error='1 - delta1',
        shown={'delta1': 'delta1'},
        network='segmentation',
        best={'delta1': True, 'rmse': False, 'abs_rel': False, 'loss': False},
        views={},
        outputs=lambda classes: 1,
    ),
}


def score_of(figures: Mapping[str, Any]) -> float | None:
    """The score among the figures of an evaluation, whatever the task; None if there is none."""
    found = [figures[task.score] for task in TASKS.values() if task.score in figures]
    return found[0] if found else None


def error_kind(name: Any) -> str:
    """What kind of error the runs of a task have, in words; top-1 of runs from before tasks."""
    return TASKS[name if name in TASKS else 'classification'].error
