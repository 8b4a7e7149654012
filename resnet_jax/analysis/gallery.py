"""Where a classifier is wrong: its most confident mistakes, confused classes, curves per class."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

# Scores kept for the curves, 512 MiB: 50,000 examples of 1,000 classes fit twice.
MOST_SCORES = 2**27


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model answers to every example, and its scores for some or all.

    Attributes:
      labels: the class of each example.
      guessed: the most probable class; of equal ones the first.
      confidence: its probability.
      of_label: the probability of the example's own class.
      scores: log probability of each class, of every `every`-th example.
      every: 1: of all.
    """

    labels: Int[np.ndarray, ' n']
    guessed: Int[np.ndarray, ' n']
    confidence: Float[np.ndarray, ' n']
    of_label: Float[np.ndarray, ' n']
    scores: Float32[np.ndarray, 'm classes']
    every: int = 1

    @property
    def scored_labels(self) -> Int[np.ndarray, ' m']:
        """The labels of the examples with scores."""
        return self.labels[:: self.every]


class Observer:
    """Collects the predictions of batches, in the order of the examples."""

    def __init__(self, examples: int, classes: int, most_scores: int = MOST_SCORES) -> None:
        self.every = max(1, math.ceil(examples * classes / most_scores))
        self._found = 0
        self._rows: list[tuple[np.ndarray, ...]] = []
        self._scores: list[np.ndarray] = []

    def __call__(self, batch: Mapping[str, Any], logits: Float[Array, 'n classes']) -> None:
        """Adds a batch: 'label' and 'mask', False for padding."""
        mask: Bool[np.ndarray, ' n'] = np.asarray(batch['mask'])
        labels = np.asarray(batch['label'])[mask]
        x = np.asarray(logits, np.float64)[mask]
        guessed, rows = x.argmax(axis=1), np.arange(len(x))
        x -= x[rows, guessed][:, None]
        others = np.exp(x)
        others[rows, guessed] = 0
        # As logarithms, in which probabilities close to 1 stay apart.
        x -= np.log1p(others.sum(axis=1, keepdims=True))
        self._rows.append((labels, guessed, np.exp(x[rows, guessed]), np.exp(x[rows, labels])))
        self._scores.append(x[-self._found % self.every :: self.every].astype(np.float32))
        self._found += len(x)

    def predictions(self) -> Predictions:
        """Of all batches so far."""
        labels, guessed, confidence, of_label = (
            np.concatenate(column) for column in zip(*self._rows, strict=True)
        )
        scores = np.concatenate(self._scores)
        return Predictions(labels, guessed, confidence, of_label, scores, self.every)


def confident_mistakes(predictions: Predictions, count: int) -> list[int]:
    """The wrongly classified examples of the highest confidence; of equal ones the first."""
    wrong = np.flatnonzero(predictions.guessed != predictions.labels)
    order = np.argsort(-predictions.confidence[wrong], kind='stable')
    return [int(i) for i in wrong[order[:count]]]


@dataclasses.dataclass(frozen=True)
class ConfusedPair:
    """A class that is taken for another.

    Attributes:
      true: the class.
      predicted: what it is taken for.
      count: number of examples.
      share: of the examples of the class.
      example: the most confident of them.
    """

    true: int
    predicted: int
    count: int
    share: float
    example: int


def confused_pairs(predictions: Predictions, count: int) -> list[ConfusedPair]:
    """The pairs of classes confused most often; of equal counts, the larger share first."""
    sizes = np.bincount(predictions.labels)
    wrong = np.array(confident_mistakes(predictions, len(predictions.labels)), int)
    pairs = np.stack([predictions.labels[wrong], predictions.guessed[wrong]], axis=1)
    # Each pair with its first row: mistakes stand in order of confidence.
    found, first, counts = np.unique(pairs, axis=0, return_index=True, return_counts=True)
    all_pairs = [
        ConfusedPair(int(a), int(b), int(n), float(n / sizes[a]), int(wrong[i]))
        for (a, b), i, n in zip(found, first, counts, strict=True)
    ]
    return sorted(all_pairs, key=lambda p: (-p.count, -p.share, p.true, p.predicted))[:count]


class Curves(NamedTuple):
    """A class against the rest, over all thresholds of its score.

    Attributes:
      false_positives, true_positives: shares, of the ROC curve.
      recall, precision: of the other curve.
      auc: area under the ROC curve.
      average_precision: mean of the precision over the steps of recall.
    """

    false_positives: Float[np.ndarray, ' points']
    true_positives: Float[np.ndarray, ' points']
    recall: Float[np.ndarray, ' steps']
    precision: Float[np.ndarray, ' steps']
    auc: float
    average_precision: float


def class_curves(predictions: Predictions, label: int) -> Curves | None:
    """The curves of a class; None where all examples with scores, or none, are of it."""
    from sklearn import metrics

    is_one = predictions.scored_labels == label
    if is_one.all() or not is_one.any():
        return None
    scores = predictions.scores[:, label]
    false, true, _ = metrics.roc_curve(is_one, scores)
    precision, recall, _ = metrics.precision_recall_curve(is_one, scores, drop_intermediate=True)
    average = metrics.average_precision_score(is_one, scores)
    return Curves(false, true, recall, precision, float(metrics.auc(false, true)), float(average))


def worst_classes(classes: Sequence[Mapping[str, Any]], count: int) -> list[int]:
    """The classes of the lowest recall, in the order of their numbers.

    Args:
      classes: figures of each class, as `metrics.class_figures` gives them.
      count: how many.
    """
    known = [i for i, of in enumerate(classes) if of['recall'] is not None]
    return sorted(sorted(known, key=lambda i: (classes[i]['recall'], i))[:count])
