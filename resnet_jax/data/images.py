"""Image files to uint8 arrays, and arrays to the size and channels a model takes (host side).

Arrays are [height, width, channels] with 1 (grey) or 3 (RGB) channels, values 0 to 255.
"""

import io
import math
import os
import struct

import numpy as np
from PIL import Image, ImageOps

from resnet_jax.errors import InputError, unknown_name

# How `resize_and_crop` resamples. Pillow antialiases with both when it shrinks.
INTERPOLATIONS = {'bilinear': Image.Resampling.BILINEAR, 'bicubic': Image.Resampling.BICUBIC}
ORIENTATION_TAG = 0x0112  # EXIF 2.32, section 4.6.4
CROP_TRIES = 10  # as torchvision's RandomResizedCrop, before it falls back to a centre crop

# What Pillow raises on a file that is damaged beyond what OSError says.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)


def decode_image(
    image: str | os.PathLike[str] | bytes, channels: int = 3, where: str = ''
) -> np.ndarray:
    """Decodes a JPEG, PNG or other image that Pillow reads.

    The EXIF orientation is applied, CMYK and palettes become RGB, 16-bit greys are scaled to 8 bits
    and an alpha channel is dropped (not blended), as torchvision's ImageFolder does.

    Args:
      image: a path, or the bytes of a file.
      channels: 1 for grey, 3 for RGB.
      where: what to call the image in messages; a path names itself.

    Returns:
      uint8 [H, W, channels].

    Raises:
      InputError: if the file is missing, not an image, damaged or larger than
        `PIL.Image.MAX_IMAGE_PIXELS` pixels.
    """
    where = where or ('image' if isinstance(image, bytes) else os.fspath(image))
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            _check_pixels(opened, where)
            opened.load()
            if opened.getexif().get(ORIENTATION_TAG, 1) == 1:
                return _to_array(opened, channels)
            return _to_array(ImageOps.exif_transpose(opened), channels)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f'{where}: no such image file') from None
    except Image.UnidentifiedImageError:
        raise InputError(f'{where}: not an image that can be read; give a JPEG or PNG') from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(_too_large(where)) from None
    except _DAMAGED as error:
        reason = getattr(error, 'strerror', None) or error
        raise InputError(f'{where}: cannot read this image ({reason})') from None


def _too_large(where: str, size: str = '') -> str:
    limit = f'{Image.MAX_IMAGE_PIXELS:,}'
    return f'{where}: image too large{size}; the limit is {limit} pixels, make it smaller'


def _check_pixels(opened: Image.Image, where: str) -> None:
    # Pillow itself only warns up to twice this limit.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and opened.width * opened.height > limit:
        raise InputError(_too_large(where, f' ({opened.width} x {opened.height})'))


def _to_array(image: Image.Image, channels: int) -> np.ndarray:
    """Pillow image of any mode to uint8 [H, W, channels]."""
    if image.mode.startswith('I'):
        # Pillow's own conversion of 16-bit greys clips at 255. 65535 / 257 = 255.
        wide = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((np.clip(wide, 0, 65535) + 128) // 257).astype(np.uint8))
    if image.mode == 'P':
        image = image.convert('RGBA')  # palette entries may carry transparency
    image = image.convert('L' if channels == 1 else 'RGB')
    return np.asarray(image).reshape(image.height, image.width, channels)


def _to_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def convert_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Makes an image grey or RGB.

    Args:
      image: uint8 [H, W, 1 or 3].
      channels: 1 (luma of ITU-R BT.601) or 3 (a grey is repeated).

    Returns:
      uint8 [H, W, channels]; the same array where nothing changes.
    """
    if image.shape[2] == channels:
        return image
    return _to_array(_to_pillow(image), channels)


def check_interpolation(name: str) -> None:
    """Refuses a name that `INTERPOLATIONS` does not hold."""
    if name not in INTERPOLATIONS:
        raise unknown_name('interpolation', name, INTERPOLATIONS)


def resize_and_crop(
    image: np.ndarray, image_size: int, resize: int | None = None, interpolation: str = 'bilinear'
) -> np.ndarray:
    """Evaluation's geometry: shorter side to `resize`, then the centre square.

    With antialiasing. An image that has the right size already is returned as it is.

    Args:
      image: uint8 [H, W, C].
      image_size: side of the result, pixels.
      resize: the shorter side before the crop, pixels; None means `image_size`.
      interpolation: 'bilinear' or 'bicubic'.

    Returns:
      uint8 [image_size, image_size, C].

    Raises:
      InputError: if `resize` is smaller than `image_size` or the interpolation unknown.
    """
    check_interpolation(interpolation)
    resize = image_size if resize is None else resize
    if resize < image_size:
        raise InputError(f'resize {resize} is smaller than image_size {image_size}')
    height, width, channels = image.shape
    if min(height, width) != resize:
        shorter = min(height, width)
        # The longer side is rounded down, as in torchvision.
        height, width = height * resize // shorter, width * resize // shorter
        scaled = _to_pillow(image).resize((width, height), INTERPOLATIONS[interpolation])
        image = np.asarray(scaled).reshape(height, width, channels)
    top, left = round((height - image_size) / 2), round((width - image_size) / 2)
    return image[top : top + image_size, left : left + image_size]


def random_resized_crop(
    image: np.ndarray,
    image_size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """Training's geometry: a random box of the image, resized to a square.

    Szegedy et al. 2015 (Going deeper with convolutions), section 6.

    Args:
      image: uint8 [H, W, C].
      image_size: side of the result, pixels.
      rng: where the box is drawn from.
      scale: smallest and largest area of the box, as a fraction of the image.
      ratio: smallest and largest width / height of the box.

    Returns:
      uint8 [image_size, image_size, C].
    """
    left, top, width, height = _random_box(image.shape[1], image.shape[0], rng, scale, ratio)
    resized = _to_pillow(image).resize(
        (image_size, image_size),
        Image.Resampling.BILINEAR,
        box=(left, top, left + width, top + height),
    )
    return np.asarray(resized).reshape(image_size, image_size, image.shape[2])


def _random_box(
    width: int,
    height: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Left, top, width, height of a box inside an image of this width and height."""
    for _ in range(CROP_TRIES):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    # No box fitted: the largest centre box of an allowed ratio, as torchvision does.
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    return (width - w) // 2, (height - h) // 2, w, h
