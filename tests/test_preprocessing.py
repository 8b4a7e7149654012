import json

import jax
import numpy as np
import pytest
from PIL import Image

from resnet_jax.data import (
    PREPROCESSINGS,
    Preprocessing,
    fit_mean,
    fit_std,
    known_preprocessing,
)
from resnet_jax.errors import InputError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (2500, 4, 4, 3), np.uint8)
COLOUR = Preprocessing(4, 3, None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), ('cat', 'dog'))


def test_normalize_per_channel():
    expected = (IMAGES[:5] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    normalized = jax.jit(COLOUR.normalize)(IMAGES[:5])
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized, expected, atol=1e-6)


def test_normalize_per_pixel():
    mean = fit_mean(IMAGES, per_pixel=True)
    normalized = Preprocessing(4, 3, None, mean, (1, 1, 1), ()).normalize(IMAGES)
    np.testing.assert_allclose(normalized, IMAGES / 255 - mean, atol=1e-6)
    np.testing.assert_allclose(np.mean(normalized, axis=0), np.zeros((4, 4, 3)), atol=1e-5)


def test_fitted_statistics_are_those_of_numpy():
    pixels = IMAGES / 255
    np.testing.assert_allclose(fit_mean(IMAGES), pixels.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(fit_mean(IMAGES, True), pixels.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(fit_std(IMAGES), pixels.std(axis=(0, 1, 2)), rtol=1e-6)
    assert fit_mean(IMAGES, True).dtype == fit_std(IMAGES).dtype == np.float32


@pytest.mark.parametrize('per_pixel', [False, True])
def test_the_json_round_trip_is_exact(per_pixel):
    before = Preprocessing(
        4, 3, 5, fit_mean(IMAGES, per_pixel), fit_std(IMAGES), ('naïve', '"quoted"')
    )
    after = Preprocessing.from_json(before.to_json())
    assert after == before
    assert hash(after) == hash(before)
    np.testing.assert_array_equal(
        np.asarray(after.mean, np.float32), fit_mean(IMAGES, per_pixel), strict=True
    )


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('source', [1, 3])
def test_prepare_gives_size_and_channels(source, channels):
    preprocessing = Preprocessing(8, channels, 10, (0.5,) * channels, (1.0,) * channels, ())
    image = RNG.integers(0, 256, (30, 20, source), np.uint8)
    assert preprocessing.prepare(image).shape == (8, 8, channels)
    assert preprocessing.prepare(image).dtype == np.uint8


def test_prepare_keeps_an_image_that_fits():
    np.testing.assert_array_equal(COLOUR.prepare(IMAGES[0]), IMAGES[0])


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'channels': 0}, 'channels must be from 1 to 1024, not 0'),
        ({'image_size': 0}, 'image_size must be positive'),
        ({'resize': 3}, 'resize 3 is smaller than image_size 4'),
        ({'mean': (0.5,)}, r'mean has shape \(1,\)'),
        ({'mean': np.zeros((5, 5, 3))}, r'mean has shape \(5, 5, 3\)'),
        ({'std': (1.0, 0.0, 1.0)}, 'std must be 3 positive'),
        ({'interpolation': 'cubic'}, "unknown interpolation 'cubic'.*'bicubic'"),
    ],
)
def test_bad_values_are_refused(change, words):
    values = {'image_size': 4, 'channels': 3, 'resize': None, 'mean': (0.5,) * 3, 'std': (1.0,) * 3}
    with pytest.raises(InputError, match=words):
        Preprocessing(**(values | change), class_names=())


@pytest.mark.parametrize('text', ['', '{', '[]', '{"image_size": 4}'])
def test_unreadable_json_is_refused(text):
    with pytest.raises(InputError, match='stored preprocessing'):
        Preprocessing.from_json(text)


def test_constant_channel_has_no_std():
    with pytest.raises(InputError, match='constant'):
        fit_std(np.zeros((3, 2, 2, 1), np.uint8))


def test_json_keeps_the_interpolation_and_old_files_are_bilinear():
    before = Preprocessing(4, 1, 5, (0.5,), (1.0,), ('a',), 'bicubic')
    stored = json.loads(before.to_json())
    assert stored.pop('interpolation') == 'bicubic'
    assert Preprocessing.from_json(before.to_json()) == before
    old = Preprocessing.from_json(json.dumps(stored))
    assert old == Preprocessing(4, 1, 5, (0.5,), (1.0,), ('a',))
    assert old.interpolation == 'bilinear'


@pytest.mark.parametrize(
    ('name', 'size', 'fraction', 'filter_name', 'mean'),
    [
        # Sizes and crop fractions as torchvision and timm state them; 0.965 is timm's word for
        # torchvision's 232.
        ('torchvision', 224, 0.875, 'BILINEAR', 0.485),
        ('torchvision_v2', 224, 0.965, 'BILINEAR', 0.485),
        ('timm', 224, 0.95, 'BICUBIC', 0.485),
        ('timm_875', 224, 0.875, 'BICUBIC', 0.485),
        ('timm_resnetv2', 224, 0.95, 'BICUBIC', 0.5),
        ('inception', 224, 0.875, 'BICUBIC', 0.5),
        ('bit', 448, 1, 'BILINEAR', 0.5),
        ('cifar', 32, 1, 'BILINEAR', 0.485),
    ],
)
def test_known_preprocessing(name, size, fraction, filter_name, mean):
    """The same pixels as Pillow's resize to size / fraction and its crop of the centre."""
    preprocessing = known_preprocessing(name, ['cat', 'dog'])
    assert preprocessing.class_names == ('cat', 'dog')
    assert preprocessing.mean[0] == np.float32(mean)
    pixels = RNG.integers(0, 256, (300, 400, 3), np.uint8)
    resize = int(size / fraction)
    scaled = Image.fromarray(pixels).resize(
        (400 * resize // 300, resize), Image.Resampling[filter_name]
    )
    left, top = round((scaled.width - size) / 2), round((resize - size) / 2)
    expected = scaled.crop((left, top, left + size, top + size))
    np.testing.assert_array_equal(preprocessing.prepare(pixels), np.asarray(expected))


def test_cifar_images_are_not_resized():
    pixels = RNG.integers(0, 256, (32, 32, 3), np.uint8)
    np.testing.assert_array_equal(known_preprocessing('cifar', ()).prepare(pixels), pixels)


def test_all_known_preprocessings_are_tested_and_distinct():
    assert len({known_preprocessing(name, ()) for name in PREPROCESSINGS}) == 8


def test_unknown_preprocessing_shows_the_nearest():
    with pytest.raises(InputError, match=r"unknown preprocessing 'torchvison'.*'torchvision'"):
        known_preprocessing('torchvison', ())
