"""Losses and figures of detection: RetinaNet's (arXiv 1708.02002), and COCO's average precision.

Targets are {'boxes': [N, K, 4], 'classes': [N, K]}, -1 for places without an object; outputs a
`Pyramid`.
"""

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.data.targets import NOTHING
from resnet_jax.dense import boxes as box_coding
from resnet_jax.dense.detector import Pyramid, anchors_of, detect
from resnet_jax.errors import InputError
from resnet_jax.training.metrics import PerExample

Targets = Mapping[str, Array]
SUMS = ('n', 'loss', 'class_loss', 'box_loss')
# arXiv 1708.02002, section 4: the overlap from which an anchor is an object's, and that below which
# it is none's; one between counts nowhere.
OBJECT, NO_OBJECT = 0.5, 0.4
KEPT = 100  # objects of an image that are judged, as COCO does


def detection_losses(
    outputs: Pyramid, targets: Targets, gamma: float, alpha: float
) -> tuple[PerExample, PerExample]:
    """The loss of the classes and that of the boxes, each over the number of an image's anchors.

    As torchvision has them: the focal loss of the sigmoids of all anchors that count, and the
    absolute differences of the offsets of those that have an object.

    Args:
      outputs: of a `Detector`.
      targets: see above.
      gamma: how much easy anchors are played down.
      alpha: the weight of objects; that of what is none is 1 - alpha.
    """
    anchors = jnp.concatenate([a.reshape(-1, 4) for a in anchors_of(outputs)])

    def flat(values: list[Array]) -> Array:
        return jnp.concatenate([x.reshape(x.shape[0], -1, x.shape[-1]) for x in values], 1)

    logits = flat([level.logits for level in outputs.levels])
    offsets = flat([level.offsets for level in outputs.levels])

    def one(logits: Array, offsets: Array, truth: Array, classes: Array) -> tuple[Array, Array]:
        matched, counts = match(anchors, truth, classes)
        found = matched >= 0
        chosen = jnp.maximum(matched, 0)
        # Of an anchor without an object no class at all.
        wanted = jax.nn.one_hot(jnp.where(found, classes[chosen], NOTHING), logits.shape[-1])
        focal = optax.sigmoid_focal_loss(logits, wanted, alpha=alpha, gamma=gamma)
        number = jnp.maximum(jnp.sum(found, dtype=logits.dtype), 1)
        of_classes = jnp.sum(focal, where=counts[:, None]) / number
        # Of an anchor without an object its own box, whose logarithm is finite.
        of_object = jnp.where(found[:, None], truth[chosen], anchors)
        away = jnp.abs(offsets - box_coding.encode(of_object, anchors))
        return of_classes, jnp.sum(away, where=found[:, None]) / number

    return jax.vmap(one)(logits, offsets, targets['boxes'], targets['classes'])


def match(
    anchors: Float[Array, 'a 4'], truth: Float[Array, 'k 4'], classes: Int[Array, ' k']
) -> tuple[Int[Array, ' a'], Bool[Array, ' a']]:
    """Which object each anchor is for, -1 for none, and whether it counts.

    Each object also has the anchors that overlap it most, however little that is, as torchvision's
    Matcher with allow_low_quality_matches; but none where no anchor overlaps it at all.
    """
    there = classes != NOTHING
    overlaps = jnp.where(there[:, None], box_coding.overlaps(truth, anchors), -1.0)
    best, owner = jnp.max(overlaps, 0), jnp.argmax(overlaps, 0)
    largest = jnp.max(overlaps, 1, keepdims=True)
    closest = jnp.any((overlaps == largest) & (overlaps > 0), 0)
    found = (best >= OBJECT) | closest
    return jnp.where(found, owner, -1), found | (best < NO_OBJECT)


def detection_sums(
    outputs: Pyramid,
    targets: Targets,
    mask: Bool[Array, ' n'] | None = None,
    gamma: float = 2.0,
    alpha: float = 0.25,
) -> dict[str, Array]:
    """Sums over a batch: images 'n', and their losses with the settings of the paper."""
    of_classes, of_boxes = detection_losses(outputs, targets, gamma, alpha)
    counted = jnp.ones(of_boxes.shape) if mask is None else mask.astype(jnp.float32)
    return {
        'n': jnp.sum(counted),
        'loss': jnp.sum(counted * (of_classes + of_boxes)),
        'class_loss': jnp.sum(counted * of_classes),
        'box_loss': jnp.sum(counted * of_boxes),
    }


def detection_rows(outputs: Pyramid, targets: Targets) -> dict[str, Array]:
    """What is judged of each image: the objects found, and the true ones."""
    found = detect(outputs, count=KEPT)
    return {
        'found_boxes': found.boxes,
        'found_scores': jnp.where(found.found, found.scores, 0.0),
        'found_classes': found.labels,
        'boxes': targets['boxes'],
        'classes': targets['classes'],
    }


def detection_train_figures(sums: Mapping[str, Any]) -> dict[str, float]:
    """Means from `detection_sums`."""
    return {name: float(sums[name]) / float(sums['n']) for name in SUMS[1:]}


def detection_figures(sums: Mapping[str, Any], rows: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Figures of an evaluation.

    Returns:
      'n', the losses, and COCO's average precision by faster-coco-eval: 'ap' (the mean over the
      overlaps 0.5, 0.55, ..., 0.95), 'ap50' and 'ap75'.
    """
    return {
        'n': int(sums['n']),
        **detection_train_figures(sums),
        **average_precision(rows),
    }


def check_evaluator() -> None:
    """Refuses to go on where average precision cannot be computed.

    Raises:
      InputError: naming the extra.
    """
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError:
        raise InputError(
            'the average precision of detection needs the extra coco: pip install '
            "'resnet-jax[coco]'"
        ) from None


def average_precision(rows: Mapping[str, np.ndarray]) -> dict[str, float]:
    """COCO's average precision of the rows of `detection_rows`; 0 where nothing was found.

    Raises:
      InputError: where the extra coco is not installed.
    """
    check_evaluator()
    from faster_coco_eval import COCO, COCOeval_faster

    truth, found = _annotations(rows), _results(rows)
    if not truth['annotations'] or not found:
        return {'ap': 0.0, 'ap50': 0.0, 'ap75': 0.0}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        known = COCO(truth)
        judge = COCOeval_faster(known, known.loadRes(found), iouType='bbox')
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return {
        name: float(max(value, 0.0))
        for name, value in zip(('ap', 'ap50', 'ap75'), judge.stats[:3], strict=True)
    }


def _annotations(rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The true objects as COCO's JSON has them."""
    found: list[dict[str, Any]] = []
    for image, (boxes, classes) in enumerate(zip(rows['boxes'], rows['classes'], strict=True), 1):
        for box, number in zip(boxes, classes, strict=True):
            if number != NOTHING:
                corner = _corner_and_size(box)
                area = corner[2] * corner[3]
                found.append(
                    {
                        'id': len(found) + 1,
                        'image_id': image,
                        'category_id': int(number),
                        'bbox': corner,
                        'area': area,
                        'iscrowd': 0,
                    }
                )
    return {
        'info': {},
        'images': [{'id': image + 1} for image in range(len(rows['boxes']))],
        'categories': [{'id': i} for i in sorted({one['category_id'] for one in found})],
        'annotations': found,
    }


def _results(rows: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    images, places = np.nonzero(rows['found_scores'] > 0)
    return [
        {
            'image_id': int(i) + 1,
            'category_id': int(rows['found_classes'][i, j]),
            'bbox': _corner_and_size(rows['found_boxes'][i, j]),
            'score': float(rows['found_scores'][i, j]),
        }
        for i, j in zip(images, places, strict=True)
    ]


def _corner_and_size(box: np.ndarray) -> list[float]:
    left, top, right, bottom = (float(number) for number in box)
    return [left, top, right - left, bottom - top]
