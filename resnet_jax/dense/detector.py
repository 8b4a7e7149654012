"""Networks for detection, and what becomes of their outputs."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.dense import boxes
from resnet_jax.dense.backbone import Backbone
from resnet_jax.dense.heads import AnchorHead, FeaturePyramid
from resnet_jax.errors import InputError, Range, check_number

EXTRA_LEVELS = 2  # arXiv 1708.02002, section 4: P6 and P7
PRIOR = 0.01  # arXiv 1708.02002, section 4.1: that a fresh net gives any class of an anchor


class Level(NamedTuple):
    """What a detector says at one level of its pyramid.

    Attributes:
      logits: of the classes of each anchor; its probabilities are their sigmoids.
      offsets: of the boxes from the anchors, see `boxes.decode`.
    """

    logits: Float[Array, 'n h w anchors classes']
    offsets: Float[Array, 'n h w anchors 4']


class Detections(NamedTuple):
    """The objects of images, best first.

    Attributes:
      boxes: (left, top, right, bottom), pixels.
      scores: probabilities.
      labels: numbers of classes.
      found: which places are filled.
    """

    boxes: Float[Array, 'n count 4']
    scores: Float[Array, 'n count']
    labels: Int[Array, 'n count']
    found: Bool[Array, 'n count']


class Detector(nn.Module):
    """RetinaNet (arXiv 1708.02002), as torchvision has it.

    `apply(variables, images, train=False)` returns the levels of the pyramid, a tuple of `Level`,
    the finest first; `detect` makes boxes of them. Parameter paths: `backbone`, `fpn`,
    `class_head`, `box_head`.

    Attributes:
      backbone: with the features of three stages, of which the pyramid has a level each, and two
        more.
      num_classes: logits of each anchor.
      pyramid_width: channels of the pyramid.
    """

    backbone: Backbone
    num_classes: int
    pyramid_width: int = 256

    def __post_init__(self) -> None:
        check_number('pyramid_width', self.pyramid_width, Range(1, 2**16, whole=True))
        count = len(self.backbone.features)
        if count + EXTRA_LEVELS != len(boxes.SIZES):
            raise InputError(
                f'features must be three stages, such as stage2, stage3, stage4, for the '
                f'{len(boxes.SIZES)} levels of anchors; got {count}'
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Float[Array, 'n h w c'], train: bool) -> tuple[Level, ...]:
        """The levels of normalised images."""
        features = self.backbone(images, train)
        conv, _ = self.backbone.net.makers()
        levels = FeaturePyramid(self.pyramid_width, EXTRA_LEVELS, conv, name='fpn')(features)
        start = -math.log((1 - PRIOR) / PRIOR)
        count = len(boxes.SIZES[0]) * len(boxes.RATIOS)
        classes = AnchorHead(self.num_classes, count, start, conv, name='class_head')
        offsets = AnchorHead(4, count, 0.0, conv, name='box_head')
        return tuple(Level(*one) for one in zip(classes(levels), offsets(levels), strict=True))


def detect(
    levels: tuple[Level, ...],
    image_size: tuple[int, int],
    *,
    score: float = 0.05,
    overlap: float = 0.5,
    candidates: int = 1000,
    count: int = 300,
) -> Detections:
    """The objects that a detector sees, for `jax.jit`; the defaults are torchvision's.

    Args:
      levels: of a `Detector`.
      image_size: height and width of the images, pixels.
      score: least probability.
      overlap: above which, of two boxes of a class, the less probable is left out.
      candidates: the most probable of each level that are looked at.
      count: objects of an image, at most.
    """
    grids = [(level.logits.shape[1], level.logits.shape[2]) for level in levels]
    of_levels = boxes.anchors(image_size, grids)

    def one(levels: tuple[Level, ...]) -> tuple[Array, Array, Array, Array]:
        found = []
        for level, anchors in zip(levels, of_levels, strict=True):
            logits = level.logits.reshape(-1, level.logits.shape[-1])
            values = jax.nn.sigmoid(logits.reshape(-1))
            scores, places = jax.lax.top_k(values, min(candidates, values.size))
            anchor, label = jnp.divmod(places, logits.shape[-1])
            offsets = level.offsets.reshape(-1, 4)[anchor]
            shape = boxes.decode(offsets, jnp.asarray(anchors.reshape(-1, 4))[anchor])
            kept = jnp.where(scores > score, scores, 0)
            found.append((boxes.clip(shape, image_size), kept, label))
        shapes, scores, labels = (jnp.concatenate(each) for each in zip(*found, strict=True))
        chosen, filled = boxes.suppress(shapes, scores, labels, overlap, count)
        return shapes[chosen], scores[chosen], labels[chosen], filled

    return Detections(*jax.vmap(one)(levels))
