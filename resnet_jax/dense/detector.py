"""Networks for detection, and what becomes of their outputs."""

import math
from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
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


@flax.struct.dataclass
class Pyramid:
    """What a detector says.

    Attributes:
      levels: the finest first.
      image_size: height and width of the images, pixels.
      anchor_scale: of the `Detector`.
    """

    levels: tuple[Level, ...]
    image_size: tuple[int, int] = flax.struct.field(pytree_node=False)
    anchor_scale: float = flax.struct.field(pytree_node=False)


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

    `apply(variables, images, train=False)` returns a `Pyramid`; `detect` makes boxes of it.
    Parameter paths: `backbone`, `fpn`, `class_head`, `box_head`.

    Attributes:
      backbone: with the features of three stages, of which the pyramid has a level each, and two
        more.
      num_classes: logits of each anchor.
      pyramid_width: channels of the pyramid.
      anchor_scale: factor of the anchors' sizes, which are for objects of 32 to 813 pixels.
    """

    backbone: Backbone
    num_classes: int
    pyramid_width: int = 256
    anchor_scale: float = 1.0

    def __post_init__(self) -> None:
        check_number('pyramid_width', self.pyramid_width, Range(1, 2**16, whole=True))
        check_number('anchor_scale', self.anchor_scale, Range(0, 1000, open='low'))
        count = len(self.backbone.features)
        if count + EXTRA_LEVELS != len(boxes.SIZES):
            raise InputError(
                f'features must be three stages, such as stage2, stage3, stage4, for the '
                f'{len(boxes.SIZES)} levels of anchors; got {count}'
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Float[Array, 'n h w c'], train: bool) -> Pyramid:
        """The levels for normalised images."""
        features = self.backbone(images, train)
        conv, _ = self.backbone.net.makers()
        levels = FeaturePyramid(self.pyramid_width, EXTRA_LEVELS, conv, name='fpn')(features)
        start = -math.log((1 - PRIOR) / PRIOR)
        count = len(boxes.SIZES[0]) * len(boxes.RATIOS)
        zero = self.backbone.net.zero_init_head
        classes = AnchorHead(self.num_classes, count, start, conv, zero, name='class_head')
        offsets = AnchorHead(4, count, 0.0, conv, zero, name='box_head')
        # In float32, as logits are everywhere: a box in bfloat16 is off by pixels.
        dtype = self.backbone.net.output_dtype
        found = tuple(
            Level(logits.astype(dtype), offset.astype(dtype))
            for logits, offset in zip(classes(levels), offsets(levels), strict=True)
        )
        return Pyramid(found, (images.shape[1], images.shape[2]), self.anchor_scale)


def anchors_of(pyramid: Pyramid) -> list[Float[np.ndarray, 'positions anchors 4']]:
    """The anchors of each level."""
    grids = [(level.logits.shape[1], level.logits.shape[2]) for level in pyramid.levels]
    sizes = [[size * pyramid.anchor_scale for size in level] for level in boxes.SIZES]
    return boxes.anchors(pyramid.image_size, grids, sizes)


def detect(
    pyramid: Pyramid,
    *,
    score: float = 0.05,
    overlap: float = 0.5,
    candidates: int = 1000,
    count: int = 300,
) -> Detections:
    """The objects that a detector sees, for `jax.jit`; the defaults are torchvision's.

    Args:
      pyramid: of a `Detector`.
      score: least probability.
      overlap: above which, of two boxes of a class, the less probable is left out.
      candidates: the most probable of each level that are looked at.
      count: objects of an image, at most.
    """
    of_levels, image_size = anchors_of(pyramid), pyramid.image_size

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

    return Detections(*jax.vmap(one)(pyramid.levels))
