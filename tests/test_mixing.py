"""Mixed images and targets: shares, pairs, devices, and training with distributions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec
from scipy import stats

from resnet_jax.data import augment

FALSE_ALARM = 1e-6
KEY = jax.random.key(0)
N, SIZE, CLASSES = 8, 12, 10
POSITIONS = jnp.arange(N)
IMAGES = jax.random.normal(jax.random.key(1), (N, SIZE, SIZE, 3))
LABELS = jnp.asarray([3, 1, 4, 1, 5, 9, 2, 6])


@functools.cache
def program(name):
    def run(images, labels, step):
        positions = jnp.arange(len(images))
        return augment((name,), KEY, images, labels, step, positions, classes=CLASSES)

    return jax.jit(run)


def mixed(name, step=0, images=IMAGES, labels=LABELS):
    return tuple(map(np.asarray, program(name)(images, labels, step)))


@pytest.fixture(scope='module')
def steps():
    """name -> the targets of the first example, of the label 3, over many steps."""
    images = jnp.broadcast_to(jnp.arange(8.0).reshape(8, 1, 1, 1), (8, 6, 6, 1))

    def run(name):
        first = jax.vmap(lambda step: [x[0] for x in program(name)(images, LABELS, step)])
        return tuple(map(np.asarray, jax.jit(first)(jnp.arange(4000))))

    names = ('mixup(alpha=0.4)', 'cutmix', 'mixup_or_cutmix(probability=0.75)')
    return {name: run(name) for name in names}


@pytest.mark.parametrize('n', [1, 7, 8])
def test_mixup_is_a_mean_of_images_and_of_targets(n):
    """arXiv 1710.09412, equation 1; any batch size, the middle one of which stays as it is."""
    images, targets = mixed('mixup(alpha=1)', 3, IMAGES[:n], LABELS[:n])
    labels = np.asarray(jax.nn.one_hot(LABELS[:n], CLASSES))
    share = 1 - targets[0, 3] if n > 1 else 0.0
    assert n == 1 or 0 < share < 1
    expected = (1 - share) * np.asarray(IMAGES[:n]) + share * np.asarray(IMAGES[:n])[::-1]
    np.testing.assert_allclose(images, expected, atol=1e-5)
    np.testing.assert_allclose(targets, (1 - share) * labels + share * labels[::-1], atol=1e-6)


def test_cutmix_weighs_the_share_of_pixels_that_is_there():
    """Also where the box reaches over the border, which happens here."""
    smaller = set()
    for step in range(40):
        images, targets = mixed('cutmix', step)
        theirs = (images == np.asarray(IMAGES)[::-1]).all(axis=3)
        own = (images == np.asarray(IMAGES)).all(axis=3)
        assert (theirs ^ own).all()
        assert (theirs == theirs[:1]).all()  # one box for the batch
        rows, columns = np.nonzero(theirs[0])
        if len(rows):
            sides = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert sides[0] * sides[1] == len(rows)
            smaller.add(sides[0] != sides[1])
        share = theirs[0].mean()
        np.testing.assert_allclose(targets[0, [3, 6]], [1 - share, share], atol=1e-6)
        np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    assert smaller == {True, False}  # the image is square, so a box that is not was cut


@pytest.mark.slow
def test_shares_have_the_stated_distribution(steps):
    """Beta(0.4, 0.4), a new one in every step, and what the image holds of the partner."""
    images, targets = steps['mixup(alpha=0.4)']
    share = targets[:, 6].astype(np.float64)
    assert stats.kstest(share, stats.beta(0.4, 0.4).cdf).pvalue > FALSE_ALARM
    np.testing.assert_allclose(images[:, 0, 0, 0], 7 * share, atol=1e-5)
    images, targets = steps['cutmix']
    np.testing.assert_allclose(targets[:, 6], (images == 7).mean(axis=(1, 2, 3)), atol=1e-6)
    # The side is floor(6 sqrt(u)); along each axis so many of the 6 centres cover pixel 3.
    covered = 0.0
    for side in range(6):
        centres = sum(0 <= 3 - (centre - side // 2) < side for centre in range(6))
        covered += ((side + 1) ** 2 - side**2) / 36 * (centres / 6) ** 2
    count = int((images[:, 3, 3, 0] == 7).sum())
    assert stats.binomtest(count, len(images), covered).pvalue > FALSE_ALARM


def test_either_is_chosen_at_random(steps):
    """Three of four batches are mixed, half of these by CutMix."""
    images, targets = steps['mixup_or_cutmix(probability=0.75)']
    even = np.ptp(images, axis=(1, 2, 3)) == 0  # mixup, or nothing, or a box of nothing or all
    plain = targets[:, 3] == 1
    count = int((~plain & even).sum())
    # Mixup of Beta(0.1, 0.1) rounds to nothing now and then: between a quarter and 3/8 of all.
    assert 0.25 * 4000 < count < 0.41 * 4000
    cut = int((~even).sum())
    assert 0.2 * 4000 < cut < 0.41 * 4000
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), 7 * targets[:, 6], atol=1e-4)


def test_probability_zero_mixes_nothing():
    for name in ('mixup', 'cutmix', 'mixup_or_cutmix'):
        text = f'{name}(probability=0)'
        images, targets = mixed(text)
        np.testing.assert_array_equal(images, IMAGES)
        np.testing.assert_array_equal(targets, jax.nn.one_hot(LABELS, CLASSES))


@pytest.mark.slow
@pytest.mark.parametrize('devices', [1, 2])
def test_pairs_do_not_depend_on_the_devices(devices):
    """On one device here and two of a mesh, where there are; test_placement.py has eight."""
    if jax.device_count() < devices:
        pytest.skip('one device only')
    mesh = Mesh(np.asarray(jax.devices()[:devices]), ('data',), axis_types=(AxisType.Auto,))
    each = PartitionSpec('data')

    def share(images, labels, positions):
        return augment(
            ('mixup_or_cutmix',), KEY, images, labels, 5, positions, classes=CLASSES, axis='data'
        )

    mapped = jax.shard_map(
        share, mesh=mesh, in_specs=(each,) * 3, out_specs=(each, each), check_vma=False
    )
    found = jax.jit(mapped)(IMAGES, LABELS, POSITIONS)
    for ours, whole in zip(found, mixed('mixup_or_cutmix', 5), strict=True):
        np.testing.assert_allclose(ours, whole, atol=1e-6)
