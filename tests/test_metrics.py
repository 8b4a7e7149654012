"""Losses and figures of merit against plain statements of their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.training import metrics

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(200, 10)).astype(np.float32) * 3
LABELS = RNG.integers(10, size=200).astype(np.int32)
MASK = RNG.random(200) < 0.7
ALL = np.ones(200, bool)


def log_softmax(logits):
    wide = logits.astype(np.float64)
    wide = wide - wide.max(axis=1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))


@pytest.mark.parametrize('smoothing', [0.0, 0.1, 0.5])
def test_cross_entropy(smoothing):
    """arXiv 1512.00567, section 7: the smoothed loss mixes in the mean over all classes."""
    logs = log_softmax(LOGITS)
    expected = -(1 - smoothing) * logs[np.arange(200), LABELS] - smoothing * logs.mean(axis=1)
    actual = jax.jit(metrics.cross_entropy, static_argnums=2)(LOGITS, LABELS, smoothing)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=2e-6)


def test_cross_entropy_of_a_sure_and_of_a_blind_model():
    blind = metrics.cross_entropy(jnp.zeros((1, 4)), jnp.asarray([2]))
    assert float(blind[0]) == pytest.approx(np.log(4), rel=1e-6)
    sure = jnp.asarray([[0.0, 1000.0]])
    assert metrics.cross_entropy(sure, jnp.asarray([1])).tolist() == [0.0]
    assert metrics.cross_entropy(sure, jnp.asarray([0])).tolist() == [1000.0]


def counted(logits, labels, mask=None):
    sums = metrics.batch_sums(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), mask)
    return {key: float(value) for key, value in sums.items()}


def test_sums_count_what_the_mask_leaves():
    order = np.argsort(-LOGITS, axis=1, kind='stable')
    for mask in (MASK, ALL):
        sums = counted(LOGITS, LABELS, jnp.asarray(mask))
        assert sums['n'] == mask.sum()
        assert sums['top1'] == (order[:, 0] == LABELS)[mask].sum()
        assert sums['top5'] == (order[:, :5] == LABELS[:, None]).any(axis=1)[mask].sum()
        loss = -log_softmax(LOGITS)[np.arange(200), LABELS][mask].sum()
        assert sums['loss'] == pytest.approx(loss, rel=1e-5)
    assert counted(LOGITS, LABELS) == pytest.approx(counted(LOGITS, LABELS, jnp.asarray(ALL)))


def test_padding_counts_nowhere():
    """Whatever stands in the padding."""
    mask = jnp.asarray(MASK)
    other = np.where(MASK[:, None], LOGITS, 7.0).astype(np.float32)
    labels = np.where(MASK, LABELS, 0).astype(np.int32)
    for sums in (metrics.batch_sums, metrics.calibration_sums, metrics.confusion_sums):
        a, b = (
            sums(jnp.asarray(LOGITS), jnp.asarray(LABELS), mask),
            sums(jnp.asarray(other), jnp.asarray(labels), mask),
        )
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_tie_goes_to_the_lower_class():
    """As in argmax: a model that says the same of all is right once in ten, not always."""
    logits, labels = np.zeros((10, 10)), np.arange(10)
    sums = counted(logits, labels)
    assert (sums['top1'], sums['top5']) == (1, 5)
    assert counted([[1, 2, 2]], [1])['top1'] == 1
    assert counted([[1, 2, 2]], [2])['top1'] == 0


def test_nan_is_never_correct():
    logits = np.full((4, 10), np.nan)
    logits[3] = np.arange(10)
    logits[3, 9] = np.nan
    labels = np.asarray([0, 5, 9, 9])
    sums = counted(logits, labels)
    assert (sums['top1'], sums['top5'], sums['n']) == (0, 0, 4)


def test_fewer_than_five_classes():
    assert counted([[1.0, 2.0, 3.0]], [0])['top5'] == 1


def calibration_error(logits, labels, mask):
    """arXiv 1706.04599, section 2: sum over bins ((m-1)/15, m/15] of n_m / n |acc_m - conf_m|."""
    total, n = 0.0, mask.sum()
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    for m in range(1, 16):
        inside = mask & (confidence > (m - 1) / 15) & (confidence <= m / 15)
        if inside.any():
            total += inside.sum() / n * abs(correct[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize('mask', [ALL, MASK])
def test_calibration_error(mask):
    sums = metrics.calibration_sums(jnp.asarray(LOGITS), jnp.asarray(LABELS), jnp.asarray(mask))
    expected = calibration_error(LOGITS.astype(np.float64), LABELS, mask)
    assert metrics.expected_calibration_error(sums) == pytest.approx(expected, rel=1e-5)
    assert float(sums['bin_n'].sum()) == mask.sum()


def test_bins_hold_their_upper_end():
    """A confidence of exactly 1 is in bin 15, one of exactly 1/15 in bin 1."""
    sure = np.zeros((1, 15), np.float32)
    sure[0, 3] = 200.0
    bins = []
    for logits in (sure, np.zeros((1, 15), np.float32)):
        sums = metrics.calibration_sums(jnp.asarray(logits), jnp.asarray([0]), jnp.asarray([True]))
        bins.append(int(np.argmax(sums['bin_n'])))
    assert bins == [14, 0]


def test_calibration_error_of_known_cases():
    """Always sure and half right: 0.5. As sure as right: 0."""
    sure = jnp.asarray([[100.0, 0.0]] * 4)
    labels, mask = jnp.asarray([0, 1, 0, 1]), jnp.ones(4, bool)
    sums = metrics.calibration_sums(sure, labels, mask)
    assert metrics.expected_calibration_error(sums) == pytest.approx(0.5, abs=1e-7)
    undecided = jnp.zeros((4, 2))
    sums = metrics.calibration_sums(undecided, labels, mask)
    assert metrics.expected_calibration_error(sums) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize('mask', [ALL, MASK])
def test_confusion_matrix(mask):
    expected = np.zeros((10, 10), int)
    for logits, label, counts in zip(LOGITS, LABELS, mask, strict=True):
        if counts:
            expected[label, max(range(10), key=lambda c: logits[c])] += 1
    actual = metrics.confusion_sums(jnp.asarray(LOGITS), jnp.asarray(LABELS), jnp.asarray(mask))
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.slow
def test_sums_add_up_over_batches():
    whole = metrics.averages(metrics.batch_sums(jnp.asarray(LOGITS), jnp.asarray(LABELS)))
    parts = [
        metrics.batch_sums(jnp.asarray(LOGITS[part]), jnp.asarray(LABELS[part]))
        for part in (slice(0, 33), slice(33, 200))
    ]
    together = metrics.averages(jax.tree.map(jnp.add, *parts))
    assert together == pytest.approx(whole, rel=1e-6)


def test_focal_loss():
    """-alpha (1 - p)^gamma log p, over the softmax."""
    p = np.exp(log_softmax(LOGITS))[np.arange(len(LABELS)), LABELS]
    for gamma, alpha in ((0.0, 1.0), (2.0, 0.25), (0.5, 3.0)):
        expected = -alpha * (1 - p) ** gamma * np.log(p)
        actual = metrics.focal_loss(jnp.asarray(LOGITS), jnp.asarray(LABELS), gamma, alpha)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-6)


def test_focal_loss_of_a_sure_answer_has_a_finite_gradient():
    logits = jnp.asarray([[200.0, 0.0, 0.0]])
    gradient = jax.grad(lambda x: metrics.focal_loss(x, jnp.asarray([0]), 0.5, 1.0).sum())(logits)
    assert jnp.all(jnp.isfinite(gradient))


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_binary_cross_entropy(smoothing):
    """Each class against the rest, summed over the classes."""
    classes = LOGITS.shape[1]
    target = (1 - smoothing) * np.eye(classes)[LABELS] + smoothing / classes
    q = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    expected = -(target * np.log(q) + (1 - target) * np.log(1 - q)).sum(1)
    actual = metrics.binary_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS), smoothing)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


LOSSES = {
    'cross_entropy': metrics.cross_entropy,
    'smoothed': lambda x, t: metrics.cross_entropy(x, t, 0.1),
    'focal': lambda x, t: metrics.focal_loss(x, t, 2.0, 0.5),
    'binary_cross_entropy': lambda x, t: metrics.binary_cross_entropy(x, t, 0.1),
}


@pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES)
def test_a_label_is_the_distribution_that_is_sure_of_it(loss):
    one_hot = jax.nn.one_hot(LABELS, 10)
    np.testing.assert_allclose(loss(LOGITS, one_hot), loss(LOGITS, LABELS), rtol=2e-5, atol=1e-6)


def test_losses_of_a_distribution_are_expectations_over_its_classes():
    """Cross entropy and focal loss are linear in the targets."""
    other = (LABELS + 3) % 10
    mixed = 0.75 * jax.nn.one_hot(LABELS, 10) + 0.25 * jax.nn.one_hot(other, 10)
    for loss in (LOSSES['cross_entropy'], LOSSES['focal']):
        expected = 0.75 * loss(LOGITS, LABELS) + 0.25 * loss(LOGITS, other)
        np.testing.assert_allclose(loss(LOGITS, mixed), expected, rtol=2e-5, atol=1e-6)


def test_binary_cross_entropy_of_a_distribution():
    """arXiv 2110.00476, section 2.2: each class has its own target."""
    targets = RNG.dirichlet(np.ones(10), size=200).astype(np.float32)
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    expected = -(targets * np.log(p) + (1 - targets) * np.log1p(-p)).sum(axis=1)
    np.testing.assert_allclose(
        metrics.binary_cross_entropy(LOGITS, jnp.asarray(targets)), expected, rtol=2e-5, atol=1e-5
    )


def test_figures_of_a_distribution_are_those_of_its_most_probable_class():
    targets = RNG.dirichlet(np.ones(10), size=200).astype(np.float32)
    hard, soft = counted(LOGITS, targets.argmax(axis=1)), counted(LOGITS, targets)
    for name in ('n', 'top1', 'top5'):
        assert soft[name] == hard[name]
    assert soft['loss'] == pytest.approx(-(targets * log_softmax(LOGITS)).sum(), rel=1e-5)
    masked = jnp.asarray(MASK)
    for sums in (metrics.calibration_sums, metrics.confusion_sums):
        jax.tree.map(
            np.testing.assert_array_equal,
            sums(LOGITS, jnp.asarray(targets), masked),
            sums(LOGITS, jnp.asarray(targets.argmax(axis=1)), masked),
        )


def test_class_figures_are_scikit_learns():
    from sklearn.metrics import precision_recall_fscore_support

    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(5, size=(2, 400))
    labels[labels == 3], predicted[predicted == 4] = (
        2,
        1,
    )  # a class without examples, one never seen
    confusion = np.zeros((5, 5), int)
    np.add.at(confusion, (labels, predicted), 1)
    found = metrics.class_figures(confusion)
    expected = precision_recall_fscore_support(labels, predicted, labels=range(5), zero_division=0)
    for i, figures in enumerate(found):
        for name, values in zip(('precision', 'recall', 'f1', 'n'), expected, strict=True):
            assert (figures[name] or 0) == pytest.approx(values[i])
    assert found[3]['recall'] is None and found[4]['precision'] is None
    assert found[3]['f1'] == 0.0


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
@pytest.mark.parametrize('soft', [False, True])
def test_class_weights_are_pytorchs(smoothing, soft):
    """Each example's loss, of labels and of distributions; the mean is then over examples."""
    torch = pytest.importorskip('torch')
    rng = np.random.default_rng(3)
    logits, weights = rng.normal(size=(20, 5)), rng.uniform(0.2, 3, 5)
    targets = rng.dirichlet(np.ones(5), 20) if soft else rng.integers(0, 5, 20)
    with jax.enable_x64(True):
        found = metrics.cross_entropy(*map(jnp.asarray, (logits, targets)), smoothing, weights)
    loss = torch.nn.CrossEntropyLoss(
        weight=torch.tensor(weights), reduction='none', label_smoothing=smoothing
    )
    expected = loss(torch.tensor(logits), torch.tensor(targets))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-10)


@pytest.mark.slow
def test_other_losses_take_the_weight_of_the_examples_class():
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(size=(20, 5)).astype(np.float32), rng.integers(0, 5, 20)
    weights = rng.uniform(0.2, 3, 5).astype(np.float32)
    for weighted, plain in (
        (metrics.focal_loss(logits, jnp.asarray(labels), 2.0, 0.5, weights),
         metrics.focal_loss(logits, jnp.asarray(labels), 2.0, 0.5)),
        (metrics.binary_cross_entropy(logits, jnp.asarray(labels), 0.1, weights),
         metrics.binary_cross_entropy(logits, jnp.asarray(labels), 0.1)),
    ):  # fmt: skip
        np.testing.assert_allclose(weighted, plain * weights[labels], rtol=1e-5)


@pytest.mark.parametrize('loss', [metrics.cross_entropy, metrics.binary_cross_entropy])
def test_mixed_targets_are_smoothed_once(loss):
    """0.7 of one label and 0.3 of another: s / classes on every class, whatever the mixture."""
    first, second = np.asarray(LABELS), np.roll(LABELS, 1)
    one_hot = np.eye(10, dtype=np.float32)
    mixed = 0.7 * one_hot[first] + 0.3 * one_hot[second]
    found = loss(jnp.asarray(LOGITS), jnp.asarray(mixed), 0.2)
    smoothed = 0.8 * mixed + 0.02
    by_hand = loss(jnp.asarray(LOGITS), jnp.asarray(smoothed))
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)
    apart = [loss(jnp.asarray(LOGITS), jnp.asarray(labels), 0.2) for labels in (first, second)]
    np.testing.assert_allclose(found, 0.7 * apart[0] + 0.3 * apart[1], rtol=1e-5)


def test_classes_above_a_threshold_are_whole_targets():
    """arXiv 2110.00476, section 2.2: a mixed image is an example of both classes."""
    mixed = jnp.asarray([[0.7, 0.3, 0.0], [0.9, 0.1, 0.0], [0.0, 0.0, 1.0]])
    whole = jnp.asarray([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    logits = jnp.asarray(LOGITS[:3, :3])
    for smoothing in (0.0, 0.1):
        found = metrics.binary_cross_entropy(logits, mixed, smoothing, None, 0.2)
        expected = metrics.binary_cross_entropy(logits, whole, smoothing)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    labels = jnp.asarray([0, 1, 2])
    same = metrics.binary_cross_entropy(logits, labels, 0.0, None, 0.2)
    np.testing.assert_array_equal(same, metrics.binary_cross_entropy(logits, labels))
