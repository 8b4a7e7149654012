"""Transforms that move pixels: crops, mirror images, rotations."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key, Shaped, UInt8

from resnet_jax.data.pictures import Picture, random_resized_crop
from resnet_jax.data.resizing import resize_and_crop
from resnet_jax.data.targets import Targets, mirror_targets, move_targets
from resnet_jax.data.transforms.operations import Image, rotation, warp
from resnet_jax.data.transforms.regions import random_box

PadMode = Literal['zero', 'reflect']
PAD_MODES = {'zero': 'constant', 'reflect': 'reflect'}  # our name -> jnp.pad's


def random_crop(
    key: Key[Array, ''], image: Shaped[Array, '*space c'], pad: int, mode: PadMode = 'zero'
) -> Shaped[Array, '*space c']:
    """Pads an image, series or video on all sides and cuts its size out at a random place.

    Args:
      key: of this example.
      image: of any dtype, which is kept, and of any number of dimensions.
      pad: pixels on each side, of a video also frames.
      mode: fill the border with zeros or with the mirrored image.
    """
    if pad == 0:
        return image
    dims = image.ndim - 1
    padded = jnp.pad(image, (*((pad, pad),) * dims, (0, 0)), mode=PAD_MODES[mode])
    corner = _crop_corner(key, dims, pad)
    return lax.dynamic_slice(padded, (*corner, jnp.zeros_like(corner[0])), image.shape)


def _crop_corner(key: Key[Array, ''], dims: int, pad: int) -> Array:
    return jax.random.randint(key, (dims,), 0, 2 * pad + 1)


def follow_crop(
    key: Key[Array, ''], targets: Targets, size: tuple[int, int], pad: int, mode: PadMode
) -> dict[str, Array]:
    """The targets of what `random_crop` makes of an image; its border is unknown in either mode."""
    if pad == 0:
        return dict(targets)
    return move_targets(targets, size, 1.0, (pad - _crop_corner(key, 2, pad)).astype(jnp.float32))


def random_zoom(
    key: Key[Array, ''], image: Float[Array, 'h w c'], scale: tuple[float, float]
) -> Float[Array, 'h w c']:
    """Scales an image by a random factor and shows a random part, or all with zeros around it.

    The scale and crop of segmentation (arXiv 1706.05587, section 4.1) and, with a wider range,
    detection's jitter of scales (arXiv 2012.07177, section 3).

    Args:
      key: of this example.
      image: normalised.
      scale: smallest and largest factor; their logarithms are uniform.
    """
    height, width, _ = image.shape
    factor, shift = _zoomed(key, (height, width), scale)
    factors = jnp.stack([factor, factor])
    return jax.image.scale_and_translate(
        image, image.shape, (0, 1), factors, shift, 'linear', antialias=True
    )


def _zoomed(
    key: Key[Array, ''], size: tuple[int, int], scale: tuple[float, float]
) -> tuple[Array, Array]:
    """The factor, and the shift [2] in pixels, down and to the right."""
    of_scale, of_place = jax.random.split(key)
    logarithms = np.log(np.asarray(scale, np.float32))
    factor = jnp.exp(jax.random.uniform(of_scale, minval=logarithms[0], maxval=logarithms[1]))
    room = jnp.asarray(size, jnp.float32) * (1 - factor)  # negative where a part is cut off
    return factor, jax.random.uniform(of_place, (2,)) * room


def follow_zoom(
    key: Key[Array, ''], targets: Targets, size: tuple[int, int], scale: tuple[float, float]
) -> dict[str, Array]:
    """The targets of what `random_zoom` makes of an image."""
    factor, shift = _zoomed(key, size, scale)
    return move_targets(targets, size, factor, shift)


def follow_flip(
    key: Key[Array, ''], targets: Targets, size: tuple[int, int], probability: float
) -> dict[str, Array]:
    """The targets of what `random_flip` makes of an image."""
    return mirror_targets(targets, size[1], jax.random.bernoulli(key, probability))


def multi_crop(
    key: Key[Array, ''],
    image: Shaped[Array, 'h w c'],
    count: int,
    size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Float[Array, 'count size size c']:
    """Cuts random boxes out of an image and resizes them to small squares.

    Multi-crop (Caron et al., arXiv 2006.09882, section 3.2): the model learns from the image and
    from a few crops of it, which cost little because they are small.

    Args:
      key: of this example.
      image: of any size.
      count: number of crops.
      size: side of each, pixels.
      scale: smallest and largest area of the box, as a fraction of the image.
      ratio: smallest and largest width / height of the box.

    Returns:
      The crops, resized linearly with antialiasing.
    """
    height, width, channels = image.shape

    def crop(key: Key[Array, '']) -> Float[Array, 'size size c']:
        inverse = (1 / ratio[1], 1 / ratio[0])
        shape = (height, width)
        corner, sides, _ = random_box(key, shape, shape, scale, inverse)
        kept = [
            jnp.clip(side, 1, length).astype(jnp.float32)
            for side, length in zip(sides, shape, strict=True)
        ]
        factors = jnp.stack([size / side for side in kept])
        shift = -factors * jnp.stack(corner).astype(jnp.float32)
        return jax.image.scale_and_translate(
            image, (size, size, channels), (0, 1), factors, shift, 'linear', antialias=True
        )

    return jax.vmap(crop)(jax.random.split(key, count))


def random_flip(
    key: Key[Array, ''], image: Shaped[Array, '*space c'], probability: float = 0.5
) -> Shaped[Array, '*space c']:
    """Mirrors an image left to right, or all frames of a video.

    Args:
      key: of this example.
      image: of any dtype, which is kept.
      probability: of the mirror image.
    """
    return jnp.where(jax.random.bernoulli(key, probability), jnp.flip(image, -2), image)


def random_vertical_flip(
    key: Key[Array, ''], image: Shaped[Array, '*space c'], probability: float = 0.5
) -> Shaped[Array, '*space c']:
    """Mirrors an image top to bottom; arguments as of `random_flip`."""
    return jnp.where(jax.random.bernoulli(key, probability), jnp.flip(image, -3), image)


def random_depth_flip(
    key: Key[Array, ''], image: Shaped[Array, 'd h w c'], probability: float = 0.5
) -> Shaped[Array, 'd h w c']:
    """Turns the order of a volume's slices, or a video's frames; arguments as of `random_flip`."""
    return jnp.where(jax.random.bernoulli(key, probability), jnp.flip(image, -4), image)


def host_random_resized_crop(
    rng: np.random.Generator,
    image: Picture | UInt8[np.ndarray, 'h w c'],
    size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    interpolation: str,
    antialias: bool,
) -> UInt8[np.ndarray, 'size size c']:
    """`pictures.random_resized_crop` as a row of the table."""
    return random_resized_crop(image, size, rng, scale, ratio, interpolation, antialias)


def random_scale_crop(
    rng: np.random.Generator,
    image: Picture | UInt8[np.ndarray, 'h w c'],
    size: int,
    sides: tuple[int, int],
    interpolation: str,
) -> UInt8[np.ndarray, 'size size c']:
    """Scales the shorter side to a random length and cuts a square out anywhere.

    VGG's "scale augmentation" (arXiv 1409.1556, section 3.1), as He et al. 2015, section 3.4.

    Args:
      rng: draws the length and the place.
      image: the image.
      size: side of the square, pixels.
      sides: shortest and longest length of the shorter side, pixels; all between are as likely.
      interpolation: a key of `resizing.INTERPOLATIONS`.
    """
    shorter = int(rng.integers(sides[0], sides[1] + 1))
    pixels = image.whole() if isinstance(image, Picture) else image
    return resize_and_crop(
        pixels, size, shorter, interpolation, lambda room: int(rng.integers(room + 1))
    )


def rotate(
    key: Key[Array, ''], image: Image, degrees: float, fill: int, interpolation: str
) -> Image:
    """Rotates an image about its centre by a random angle.

    Args:
      key: of this example.
      image: of any channels.
      degrees: the largest angle; all angles are as likely.
      fill: the value of pixels from outside.
      interpolation: one of `SAMPLINGS`.
    """
    angle = jax.random.uniform(key, minval=-degrees, maxval=degrees)
    return warp(image, rotation(angle, *image.shape[:2]), fill, interpolation)
