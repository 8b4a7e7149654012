"""Take a TIFF of several bands apart into greys, which a decoder of images can read.

Pillow knows TIFFs of grey, RGB and a few more; of other numbers of bands it has no image to give.
But a plane of samples is a grey image, and rows of interleaved samples are those of a grey image N
times as wide: the samples stay where they are in the file and only the table of tags is rewritten,
so that every lossless compression which libtiff knows is read. TIFF 6.0, sections 3, 7, 14 and 15.
"""

import dataclasses
import struct
from collections.abc import Iterator, Sequence

from resnet_jax.data.containers import tiff_numbers
from resnet_jax.errors import InputError

_LOSSLESS = {1, 5, 8, 32773, 32946, 50000}  # none, LZW, deflate, PackBits, deflate, Zstandard
_BLACK_IS_ZERO, _RGB = 1, 2
_DIFFERENCES = 2  # a predictor: each sample is stored less the one to its left in its band
_LONG = 4
_MOST_PIXELS = 2**20  # of a side
_TAGS = {  # TIFF 6.0, section 8: names as there
    **{'width': 256, 'height': 257, 'bits': 258, 'compression': 259, 'photometric': 262},
    **{'fill_order': 266, 'samples': 277, 'rows': 278, 'planes': 284, 'predictor': 317},
    **{'tile_width': 322, 'tile_height': 323, 'sample_format': 339},
}
_STRIPS, _TILES = (273, 279), (324, 325)  # places of the samples, their bytes


@dataclasses.dataclass(frozen=True)
class Bands:
    """A TIFF of several bands as grey ones.

    Attributes:
      number: of bands.
      width, height: of each, pixels.
      greys: files of one band each, or one file of rows with the bands interleaved.
      run: pixels of a row after which differences begin anew; 0: the values are no differences.
    """

    number: int
    width: int
    height: int
    greys: Sequence[bytes]
    run: int


def count_bands(data: bytes) -> tuple[int, bool]:
    """The bands of a TIFF, and whether they are the colours that an image reader looks for."""
    numbers = tiff_numbers(data)
    samples = numbers.get(_TAGS['samples'], (1,))[0]
    return samples, numbers.get(_TAGS['photometric'], (1,))[0] != _BLACK_IS_ZERO


def holds_bands(data: bytes, channels: int, where: str) -> bool:
    """Whether a file is to be read as this many bands, and not as grey or RGB.

    Raises:
      InputError: if only that would do, and it has another number of them.
    """
    bands, coloured = count_bands(data)
    if channels not in (1, 3) and data[:4] in (b'II+\0', b'MM\0+'):
        raise InputError(f'{where}: a BigTIFF; write it as a TIFF of the classic kind')
    if bands == channels > 1 and (channels != 3 or not coloured):
        return True
    if channels in (1, 3):
        return False
    if bands > 1:
        raise InputError(
            f'{where}: a TIFF of {bands} bands where {channels} are wanted; give one of {channels} '
            f'bands, or set data.channels={bands}'
        )
    raise InputError(
        f'{where}: no TIFF of several bands, and {channels} are wanted; give one, or set '
        'data.channels=3 for grey and RGB images'
    )


def split_bands(data: bytes, where: str) -> Bands:
    """Takes a TIFF apart, whose bands are unsigned 8-bit numbers without loss by compression.

    Args:
      data: the file.
      where: its name in messages.

    Raises:
      InputError: for bands of other numbers, or stored in another way.
    """
    numbers = tiff_numbers(data)

    def number(name: str, usual: int) -> int:
        return numbers.get(_TAGS[name], (usual,))[0]

    bands, interleaved = number('samples', 1), number('planes', 1) == 1
    _check(numbers, where)
    tiled = _TILES[0] in numbers
    places, sizes = (numbers.get(tag, ()) for tag in (_TILES if tiled else _STRIPS))
    planes = 1 if interleaved else bands
    wider = bands if interleaved else 1
    each = len(places) // planes
    width, height = number('width', 0), number('height', 0)
    run = number('tile_width', 0) if tiled else width
    whole = places and len(places) == len(sizes) and len(places) % planes == 0
    if not whole or not 1 <= min(width, height, run) <= max(width, height, run) <= _MOST_PIXELS:
        raise InputError(f'{where}: cannot read this image (its table of tags is damaged)')
    differences = number('predictor', 1) == _DIFFERENCES
    table = {'width': wider * width, 'height': height, 'bits': 8, 'samples': 1, 'planes': 1}
    table |= {'compression': number('compression', 1), 'photometric': _BLACK_IS_ZERO}
    if tiled:
        table |= {'tile_width': wider * run, 'tile_height': number('tile_height', 0)}
    else:
        table['rows'] = number('rows', height)
    if differences and not interleaved:
        table['predictor'] = _DIFFERENCES
    greys = [
        _with_table(data, table, tiled, places[i : i + each], sizes[i : i + each])
        for i in range(0, len(places), each)
    ]
    return Bands(bands, width, height, greys, run if differences and interleaved else 0)


def _check(numbers: dict[int, tuple[int, ...]], where: str) -> None:
    """Refuses what this module does not read."""
    bits = set(numbers.get(_TAGS['bits'], (1,)))
    unsigned = set(numbers.get(_TAGS['sample_format'], (1,))) == {1}
    bands = numbers.get(_TAGS['samples'], (1,))[0]
    if bits != {8} or not unsigned:
        kind = 'bits' if unsigned else 'bits, signed or floating'
        raise InputError(
            f'{where}: {bands} bands of {max(bits)} {kind}, of which black and white are not '
            'known; scale them to unsigned 8 bits (uint8)'
        )
    plain = (
        numbers.get(_TAGS['compression'], (1,))[0] in _LOSSLESS
        and numbers.get(_TAGS['photometric'], (1,))[0] in (_BLACK_IS_ZERO, _RGB)
        and numbers.get(_TAGS['predictor'], (1,))[0] in (1, _DIFFERENCES)
        and numbers.get(_TAGS['fill_order'], (1,))[0] == 1
    )
    if not plain:
        raise InputError(
            f'{where}: {bands} bands are read from TIFFs of grey or RGB kind, uncompressed or with '
            'LZW, deflate, PackBits or Zstandard; write it so'
        )


def _with_table(
    data: bytes, table: dict[str, int], tiled: bool, places: Sequence[int], sizes: Sequence[int]
) -> bytes:
    """The file with another table, of one band whose samples lie at these places."""
    order = '<' if data[:2] == b'II' else '>'
    entries: dict[int, Sequence[int]] = {_TAGS[name]: (value,) for name, value in table.items()}
    entries |= dict(zip(_TILES if tiled else _STRIPS, (places, sizes), strict=True))
    body = data + bytes(len(data) % 2)
    start = len(body)
    lists = start + 2 + 12 * len(entries) + 4  # behind the table: what does not fit into it
    rows, tail = [], b''
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f'{order}{len(values)}I', *values)
        if len(values) > 1:
            place, tail = lists + len(tail), tail + packed
            packed = struct.pack(f'{order}I', place)
        rows.append(struct.pack(f'{order}HHI', tag, _LONG, len(values)) + packed)
    new = struct.pack(f'{order}H', len(rows)) + b''.join(rows) + bytes(4) + tail
    return body[:4] + struct.pack(f'{order}I', start) + body[8:] + new


def undo_differences(width: int, run: int) -> Iterator[slice]:
    """The stretches of a row in which differences add up."""
    return (slice(start, start + run) for start in range(0, width, run))
