"""Gradients along the paths of a residual network, against the gradient of the whole network."""

import itertools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from random_models import assert_close, fast_jit, random_images, random_variables
from running import tiny
from scipy import stats

from resnet_jax import create_model
from resnet_jax.analysis import paths
from resnet_jax.analysis.examples import Batch
from resnet_jax.analysis.networks import Network, fresh_network
from resnet_jax.analysis.parts import chain
from resnet_jax.cli import main
from resnet_jax.errors import InputError
from resnet_jax.training import loop

SIZE, CLASSES, N = 8, 5, 6
SMALL = {'num_classes': CLASSES, 'stage_sizes': (2, 1), 'width': 4, 'stem_width': 4}
LABELS = np.arange(N) % CLASSES
SLOW = pytest.param('cifar_resnet164', marks=pytest.mark.slow)
RESIDUAL = ['cifar_resnet20', 'cifar_preact_resnet20', SLOW]
ALL = [set(c) for k in range(4) for c in itertools.combinations(range(3), k)]


def network(name, **overrides):
    model = create_model(name, **{**SMALL, **overrides})
    variables = random_variables(model, (1, SIZE, SIZE, 3))
    return model, Network(chain(model, SIZE), variables)


@pytest.fixture(scope='module')
def images():
    return random_images((N, SIZE, SIZE, 3))


@pytest.fixture(scope='module')
def batch(images):
    return Batch(images, LABELS, np.arange(N) < N - 1)


@pytest.fixture(scope='module')
def original():
    return network('cifar_resnet20')


def true_gradient(model, net, batch):
    """At the stem's output, where a zero is added; of the whole model by its own `__call__`."""
    train = net.own_statistics
    shape = (N, *net.chain.stem.outputs)

    def loss(zero, variables, images):
        def add_zero(run, args, kwargs, context):
            y = run(*args, **kwargs)
            is_stem = context.method_name == '__call__' and context.module.name == 'stem'
            return y + zero if is_stem else y

        with nn.intercept_methods(add_zero):
            logits = model.apply(
                variables, images, train=train, mutable=['batch_stats'] if train else False
            )
        logits = logits[0] if train else logits
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
        return jnp.sum(jnp.where(batch.mask, losses, 0))

    return fast_jit(jax.grad(loss))(jnp.zeros(shape), net.variables, batch.images)


@pytest.mark.parametrize('name', RESIDUAL)
def test_the_gradients_of_all_paths_add_up_to_the_gradient(name, batch):
    model, net = network(name)
    backward = paths.Backward(net, batch)
    found = sum(backward.gradient(path) for path in ALL)
    assert_close(found, true_gradient(model, net, batch), 1e-4)


@pytest.mark.slow
def test_so_they_do_where_batch_norm_takes_the_statistics_of_the_batch(images):
    batch = Batch(images, LABELS, np.ones(N, bool))
    model = create_model('cifar_resnet20', **SMALL)
    net = fresh_network(model, SIZE, 3, seed=3)
    backward = paths.Backward(net, batch)
    found = sum(backward.gradient(path) for path in ALL)
    assert_close(found, true_gradient(model, net, batch), 1e-4)


def test_a_path_without_branches_sees_the_masks_of_the_activations_alone(original, batch):
    """Of blocks that keep the shape: the product of the relus' masks at the actual sums."""
    model, _ = original
    model = model.clone(stage_sizes=(3,))
    net = Network(chain(model, SIZE), random_variables(model, (1, SIZE, SIZE, 3)))
    split = net.chain.split(net.variables)
    x = net.chain.stem(split['stem'], batch.images)
    mask = 1.0
    for block in net.chain.blocks:
        x = block(split[block.name], x)
        mask = mask * (np.asarray(x) > 0)
    _, last = paths.loss_gradient(net.chain.tail, False)(split['tail'], x, batch.labels, batch.mask)
    assert_close(paths.Backward(net, batch).gradient(set()), np.asarray(last) * mask, 1e-5)


def test_padding_counts_nowhere(original, batch):
    _, net = original
    kept = Batch(batch.images[:-1], LABELS[:-1], np.ones(N - 1, bool))
    found = paths.norms(net, [batch], [0, 3], 1, 0)
    expected = paths.norms(net, [kept], [0, 3], 1, 0)
    for length in (0, 3):
        assert found[length] == pytest.approx(expected[length], rel=1e-4)
        assert found[length][0] > 0


def test_norms_are_means_over_the_examples(original, batch):
    _, net = original
    gradient = np.asarray(paths.Backward(net, batch).gradient({0, 1, 2}), np.float64)
    expected = np.mean([np.linalg.norm(g) for g in gradient[:-1]])
    assert paths.norms(net, [batch], [3], 1, 0)[3] == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize('blocks', [1, 9, 54, 333])
def test_shares_are_binomial(blocks):
    expected = stats.binom.pmf(range(blocks + 1), blocks, 0.5)
    np.testing.assert_allclose(paths.shares(blocks), expected, rtol=1e-10)


def test_sampled_paths():
    rng = np.random.default_rng(0)
    assert set(paths.sampled(4, 2, 6, rng)) == set(itertools.combinations(range(4), 2))
    drawn = paths.sampled(9, 4, 50, rng)
    assert len(drawn) == 50 and all(len(set(path)) == 4 for path in drawn)
    # Each block is in a path with probability 4 / 9: within five deviations of 50 draws.
    counts = np.bincount(np.ravel(drawn), minlength=9)
    assert np.all(np.abs(counts - 50 * 4 / 9) < 5 * np.sqrt(50 * 20 / 81))


def test_decay_and_effective_lengths_of_a_known_decline():
    """With a norm of r^k the product is binomial too, of probability r / (1 + r)."""
    rate, blocks = 0.3, 54
    mean = {k: 7 * rate**k for k in (0, 10, 20, 54)}  # the others are interpolated
    assert paths.decay(mean) == pytest.approx(np.log(rate))
    found = paths.effective_lengths(blocks, mean)
    law = stats.binom(blocks, rate / (1 + rate))
    np.testing.assert_allclose(list(found['contribution'].values()), law.pmf(range(55)), rtol=1e-8)
    low, high = found['low'], found['high']
    assert law.cdf(high) - law.cdf(low - 1) >= 0.95
    size = high - low
    assert max(law.cdf(k + size - 1) - law.cdf(k - 1) for k in range(blocks)) < 0.95
    even = stats.binom(blocks, 0.5)
    assert found['share'] == pytest.approx(even.cdf(high) - even.cdf(low - 1))


def test_no_gradient_at_all():
    assert paths.decay({0: 1.0, 1: 0.0}) is None
    assert paths.effective_lengths(1, {0: 0.0, 1: 0.0})['low'] is None
    assert paths.effective_lengths(1, {0: 1.0, 1: 0.0})['contribution'] == {'0': 1.0, '1': 0.0}


def test_default_lengths():
    assert paths.default_lengths(9) == list(range(10))
    many = paths.default_lengths(333)
    assert many[0] == 0 and many[-1] == 333 and len(many) == 25


def test_a_plain_net_is_refused(batch):
    _, net = network('cifar_plain20')
    with pytest.raises(InputError, match=r'stage1/block1 has no shortcut'):
        paths.study(net, [batch])


@pytest.mark.slow
def test_the_command(ask, capsys, tmp_path):
    run = tmp_path / 'run'
    loop.train(tiny({'model.stage_sizes': '(2,)', 'train.steps': 4, 'train.eval_every': 0}), run)
    arguments = ('analyze', 'paths', '--workdir', run, '--limit', 40, '--batch-size', 20)
    found = ask(*arguments, '--init', '--draws', 2)
    for net in (found, found['fresh']):
        assert net['share'] == {'0': 0.25, '1': 0.5, '2': 0.25}
        assert list(net['gradient']) == ['0', '1', '2']
        for each in net['gradient'].values():
            assert 0 <= each['low'] <= each['mean'] <= each['high'] and each['mean'] > 0
        assert sum(net['effective']['contribution'].values()) == pytest.approx(1)
        means = [each['mean'] for each in net['gradient'].values()]
        assert net['decay'] == pytest.approx(np.log(means[2] / means[0]) / 2)
    assert (found['statistics'], found['fresh']['statistics']) == ('running', 'batch')
    assert (run / 'analysis' / 'paths' / 'paths.png').stat().st_size > 1000
    assert json.loads((run / 'analysis' / 'paths' / 'paths.json').read_text()) == found
    assert main([*map(str, arguments), '--lengths', '3']) == 2
    assert '--lengths takes numbers from 0 to 2' in capsys.readouterr().err
