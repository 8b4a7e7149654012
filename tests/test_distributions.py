"""What is drawn at random has the stated distribution, and differs between epochs.

Each bound has a false-alarm rate below one in a million for a right program, and every draw follows
from a seed, so a test that passes once passes always.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from resnet_jax.data import (
    Preprocessing,
    augment,
    batch_indices,
    epoch_order,
    example_keys,
    open_source,
    random_crop,
    random_flip,
    train_batches,
)
from resnet_jax.data.pictures import random_box
from resnet_jax.data.transforms.geometry import random_scale_crop
from resnet_jax.data.transforms.policies import rand_augment
from resnet_jax.data.transforms.regions import cutout, random_erasing

FALSE_ALARM = 1e-6


def is_uniform(places, count):
    """Pearson's test that each of `count` places is as likely as the others."""
    found = np.bincount(places, minlength=count)
    assert len(found) == count
    return stats.chisquare(found).pvalue > FALSE_ALARM


def keys(count, step=0, seed=0):
    return example_keys(jax.random.key(seed), step, jnp.arange(count))


def places(images):
    """Where the one bright pixel of each image is."""
    flat = np.asarray(images).reshape(len(images), -1)
    assert np.all(flat.sum(axis=1) == 1), 'the bright pixel is in every crop'
    return flat.argmax(axis=1)


BRIGHT = jnp.zeros((9, 9, 1)).at[4, 4].set(1.0)  # after a crop with padding 4: anywhere


def test_half_of_the_images_are_mirrored():
    image = jnp.asarray([[[0.0], [1.0]]])
    flipped = jax.jit(jax.vmap(random_flip, (0, None)))(keys(200_000), image)[:, 0, 0, 0]
    count = int(flipped.sum())
    assert stats.binomtest(count, 200_000, 0.5).pvalue > FALSE_ALARM, count


def test_all_crops_are_as_likely():
    crops = jax.jit(jax.vmap(lambda key: random_crop(key, BRIGHT, 4)))(keys(50_000))
    assert is_uniform(places(crops), 81)


@pytest.mark.parametrize('names', [('pad_crop',), ('pad_crop', 'flip')])
def test_an_image_is_cropped_anew_in_every_epoch(names):
    """The same position in the batch of 20,000 steps: all places occur alike, in any order."""
    one = jnp.broadcast_to(BRIGHT, (1, 9, 9, 1))

    def at(step):
        images, _ = augment(names, jax.random.key(0), one, None, step, jnp.zeros(1, int))
        return images[0]

    found = places(jax.jit(jax.vmap(at))(jnp.arange(20_000)))
    assert is_uniform(found, 81)
    same = int(np.sum(found[1:] == found[:-1]))
    assert stats.binomtest(same, len(found) - 1, 1 / 81).pvalue > FALSE_ALARM, same


def test_crop_and_flip_are_independent():
    """The flip of an image says nothing about its crop."""
    image = jnp.zeros((9, 9, 2)).at[4, 4, 0].set(1.0).at[:, :, 1].set(jnp.arange(9.0))
    images = jnp.broadcast_to(image, (20_000, *image.shape))
    found, _ = augment(
        *(('flip', 'pad_crop'), jax.random.key(0), images, None, 0, jnp.arange(20_000))
    )
    crop = places(found[..., :1]) // 9
    rising = np.asarray(found[:, 4, 5, 1] - found[:, 4, 3, 1])
    table = np.zeros((2, 9))
    np.add.at(table, ((rising > 0).astype(int), crop), 1)
    assert stats.chi2_contingency(table).pvalue > FALSE_ALARM


@pytest.fixture(scope='module')
def boxes():
    """Random boxes in a picture where each fits: [left, top, width, height] of each."""
    rng = np.random.default_rng(0)
    drawn = [random_box(5000, 4000, rng, (0.08, 0.4), (3 / 4, 4 / 3)) for _ in range(20_000)]
    return np.asarray(drawn, np.float64).T


def test_boxes_have_the_stated_areas_and_shapes(boxes):
    """Szegedy et al. 2015: areas uniform; shapes, as torchvision draws them, uniform in the log."""
    _, _, width, height = boxes
    area = width * height / (5000 * 4000)
    assert stats.kstest(area, stats.uniform(0.08, 0.32).cdf).pvalue > FALSE_ALARM
    span = 2 * np.log(4 / 3)
    shapes = stats.kstest(np.log(width / height), stats.uniform(-span / 2, span).cdf)
    assert shapes.pvalue > FALSE_ALARM


def test_boxes_lie_anywhere(boxes):
    left, top, width, height = boxes
    for start, room in ((left, 5000 - width), (top, 4000 - height)):
        assert np.all((start >= 0) & (start <= room))
        assert stats.kstest((start + 0.5) / (room + 1), 'uniform').pvalue > FALSE_ALARM


def test_a_streamed_image_is_cropped_anew_in_every_epoch():
    """No two epochs, of six, see the same box of any image."""
    source = open_source('synthetic', 'train[:40]')
    preprocessing = Preprocessing(16, 3, None, (0.5,) * 3, (0.5,) * 3, source.class_names)
    stream = train_batches(
        source, preprocessing, seed=0, batch_size=40, first_step=0, last_step=6, workers=0,
        transforms=('random_resized_crop',),
    )  # fmt: skip
    epochs = []
    for epoch, batch in enumerate(stream):
        images = np.empty_like(batch['image'])
        images[epoch_order(0, epoch, 40)] = batch['image']
        epochs.append(images)
    assert len(epochs) == 6
    for before, after in itertools.combinations(epochs, 2):
        equal = [np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
        assert not any(equal)


def test_an_example_may_come_anywhere_in_an_epoch():
    orders = np.stack([epoch_order(0, epoch, 20) for epoch in range(2000)])
    assert all(sorted(order) == list(range(20)) for order in orders)
    where = np.argsort(orders, axis=1)
    for example in range(20):
        assert is_uniform(where[:, example], 20)
    same = int(np.sum(where[1:] == where[:-1]))
    assert stats.binomtest(same, where[1:].size, 1 / 20).pvalue > FALSE_ALARM


@pytest.mark.parametrize(('size', 'probability'), [(3, 1.0), (4, 0.5)])
def test_cutout_erases_a_square_around_any_pixel(size, probability):
    """Every pixel is as often the centre, so the number of boxes over each is known."""
    ones = jnp.ones((6, 6, 1))
    run = jax.jit(jax.vmap(lambda key: cutout(key, ones, size, probability)))
    erased = 1 - np.asarray(run(keys(20_000)))[..., 0]
    centres = np.zeros((6, 6))
    for row, column in itertools.product(range(6), range(6)):
        top, left = row - size // 2, column - size // 2
        centres[max(top, 0) : top + size, max(left, 0) : left + size] += 1
    for row, column in itertools.product(range(6), range(6)):
        chance = probability * centres[row, column] / 36
        found = int(erased[:, row, column].sum())
        assert stats.binomtest(found, 20_000, chance).pvalue > FALSE_ALARM


def test_erased_boxes_have_the_stated_areas_and_shapes():
    """Uniform areas, ratios uniform in the logarithm, in half of the images; noise is normal."""
    zeros = jnp.full((64, 64, 1), 100.0)
    erase = {'probability': 0.5, 'area': (0.1, 0.3), 'ratio': (0.5, 2.0), 'fill': 'noise'}
    run = jax.jit(jax.vmap(lambda key: random_erasing(key, zeros, **erase)))
    found = np.asarray(run(keys(1500)))[..., 0]
    boxes = found != 100
    erased = boxes.any(axis=(1, 2))
    assert stats.binomtest(int(erased.sum()), 1500, 0.5).pvalue > FALSE_ALARM
    heights = boxes.any(axis=2).sum(axis=1)[erased]
    widths = boxes.any(axis=1).sum(axis=1)[erased]
    assert (boxes.sum(axis=(1, 2))[erased] == heights * widths).all()
    # Rounding to pixels moves areas and ratios by up to this.
    rng = np.random.default_rng(0)
    area = heights * widths * rng.uniform(0.97, 1.03, heights.shape) / 64**2
    assert stats.kstest(area, stats.uniform(0.1, 0.2).cdf).pvalue > FALSE_ALARM
    shape = np.log(heights / widths) + rng.uniform(-0.03, 0.03, heights.shape)
    shapes = stats.kstest(shape, stats.uniform(np.log(0.5), 2 * np.log(2)).cdf)
    assert shapes.pvalue > FALSE_ALARM
    noise = found[boxes][:20_000]
    assert stats.kstest(noise, 'norm').pvalue > FALSE_ALARM


def test_erased_boxes_lie_anywhere_inside():
    """Also of an image that is not square: where they are whole, every place is as likely."""
    ones = jnp.ones((12, 20, 1))
    erase = {'probability': 1.0, 'area': (0.1, 0.2), 'ratio': (0.5, 2.0), 'fill': 'zero'}
    run = jax.jit(jax.vmap(lambda key: random_erasing(key, ones, **erase)))
    boxes = np.asarray(run(keys(5000)))[..., 0] == 0
    within = np.random.default_rng(0).uniform(size=5000)
    for length, lines in ((12, boxes.any(axis=2)), (20, boxes.any(axis=1))):
        first, side = lines.argmax(axis=1), lines.sum(axis=1)
        place = (first + within) / (length - side + 1)
        assert stats.kstest(place, 'uniform').pvalue > FALSE_ALARM


def test_operations_are_drawn_alike():
    """The 14 of RandAugment, told apart by the images that they make."""
    image = jnp.asarray(np.random.default_rng(0).integers(0, 200, (20, 20, 3)), jnp.uint8)
    draw = jax.jit(
        jax.vmap(lambda key, x: rand_augment(key, x, 1, 9.0, 0.0, 0, 'nearest'), (0, None))
    )
    images = np.asarray(draw(keys(2800), image)).reshape(2800, -1)
    _, counts = np.unique(images, axis=0, return_counts=True)
    # Nine are signed and make two images each, posterize, solarize, autocontrast, equalize and
    # identity one; every image of a signed one comes half as often.
    assert len(counts) == 9 * 2 + 5
    chances = np.sort(np.asarray([1 / 28] * 18 + [1 / 14] * 5))
    assert stats.chisquare(np.sort(counts), 2800 * chances).pvalue > FALSE_ALARM


def test_scales_and_places_of_random_crops():
    """he2015, section 3.4: shorter sides from 8 to 16 alike; the square anywhere."""
    rng = np.random.default_rng(0)
    picture = np.zeros((16, 32, 1), np.uint8) + np.arange(32, dtype=np.uint8)[None, :, None]
    crops = [random_scale_crop(rng, picture, 8, (16, 16), 'bilinear') for _ in range(3000)]
    assert all(crop.shape == (8, 8, 1) for crop in crops)
    assert is_uniform([int(crop[0, 0, 0]) for crop in crops], 25)
    crops = [random_scale_crop(rng, picture, 8, (8, 16), 'bilinear') for _ in range(3000)]
    # A ramp over 32 pixels, shrunk by 16 / side, rises by so much from pixel to pixel.
    rises = [float(crop[4, 6, 0]) - float(crop[4, 2, 0]) for crop in crops]
    sides = 4 * 16 / np.asarray(rises)
    assert sides.min() >= 7 and sides.max() <= 18
    assert np.abs(np.mean(sides) - 12) < 0.6


@pytest.mark.parametrize('repeats', [1, 3])
def test_repeated_examples_follow_one_another(repeats):
    """arXiv 1901.09335: each example so many times in a row; each epoch has all of them."""
    steps = [batch_indices(5, step, 4, 10, repeats) for step in range(15 * repeats)]
    stream = np.concatenate(steps)
    expected = np.concatenate([np.repeat(epoch_order(5, e, 10), repeats) for e in range(6)])
    np.testing.assert_array_equal(stream, expected)
