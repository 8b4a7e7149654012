"""Decode JPEGs by libjpeg-turbo (simplejpeg), whole or as much as a crop needs.

Only plain files are decoded here: 8 bits, grey or YCbCr, undamaged. For every other file the
functions give None, and Pillow decodes it or says what is wrong. Of a plain file the pixels are
those of Pillow, which uses the same library with the same settings.
"""

import dataclasses
import re
import struct

import numpy as np
import simplejpeg
from jaxtyping import UInt8

SCALES = (8, 4, 2)  # factors that libjpeg-turbo shrinks by while it decodes, with little work
# Below this side, in pixels, several of libjpeg's scales would give the same size.
SMALLEST_SCALED = 64
_START = b'\xff\xd8\xff'
_END = b'\xff\xd9'
_MOST_PADDING = 64  # bytes of zeros after the end of a file, where its last marker is looked for
_BASELINE = (0xC0, 0xC1)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers that give the size
_RESTARTS, _SCAN = 0xDD, 0xDA
# What libjpeg says first, if it says anything, of a file whose height was lowered.
_LEFT_OVER = re.compile(r'Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9')


@dataclasses.dataclass(frozen=True)
class JpegHeader:
    """What a plain JPEG says about itself.

    Attributes:
      width, height: pixels, as stored: an orientation is not applied.
      grey: whether it has one component.
    """

    width: int
    height: int
    grey: bool


def read_header(data: bytes) -> JpegHeader | None:
    """The header of a plain JPEG; None for every other file."""
    if not data.startswith(_START):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return JpegHeader(width, height, colours == 'Gray') if colours in ('YCbCr', 'Gray') else None


def decode(
    data: bytes, header: JpegHeader, channels: int
) -> UInt8[np.ndarray, 'h w channels_or_3'] | None:
    """Decodes a whole JPEG, bit for bit as Pillow does; None if anything is wrong with it.

    Args:
      data: the file.
      header: of `read_header`.
      channels: 1 or 3; colours are decoded to RGB whatever is wanted.
    """
    return _decoded(data, header, channels, header.height, 1)


def decode_rows(
    data: bytes, header: JpegHeader, channels: int, scale: int, rows: int
) -> UInt8[np.ndarray, 'rows_or_more w channels_or_3'] | None:
    """Decodes a JPEG from its top to a row, shrunk; None if anything is wrong with what is read.

    What lies below costs nothing in a baseline JPEG without restart markers; others are decoded
    whole. The rows that are asked for are those of the whole image, bit for bit.

    Args:
      data: the file.
      header: of `read_header`.
      channels: 1 or 3; colours are decoded to RGB whatever is wanted.
      scale: 1, or one of `SCALES`, of an image of at least `SMALLEST_SCALED` pixels on each side.
      rows: number of rows of the shrunk image that are needed.
    """
    height, cut = _cut(data, header.height, rows * scale)
    return _decoded(cut, header, channels, height, scale)


def _cut(data: bytes, height: int, rows: int) -> tuple[int, bytes]:
    """Lowers the height in a baseline JPEG's header to at least `rows`; (height, file)."""
    found = _baseline_frame(data)
    if (
        found is None or data.rfind(_END, -_MOST_PADDING) < 0
    ):  # cut off: fails, wherever the crop is
        return height, data
    place, unit = found
    # The last row that is kept is interpolated with the colours of the one below it.
    lower = -(-(rows + 2) // unit) * unit
    if lower >= height:
        return height, data
    return lower, b''.join((data[: place + 5], struct.pack('>H', lower), data[place + 7 :]))


def _baseline_frame(data: bytes) -> tuple[int, int] | None:
    """Where a JPEG's frame header begins, and how many rows are coded together.

    None unless it is a baseline JPEG, in one scan and without restart markers.
    """
    place, frame, unit, components = 2, 0, 0, 0
    try:
        while data[place] == 0xFF:
            marker = data[place + 1]
            if marker == _SCAN:
                return (frame, unit) if frame and data[place + 4] == components else None
            if marker == _RESTARTS or (marker in _FRAMES and marker not in _BASELINE):
                return None
            if marker in _BASELINE:
                frame, components = place, data[place + 9]
                unit = 8 * max(data[place + 11 + 3 * i] & 15 for i in range(components))
            place += 2 + struct.unpack_from('>H', data, place + 2)[0]
    except (IndexError, struct.error, ValueError):
        return None
    return None


def _decoded(
    data: bytes, header: JpegHeader, channels: int, height: int, scale: int
) -> np.ndarray | None:
    grey = header.grey and channels == 1
    shape = -(-height // scale), -(-header.width // scale)
    image = np.empty((*shape, 1 if grey else 3), np.uint8)
    # Asked for the size of a tiny image, libjpeg would take the smallest scale that gives it.
    least = {} if scale == 1 else {'min_height': shape[0], 'min_width': shape[1]}
    try:
        simplejpeg.decode_jpeg(data, 'GRAY' if grey else 'RGB', **least, buffer=image, strict=True)
    except ValueError as error:
        # Raised after the last row; a fault before it would be named instead.
        return image if _LEFT_OVER.fullmatch(str(error)) else None
    return image
