"""Masks, boxes and maps of depth go where a transform moves their image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data import TRANSFORMS, augment, check_transforms, read_transforms
from resnet_jax.data.targets import IGNORED, LEAST_VISIBLE, MOST_OBJECTS, NOTHING, move_targets
from resnet_jax.errors import InputError

COUNT = 48
HEIGHT, WIDTH = 24, 32
# Left, top, right, bottom of painted rectangles, and their depth.
RECTANGLES = [((2, 3, 9, 12), 1.5), ((20, 1, 32, 6), 2.5), ((11, 14, 18, 23), 3.0)]
WALL = 4.0
NAMES = ('segmentation', 'boxes', 'classes', 'depth')


def scene():
    """An image with a channel for each class, 1 where it is, and its targets; without noise."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    depth = np.full((HEIGHT, WIDTH), WALL, np.float32)
    boxes = np.zeros((MOST_OBJECTS, 4), np.float32)
    classes = np.full(MOST_OBJECTS, NOTHING, np.int32)
    for i, (box, far) in enumerate(RECTANGLES):
        left, top, right, bottom = boxes[i] = box
        here = slice(int(top), int(bottom)), slice(int(left), int(right))
        mask[here], depth[here], classes[i] = i + 1, far, i + 1
    image = np.eye(len(RECTANGLES) + 1, dtype=np.float32)[mask]
    return image, dict(zip(NAMES, (mask, boxes, classes, depth), strict=True))


def batch(count=COUNT):
    image, targets = scene()
    return jax.tree.map(lambda x: np.stack([x] * count), (image, targets))


@functools.partial(jax.jit, static_argnums=0)
def run(texts, images, targets, positions):
    return augment(texts, jax.random.key(0), images, targets, 3, positions)


def moved(*texts):
    """The scene after each of many draws: pairs of an image and its targets."""
    images, targets = batch()
    images, found = jax.tree.map(np.asarray, run(texts, images, targets, np.arange(COUNT)))
    assert {name: (x.dtype, x.shape) for name, x in found.items()} == {
        name: (x.dtype, x.shape) for name, x in targets.items()
    }
    return [(images[i], {name: x[i] for name, x in found.items()}) for i in range(COUNT)]


def box_of(where):
    rows, columns = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def painted(image):
    """The class that an image shows at each pixel; 255 where it shows nothing."""
    return np.where(image.sum(-1) > 0.5, image.argmax(-1), IGNORED)


def check_targets(mask, targets, whole, within=0.0, unsure=0.0):
    """Checks all targets against the mask that an image shows.

    `whole` are the pixels of each object if all of it were there; `within` is how far boxes may be
    off; of objects whose visible share is that near to the least one may be kept or not.
    """
    depths = np.asarray([WALL, *(far for _, far in RECTANGLES)], np.float32)
    known = targets['segmentation'] != IGNORED
    values = np.where(known, depths[np.where(known, targets['segmentation'], 0)], 0)
    np.testing.assert_array_equal(targets['depth'], values)
    kept = 0
    for i in range(len(RECTANGLES)):
        here = mask == i + 1
        share = here.sum() / whole[i]
        if targets['classes'][i] == NOTHING:
            assert share < LEAST_VISIBLE + unsure
            assert not targets['boxes'][i].any()
            continue
        assert targets['classes'][i] == i + 1 and share >= LEAST_VISIBLE - unsure
        if here.any():  # the smallest fall between pixels
            np.testing.assert_allclose(targets['boxes'][i], box_of(here), atol=within + 1e-4)
        kept += 1
    rest = slice(len(RECTANGLES), None)
    assert (targets['classes'][rest] == NOTHING).all() and not targets['boxes'][rest].any()
    return kept


def areas(factor=1.0):
    boxes = [box for box, _ in RECTANGLES]
    return [factor**2 * (right - left) * (low - top) for left, top, right, low in boxes]


@pytest.mark.parametrize(
    ('texts', 'places', 'objects'),
    [
        (('flip',), (2, 2), (3, 3)),
        (('pad_crop(pad=0)',), (1, 1), (3, 3)),
        (('flip', 'pad_crop(pad=8)'), (COUNT / 2, COUNT), (2, 3)),
        (('pad_crop(pad=20)',), (COUNT / 2, COUNT), (0, 2)),  # which leaves few of the objects
    ],
)
def test_targets_follow_to_the_pixel(texts, places, objects):
    kept, seen = [], set()
    for image, targets in moved(*texts):
        assert set(np.unique(image)) <= {0, 1}
        mask = painted(image)
        np.testing.assert_array_equal(targets['segmentation'], mask)
        kept.append(check_targets(mask, targets, areas()))
        seen.add(mask.tobytes())
    assert places[0] <= len(seen) <= places[1]
    assert objects[0] <= np.mean(kept) <= objects[1]
    assert (min(kept) == 0) == ('pad_crop(pad=20)' in texts)


def test_the_border_is_unknown_where_an_image_is_reflected():
    pad = 5
    for image, targets in moved(f'pad_crop(pad={pad}, mode=reflect)'):
        mask = targets['segmentation']
        known = mask != IGNORED
        np.testing.assert_array_equal(mask[known], painted(image)[known])
        assert image.sum(-1).all(), 'it has no border'
        left, top, right, bottom = box_of(known)
        assert known[top:bottom, left:right].all()
        assert min(bottom - top - HEIGHT, right - left - WIDTH) >= -pad
        check_targets(mask, targets, areas())


@pytest.mark.parametrize('factor', [0.6, 2.5])
def test_targets_follow_a_zoom(factor):
    """Up to the pixels between two colours, which a zoom mixes."""
    places = set()
    for image, targets in moved(f'random_zoom(scale=({factor}, {factor}))'):
        mask, inside = painted(image), image.sum(-1) > 0.5
        np.testing.assert_allclose(image.sum(-1), inside, atol=1e-5)
        np.testing.assert_array_equal(targets['segmentation'] != IGNORED, inside)
        pure = inside & (image.max(-1) > 0.75)
        assert pure[inside].mean() > 0.6
        np.testing.assert_array_equal(targets['segmentation'][pure], mask[pure])
        check_targets(targets['segmentation'], targets, areas(factor), 0.501, 0.15)
        places.add(mask.tobytes())
        for side, axis in ((WIDTH, 0), (HEIGHT, 1)):
            shown = inside.any(axis).sum()
            assert abs(shown - min(side, side * factor)) <= 1
    assert len(places) > COUNT / 2


def test_a_zoom_shrinks_as_often_as_it_enlarges():
    (one,) = read_transforms(['random_zoom'])
    mask = {'segmentation': jnp.zeros((HEIGHT, WIDTH), jnp.uint8)}
    keys = jax.random.split(jax.random.key(0), COUNT)
    found = jax.jit(jax.vmap(lambda key: one.follow(key, mask, (HEIGHT, WIDTH))))(keys)
    shares = (np.asarray(found['segmentation']) != IGNORED).mean((1, 2))
    assert 0.25 * COUNT < (shares < 1).sum() < 0.75 * COUNT
    assert 0.2 < shares.min() < 0.5, 'half of each side at least'


def test_objects_that_nearly_disappear_are_none():
    """A box of 8x4 pixels moved out to the left, pixel by pixel."""
    targets = {
        'boxes': np.asarray([[0, 2, 8, 6], [3, 3, 3, 9]], np.float32),
        'classes': np.asarray([5, 6], np.int32),
    }
    move = jax.jit(lambda targets, moves: move_targets(targets, (HEIGHT, WIDTH), 1.0, moves))
    for shift in range(10):
        moves = np.asarray([0, -shift], np.float32)
        found = move(targets, moves)
        if 8 - shift >= 8 * LEAST_VISIBLE:
            assert found['boxes'][0].tolist() == [0, 2, 8 - shift, 6]
            assert found['classes'].tolist() == [5, NOTHING], 'the other has no area'
        else:
            assert not np.any(found['boxes']) and found['classes'].tolist() == [NOTHING] * 2


@pytest.mark.parametrize('text', ['color_jitter', 'lighting(std=2)', 'grey(probability=1)'])
def test_colours_change_and_targets_stay(text):
    _, targets = batch(4)
    images = np.random.default_rng(0).integers(0, 256, (4, HEIGHT, WIDTH, 3), dtype=np.uint8)
    changed, found = run((text,), images, targets, np.arange(4))
    assert not np.array_equal(changed, images)
    jax.tree.map(np.testing.assert_array_equal, found, targets)


def test_colours_and_places_together():
    """Pixels change first, on uint8; then what moves them, on normalised images."""
    image, _ = scene()
    _, targets = batch()
    shades = np.asarray([[30, 30, 30], [250, 30, 30], [30, 250, 30], [30, 30, 250]], np.uint8)
    pixels = np.stack([shades[image.argmax(-1)]] * COUNT)
    texts = ('grey', 'flip', 'pad_crop(pad=4)')
    found, targets = jax.jit(
        lambda pixels, targets: augment(
            *(texts, jax.random.key(2), pixels, targets, 0, jnp.arange(COUNT)),
            normalize=lambda x: x.astype(jnp.float32) + 1,
        )
    )(pixels, targets)
    outside = np.asarray(found).max(-1) == 0
    np.testing.assert_array_equal(targets['segmentation'] == IGNORED, outside)
    for one, mask in zip(np.asarray(found), np.asarray(targets['segmentation']), strict=True):
        for number in range(4):  # one colour each
            here = one[mask == number]
            assert len(here) == 0 or (here == here[0]).all()


def test_a_batch_in_shares_is_the_whole_batch():
    texts = ('flip', 'pad_crop(pad=6)')
    images, targets = batch(16)
    images = images + np.arange(16, dtype=np.float32).reshape(16, 1, 1, 1)
    batches = images, targets, np.arange(16)
    whole = run(texts, *batches)
    order = np.random.default_rng(0).permutation(16)
    for rows in (order[:8], order[8:]):
        mine = jax.tree.map(lambda x, rows=rows: x[rows], batches)
        jax.tree.map(
            lambda part, x, rows=rows: np.testing.assert_array_equal(part, np.asarray(x)[rows]),
            *(run(texts, *mine), whole),
        )


def test_each_kind_of_target_alone():
    (one,) = read_transforms(['random_zoom'])
    kinds = ('segmentation',), ('boxes', 'classes'), ('depth',)

    @jax.jit
    def follow(targets):
        each = [{name: targets[name] for name in names} for names in (NAMES, *kinds)]
        return [one.follow(jax.random.key(1), some, (HEIGHT, WIDTH)) for some in each]

    every, *found = follow(scene()[1])
    for names, some in zip(kinds, found, strict=True):
        jax.tree.map(np.testing.assert_array_equal, some, {name: every[name] for name in names})


@pytest.mark.parametrize('name', [n for n, row in TRANSFORMS.items() if 2 in row.dimensions])
def test_transforms_that_do_not_follow_are_refused(name):
    follows = {'flip', 'pad_crop', 'random_zoom', 'color_jitter', 'lighting', 'grey'}
    check_transforms((name,), (64, 64, 3), dense=False)
    if name in follows:
        check_transforms((name,), (64, 64, 3), dense=True)
        return
    with pytest.raises(InputError, match=f"transform '{name}' does not move masks") as caught:
        check_transforms((name,), (64, 64, 3), dense=True)
    line = str(caught.value)
    assert '\n' not in line and all(other in line for other in follows)
