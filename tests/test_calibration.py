"""Calibration and temperature scaling, against closed forms, loops and scikit-learn."""

import json
import math

import numpy as np
import pytest
from PIL import Image
from running import flags
from scipy import optimize
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from resnet_jax.analysis import calibration
from resnet_jax.cli import main

# Orbax closes its event loop while reads of other files are pending.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


def examples(n=400, classes=4, scale=3.0, seed=0):
    """Logits of a model that is too sure of itself, float32, and labels."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(n, classes))
    labels = (true + rng.gumbel(size=true.shape)).argmax(1)
    return (scale * true).astype(np.float32), labels


def ece_by_loops(confidence, correct, bins):
    """arXiv 1706.04599, equation 3, with bins (i/bins, (i + 1)/bins]."""
    found = 0.0
    for i in range(bins):
        inside = [j for j, c in enumerate(confidence) if i / bins < c <= (i + 1) / bins]
        if inside:
            gap = np.mean(correct[inside]) - np.mean(confidence[inside])
            found += len(inside) / len(confidence) * abs(gap)
    return found


def test_figures_are_scikit_learns():
    logits, labels = examples()
    found = calibration.figures(logits, labels, 1.7, draws=0)
    p = np.exp(logits.astype(float) / 1.7)
    p /= p.sum(1, keepdims=True)
    assert found['nll'] == pytest.approx(log_loss(labels, p), rel=1e-12)
    one_vs_rest = [brier_score_loss(labels == k, p[:, k]) for k in range(4)]
    assert found['brier'] == pytest.approx(sum(one_vs_rest), rel=1e-12)
    confidence, correct = p.max(1), p.argmax(1) == labels
    assert found['accuracy'] == correct.mean()
    assert found['confidence'] == pytest.approx(confidence.mean(), rel=1e-12)
    filled = [b for b in found['bins'] if b['n']]
    accuracy, means = calibration_curve(correct, confidence, n_bins=15)
    assert [b['accuracy'] for b in filled] == pytest.approx(accuracy)
    assert [b['confidence'] for b in filled] == pytest.approx(means)
    assert sum(b['n'] for b in filled) == 400


@pytest.mark.parametrize('bins', [1, 7, 15])
def test_the_calibration_error_is_its_definition(bins):
    logits, labels = examples()
    p = calibration.probabilities(logits)
    confidence, correct = p.max(1), p.argmax(1) == labels
    found = calibration.figures(logits, labels, bins=bins, draws=0)
    assert found['ece'] == pytest.approx(ece_by_loops(confidence, correct, bins), rel=1e-9)
    order = np.argsort(confidence)
    parts = [[j for r, j in enumerate(order) if r * bins // 400 == i] for i in range(bins)]
    gaps = [len(i) * abs(correct[i].mean() - confidence[i].mean()) for i in parts]
    assert found['ece_adaptive'] == pytest.approx(sum(gaps) / 400, rel=1e-9)
    assert found['ece_interval'] is None


def test_bins_of_equal_counts_and_of_equal_width():
    confidence = np.random.default_rng(0).permutation(np.linspace(0.3, 1, 50))
    found = calibration.equal_count_bins(confidence, 8)
    assert set(np.bincount(found, minlength=8)) == {6, 7}
    assert (np.diff(found[np.argsort(confidence)]) >= 0).all()
    # The upper end belongs to a bin, the lower one does not.
    assert calibration.equal_width_bins(np.array([0.2, 0.25, 0.5, 0.51, 1.0]), 4).tolist() == [
        *(0, 0, 1, 2, 3)
    ]


@pytest.mark.parametrize('factor', [0.25, 1.0, 3.7])
def test_logits_of_a_calibrated_model_times_a_factor(factor):
    """Three quarters of the images with odds 3 to 1 are right, nine tenths of those with 9 to 1."""
    logits = np.log([[3.0, 1]] * 4 + [[1, 9.0]] * 10) * factor
    labels = np.array([0, 0, 0, 1] + [1] * 9 + [0])
    assert calibration.fit_temperature(logits, labels) == pytest.approx(factor, rel=1e-12)
    found = calibration.figures(logits, labels, factor, draws=0)
    assert found['ece'] == pytest.approx(0, abs=1e-12)
    assert found['nll'] == pytest.approx(
        (4 * -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) - 9 * math.log(0.9) - math.log(0.1))
        / 14
    )


def test_the_temperature_is_where_the_loss_is_least():
    logits, labels = examples()
    found = calibration.fit_temperature(logits, labels)
    assert 2 < found < 4  # the logits are three times those of the labels
    expected = optimize.minimize_scalar(
        lambda t: log_loss(labels, calibration.probabilities(logits, t)), (1, 3), tol=1e-10
    )
    assert found == pytest.approx(expected.x, rel=1e-6)
    step = 1e-4

    def loss(inverse):
        return calibration.log_loss(logits, labels, 1 / inverse)

    slope = (loss(1 / found + step) - loss(1 / found - step)) / (2 * step)
    assert abs(slope) < 1e-7 < abs(loss(1 / found + 0.1) - loss(1 / found))
    # A shift of an example's logits changes nothing, nor do huge ones overflow.
    shifted = logits.astype(float) * 1e4 + np.arange(400)[:, None]
    assert calibration.fit_temperature(shifted, labels) == pytest.approx(1e4 * found, rel=1e-9)


def test_temperatures_leave_the_answers():
    logits, labels = examples()
    temperature = calibration.fit_temperature(logits, labels)
    before, after = (calibration.figures(logits, labels, t, draws=0) for t in (1.0, temperature))
    assert after['accuracy'] == before['accuracy']
    assert after['nll'] < before['nll'] and after['ece'] < before['ece'] / 2


@pytest.mark.parametrize('labels', [[0, 1], [1, 0]], ids=['all right', 'all wrong'])
def test_there_may_be_no_best_temperature(labels):
    logits = np.array([[2.0, 0.0], [0.0, 1.0]])
    assert calibration.fit_temperature(logits, np.array(labels)) is None
    assert calibration.fit_temperature(np.ones((2, 2)), np.array(labels)) is None


def test_intervals_hold_the_truth_nearly_always():
    """Of 60 samples of a model whose confidences are 0.1 too high; 95 % are meant."""
    rng, held = np.random.default_rng(0), np.zeros(2, int)
    for seed in range(60):
        confidence = 0.3 + 0.7 * rng.beta(4, 1, 600)
        correct = rng.random(600) < confidence - 0.1
        found = calibration.error_intervals(confidence, correct, 10, 100, seed)
        held += [low <= 0.1 <= high for low, high in found]
        assert found == calibration.error_intervals(confidence, correct, 10, 100, seed)
        assert all(0 <= low < high < 0.25 for low, high in found)
    assert (held >= 50).all()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'run'
    assert main(['train', *flags({'checkpoint.keep': '5'}), '--workdir', str(folder)]) == 0
    return folder


@pytest.fixture
def says(run, capfd):
    """Runs a command on the run: its exit code, output and last line on standard error."""

    def call(*arguments):
        capfd.readouterr()
        code = main([*map(str, arguments), '--workdir', str(run)])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(256, size=(8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f'{i}.png')
    return folder


def predicted(out):
    """Image -> class -> probability."""
    return {
        item['image']: {top['class']: top['probability'] for top in item['top']}
        for item in json.loads(out)['predictions']
    }


@pytest.mark.slow
def test_the_command_agrees_with_eval_and_predict_uses_its_temperature(says, run, pictures):
    evaluated = json.loads(says('eval', '--json')[1])
    code, out, err = says(
        *('analyze', 'calibration', '--fit-split', 'train[:300]', '--store'),
        *('--bootstrap', 20, '--json'),
    )
    assert code == 0, err
    found = json.loads(out)
    assert found['ece'] == found['before']['ece'] == pytest.approx(evaluated['ece'], rel=1e-5)
    assert found['nll'] == pytest.approx(evaluated['loss'], rel=1e-5)
    assert found['accuracy'] == pytest.approx(evaluated['top1'])
    assert len(found['bins']) == 15 and sum(b['n'] for b in found['bins']) == found['n']
    assert found['fit'] == {'data': 'digits', 'split': 'train[:300]', 'n': 300, 'same': False}
    assert json.loads((run / 'analysis/calibration/calibration.json').read_text()) == found
    for name in ('reliability.png', 'reliability.svg'):
        assert (run / 'analysis' / 'calibration' / name).stat().st_size > 1000

    plain = predicted(says('predict', pictures, '--topk', 10, '--json')[1])
    code, out, err = says('predict', pictures, '--topk', 10, '--json', '--calibrated')
    temperature = json.loads(out)['temperature']
    assert temperature == found['temperature'] != 1 and 'logits divided by' in err
    for image, by_class in predicted(out).items():
        powers = {name: p ** (1 / temperature) for name, p in plain[image].items()}
        total = sum(powers.values())
        assert by_class == pytest.approx({k: x / total for k, x in powers.items()}, rel=1e-4)

    code, _, err = says('predict', pictures, '--calibrated', '--checkpoint', 4)
    assert code == 2 and 'of other weights' in err and 'step 12' in err and 'step 4' in err
    (run / 'calibration.json').write_text('{"temperature": -1}')
    code, _, err = says('predict', pictures, '--calibrated')
    assert code == 2 and 'calibration.json' in err and '--store' in err
    (run / 'calibration.json').unlink()
    code, _, err = says('predict', pictures, '--calibrated')
    assert code == 2 and 'fit a temperature first' in err


def test_a_temperature_in_a_file_of_its_own(says, run, tmp_path, pictures):
    file = tmp_path / 'warm.json'
    settings = ('--bootstrap', 0, '--limit', 60, '--out', tmp_path / 'out', '--json')
    code, out, err = says('analyze', 'calibration', '--store', '--calibration', file, *settings)
    assert code == 0 and 'fitted on the examples that are analysed' in err
    found = json.loads(out)
    assert found['n'] == found['fit']['n'] == 60 and found['fit']['same']
    assert found['after']['nll'] <= found['nll'] and found['ece_interval'] is None
    code, out, _ = says('predict', pictures, '--calibrated', '--calibration', file, '--json')
    assert code == 0 and json.loads(out)['temperature'] == found['temperature']


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--bins', '0'], '--bins must be at least 1'),
        (['--bootstrap', '-1'], '--bootstrap must be at least 0'),
        (['--calibration', 'x.json'], 'goes with --store'),
        (['--store', '--calibration', 'nowhere/x.json'], 'cannot write nowhere/x.json'),
        (['--fit-split', 'nowhere'], 'nowhere'),
    ],
)
def test_what_the_command_refuses(says, tmp_path, options, words):
    code, _, err = says('analyze', 'calibration', '--out', tmp_path / 'out', *options)
    last = err.splitlines()[-1]
    assert code == 2 and last.startswith('resnet-jax: ') and words in last


def test_the_figures_never_replace_the_temperature(says, run):
    code, _, err = says('analyze', 'calibration', '--store', '--out', run)
    assert code == 2 and 'give another folder' in err
    assert not (run / 'calibration.json').exists()
