"""Decode image files, on the host.

Arrays are [height, width, channels], values 0 to 255: 1 channel is grey, 3 are RGB, and other
numbers are the bands of a TIFF, which nothing converts.
"""

import contextlib
import io
import os
import stat
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, features

from resnet_jax.data import jpeg
from resnet_jax.data.bands import count_bands, holds_bands, split_bands, undo_differences
from resnet_jax.data.containers import ImageParts, exif_orientation, split_metadata
from resnet_jax.data.resizing import convert_channels, to_array
from resnet_jax.errors import InputError, first_line
from resnet_jax.text import printable

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
# EXIF orientation -> what shows the image upright, [H, W, C].
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
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
    where = image_name(image, where)
    data = image if isinstance(image, bytes) else read_file(image, where)
    return decode_parts(data, split_metadata(data), channels, where)


def image_name(image: str | os.PathLike[str] | bytes, where: str = '') -> str:
    """What messages call an image; arguments as for `decode_image`."""
    return printable(where or ('image' if isinstance(image, bytes) else os.fspath(image)))


def decode_parts(
    data: bytes, parts: ImageParts, channels: int, where: str
) -> UInt8[np.ndarray, 'h w channels']:
    """`decode_image` of a file, and what `split_metadata` made of it."""
    if holds_bands(data, channels, where):
        return _decode_bands(data, parts, where)
    header = plain_jpeg(parts)
    found = None if header is None else jpeg.decode(parts.pixels, header, channels)
    if found is not None:
        return upright(convert_channels(found, channels), parts.orientation)
    with _opened(parts, where) as opened:
        opened.load()
        image = to_array(_to_eight_bits(opened, parts, where), channels)
        return upright(image, _orientation(opened, parts))


def plain_jpeg(parts: ImageParts) -> jpeg.JpegHeader | None:
    """The header of a JPEG that `jpeg` decodes; None for other files and images too large."""
    header, limit = jpeg.read_header(parts.pixels), Image.MAX_IMAGE_PIXELS
    return header if header and (not limit or header.width * header.height <= limit) else None


def size_of(
    data: bytes,
    parts: ImageParts,
    channels: int,
    where: str,
    header: jpeg.JpegHeader | None = None,
) -> tuple[int, int]:
    """Width and height of a file's upright image, from its header, as `decode_parts` takes it.

    `header` is its `plain_jpeg`, where that was read before.
    """
    if holds_bands(data, channels, where):
        bands = split_bands(data, where)
        size, orientation = (bands.width, bands.height), parts.orientation
    elif header := header or plain_jpeg(parts):
        size, orientation = (header.width, header.height), parts.orientation
    else:
        with _opened(parts, where) as opened:
            size, orientation = opened.size, _orientation(opened, parts)
    return size[::-1] if (orientation or 1) >= 5 else size


def _orientation(opened: Image.Image, parts: ImageParts) -> int:
    return parts.orientation or exif_orientation(opened.info.get('exif', b''))


def upright(
    image: UInt8[np.ndarray, 'h w c'], orientation: int | None
) -> UInt8[np.ndarray, 'h2 w2 c']:
    """Turns an image as its EXIF orientation, 1 to 8, asks for."""
    turn = _TURNS.get(orientation or 1)
    return image if turn is None else np.ascontiguousarray(turn(image))


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
    return upright(image, parts.orientation)


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


def read_file(path: str | os.PathLike[str], where: str, most: int = LARGEST_FILE) -> bytes:
    """Reads an image file, or its first bytes.

    Args:
      path: the file.
      where: its name in messages.
      most: number of bytes.

    Raises:
      InputError: if it is missing, empty, no regular file, or larger than `LARGEST_FILE`.
    """
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
        with open(path, 'rb', buffering=0) as file:
            # Not `most` itself, for which Python would set aside that much memory.
            data = file.read(min(most, status.st_size + 1))
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
            _check_size(opened, where)
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


def _check_size(opened: Image.Image, where: str) -> None:
    # Pillow itself only warns up to twice this limit.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and opened.width * opened.height > limit:
        raise InputError(_too_large(where, f' ({opened.width} x {opened.height})'))
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        rows = opened.tag_v2[TiffImagePlugin.IMAGELENGTH]
        stored = max((tile[1][3] for tile in opened.tile if tile[1]), default=rows)
        if stored < rows:  # Pillow would leave the others black
            raise InputError(
                f'{where}: damaged, it holds {stored} of the {rows} rows that its header names; '
                'save it again'
            )


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
