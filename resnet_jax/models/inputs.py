"""An input that a model takes, of a size that the caller chooses: to trace it, and to start it."""

import jax
import jax.numpy as jnp

from resnet_jax.models.convolution import for_each
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.stem import STEMS


def example_input(
    model: ResNet, size: int | tuple[int, ...] = 64, channels: int | None = None
) -> jax.ShapeDtypeStruct:
    """The shape and type of one image, series, video or text.

    Args:
      model: the network.
      size: in every dimension of space, or one for each.
      channels: of images; None: RGB, or without a stem those that the first block expects, on which
        its shortcut depends.
    """
    space = for_each(size, model.dimensions)
    if jnp.issubdtype(model.input_dtype, jnp.integer):
        return jax.ShapeDtypeStruct((1, *space), model.input_dtype)
    if channels is None:
        channels = 3 if STEMS[model.stem].convolutions else model.stem_width
    return jax.ShapeDtypeStruct((1, *space, channels), model.input_dtype)
