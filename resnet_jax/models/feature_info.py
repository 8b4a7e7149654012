"""The sizes of a network's feature maps, without running it, and what images it takes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from resnet_jax.errors import InputError
from resnet_jax.models.convolution import for_each
from resnet_jax.models.stages import StagePlan
from resnet_jax.models.stem import StemDesign


class Feature(NamedTuple):
    """A feature map of one image.

    Attributes:
      size: spatial sizes.
      channels: their number.
      reduction: the product of the strides up to here, by which the image's size is divided; of
        video, which may keep its time, that of height and width.
    """

    size: tuple[int, ...]
    channels: int
    reduction: int


def feature_sizes(
    stem: StemDesign, stem_width: int, plans: Sequence[StagePlan], image_size: Sequence[int]
) -> dict[str, Feature]:
    """Features by name: 'stem', 'stage1', ..., 'stageK'.

    Args:
      stem: its design.
      stem_width: its output channels.
      plans: of the stages.
      image_size: one size for each dimension.
    """
    size, dimensions = tuple(image_size), len(image_size)

    def reduced(stride: int | tuple[int, ...]) -> tuple[int, ...]:
        strides = for_each(stride, dimensions)
        return tuple(-(-n // s) for n, s in zip(size, strides, strict=True))

    for stride in stem.strides:
        size = reduced(stride)
    found = {'stem': Feature(size, stem_width, stem.reduction)}
    for i, plan in enumerate(plans, 1):
        size = reduced(plan.design.strides(plan.stride, dimensions))
        found[f'stage{i}'] = Feature(size, plan.channels, plan.reduction)
    return found


def check_images(
    images: Array, dimensions: int, params: Mapping[str, Any], input_dtype: Any = jnp.float32
) -> None:
    """Refuses images of another type or shape than a network takes.

    Args:
      images: its input.
      dimensions: of space, of the network.
      params: of the network.
      input_dtype: of `StemDesign`: whole numbers [N, L] for an embedding.

    Raises:
      InputError: saying what it takes.
    """
    if jnp.issubdtype(input_dtype, jnp.integer):
        if images.ndim != 2 or not jnp.issubdtype(images.dtype, jnp.integer):
            raise InputError(
                'the model takes whole numbers of shape [N, L], such as the bytes of texts, got '
                f'{images.dtype}{list(images.shape)}'
            )
        return
    if images.ndim != dimensions + 2 or not jnp.issubdtype(images.dtype, jnp.floating):
        letters = ('L', 'H, W', 'D, H, W')[dimensions - 1]
        raise InputError(
            f'images must be normalised floats of shape [N, {letters}, C], '
            f'got {images.dtype}{list(images.shape)}'
        )
    _, *space, channels = images.shape
    if dimensions == 2 and space[0] in (1, 3) and space[1] == channels > 4:
        raise InputError(
            f'images of shape {list(images.shape)} look like [N, C, H, W]; the models take '
            '[N, H, W, C]: images.transpose(0, 2, 3, 1)'
        )
    kernel = params.get('stem', {}).get('conv1', {}).get('kernel')
    if kernel is not None and kernel.shape[-2] != channels:
        raise InputError(
            f'the weights are for images of {kernel.shape[-2]} channels, got '
            f'{list(images.shape)}; convert the images, or load the weights with '
            f'channels={channels}, adapt_stem=True'
        )
