"""Losses and figures of merit, as sums that add up over batches and devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Array = jax.Array
ECE_BINS = 15
SUMS = ('n', 'loss', 'top1', 'top5')  # what `batch_sums` gives


def no_sums() -> dict[str, np.ndarray]:
    """What `batch_sums` gives, of no examples."""
    return {name: np.zeros((), np.float32) for name in SUMS}


def cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Cross entropy of each example, in nats.

    Args:
      logits: [N, classes], float32.
      labels: [N], integers.
      label_smoothing: s in target = (1 - s) * one_hot + s / classes (arXiv 1512.00567, section 7).

    Returns:
      [N] float32.
    """
    if not label_smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))


def focal_loss(logits: Array, labels: Array, gamma: float, alpha: float) -> Array:
    """Focal loss of each example over the softmax: -alpha (1 - p)^gamma log p (arXiv 1708.02002).

    Args:
      logits: [N, classes], float32.
      labels: [N], integers; p is the probability of the label.
      gamma: how much easy examples are played down; 0 gives alpha times the cross entropy.
      alpha: a factor.

    Returns:
      [N] float32.
    """
    log_p = -cross_entropy(logits, labels)
    # From below by the least positive number, where a fractional power has no derivative.
    missed = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(log_p.dtype).tiny)
    return -alpha * missed**gamma * log_p


def binary_cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Each class against the rest, summed over the classes (arXiv 2110.00476, section 2.2).

    Args:
      logits: [N, classes], float32.
      labels: [N], integers.
      label_smoothing: s in target = (1 - s) * one_hot + s / classes.

    Returns:
      [N] float32, in nats.
    """
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    targets = optax.smooth_labels(targets, label_smoothing)
    return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, targets), axis=-1)


# What a config may train with: (logits, labels, config.loss) -> [N].
LOSSES: dict[str, Callable[[Array, Array, Any], Array]] = {
    'cross_entropy': lambda x, y, loss: cross_entropy(x, y, loss.label_smoothing),
    'focal': lambda x, y, loss: focal_loss(x, y, loss.gamma, loss.alpha),
    'binary_cross_entropy': lambda x, y, loss: binary_cross_entropy(x, y, loss.label_smoothing),
}


def batch_sums(logits: Array, labels: Array, mask: Array | None = None) -> dict[str, Array]:
    """Sums over a batch: 'n', 'loss' (unsmoothed), 'top1', 'top5'.

    Args:
      logits: [N, classes].
      labels: [N], integers.
      mask: [N] bool; False for padding, which counts nowhere. None: all count.
    """
    weight = jnp.ones(labels.shape) if mask is None else mask.astype(jnp.float32)
    # The rank of the true class, counted from the classes it beats, so that a NaN beats nothing. A
    # tie goes to the lower class, as in argmax: equal logits do not make every answer right.
    true = jnp.take_along_axis(logits, labels[:, None], axis=1)
    later = jnp.arange(logits.shape[1])[None] > labels[:, None]
    beaten = (logits < true) | ((logits == true) & later)
    rank = logits.shape[1] - 1 - jnp.sum(beaten, axis=1)
    return {
        'n': jnp.sum(weight),
        'loss': jnp.sum(weight * cross_entropy(logits, labels)),
        'top1': jnp.sum(weight, where=rank < 1),
        'top5': jnp.sum(weight, where=rank < 5),
    }


def calibration_sums(logits: Array, labels: Array, mask: Array) -> dict[str, Array]:
    """Sums per confidence bin, [ECE_BINS] each: 'bin_n', 'bin_confidence', 'bin_correct'.

    The bins divide (0, 1] into equal parts and hold their upper end (arXiv 1706.04599, section 2).
    """
    probabilities = jax.nn.softmax(logits)
    confidence = jnp.max(probabilities, axis=1)
    correct = jnp.argmax(logits, axis=1) == labels
    bins = jnp.clip(jnp.ceil(confidence * ECE_BINS).astype(jnp.int32) - 1, 0, ECE_BINS - 1)
    weight = mask.astype(jnp.float32)

    def by_bin(values: Array) -> Array:
        return jnp.zeros(ECE_BINS).at[bins].add(weight * values)

    return {
        'bin_n': by_bin(jnp.ones_like(weight)),
        'bin_confidence': by_bin(confidence),
        'bin_correct': by_bin(correct.astype(jnp.float32)),
    }


def confusion_sums(logits: Array, labels: Array, mask: Array) -> Array:
    """[classes, classes] counts: row the true class, column the predicted one."""
    classes = logits.shape[1]
    counts = jnp.zeros((classes, classes), jnp.int32)
    return counts.at[labels, jnp.argmax(logits, axis=1)].add(mask.astype(jnp.int32))


def averages(sums: dict[str, Any]) -> dict[str, float]:
    """Means over the examples from `batch_sums`: 'loss', 'top1', 'top5'."""
    return {key: float(sums[key]) / float(sums['n']) for key in ('loss', 'top1', 'top5')}


def expected_calibration_error(sums: dict[str, Any]) -> float:
    """Mean over examples of |accuracy - confidence| by bin, from `calibration_sums`."""
    gaps = np.abs(np.asarray(sums['bin_correct']) - np.asarray(sums['bin_confidence']))
    return float(gaps.sum() / np.asarray(sums['bin_n']).sum())
