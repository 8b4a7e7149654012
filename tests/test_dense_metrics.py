"""Losses and figures of dense tasks, against PyTorch, torchvision, scikit-learn and COCO's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torchvision_cpu import import_torchvision

from resnet_jax.data.targets import IGNORED, NOTHING
from resnet_jax.dense.detector import Level, Pyramid, anchors_of
from resnet_jax.training import dense_metrics, detection
from resnet_jax.training.views import SCALES, SEGMENTATION_VIEWS

torch = pytest.importorskip('torch')

RNG = np.random.default_rng(0)
CLASSES = 5
LOGITS = (3 * RNG.standard_normal((4, 6, 7, CLASSES))).astype(np.float32)
MASKS = RNG.integers(0, CLASSES - 1, (4, 6, 7)).astype(np.uint8)  # none of the last class
MASKS[RNG.random(MASKS.shape) < 0.3] = IGNORED
MASKS[2] = IGNORED
KNOWN = MASKS != IGNORED
TARGETS = {'segmentation': MASKS}
WEIGHTS = np.asarray([1, 0.5, 3, 0, 2], np.float32)


def mean_of(values):
    """Over the known pixels of each image; 0 without any."""
    return (values * KNOWN).sum((1, 2)) / np.maximum(KNOWN.sum((1, 2)), 1)


# Segmentation


def per_pixel(weights=None, smoothing=0.0):
    """PyTorch's cross entropy of each pixel."""
    return torch.nn.functional.cross_entropy(
        *(torch.tensor(LOGITS).permute(0, 3, 1, 2).double(), torch.tensor(MASKS).long()),
        weight=None if weights is None else torch.tensor(weights).double(),
        ignore_index=IGNORED,
        label_smoothing=smoothing,
        reduction='none',
    ).numpy()


@pytest.mark.parametrize('weights', [None, WEIGHTS])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_cross_entropy_is_that_of_pytorch(weights, smoothing):
    loss = jax.jit(lambda x: dense_metrics.pixel_cross_entropy(x, TARGETS, smoothing, weights))(
        LOGITS
    )
    np.testing.assert_allclose(loss, mean_of(per_pixel(weights, smoothing)), rtol=1e-5)
    assert loss[2] == 0 and loss.dtype == jnp.float32


@pytest.mark.parametrize('weights', [None, WEIGHTS])
def test_focal_loss_is_that_of_pytorch(weights):
    loss_of = jax.jit(lambda *x: dense_metrics.pixel_focal_loss(x[0], TARGETS, *x[1:], weights))
    loss = loss_of(LOGITS, 1.5, 0.3)
    entropy = per_pixel()
    expected = 0.3 * (1 - np.exp(-entropy)) ** 1.5 * entropy
    if weights is not None:
        expected = expected * weights[np.where(KNOWN, MASKS, 0)]
    np.testing.assert_allclose(loss, mean_of(expected), rtol=1e-5)
    plain = loss_of(LOGITS, 0.0, 1.0)
    np.testing.assert_allclose(plain, mean_of(per_pixel(weights)), rtol=1e-5)


def softmax(x):
    x = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def test_dice_is_that_of_its_definition():
    loss_of = jax.jit(lambda x: dense_metrics.dice_loss(x, TARGETS))
    found = loss_of(LOGITS)
    for image in range(4):
        here, coefficients = KNOWN[image], []
        shares, labels = softmax(LOGITS[image])[here], MASKS[image][here]
        for number in set(labels):
            true, share = labels == number, shares[:, number]
            coefficients.append(2 * share[true].sum() / (share.sum() + true.sum()))
        expected = 1 - np.mean(coefficients) if coefficients else 0
        assert float(found[image]) == pytest.approx(expected, rel=1e-5)
    sure = 100 * np.eye(CLASSES, dtype=np.float32)[np.where(KNOWN, MASKS, 0)]
    np.testing.assert_allclose(loss_of(sure), np.zeros(4), atol=1e-6)


LOSSES = {
    'cross_entropy': lambda x: dense_metrics.pixel_cross_entropy(x, TARGETS, 0.1, WEIGHTS),
    'focal': lambda x: dense_metrics.pixel_focal_loss(x, TARGETS, 1.5, 0.3),
    'dice': lambda x: dense_metrics.dice_loss(x, TARGETS),
}


@pytest.mark.parametrize('name', LOSSES)
def test_ignored_pixels_teach_nothing(name):
    gradient = np.asarray(jax.jit(jax.grad(lambda x: jnp.sum(LOSSES[name](x))))(LOGITS))
    assert np.isfinite(gradient).all() and not gradient[~KNOWN].any()
    assert np.abs(gradient[KNOWN]).max(1).min() > 0


def test_a_second_head_counts_by_its_weight():
    both = {'out': np.asarray([1.0, 2.0]), 'aux': np.asarray([3.0, 5.0])}
    double = dense_metrics.over_heads(both, 0.5, lambda x: 2 * x)
    assert double.tolist() == [2 + 3, 4 + 5]
    alone = dense_metrics.over_heads({'out': both['out']}, 0.5, lambda x: 2 * x)
    assert alone.tolist() == [2, 4]


def check_sums(sums_of, outputs, targets):
    """Halves add up to the whole, and padding counts nowhere, whatever it holds."""
    compute = jax.jit(sums_of)
    whole = compute(outputs, targets, np.ones(4, bool))
    halves = [
        compute(*jax.tree.map(lambda x, rows=rows: x[rows], (outputs, targets)), np.ones(2, bool))
        for rows in (slice(0, 2), slice(2, 4))
    ]
    padded = compute(outputs, targets, np.asarray([False, False, True, True]))
    for name, x in whole.items():
        first, second = (np.asarray(half[name], np.float64) for half in halves)
        np.testing.assert_allclose(first + second, x, rtol=1e-5)
        np.testing.assert_allclose(padded[name], second, rtol=1e-5)
    return jax.tree.map(np.asarray, whole)


def test_figures_of_segmentation_are_those_of_scikit_learn():
    from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

    outputs = {'out': LOGITS - np.asarray([100, 0, 0, 0, 0], np.float32)}  # never class 0
    predicted = outputs['out'].argmax(-1)[KNOWN]
    true = MASKS[KNOWN]
    sums = check_sums(dense_metrics.segmentation_eval_sums, outputs, TARGETS)
    np.testing.assert_array_equal(
        sums['confusion'], confusion_matrix(true, predicted, labels=range(CLASSES))
    )
    figures = dense_metrics.segmentation_figures(sums)
    assert figures['n'] == 4
    assert figures['pixel_accuracy'] == pytest.approx(accuracy_score(true, predicted), rel=1e-6)
    expected = jaccard_score(true, predicted, average='macro', labels=range(CLASSES))
    assert figures['miou'] == pytest.approx(expected, rel=1e-6)
    wide = torch.tensor(outputs['out'][KNOWN]), torch.tensor(true).long()
    each = np.zeros(KNOWN.shape)
    each[KNOWN] = torch.nn.functional.cross_entropy(*wide, reduction='none').numpy()
    assert figures['loss'] == pytest.approx(mean_of(each).mean(), rel=1e-5)
    train = jax.jit(dense_metrics.segmentation_sums)(outputs, TARGETS)
    assert set(train) == set(dense_metrics.SEGMENTATION_SUMS)
    assert dense_metrics.segmentation_train_figures(train) == {
        name: pytest.approx(figures[name], rel=1e-6) for name in ('loss', 'pixel_accuracy')
    }


def test_classes_that_are_nowhere_count_nowhere():
    confusion = np.asarray([[3, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert dense_metrics.class_ious(confusion) == [0.75, 0.0, None]
    sums = {'n': 1.0, 'loss': 2.0, 'pixels': 4.0, 'right': 3.0, 'confusion': confusion}
    figures = dense_metrics.segmentation_figures(sums)
    assert figures == {'n': 1, 'loss': 2.0, 'pixel_accuracy': 0.75, 'miou': 0.375}
    nothing = {'n': 1.0, 'loss': 0.0, 'pixels': 0.0, 'right': 0.0, 'confusion': 0 * confusion}
    figures = dense_metrics.segmentation_figures(nothing)
    assert (figures['miou'], figures['pixel_accuracy']) == (0.0, 0.0)


# Depth

DEPTH = np.where(KNOWN, RNG.uniform(0.5, 9, KNOWN.shape), 0).astype(np.float32)
LOG_DEPTH = RNG.uniform(-1, 3, (*KNOWN.shape, 1)).astype(np.float32)
LOG_DEPTH[..., 0][~KNOWN] = 200.0  # whose depth is infinite
DEPTH_TARGETS = {'depth': DEPTH}


def away():
    return np.where(KNOWN, LOG_DEPTH[..., 0] - np.log(np.where(KNOWN, DEPTH, 1)), 0)


@pytest.mark.parametrize('invariance', [0.0, 0.5, 1.0])
def test_the_scale_invariant_loss(invariance):
    """arXiv 1406.2283, equation 4."""

    @jax.jit
    def loss_and_gradient(x):
        loss, back = jax.vjp(
            lambda x: dense_metrics.scale_invariant_loss(x, DEPTH_TARGETS, invariance), x
        )
        return loss, *back(jnp.ones_like(loss))

    expected = mean_of(away() ** 2) - invariance * mean_of(away()) ** 2
    loss, gradient = loss_and_gradient(LOG_DEPTH)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[~KNOWN].any()
    farther, _ = loss_and_gradient(LOG_DEPTH + np.float32(0.7))
    assert np.allclose(farther, expected, rtol=1e-4, atol=1e-5) == (invariance == 1)


def test_the_absolute_difference_of_logarithms():
    found = jax.jit(dense_metrics.log_l1_loss)(LOG_DEPTH, DEPTH_TARGETS)
    np.testing.assert_allclose(found, mean_of(np.abs(away())), rtol=1e-5)


def test_figures_of_depth_are_those_of_their_definitions():
    outputs = {'out': LOG_DEPTH}
    sums = check_sums(dense_metrics.depth_sums, outputs, DEPTH_TARGETS)
    assert set(sums) == set(dense_metrics.DEPTH_SUMS)
    found, true = np.exp(LOG_DEPTH[..., 0][KNOWN]), DEPTH[KNOWN]
    factor = np.maximum(found / true, true / found)
    assert dense_metrics.depth_figures(sums) == {
        'n': 4,
        'loss': pytest.approx(mean_of(away() ** 2).mean(), rel=1e-5),
        'rmse': pytest.approx(np.sqrt(np.mean((found - true) ** 2)), rel=1e-5),
        'abs_rel': pytest.approx(np.mean(np.abs(found - true) / true), rel=1e-5),
        'delta1': pytest.approx(np.mean(factor < 1.25), rel=1e-6),
    }
    perfect = {'out': np.log(np.maximum(DEPTH, 1e-9))[..., None]}
    sums = jax.jit(dense_metrics.depth_sums)(perfect, DEPTH_TARGETS)
    figures = dense_metrics.depth_figures(sums)
    assert figures['delta1'] == 1 and figures['rmse'] < 1e-5 and figures['abs_rel'] < 1e-5


# Detection

SIDE = 64
GRIDS = (8, 4, 2, 1, 1)
KINDS = 4


def pyramid(images, seed=0):
    rng = np.random.default_rng(seed)

    def draw(side, size):
        return rng.normal(-1, 1, (images, side, side, 9, size)).astype(np.float32)

    levels = tuple(Level(draw(side, KINDS), draw(side, 4)) for side in GRIDS)
    return Pyramid(levels, (SIDE, SIDE), 0.25)


def flat_anchors():
    return np.concatenate([a.reshape(-1, 4) for a in anchors_of(pyramid(1))])


def flat(levels, field, image):
    parts = [getattr(level, field)[image] for level in levels]
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])


def random_boxes(rng, count):
    size = rng.uniform(3, 30, (count, 2))
    corner = rng.uniform(0, SIDE - size)
    return np.concatenate([corner, corner + size], 1).astype(np.float32)


def objects(counts, places=7, seed=1):
    """Makes targets with these numbers of objects; the boxes of empty places are random."""
    rng = np.random.default_rng(seed)
    boxes = np.stack([random_boxes(rng, places) for _ in counts])
    classes = rng.integers(0, KINDS, (len(counts), places)).astype(np.int32)
    for row, count in zip(classes, counts, strict=True):
        row[count:] = NOTHING
    return {'boxes': boxes, 'classes': classes}


COUNTS = (5, 0, 1, 7)
OBJECTS = objects(COUNTS)
PYRAMID = pyramid(len(COUNTS))


@jax.jit
def losses_of(gamma, alpha):
    """The two losses of each image, and the gradient of all."""
    losses, back = jax.vjp(
        lambda outputs: detection.detection_losses(outputs, OBJECTS, gamma, alpha), PYRAMID
    )
    return losses, jax.tree.leaves(back(jax.tree.map(jnp.ones_like, losses)))


MATCH = jax.jit(detection.match)


def torchvision_match(image):
    """-1 for no object, -2 for what counts nowhere."""
    import_torchvision()
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops.boxes import box_iou

    anchors = torch.tensor(flat_anchors())
    if not COUNTS[image]:  # as in RetinaNet.compute_loss
        return torch.full((len(anchors),), -1, dtype=torch.int64)
    boxes = torch.tensor(OBJECTS['boxes'][image, : COUNTS[image]])
    return Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(boxes, anchors))


@pytest.mark.parametrize('image', range(len(COUNTS)))
def test_anchors_are_matched_as_by_torchvision(image):
    expected = torchvision_match(image).numpy()
    truth, classes = OBJECTS['boxes'][image], OBJECTS['classes'][image]
    matched, counts = MATCH(flat_anchors(), truth, classes)
    np.testing.assert_array_equal(np.where(counts, matched, -2), expected)
    assert matched.max() < COUNTS[image] and (matched.max() >= 0) == (COUNTS[image] > 0)


def test_an_object_that_no_anchor_meets_has_none():
    truth = jnp.asarray([[500.0, 500, 510, 510], [0, 0, 10, 10]])
    matched, counts = detection.match(jnp.asarray(flat_anchors()), truth, jnp.asarray([1, NOTHING]))
    assert set(matched.tolist()) == {-1} and all(counts.tolist())


def test_detection_losses_are_those_of_torchvision():
    import_torchvision()
    from torchvision.models.detection import retinanet

    losses, gradients = losses_of(2.0, 0.25)
    assert all(np.isfinite(x).all() for x in gradients) and np.any(gradients[0])
    heads = (
        retinanet.RetinaNetClassificationHead(8, 9, KINDS),
        retinanet.RetinaNetRegressionHead(8, 9),
    )
    for image, count in enumerate(COUNTS):
        targets = [
            {
                'boxes': torch.tensor(OBJECTS['boxes'][image, :count]).double(),
                'labels': torch.tensor(OBJECTS['classes'][image, :count]).long(),
            }
        ]
        outputs = {
            'cls_logits': torch.tensor(flat(PYRAMID.levels, 'logits', image))[None].double(),
            'bbox_regression': torch.tensor(flat(PYRAMID.levels, 'offsets', image))[None].double(),
        }
        matched = [torchvision_match(image)]
        of_classes = heads[0].compute_loss(targets, outputs, matched)
        anchors = [torch.tensor(flat_anchors()).double()]
        of_boxes = heads[1].compute_loss(targets, outputs, anchors, matched)
        np.testing.assert_allclose(losses[0][image], of_classes.numpy(), rtol=1e-5)
        np.testing.assert_allclose(losses[1][image], of_boxes.numpy(), rtol=1e-5)
    assert losses[1][1] == 0, 'without objects no box is wrong'


def test_other_weights_of_the_focal_loss():
    import_torchvision()
    from torchvision.ops.focal_loss import sigmoid_focal_loss

    (found, _), _ = losses_of(0.5, 0.6)
    matched = torchvision_match(0).numpy()
    wanted = np.zeros((len(matched), KINDS))
    here = matched >= 0
    wanted[here, OBJECTS['classes'][0][matched[here]]] = 1
    logits = torch.tensor(flat(PYRAMID.levels, 'logits', 0)).double()
    each = sigmoid_focal_loss(logits, torch.tensor(wanted), alpha=0.6, gamma=0.5).numpy()
    np.testing.assert_allclose(found[0], each[matched != -2].sum() / here.sum(), rtol=1e-5)


def test_sums_of_detection():
    sums = check_sums(detection.detection_sums, PYRAMID, OBJECTS)
    assert set(sums) == set(detection.SUMS) and sums['n'] == 4
    figures = detection.detection_train_figures(sums)
    assert figures['loss'] == pytest.approx(figures['class_loss'] + figures['box_loss'], rel=1e-6)


def test_what_a_detector_says_is_judged():
    """Of logits and offsets made for each object, all objects are found, and nothing else."""
    import_torchvision()
    from torchvision.models.detection._utils import BoxCoder
    from torchvision.ops.boxes import box_iou

    anchors = torch.tensor(flat_anchors())
    logits = np.full((len(COUNTS), len(anchors), KINDS), -20, np.float32)
    offsets = np.zeros((len(COUNTS), len(anchors), 4), np.float32)
    truth = {name: np.array(x) for name, x in OBJECTS.items()}
    for image, count in enumerate(COUNTS):
        truth['classes'][image, :count] = np.arange(count) % KINDS
        wanted = torch.tensor(truth['boxes'][image])
        overlap = box_iou(wanted, anchors)
        for i in range(count):
            best = int(overlap[i].argmax())
            overlap[:, best] = -1  # no other object may have it
            logits[image, best, truth['classes'][image, i]] = 3 + i
            offsets[image, best] = BoxCoder((1.0,) * 4).encode_single(
                wanted[i : i + 1], anchors[best : best + 1]
            )[0]
    ends = np.cumsum([side * side * 9 for side in GRIDS])[:-1]
    levels = tuple(
        Level(*(part.reshape(len(COUNTS), side, side, 9, -1) for part in parts))
        for side, *parts in zip(
            GRIDS, *(np.split(x, ends, 1) for x in (logits, offsets)), strict=True
        )
    )
    outputs = Pyramid(levels, (SIDE, SIDE), 0.25)
    rows = jax.tree.map(np.asarray, jax.jit(detection.detection_rows)(outputs, truth))
    assert ((rows['found_scores'] > 0).sum(1) == COUNTS).all()
    np.testing.assert_allclose(rows['found_scores'][2, 0], 1 / (1 + np.exp(-3)), rtol=1e-5)
    np.testing.assert_allclose(rows['found_boxes'][2, 0], truth['boxes'][2, 0], atol=1e-3)
    losses = {'n': 4.0, 'loss': 6.0, 'class_loss': 2.0, 'box_loss': 4.0}
    figures = detection.detection_figures(losses, rows)
    assert figures == {
        **{'n': 4, 'loss': 1.5, 'class_loss': 0.5, 'box_loss': 1.0},
        **{name: pytest.approx(1) for name in ('ap', 'ap50', 'ap75')},
    }


def rows_of(truth, found, places=100):
    """Rows of images: [(box, class)] that are there, and [(box, class, score)] that are found."""
    rows = {
        'boxes': np.zeros((len(truth), places, 4), np.float32),
        'classes': np.full((len(truth), places), NOTHING, np.int32),
        'found_boxes': np.zeros((len(truth), places, 4), np.float32),
        'found_classes': np.zeros((len(truth), places), np.int32),
        'found_scores': np.zeros((len(truth), places), np.float32),
    }
    for i, (there, here) in enumerate(zip(truth, found, strict=True)):
        for j, (box, number) in enumerate(there):
            rows['boxes'][i, j], rows['classes'][i, j] = box, number
        for j, (box, number, score) in enumerate(here):
            rows['found_boxes'][i, j], rows['found_classes'][i, j] = box, number
            rows['found_scores'][i, j] = score
    return rows


def by_pycocotools(truth, found):
    coco = pytest.importorskip('pycocotools.coco')
    cocoeval = pytest.importorskip('pycocotools.cocoeval')

    def xywh(box):
        left, top, right, bottom = (float(x) for x in box)
        return [left, top, right - left, bottom - top]

    known = coco.COCO()
    annotations = [
        {'image_id': i, 'category_id': int(number), 'bbox': xywh(box), 'iscrowd': 0}
        for i, there in enumerate(truth)
        for box, number in there
    ]
    for i, one in enumerate(annotations, 1):
        one.update(id=i, area=one['bbox'][2] * one['bbox'][3])
    known.dataset = {
        'info': {},
        'images': [{'id': i} for i in range(len(truth))],
        'categories': [{'id': i} for i in {one['category_id'] for one in annotations}],
        'annotations': annotations,
    }
    known.createIndex()
    results = [
        {'image_id': i, 'category_id': int(number), 'bbox': xywh(box), 'score': float(score)}
        for i, here in enumerate(found)
        for box, number, score in here
    ]
    judge = cocoeval.COCOeval(known, known.loadRes(results), 'bbox')
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats[:3]


@pytest.mark.parametrize('seed', range(4))
def test_average_precision_is_that_of_pycocotools(seed):
    pytest.importorskip('faster_coco_eval')
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(15):
        boxes = random_boxes(rng, rng.integers(0, 6))
        truth.append([(box, rng.integers(3)) for box in boxes])
        here = [
            (box + rng.normal(0, 1.5, 4).astype(np.float32), number, np.float32(rng.random()))
            for box, number in truth[-1]
            if rng.random() < 0.8
        ]
        others = random_boxes(rng, rng.integers(0, 4))
        here += [(box, rng.integers(4), np.float32(rng.random())) for box in others]
        found.append(here)
    expected = by_pycocotools(truth, found)
    figures = detection.average_precision(rows_of(truth, found))
    assert list(figures) == ['ap', 'ap50', 'ap75']
    assert list(figures.values()) == pytest.approx(expected, abs=1e-6)
    assert 0.05 < figures['ap'] < figures['ap50'] < 0.95


def test_average_precision_of_closed_cases():
    pytest.importorskip('faster_coco_eval')
    box, other = (0, 0, 50, 50), (10, 60, 60, 110)
    truth = [[(box, 1), (other, 1)], [], [(box, 2)]]

    def figures(found, truth=truth):
        return list(detection.average_precision(rows_of(truth, found)).values())

    perfect = [[(box, 1, 0.9), (other, 1, 0.3)], [], [(box, 2, 0.01)]]
    assert figures(perfect) == pytest.approx([1, 1, 1])
    assert figures([[], [], []]) == [0, 0, 0]
    assert figures(perfect, [[], [], []]) == [0, 0, 0]
    assert figures([[(box, 2, 0.9)], [(box, 1, 0.9)], []]) == [0, 0, 0]
    # Precision 1 at 51 of the 101 recalls.
    assert figures([[(box, 1, 0.9)], []], [[(box, 1), (other, 1)], []]) == pytest.approx(
        [51 / 101] * 3
    )
    # An overlap of 0.62 is enough for 0.5, 0.55 and 0.6.
    assert figures([[((0, 0, 31, 50), 1, 0.9)]], [[(box, 1)]]) == pytest.approx([0.3, 1, 0])
    # A surer box that is wrong halves the precision everywhere.
    wrong = [[(other, 2, 0.9), (box, 2, 0.8)]]
    assert figures(wrong, [[(box, 2)]]) == pytest.approx([0.5] * 3)


# Views

PIXELS = np.random.default_rng(3).integers(0, 256, (2, 16, 12, 3), dtype=np.uint8)


def network(images):
    """Logits that depend on the place: a ramp is added to colours."""
    x = images.astype(jnp.float32) / 64
    ramp = jnp.arange(images.shape[2], dtype=jnp.float32).reshape(1, 1, -1, 1)
    return {'out': x + jnp.sin(ramp)}


def pointwise(images):
    """Logits of each pixel that depend on it alone."""
    return {'out': images.astype(jnp.float32) / 64}


def viewed(name, outputs_of):
    """The probabilities that a view gives of images, compiled."""

    @jax.jit
    def compute(images):
        found = SEGMENTATION_VIEWS[name](outputs_of, images, 16)
        assert set(found) == {'out'} and found['out'].shape == images.shape
        return jnp.exp(found['out'])

    return compute


def test_the_flip_is_the_mean_of_two():
    each = [softmax(np.asarray(network(x)['out'])) for x in (PIXELS, PIXELS[:, :, ::-1])]
    expected = (each[0] + each[1][:, :, ::-1]) / 2
    np.testing.assert_allclose(viewed('flip', network)(PIXELS), expected, rtol=1e-5)


def test_scales_are_the_mean_over_scaled_and_mirrored_images():
    def resized(x, size):
        wide = torch.tensor(np.array(x)).permute(0, 3, 1, 2).double()
        small = torch.nn.functional.interpolate(wide, size, mode='bilinear', align_corners=False)
        return small.permute(0, 2, 3, 1).numpy()

    each = []
    for scale in SCALES:
        view = resized(PIXELS, [round(16 * scale), round(12 * scale)])
        for step in (1, -1):
            logits = view[:, :, ::step] / 64 + np.sin(np.arange(view.shape[2]))[:, None]
            maps = np.log(softmax(logits))[:, :, ::step]
            each.append(softmax(resized(maps, [16, 12])))
    assert len(each) == 6
    np.testing.assert_allclose(viewed('scales', network)(PIXELS), np.mean(each, 0), rtol=1e-4)


@pytest.mark.parametrize(('shape', 'window'), [((16, 12), (8, 6)), ((13, 1), (6, 1))])
def test_windows_overlap_and_cover_the_image(shape, window):
    """Of a network that looks at one pixel at a time, they change nothing."""
    sizes = []

    def outputs_of(images):
        sizes.append(images.shape[1:3])
        return pointwise(images)

    images = np.resize(PIXELS, (2, *shape, 3))
    found = viewed('windows', outputs_of)(images)
    np.testing.assert_allclose(found, softmax(images / np.float32(64)), rtol=1e-5)
    assert set(sizes) == {window} and len(sizes) == (9 if shape == (16, 12) else 4)


@pytest.mark.parametrize('name', SEGMENTATION_VIEWS)
def test_views_give_probabilities(name):
    """Also of one sure class, and of a network that says the same everywhere."""
    compute = viewed(name, pointwise)
    one = np.ones((2, 16, 12, 1), np.float32)
    for logits in (PIXELS / 64, one * [1.0, -2.0, 0.5], one * [0.0, 1000.0, 0.0]):
        found = np.asarray(compute(np.float32(64 * logits)), np.float64)
        np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
        if np.ptp(logits, (0, 1, 2)).max() == 0:
            np.testing.assert_allclose(found, softmax(logits), rtol=1e-5, atol=1e-30)
