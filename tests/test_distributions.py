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
    epoch_order,
    example_keys,
    open_source,
    random_crop,
    random_flip,
    train_batches,
)
from resnet_jax.data.pictures import random_box

FALSE_ALARM = 1e-6
SETTINGS = {'pad': 4, 'pad_mode': 'zero', 'crop_scale': (0.08, 1.0)}


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
        images, _ = augment(names, SETTINGS, jax.random.key(0), one, None, step, jnp.zeros(1, int))
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
        *(('flip', 'pad_crop'), SETTINGS, jax.random.key(0), images, None, 0, jnp.arange(20_000))
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
        transforms=('random_resized_crop',), settings=SETTINGS,
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
