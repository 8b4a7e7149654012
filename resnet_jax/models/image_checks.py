"""Checks of the images that a network is given."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Shaped

from resnet_jax.errors import InputError


def check_images(
    images: Shaped[Array, 'n *space c'], dimensions: int, params: Mapping[str, Any]
) -> None:
    """Refuses images that a network cannot take.

    Args:
      images: what should be normalised floats, [N, ..., C].
      dimensions: number of spatial dimensions of the network.
      params: of the network; empty while it is initialised.

    Raises:
      InputError: for another type, number of dimensions or channels.
    """
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
