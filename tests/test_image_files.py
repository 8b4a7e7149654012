"""What is no image file, what a header shows, and metadata: any of it leaves the pixels alone."""

import io
import os
import socket
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.containers import split_metadata
from resnet_jax.data.images import check_header, decode_image
from resnet_jax.data.resizing import LARGEST_SIDE, check_sizes
from resnet_jax.errors import InputError

SIDE = 12
PIXELS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
JPEG, PNG, WEBP, TIFF = 'JPEG', 'PNG', 'WEBP', 'TIFF'


def encoded(kind, image=None, **options):
    out = io.BytesIO()
    (Image.fromarray(PIXELS) if image is None else image).save(out, kind, **options)
    return out.getvalue()


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def a_link(to):
    return lambda path: path.symlink_to(to)


def a_loop(path):
    path.symlink_to(path.name)


NO_FILES = {
    'a named pipe': os.mkfifo,
    'a socket': a_socket,
    'a directory': os.mkdir,
    'a device': a_link('/dev/zero'),
    'a link to a file that does not exist': a_link('nowhere'),
    'cannot read this file': a_loop,
    'the file is empty': lambda path: path.touch(),
    'not an image that can be read': lambda path: path.write_bytes(bytes(1000)),
    'too large': lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 2**30 + 1),
}


@pytest.mark.parametrize('look', [decode_image, check_header])
@pytest.mark.parametrize('words', NO_FILES)
def test_what_is_no_image_file_is_named_at_once(tmp_path, monkeypatch, words, look):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    path = tmp_path / 'x.jpg'
    NO_FILES[words](path if words != 'a socket' else path.relative_to(tmp_path))
    with pytest.raises(InputError, match=words) as caught:
        look(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize('kind', [JPEG, PNG, WEBP, TIFF, 'GIF', 'BMP', 'PPM', 'JPEG2000'])
def test_a_header_shows_whether_a_file_begins_as_an_image(tmp_path, kind):
    """A TIFF may end with its header, further than the first read."""
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    path = tmp_path / 'x'
    path.write_bytes(encoded(kind, large))
    assert path.stat().st_size > 2**16 or kind in (JPEG, WEBP, 'GIF')
    check_header(path)
    path.write_bytes(b'x' + path.read_bytes())
    with pytest.raises(InputError, match='not an image that can be read'):
        check_header(path)


@pytest.mark.parametrize(
    ('size', 'resize', 'words'),
    [
        (0, None, 'image_size must be positive'),
        (-1, None, 'image_size must be positive'),
        (LARGEST_SIDE + 1, None, 'at most 4096 pixels'),
        (10**18, None, 'at most 4096 pixels'),
        (224, 10**18, 'resize must be at most 4096'),
        (224, 223, 'resize 223 is smaller'),
        (True, None, 'whole number'),
        (2.5, None, 'whole number'),
        (float('nan'), None, 'whole number'),
        ('224', None, 'whole number'),
        (None, None, 'whole number'),
        (224, 256.0, 'whole number'),
    ],
)
def test_sizes_that_cannot_be_meant(size, resize, words):
    with pytest.raises(InputError, match=words):
        check_sizes(size, resize)
    check_sizes(LARGEST_SIDE, LARGEST_SIDE)
    check_sizes(1, None)


NOISE = np.random.default_rng(1).bytes


def jpeg_segment(marker, content):
    return struct.pack('>BBH', 0xFF, marker, len(content) + 2) + content


def png_chunk(name, content):
    checksum = zlib.crc32(name + content)
    return struct.pack('>I', len(content)) + name + content + struct.pack('>I', checksum)


def webp_chunk(name, content):
    return name + struct.pack('<I', len(content)) + content + bytes(len(content) % 2)


BODIES = {  # nothing, noise, and what begins like metadata and is none
    'empty': b'',
    'noise': NOISE(200),
    'exif': b'Exif\0\0II*\0\x08\0\0\0\xff\xff' + NOISE(50),
    'a loop in exif': b'Exif\0\0MM\0*\0\0\0\x08\0\1\x87\x69\0\4\0\0\0\1\0\0\0\x08\0\0\0\x08',
    'profile': b'ICC_PROFILE\0\1\1' + NOISE(80),
    'photoshop': b'Photoshop 3.0\x008BIM' + NOISE(30),
    'text': b'Comment\0' + '\u202e\U0001f600'.encode() * 9,
    'a bomb': b'Comment\0\0' + zlib.compress(bytes(10**7), 9),
    'xmp': b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="99999999999"/>',
}


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('body', BODIES)
def test_no_segment_of_a_jpeg_prevents_reading(body):
    data = encoded(JPEG)
    expected = decode_image(data)
    for marker in (*range(0xE1, 0xEE), 0xEF, 0xFE):
        segment = jpeg_segment(marker, BODIES[body][:60000])
        np.testing.assert_array_equal(decode_image(data[:2] + segment + data[2:]), expected)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('body', BODIES)
def test_no_ancillary_chunk_of_a_png_prevents_reading(body):
    data = encoded(PNG)
    names = 'tRNS cHRM gAMA iCCP sBIT sRGB tEXt zTXt iTXt bKGD hIST pHYs sPLT eXIf tIME acTL fcTL'
    for name in names.split():
        chunk = png_chunk(name.encode(), BODIES[body])
        end = 8 + 25  # the signature and IHDR
        np.testing.assert_array_equal(decode_image(data[:end] + chunk + data[end:]), PIXELS)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('body', BODIES)
@pytest.mark.parametrize('name', [b'ICCP', b'EXIF', b'XMP ', b'junk'])
def test_no_chunk_of_a_webp_prevents_reading(name, body):
    data = encoded(WEBP, lossless=True, exif=Image.Exif(), icc_profile=b'x' * 9)
    assert data[12:16] == b'VP8X'
    larger = data[8:] + webp_chunk(name, BODIES[body])
    file = b'RIFF' + struct.pack('<I', len(larger)) + larger
    np.testing.assert_array_equal(decode_image(file), PIXELS)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('order', ['II', 'MM'])
def test_no_tag_of_a_tiff_prevents_reading(order):
    """Every tag of the first 1,000 and some private ones, with values of the wrong kind."""
    begin = '<' if order == 'II' else '>'
    read = {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325}
    read |= {274, 281, 338, 339, 347, 529, 530, 531, 532}  # pixels, or how they are meant
    rows = PIXELS.tobytes()
    others = [tag for tag in (*range(254, 1000), 33432, 34377, 34665, 34675, 37724, 42112)]
    for tag in (tag for tag in others if tag not in read):
        for kind, count, value in ((2, 4, b'\xff' * 4), (5, 9**6, b'\xff' * 4), (13, 1, b'\0' * 4)):
            numbers = {256: SIDE, 257: SIDE, 259: 1, 262: 2, 277: 3, 278: SIDE, 279: len(rows)}
            entries = {t: struct.pack(f'{begin}HHIHxx', t, 3, 1, n) for t, n in numbers.items()}
            entries[258] = struct.pack(f'{begin}HHIHxx', 258, 3, 1, 8)
            entries[273] = struct.pack(f'{begin}HHII', 273, 4, 1, 8)
            entries[tag] = struct.pack(f'{begin}HHI', tag, kind, count) + value
            table = b''.join(entries[t] for t in sorted(entries))
            head = order.encode() + struct.pack(f'{begin}HI', 42, 8 + len(rows))
            file = head + rows + struct.pack(f'{begin}H', len(entries)) + table + bytes(4)
            np.testing.assert_array_equal(decode_image(file, where=f'tag {tag}'), PIXELS)


def wide_tiff(values, largest=None):
    """A grey TIFF of 16 bits whose tags may say the value of white."""
    image = Image.fromarray(np.asarray(values, np.uint16))
    return encoded(TIFF, image, tiffinfo={} if largest is None else {281: largest})


@pytest.mark.parametrize(
    ('values', 'largest', 'expected'),
    [
        ([[0, 65535]], None, [[0, 255]]),
        ([[0, 32768, 65535]], None, [[0, 128, 255]]),
        ([[0, 4095]], 4095, [[0, 255]]),
        ([[0, 2048, 4095]], 4095, [[0, 128, 255]]),
        ([[0, 1023]], 1023, [[0, 255]]),
        ([[0, 0]], None, [[0, 0]]),
    ],
)
def test_wide_greys_are_scaled_by_what_the_file_declares(values, largest, expected):
    found = decode_image(wide_tiff(values, largest=largest), channels=1)
    np.testing.assert_array_equal(found[..., 0], expected)


@pytest.mark.parametrize(
    ('values', 'largest', 'words'),
    [
        ([[0, 4095]], None, 'no value above 4095 of 65535, perhaps of 12 bits'),
        ([[0, 1]], None, 'no value above 1 of 65535'),
        ([[0, 4096]], 4095, 'pixels from 0 to 4096, outside of 0 to 4095'),
    ],
)
def test_wide_greys_that_may_mean_something_else_are_refused(values, largest, words):
    with pytest.raises(InputError, match=words):
        decode_image(wide_tiff(values, largest=largest))


@pytest.mark.parametrize('rows', [5, 7, 9])
def test_a_tiff_holds_all_rows_of_its_header(rows):
    pixels = np.arange(7 * 3, dtype=np.uint8).reshape(7, 3)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, 'TIFF')
    entry = struct.pack('<HHI', 257, 4, 1)  # ImageLength, one 32-bit number
    before, found, after = out.getvalue().partition(entry)
    assert found
    data = before + entry + struct.pack('<I', rows) + after[4:]
    if rows <= 7:
        assert (decode_image(data, 1)[..., 0] == pixels[:rows]).all()
    else:
        with pytest.raises(InputError, match='damaged, it holds 7 of the 9 rows'):
            decode_image(data, 1)


def test_float_pixels_are_refused():
    with pytest.raises(InputError, match='floating-point pixels'):
        decode_image(encoded(TIFF, Image.fromarray(np.float32([[0, 0.5], [1, 2]]))))


@pytest.mark.parametrize('order', ['II', 'MM'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientations_are_read_in_either_byte_order(order, orientation):
    begin = '<' if order == 'II' else '>'
    entry = struct.pack(f'{begin}HHIHxx', 0x0112, 3, 1, orientation)
    exif = order.encode() + struct.pack(f'{begin}HIH', 42, 8, 1) + entry + bytes(4)
    data = encoded(JPEG)
    file = data[:2] + jpeg_segment(0xE1, b'Exif\0\0' + exif) + data[2:]
    assert split_metadata(file).orientation == orientation
    png = encoded(PNG)
    assert split_metadata(png[:33] + png_chunk(b'eXIf', exif) + png[33:]).orientation == orientation
