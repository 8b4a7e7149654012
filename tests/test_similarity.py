"""Linear CKA and the size of branches, against closed forms in NumPy and loops."""

import itertools
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from random_models import random_images, random_variables
from running import flags

from resnet_jax import create_model
from resnet_jax.analysis import reuse, similarity
from resnet_jax.analysis.examples import Batch
from resnet_jax.analysis.parts import chain
from resnet_jax.analysis.similarity import View, linear_cka
from resnet_jax.cli import main
from resnet_jax.errors import InputError
from resnet_jax.inference.features import intermediates, layers

# Orbax closes its event loop while reads of other files are pending.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

N, SIZE = 22, 8
SMALL = {'num_classes': 5, 'stage_sizes': (2, 1), 'width': 4, 'stem_width': 4}
LAYERS = ('stem', 'stage1/block1', 'stage1/block2', 'stage2/block1', 'pooled', 'logits')


def random_features(width, seed, n=N):
    return np.random.default_rng(seed).normal(size=(n, width)) + 3


def closed_form(x, y):
    """arXiv 1905.00414, section 3: with centred features."""
    x, y = (a.reshape(len(a), -1).astype(np.float64) for a in (x, y))
    x, y = x - x.mean(0), y - y.mean(0)
    norm = np.linalg.norm
    return norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))


def loops(k, l):  # noqa: E741
    """HSIC_1 by its definition: sums over tuples of different examples (Song et al. 2012)."""
    n, total = len(k), 0.0
    for i, j in itertools.permutations(range(n), 2):
        total += k[i, j] * l[i, j] / math.perm(n, 2)
    for i, j, q in itertools.permutations(range(n), 3):
        total -= 2 * k[i, j] * l[i, q] / math.perm(n, 3)
    for i, j, q, r in itertools.permutations(range(n), 4):
        total += k[i, j] * l[q, r] / math.perm(n, 4)
    return total


def trace_form(k, l):  # noqa: E741
    """Equation 3 of arXiv 2010.15327."""
    n = len(k)
    k, l, one = k - np.diag(np.diag(k)), l - np.diag(np.diag(l)), np.ones(n)  # noqa: E741
    found = np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (found - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


def batches(images, size):
    """Batches of one size, the last one padded."""
    found = []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        padding = jnp.full((size - len(part), *images.shape[1:]), 7.0)
        mask = np.arange(size) < len(part)
        found.append(Batch(jnp.concatenate([part, padding]), np.zeros(size, np.int32), mask))
    return found


@pytest.fixture(scope='module')
def images():
    return random_images((N, SIZE, SIZE, 3))


@pytest.fixture(scope='module')
def network():
    model = create_model('cifar_resnet20', **SMALL)
    return model, random_variables(model, (1, SIZE, SIZE, 3))


@pytest.fixture(scope='module')
def view(network, images):
    return View(*network, LAYERS, batches(images, 6), N)


@pytest.fixture(scope='module')
def features(network, images):
    return intermediates(*network, images, LAYERS)


def test_the_full_estimator_is_the_closed_form():
    x, y = random_features(9, 0), random_features(40, 1)
    y[:, :9] += x
    assert linear_cka(x, y) == pytest.approx(closed_form(x, y), rel=1e-12)
    assert linear_cka(x.reshape(N, 3, 3), y) == linear_cka(x, y) == linear_cka(y, x)
    assert linear_cka(x, x) == 1.0


@pytest.mark.parametrize('estimator', similarity.ESTIMATORS)
def test_rotations_and_factors_change_nothing_and_other_maps_do(estimator):
    x, y = random_features(9, 0), random_features(12, 1)
    y[:, :9] += x
    rotation, _ = np.linalg.qr(random_features(9, 2, 9))
    before = linear_cka(x, y, estimator)
    assert linear_cka(-0.03 * x @ rotation + 5, y, estimator) == pytest.approx(before, rel=1e-9)
    assert abs(linear_cka(x @ random_features(9, 2, 9), y, estimator) - before) > 0.01


def test_the_unbiased_estimator_is_its_definition():
    x, y = random_features(3, 0, 7), random_features(5, 1, 7)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    found = np.vdot(similarity.u_centred(k), similarity.u_centred(l)) / (7 * 4)
    assert found == pytest.approx(loops(k, l), rel=1e-9)
    assert found == pytest.approx(trace_form(k, l), rel=1e-9)
    expected = loops(k, l) / math.sqrt(loops(k, k) * loops(l, l))
    assert linear_cka(x, y, 'minibatch') == pytest.approx(expected, rel=1e-9)


def test_the_unbiased_estimator_has_no_bias():
    """Of independent features its mean is 0, where the biased one is far above."""
    found = {name: [] for name in similarity.ESTIMATORS}
    for seed in range(300):
        x, y = random_features(30, 2 * seed, 10), random_features(30, 2 * seed + 1, 10)
        for name, values in found.items():
            values.append(linear_cka(x, y, name))
    error = np.std(found['minibatch']) / math.sqrt(300)
    assert abs(np.mean(found['minibatch'])) < 4 * error
    assert np.mean(found['full']) > 0.5


@pytest.mark.parametrize('panel_bytes', [1, 30_000, 2**29], ids=['batch', 'some', 'all'])
def test_gram_matrices_of_any_panel_are_those_of_all_examples(view, features, panel_bytes):
    found = similarity.gram_matrices(view, panel_bytes)
    for name in LAYERS:
        x = np.asarray(features[name], np.float64).reshape(N, -1)
        x = x - x.mean(0)
        atol = 1e-5 * np.abs(x @ x.T).max()
        np.testing.assert_allclose(found[name], x @ x.T, rtol=1e-4, atol=atol)


def test_all_pairs_of_a_network(view, features):
    found = similarity.similarity(view, None, 'full')
    assert (np.diag(found) == 1).all() and (found == found.T).all()
    for i, j in itertools.product(range(len(LAYERS)), repeat=2):
        expected = closed_form(np.asarray(features[LAYERS[i]]), np.asarray(features[LAYERS[j]]))
        assert found[i, j] == pytest.approx(expected, rel=1e-4)
    pairs = similarity.by_pair(LAYERS, LAYERS, found)
    assert pairs['stem ~ logits'] == pairs['logits ~ stem'] == found[0, -1]


def test_a_single_batch_is_the_unbiased_estimator_of_all(view, features, network, images):
    whole = View(*network, LAYERS, batches(images, N), N)
    found = similarity.similarity(whole, None, 'minibatch')
    assert (np.diag(found) == 1).all()
    x, y = (np.asarray(features[name], np.float64).reshape(N, -1) for name in ('stem', 'pooled'))
    k, l = x @ x.T, y @ y.T  # noqa: E741
    expected = trace_form(k, l) / math.sqrt(trace_form(k, k) * trace_form(l, l))
    assert found[0, LAYERS.index('pooled')] == pytest.approx(expected, rel=1e-4)


def test_minibatches_average_the_unbiased_hsic(view, features):
    """The last batch has 4 of 22 examples, and counts by their number."""
    found = similarity.similarity(view, None, 'minibatch')
    sums = np.zeros(3)
    for start in range(0, N, 6):
        x, y = (
            np.asarray(features[name], np.float64)[start : start + 6].reshape(-1, width)
            for name, width in (('stem', SIZE * SIZE * 4), ('logits', 5))
        )
        k, l = x @ x.T, y @ y.T  # noqa: E741
        sums += len(x) * np.array([trace_form(k, l), trace_form(k, k), trace_form(l, l)])
    assert found[0, -1] == pytest.approx(sums[0] / math.sqrt(sums[1] * sums[2]), rel=1e-4)


def test_two_networks(view, features, images):
    """Of other depth and kind; the same network twice is as alike as with itself."""
    model = create_model('cifar_preact_resnet20', **SMALL | {'stage_sizes': (1, 1)})
    variables = random_variables(model, (1, SIZE, SIZE, 3), 1)
    names = ('stage2/block1', 'pooled')
    other = View(model, variables, names, batches(images, 6), N)
    found = similarity.similarity(view, other, 'full')
    theirs = intermediates(model, variables, images, names)
    for (i, a), (j, b) in itertools.product(enumerate(LAYERS), enumerate(names)):
        expected = closed_form(np.asarray(features[a]), np.asarray(theirs[b]))
        assert found[i, j] == pytest.approx(expected, rel=1e-4)
    for estimator in similarity.ESTIMATORS:
        again = similarity.similarity(view, view, estimator)
        assert (again == similarity.similarity(view, None, estimator)).all()


def test_pooled_features_are_means_over_space(network, images, features):
    pooled = View(*network, LAYERS, batches(images, 6), N, pool=True)
    found = similarity.similarity(pooled, None, 'full')
    x, y = (np.asarray(features[name], np.float64).mean((1, 2)) for name in LAYERS[:2])
    assert found[0, 1] == pytest.approx(closed_form(x, y), rel=1e-4)


def test_a_layer_that_does_not_vary_has_no_similarity():
    assert math.isnan(linear_cka(np.full((N, 3), 0.1), random_features(4, 0)))


def test_layers_are_chosen_part_by_part(network):
    known = layers(network[0])
    assert similarity.choose_layers(similarity.DEFAULT_LAYERS, known) == LAYERS
    assert similarity.choose_layers(['logits', 'stage1/*/conv2'], known) == (
        *('stage1/block1/conv2', 'stage1/block2/conv2'),
        'logits',
    )
    with pytest.raises(InputError, match=r"'stage1/block3'; did you mean 'stage1/block"):
        similarity.choose_layers(['stem', 'stage1/block3'], known)


def test_too_few_examples_for_the_minibatch_estimator(network, images):
    few = View(*network, ('stem',), batches(images[:6], 3), 6)
    with pytest.raises(InputError, match='at least 4 examples'):
        similarity.similarity(few, None, 'minibatch')


def test_branches_over_shortcuts(network, images):
    """The branch is the second norm's output, the shortcut the input, subsampled and padded."""
    model, variables = network
    names = ('stem', 'stage1/block1/norm2', 'stage1/block2', 'stage2/block1/norm2')
    found = intermediates(model, variables, images, names)
    stem, branch1, before, branch2 = (np.asarray(found[name], np.float64) for name in names)

    def norms(x):
        return np.sqrt((x**2).sum((1, 2, 3)))

    ratios = reuse.branch_ratios(chain(model, SIZE), variables, batches(images, 6))
    assert list(ratios) == ['stage1/block1', 'stage1/block2', 'stage2/block1']
    expected = np.mean(norms(branch1) / norms(stem))
    assert ratios['stage1/block1'] == pytest.approx(expected, rel=1e-4)
    # Option A: every second position, and channels of zeros, which add nothing to the norm.
    expected = np.mean(norms(branch2) / norms(before[:, ::2, ::2]))
    assert ratios['stage2/block1'] == pytest.approx(expected, rel=1e-4)


def test_a_plain_net_has_no_branches(images):
    model = create_model('cifar_plain20', **SMALL)
    parts = chain(model, SIZE)
    assert reuse.branch_ratios(parts, {'params': {}, 'batch_stats': {}}, batches(images, 6)) == {}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'run'
    assert main(['train', *flags({'checkpoint.keep': '5'}), '--workdir', str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_the_command_compares_two_checkpoints(run, capfd):
    shared = ('analyze', 'similarity', '--workdir', str(run), '--limit', '50')
    assert main([*shared, '--checkpoint', '4', '--other-checkpoint', '12', '--json']) == 0
    found = json.loads(capfd.readouterr().out)
    names = ['stem', 'stage1/block1', 'pooled', 'logits']
    assert found['layers'] == found['other']['layers'] == names
    assert list(found['cka']) == [f'{a} ~ {b}' for a in names for b in names]
    assert (found['step'], found['other']['step'], found['n']) == (4, 12, 50)
    assert found['estimator'] == 'full' and all(0 < x <= 1 for x in found['cka'].values())
    assert found['cka']['logits ~ logits'] < 0.999999
    assert list(found['branch']) == list(found['other']['branch']) == ['stage1/block1']
    folder = run / 'analysis' / 'similarity'
    assert json.loads((folder / 'similarity.json').read_text()) == found
    for name in ('cka.png', 'branch.png', 'cka.svg'):
        assert (folder / name).stat().st_size > 1000


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--layers', 'stage1/block9'], 'did you mean'),
        (['--other-model', 'resnet18'], 'both --other-model'),
        (['--other-layers', 'stem'], 'goes with another network'),
        (['--estimator', 'minibatch', '--limit', '3'], 'at least 4 examples'),
        (['--other-workdir', 'nowhere'], 'nowhere'),
    ],
)
def test_what_the_command_refuses(run, capfd, tmp_path, options, words):
    command = ['analyze', 'similarity', '--workdir', str(run), '--out', str(tmp_path)]
    assert main([*command, *options]) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith('resnet-jax: ') and words in last
