import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data import (
    TRANSFORMS,
    Parameter,
    Transform,
    augment,
    check_transforms,
    example_keys,
    is_streamed,
    random_crop,
    random_flip,
    read_transforms,
    split_list,
)
from resnet_jax.errors import InputError, Range

KEY = jax.random.key(0)
STEP = 7
POSITIONS = jnp.arange(64)
KEYS = example_keys(KEY, STEP, POSITIONS)
IMAGES = jax.random.normal(jax.random.key(1), (64, 8, 8, 3)) + 10  # no zeros but the padding's
CROP = 'pad_crop(pad=2)'


def augmented(names=(CROP, 'flip'), images=IMAGES, positions=POSITIONS, step=STEP, key=KEY):
    targets = jnp.arange(len(images))
    out, same = augment(names, key, images, targets, step, positions)
    np.testing.assert_array_equal(same, targets)
    return out


def windows(image: np.ndarray, pad: int, mode: str) -> list[np.ndarray]:
    """All possible crops, ordered by (top, left)."""
    numpy_mode = {'zero': 'constant', 'reflect': 'reflect'}[mode]
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=numpy_mode)
    size = image.shape[0]
    offsets = range(2 * pad + 1)
    return [padded[t : t + size, left : left + size] for t in offsets for left in offsets]


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


def test_an_example_depends_on_its_own_position_alone():
    run = jax.jit(
        lambda images, positions: augment((CROP, 'flip'), KEY, images, None, STEP, positions)[0]
    )
    whole = run(IMAGES, POSITIONS)
    order = np.random.default_rng(0).permutation(64)
    np.testing.assert_array_equal(run(IMAGES[order], POSITIONS[order]), whole[order])
    np.testing.assert_array_equal(run(IMAGES[40:48], POSITIONS[40:48]), whole[40:48])
    np.testing.assert_array_equal(augmented(), whole)


def test_keys_depend_on_step_and_position():
    data = jax.random.key_data(
        jnp.concatenate([example_keys(KEY, s, jnp.arange(5)) for s in range(3)])
    )
    assert len(np.unique(np.asarray(data), axis=0)) == 15
    np.testing.assert_array_equal(
        jax.random.key_data(example_keys(KEY, 7, jnp.arange(30, 40))),
        jax.random.key_data(KEYS[30:40]),
    )


def test_every_crop_occurs_flipped_and_not():
    image = IMAGES[0]
    batch = jnp.broadcast_to(image[None], (600, *image.shape))
    out = np.asarray(
        augmented(
            ('pad_crop(pad=1)', 'flip'),
            images=batch,
            key=jax.random.key(5),
            step=0,
            positions=jnp.arange(600),
        )
    )
    candidates = np.stack(windows(np.asarray(image), 1, 'zero'))
    place = (out[:, None] == candidates[None]).all(axis=(2, 3, 4))
    turned = (out[:, None] == candidates[None, :, :, ::-1]).all(axis=(2, 3, 4))
    assert (place.sum(axis=1) + turned.sum(axis=1) == 1).all()
    assert place.sum(axis=0).min() > 10
    assert turned.sum(axis=0).min() > 10


@pytest.mark.parametrize('dtype', [jnp.uint8, jnp.float32, jnp.bfloat16])
def test_dtype_is_kept(dtype):
    assert augmented(images=IMAGES.astype(dtype)).dtype == dtype


def test_what_is_off_costs_nothing():
    def program(names):
        return lambda images, positions: augment(names, KEY, images, None, STEP, positions)[0]

    def compiled(names):
        return jax.jit(program(names)).lower(IMAGES, POSITIONS).compile().as_text()

    # The compiler drops the unused keys.
    assert 'xor' not in compiled(()) and 'xor' not in compiled(('random_resized_crop',))
    assert 'xor' not in compiled(('pad_crop(pad=0)',)) and 'xor' in compiled((CROP,))
    no_flip = str(jax.make_jaxpr(program((CROP,)))(IMAGES, POSITIONS))
    assert 'gather' in no_flip and 'rev' not in no_flip
    no_crop = str(jax.make_jaxpr(program(('pad_crop(pad=0)', 'flip')))(IMAGES, POSITIONS))
    assert 'rev' in no_crop and 'gather' not in no_crop
    np.testing.assert_array_equal(augmented(('pad_crop(pad=0)',)), IMAGES)


@pytest.mark.parametrize('mode', ['zero', 'reflect'])
def test_random_numbers_are_those_of_earlier_versions(mode):
    """The same computation as when crop and flip split one key, written out."""

    def one(image, key):
        crop_key, flip_key = jax.random.split(key)
        return random_flip(flip_key, random_crop(crop_key, image, 2, mode))

    crop = f'pad_crop(pad=2, mode={mode})'
    expected = jax.vmap(one)(IMAGES, KEYS)
    np.testing.assert_array_equal(augmented((crop, 'flip')), expected)
    crops = jax.vmap(lambda i, k: random_crop(jax.random.split(k)[0], i, 2, mode))(IMAGES, KEYS)
    np.testing.assert_array_equal(augmented((crop,)), crops)
    flips = jax.vmap(lambda i, k: random_flip(jax.random.split(k)[1], i))(IMAGES, KEYS)
    np.testing.assert_array_equal(augmented(('flip',)), flips)
    np.testing.assert_array_equal(augmented(('pad_crop(pad=0)', 'flip')), flips)


def test_crops_and_flips_are_the_recorded_ones():
    """Recorded with an earlier version, whose runs may be resumed."""
    corners = jnp.arange(64.0).reshape(1, 8, 8, 1).repeat(6, axis=0) + 1
    out = augmented(images=corners, positions=jnp.arange(6))
    recorded = [[34, 35], [18, 19], [21, 22], [10, 11], [29, 30], [37, 38]]
    assert np.asarray(out)[:, 3, 3:5, 0].astype(int).tolist() == recorded


def test_transforms_apply_in_the_order_of_their_names():
    first, second = (augmented(names) for names in ((CROP, 'flip'), ('flip', CROP)))
    assert (first != second).any()
    flipped = jax.vmap(lambda i, k: random_flip(jax.random.fold_in(k, 1), i))(IMAGES, KEYS)
    cropped = jax.vmap(lambda i, k: random_crop(jax.random.fold_in(k, 0), i, 2))(flipped, KEYS)
    np.testing.assert_array_equal(second, cropped)


def mix(key, images, targets, partner, weight):
    """A batch transform in the manner of mixup."""
    weight *= jax.random.uniform(key)
    return tuple(weight * x + (1 - weight) * partner(x) for x in (images, targets))


def test_a_batch_transform_changes_images_and_targets_together(monkeypatch):
    weight = {'weight': Parameter(0.5, Range(0, 1), 'of the image itself, at most')}
    monkeypatch.setitem(TRANSFORMS, 'mix', Transform('device', 'batch', 99, mix, weight))
    targets = jax.nn.one_hot(POSITIONS % 10, 10)

    def run(names, step=STEP):
        return augment(names, KEY, IMAGES, targets, step, POSITIONS)

    names = (CROP, 'mix', 'flip')
    check_transforms(names, (8, 8, 3))
    images, mixed = run(names)
    # The weight can be read off the targets.
    weight = float(mixed[0, 0])
    assert 0 < weight < 0.5
    np.testing.assert_allclose(mixed, weight * targets + (1 - weight) * targets[::-1], rtol=1e-6)
    crops = augmented((CROP,))
    expected = weight * crops + (1 - weight) * crops[::-1]
    expected = jax.vmap(lambda i, k: random_flip(jax.random.split(k)[1], i))(expected, KEYS)
    np.testing.assert_allclose(images, expected, rtol=1e-6)
    # Differs in every step, and from the keys of the other transforms and of every example.
    assert float(run(names, step=8)[1][0, 0]) != weight
    assert float(run(('mix',))[1][0, 0]) == weight
    assert float(run(('mix(weight=0.25)',))[1][0, 0]) == weight / 2
    drawn = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 99)))(KEYS)
    drawn = np.concatenate([drawn, jax.vmap(jax.random.uniform)(KEYS)])
    assert not np.isclose(0.5 * drawn, weight, rtol=1e-6).any()


@pytest.mark.slow
def test_pixels_come_before_normalisation():
    """`flip` sees what comes at its place; the mean is taken off after the last one of pixels."""
    pixels = (jnp.arange(4 * 8 * 8 * 3) * 7 % 256).astype(jnp.uint8).reshape(4, 8, 8, 3)
    seen = []

    def normalize(images):
        seen.append(images.dtype)
        return images / 255 - 0.5

    def run(*names):
        found, _ = augment(names, KEY, pixels, None, STEP, jnp.arange(4), normalize=normalize)
        return np.asarray(found)

    black = -0.5 * np.ones((8, 8, 3))
    solarized = run('flip', 'grey(probability=1)', 'pad_crop(pad=0)')
    assert seen == [jnp.uint8]
    np.testing.assert_array_equal(solarized, solarized[..., :1].repeat(3, axis=3))
    # What `pad_crop` adds is the mean, what a rotation does is black.
    turned = run('rotation(degrees=180, fill=0)')
    assert (np.abs(turned - black).max(axis=-1) == 0).any()
    padded = run('grey(probability=0)', 'pad_crop(pad=7)')
    assert (padded == 0).all(axis=-1).any()
    np.testing.assert_array_equal(run('flip'), run('flip', 'grey(probability=0)'))


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('flip', 'flip'),
        (' flip ( ) ', 'flip'),
        ('pad_crop(mode=reflect,pad=2)', 'pad_crop(pad=2, mode=reflect)'),
        ("pad_crop(mode='reflect', pad=4)", 'pad_crop(mode=reflect)'),
        ('random_resized_crop(scale=[0.5, 1])', 'random_resized_crop(scale=(0.5, 1.0))'),
        ('mixup(alpha=1)', 'mixup(alpha=1.0)'),
        ('rand_augment(layers=2, magnitude=9)', 'rand_augment'),
    ],
)
def test_a_text_is_read_and_written(text, expected):
    (chosen,) = read_transforms([text])
    assert str(chosen) == expected
    (again,) = read_transforms([expected])
    assert again == chosen


def test_commas_in_parentheses_do_not_separate():
    text = 'pad_crop(pad=2, mode=reflect), flip,random_resized_crop(scale=(0.5, 1)),, cutout'
    expected = ('pad_crop(pad=2, mode=reflect)', 'flip', 'random_resized_crop(scale=(0.5, 1))')
    assert split_list(text) == (*expected, 'cutout')
    assert split_list('') == () and split_list('a)b,c') == ('a)b', 'c')


@pytest.mark.parametrize(
    ('names', 'words'),
    [
        (('pad_cop',), "unknown transform 'pad_cop'; did you mean 'pad_crop'?"),
        (('flip', 'pad_crop(pad=2)', 'flip'), "'flip' is listed twice"),
        (('flip', 'random_resized_crop'), "list 'random_resized_crop' first"),
        (('pad_crop', 'rand_augment'), "list 'rand_augment' first"),
        (('mixup', 'flip', 'grey'), "'grey' sees pixels and cannot follow 'mixup'"),
        (('pad_crop(mode=zeros)',), "did you mean 'zero'?"),
        (('pad_crop(mode=1)',), 'mode must be a name, got 1'),
        (('pad_crop(mode=reflect, pad=8)',), 'cannot reflect an image of 8 pixels'),
        (('pad_crop(padd=8)',), "'padd'; did you mean 'pad'?"),
        (('pad_crop(8)',), 'values without a key'),
        (('pad_crop(**{})',), 'values without a key'),
        (('pad_crop(pad=1.5)',), 'pad must be a whole number, got 1.5'),
        (('pad_crop(pad=-1)',), 'pad must be at least 0'),
        (('flip(probability=1.5)',), 'probability must be at most 1'),
        (('flip(probability=1e999)',), 'probability must be a finite number'),
        (('flip(probability=True)',), 'probability must be a number'),
        (('flip(probability=1 - 1)',), 'cannot be read'),
        (('flip(',), 'cannot be read; write NAME'),
        (('flip.x',), 'cannot be read'),
        (('(' * 300,), 'cannot be read'),
        (('__import__("os").x()',), 'cannot be read'),
        (('trivial_augment(layers=1)',), "'layers'; known: fill, interpolation"),
        (('random_resized_crop(scale=(0.5,))',), 'scale must be two numbers'),
        (('random_resized_crop(scale=0.5)',), 'scale must be two numbers'),
        (('random_resized_crop(scale=(0.6, 0.5))',), 'the smaller first'),
        (('random_resized_crop(scale=(0.0, 0.5))',), 'must be above 0'),
        (('random_resized_crop(scale=(0.5, 1.5))',), 'must be at most 1'),
        (('random_resized_crop(scale=(nan, 1.0))',), 'cannot be read'),
        (('random_resized_crop(antialias=1)',), 'antialias must be True or False'),
        (('random_scale_crop(sides=(7, 9))',), 'must be at least the image_size 8'),
    ],
)
def test_transforms_that_do_not_fit_are_refused(names, words):
    with pytest.raises(InputError) as caught:
        check_transforms(names, (8, 8, 3))
    assert words in str(caught.value)
    assert '\n' not in str(caught.value)


def test_transforms_that_fit_are_accepted():
    check_transforms((), (8, 8, 3))
    check_transforms(('flip',), (8, 8, 13))
    check_transforms(('pad_crop(pad=7, mode=reflect)',), (8, 8, 3))
    check_transforms(('random_scale_crop(sides=(8, 8))',), (8, 8, 3))
    for dimensions in (1, 2):
        fitting = [name for name, row in TRANSFORMS.items() if dimensions in row.dimensions]
        mixing = [name for name in fitting if TRANSFORMS[name].level == 'batch']
        whole = [name for name in fitting if name != 'multi_crop']
        check_transforms(whole, (224,) * dimensions + (3,))
        check_transforms([n for n in fitting if n not in mixing], (224,) * dimensions + (3,))
    with pytest.raises(InputError, match='lighting'):
        check_transforms(('lighting',), (8, 8, 1))


def test_random_numbers_of_transforms_are_kept_apart():
    streams = [transform.stream for transform in TRANSFORMS.values()]
    assert len(set(streams)) == len(streams)
    # Fixed, so that runs of earlier versions resume; the host's 1 is the order of examples.
    names = ('pad_crop', 'flip', 'random_resized_crop')
    assert [TRANSFORMS[name].stream for name in names] == [0, 1, 2]
    assert all(row.stream != 1 for row in TRANSFORMS.values() if row.where == 'host')


def test_host_transforms_make_the_training_set_stream():
    assert not is_streamed(())
    assert not is_streamed(('pad_crop', 'flip'))
    assert is_streamed(('random_resized_crop(scale=(0.5, 1.0))', 'flip'))


def test_the_documents_table_holds_every_transform_with_its_defaults():
    """docs/data.md, to four decimals, with what each sees and where it is from."""
    page = (pathlib.Path(__file__).parents[1] / 'docs' / 'data.md').read_text()
    for name, row in TRANSFORMS.items():

        def written(value):
            if isinstance(value, tuple):
                return f'({", ".join(map(written, value))})'
            return f'{round(value, 4)}' if isinstance(value, float) else str(value)

        defaults = ', '.join(f'{k}={written(p.default)}' for k, p in row.parameters.items())
        sees = 'host' if row.where == 'host' else row.domain
        assert f'| `{name}({defaults})` | {sees} | {row.source}' in page, name
