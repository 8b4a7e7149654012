"""Transforms that erase a region of an image."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

BOX_TRIES = 10  # boxes that are drawn until one fits, as in torchvision
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


Pair = tuple[Int[Array, ''], Int[Array, '']]


def random_box(
    key: Key[Array, ''],
    largest: tuple[int, int],
    shape: tuple[int, int],
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[Pair, Pair, Bool[Array, '']]:
    """Draws a box inside an image: of `BOX_TRIES` sizes the first that fits, anywhere.

    Args:
      key: its streams 0 to 2 are used.
      largest: height and width that the box may have, pixels.
      shape: height and width of the image, pixels.
      area: smallest and largest area, as a fraction of the image.
      ratio: smallest and largest height / width; all between are as likely in their logarithm.

    Returns:
      Top and left of the box, its height and width, and whether it fits; the box of the first size,
      which reaches over the border, if none does.
    """
    keys = [jax.random.fold_in(key, i) for i in range(3)]
    low, high = jnp.log(jnp.asarray(ratio))
    tries, pixels = (BOX_TRIES,), shape[0] * shape[1]
    areas = pixels * jax.random.uniform(keys[0], tries, minval=area[0], maxval=area[1])
    ratios = jnp.exp(jax.random.uniform(keys[1], tries, minval=low, maxval=high))
    heights = jnp.round(jnp.sqrt(areas * ratios)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(areas / ratios)).astype(jnp.int32)
    fits = (heights <= largest[0]) & (widths <= largest[1])
    first = jnp.argmax(fits)
    sides = heights[first], widths[first]
    room = jnp.maximum(jnp.stack([shape[0] - sides[0], shape[1] - sides[1]]), 0)
    top, left = jax.random.randint(keys[2], (2,), 0, room + 1)
    return (top, left), sides, fits[first]


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

    Of `BOX_TRIES` boxes the first that fits is taken; if none fits, the image is unchanged.
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
    shape = image.shape[0], image.shape[1]
    (top, left), sides, fits = random_box(key, (shape[0] - 1, shape[1] - 1), shape, area, ratio)
    keys = [jax.random.fold_in(key, i) for i in (3, 4)]
    box = box_mask(shape, (top + sides[0] // 2, left + sides[1] // 2), sides)
    box &= fits & jax.random.bernoulli(keys[0], probability)
    noise = jax.random.normal(keys[1], image.shape, image.dtype)
    return jnp.where(box[:, :, None], jnp.zeros_like(image) if fill == 'zero' else noise, image)


def spec_augment(
    key: Key[Array, ''],
    image: Float[Array, 'frames bands c'],
    times: int,
    time_share: float,
    frequencies: int,
    frequency_share: float,
) -> Float[Array, 'frames bands c']:
    """Erases stretches of time, and bands of frequencies, of a spectrogram.

    The warping of time of arXiv 1904.08779 is left out, as in most of its successors.

    Args:
      key: of this example.
      image: the spectrogram; what is erased becomes 0, its mean.
      times: number of stretches of time.
      time_share: the longest one over the whole.
      frequencies: number of ranges of frequency.
      frequency_share: the widest one over the whole.
    """
    kept = jnp.ones(image.shape[:2], bool)
    for axis, count, share in ((0, times, time_share), (1, frequencies, frequency_share)):
        size = image.shape[axis]
        wide, place = jax.random.uniform(jax.random.fold_in(key, axis), (2, count))
        longest = math.floor(share * size)
        widths = jnp.floor(wide * (longest + 1))[None]
        firsts = jnp.floor(place[None] * (size - widths + 1))
        steps = jnp.arange(size, dtype=jnp.float32)[:, None]
        inside = ((steps >= firsts) & (steps < firsts + widths)).any(axis=1)
        kept &= ~jnp.expand_dims(inside, 1 - axis)
    return jnp.where(kept[..., None], image, 0)
