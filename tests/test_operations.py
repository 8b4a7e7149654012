"""Operations on pixels are Pillow's, or their definition, written out in NumPy."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from resnet_jax.data.transforms import operations, policies
from resnet_jax.data.transforms.colour import (
    EIGENVALUES,
    EIGENVECTORS,
    change_hue,
    color_jitter,
    grey,
    lighting,
)
from resnet_jax.data.transforms.operations import OPERATIONS

RNG = np.random.default_rng(0)
ROWS, COLUMNS = np.mgrid[:33, :40]
IMAGES = {
    'noise': RNG.integers(0, 256, (33, 40, 3), dtype=np.uint8),
    'smooth': np.stack([ROWS * 4, COLUMNS * 3 + 20, (ROWS + COLUMNS) // 2 + 100], -1).astype('u1'),
    'even': np.full((33, 40, 3), 77, np.uint8),
    'dark': RNG.integers(3, 60, (33, 40, 3), dtype=np.uint8),
}
FILL = 128
operate = jax.jit(operations.operate, static_argnums=(4,))


def ours(image, name, amount, sampling='nearest'):
    found = operate(jnp.asarray(image), OPERATIONS.index(name), jnp.float32(amount), FILL, sampling)
    return np.asarray(found)


def moved(image, matrix, sampling):
    how = {'nearest': Image.Resampling.NEAREST, 'bilinear': Image.Resampling.BILINEAR}[sampling]
    affine = Image.Transform.AFFINE
    return image.transform(image.size, affine, matrix, how, fillcolor=(FILL,) * 3)


def turned(image, degrees, sampling):
    how = {'nearest': Image.Resampling.NEAREST, 'bilinear': Image.Resampling.BILINEAR}[sampling]
    return image.rotate(degrees, how, fillcolor=(FILL,) * 3)


FACTORS = (0.0, 0.1, 0.55, 1.0, 1.43, 1.9)
# name -> (amounts, what Pillow makes of them)
POINTWISE = {
    'identity': ((3.0,), lambda image, amount: image),
    'brightness': (FACTORS, lambda image, amount: ImageEnhance.Brightness(image).enhance(amount)),
    'contrast': (FACTORS, lambda image, amount: ImageEnhance.Contrast(image).enhance(amount)),
    'color': (FACTORS, lambda image, amount: ImageEnhance.Color(image).enhance(amount)),
    'sharpness': (FACTORS, lambda image, amount: ImageEnhance.Sharpness(image).enhance(amount)),
    'posterize': ((8, 5, 2, 1), lambda image, amount: ImageOps.posterize(image, amount)),
    'solarize': ((0, 100.5, 255, 256), lambda image, amount: ImageOps.solarize(image, amount)),
    'autocontrast': ((0,), lambda image, amount: ImageOps.autocontrast(image)),
    'equalize': ((0,), lambda image, amount: ImageOps.equalize(image)),
    'invert': ((0,), lambda image, amount: ImageOps.invert(image)),
}
MOVES = {
    'shear_x': ((0.3, -0.17, 0.99), lambda a: (1, a, 0, 0, 1, 0)),
    'shear_y': ((0.3, -0.17, 0.99), lambda a: (1, 0, 0, a, 1, 0)),
    'translate_x': ((5, -7, 60), lambda a: (1, 0, a, 0, 1, 0)),
    'translate_y': ((5, -7, 60), lambda a: (1, 0, 0, 0, 1, a)),
}


def test_every_operation_is_compared():
    assert set(OPERATIONS) == {*POINTWISE, *MOVES, 'rotate'}


# Pillow rounds down floats that a compiler may fuse: a step may be missing where they are whole.
FLOATS = ('brightness', 'contrast', 'color', 'sharpness', 'autocontrast')


def assert_pillows(found, expected, name):
    apart = np.abs(np.asarray(found, int) - np.asarray(expected, int))
    assert apart.max() <= (name in FLOATS)
    assert (apart > 0).mean() < 0.01


@pytest.mark.parametrize('name', POINTWISE)
@pytest.mark.parametrize('image', IMAGES)
def test_values_change_as_in_pillow(image, name):
    """Bit for bit, but for a step in less than 1 % of the values where Pillow computes floats."""
    amounts, pillow = POINTWISE[name]
    for amount in amounts:
        expected = pillow(Image.fromarray(IMAGES[image]), amount)
        assert_pillows(ours(IMAGES[image], name, amount), expected, name)


@pytest.mark.parametrize('sampling', ['nearest', 'bilinear'])
@pytest.mark.parametrize('image', ['noise', 'smooth'])
def test_pixels_move_as_in_pillow(image, sampling):
    """Bit for bit between whole pixels; else within a step, for rounding down another float."""
    pixels = IMAGES[image]
    pillow = Image.fromarray(pixels)
    pairs = [
        (ours(pixels, name, amount, sampling), moved(pillow, matrix(amount), sampling))
        for name, (amounts, matrix) in MOVES.items()
        for amount in amounts
    ]
    pairs += [
        (ours(pixels, 'rotate', degrees, sampling), turned(pillow, degrees, sampling))
        for degrees in (17.3, -30, 90, 135, 180, -90)
    ]
    for found, expected in pairs:
        apart = np.abs(found.astype(int) - np.asarray(expected, int))
        assert apart.max() <= (sampling == 'bilinear')
        assert (apart > 0).mean() < 0.03


def test_grey_images_of_one_channel():
    pixels = IMAGES['noise'][..., :1]
    pillow = Image.fromarray(pixels[..., 0])
    for name, pil in (
        ('equalize', ImageOps.equalize(pillow)),
        ('contrast', ImageEnhance.Contrast(pillow).enhance(0.3)),
        ('sharpness', ImageEnhance.Sharpness(pillow).enhance(1.7)),
    ):
        amount = {'contrast': 0.3, 'sharpness': 1.7}.get(name, 0)
        assert_pillows(ours(pixels, name, amount)[..., 0], pil, name)


def test_hue_is_that_of_colorsys():
    """To half a step of rounding and the float32 of the computation."""
    colours = np.concatenate([IMAGES['noise'].reshape(-1, 3)[:60], [[9, 9, 9], [0, 0, 255]]])
    turn = jax.jit(change_hue)
    for shift in (-0.4, 0.0, 0.13, 0.5):
        found = np.asarray(turn(jnp.asarray(colours, jnp.uint8)[None], shift))[0]
        for before, after in zip(colours, found, strict=True):
            hue, *rest = colorsys.rgb_to_hsv(*(before / 255))
            expected = 255 * np.asarray(colorsys.hsv_to_rgb((hue + shift) % 1, *rest))
            np.testing.assert_allclose(after, expected, atol=0.501)


def test_jitter_changes_by_factors_of_the_range_in_some_order():
    """Each result is Pillow's for the drawn factor; two changes come in both orders."""
    pixels = jnp.asarray(IMAGES['smooth'])
    keys = jax.random.split(jax.random.key(0), 60)

    def drawn(brightness, contrast):
        fields = {'brightness': brightness, 'contrast': contrast, 'saturation': 0.0, 'hue': 0.0}
        run = jax.jit(jax.vmap(lambda key, x: color_jitter(key, x, **fields), (0, None)))
        return np.asarray(run(keys, pixels))

    mean = float(pixels.mean())
    factors = drawn(0.4, 0.0).mean(axis=(1, 2, 3)) / mean
    assert factors.min() > 0.59 and factors.max() < 1.41 and np.ptp(factors) > 0.6
    assert np.array_equal(drawn(0.0, 0.0)[7], pixels)
    both = drawn(0.4, 0.4)
    keys2 = [jax.random.split(key) for key in keys[:20]]
    orders = set()
    for image, (first, second) in zip(both, keys2, strict=False):
        amounts = np.asarray(jax.random.uniform(first, (2,), minval=0.6, maxval=1.4))
        order = tuple(np.asarray(jax.random.permutation(second, 2)).tolist())
        orders.add(order)
        expected = Image.fromarray(IMAGES['smooth'])
        for which in order:
            enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast)[which]
            expected = enhance(expected).enhance(float(amounts[which]))
        assert np.abs(image.astype(int) - np.asarray(expected, int)).max() <= 1
    assert orders == {(0, 1), (1, 0)}


def test_lighting_shifts_every_pixel_alike_along_imagenets_colours():
    """AlexNet, section 4.1: shifts have the covariance V diag((0.5 lambda)^2) V'."""
    pixels = jnp.full((2, 2, 3), 128, jnp.uint8)
    keys = jax.random.split(jax.random.key(0), 20_000)
    found = np.asarray(jax.jit(jax.vmap(lambda key: lighting(key, pixels, 0.5)))(keys), float)
    assert (found == found[:, :1, :1]).all()
    shifts = found[:, 0, 0] - 128
    expected = EIGENVECTORS @ np.diag((0.5 * 255 * EIGENVALUES) ** 2) @ EIGENVECTORS.T
    expected += np.eye(3) / 12  # of rounding
    # Five deviations of a covariance of so many draws.
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)) * 2 / len(keys))
    assert (np.abs(np.cov(shifts.T) - expected) < 5 * scale).all()


def test_imagenets_colours_are_the_published_ones():
    """Of fb.resnet.torch; the axes are orthonormal, to the four decimals that are published."""
    np.testing.assert_allclose(EIGENVALUES, [0.2175, 0.0188, 0.0045], rtol=1e-6)
    np.testing.assert_allclose(EIGENVECTORS.T @ EIGENVECTORS, np.eye(3), atol=1e-4)


def test_grey_is_pillows():
    pixels = jnp.asarray(IMAGES['noise'])
    found = np.asarray(grey(jax.random.key(0), pixels, 1.0))
    expected = np.asarray(Image.fromarray(IMAGES['noise']).convert('L'))
    np.testing.assert_array_equal(found, expected[:, :, None].repeat(3, axis=2))
    np.testing.assert_array_equal(grey(jax.random.key(0), pixels, 0.0), pixels)


@pytest.mark.parametrize(
    ('space', 'name', 'level', 'expected'),
    [
        (policies.USUAL, 'rotate', 0.9, 27.0),
        (policies.USUAL, 'shear_x', 0.5, 0.15),
        (policies.USUAL, 'translate_x', 0.9, 13.0),  # of 32 pixels: 0.9 * 150 / 331 * 32 = 13.05
        (policies.USUAL, 'color', 0.9, 1.81),
        (policies.USUAL, 'posterize', 0.9, 4.0),
        (policies.USUAL, 'solarize', 0.4, 153.0),
        (policies.USUAL, 'identity', 0.9, 0.0),
        (policies.WIDE, 'rotate', 1.0, 135.0),
        (policies.WIDE, 'translate_y', 1.0, 32.0),
        (policies.WIDE, 'posterize', 1.0, 2.0),
        (policies.WIDE, 'brightness', 1.0, 1.99),
        (policies.MIX, 'posterize', 0.3, 3.0),
        (policies.MIX, 'translate_x', 0.3, 3.0),
    ],
)
def test_strengths_are_those_of_the_papers(space, name, level, expected):
    """torchvision's tables for the first two; AugMix's code for the last."""
    amount = space[name].amount(jnp.float32(level), jnp.float32(1.0), 32)
    assert float(amount) == pytest.approx(expected, rel=1e-6)
    if space[name].signed:
        less = space[name].amount(jnp.float32(level), jnp.float32(-1.0), 32)
        neutral = float(space[name].neutral)
        assert float(less) == pytest.approx(2 * neutral - expected, abs=1e-5)


def test_spaces_hold_the_papers_operations():
    """RandAugment has 14, TrivialAugment the same, AutoAugment also `invert`, AugMix 9."""
    assert len(policies.USUAL) == len(policies.WIDE) == 14
    assert set(policies.AUTO) - set(policies.USUAL) == {'invert'}
    assert len(policies.MIX) == 9
    for rows in policies.POLICIES.values():
        assert len(rows) == 25
        assert {name for row in rows for name, _, _ in row} <= set(policies.AUTO)
        for row in rows:
            assert all(0 <= chance <= 1 and level in range(10) for _, chance, level in row)


def test_layers_are_operations_in_a_row():
    """What `rand_augment` draws, made again by Pillow."""
    pixels = IMAGES['smooth'][:32, :32]
    names = tuple(policies.USUAL)
    arguments = {
        'layers': 2,
        'magnitude': 9.0,
        'std': 0.0,
        'fill': FILL,
        'interpolation': 'nearest',
    }
    run = jax.jit(lambda key, image: policies.rand_augment(key, image, **arguments))
    seen = set()
    for key in jax.random.split(jax.random.key(1), 30):
        which, _, sign = jax.random.split(key, 3)
        picked = np.asarray(jax.random.randint(which, (2,), 0, 14))
        positive = np.asarray(jax.random.bernoulli(sign, shape=(2,)))
        expected = Image.fromarray(pixels)
        for place, plus in zip(picked, positive, strict=True):
            name = names[place]
            seen.add(name)
            strength = policies.USUAL[name]
            change = strength.change * 0.9 * (32 if strength.per_side else 1)
            change = {'posterize': round(change)}.get(
                name, float(int(change)) if strength.per_side else change
            )
            amount = strength.neutral + (change if plus or not strength.signed else -change)
            if name == 'rotate':
                expected = turned(expected, amount, 'nearest')
            elif name in MOVES:
                expected = moved(expected, MOVES[name][1](amount), 'nearest')
            else:
                amount = int(amount) if name == 'posterize' else amount
                expected = POINTWISE[name][1](expected, amount)
        apart = np.abs(np.asarray(run(key, pixels), int) - np.asarray(expected, int))
        assert (apart > 1).mean() < 0.01, [names[place] for place in picked]
    assert len(seen) == 14


def test_auto_augment_skips_operations_by_their_probabilities():
    """A policy of one row: each operation as often as it says."""
    pixels = jnp.asarray(IMAGES['noise'][:8, :8])
    row = (('posterize', 0.4, 9), ('invert', 0.6, 0))
    keys = jax.random.split(jax.random.key(0), 2000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(policies.POLICIES, 'one', (row,))
        run = jax.vmap(lambda key, x: policies.auto_augment(key, x, 'one', 0, 'nearest'), (0, None))
        found = jax.jit(run)(keys, pixels)
    found = np.asarray(found)
    kept = pixels >> 4 << 4  # the upper four bits
    results = [pixels, kept, 255 - pixels, 255 - kept]
    counts = [
        int((found == np.asarray(result)[None]).all(axis=(1, 2, 3)).sum()) for result in results
    ]
    assert sum(counts) == 2000
    expected = 2000 * np.asarray([0.6 * 0.4, 0.4 * 0.4, 0.6 * 0.6, 0.4 * 0.6])
    # Five deviations.
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all(), counts


def test_aug_mix_is_a_mean_of_chains():
    """Of an image that no operation changes, the image: the weights add up. Of others, new ones."""
    run = jax.jit(
        jax.vmap(lambda key, x: policies.aug_mix(key, x, 3.0, 1.0, 96, 'nearest'), (0, None))
    )
    keys = jax.random.split(jax.random.key(0), 8)
    # 96 has the bits that posterize keeps, is below what solarize inverts, and fills.
    even = jnp.full((8, 8, 3), 96, jnp.uint8)
    assert (np.asarray(run(keys, even)) == 96).all()
    pixels = jnp.asarray(IMAGES['noise'][:8, :8])
    found = np.asarray(run(keys, pixels)).reshape(8, -1)
    assert len(np.unique(found, axis=0)) == 8
    assert (found != np.asarray(pixels).reshape(1, -1)).any(axis=1).all()


@pytest.mark.slow
def test_aug_mix_draws_chains_and_strengths_as_its_paper():
    """arXiv 1912.02781, algorithm 1, where each operation moves a bright column to the left.

    By 100 pixels times its strength, which is from 0.01 to a tenth of the severity.
    """
    image = jnp.zeros((1, 24, 1), jnp.uint8).at[:, -1].set(255)
    keys = jax.random.split(jax.random.key(0), 2000)
    run = jax.jit(
        jax.vmap(lambda key, most: policies.aug_mix(key, image, most, 1.0, 0, 'nearest'), (0, None))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policies, 'MIX', {'translate_x': policies.Strength(0.0, 100.0)})
        # [keys, pixels moved], the share of each.
        least, more = (
            np.asarray(run(keys, most), float)[:, 0, ::-1, 0] / 255 for most in (0.1, 0.6)
        )

    def mean_is(found, expected):
        error = found.std(axis=0) / np.sqrt(len(found))
        return np.all(np.abs(found.mean(axis=0) - expected) < 5 * error)

    for found in (least, more):
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=0.01)  # of roundings to 1 / 255
        assert stats.kstest(found[:, 0], 'uniform').pvalue > 1e-6  # the image's own, Beta(1, 1)
    # A pixel each: chains of one, two and three are as likely.
    assert not least[:, 4:].any()
    assert mean_is(least[:, 1:4], 1 / 6)
    # Half of the image moves by two operations, of 3.5 pixels each, on average; none by more than
    # three of 6.
    assert more[:, 18].any() and not more[:, 19:].any()
    assert mean_is(more @ np.arange(24.0), 0.5 * 2 * 3.5)
