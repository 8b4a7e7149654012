"""Small crops of each image, beside it: their pixels, and what a step learns from them."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from running import flags, tiny
from scipy import stats

from resnet_jax.cli import main
from resnet_jax.data import augment
from resnet_jax.data.transforms.geometry import multi_crop
from resnet_jax.data.transforms.regions import random_box
from resnet_jax.errors import InputError
from resnet_jax.training.step import create_state, make_train_step
from resnet_jax.training.tasks import TASKS

SCALE, RATIO = (0.2, 0.5), (3 / 4, 4 / 3)
CROPS = 'multi_crop(count=2, size=5, scale=(0.3, 0.7))'
LABELS = jnp.asarray([3, 1, 4, 1])


def boxes(count, shape, scale=SCALE, ratio=RATIO):
    """Top, left, height and width of many boxes."""
    keys = jax.random.split(jax.random.key(2), count)
    draw = jax.jit(jax.vmap(lambda key: random_box(key, shape, shape, scale, ratio)[:2]))
    (top, left), (height, width) = draw(keys)
    return tuple(np.asarray(x) for x in (top, left, height, width))


@pytest.mark.slow
def test_crops_are_those_of_pillow():
    image = jax.random.normal(jax.random.key(1), (40, 30, 2))
    key = jax.random.key(3)
    crops = np.asarray(jax.jit(lambda *x: multi_crop(*x, 3, 8, SCALE, RATIO))(key, image))
    assert crops.shape == (3, 8, 8, 2)
    for crop, own in zip(crops, jax.random.split(key, 3), strict=True):
        (top, left), (height, width), fits = random_box(own, (40, 30), (40, 30), SCALE, RATIO)
        assert fits
        box = (int(left), int(top), int(left + width), int(top + height))
        for channel in range(2):
            pixels = Image.fromarray(np.asarray(image[..., channel], np.float32))
            expected = pixels.resize((8, 8), Image.Resampling.BILINEAR, box=box)
            np.testing.assert_allclose(crop[..., channel], np.asarray(expected), atol=1e-5)


def test_boxes_have_the_stated_distribution():
    """Areas uniform, ratios uniform in their logarithm, places uniform; at a rate below 1e-6."""
    side = 400
    top, left, height, width = boxes(4000, (side, side))
    assert (top >= 0).all() and (top + height <= side).all()
    assert (left >= 0).all() and (left + width <= side).all()
    areas = height * width / side**2
    assert stats.kstest(areas, stats.uniform(0.2, 0.3).cdf).pvalue > 1e-6
    ratios = np.log(height / width) / np.log(4 / 3)
    assert stats.kstest(ratios, stats.uniform(-1, 2).cdf).pvalue > 1e-6
    assert stats.kstest(left / (side - width), stats.uniform(0, 1).cdf).pvalue > 1e-6


@pytest.mark.slow
def test_a_crops_ratio_is_its_width_over_its_height():
    """Read off an image that holds its rows and columns: between middles, a quarter of the box."""
    image = jnp.stack(jnp.meshgrid(jnp.arange(60.0), jnp.arange(60.0), indexing='ij'), axis=-1)
    cut = jax.jit(lambda key, image: multi_crop(key, image, 50, 4, SCALE, (2, 3)))
    crops = np.asarray(cut(jax.random.key(0), image))
    ratios = (crops[:, 1, 2, 1] - crops[:, 1, 1, 1]) / (crops[:, 2, 1, 0] - crops[:, 1, 1, 0])
    assert 1.85 < ratios.min() < 2.2 and 2.8 < ratios.max() < 3.2  # sides are whole: to 3 %


def test_each_example_has_its_own_crops_whatever_the_batch():
    images = jax.random.normal(jax.random.key(1), (4, 12, 12, 3))

    @jax.jit
    def program(images, positions, step):
        labels = LABELS[: len(images)]
        return augment(('flip', CROPS), jax.random.key(0), images, labels, step, positions)

    def run(images, positions, step=0):
        (whole, crops), labels = program(images, positions, step)
        assert labels.shape == (len(images),)
        return np.asarray(whole), np.asarray(crops)

    whole, crops = run(images, jnp.arange(4))
    assert whole.shape == (4, 12, 12, 3) and crops.shape == (4, 2, 5, 5, 3)
    for half in (slice(0, 2), slice(2, 4)):
        for part, both in zip(run(images[half], jnp.arange(4)[half]), (whole, crops), strict=True):
            np.testing.assert_allclose(part, both[half], atol=1e-6)
    assert not np.allclose(crops[:, 0], crops[:, 1])
    assert not np.allclose(crops, run(images, jnp.arange(4), step=1)[1])


class Linear(nn.Module):
    """The mean pixel of an image of any size, times a matrix."""

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(10, name='stem')(images.mean((1, 2)))


@pytest.mark.parametrize('pieces', [1, 2])
def test_a_step_learns_from_the_mean_loss_of_all_crops(pieces):
    model, optimizer = Linear(), optax.sgd(1.0)
    images, crops = (jax.random.normal(jax.random.key(k), s) for k, s in (
        (1, (4, 6, 6, 3)), (2, (4, 2, 3, 3, 3))
    ))  # fmt: skip
    state = create_state(model, optimizer, (6, 6, 3), seed=0, ema=False)
    task = dataclasses.replace(TASKS['classification'])

    def loss(logits, labels):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    step = make_train_step(
        model,
        optimizer,
        lambda images, targets, *_: ((images, crops), targets),
        task,
        seed=0,
        loss=loss,
        pieces=pieces,
    )
    new, sums = jax.jit(step)(state, {'image': images, 'label': LABELS})

    def expected(params):
        """All twelve images one by one, with the labels of those that they were cut from."""
        pixels = [*images, *crops.reshape(-1, 3, 3, 3)]
        means = jnp.stack([one.mean((0, 1)) for one in pixels])
        labels = [*LABELS, *(label for label in LABELS for _ in range(2))]
        logits = means @ params['stem']['kernel'] + params['stem']['bias'][None]
        log_p = jax.nn.log_softmax(logits)
        return -jnp.mean(log_p[jnp.arange(12), jnp.asarray(labels)])

    moved = jax.tree.map(jnp.subtract, state.params, new.params)
    slopes = jax.jit(jax.grad(expected))(state.params)
    for got, wanted in zip(*map(jax.tree.leaves, (moved, slopes)), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert float(sums['n']) == 4  # figures are those of whole images


def test_a_run_learns_from_crops(tmp_path):
    fields = {'augment.transforms': f"'pad_crop(pad=1), {CROPS}'", 'train.steps': 4}
    assert main(['train', *flags(fields), '--workdir', str(tmp_path / 'run')]) == 0


@pytest.mark.parametrize(
    ('transforms', 'words'),
    [
        (f'mixup, {CROPS}', 'does not go with'),
        (f'{CROPS}, flip', "list 'flip' first"),
        ('multi_crop(count=0)', 'count'),
    ],
)
def test_what_it_does_not_go_with(transforms, words):
    with pytest.raises(InputError, match=words):
        tiny({'augment.transforms': f"'{transforms}'"})


def test_no_teacher_sees_crops():
    with pytest.raises(InputError, match=r'does not go with distill\.teacher'):
        tiny({'augment.transforms': f"'{CROPS}'", 'distill.teacher': 'runs/teacher'})
