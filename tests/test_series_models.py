"""The network of arXiv 1611.06455 for series is what its authors' Keras code defines."""

import dataclasses

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import create_model
from resnet_jax.compress.fold import fold
from resnet_jax.errors import InputError
from resnet_jax.models.convolution import half_padding
from resnet_jax.models.stages import stack_blocks

EPSILON, MOMENTUM = 1e-3, 0.99


class Keras:
    """hfawaz/dl-4-tsc, classifiers/resnet.py, build_model, in NumPy and float64.

    Keras' weights in the order in which the layers are made: each convolution has a kernel
    [window, inputs, outputs] and a bias, each norm gamma, beta, moving mean and variance.
    """

    def __init__(self, weights, train):
        self.weights, self.train, self.moved = iter(weights), train, []

    def conv(self, x):
        kernel, bias = next(self.weights)
        size = kernel.shape[0]
        # TensorFlow's SAME at stride 1: the rest of (size - 1) / 2 is padded at the end.
        before = (size - 1) // 2
        x = np.pad(x, ((0, 0), (before, size - 1 - before), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, size, axis=1)  # [N, L, C, size]
        return np.einsum('nlck,kco->nlo', windows, kernel) + bias

    def norm(self, x):
        gamma, beta, mean, var = next(self.weights)
        if self.train:
            found = x.mean((0, 1)), x.var((0, 1))
            self.moved += [
                MOMENTUM * old + (1 - MOMENTUM) * new
                for old, new in zip((mean, var), found, strict=True)
            ]
            mean, var = found
        return gamma * (x - mean) / np.sqrt(var + EPSILON) + beta

    def block(self, x, expands):
        y = np.maximum(self.norm(self.conv(x)), 0)
        y = np.maximum(self.norm(self.conv(y)), 0)
        y = self.norm(self.conv(y))
        shortcut = self.norm(self.conv(x)) if expands else self.norm(x)
        return np.maximum(shortcut + y, 0)

    def __call__(self, x):
        x = self.block(x, True)
        x = self.block(x, True)
        x = self.block(x, False)  # 'no need to expand channels because they are equal'
        kernel, bias = next(self.weights)
        return x.mean(1) @ kernel + bias


def random_weights(channels=1, classes=3):
    """Keras' weights, random; the variance of moving averages is positive."""
    rng, found, before = np.random.default_rng(0), [], channels

    def normal(*shape):
        return rng.standard_normal(shape)

    def norm(c):
        return normal(c), normal(c), normal(c), rng.uniform(0.5, 2.0, c)

    for c, expands in ((64, True), (128, True), (128, False)):
        for size, inputs in ((8, before), (5, c), (3, c)):
            found += [(normal(size, inputs, c) / np.sqrt(size * inputs), normal(c)), norm(c)]
        found += [(normal(1, before, c), normal(c))] if expands else []
        found += [norm(c)]
        before = c
    return [*found, (normal(128, classes) / 11, normal(classes))]


def as_ours(weights):
    """The same weights as variables of `tsc_resnet`, by the names that Keras' order gives."""
    params, stats, rest = {}, {}, iter(weights)
    for stage in (1, 2, 3):
        names = [name for i in (1, 2, 3) for name in (f'conv{i}', f'norm{i}')]
        names += (['shortcut_conv'] if stage < 3 else []) + ['shortcut_norm']
        for name in names:
            path = (f'stage{stage}', 'block1', name)
            values = next(rest)
            leaves = ('scale', 'bias') if 'norm' in name else ('kernel', 'bias')
            params |= {(*path, leaf): v for leaf, v in zip(leaves, values[:2], strict=True)}
            if 'norm' in name:
                stats |= {(*path, 'mean'): values[2], (*path, 'var'): values[3]}
    kernel, bias = next(rest)
    params |= {('head', 'kernel'): kernel, ('head', 'bias'): bias}
    tree = flax.traverse_util.unflatten_dict
    return {'params': tree(params), 'batch_stats': tree(stats)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ('train', 'length'),
    [
        pytest.param(False, 24, id='evaluation-24'),
        pytest.param(True, 7, id='training-7'),
        pytest.param(False, 7, id='evaluation-7'),
        pytest.param(True, 24, id='training-24'),
    ],
)
def test_it_is_the_network_that_keras_builds(train, length):
    weights = random_weights()
    x = np.random.default_rng(1).standard_normal((5, length, 1))
    theirs = Keras(weights, train)
    expected = theirs(x)
    with jax.enable_x64(True):
        model = create_model('tsc_resnet', 3, dtype=jnp.float64)
        variables = jax.tree.map(jnp.asarray, as_ours(weights))
        found, state = model.apply(variables, jnp.asarray(x), train=train, mutable=['batch_stats'])
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    if train:
        held = flax.traverse_util.flatten_dict(as_ours(weights)['batch_stats'])
        moved = flax.traverse_util.flatten_dict(state['batch_stats'])
        assert len(moved) == len(held) == len(theirs.moved)
        for path, value in zip(held, theirs.moved, strict=True):
            np.testing.assert_allclose(moved[path], value, rtol=1e-6)  # stored in float32


def test_no_weight_is_left_over_and_their_number_is_known():
    weights = random_weights()
    model = create_model('tsc_resnet', 3)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 9, 1)), train=False)
    )
    ours = jax.tree.map(np.shape, as_ours(weights))
    assert jax.tree.map(lambda x: x.shape, dict(shapes)) == ours


@pytest.mark.slow
def test_it_starts_as_keras_starts():
    """Glorot's uniform distribution, of limit sqrt(6 / (fan in + fan out)), and zero biases."""
    model = create_model('tsc_resnet', 3)
    params = model.init(jax.random.key(0), jnp.zeros((1, 9, 1)), train=False)['params']
    block = params['stage2']['block1']
    limits = {8: np.sqrt(6 / (8 * 64 + 8 * 128)), 5: np.sqrt(6 / (5 * 256))}
    for kernel, limit in (
        (block['conv1']['kernel'], limits[8]),
        (block['conv2']['kernel'], limits[5]),
    ):
        assert 0.999 * limit < np.abs(kernel).max() <= limit
        assert np.std(kernel) == pytest.approx(limit / np.sqrt(3), rel=0.02)
    head = params['head']['kernel']
    assert 0.95 * np.sqrt(6 / 131) < np.abs(head).max() <= np.sqrt(6 / 131)
    assert not any(np.any(module['bias']) for module in block.values())


@pytest.mark.parametrize(('size', 'dilation'), [(8, 1), (5, 1), (4, 1), (3, 2), (4, 3), (1, 1)])
def test_half_padding_is_same(size, dilation):
    x, kernel = jnp.ones((1, 11, 1)), jnp.arange(1.0, size + 1).reshape(size, 1, 1)
    numbers = ('NHC', 'HIO', 'NHC')
    same, ours = (
        jax.lax.conv_general_dilated(
            x, kernel, (1,), padding, rhs_dilation=(dilation,), dimension_numbers=numbers
        )
        for padding in ('SAME', [half_padding(size, dilation)])
    )
    np.testing.assert_array_equal(ours, same)


def test_folding_takes_biases_and_the_normed_shortcut_along():
    weights = random_weights()
    model, variables = create_model('tsc_resnet', 3), as_ours(weights)
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)
    x = jax.random.normal(jax.random.key(0), (4, 24, 1))
    folded, new = fold(model, variables)
    assert 'norm1' not in new['params']['stage1']['block1']
    assert set(new['params']['stage3']['block1']['shortcut_norm']) == {'scale', 'bias'}
    np.testing.assert_allclose(
        folded.apply(new, x, train=False),
        model.apply(variables, x, train=False),
        rtol=2e-4,
        atol=2e-4,
    )


@pytest.mark.slow
def test_a_scan_of_its_blocks_is_the_same_function():
    """Even kernels, biases and normed shortcuts in a stage of three blocks."""
    fields = {'stage_sizes': (3, 1), 'stage_widths': (8, 16), 'stage_strides': (1, 2)}
    plain = create_model('tsc_resnet', 3, **fields)
    x = jax.random.normal(jax.random.key(0), (4, 13, 1))
    variables = plain.init(jax.random.key(1), x, train=False)
    scanned = plain.clone(scan_blocks=True)

    def loss(model, variables):
        def of_params(params):
            given = {**variables, 'params': params}
            return jnp.sum(model.apply(given, x, train=True, mutable=['batch_stats'])[0] ** 2)

        return jax.value_and_grad(of_params)(variables['params'])

    value, grads = loss(plain, variables)
    other, others = loss(scanned, stack_blocks(variables))
    assert float(value) == pytest.approx(float(other), rel=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        stack_blocks(grads),
        others,
    )
    assert plain.feature_info(13)['stage2'] == ((7,), 16, 2)


@pytest.mark.slow
def test_values_of_the_grammar_serve_other_models():
    model = create_model(
        'cifar_resnet8', 10, kernels=(4, 2), conv_bias=True, stage_widths=(8, 12, 8),
        stage_strides=(2, 1, 3), shortcut='normed',
    )  # fmt: skip
    x = jnp.ones((2, 12, 12, 3))
    variables = model.init(jax.random.key(0), x, train=False)
    found = model.apply(variables, x, train=False, method='features')
    assert {name: value.shape[1:] for name, value in found.items() if 'stage' in name} == {
        'stage1': (6, 6, 8), 'stage2': (6, 6, 12), 'stage3': (2, 2, 8),
    }  # fmt: skip
    info = model.feature_info(12)
    assert all(found[n].shape[1:] == (*i.size, i.channels) for n, i in info.items())
    assert 'bias' in variables['params']['stem']['conv1']
    assert dataclasses.asdict(model.block)['shortcut'] == 'normed'


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'stage_widths': (8, 8)}, 'one for each of 3 stages'),
        ({'stage_strides': (1, 1, 1, 1)}, 'one for each of 3 stages'),
        ({'stage_strides': (1, 3, 1), 'output_stride': 3}, 'powers of two'),
    ],
)
def test_lists_of_stages_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        create_model('cifar_resnet8', 10, **fields)
