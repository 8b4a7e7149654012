"""Any bytes as an image file: an array of the right shape or one line, within bounds of cost."""

import io
import resource
import time
import warnings

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.images import IMAGE_SUFFIXES, decode_image
from resnet_jax.data.pictures import random_resized_crop
from resnet_jax.data.resizing import resize_and_crop
from resnet_jax.errors import InputError

KINDS = [
    *(('JPEG', mode) for mode in ('RGB', 'L', 'CMYK')),
    *(('PNG', mode) for mode in ('RGB', 'RGBA', 'L', 'LA', 'P', '1', 'I;16')),
    *(('TIFF', mode) for mode in ('RGB', 'CMYK', 'L', '1', 'YCbCr', 'LAB', 'I;16')),
    *(('WEBP', mode) for mode in ('RGB', 'RGBA')),
    *(('GIF', 'P'), ('BMP', 'RGB'), ('PPM', 'RGB')),
]
SECONDS, MEBIBYTES = 2.0, 300  # of the processor, for any one of the small files here
MOST_MEBIBYTES = 1500  # where a damaged header asks for nearly MAX_IMAGE_PIXELS pixels


def picture(rng, mode):
    width, height = (int(side) for side in rng.integers(1, 40, 2))
    if mode == 'I;16':
        wide = rng.integers(0, 65536, (height, width)).astype(np.uint16)
        wide[0, 0] = 65535  # one pixel alone might be dark, and is refused then
        return Image.fromarray(wide)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    return (
        Image.frombytes('LAB', image.size, image.tobytes())
        if mode == 'LAB'
        else image.convert(mode)
    )


def encode(image, kind, rng):
    """The bytes of a file with metadata, and its orientation."""
    out, options, orientation = io.BytesIO(), {}, 1
    if kind in ('JPEG', 'PNG', 'WEBP', 'TIFF'):
        orientation = int(rng.integers(1, 9))
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = orientation, 'words' * 9
        options = {'exif': exif, 'icc_profile': rng.bytes(100)}
    image.save(out, kind, **options)
    return out.getvalue(), orientation


def whole(data, rng):
    return data


def cut(data, rng):
    return data[: rng.integers(0, len(data))]


def flip_bits(data, rng, within=None):
    changed = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        changed[rng.integers(0, min(len(data), within or len(data)))] ^= 1 << rng.integers(8)
    return bytes(changed)


def flip_header(data, rng):
    return flip_bits(data, rng, 200)


def noise_inside(data, rng):
    start, stop = sorted(rng.integers(0, len(data), 2))
    return data[:start] + rng.bytes(stop - start) + data[stop:]


def other_beginning(data, rng):
    beginnings = [
        b'\xff\xd8\xff\xe1',
        b'\x89PNG\r\n\x1a\n',
        b'RIFF',
        b'II*\0',
        b'MM\0*',
        b'%!PS-Adobe',
    ]
    return beginnings[rng.integers(len(beginnings))] + data[rng.integers(0, 8) :]


def zeros_added(data, rng):
    return data + bytes(int(rng.integers(1, 3000)))


DAMAGES = [whole, cut, flip_bits, flip_header, noise_inside, other_beginning, zeros_added]


def try_inputs(first, count):
    """Decodes so many damaged files; how many were pictures."""
    good = 0
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        kind, mode = KINDS[number % len(KINDS)]
        damage = DAMAGES[number // len(KINDS) % len(DAMAGES)]
        image = picture(rng, mode)
        data, orientation = encode(image, kind, rng)
        channels = int(rng.choice([1, 3]))
        began = time.process_time()
        try:
            found = decode_image(damage(data, rng), channels, 'it')
        except InputError as error:
            assert damage not in (whole, zeros_added), (number, kind, mode, str(error))
            assert str(error).startswith('it: ')
            assert str(error).isprintable()
        else:
            good += 1
            assert found.dtype == np.uint8
            assert found.ndim == 3
            assert found.shape[2] == channels
            assert resize_and_crop(found, 16).shape == (16, 16, channels)
            if damage is whole:
                turned = orientation >= 5
                assert found.shape[:2] == (image.size if turned else image.size[::-1])
        assert time.process_time() - began < SECONDS, (number, kind, mode)
    return good


def check(first, count, mebibytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        # Of Pillow, which the command line does not show: the image is refused.
        warnings.filterwarnings('ignore', 'Image size .* decompression bomb')
        good = try_inputs(first, count)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown / 1024 < mebibytes
    assert count / 5 < good < count  # both ends are reached


def test_damaged_files():
    check(0, 1400, MEBIBYTES)


@pytest.mark.slow
def test_many_damaged_files():
    check(10_000, 30_000, MOST_MEBIBYTES)


@pytest.mark.skipif('.avif' not in IMAGE_SUFFIXES, reason='this Pillow reads no AVIF')
def test_damaged_avif():
    rng = np.random.default_rng(0)
    out = io.BytesIO()
    picture(rng, 'RGB').save(out, 'AVIF')
    assert decode_image(out.getvalue()).ndim == 3
    for _ in range(60):
        try:
            assert decode_image(flip_bits(out.getvalue(), rng)).ndim == 3
        except InputError as error:
            assert str(error).isprintable()


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
@pytest.mark.parametrize(
    'shape', [(1, 12000), (12000, 1), (4000, 1), (1, 4000), (2, 30000), (60000, 3), (1, 1)]
)
def test_extreme_shapes_cost_no_more_than_others(shape, interpolation):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    assert resize_and_crop(image, 224, 256, interpolation).shape == (224, 224, 3)
    crop = random_resized_crop(image, 224, np.random.default_rng(0))
    assert crop.shape == (224, 224, 3)
    assert time.process_time() - began < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024
