"""Corruptions against the authors' formulas and another library; the study against `eval`."""

import io
import json
import warnings

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from running import command, flags
from scipy import ndimage, stats

from resnet_jax import data
from resnet_jax.analysis import robustness
from resnet_jax.analysis.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    blur,
    corrupt,
    digital,
    pixels,
    table_of,
    weather,
)
from resnet_jax.analysis.examples import Examples
from resnet_jax.cli import main
from resnet_jax.data import Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.training.evaluate import evaluate, make_eval_step

SEED, INDEX = 3, 7


def picture(side, channels=3):
    """Smooth shapes, edges and some noise; no black or white."""
    y, x = np.mgrid[:side, :side] / side
    planes = [0.5 + 0.3 * np.sin(9 * x * y + 2 * k) for k in range(3)]
    image = (
        200 * np.stack(planes[:channels], axis=-1) + 30 * ((x - 0.5) ** 2 + y**2 < 0.2)[..., None]
    )
    noise = np.random.default_rng(0).integers(0, 20, image.shape)
    return (image + noise).clip(1, 254).astype(np.uint8)


def off(a, b):
    """The largest difference of two uint8 images."""
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def rng_of(name, severity):
    return np.random.default_rng([SEED, CORRUPTIONS[name].stream, severity, INDEX])


@pytest.mark.parametrize('name', CORRUPTIONS)
@pytest.mark.parametrize('side', [8, 32, 224])
@pytest.mark.parametrize('channels', [1, 3])
def test_every_corruption_changes_images_of_every_size(name, side, channels):
    image = picture(side, channels)
    kept = image.copy()
    severities = SEVERITIES if side < 224 else (5,)
    for severity in severities:
        found = corrupt(image, name, severity, SEED, INDEX)
        assert found.shape == image.shape and found.dtype == np.uint8
        again = corrupt(image, name, severity, SEED, INDEX)
        assert (found == again).all() and (image == kept).all()
        # Of 8 pixels, the mildest severities leave some.
        assert side == 8 or (found != image).any()
    assert (corrupt(image, name, 0) == image).all()


@pytest.mark.parametrize(
    'name',
    [
        *('gaussian_noise', 'shot_noise', 'impulse_noise', 'glass_blur', 'motion_blur', 'snow'),
        *('frost', 'fog', 'elastic_transform'),
    ],
)
def test_random_numbers_belong_to_the_seed_the_severity_and_the_example(name):
    image = picture(32)
    found = [corrupt(image, name, 2, *which) for which in [(0, 0), (1, 0), (0, 1)]]
    assert off(found[0], found[1]) and off(found[0], found[2])


def test_streams_differ():
    assert len({row.stream for row in CORRUPTIONS.values()}) == len(CORRUPTIONS) == 15
    assert all(len(row.cifar) == len(row.imagenet) == 5 for row in CORRUPTIONS.values())
    assert [table_of(side) for side in (8, 32, 64, 65, 224)] == ['cifar'] * 3 + ['imagenet'] * 2


@pytest.mark.parametrize('side', [32, 224])
@pytest.mark.parametrize('severity', SEVERITIES)
def test_noise_has_its_distribution(side, severity):
    """On grey of value v: deviation c; sqrt(v / c); a share of c, half of it white."""
    cifar = {'gaussian': (0.04, 0.06, 0.08, 0.09, 0.1), 'shot': (500, 250, 100, 75, 50)}
    cifar['impulse'] = (0.01, 0.02, 0.03, 0.05, 0.07)
    imagenet = {'gaussian': (0.08, 0.12, 0.18, 0.26, 0.38), 'shot': (60, 25, 12, 5, 3)}
    imagenet['impulse'] = (0.03, 0.06, 0.09, 0.17, 0.27)
    of = {name: c[severity - 1] for name, c in (cifar if side == 32 else imagenet).items()}
    value = 128 / 255
    grey = np.full((side, side, 3), 128, np.uint8)
    seeds = range(8 if side == 32 else 1)

    def values(name):
        found = [corrupt(grey, name, severity, seed) for seed in seeds]
        return np.concatenate([each.ravel() for each in found])

    # Clipped to 0 and 1, and cut off to multiples of 1 / 255.
    normal = values('gaussian_noise') / 255
    expected = stats.norm(value, of['gaussian'])
    for q in (0.2, 0.5, 0.9):
        share = np.mean(normal < value + (q - 0.5) * of['gaussian'])
        cut = np.ceil((value + (q - 0.5) * of['gaussian']) * 255) / 255
        assert share == pytest.approx(expected.cdf(cut), abs=0.01)
    photons = values('shot_noise')
    mean = value * of['shot']
    for k in (int(0.7 * mean), int(mean), int(1.3 * mean)):
        share = np.mean(photons <= min(k / of['shot'], 1) * 255)
        assert share == pytest.approx(stats.poisson(mean).cdf(k) if k < of['shot'] else 1, abs=0.01)
    impulse = values('impulse_noise')
    assert set(np.unique(impulse)) == {0, 128, 255}
    assert np.mean(impulse != 128) == pytest.approx(of['impulse'], abs=0.008)
    assert np.mean(impulse[impulse != 128] == 255) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize('side', [32, 224])
def test_closed_forms(side):
    image = picture(side)
    x = image / 255
    contrast, added, quality = (
        ((0.75, 0.5, 0.4, 0.3, 0.15), (0.05, 0.1, 0.15, 0.2, 0.3), (80, 65, 58, 50, 40))
        if side == 32
        else ((0.4, 0.3, 0.2, 0.1, 0.05), (0.1, 0.2, 0.3, 0.4, 0.5), (25, 18, 15, 10, 7))
    )
    factors = (0.95, 0.9, 0.85, 0.75, 0.65) if side == 32 else (0.6, 0.5, 0.4, 0.3, 0.25)
    for i, severity in enumerate(SEVERITIES):
        mean = x.mean((0, 1))
        expected = (255 * (contrast[i] * x + (1 - contrast[i]) * mean)).astype(np.uint8)
        assert off(corrupt(image, 'contrast', severity), expected) <= 1
        bright = corrupt(image, 'brightness', severity)
        value = np.minimum(x.max(axis=2) + added[i], 1)
        assert np.abs(bright.max(axis=2) - 255 * value).max() <= 1.01
        hues = [
            np.asarray(Image.fromarray(each).convert('HSV'))[..., :2] for each in (image, bright)
        ]
        assert np.median(np.abs(hues[0].astype(int) - hues[1])) <= 2
        out = io.BytesIO()
        Image.fromarray(image).save(out, 'JPEG', quality=quality[i])
        expected = np.asarray(Image.open(out))
        assert (corrupt(image, 'jpeg_compression', severity) == expected).all()
        small = int(side * factors[i])
        pixelated = corrupt(image, 'pixelate', severity)
        assert abs(pixelated.mean() - image.mean()) < 1
        # Nearest enlargement would have exactly so many different columns; box has the edges too.
        columns = len(np.unique(pixelated.reshape(-1, side * 3)[:, ::3], axis=1).T)
        assert small <= columns <= side
    assert (corrupt(np.zeros((32, 32, 3), np.uint8), 'brightness', 5) == int(0.3 * 255)).all()


@pytest.mark.parametrize('side', [31, 32, 224])
@pytest.mark.parametrize('factor', [1.0, 1.01, 1.13, 1.75, 2.25, 4.5])
def test_an_enlargement_is_that_of_scipy(side, factor):
    x = picture(side) / 255
    kept = int(np.ceil(side / factor))
    first = (side - kept) // 2
    centre = x[first : first + kept, first : first + kept]
    whole = ndimage.zoom(centre, (factor, factor, 1), order=1)
    trim = (len(whole) - side) // 2
    expected = whole[trim : trim + side, trim : trim + side]
    assert np.allclose(pixels.enlarged(x, factor), expected, atol=1e-9)


def test_the_blur_of_a_point_is_its_kernel():
    x = np.zeros((41, 41, 1))
    x[20, 20] = 1
    # To the right: each pixel averages what is to its right, so that a point smears to the left.
    row = pixels.moved_average(x, 5, 2, angle=0)[20, :, 0]
    weights = np.exp(-(np.arange(11) ** 2) / 8)
    assert np.allclose(row[10:21], (weights / weights.sum())[::-1])
    down = pixels.moved_average(x, 5, 2, angle=90)[:, 20, 0]
    assert np.allclose(down, row)
    constant = np.full((8, 8, 3), 0.5)
    assert np.allclose(pixels.moved_average(constant, 14, 12, 30), constant)


@pytest.mark.parametrize('outside', ['mirror', 'reflect'])
def test_interpolation_is_that_of_scipy(outside):
    x, rng = picture(16) / 255, np.random.default_rng(1)
    rows, columns = rng.uniform(-14, 30, (2, 9, 9))
    found = digital._sampled(x, rows, columns, outside)
    for c in range(3):
        expected = ndimage.map_coordinates(x[..., c], [rows, columns], order=1, mode=outside)
        assert np.allclose(found[..., c], expected)


def test_elastic_displacements_are_those_of_the_formula():
    """Severity 5 of CIFAR's: corners by 0.03 sides, displacements of 0.1, smoothed by 0.03."""
    image, rng = picture(32), rng_of('elastic_transform', 5)
    x = digital.warped(image / 255, rng.uniform(-0.96, 0.96, (3, 2)))
    dx, dy = (
        3.2 * ndimage.gaussian_filter(rng.uniform(-1, 1, (32, 32)), 0.96, truncate=3)
        for _ in range(2)
    )
    at = np.mgrid[:32, :32] + np.stack([dy, dx])
    planes = [ndimage.map_coordinates(x[..., c], at, order=1, mode='reflect') for c in range(3)]
    expected = (255 * np.stack(planes, axis=-1)).astype(np.uint8)
    assert off(corrupt(image, 'elastic_transform', 5, SEED, INDEX), expected) <= 1


def test_an_affine_shift_moves_the_image():
    x = picture(32) / 255
    shifts = np.tile([3.0, -2.0], (3, 1))  # 3 to the right, 2 up
    found = digital.warped(x, shifts)
    assert np.allclose(found[:30, 3:], x[2:, :29])
    assert np.allclose(digital.warped(x, np.zeros((3, 2))), x)


def test_plasma_repeats_on_a_torus_and_fills_the_range():
    found = pixels.plasma(64, 2.0, np.random.default_rng(0))
    assert found.min() == 0 and found.max() == 1
    steps = np.abs(np.diff(found, axis=0)).mean()
    assert np.abs(found[0] - found[-1]).mean() < 3 * steps
    assert np.abs(np.diff(pixels.plasma(64, 1.2, np.random.default_rng(0)), axis=0)).mean() > steps


def test_frost_is_added_in_its_shares():
    image = np.full((32, 32, 3), 40, np.uint8)
    texture = weather.procedural_frost(32, rng_of('frost', 4))
    expected = np.clip(0.85 * 40 + 0.4 * texture, 0, 255).astype(np.uint8)
    assert (corrupt(image, 'frost', 4, SEED, INDEX) == expected).all()
    assert np.abs(texture.mean((0, 1)) - [146, 167, 179]).max() < 3


def test_glass_copies_from_neighbours():
    """Written out as the authors' loop, whose swap of views of an array only copies."""
    side, reach, rounds = 9, 2, 2
    shifts = np.random.default_rng(0).integers(-reach, reach, (rounds, 5, 5, 2))
    x = np.arange(side * side).reshape(side, side, 1).repeat(3, axis=2)
    for i in range(rounds):
        for a, h in enumerate(range(side - reach, reach, -1)):
            for b, w in enumerate(range(side - reach, reach, -1)):
                dx, dy = shifts[i, a, b]
                x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx], x[h, w]
    found = blur.copied_from(shifts, side, reach)
    assert (found.reshape(side, side) == x[..., 0]).all()
    assert len(set(found.tolist())) < side * side


class Rewired:
    """NumPy whose random numbers come from a generator, under the names of numpy.random."""

    def __init__(self, rng):
        self.random = self
        self._rng, self.normal, self.uniform, self.poisson = (
            rng,
            rng.normal,
            rng.uniform,
            rng.poisson,
        )
        self.randint = rng.integers

    def __getattr__(self, name):
        return getattr(np, name)


@pytest.fixture
def library(monkeypatch):
    """A function of (name, severity, image): the same corruption by imagecorruptions-imaug."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        theirs = pytest.importorskip('imagecorruptions.corruptions', exc_type=ImportError)

    def run(name, severity, image):
        rng = rng_of(name, severity)
        monkeypatch.setattr(theirs, 'np', Rewired(rng))
        options = {'seed': rng} if name == 'impulse_noise' else {}
        found = getattr(theirs, name)(Image.fromarray(image), severity, **options)
        return np.uint8(found)

    return run


# The library has the parameters of ImageNet-C; an elastic transform with its own parameters,
# another crop in the enlargements, pixels enlarged without a filter, and photographs of frost.
@pytest.mark.parametrize(
    ('name', 'tolerance'),
    [
        *(('gaussian_noise', 0), ('shot_noise', 0), ('impulse_noise', 1), ('defocus_blur', 1)),
        *(('motion_blur', 1), ('fog', 1), ('brightness', 1), ('contrast', 0)),
        ('jpeg_compression', 0),
    ],
)
def test_corruptions_are_those_of_the_library(library, name, tolerance):
    image = picture(224)
    for severity in SEVERITIES:
        found = corrupt(image, name, severity, SEED, INDEX)
        assert off(found, library(name, severity, image)) <= tolerance


def test_zoomed_corruptions_are_close_to_the_library(library):
    """It cuts its enlargements at the top left and not in the middle: a pixel's difference."""
    image = picture(224)
    for severity in SEVERITIES:
        found = corrupt(image, 'zoom_blur', severity).astype(float)
        assert np.abs(found - library('zoom_blur', severity, image)).mean() < 2
    # Of noise, a pixel makes a difference: the amounts of snow are compared.
    for severity in SEVERITIES:
        found, theirs = (
            corrupt(image, 'snow', severity, SEED, INDEX),
            library('snow', severity, image),
        )
        assert found.mean() == pytest.approx(theirs.mean(), abs=4)
        assert found.std() == pytest.approx(theirs.std(), rel=0.1)


def test_the_authors_glass_and_frost(library, monkeypatch):
    from imagecorruptions import corruptions as theirs

    image = picture(224)
    loop = theirs._shuffle_pixels_njit_glass_blur.py_func
    rng = rng_of('glass_blur', 2)
    monkeypatch.setattr(theirs, 'np', Rewired(rng))
    loop.__globals__['np'].random.seed = lambda seed: None
    monkeypatch.setattr(theirs, '_shuffle_pixels_njit_glass_blur', loop)
    expected = np.uint8(theirs.glass_blur(Image.fromarray(image), 2, seed=1))
    found = corrupt(image, 'glass_blur', 2, SEED, INDEX)
    assert np.mean(np.abs(found.astype(int) - expected) > 1) < 1e-3
    # The photographs: the authors' share of one of them, on black.
    black = np.zeros((224, 224, 3), np.uint8)
    frosted = corrupt(black, 'frost', 1, SEED, INDEX, frost='photographs')
    rng = rng_of('frost', 1)
    name = weather.PHOTOGRAPHS[rng.integers(5)]
    photograph = np.asarray(Image.open(weather.photographs_folder() / name).convert('RGB'))
    top, left = rng.integers(len(photograph) - 224), rng.integers(photograph.shape[1] - 224)
    part = photograph[top : top + 224, left : left + 224]
    assert off(frosted, np.uint8(0.4 * part)) <= 1


def test_bad_corruptions_are_refused():
    image = picture(32)
    with pytest.raises(InputError, match=r"'motion_blr'.*motion_blur"):
        corrupt(image, 'motion_blr', 1)
    with pytest.raises(InputError, match='severity must be from 1 to 5, got 6'):
        corrupt(image, 'fog', 6)
    with pytest.raises(InputError, match='grey and RGB'):
        corrupt(np.zeros((32, 32, 5), np.uint8), 'fog', 1)


NAMES, CHOSEN = ('impulse_noise', 'contrast', 'glass_blur'), (1, 5)


class NearestMean(nn.Module):
    """Answers the class whose mean image is nearest."""

    @nn.compact
    def __call__(self, images, train):
        means = self.param('means', nn.initializers.zeros, (10, 64))
        rows = images.reshape(len(images), -1)
        return rows @ means.T - jnp.sum(means**2, axis=1)[None] / 2


@pytest.fixture(scope='module')
def subject():
    """On grey digits, whose classes are in another order than the model's."""
    source = data.open_source('digits', 'test[:50]')
    names = tuple(reversed(source.class_names))
    preprocessing = Preprocessing(8, 1, None, (0.3,), (0.3,), names)
    digits = data.load_arrays(data.open_source('digits', 'train'), preprocessing, progress=False)
    images = np.asarray(preprocessing.normalize(digits['image'])).reshape(-1, 64)
    means = np.stack([images[digits['label'] == 9 - i].mean(0) for i in range(10)])
    examples = Examples(source, preprocessing, tuple(range(9, -1, -1)), 20)
    return NearestMean(), {'params': {'means': means}}, examples


@pytest.fixture(scope='module')
def found(subject):
    return robustness.study(*subject, NAMES, CHOSEN, seed=5)


def test_the_study_evaluates_corrupted_images(subject, found):
    model, variables, examples = subject
    step = make_eval_step(model, examples.preprocessing)
    images = [example['image'] for example in examples.source.take(range(50))]
    labels = np.array([9 - example['label'] for example in examples.source.take(range(50))])

    def error(images):
        batch = {'image': np.stack(images), 'label': labels, 'mask': np.ones(50, bool)}
        return 1 - evaluate(step, variables, [batch])[0]['top1']

    assert found['clean'] == pytest.approx(error(images))
    for name in NAMES:
        for severity in CHOSEN:
            damaged = [corrupt(x, name, severity, 5, i) for i, x in enumerate(images)]
            assert found['error'][name][str(severity)] == pytest.approx(error(damaged))
        assert found['mean'][name] == pytest.approx(np.mean(list(found['error'][name].values())))
    assert found['mean_error'] == pytest.approx(np.mean(list(found['mean'].values())))
    assert found['clean'] < 0.2
    assert len({x for errors in found['error'].values() for x in errors.values()}) > 3


@pytest.mark.slow
def test_workers_make_no_difference(subject, found):
    model, variables, examples = subject
    with_workers = Examples(**{**vars(examples), 'workers': 2})
    assert robustness.study(model, variables, with_workers, NAMES, CHOSEN, seed=5) == found


def test_the_batch_size_makes_no_difference(subject, found):
    model, variables, examples = subject
    smaller = Examples(**{**vars(examples), 'batch_size': 7})
    again = robustness.study(model, variables, smaller, NAMES, CHOSEN, seed=5)
    assert again == found


def study_of(clean, **errors):
    by_name = {
        name: {str(s): e for s, e in zip((1, 3), of, strict=True)} for name, of in errors.items()
    }
    return {'clean': clean, 'error': by_name}


def test_mce_is_that_of_the_paper():
    ours = study_of(0.1, fog=(0.2, 0.4), snow=(0.3, 0.3))
    theirs = study_of(0.2, fog=(0.5, 0.7), snow=(0.3, 0.6))
    compared = robustness.compare(ours, theirs)
    assert compared['ce'] == pytest.approx({'fog': 0.6 / 1.2, 'snow': 0.6 / 0.9})
    assert compared['mce'] == pytest.approx((0.6 / 1.2 + 0.6 / 0.9) / 2)
    assert compared['relative_ce'] == pytest.approx({'fog': 0.4 / 0.8, 'snow': 0.4 / 0.5})
    assert compared['relative_mce'] == pytest.approx((0.4 / 0.8 + 0.4 / 0.5) / 2)
    same = robustness.compare(ours, ours)
    assert same['mce'] == same['relative_mce'] == pytest.approx(1)
    perfect = study_of(0.2, fog=(0.0, 0.0), snow=(0.3, 0.6))
    assert robustness.compare(ours, perfect)['mce'] is None
    assert robustness.compare(ours, None)['mce'] is None


def test_a_baseline_must_fit(tmp_path):
    baseline = {**study_of(0.1, fog=(0.2, 0.4)), 'n': 10}
    shared = dict.fromkeys(robustness.SHARED, 0)

    def check(baseline, names=('fog',), severities=(1, 3), n=10):
        robustness.check_baseline(baseline, names, severities, {**shared, 'n': n}, 'a.json')

    check(baseline)
    check({**baseline, 'frost': 'photographs'})
    with pytest.raises(InputError, match='no error of snow at severity 1'):
        check(baseline, names=('fog', 'snow'))
    with pytest.raises(InputError, match='no error of fog at severity 5'):
        check(baseline, severities=(5,))
    with pytest.raises(InputError, match='has n 10, and this analysis 11'):
        check(baseline, n=11)
    with pytest.raises(InputError, match='no baseline'):
        check({'clean': 1.5, 'error': {}})


@pytest.mark.slow
def test_the_command_compares_with_a_baseline(tmp_path, ask, capsys):
    run, out = tmp_path / 'run', tmp_path / 'out'
    made = command('train', *flags(), '--workdir', run)
    assert made.returncode == 0, made.stderr
    evaluated = ask('eval', '--workdir', run)
    options = ('--workdir', run, '--corruptions', 'contrast,frost', '--severities', '1,5')
    found = ask('analyze', 'robustness', *options)
    assert found['clean'] == pytest.approx(1 - evaluated['top1'])
    assert list(found['error']['frost']) == ['1', '5'] and found['mce'] is None
    assert found['frost'] == 'procedural' and 'not the photographs' in found['notes'][0]
    folder = run / 'analysis' / 'robustness'
    assert json.loads((folder / 'robustness.json').read_text()) == found
    for name in ('errors.png', 'errors.svg', 'example_0.png'):
        assert (folder / name).stat().st_size > 1000
    baseline = ('--baseline', folder / 'robustness.json')

    def analyze(*arguments):
        code = main(['analyze', 'robustness', *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out + said.err

    code, said = analyze(*options, *baseline, '--out', out)
    assert code == 0 and 'relative CE %' in said and 'not the photographs' in said
    assert json.loads((out / 'robustness.json').read_text())['mce'] == pytest.approx(1)
    code, said = analyze(*options, *baseline, '--seed', 1)
    assert code == 2 and 'has seed 0, and this analysis 1' in said
    code, said = analyze('--workdir', run, '--corruptions', 'fogg')
    assert code == 2 and "did you mean 'fog'" in said
    code, said = analyze('--workdir', run, '--severities', '0,1')
    assert code == 2 and '--severities takes numbers from 1 to 5' in said
