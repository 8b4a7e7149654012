"""What features are worth: simple classifiers on them, with all examples and with few.

The examples are divided into a training and a test part, or come as two files. A fifth of the
training part chooses the setting of a classifier, its penalty or its number of neighbours; then it
is fitted to the whole training part, and tested once.
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from resnet_jax.data.sources import stratified_order
from resnet_jax.errors import InputError
from resnet_jax.inference.feature_files import Features
from resnet_jax.statistics import Estimate, estimate, proportion

HELD_OUT = 0.2  # for the test, of one file; and of the training part, to choose a setting
SHOTS = (1, 2, 5, 10)  # examples per class
DRAW_SEED = 0  # numpy's generators of few-shot draws are seeded with [DRAW_SEED, shots, draw]
MOST_STEPS = 2000  # of the optimiser

Matrix = Float32[np.ndarray, 'n d']
Labels = Int[np.ndarray, ' n']
Predict = Callable[[Matrix], Labels]


@dataclasses.dataclass(frozen=True)
class Part:
    """Some examples: features [N, D], and labels."""

    features: Matrix
    labels: Labels

    def take(self, rows: Int[np.ndarray, ' m']) -> 'Part':
        """Some of the examples."""
        return Part(self.features[rows], self.labels[rows])


def _logistic(train: Part, penalty: float) -> Predict:
    """Multinomial logistic regression on standardised features.

    Minimises the mean cross-entropy plus penalty / 2 times the squared norm of the weights.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scale = StandardScaler().fit(train.features)
    features = scale.transform(train.features)
    # With fewer examples than features the weights lie in the span of the examples: its coordinates
    # give the same solution, much faster.
    basis = np.linalg.qr(features.T)[0] if len(features) < features.shape[1] else None

    def coordinates(x: Matrix) -> Matrix:
        return x if basis is None else x @ basis

    model = LogisticRegression(C=1 / (penalty * len(train.labels)), max_iter=MOST_STEPS)
    with warnings.catch_warnings():
        # Validation then judges the solution after MOST_STEPS, which may not be exact.
        warnings.simplefilter('ignore', ConvergenceWarning)
        model.fit(coordinates(features), train.labels)
    return lambda features: model.predict(coordinates(scale.transform(features)))


def _neighbours(train: Part, k: float) -> Predict:
    """The most frequent class among the k nearest examples by the cosine; not standardised."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(n_neighbors=min(int(k), len(train.labels)), metric='cosine')
    model.fit(train.features, train.labels)
    return model.predict


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A way to classify.

    Attributes:
      fit: (examples, setting) -> a function that predicts labels.
      settings: to choose from; of equally good ones the first is taken.
      setting: what it is called.
    """

    fit: Callable[[Part, float], Predict]
    settings: tuple[float, ...]
    setting: str


CLASSIFIERS = {
    'logistic': Classifier(_logistic, (1.0, 1e-1, 1e-2, 1e-3, 1e-4), 'penalty'),
    'k-NN': Classifier(_neighbours, (1, 3, 5, 10, 20), 'k'),
}


@dataclasses.dataclass(frozen=True)
class Result:
    """The test of a classifier.

    Attributes:
      layer: the features.
      classifier: a key of `CLASSIFIERS`.
      setting: the chosen one.
      correct, n: of the test examples.
      accuracy, low, high: the share of correct ones, and its 95 % interval (Wilson).
    """

    layer: str
    classifier: str
    setting: float
    correct: int
    n: int
    accuracy: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Tests of a classifier that has learnt from few examples of each class.

    Attributes:
      layer, classifier: as in `Result`.
      shots: examples per class.
      accuracies: one for each draw of examples.
      estimate: their mean, and its 95 % interval (Student's t) over draws.
    """

    layer: str
    classifier: str
    shots: int
    accuracies: tuple[float, ...]
    estimate: Estimate


@dataclasses.dataclass(frozen=True)
class Split:
    """The rows of the examples of two files, or one, that take part in a probe.

    Attributes:
      train: to fit, once a setting is chosen; `fit` and `validation` together.
      fit, validation: to choose the setting.
      test: of the test file, or of the same one.
    """

    train: Int[np.ndarray, ' n']
    fit: Int[np.ndarray, ' f']
    validation: Int[np.ndarray, ' v']
    test: Int[np.ndarray, ' t']


def split_examples(labels: Labels, test_labels: Labels | None) -> Split:
    """Divides examples, every part with the classes in proportion, the same way every time.

    Args:
      labels: of the examples.
      test_labels: of those of the test file; None: a fifth of the examples is the test part.

    Raises:
      InputError: if there are too few examples, or they are all of one class.
    """
    order = stratified_order(labels)
    held = round(HELD_OUT * len(order))
    train, test = (order[:-held], order[-held:]) if held else (order, order[:0])
    if test_labels is not None:
        train, test = order, np.arange(len(test_labels))
    kept = len(train) - round(HELD_OUT * len(train))
    fit, validation = train[:kept], train[kept:]
    if not len(test) or not len(validation) or len(np.unique(labels[fit])) < 2:
        raise InputError(
            f'{len(labels):,} examples of {len(np.unique(labels))} classes are too few to probe: '
            'give at least ten of each of two classes'
        )
    return Split(train, fit, validation, test)


def check_together(train: Features, test: Features) -> None:
    """Refuses two files whose features do not mean the same.

    Raises:
      InputError: saying what differs.
    """
    if train.class_names != test.class_names:
        raise InputError('the two files have other classes; write both from one data set')
    for key in ('weights_digest', 'architecture', 'preprocessing', 'full'):
        if train.description.get(key) != test.description.get(key):
            raise InputError(
                f'the two files have another {key} each; write both with the same model and options'
            )


def examples_of(features: Features, layer: str) -> Part:
    """The examples with the features of a layer as vectors.

    Raises:
      InputError: if they are not all finite.
    """
    matrix = features.layers[layer].reshape(len(features.labels), -1)
    if not np.isfinite(matrix).all():
        raise InputError(f'the features of {layer} are not all finite; the model overflows')
    return Part(matrix, features.labels)


def probe(layer: str, name: str, split: Split, examples: Part, tests: Part) -> Result:
    """Tests a classifier that has learnt from all training examples.

    Args:
      layer: the features.
      name: a key of `CLASSIFIERS`.
      split: of the examples.
      examples: of the file.
      tests: of the test file, or of the same one.
    """
    classifier = CLASSIFIERS[name]
    setting = _choose(classifier, examples.take(split.fit), examples.take(split.validation))
    predict = classifier.fit(examples.take(split.train), setting)
    test = tests.take(split.test)
    correct, n = int((predict(test.features) == test.labels).sum()), len(test.labels)
    return Result(layer, name, setting, correct, n, correct / n, *proportion(correct, n))


def few_shot(
    layer: str, name: str, split: Split, examples: Part, tests: Part, shots: int, draws: int
) -> FewShot:
    """Tests a classifier that has learnt from a few random examples of each class.

    The examples are drawn from `split.fit`, the same for every layer and classifier; each draw
    chooses its setting by `split.validation`. Classes with fewer examples give all that they have.
    """
    classifier, found = CLASSIFIERS[name], []
    fit, validation = examples.take(split.fit), examples.take(split.validation)
    test = tests.take(split.test)
    for draw in range(draws):
        few = fit.take(_drawn(fit.labels, shots, draw))
        predict = classifier.fit(few, _choose(classifier, few, validation))
        found.append(float((predict(test.features) == test.labels).mean()))
    return FewShot(layer, name, shots, tuple(found), estimate(found, (0.0, 1.0)))


def _choose(classifier: Classifier, fit: Part, validation: Part) -> float:
    """The setting with the most correct predictions of the validation part."""

    def correct(setting: float) -> int:
        predict = classifier.fit(fit, setting)
        return int((predict(validation.features) == validation.labels).sum())

    # Numbers of neighbours that exceed the examples are all the same.
    usable = [s for s in classifier.settings if s <= len(fit.labels)]
    return max(usable or classifier.settings, key=correct)


def _drawn(labels: Labels, shots: int, draw: int) -> Int[np.ndarray, ' m']:
    rng = np.random.default_rng([DRAW_SEED, shots, draw])
    return np.concatenate(
        [rng.permutation(np.flatnonzero(labels == label))[:shots] for label in np.unique(labels)]
    )


def as_json(result: Result | FewShot) -> Mapping[str, Any]:
    """A result as JSON."""
    return dataclasses.asdict(result)
