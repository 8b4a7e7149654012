"""Take the metadata out of image files, so that no damage in it prevents reading the pixels.

A JPEG is a row of segments, a PNG or WebP a row of chunks, a TIFF a table of tags. Those that the
pixels do not depend on are dropped before a decoder sees the file, and the orientation is read from
them by code that takes damage for absence. Other formats pass through unchanged.
"""

import dataclasses
import re
import struct
import zlib
from collections.abc import Iterator

ORIENTATION_TAG = 0x0112  # EXIF 2.32, section 4.6.4
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_PNG, _JPEG = b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff'
# Tags of TIFF 6.0 (and its technical note 2) that pixels depend on.
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281
_TIFF_NUMBERS = {
    *(256, 257, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323, 332, 512, 513, 514, 515, 531)
}
_TIFF_LISTS = {
    *(_BITS_PER_SAMPLE, 273, 279, _MAX_SAMPLE_VALUE, 320, 324, 325, 338, 339, 347, 519, 520, 521),
    *(529, 530, 532),
}
_XMP_TAG, _SHORT, _LONG = 700, 3, 4
# Kind of a value -> its bytes; 1 for those not here.
_KIND_BYTES = {_SHORT: 2, _LONG: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_MOST_TEXT = 2**20  # bytes of a compressed text that are unpacked


@dataclasses.dataclass(frozen=True)
class ImageParts:
    """An image file without its metadata, and what these say.

    Attributes:
      pixels: the file, to be decoded.
      orientation: 1 to 8, as in EXIF; None if the file is of a kind that is not taken apart.
      bits: bits of a sample, where a PNG or TIFF says it.
      largest: value of white, where a TIFF says it.
    """

    pixels: bytes
    orientation: int | None = None
    bits: int | None = None
    largest: int | None = None


def split_metadata(data: bytes) -> ImageParts:
    """Separates the pixels of an image file from its metadata; fails on no input."""
    try:
        if data.startswith(_JPEG):
            return _split_jpeg(data)
        if data.startswith(_PNG):
            return _split_png(data)
        if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
            return _split_webp(data)
        if data[:4] in (b'II*\0', b'MM\0*'):
            return _split_tiff(data)
    except struct.error:  # cut off before its table begins
        return ImageParts(b'')
    return ImageParts(data)


def exif_orientation(exif: bytes) -> int:
    """The orientation in a block of EXIF, with or without its `Exif` header; 1 if unreadable."""
    exif = exif.removeprefix(b'Exif\0\0')
    order = '<' if exif[:2] == b'II' else '>'
    try:
        for tag, kind, _, value in _entries(exif, order):
            if tag == ORIENTATION_TAG and kind == _SHORT:
                (orientation,) = struct.unpack(f'{order}H', value[:2])
                return orientation if 1 <= orientation <= 8 else 1
    except struct.error:
        pass
    return 1


def _read_orientation(exif: bytes, xmp: bytes) -> int:
    """EXIF comes first, as in Pillow."""
    orientation = exif_orientation(exif)
    if orientation == 1 and (match := _XMP_ORIENTATION.search(xmp)):
        orientation = int(match[1])
    return orientation


def _split_jpeg(data: bytes) -> ImageParts:
    """Drops comments and application segments but APP0 (JFIF) and APP14 (Adobe): they say which
    colours the components are.
    """
    kept, exif, xmp, place = [data[:2]], b'', b'', 2
    while data[place : place + 1] == b'\xff' and place + 4 <= len(data):
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker in (0x01, 0xD8, 0xD9, 0xDA) or 0xD0 <= marker <= 0xD7:
            break
        (length,) = struct.unpack_from('>H', data, place + 2)
        segment = data[place : place + 2 + length]
        if marker == 0xE1:
            content = segment[4:]
            if content.startswith(b'Exif\0'):
                exif = exif or content
            elif b'ns.adobe.com/xap' in content[:40]:
                xmp += content
        if not (0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE)):
            kept.append(segment)
        place += 2 + length
    orientation = _read_orientation(exif, xmp) if exif or xmp else 1
    return ImageParts(b''.join([*kept, data[place:]]), orientation)


def _split_png(data: bytes) -> ImageParts:
    """Drops every chunk that is ancillary (its name begins with a small letter)."""
    kept, exif, xmp, place = [_PNG], b'', b'', len(_PNG)
    while place + 8 <= len(data):
        (length,) = struct.unpack_from('>I', data, place)
        name, end = data[place + 4 : place + 8], place + 12 + length
        content = data[place + 8 : end - 4]
        if not name[0] & 0x20:
            kept.append(data[place:end])
        elif name == b'eXIf':
            exif = exif or content
        elif name in (b'tEXt', b'zTXt', b'iTXt'):
            keyword, text = _png_text(name, content)
            if keyword == b'Raw profile type exif':  # of ImageMagick
                exif = exif or _hexadecimal(text)
            elif keyword == b'XML:com.adobe.xmp':
                xmp += text
        place = end
    bits = data[24] if len(data) > 24 and data[12:16] == b'IHDR' else None
    return ImageParts(b''.join(kept), _read_orientation(exif, xmp), bits)


def _png_text(kind: bytes, content: bytes) -> tuple[bytes, bytes]:
    """The keyword and text of a chunk; the text is empty if it cannot be unpacked."""
    keyword, _, text = content.partition(b'\0')
    compressed = kind == b'zTXt' or (kind == b'iTXt' and text[:1] == b'\1')
    if kind == b'iTXt':
        text = text[2:].split(b'\0', 2)[-1]
    elif kind == b'zTXt':
        text = text[1:]
    if compressed:
        try:
            text = zlib.decompressobj().decompress(text, _MOST_TEXT)
        except zlib.error:
            text = b''
    return keyword, text


def _hexadecimal(text: bytes) -> bytes:
    """The bytes that ImageMagick writes as digits below three lines of heading."""
    digits = b''.join(text.split(b'\n')[3:])
    try:
        return bytes.fromhex(digits.decode('ascii'))
    except ValueError:
        return b''


def _split_webp(data: bytes) -> ImageParts:
    """Drops profile, EXIF, XMP and unknown chunks."""
    kept, exif, xmp, place = [], b'', b'', 12
    while place + 8 <= len(data):
        name, length = struct.unpack_from('<4sI', data, place)
        end = place + 8 + length + length % 2
        chunk = data[place:end]
        if name == b'EXIF':
            exif = exif or chunk[8:]
        elif name == b'XMP ':
            xmp += chunk[8:]
        elif name == b'VP8X' and len(chunk) > 8:
            # Without the flags of the three chunks that are dropped.
            kept.append(chunk[:8] + bytes([chunk[8] & ~0b101100]) + chunk[9:])
        elif name in (b'VP8 ', b'VP8L', b'ALPH', b'ANIM', b'ANMF'):
            kept.append(chunk)
        place = end
    body = b'WEBP' + b''.join(kept)
    pixels = b'RIFF' + struct.pack('<I', len(body) % 2**32) + body
    return ImageParts(pixels, _read_orientation(exif, xmp))


def _split_tiff(data: bytes) -> ImageParts:
    """Keeps the first table, and in it the tags that pixels depend on, as far as they are whole."""
    order = '<' if data[:2] == b'II' else '>'
    table, first, xmp = [], {}, b''
    for tag, kind, count, value in _entries(data, order):
        size = count * _KIND_BYTES.get(kind, 1)
        start = struct.unpack(f'{order}I', value)[0] if size > 4 else None
        if start is not None and start + size > len(data):
            continue
        content = value if start is None else data[start : start + size]
        if kind in (_SHORT, _LONG) and count:
            (first[tag],) = struct.unpack_from(f'{order}{"H" if kind == _SHORT else "I"}', content)
        if tag == _XMP_TAG:
            xmp = content
        elif tag in _TIFF_NUMBERS and tag in first:
            # Whatever follows the first number is ignored, and complained about.
            table.append(
                struct.pack(
                    f'{order}HHII' if kind == _LONG else f'{order}HHIHxx', tag, kind, 1, first[tag]
                )
            )
        elif tag in _TIFF_LISTS:
            table.append(struct.pack(f'{order}HHI', tag, kind, count) + value)
    orientation = first.get(ORIENTATION_TAG, 1)
    if orientation == 1 and (match := _XMP_ORIENTATION.search(xmp)):
        orientation = int(match[1])
    (start,) = struct.unpack_from(f'{order}I', data, 4)
    # The shorter table takes the place of the longer; 0: no other follows.
    short = struct.pack(f'{order}H', len(table)) + b''.join(table) + bytes(4)
    return ImageParts(
        data[:start] + short + data[start + len(short) :],
        orientation if 1 <= orientation <= 8 else 1,
        first.get(_BITS_PER_SAMPLE),
        first.get(_MAX_SAMPLE_VALUE),
    )


def tiff_numbers(data: bytes) -> dict[int, tuple[int, ...]]:
    """The whole numbers in the first table of a TIFF, by tag; none if it is no TIFF or damaged."""
    if data[:4] not in (b'II*\0', b'MM\0*'):
        return {}
    order, found = '<' if data[:2] == b'II' else '>', {}
    try:
        for tag, kind, count, value in _entries(data, order):
            size = count * _KIND_BYTES.get(kind, 1)
            if kind not in (_SHORT, _LONG) or not count or size > len(data):
                continue
            start = struct.unpack(f'{order}I', value)[0]
            content = value if size <= 4 else data[start : start + size]
            letter = 'H' if kind == _SHORT else 'I'
            found[tag] = struct.unpack_from(f'{order}{count}{letter}', content)
    except struct.error:  # cut off
        return {}
    return found


def _entries(data: bytes, order: str) -> Iterator[tuple[int, int, int, bytes]]:
    """(tag, kind, count, the four bytes of the value or its place) of the first table of a TIFF."""
    (start,) = struct.unpack_from(f'{order}I', data, 4)
    (count,) = struct.unpack_from(f'{order}H', data, start)
    for place in range(start + 2, min(start + 2 + 12 * count, len(data) - 11), 12):
        yield struct.unpack_from(f'{order}HHI4s', data, place)
