import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data import example_keys, random_crop, random_flip
from resnet_jax.data import transforms as augment

KEYS = example_keys(jax.random.key(0), 7, jnp.arange(64))
IMAGES = jax.random.normal(jax.random.key(1), (64, 8, 8, 3)) + 10  # no zeros but the padding's


def windows(image: np.ndarray, pad: int, mode: str) -> list[np.ndarray]:
    """All crops there are, by (top, left)."""
    numpy_mode = {'zero': 'constant', 'reflect': 'reflect'}[mode]
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=numpy_mode)
    size = image.shape[0]
    places = range(2 * pad + 1)
    return [padded[t : t + size, left : left + size] for t in places for left in places]


@pytest.mark.parametrize('mode', ['zero', 'reflect'])
def test_a_crop_is_a_window_of_the_padded_image_and_all_places_occur(mode):
    image = IMAGES[0]
    keys = example_keys(jax.random.key(3), 0, jnp.arange(400))
    crops = np.asarray(jax.vmap(lambda k: random_crop(k, image, 2, mode))(keys))
    candidates = np.stack(windows(np.asarray(image), 2, mode))
    same = (crops[:, None] == candidates[None]).all(axis=(2, 3, 4))
    assert same.any(axis=1).all()
    counts = same.sum(axis=0)
    # 400 draws over 25 places: 16 expected, standard deviation 3.9.
    assert counts.min() > 0
    assert counts.max() < 40


def test_a_flip_mirrors_about_half_of_the_images():
    flipped = np.asarray(jax.vmap(random_flip)(KEYS, IMAGES))
    mirrored = (flipped == np.asarray(IMAGES)[:, :, ::-1]).all(axis=(1, 2, 3))
    kept = (flipped == np.asarray(IMAGES)).all(axis=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 16 < mirrored.sum() < 48


def test_an_example_depends_on_its_own_key_alone():
    run = jax.jit(functools.partial(augment, pad=2, flip=True))
    whole = run(IMAGES, KEYS)
    order = np.random.default_rng(0).permutation(64)
    np.testing.assert_array_equal(run(IMAGES[order], KEYS[order]), whole[order])
    np.testing.assert_array_equal(run(IMAGES[40:48], KEYS[40:48]), whole[40:48])
    np.testing.assert_array_equal(augment(IMAGES, KEYS, pad=2, flip=True), whole)


def test_keys_depend_on_step_and_position():
    key = jax.random.key(0)
    data = jax.random.key_data(
        jnp.concatenate([example_keys(key, s, jnp.arange(5)) for s in range(3)])
    )
    assert len(np.unique(np.asarray(data), axis=0)) == 15
    np.testing.assert_array_equal(
        jax.random.key_data(example_keys(key, 7, jnp.arange(30, 40))),
        jax.random.key_data(KEYS[30:40]),
    )


def test_every_crop_occurs_flipped_and_not():
    image = IMAGES[0]
    keys = example_keys(jax.random.key(5), 0, jnp.arange(600))
    batch = jnp.broadcast_to(image[None], (600, *image.shape))
    out = np.asarray(augment(batch, keys, pad=1, flip=True))
    candidates = np.stack(windows(np.asarray(image), 1, 'zero'))
    place = (out[:, None] == candidates[None]).all(axis=(2, 3, 4))
    turned = (out[:, None] == candidates[None, :, :, ::-1]).all(axis=(2, 3, 4))
    assert (place.sum(axis=1) + turned.sum(axis=1) == 1).all()
    assert place.sum(axis=0).min() > 10
    assert turned.sum(axis=0).min() > 10


@pytest.mark.parametrize('dtype', [jnp.uint8, jnp.float32, jnp.bfloat16])
def test_dtype_is_kept(dtype):
    assert augment(IMAGES.astype(dtype), KEYS, pad=2, flip=True).dtype == dtype


def test_what_is_off_costs_nothing():
    off = jax.make_jaxpr(functools.partial(augment, pad=0, flip=False))(IMAGES, KEYS)
    assert not off.eqns
    no_flip = str(jax.make_jaxpr(functools.partial(augment, pad=2, flip=False))(IMAGES, KEYS))
    assert 'gather' in no_flip and 'rev' not in no_flip
    no_crop = str(jax.make_jaxpr(functools.partial(augment, pad=0, flip=True))(IMAGES, KEYS))
    assert 'rev' in no_crop and 'gather' not in no_crop
