"""Losses and figures of dense prediction, as sums that add up over batches and devices.

Of segmentation the targets are {'segmentation': uint8 [N, H, W]}, 255 where a pixel counts nowhere;
of depth {'depth': float32 [N, H, W]} in metres, 0 where it is unknown. Outputs are {'out': [N, H,
W, K]} and perhaps 'aux', of a second head.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.data.targets import IGNORED
from resnet_jax.training import metrics
from resnet_jax.training.metrics import ClassWeights, PerExample

Outputs = Mapping[str, Array]
Targets = Mapping[str, Array]
SEGMENTATION_SUMS = ('n', 'loss', 'pixels', 'right')
DEPTH_SUMS = ('n', 'loss', 'pixels', 'near', 'squares', 'relative')
NEAR = 1.25  # arXiv 1406.2283, section 4.2: the factor of a depth that counts as right


def over_heads(outputs: Outputs, weight: float, loss: Callable[[Array], PerExample]) -> PerExample:
    """The loss of the main head, and `weight` times that of the second (arXiv 1612.01105, 3.3)."""
    found = loss(outputs['out'])
    return found + weight * loss(outputs['aux']) if 'aux' in outputs else found


def pixel_cross_entropy(
    logits: Float[Array, 'n h w classes'],
    targets: Targets,
    label_smoothing: float = 0.0,
    class_weights: ClassWeights | None = None,
) -> PerExample:
    """The mean cross entropy over the known pixels of each image, in nats; 0 without any.

    PyTorch's CrossEntropyLoss divides by the known pixels of the whole batch instead, or by the sum
    of their weights.
    """

    def loss(flat: Array, labels: Array) -> Array:
        return metrics.cross_entropy(flat, labels, label_smoothing, class_weights)

    return _over_pixels(logits, targets, loss)


def pixel_focal_loss(
    logits: Float[Array, 'n h w classes'],
    targets: Targets,
    gamma: float,
    alpha: float,
    class_weights: ClassWeights | None = None,
) -> PerExample:
    """The mean focal loss over the known pixels of each image; see `metrics.focal_loss`."""

    def loss(flat: Array, labels: Array) -> Array:
        return metrics.focal_loss(flat, labels, gamma, alpha, class_weights)

    return _over_pixels(logits, targets, loss)


def _over_pixels(
    logits: Array, targets: Targets, loss: Callable[[Array, Array], Array]
) -> PerExample:
    labels, known = _labels(targets)
    flat = loss(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)).reshape(labels.shape)
    return _mean_of(flat, known)


def _labels(targets: Targets) -> tuple[Int[Array, 'n h w'], Bool[Array, 'n h w']]:
    """The class of each pixel, 0 where it is unknown, and where it is known."""
    mask = targets['segmentation'].astype(jnp.int32)
    return jnp.where(mask == IGNORED, 0, mask), mask != IGNORED


def _mean_of(values: Float[Array, 'n h w'], known: Bool[Array, 'n h w']) -> PerExample:
    total = jnp.sum(values, (1, 2), where=known)
    return total / jnp.maximum(jnp.sum(known, (1, 2), dtype=total.dtype), 1)


def dice_loss(logits: Float[Array, 'n h w classes'], targets: Targets) -> PerExample:
    """1 minus the mean Dice coefficient of the classes that an image has (arXiv 1606.04797).

    Without the squares of the paper's section 3: 2 sum(p t) / (sum(p) + sum(t)) over its known
    pixels; 0 of an image without any.
    """
    labels, known = _labels(targets)
    counted = known[..., None].astype(logits.dtype)
    truth = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) * counted
    found = jax.nn.softmax(logits) * counted
    both, sizes = jnp.sum(truth * found, (1, 2)), jnp.sum(truth, (1, 2))
    there = sizes > 0
    # Divided by 1 where a class is not there, so that the gradient is finite also of no pixels.
    dice = 2 * both / jnp.where(there, sizes + jnp.sum(found, (1, 2)), 1)
    classes = jnp.sum(there, -1, dtype=logits.dtype)
    return jnp.sum(1 - dice, -1, where=there) / jnp.maximum(classes, 1)


def segmentation_sums(
    outputs: Outputs, targets: Targets, mask: Bool[Array, ' n'] | None = None
) -> dict[str, Array]:
    """Sums over a batch: images 'n', their cross entropy 'loss', known 'pixels', those 'right'."""
    logits, (labels, known) = outputs['out'], _labels(targets)
    counted = jnp.ones(len(labels)) if mask is None else mask.astype(jnp.float32)
    right = (jnp.argmax(logits, -1) == labels) & known
    return {
        'n': jnp.sum(counted),
        'loss': jnp.sum(counted * pixel_cross_entropy(logits, targets)),
        'pixels': jnp.sum(counted * jnp.sum(known, (1, 2), dtype=jnp.float32)),
        'right': jnp.sum(counted * jnp.sum(right, (1, 2), dtype=jnp.float32)),
    }


def segmentation_eval_sums(outputs: Outputs, targets: Targets, mask: Array) -> dict[str, Array]:
    """The same, and 'confusion': counts of pixels, row the true class, column the predicted one."""
    logits, (labels, known) = outputs['out'], _labels(targets)
    counts = jnp.zeros((logits.shape[-1],) * 2, jnp.int32)
    counted = known & mask[:, None, None]
    confusion = counts.at[labels, jnp.argmax(logits, -1)].add(counted.astype(jnp.int32))
    return {**segmentation_sums(outputs, targets, mask), 'confusion': confusion}


def segmentation_train_figures(sums: Mapping[str, Any]) -> dict[str, float]:
    """Means from `segmentation_sums`."""
    return {
        'loss': float(sums['loss']) / float(sums['n']),
        'pixel_accuracy': float(sums['right']) / max(float(sums['pixels']), 1.0),
    }


def segmentation_figures(sums: Mapping[str, Any], rows: Any = None) -> dict[str, float]:
    """Figures of an evaluation.

    Returns:
      'n', 'loss', 'pixel_accuracy', and 'miou': the mean over the classes of intersection over
      union of all pixels together, without the classes that are neither there nor predicted.
    """
    confusion = sums['confusion']
    found = [iou for iou in class_ious(confusion) if iou is not None]
    return {
        'n': int(sums['n']),
        'loss': float(sums['loss']) / float(sums['n']),
        'pixel_accuracy': float(confusion.trace()) / max(int(confusion.sum()), 1),
        'miou': float(np.mean(found)) if found else 0.0,
    }


def class_ious(confusion: Int[np.ndarray, 'c c']) -> list[float | None]:
    """Intersection over union of each class; None where it is neither there nor predicted."""
    both = confusion.diagonal()
    either = confusion.sum(0) + confusion.sum(1) - both
    return [
        float(part / whole) if whole else None for part, whole in zip(both, either, strict=True)
    ]


def scale_invariant_loss(
    outputs: Float[Array, 'n h w 1'], targets: Targets, invariance: float
) -> PerExample:
    """Eigen et al.'s loss of each image (arXiv 1406.2283, section 3.2), of logarithms of depth.

    Args:
      outputs: logarithms of the depth in metres.
      targets: the depth.
      invariance: their lambda; at 1 a factor common to all pixels costs nothing, at 0 it is the
        mean square.
    """
    difference, known = _difference(outputs, targets)
    square, mean = _mean_of(difference**2, known), _mean_of(difference, known)
    return square - invariance * mean**2


def log_l1_loss(outputs: Float[Array, 'n h w 1'], targets: Targets) -> PerExample:
    """The mean absolute difference of the logarithms of depth."""
    difference, known = _difference(outputs, targets)
    return _mean_of(jnp.abs(difference), known)


def _difference(outputs: Array, targets: Targets) -> tuple[Array, Array]:
    known = targets['depth'] > 0
    truth = jnp.log(jnp.where(known, targets['depth'], 1))
    return jnp.where(known, outputs[..., 0] - truth, 0), known


def depth_sums(
    outputs: Outputs, targets: Targets, mask: Bool[Array, ' n'] | None = None
) -> dict[str, Array]:
    """Sums over a batch.

    Returns:
      Images 'n' and their 'loss', the mean square of the difference of logarithms; known 'pixels';
      of these, the 'near' ones, within a factor of `NEAR`; and of all, the 'squares' of the errors,
      and the errors 'relative' to the depth.
    """
    difference, known = _difference(outputs['out'], targets)
    counted = jnp.ones(len(known)) if mask is None else mask.astype(jnp.float32)
    error = jnp.exp(outputs['out'][..., 0]) - targets['depth']
    depth = jnp.where(known, targets['depth'], 1)

    def total(values: Array) -> Array:
        return jnp.sum(counted * jnp.sum(values, (1, 2), where=known))

    return {
        'n': jnp.sum(counted),
        'loss': jnp.sum(counted * _mean_of(difference**2, known)),
        'pixels': total(jnp.ones_like(depth)),
        'near': total((jnp.abs(difference) < np.log(NEAR)).astype(jnp.float32)),
        'squares': total(error**2),
        'relative': total(jnp.abs(error) / depth),
    }


def depth_figures(sums: Mapping[str, Any], rows: Any = None) -> dict[str, float]:
    """Figures from `depth_sums`: 'n', 'loss', 'rmse' in metres, 'abs_rel', and 'delta1'.

    'delta1' is the share of pixels within a factor of 1.25 (arXiv 1406.2283, section 4.2).
    """
    pixels = max(float(sums['pixels']), 1.0)
    return {
        'n': int(sums['n']),
        'loss': float(sums['loss']) / float(sums['n']),
        'rmse': float(np.sqrt(sums['squares'] / pixels)),
        'abs_rel': float(sums['relative']) / pixels,
        'delta1': float(sums['near']) / pixels,
    }
