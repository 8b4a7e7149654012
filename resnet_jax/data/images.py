"""Decode image files and bring images to the size and channels of a model (on the host).

Arrays are [height, width, channels], values 0 to 255: 1 channel is grey, 3 are RGB, and other
numbers are the bands of a TIFF, which nothing converts.
"""

import contextlib
import io
import math
import os
import stat
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError, features

from resnet_jax.data.bands import count_bands, holds_bands, split_bands, undo_differences
from resnet_jax.data.containers import ImageParts, exif_orientation, split_metadata
from resnet_jax.errors import InputError, check_choice, first_line
from resnet_jax.text import printable

# How `resize_and_crop` resamples. Pillow antialiases with both when it shrinks.
INTERPOLATIONS = {'bilinear': Image.Resampling.BILINEAR, 'bicubic': Image.Resampling.BICUBIC}
SUPPORTS = {'bilinear': 1, 'bicubic': 2}  # pixels on each side that a result depends on, enlarging
LARGEST_SIDE = 4096  # pixels, of a model's input and of the resize before it
# Largest aspect ratio that is resized whole; a longer image is cut first, to bound the cost.
LONGEST_ASPECT = 8
CROP_TRIES = 10  # as torchvision's RandomResizedCrop, before it falls back to a centre crop
_AVIF = 'avif' in features.modules and features.check_module('avif')
# Of the files that a folder stands for, in training and in prediction.
IMAGE_SUFFIXES = (
    *('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff'),
    *(['.avif'] if _AVIF else []),
)
# What a file may hold, whatever its suffix. Others of Pillow's formats run other programs (EPS) or
# accept almost any bytes.
FORMATS = (
    *('BMP', 'DIB', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP'),
    *(['AVIF'] if _AVIF else []),
)
LARGEST_FILE = 2**30  # bytes: above the raw pixels of the largest image that is decoded
HEADER = 2**16  # bytes read to look at a file's header
_NOT_FILES = {
    stat.S_IFDIR: 'a directory',
    stat.S_IFIFO: 'a named pipe',
    stat.S_IFSOCK: 'a socket',
    stat.S_IFCHR: 'a device',
    stat.S_IFBLK: 'a device',
}
# EXIF orientation -> what shows the image upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WIDE = 65535  # white in 16 bits
_DARKEST = 4096  # a 16-bit image below this everywhere is taken for one of 12 bits


def decode_image(
    image: str | os.PathLike[str] | bytes, channels: int = 3, where: str = ''
) -> UInt8[np.ndarray, 'h w channels']:
    """Decodes a JPEG, PNG or another image of `FORMATS`; of several frames the first.

    The orientation is applied where EXIF or XMP give one; other metadata are not read, so that no
    damage in them matters. CMYK and palettes become RGB, and an alpha channel is dropped (not
    blended), as torchvision's ImageFolder does.

    Wide greys are scaled to 8 bits by the largest value that the file declares: 65535 for 16 bits,
    4095 for a TIFF of 12 bits or with that MaxSampleValue. Pixels whose meaning the file leaves
    open are refused: floating-point values, integers outside of that range, and 16-bit images in
    which no value reaches 4096 but that are not black: these hold 12 bits or fewer, unscaled.

    Args:
      image: a path, or the bytes of a file.
      channels: 1 for grey, 3 for RGB; other numbers are bands, read from a TIFF that has as many of
        8 bits.
      where: the image's name in messages; by default its path.

    Raises:
      InputError: if the file is missing, not a file, not an image, damaged, of pixels that are
        refused, or larger than `PIL.Image.MAX_IMAGE_PIXELS` pixels or `LARGEST_FILE` bytes.
    """
    where = printable(where or ('image' if isinstance(image, bytes) else os.fspath(image)))
    data = image if isinstance(image, bytes) else read_file(image, where)
    parts = split_metadata(data)
    if holds_bands(data, channels, where):
        return _decode_bands(data, parts, where)
    with _opened(parts, where) as opened:
        opened.load()
        orientation = parts.orientation or exif_orientation(opened.info.get('exif', b''))
        upright = opened.transpose(_TURNS[orientation]) if orientation in _TURNS else opened
        return _to_array(_to_eight_bits(upright, parts, where), channels)


def _decode_bands(data: bytes, parts: ImageParts, where: str) -> UInt8[np.ndarray, 'h w bands']:
    bands = split_bands(data, where)
    limit, size = Image.MAX_IMAGE_PIXELS, bands.width * bands.height * bands.number
    if limit is not None and size > limit:
        raise InputError(_too_large(where, f' ({bands.number} x {bands.width} x {bands.height})'))
    planes = []
    for grey in bands.greys:
        with _opened(ImageParts(grey), where) as opened:
            planes.append(np.asarray(opened.convert('L')).reshape(bands.height, bands.width, -1))
    image = np.concatenate(planes, axis=2)
    if bands.run:
        for here in undo_differences(bands.width, bands.run):
            image[:, here] = np.cumsum(image[:, here], axis=1, dtype=np.uint8)
    turn = _TURNS.get(parts.orientation or 1)
    return image if turn is None else _by_band(image, lambda band: band.transpose(turn))


def _by_band(image: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """An image after a change of Pillow's; of other channels than grey or RGB, of each band."""
    if image.shape[2] in (1, 3):
        return np.atleast_3d(np.asarray(change(_to_pillow(image))))
    bands = (image[:, :, i] for i in range(image.shape[2]))
    return np.stack([np.asarray(change(Image.fromarray(band))) for band in bands], axis=2)


def check_header(path: str | os.PathLike[str], channels: int = 3) -> None:
    """Checks that an image file can be opened and begins as an image; decodes nothing.

    Args:
      path: the file.
      channels: as for `decode_image`; bands are not looked at.

    Raises:
      InputError: as `decode_image`, as far as it shows there.
    """
    where = printable(os.fspath(path))
    if channels not in (1, 3):
        read_file(path, where, HEADER)
        return
    try:
        with _opened(split_metadata(read_file(path, where, HEADER)), where):
            return
    except InputError:  # some formats have their header at the end
        with _opened(split_metadata(read_file(path, where)), where):
            return


def size_of(data: bytes, parts: ImageParts, channels: int, where: str) -> tuple[int, int]:
    """Width and height of a file's image, from its header."""
    if holds_bands(data, channels, where):
        bands = split_bands(data, where)
        return bands.width, bands.height
    with _opened(parts, where) as opened:
        return opened.size


def read_file(path: str | os.PathLike[str], where: str, most: int = LARGEST_FILE) -> bytes:
    """Reads an image file, or its first `most` bytes; raises InputError if it cannot be one."""
    try:
        status = os.stat(path)  # first, since opening a pipe waits for its other end
        if not stat.S_ISREG(status.st_mode):
            kind = _NOT_FILES.get(stat.S_IFMT(status.st_mode), 'no regular file')
            raise InputError(f'{where}: this is {kind}, not an image file')
        if status.st_size > LARGEST_FILE:
            raise InputError(
                f'{where}: file too large ({status.st_size:,} bytes) for an image; the limit is '
                f'{LARGEST_FILE:,}'
            )
        with open(path, 'rb') as file:
            data = file.read(most)
    except FileNotFoundError:
        link = ': a link to a file that does not exist' if os.path.islink(path) else ''
        raise InputError(f'{where}: no such image file{link}') from None
    except OSError as error:
        raise InputError(f'{where}: cannot read this file ({error.strerror or error})') from None
    except ValueError:  # a zero byte in its name; InputError is one too
        if '\0' not in os.fspath(path):
            raise
        raise InputError(f'{where}: no such image file') from None
    if not data:
        raise InputError(f'{where}: not an image that can be read, the file is empty; replace it')
    return data


@contextlib.contextmanager
def _opened(parts: ImageParts, where: str) -> Iterator[Image.Image]:
    """Opens an image; what Pillow raises in the block becomes an `InputError`."""
    try:
        with Image.open(io.BytesIO(parts.pixels), formats=FORMATS) as opened:
            _check_pixels(opened, where)
            yield opened
    except InputError:
        raise
    except UnidentifiedImageError:
        bands, _ = count_bands(parts.pixels)
        if bands > 1:
            raise InputError(
                f'{where}: a TIFF of {bands} bands, not of grey or RGB; set data.channels={bands}'
            ) from None
        raise InputError(f'{where}: not an image that can be read; give a JPEG or PNG') from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(_too_large(where)) from None
    except Exception as error:  # Pillow raises many kinds on damaged files
        reason = getattr(error, 'strerror', None) or first_line(error)
        raise InputError(f'{where}: cannot read this image ({printable(reason)})') from None


def _too_large(where: str, size: str = '') -> str:
    limit = f'{Image.MAX_IMAGE_PIXELS:,}'
    return f'{where}: image too large{size}; the limit is {limit} pixels, make it smaller'


def _check_pixels(opened: Image.Image, where: str) -> None:
    # Pillow itself only warns up to twice this limit.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and opened.width * opened.height > limit:
        raise InputError(_too_large(where, f' ({opened.width} x {opened.height})'))


def _to_eight_bits(image: Image.Image, parts: ImageParts, where: str) -> Image.Image:
    """Scales wide greys, and refuses pixels whose meaning is not known; see `decode_image`."""
    if image.mode == 'F':
        raise InputError(
            f'{where}: floating-point pixels, of which black and white are not known; convert it '
            'to 8 or 16 bits'
        )
    if not image.mode.startswith('I'):
        if parts.bits == 16 and image.mode in ('RGB', 'RGBA', 'LA'):
            # Pillow has reduced these to their upper bytes.
            highest = max(high for _, high in np.atleast_2d(image.convert('RGB').getextrema()))
            if 0 < highest < _DARKEST // 256:
                raise _too_dark(where, 256 * highest + 255)
        return image
    wide = np.asarray(image).astype(np.int64)
    bits = parts.bits if parts.bits and 8 < parts.bits < 16 else 16
    white = parts.largest or 2**bits - 1
    low, high = int(wide.min()), int(wide.max())
    if low < 0 or high > white:
        raise InputError(
            f'{where}: pixels from {low} to {high}, outside of 0 to {white}; convert it to 8 bits'
        )
    if white == _WIDE and 0 < high < _DARKEST:
        raise _too_dark(where, high)
    # Pillow's own conversion clips at 255.
    return Image.fromarray(((wide * 255 + white // 2) // white).astype(np.uint8))


def _too_dark(where: str, highest: int) -> InputError:
    return InputError(
        f'{where}: an image of 16 bits or more with no value above {highest} of {_WIDE}, perhaps '
        'of 12 bits or fewer; scale it to the full range or convert it to 8 bits'
    )


def _to_array(image: Image.Image, channels: int) -> np.ndarray:
    """Pillow image of any 8-bit mode to uint8 [H, W, channels]."""
    if image.mode == 'P':
        image = image.convert('RGBA')  # palette entries may carry transparency
    if image.mode == 'LAB':
        image = image.convert('RGB')  # Pillow has no direct way to grey
    image = image.convert('L' if channels == 1 else 'RGB')
    return np.asarray(image).reshape(image.height, image.width, channels)


def _to_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def convert_channels(
    image: UInt8[np.ndarray, 'h w c'], channels: int
) -> UInt8[np.ndarray, 'h w channels']:
    """Converts an image to grey or RGB.

    Args:
      image: the image.
      channels: 1 (luma of ITU-R BT.601) or 3 (a grey is repeated); another number must be the
        image's own.

    Returns:
      The converted image; the same array if it has these channels already.

    Raises:
      InputError: if it has others and is not grey or RGB, or is not to be.
    """
    if image.shape[2] == channels:
        return image
    if not {image.shape[2], channels} <= {1, 3}:
        raise InputError(
            f'an image of {image.shape[2]} channels where {channels} are wanted: only grey and RGB '
            f'are converted; set data.channels={image.shape[2]}'
        )
    return _to_array(_to_pillow(image), channels)


def resize_and_crop(
    image: UInt8[np.ndarray, 'h w c'],
    image_size: int,
    resize: int | None = None,
    interpolation: str = 'bilinear',
    start_of: Callable[[int], int] = lambda room: round(room / 2),
) -> UInt8[np.ndarray, 'image_size image_size c']:
    """Scales the shorter side to `resize` and cuts out the centre square, as for evaluation.

    With antialiasing. An image that has the right size already is returned unchanged.

    Args:
      image: the image.
      image_size: side of the result, pixels.
      resize: the shorter side before the crop, pixels; None means `image_size`.
      interpolation: 'bilinear' or 'bicubic'.
      start_of: where the square begins, from 0 to the number of pixels that are left over; called
        for the height, then for the width.

    Raises:
      InputError: on sizes that `check_sizes` refuses, or an unknown interpolation.
    """
    check_choice('interpolation', interpolation, INTERPOLATIONS)
    check_sizes(image_size, resize)
    resize = image_size if resize is None else resize
    shorter = min(image.shape[:2])
    # The longer side is rounded down, as in torchvision.
    size = [side * resize // shorter for side in image.shape[:2]]
    start = [start_of(side - image_size) for side in size]
    if shorter != resize:
        sides = [(0.0, float(side)) for side in image.shape[:2]]
        if max(size) > LONGEST_ASPECT * resize:
            axis = int(size[1] > size[0])
            scale = image.shape[axis] / size[axis]
            first, last = start[axis] * scale, (start[axis] + image_size) * scale
            margin = SUPPORTS[interpolation] * max(scale, 1) + 1
            kept = slice(max(math.floor(first - margin), 0), math.ceil(last + margin))
            image = image[kept] if axis == 0 else image[:, kept]
            sides[axis] = first - kept.start, last - kept.start
            size[axis], start[axis] = image_size, 0
        (top, bottom), (left, right) = sides
        shape, box = (size[1], size[0]), (left, top, right, bottom)
        method = INTERPOLATIONS[interpolation]
        image = _by_band(image, lambda band: band.resize(shape, method, box))
    top, left = start
    return image[top : top + image_size, left : left + image_size]


def check_sizes(image_size: int, resize: int | None) -> None:
    """Refuses a side of a model's input, or of the resize before its crop, that cannot be meant.

    Raises:
      InputError: unless they are whole numbers, 1 <= image_size <= resize <= `LARGEST_SIDE`.
    """
    for name, side in (('image_size', image_size), ('resize', resize)):
        if side is None and name == 'resize':
            continue
        if isinstance(side, bool) or not isinstance(side, int | np.integer):
            raise InputError(f'{name} must be a whole number of pixels, not {side!r}')
        if side < 1:
            raise InputError(f'{name} must be positive, not {side}')
        if side > LARGEST_SIDE:
            raise InputError(f'{name} must be at most {LARGEST_SIDE} pixels, not {side}')
    if resize is not None and resize < image_size:
        raise InputError(f'resize {resize} is smaller than image_size {image_size}')


def random_resized_crop(
    image: UInt8[np.ndarray, 'h w c'],
    image_size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: str = 'bilinear',
) -> UInt8[np.ndarray, 'image_size image_size c']:
    """Cuts a random box out of an image and resizes it to a square, as for training.

    Szegedy et al. 2015 (Going deeper with convolutions), section 6.

    Args:
      image: the image.
      image_size: side of the result, pixels.
      rng: draws the box.
      scale: smallest and largest area of the box, as a fraction of the image.
      ratio: smallest and largest width / height of the box.
      interpolation: a key of `INTERPOLATIONS`.
    """
    left, top, width, height = _random_box(image.shape[1], image.shape[0], rng, scale, ratio)
    size, box = (image_size, image_size), (left, top, left + width, top + height)
    return _by_band(image, lambda band: band.resize(size, INTERPOLATIONS[interpolation], box))


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
    w = min(width, max(round(height * ratio[1]), 1))
    h = min(height, max(round(width / ratio[0]), 1))
    return (width - w) // 2, (height - h) // 2, w, h
