import io

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.containers import ORIENTATION_TAG
from resnet_jax.data.images import decode_image
from resnet_jax.data.pictures import random_resized_crop
from resnet_jax.data.resizing import convert_channels, resize_and_crop
from resnet_jax.errors import InputError


def encode(image: Image.Image, kind: str = 'PNG', **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_png_is_decoded_exactly_from_bytes_and_from_a_path(tmp_path):
    pixels = noise(5, 7, 3)
    data = encode(Image.fromarray(pixels))
    (tmp_path / 'a.png').write_bytes(data)
    np.testing.assert_array_equal(decode_image(data), pixels)
    np.testing.assert_array_equal(decode_image(tmp_path / 'a.png'), pixels)


@pytest.mark.parametrize('channels', [1, 3])
def test_grey_and_colour_are_converted_to_the_requested_channels(channels):
    grey = noise(4, 6)
    decoded = decode_image(encode(Image.fromarray(grey)), channels)
    np.testing.assert_array_equal(decoded, np.repeat(grey[..., None], channels, axis=2))
    colour = decode_image(encode(Image.fromarray(noise(4, 6, 3))), channels)
    assert colour.shape == (4, 6, channels)
    assert colour.dtype == np.uint8


def test_luma_has_the_weights_of_bt601():
    primaries = np.asarray([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    luma = decode_image(encode(Image.fromarray(primaries)), channels=1)
    np.testing.assert_allclose(luma[0, :, 0], 255 * np.asarray([0.299, 0.587, 0.114]), atol=1)


def test_cmyk_jpeg_becomes_rgb():
    inks = np.zeros((16, 64, 4), np.uint8)
    inks[:, 16:32, 0] = 255  # cyan
    inks[:, 32:48, 1] = 255  # magenta
    inks[:, 48:, 3] = 255  # black
    decoded = decode_image(encode(Image.fromarray(inks, 'CMYK'), 'JPEG', quality=100))
    for column, rgb in ((8, (255, 255, 255)), (24, (0, 255, 255)), (40, (255, 0, 255)), (56, 0)):
        np.testing.assert_allclose(decoded[8, column], rgb, atol=4)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    wide = np.asarray([[0, 257, 32768, 65535]], np.uint16)
    decoded = decode_image(encode(Image.fromarray(wide)), channels=1)
    np.testing.assert_array_equal(decoded[0, :, 0], [0, 1, 128, 255])
    assert decode_image(encode(Image.fromarray(wide)), channels=3).shape == (1, 4, 3)


def test_palette_and_alpha_become_rgb():
    pixels = np.asarray([[[255, 0, 0], [0, 0, 255]]], np.uint8)
    palette = Image.fromarray(pixels).quantize(2)
    np.testing.assert_array_equal(decode_image(encode(palette)), pixels)
    np.testing.assert_array_equal(decode_image(encode(palette, transparency=b'\x00\xff')), pixels)
    alpha = np.concatenate([pixels, np.full((1, 2, 1), 7, np.uint8)], axis=2)
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(alpha))), pixels)


def test_one_bit_image():
    bits = Image.fromarray(np.asarray([[0, 255]], np.uint8)).convert('1')
    np.testing.assert_array_equal(decode_image(encode(bits))[0, :, 0], [0, 255])


def test_exif_orientation_is_applied():
    pixels = noise(4, 6, 3)
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6  # rotate by 90 degrees clockwise for display
    decoded = decode_image(encode(Image.fromarray(pixels), exif=exif))
    np.testing.assert_array_equal(decoded, np.rot90(pixels, -1))


@pytest.mark.parametrize(
    ('name', 'content', 'words'),
    [
        ('notes.jpg', b'this is no picture', 'not an image'),
        ('empty.png', b'', 'not an image'),
        ('half.jpg', encode(Image.fromarray(noise(64, 64, 3)), 'JPEG')[:1500], 'truncated'),
        ('half.png', encode(Image.fromarray(noise(64, 64, 3)))[:5000], 'cannot read'),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        decode_image(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert '\n' not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r'gone\.jpg: no such image file'):
        decode_image(tmp_path / 'gone.jpg')
    with pytest.raises(InputError, match='directory'):
        decode_image(tmp_path)


@pytest.mark.parametrize('limit', [50, 90])  # of 100 pixels: Pillow raises at 50, warns at 90
@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_huge_images_are_refused(monkeypatch, limit):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', limit - 1)
    with pytest.raises(InputError, match=f'where it is: image too large.*{limit - 1} pixels'):
        decode_image(encode(Image.fromarray(noise(10, 10))), where='where it is')


@pytest.mark.parametrize('channels', [1, 3])
def test_resize_and_crop_keeps_an_image_of_the_right_size(channels):
    image = noise(8, 8, channels)
    np.testing.assert_array_equal(resize_and_crop(image, 8), image)
    np.testing.assert_array_equal(resize_and_crop(image, 8, 8), image)


def test_crop_takes_the_centre():
    image = noise(10, 14, 3)
    np.testing.assert_array_equal(resize_and_crop(image, 6, 10), image[2:8, 4:10])


@pytest.mark.parametrize('shape', [(40, 60, 3), (60, 40, 3), (41, 41, 1), (5, 9, 1)])
def test_resize_and_crop_gives_the_size(shape):
    assert resize_and_crop(noise(*shape), 16, 20).shape == (16, 16, shape[2])


def test_shrinking_is_antialiased():
    checkers = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None]
    inner = resize_and_crop(checkers, 8)[1:-1, 1:-1]
    np.testing.assert_allclose(inner, 127.5, atol=2)  # bilinear without it gives 0 or 255


@pytest.mark.parametrize('name', ['bilinear', 'bicubic'])
@pytest.mark.parametrize('shape', [(90, 61, 3), (31, 40, 1)])  # shrunk, enlarged
def test_resampling_is_pillows_own(name, shape):
    image = noise(*shape)
    pillow = Image.fromarray(image.squeeze(2) if shape[2] == 1 else image)
    height, width = (47, 32) if shape[0] == 90 else (48, 61)  # times 32 / 61 and 48 / 31
    resize = min(height, width)
    scaled = pillow.resize((width, height), Image.Resampling[name.upper()])
    expected = np.asarray(scaled).reshape(height, width, shape[2])
    top, left = round((height - 30) / 2), round((width - 30) / 2)
    np.testing.assert_array_equal(
        resize_and_crop(image, 30, resize, name), expected[top : top + 30, left : left + 30]
    )


def test_bilinear_is_the_default_and_bicubic_differs():
    image = noise(50, 50, 3)
    np.testing.assert_array_equal(
        resize_and_crop(image, 20), resize_and_crop(image, 20, None, 'bilinear')
    )
    assert (resize_and_crop(image, 20) != resize_and_crop(image, 20, None, 'bicubic')).any()


def test_bicubic_shrinks_with_antialiasing():
    checkers = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None]
    inner = resize_and_crop(checkers, 8, None, 'bicubic')[1:-1, 1:-1]
    np.testing.assert_allclose(inner, 127.5, atol=2)


def test_unknown_interpolation_is_refused():
    with pytest.raises(InputError, match=r"unknown interpolation 'bicubik'.*'bicubic'"):
        resize_and_crop(noise(32, 32, 3), 16, 20, 'bicubik')


def test_resize_smaller_than_the_crop_is_refused():
    with pytest.raises(InputError, match='resize 8 is smaller than image_size 16'):
        resize_and_crop(noise(32, 32, 3), 16, 8)


def test_random_resized_crop_of_everything_is_a_resize():
    image = noise(48, 48, 3)
    box = random_resized_crop(image, 16, np.random.default_rng(0), (1.0, 1.0), (1.0, 1.0))
    np.testing.assert_allclose(box, resize_and_crop(image, 16), atol=1)  # see `resize_box`


def test_random_resized_crop_boxes_have_the_requested_area_and_ratio():
    # The value of each pixel is its position, so the corners of the crop give its box.
    rows, columns = np.indices((200, 250))
    image = np.stack([rows, columns, rows], axis=2).astype(np.uint8)
    rng = np.random.default_rng(0)
    areas, ratios = [], []
    for _ in range(400):
        crop = random_resized_crop(image, 50, rng, (0.1, 0.5)).astype(float)
        height = (crop[-1, 0, 0] - crop[0, 0, 0]) * 50 / 49
        width = (crop[0, -1, 1] - crop[0, 0, 1]) * 50 / 49
        areas.append(width * height / (200 * 250))
        ratios.append(width / height)
    assert 0.08 < min(areas) < 0.14
    assert 0.42 < max(areas) < 0.53
    assert abs(np.mean(areas) - 0.3) < 0.02
    assert 0.70 < min(ratios) < 0.80
    assert 1.25 < max(ratios) < 1.42


@pytest.mark.parametrize('shape', [(10, 100, 1), (100, 10, 3)])
def test_random_resized_crop_falls_back_to_the_centre(shape):
    # A box of the whole area and ratio near 1 does not fit in a long image.
    image = np.zeros(shape, np.uint8)
    middle = (slice(None), slice(43, 57)) if shape[1] == 100 else (slice(43, 57), slice(None))
    image[middle] = 200
    crop = random_resized_crop(image, 8, np.random.default_rng(0), (1.0, 1.0))
    assert crop.shape == (8, 8, shape[2])
    assert (crop[2:-2, 2:-2] == 200).all()


def test_convert_channels():
    grey, colour = noise(3, 4, 1), noise(3, 4, 3)
    assert convert_channels(colour, 3) is colour
    np.testing.assert_array_equal(convert_channels(grey, 3), np.repeat(grey, 3, axis=2))
    np.testing.assert_array_equal(convert_channels(convert_channels(grey, 3), 1), grey)
