"""Transforms that erase a region of an image."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

ERASING_TRIES = 10  # boxes that are drawn until one fits, as in torchvision
FILLS = ('noise', 'zero')


def box_mask(
    shape: tuple[int, int],
    centre: tuple[Int[Array, ''], Int[Array, '']],
    sides: tuple[Int[Array, ''] | int, Int[Array, ''] | int],
) -> Bool[Array, 'h w']:
    """True in a box; what reaches over the border is cut off.

    Args:
      shape: height and width of the image.
      centre: row and column of its middle pixel, the lower right one of an even side.
      sides: height and width of the box, pixels.
    """
    inside = []
    for length, middle, side in zip(shape, centre, sides, strict=True):
        first = middle - side // 2
        place = jnp.arange(length)
        inside.append((place >= first) & (place < first + side))
    return inside[0][:, None] & inside[1][None]


def cutout(
    key: Key[Array, ''], image: Float[Array, 'h w c'], size: int, probability: float
) -> Float[Array, 'h w c']:
    """Cutout (DeVries & Taylor, arXiv 1708.04552, section 3): a square becomes zero, the mean.

    Its centre is anywhere in the image, so that parts of it may lie outside.

    Args:
      key: of this example.
      image: normalised.
      size: side of the square, pixels.
      probability: that the image is cut.
    """
    height, width = image.shape[:2]
    row, column = jax.random.randint(
        jax.random.fold_in(key, 0), (2,), 0, jnp.asarray([height, width])
    )
    cut = box_mask((height, width), (row, column), (size, size))
    cut &= jax.random.bernoulli(jax.random.fold_in(key, 1), probability)
    return jnp.where(cut[:, :, None], jnp.zeros_like(image), image)


def random_erasing(
    key: Key[Array, ''],
    image: Float[Array, 'h w c'],
    probability: float,
    area: tuple[float, float],
    ratio: tuple[float, float],
    fill: str,
) -> Float[Array, 'h w c']:
    """Random erasing (Zhong et al., arXiv 1708.04896, section 3): a box inside becomes noise.

    Of `ERASING_TRIES` boxes the first that fits is taken; if none fits, the image is unchanged.
    Ratios are uniform in their logarithm, as in torchvision and timm, and not, as in the paper, in
    themselves, which makes tall boxes likelier than wide ones.

    Args:
      key: of this example.
      image: normalised.
      probability: that the image is erased.
      area: smallest and largest area of the box, as a fraction of the image.
      ratio: smallest and largest height / width of the box.
      fill: 'noise': a standard normal number for each pixel and channel, of about the
        distribution of the images; 'zero': the mean.
    """
    height, width, _ = image.shape
    keys = [jax.random.fold_in(key, i) for i in range(5)]
    low, high = jnp.log(jnp.asarray(ratio))
    tries = (ERASING_TRIES,)
    areas = height * width * jax.random.uniform(keys[0], tries, minval=area[0], maxval=area[1])
    ratios = jnp.exp(jax.random.uniform(keys[1], tries, minval=low, maxval=high))
    heights = jnp.round(jnp.sqrt(areas * ratios)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(areas / ratios)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits)
    sides = heights[first], widths[first]
    room = jnp.maximum(jnp.stack([height - sides[0], width - sides[1]]), 0)
    top, left = jax.random.randint(keys[2], (2,), 0, room + 1)
    box = box_mask((height, width), (top + sides[0] // 2, left + sides[1] // 2), sides)
    box &= fits[first] & jax.random.bernoulli(keys[3], probability)
    noise = jax.random.normal(keys[4], image.shape, image.dtype)
    return jnp.where(box[:, :, None], jnp.zeros_like(image) if fill == 'zero' else noise, image)
