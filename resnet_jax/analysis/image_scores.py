"""A dense network as a classifier of whole images, so that its answers can be attributed."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from resnet_jax.data.targets import IGNORED, NOTHING
from resnet_jax.dense.detector import Detector, Pyramid
from resnet_jax.dense.registry import net_of, with_net_fields
from resnet_jax.dense.segmenter import Segmenter
from resnet_jax.models import ResNet

BACKGROUND = 0  # the class that is no object


class ImageScores(nn.Module):
    """How strongly a network for segmentation or detection sees each class anywhere in an image.

    The score of a class is the mean of its logits over all pixels, or all anchors of all levels,
    each weighted by their softmax over these places: a smooth maximum, which the most certain
    places determine. Seg-Grad-CAM (arXiv 2002.11434) sums the logits of chosen pixels instead.

    Parameter paths are those of the network.

    Attributes:
      network: gives logits of places.
    """

    network: Segmenter | Detector

    def setup(self) -> None:
        """The network's parameters lie where they do without this module."""
        nn.share_scope(self, self.network)

    def __call__(self, images: Float[Array, 'n h w c'], train: bool) -> Float[Array, 'n classes']:
        """The scores of normalised images."""
        logits = _logits_of_places(self.network(images, train))
        return jnp.sum(jax.nn.softmax(logits, axis=1) * logits, axis=1)

    @property
    def scan_blocks(self) -> bool:
        """Of the `ResNet` in it."""
        return net_of(self.network).scan_blocks

    @nn.nowrap
    def unrolled(self) -> 'ImageScores':
        """As `ResNet.unrolled`."""
        return ImageScores(with_net_fields(self.network, scan_blocks=False, remat=False))


def _logits_of_places(found: Any) -> Float[Array, 'n places classes']:
    maps = (
        [level.logits for level in found.levels] if isinstance(found, Pyramid) else [found['out']]
    )
    return jnp.concatenate([x.reshape(x.shape[0], -1, x.shape[-1]) for x in maps], axis=1)


def body_of(model: ResNet | ImageScores) -> tuple[ResNet, str]:
    """The `ResNet` whose layers are looked at, and what the paths of its modules begin with."""
    if isinstance(model, ImageScores):
        return net_of(model.network), 'network/backbone/'
    return model, ''


def main_classes(batch: Mapping[str, np.ndarray]) -> Int[np.ndarray, ' n']:
    """The class of each image: its label, or that of most pixels or of the largest box.

    Without any object it is the background.
    """
    if 'label' in batch:
        return np.asarray(batch['label'])
    if 'segmentation' in batch:
        return np.asarray([_most_frequent(mask) for mask in batch['segmentation']], np.int32)
    sides = batch['boxes'][..., 2:] - batch['boxes'][..., :2]
    areas = np.where(batch['classes'] == NOTHING, -1, sides.prod(-1))
    largest = np.take_along_axis(batch['classes'], areas.argmax(1)[:, None], 1)[:, 0]
    return np.where(largest == NOTHING, BACKGROUND, largest).astype(np.int32)


def _most_frequent(mask: np.ndarray) -> int:
    counts = np.bincount(mask.ravel(), minlength=IGNORED + 1)
    counts[[BACKGROUND, IGNORED]] = 0
    return int(counts.argmax())


def strongest(logits: Float[np.ndarray, 'n classes'], dense: bool) -> Int[np.ndarray, ' n']:
    """The class of the largest logit; of a dense network that is an object."""
    if not dense:
        return logits.argmax(axis=1)
    return BACKGROUND + 1 + logits[:, BACKGROUND + 1 :].argmax(axis=1)
