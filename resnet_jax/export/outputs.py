"""What comes out of an exported file: a row for each task, to and from the outputs of a model."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from resnet_jax.dense.detector import Level, Pyramid, anchors_of

Named = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a file gives.

    Attributes:
      meaning: of each output by its name, in the order of their names.
      of_model: the outputs of a model -> arrays by name, with maps as [N, H, W, C].
      to_model: (arrays by name, description of the file) -> what the model would have returned.
      maps: the outputs that are maps of channels, and are [N, C, H, W] in files that take such
        images.
      describe: what the model returns -> what `to_model` and other readers need to know of it.
    """

    meaning: Mapping[str, str]
    of_model: Callable[[Any], dict[str, Array]]
    to_model: Callable[[Named, Mapping[str, Any]], Any]
    maps: tuple[str, ...] = ()
    describe: Callable[[Any], dict[str, Any]] = lambda found: {}


def _levels_of(pyramid: Pyramid) -> dict[str, Array]:
    """All levels in one array each, the finest first, in the order of torchvision's RetinaNet."""

    def joined(arrays: list[Array]) -> Array:
        return jnp.concatenate([x.reshape(x.shape[0], -1, x.shape[-1]) for x in arrays], axis=1)

    return {
        'logits': joined([level.logits for level in pyramid.levels]),
        'offsets': joined([level.offsets for level in pyramid.levels]),
    }


def _pyramid(found: Named, about: Mapping[str, Any]) -> Pyramid:
    """The inverse of `_levels_of`."""
    levels, start = [], 0
    for level in about['levels']:
        (height, width), anchors = level['size'], len(level['anchors'])
        end = start + height * width * anchors
        parts = (
            jnp.asarray(x[:, start:end].reshape(len(x), height, width, anchors, -1))
            for x in (found['logits'], found['offsets'])
        )
        levels.append(Level(*parts))
        start = end
    height, width = about['image_size']
    return Pyramid(tuple(levels), (height, width), about['anchor_scale'])


def _describe_pyramid(pyramid: Pyramid) -> dict[str, Any]:
    """Where the anchors are: those of the first position, and how far apart the positions are."""
    image_size = pyramid.image_size
    levels = []
    for level, anchors in zip(pyramid.levels, anchors_of(pyramid), strict=True):
        size = level.logits.shape[1:3]
        step = [side // count for side, count in zip(image_size, size, strict=True)]
        levels.append({'size': list(size), 'step': step, 'anchors': anchors[0].tolist()})
    return {
        'levels': levels,
        'image_size': list(image_size),
        'anchor_scale': pyramid.anchor_scale,
    }


OUTPUTS: dict[str, Outputs] = {
    'classification': Outputs(
        {'logits': 'of the classes'},
        lambda logits: {'logits': logits},
        lambda found, about: jnp.asarray(found['logits']),
    ),
    'segmentation': Outputs(
        {'logits': 'of the classes, for each pixel'},
        lambda found: {'logits': found['out']},
        lambda found, about: {'out': jnp.asarray(found['logits'])},
        maps=('logits',),
    ),
    'detection': Outputs(
        {
            'logits': 'of the classes, for each anchor; their sigmoids are probabilities',
            'offsets': 'of the box from each anchor: (dx / width, dy / height, log width, log '
            'height), the last two at most 4.135',
        },
        _levels_of,
        _pyramid,
        describe=_describe_pyramid,
    ),
    'depth': Outputs(
        {'log_depth': 'logarithm of the distance of each pixel, metres'},
        lambda found: {'log_depth': found['out'][..., 0]},
        lambda found, about: {'out': jnp.asarray(found['log_depth'])[..., None]},
    ),
}
