"""Losses and figures of merit of classification, as sums that add up over batches and devices.

Targets are labels, integers [N], or distributions over the classes, floats [N, classes].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped

ECE_BINS = 15
SUMS = ('n', 'loss', 'top1', 'top5')  # the keys of `batch_sums`
Logits = Float[Array, 'n classes']
Targets = Shaped[Array, 'n *classes']
ClassWeights = Float[np.ndarray, ' classes']
PerExample = Float[Array, ' n']


def as_distribution(targets: Targets, classes: int, dtype: Any) -> Float[Array, 'n classes']:
    """Targets as distributions over the classes: labels become one-hot."""
    if targets.ndim == 1:
        return jax.nn.one_hot(targets, classes, dtype=dtype)
    return targets.astype(dtype)


def as_labels(targets: Targets) -> Int[Array, ' n']:
    """Targets as labels: of a distribution, its most probable class."""
    return targets if targets.ndim == 1 else jnp.argmax(targets, axis=-1)


def cross_entropy(
    logits: Logits,
    targets: Targets,
    label_smoothing: float = 0.0,
    class_weights: ClassWeights | None = None,
) -> PerExample:
    """Cross entropy of each example, in nats.

    Args:
      logits: float32.
      targets: labels or distributions t.
      label_smoothing: s in (1 - s) * t + s / classes (arXiv 1512.00567, section 7).
      class_weights: of each class's term; None: all 1. They are those of PyTorch's
        CrossEntropyLoss with reduction='none'. Its default reduction divides by the sum of the
        weights in a batch, which depends on how the batch is divided over devices; this does not.
    """
    if targets.ndim == 1 and not label_smoothing and class_weights is None:
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    targets = as_distribution(targets, logits.shape[-1], logits.dtype)
    if label_smoothing:
        targets = optax.smooth_labels(targets, label_smoothing)
    if class_weights is not None:
        targets = targets * class_weights[None]
    return optax.softmax_cross_entropy(logits, targets)


def focal_loss(
    logits: Logits,
    targets: Targets,
    gamma: float,
    alpha: float,
    class_weights: ClassWeights | None = None,
) -> PerExample:
    """Focal loss of each example over the softmax: -alpha (1 - p)^gamma log p (arXiv 1708.02002).

    Args:
      logits: float32.
      targets: labels, p being the probability of the label; or distributions, of which the loss is
        the expectation.
      gamma: how much easy examples are played down; 0 gives alpha times the cross entropy.
      alpha: a factor.
      class_weights: of each class's term; None: all 1.
    """
    if targets.ndim > 1 or class_weights is not None:
        log_p = jax.nn.log_softmax(logits)
        shares = as_distribution(targets, logits.shape[-1], log_p.dtype)
        shares = shares if class_weights is None else shares * class_weights[None]
        return jnp.sum(shares * _focal(log_p, gamma, alpha), axis=-1)
    return _focal(-cross_entropy(logits, targets), gamma, alpha)


def _focal(log_p: Array, gamma: float, alpha: float) -> Array:
    # Bounded below by the smallest positive number: at 0 a fractional power has no derivative.
    missed = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(log_p.dtype).tiny)
    return -alpha * missed**gamma * log_p


def binary_cross_entropy(
    logits: Logits,
    targets: Targets,
    label_smoothing: float = 0.0,
    class_weights: ClassWeights | None = None,
    target_threshold: float | None = None,
) -> PerExample:
    """Each class against the rest, summed over the classes, in nats (arXiv 2110.00476, sect. 2.2).

    Args:
      logits: float32.
      targets: labels or distributions t.
      label_smoothing: s in (1 - s) * t + s / classes.
      class_weights: an example's loss is multiplied by that of its class, or by their mean under
        its distribution; None: all 1.
      target_threshold: classes of a larger share in t count as 1, others as 0, before smoothing;
        None: the shares are the targets.
    """
    targets = as_distribution(targets, logits.shape[-1], logits.dtype)
    wanted = targets
    if target_threshold is not None:
        wanted = (targets > target_threshold).astype(logits.dtype)
    smoothed = optax.smooth_labels(wanted, label_smoothing)
    found = jnp.sum(optax.sigmoid_binary_cross_entropy(logits, smoothed), axis=-1)
    return found if class_weights is None else found * (targets @ class_weights)


def batch_sums(
    logits: Logits, targets: Targets, mask: Bool[Array, ' n'] | None = None
) -> dict[str, Float[Array, '']]:
    """Sums over a batch: 'n', 'loss' (cross entropy, unsmoothed), 'top1', 'top5'.

    Args:
      logits: float32.
      targets: labels, or distributions, whose label is the most probable class.
      mask: False for padding, which counts nowhere; None: every example counts.
    """
    labels = as_labels(targets)
    weight = jnp.ones(labels.shape) if mask is None else mask.astype(jnp.float32)
    # The rank of the true class, counted from the classes it beats, so that a NaN beats nothing. A
    # tie goes to the lower class, as in argmax: equal logits do not make every answer right.
    true = jnp.take_along_axis(logits, labels[:, None], axis=1)
    later = jnp.arange(logits.shape[1])[None] > labels[:, None]
    beaten = (logits < true) | ((logits == true) & later)
    rank = logits.shape[1] - 1 - jnp.sum(beaten, axis=1)
    return {
        'n': jnp.sum(weight),
        'loss': jnp.sum(weight * cross_entropy(logits, targets)),
        'top1': jnp.sum(weight, where=rank < 1),
        'top5': jnp.sum(weight, where=rank < 5),
    }


def calibration_sums(
    logits: Logits, targets: Targets, mask: Bool[Array, ' n']
) -> dict[str, Float[Array, ' bins']]:
    """Sums per confidence bin: 'bin_n', 'bin_confidence', 'bin_correct'.

    The `ECE_BINS` bins divide (0, 1] into equal parts and hold their upper end (arXiv 1706.04599,
    section 2).
    """
    probabilities = jax.nn.softmax(logits)
    confidence = jnp.max(probabilities, axis=1)
    correct = jnp.argmax(logits, axis=1) == as_labels(targets)
    bins = jnp.clip(jnp.ceil(confidence * ECE_BINS).astype(jnp.int32) - 1, 0, ECE_BINS - 1)
    weight = mask.astype(jnp.float32)

    def by_bin(values: Array) -> Array:
        return jnp.zeros(ECE_BINS).at[bins].add(weight * values)

    return {
        'bin_n': by_bin(jnp.ones_like(weight)),
        'bin_confidence': by_bin(confidence),
        'bin_correct': by_bin(correct.astype(jnp.float32)),
    }


def confusion_sums(
    logits: Logits, targets: Targets, mask: Bool[Array, ' n']
) -> Int[Array, 'classes classes']:
    """Counts of examples: row the true class, column the predicted one."""
    classes = logits.shape[1]
    counts = jnp.zeros((classes, classes), jnp.int32)
    predicted = jnp.argmax(logits, axis=1)
    return counts.at[as_labels(targets), predicted].add(mask.astype(jnp.int32))


def averages(sums: dict[str, Any]) -> dict[str, float]:
    """Means over the examples from `batch_sums`: 'loss', 'top1', 'top5'."""
    return {key: float(sums[key]) / float(sums['n']) for key in ('loss', 'top1', 'top5')}


def expected_calibration_error(sums: dict[str, Any]) -> float:
    """Mean over examples of |accuracy - confidence| by bin, from `calibration_sums`."""
    gaps = np.abs(np.asarray(sums['bin_correct']) - np.asarray(sums['bin_confidence']))
    return float(gaps.sum() / np.asarray(sums['bin_n']).sum())


def class_figures(confusion: Int[np.ndarray, 'c c']) -> list[dict[str, Any]]:
    """Figures of each class.

    Args:
      confusion: counts of examples, row the true class, column the predicted one.

    Returns:
      'n', the number of examples of the class, and fractions of 1, None where they are undefined:
      'recall' (of the examples of the class, those predicted as it), 'precision' (of those
      predicted as the class, its examples) and 'f1', their harmonic mean.
    """

    def fraction(part: float, whole: float) -> float | None:
        return float(part / whole) if whole else None

    right, true, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    return [
        {
            'n': int(n),
            'recall': fraction(r, n),
            'precision': fraction(r, p),
            'f1': fraction(2 * r, n + p),
        }
        for r, n, p in zip(right, true, predicted, strict=True)
    ]
