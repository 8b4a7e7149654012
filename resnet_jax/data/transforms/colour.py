"""Transforms of colour, on uint8 images."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Key

from resnet_jax.data.transforms import operations
from resnet_jax.data.transforms.operations import Image, luma

# Of the RGB values of ImageNet's training images in [0, 1]: eigenvalues of their covariance, which
# are variances along the principal axes, and the axes as columns; as published with
# fb.resnet.torch.
EIGENVALUES = np.asarray([0.2175, 0.0188, 0.0045], np.float32)
EIGENVECTORS = np.asarray(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
)


def lighting(key: Key[Array, ''], image: Image, std: float) -> Image:
    """PCA lighting (Krizhevsky et al. 2012, section 4.1): a shift along ImageNet's colours.

    Args:
      key: of this example.
      image: RGB; the result is rounded and cut to 0 to 255.
      std: of the normal numbers that multiply the eigenvalues, the paper's 0.1.
    """
    alphas = std * jax.random.normal(key, (3,))
    shift = 255 * EIGENVECTORS @ (alphas * EIGENVALUES)
    return _to_pixels(image.astype(jnp.float32) + shift[None, None])


def _to_pixels(image: jax.Array) -> jax.Array:
    return jnp.clip(jnp.round(image), 0, 255).astype(jnp.uint8)


def grey(key: Key[Array, ''], image: Image, probability: float) -> Image:
    """Makes an RGB image grey (Chen et al., SimCLR, arXiv 2002.05709, appendix A).

    Args:
      key: of this example.
      image: RGB.
      probability: that it becomes grey.
    """
    return jnp.where(jax.random.bernoulli(key, probability), luma(image), image)


def color_jitter(
    key: Key[Array, ''],
    image: Image,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> Image:
    """Changes brightness, contrast, saturation and hue, in random order.

    Howard, arXiv 1312.5402, section 2.2; as torchvision's ColorJitter.

    Args:
      key: of this example.
      image: of 1 or 3 channels; one has no hue nor saturation.
      brightness: its factor is uniform within so much of 1, and not negative.
      contrast: likewise.
      saturation: likewise.
      hue: it moves by up to this share of the circle, to either side.
    """
    changes: list[Callable[[jax.Array, jax.Array], jax.Array]] = []
    lows, highs = [], []
    for change, most in (
        (operations.brightness, brightness),
        (operations.contrast, contrast),
        (operations.saturation, saturation),
    ):
        if most:
            changes.append(change)
            lows.append(max(0.0, 1.0 - most))
            highs.append(1.0 + most)
    if hue:
        changes.append(change_hue)
        lows.append(-hue)
        highs.append(hue)
    if not changes:
        return image
    keys = jax.random.split(key)
    amounts = jax.random.uniform(
        keys[0], (len(changes),), minval=jnp.asarray(lows), maxval=jnp.asarray(highs)
    )
    order = jax.random.permutation(keys[1], len(changes))
    for which in order:
        image = lax.switch(which, changes, image, amounts[which])
    return image


def change_hue(image: Image, shift: jax.Array | float) -> Image:
    """Moves the hue by a share of the circle, in HSV; a grey image stays."""
    if image.shape[-1] != 3:
        return image
    red, green, blue = jnp.moveaxis(image.astype(jnp.float32) / 255, -1, 0)
    high = jnp.maximum(jnp.maximum(red, green), blue)
    span = high - jnp.minimum(jnp.minimum(red, green), blue)
    safe = jnp.where(span > 0, span, 1.0)
    sextant = jnp.where(
        high == red,
        (green - blue) / safe,
        jnp.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    moved = (sextant + 6 * shift)[..., None]
    # Each channel falls from the highest to the lowest value with its distance from its own hue.
    apart = jnp.abs((moved - jnp.asarray([[[0.0, 2.0, 4.0]]]) + 3) % 6 - 3)
    return _to_pixels(255 * (high[..., None] - span[..., None] * jnp.clip(apart - 1, 0, 1)))
