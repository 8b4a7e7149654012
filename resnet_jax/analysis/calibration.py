"""How far the confidences of a classifier can be believed, and temperature scaling.

A classifier is calibrated if it is right for 80 % of the images to whose class it gives a
probability of 0.8. Source: Guo et al. 2017, arXiv 1706.04599. Everything is computed from logits in
float64 on the host.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

Logits = Float[np.ndarray, 'n classes']
Labels = Int[np.ndarray, ' n']
Confidence = Float[np.ndarray, ' n']
_STEPS = 200  # doublings of a bracket: more than the exponents of float64 between 1 and its ends


def probabilities(logits: Logits, temperature: float = 1.0) -> Float[np.ndarray, 'n classes']:
    """The softmax of logits over a temperature."""
    return np.exp(_log_probabilities(logits, temperature))


def _log_probabilities(logits: Logits, temperature: float) -> Float[np.ndarray, 'n classes']:
    scaled = _shifted(logits) / temperature
    return scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))


def _shifted(logits: Logits) -> Float[np.ndarray, 'n classes']:
    """In float64, with a largest logit of 0 in each row, so that nothing overflows."""
    wide = np.asarray(logits, np.float64)
    return wide - wide.max(axis=1, keepdims=True)


def log_loss(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """The mean negative log likelihood, in nats."""
    log_p = _log_probabilities(logits, temperature)
    return float(-np.take_along_axis(log_p, labels[:, None], axis=1).mean())


def brier_score(p: Float[np.ndarray, 'n classes'], labels: Labels) -> float:
    """The mean over examples of the sum over classes of (p - y)^2, y being one-hot: 0 to 2."""
    true = np.take_along_axis(p, labels[:, None], axis=1)[:, 0]
    return float((np.square(p).sum(axis=1) - 2 * true + 1).mean())


def equal_width_bins(confidence: Confidence, bins: int) -> Int[np.ndarray, ' n']:
    """The bin of each example, of those that divide (0, 1] into equal parts with their upper end.

    With 15 bins, those of `resnet-jax eval` (arXiv 1706.04599, section 2).
    """
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def equal_count_bins(confidence: Confidence, bins: int) -> Int[np.ndarray, ' n']:
    """The bin of each example, of those that hold equal numbers of examples, by confidence.

    Numbers that `bins` does not divide differ by one. These are the adaptive bins of Nixon et al.
    2019, arXiv 1904.01685, section 3, here for the confidence in the predicted class alone.
    """
    found = np.empty(len(confidence), int)
    found[np.argsort(confidence, kind='stable')] = _even(len(confidence), bins)
    return found


def _even(n: int, bins: int) -> Int[np.ndarray, ' n']:
    """Numbers of bins, rising, each as often."""
    return np.arange(n) * bins // n


def calibration_error(gap: Float[np.ndarray, ' n'], bin_of: Int[np.ndarray, ' n']) -> float:
    """The expected calibration error: mean over examples of |accuracy - confidence| by bin.

    Args:
      gap: of each example, whether it is right (0 or 1) minus the confidence.
      bin_of: its bin.
    """
    return float(np.abs(np.bincount(bin_of, gap)).sum() / len(gap))


def error_intervals(
    confidence: Confidence, correct: Bool[np.ndarray, ' n'], bins: int, draws: int, seed: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """95 % bootstrap intervals of the calibration error in equal-width and in equal-count bins.

    These are basic intervals, [2 e - q(97.5 %), 2 e - q(2.5 %)] cut to [0, 1], for the error e and
    the quantiles q of that of resampled examples. A calibration error is biased upwards by the
    noise in each bin, and that of a resample once more, by about as much: between the quantiles
    themselves the truth would often not lie at all. They are still too narrow, or too high, for a
    network that is almost calibrated: of an error of 0 they hold the truth about half of the time.

    Args:
      confidence: of the examples.
      correct: whether they are right.
      bins: number of bins.
      draws: number of resamples, at least 1.
      seed: of the resamples.
    """
    rng = np.random.default_rng(seed)
    n, order = len(confidence), np.argsort(confidence, kind='stable')
    gap = (correct - confidence)[order]
    width, even = equal_width_bins(confidence[order], bins), _even(n, bins)
    found = np.empty((draws, 2))
    for i in range(draws):
        # Resampled in the order of the confidences, without sorting again.
        drawn = np.repeat(np.arange(n), np.bincount(rng.integers(n, size=n), minlength=n))
        found[i] = [calibration_error(gap[drawn], b) for b in (width[drawn], even)]
    ends = np.quantile(found, [0.975, 0.025], axis=0)
    whole = np.array([calibration_error(gap, b) for b in (width, even)])
    low, high = np.clip(2 * whole[None] - ends, 0.0, 1.0)
    return (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))


def reliability(
    confidence: Confidence,
    correct: Bool[np.ndarray, ' n'],
    bin_of: Int[np.ndarray, ' n'],
    bins: int,
) -> list[dict[str, Any]]:
    """The bins of a reliability diagram.

    Returns:
      For each bin 'n', and 'confidence' and 'accuracy', means over its examples; None without any.
    """
    counts = np.bincount(bin_of, minlength=bins)
    sums = [np.bincount(bin_of, x.astype(float), bins) for x in (confidence, correct)]
    return [
        {
            'n': int(n),
            'confidence': float(p / n) if n else None,
            'accuracy': float(right / n) if n else None,
        }
        for n, p, right in zip(counts, *sums, strict=True)
    ]


def figures(
    logits: Logits,
    labels: Labels,
    temperature: float = 1.0,
    *,
    bins: int = 15,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of the calibration of softmax(logits / temperature).

    Args:
      logits: of the examples.
      labels: their classes.
      temperature: above 0.
      bins: number of bins.
      draws: of the bootstrap; 0: no intervals.
      seed: of the bootstrap.

    Returns:
      'accuracy' and 'confidence' (means, fractions of 1), 'ece' and 'ece_adaptive' (in bins of
      equal width and of equal counts), their intervals [low, high] under 'ece_interval' and
      'ece_adaptive_interval' (None without a bootstrap), 'nll' (nats), 'brier', and 'bins' and
      'adaptive_bins', see `reliability`; those of 'bins' with their ends, 'low' and 'high'.
    """
    p = probabilities(logits, temperature)
    confidence = p.max(axis=1)
    # Of the logits, which a temperature cannot make equal by rounding.
    correct = np.argmax(logits, axis=1) == labels
    width, even = equal_width_bins(confidence, bins), equal_count_bins(confidence, bins)
    intervals = error_intervals(confidence, correct, bins, draws, seed) if draws else (None, None)
    diagram = reliability(confidence, correct, width, bins)
    return {
        'accuracy': float(correct.mean()),
        'confidence': float(confidence.mean()),
        'ece': calibration_error(correct - confidence, width),
        'ece_interval': intervals[0],
        'ece_adaptive': calibration_error(correct - confidence, even),
        'ece_adaptive_interval': intervals[1],
        'nll': log_loss(logits, labels, temperature),
        'brier': brier_score(p, labels),
        'bins': [{'low': i / bins, 'high': (i + 1) / bins, **b} for i, b in enumerate(diagram)],
        'adaptive_bins': reliability(confidence, correct, even, bins),
    }


def fit_temperature(logits: Logits, labels: Labels) -> float | None:
    """The temperature of the smallest negative log likelihood (arXiv 1706.04599, section 4.2).

    The loss is convex in 1 / T: its derivative there, the mean over examples of the expected logit
    under softmax(logits / T) minus the true class's, rises, and its only zero is found to full
    precision.

    Args:
      logits: of the examples.
      labels: their classes.

    Returns:
      None if no temperature is best: the loss falls for ever towards T = 0 where all examples are
      right, and towards infinity where the logits of the true classes are no larger than the
      others.
    """
    from scipy import optimize

    shifted = _shifted(logits)
    true = np.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]

    def slope(inverse: float) -> float:
        weights = np.exp(shifted * inverse)
        expected = (weights * shifted).sum(axis=1) / weights.sum(axis=1)
        return float((expected - true).mean())

    spread = float(-shifted.min())
    if spread == 0 or slope(0.0) >= 0 or (true == 0).all():
        return None
    low = high = 1 / spread  # where the logits count little: the search goes up
    for _ in range(_STEPS):
        if slope(low) < 0:
            break
        low /= 2
    for _ in range(_STEPS):
        if slope(high) > 0:
            break
        high *= 2
    else:
        return None
    # brentq's tolerance is relative, as far as float64 goes.
    inverse = optimize.brentq(slope, low, high, xtol=1e-300, rtol=4 * np.finfo(float).eps)
    return float(1 / inverse)
