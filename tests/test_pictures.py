"""Images that are decoded only as far as a crop needs: against Pillow, and against whole images."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from resnet_jax import data
from resnet_jax.data import jpeg, resizing
from resnet_jax.data.containers import ORIENTATION_TAG
from resnet_jax.data.images import decode_image
from resnet_jax.data.pictures import Picture, random_box
from resnet_jax.errors import InputError

TFDS = pathlib.Path(__file__).parents[2] / 'shared/data/tfds'
# Steps of 0 to 255 that two resizers round apart, at most, by interpolation. Each rounds once for
# rows and once for columns; bicubic weights add up to more than 1 without their signs.
ROUNDING = {'bilinear': 2, 'bicubic': 4}
ROUNDING_MEAN = 0.4


def scene(width, height, seed=0):
    """Smooth colours and some edges: like a photograph, most of its power is in low frequencies."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 3), np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    image = image.astype(int) + rng.integers(-6, 7, image.shape)
    for _ in range(3):
        x, y = rng.integers(width), rng.integers(height)
        image[y : y + height // 3, x : x + width // 4] += rng.integers(-60, 60, 3)
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def encode(image, kind='JPEG', **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def jpegs():
    """JPEGs of many kinds, each with a name."""
    rng = np.random.default_rng(1)
    for subsampling in (0, 1, 2):
        for width, height in ((1, 1), (3, 7), (16, 16), (17, 33), (64, 65), (150, 97)):
            image = scene(width, height, width)
            quality = int(rng.integers(40, 96))
            yield (
                f'{subsampling} {width}x{height}',
                encode(image, quality=quality, subsampling=subsampling),
            )
    image = scene(131, 90)
    yield 'grey', encode(image.convert('L'))
    yield 'progressive', encode(image, progressive=True)
    yield 'restarts', encode(image, restart_marker_rows=1)
    yield 'optimised', encode(image, optimize=True)
    yield 'cmyk', encode(image.convert('CMYK'))
    yield 'rgb', encode(image, keep_rgb=True)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION_TAG] = orientation
        yield f'orientation {orientation}', encode(image, exif=exif)


JPEGS = dict(jpegs())


def pillow(file, channels=3):
    """What Pillow alone makes of a file."""
    from PIL import ImageOps

    with Image.open(io.BytesIO(file)) as opened:
        upright = ImageOps.exif_transpose(opened)
        image = np.asarray(upright.convert('L' if channels == 1 else 'RGB'))
    return image.reshape(*image.shape[:2], channels)


def crop_by_pillow(image, box, size, name='BILINEAR'):
    plain = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    resized = np.asarray(plain.resize((size, size), Image.Resampling[name], box))
    return resized.reshape(size, size, -1).astype(int)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('name', JPEGS)
def test_whole_jpegs_are_pillows_bit_for_bit(name, channels):
    expected = pillow(JPEGS[name], channels)
    np.testing.assert_array_equal(decode_image(JPEGS[name], channels), expected)
    picture = Picture(JPEGS[name], channels)
    np.testing.assert_array_equal(picture.whole(), expected)
    assert picture.size() == (expected.shape[1], expected.shape[0])


def test_plain_jpegs_take_the_fast_way():
    """So that the test above compares two decoders."""
    for name, file in JPEGS.items():
        header = jpeg.read_header(file)
        assert (header is None) == (name in ('cmyk', 'rgb')), name
        if header is not None:
            found = jpeg.decode(file, header, 3)
            np.testing.assert_array_equal(found.shape[:2], (header.height, header.width))


@pytest.mark.parametrize('scale', [1, *jpeg.SCALES])
def test_rows_are_those_of_the_whole_image(scale):
    """Decoding ends early, and nothing above shows it."""
    ended_early = 0
    rng = np.random.default_rng(0)
    for name, file in JPEGS.items():
        header = jpeg.read_header(file)
        if header is None or (scale > 1 and min(header.width, header.height) < 64):
            continue
        everything = -(-header.height // scale)
        whole = jpeg.decode_rows(file, header, 3, scale, everything)
        assert whole.shape == (everything, -(-header.width // scale), 3)
        for rows in rng.integers(1, everything + 1, 8):
            found = jpeg.decode_rows(file, header, 3, scale, int(rows))
            np.testing.assert_array_equal(found[:rows], whole[:rows], err_msg=name)
            ended_early += len(found) < everything
    assert ended_early > 20


@pytest.mark.parametrize('fast', [True, False])
@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
@pytest.mark.parametrize('name', [n for n in JPEGS if n.split()[-1] not in ('1x1', '3x7')])
def test_crops_are_those_of_the_whole_image(monkeypatch, name, interpolation, fast):
    """Wherever they lie; those of this size are decoded at full size."""
    if not fast:
        monkeypatch.setattr(resizing, 'fast', None)
    elif resizing.fast is None:
        pytest.skip('cykooz_resizer is not installed')
    whole = pillow(JPEGS[name])
    height, width = whole.shape[:2]
    rng = np.random.default_rng(2)
    for _ in range(4):
        left, top, w, h = random_box(width, height, rng, (0.08, 1), (3 / 4, 4 / 3))
        box = (left, top, left + w, top + h)
        size = max(int(rng.uniform(0.6, 1.6) * min(w, h)), 1)
        found = Picture(JPEGS[name]).crop(box, size, interpolation)
        expected = crop_by_pillow(whole, box, size, interpolation.upper())
        difference = np.abs(found - expected)
        assert difference.max() <= ROUNDING[interpolation]
        assert difference.mean() < ROUNDING_MEAN
        # Pillow resizes rows first or columns first, as the size of what it is given makes cheaper.
        assert fast or height > width or not difference.any()


@pytest.mark.parametrize('kind', ['PNG', 'WEBP', 'TIFF', 'BMP'])
def test_other_files_and_pixels_are_cropped_alike(kind, tmp_path):
    image = scene(90, 70)
    options = {'lossless': True} if kind == 'WEBP' else {}
    path = tmp_path / 'image'
    path.write_bytes(encode(image, kind, **options))
    pixels = np.asarray(image)
    expected = crop_by_pillow(pixels, (10, 5, 80, 66), 40)
    for source in (str(path), path.read_bytes(), pixels):
        picture = Picture(source)
        assert picture.size() == (90, 70)
        np.testing.assert_array_equal(picture.whole(), pixels)
        found = picture.crop((10, 5, 80, 66), 40)
        assert np.abs(found - expected).max() <= ROUNDING['bilinear']


def test_crops_are_converted_to_the_channels_that_are_shown():
    box, size = (3, 8, 90, 70), 50
    grey = pillow(JPEGS['optimised'], 1)
    found = Picture(JPEGS['optimised'], 3, shown=1).crop(box, size)
    assert np.abs(found - crop_by_pillow(grey, box, size)).max() <= ROUNDING['bilinear']
    found = Picture(JPEGS['grey'], 1, shown=3).crop(box, size)
    expected = crop_by_pillow(pillow(JPEGS['grey'], 1), box, size)
    assert np.abs(found - np.repeat(expected, 3, axis=2)).max() <= ROUNDING['bilinear']


def test_a_file_that_was_cut_off_fails_wherever_the_crop_lies(tmp_path):
    file = encode(scene(200, 200))
    whole = Picture(file).crop((0, 0, 60, 20), 20)
    assert whole.shape == (20, 20, 3)
    for end in (len(file) - 2, len(file) - 300, len(file) // 2):
        with pytest.raises(InputError, match=r'it: .*truncated'):
            Picture(file[:end], name='it').crop((0, 0, 60, 20), 20)
    with pytest.raises(InputError, match='gone: no such image file'):
        Picture(tmp_path / 'gone', name='gone').size()


def test_damage_inside_gives_what_the_whole_image_gives():
    """Where Pillow decodes a damaged file, so do the crops, and to the same pixels."""
    file, rng = encode(scene(160, 120)), np.random.default_rng(3)
    start, compared = file.index(b'\xff\xda') + 14, 0
    for _ in range(60):
        damaged = bytearray(file)
        for _ in range(3):
            damaged[rng.integers(start, len(file) - 2)] ^= 1 << int(rng.integers(8))
        top = int(rng.integers(0, 60))
        box = (20, top, 100, top + 60)
        try:
            expected = crop_by_pillow(pillow(bytes(damaged)), box, 50)
        except OSError:
            with pytest.raises(InputError):
                Picture(bytes(damaged)).whole()
            continue
        # What lies below is not looked at, so the crop may be the sound one.
        found = Picture(bytes(damaged)).crop(box, 50)
        sound = Picture(file).crop(box, 50)
        compared += np.abs(found - expected).max() <= ROUNDING['bilinear']
        assert np.abs(found - expected).max() <= ROUNDING['bilinear'] or (found == sound).all()
    assert compared > 30


@pytest.mark.parametrize(('factor', 'scale'), [(1.9, 1), (2, 2), (3.7, 2), (4.2, 4), (9, 8)])
def test_large_boxes_are_decoded_smaller(monkeypatch, factor, scale):
    """And differ little from what Pillow makes of all pixels.

    libjpeg averages over squares of pixels, where the triangle of a bilinear resize reaches into
    the next ones. What differs lies in the high frequencies, that is at edges: on photographs
    (below) 1 to 2 steps on average.
    """
    used = []
    decode_rows = jpeg.decode_rows

    def spy(*arguments):
        used.append(arguments[3])
        return decode_rows(*arguments)

    monkeypatch.setattr(jpeg, 'decode_rows', spy)
    image = scene(640, 600)
    file = encode(image, quality=92)
    side = int(60 * factor)
    box = (31, 17, 31 + side, 17 + side)
    found = Picture(file).crop(box, 60)
    assert used == [scale]
    difference = np.abs(found - crop_by_pillow(pillow(file), box, 60))
    assert difference.mean() < (ROUNDING_MEAN if scale == 1 else 2)


def test_turned_images_are_decoded_smaller_too():
    exif, image = Image.Exif(), scene(400, 300)
    exif[ORIENTATION_TAG] = 6
    file = encode(image, exif=exif)
    box = (40, 50, 260, 330)  # of 300 x 400 pixels
    found = Picture(file).crop(box, 50)
    assert np.abs(found - crop_by_pillow(pillow(file), box, 50)).mean() < 2


@pytest.mark.skipif(
    not (TFDS / 'imagenette224').exists(), reason='needs the Imagenette photographs'
)
@pytest.mark.parametrize(('size', 'bound'), [(112, 0.4), (64, 2.0), (32, 2.5), (16, 2.5)])
def test_photographs_decoded_smaller_differ_little(size, bound):
    """Mean difference in steps of 0 to 255 over 60 photographs, each in a random crop.

    The bounds are small against what a random crop itself changes; a shift by one pixel of
    the square changes them by 8 steps or more, which is asserted, so that a misplaced box shows.
    """
    source = data.open_source('tfds:imagenette224', 'train[:60]', str(TFDS))
    rng = np.random.default_rng(4)
    differences, shifts = [], []
    for picture, _ in source.pictures(range(60)):
        left, top, w, h = random_box(*picture.size(), rng, (0.5, 1), (3 / 4, 4 / 3))
        box = (left, top, left + w, top + h)
        expected = crop_by_pillow(picture.whole(), box, size)
        differences.append(np.abs(picture.crop(box, size) - expected).mean())
        shifts.append(np.abs(expected[1:] - expected[:-1]).mean())
    assert np.mean(differences) < bound
    assert np.mean(shifts) > 3 * bound


def test_without_antialiasing_a_pixel_is_interpolated_between_its_neighbours():
    """The closed form: bilinear at the centre of each result, whatever it shrinks by."""
    image = np.asarray(scene(60, 48))
    box, size = (5.0, 4.0, 53.0, 40.0), 12

    def weights(low, high, length):
        place = low + (np.arange(size) + 0.5) * (high - low) / size - 0.5
        first = np.floor(place).astype(int)
        found = np.zeros((size, length))
        found[np.arange(size), first] = 1 - (place - first)
        found[np.arange(size), first + 1] += place - first
        return found

    rows, columns = weights(box[1], box[3], 48), weights(box[0], box[2], 60)
    expected = np.einsum('yh,hwc,xw->yxc', rows, image, columns)
    found = Picture(encode(Image.fromarray(image), 'PNG')).crop(box, size, antialias=False)
    assert np.abs(found - expected).max() <= 1.01  # it rounds down
    smoothed = Picture(image).crop(box, size)
    assert np.abs(smoothed - expected).max() > 5
    whole = encode(scene(1200, 900))
    decoded = np.asarray(Image.open(io.BytesIO(whole)))
    large = (0.0, 0.0, 1200.0, 900.0)
    np.testing.assert_array_equal(
        Picture(whole).crop(large, 100, antialias=False),
        Picture(decoded).crop(large, 100, antialias=False),
    )
