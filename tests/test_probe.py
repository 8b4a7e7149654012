"""`resnet-jax probe`, on files made by hand: against scikit-learn, NumPy and what must come out."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from resnet_jax.cli import main
from resnet_jax.experiments import probe

ABOUT = {
    'model': 'by hand',
    'data': {'name': 'blobs', 'split': 'train'},
    'weights_digest': 'a',
    'full': False,
}


def write(path, layers, labels, classes=3, **about):
    """A file of features by its description in docs/features.md."""
    shapes = {name: list(x.shape[1:]) for name, x in layers.items()}
    np.savez(
        path,
        **{name: np.asarray(x, np.float32) for name, x in layers.items()},
        labels=np.asarray(labels),
        names=np.asarray([str(i) for i in range(len(labels))]),
        class_names=np.asarray([f'class {i}' for i in range(classes)]),
        description=np.asarray(json.dumps({**ABOUT, 'layers': shapes, **about})),
    )
    return path


def blobs(n, spread, dims=4, seed=0):
    """Points around three directions in which the classes lie."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 3)
    return 5 * np.eye(3, dims)[labels] + spread * rng.normal(size=(n, dims)), labels


def test_separable_features_give_all_and_noise_gives_chance(ask, tmp_path):
    good, labels = blobs(150, 0.1)
    noise = np.random.default_rng(1).normal(size=(150, 2, 2, 3))  # a whole feature map
    found = ask('probe', write(tmp_path / 'a.npz', {'good': good, 'noise': noise}, labels))
    assert (found['n_train'], found['n_validation'], found['n_test']) == (120, 24, 30)
    scores = {(r['layer'], r['classifier']): r for r in found['results']}
    for classifier in ('logistic', 'k-NN'):
        best = scores['good', classifier]
        assert (best['accuracy'], best['correct'], best['high']) == (1, 30, 1)
        assert best['low'] == pytest.approx(30 / (30 + 1.959964**2), abs=1e-6)  # Wilson at 1
        assert 0.1 < scores['noise', classifier]['accuracy'] < 0.6


def expected_logistic(train, test, penalty):
    """scikit-learn on features standardised by hand."""
    mean, std = train.features.mean(0), train.features.std(0)
    std[std < 1e-6] = 1
    model = LogisticRegression(C=1 / (penalty * len(train.labels)), max_iter=2000)
    model.fit((train.features - mean) / std, train.labels)
    return model.predict((test.features - mean) / std)


def expected_neighbours(train, test, k):
    """By the angles to all training examples; of equally frequent classes the lowest."""

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    nearest = np.argsort(-unit(test.features) @ unit(train.features).T, axis=1)[:, : int(k)]
    return np.asarray([np.bincount(row, minlength=10).argmax() for row in train.labels[nearest]])


@pytest.mark.parametrize(
    ('name', 'predict'), [('logistic', expected_logistic), ('k-NN', expected_neighbours)]
)
def test_digits_as_scikit_learn_and_numpy(name, predict):
    """The setting is the best on the validation part; the fit to all training examples counts."""
    images, labels = load_digits(return_X_y=True)
    images = np.asarray(images[:500], np.float32)
    part = probe.Part(images, labels[:500])
    split = probe.split_examples(part.labels, None)
    assert sorted([*split.fit, *split.validation]) == sorted(split.train)
    assert sorted([*split.train, *split.test]) == list(range(500))
    for rows in (split.fit, split.validation, split.test):
        counts = np.bincount(part.labels[rows], minlength=10) / len(rows)
        np.testing.assert_allclose(counts, np.bincount(part.labels) / 500, atol=1.5 / len(rows))
    validation, test = part.take(split.validation), part.take(split.test)
    settings = probe.CLASSIFIERS[name].settings
    scores = [
        (predict(part.take(split.fit), validation, s) == validation.labels).sum() for s in settings
    ]
    found = probe.probe('pixels', name, split, part, part)
    assert found.setting == settings[int(np.argmax(scores))]
    expected = (predict(part.take(split.train), test, found.setting) == test.labels).sum()
    assert (found.correct, found.n) == (expected, 100)


def test_fewer_examples_than_features_give_the_same_solution():
    """The fit in the span of the examples is that of scikit-learn in all dimensions."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 200)).astype(np.float32)
    features[:, 0] = 3  # a constant feature
    labels = (features[:, 1:20].sum(1) > 0).astype(int)
    train, test = probe.Part(features[:30], labels[:30]), probe.Part(features[30:], labels[30:])
    for penalty in (1.0, 0.1):
        found = probe.CLASSIFIERS['logistic'].fit(train, penalty)(test.features)
        assert (found == expected_logistic(train, test, penalty)).all()


@pytest.mark.slow
def test_few_shot_curves(ask, tmp_path):
    good, labels = blobs(300, 0.1)
    fair, _ = blobs(300, 2.5)
    path = write(tmp_path / 'a.npz', {'good': good, 'fair': fair}, labels)
    out = tmp_path / 'out'
    found = ask('probe', path, '--few-shot', '--draws', 3, '--out', out)
    assert found == json.loads((out / 'probe.json').read_text())
    curves = {}
    for one in found['few_shot']:
        curves.setdefault((one['layer'], one['classifier']), {})[one['shots']] = one
    assert len(curves) == 4
    for which, by_shots in curves.items():
        assert list(by_shots) == [1, 2, 5, 10]
        for one in by_shots.values():
            estimate, values = one['estimate'], one['accuracies']
            assert len(values) == estimate['n'] == 3
            assert estimate['mean'] == pytest.approx(np.mean(values))
            assert 0 <= estimate['low'] <= estimate['mean'] <= estimate['high'] <= 1
            if which == ('good', 'k-NN'):  # standardised, the noise of a draw counts more
                assert values == [1, 1, 1]
    fair = curves['fair', 'logistic']
    assert fair[1]['estimate']['mean'] < fair[10]['estimate']['mean']
    assert len(set(fair[1]['accuracies'])) > 1
    again = ask('probe', path, '--layer', 'fair', '--few-shot', '--draws', 3)
    same = [one for one in found['few_shot'] if one['layer'] == 'fair']
    assert again['few_shot'] == same
    with Image.open(out / 'few_shot.png') as image:
        assert image.format == 'PNG' and min(image.size) > 300


def test_each_draw_takes_as_many_of_each_class():
    labels = np.asarray([0] * 50 + [1] * 50 + [4] * 3)
    one, other = (probe._drawn(labels, 5, draw) for draw in (0, 1))
    assert np.bincount(labels[one]).tolist() == [5, 5, 0, 0, 3]
    assert len(set(one)) == 13 and set(one) != set(other)


def test_a_test_file(ask, capsys, tmp_path):
    """The second half of one set; of another model it is refused."""
    good, labels = blobs(90, 0.1)
    train = write(tmp_path / 'a.npz', {'x': good[:60]}, labels[:60])
    test = write(tmp_path / 'b.npz', {'x': good[60:]}, labels[60:])
    found = ask('probe', train, '--test', test)
    assert (found['n_train'], found['n_test']) == (60, 30)
    assert found['results'][0]['correct'] == 30
    other = write(tmp_path / 'c.npz', {'x': good[60:]}, labels[60:], weights_digest='b')
    assert main(['probe', str(train), '--test', str(other)]) == 2
    assert 'weights_digest' in capsys.readouterr().err
    lacking = write(tmp_path / 'd.npz', {'y': good[60:]}, labels[60:])
    assert main(['probe', str(train), '--test', str(lacking)]) == 2
    assert "'x'" in capsys.readouterr().err


def test_for_people(capsys, tmp_path):
    good, labels = blobs(120, 0.1)
    path = write(tmp_path / 'a.npz', {'pooled': good}, labels)
    assert main(['probe', str(path), '--few-shot', '--draws', '2']) == 0
    out = capsys.readouterr().out
    assert '96 training and 24 test examples' in out and '100.00' in out
    assert 'mean of 2 draws' in out and max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--layer', 'poled'], "did you mean 'pooled'"),
        (['--draws', '3'], '--few-shot'),
        (['--few-shot', '--draws', '0'], '--draws'),
        (['--test', 'gone.npz'], 'gone.npz'),
    ],
)
def test_bad_usage(capsys, tmp_path, options, words):
    good, labels = blobs(30, 0.1)
    path = write(tmp_path / 'a.npz', {'pooled': good}, labels)
    assert main(['probe', str(path), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize('case', ['few', 'one class', 'not finite', 'labels'])
def test_features_that_cannot_be_probed(capsys, tmp_path, case):
    good, labels = blobs(3 if case == 'few' else 30, 0.1)
    labels = labels * 0 if case == 'one class' else labels + (case == 'labels')
    good[0, 0] = np.inf if case == 'not finite' else 1
    assert main(['probe', str(write(tmp_path / 'a.npz', {'pooled': good}, labels))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert {'few': 'too few', 'one class': 'too few', 'not finite': 'finite', 'labels': 'a.npz'}[
        case
    ] in line
