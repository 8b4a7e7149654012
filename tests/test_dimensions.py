"""Series, images and volumes from the same code."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from formulas import FORMULAS, Formula, strides_of
from random_models import assert_close, fast_jit, make_block, random_images, random_variables
from sklearn.datasets import load_digits

from resnet_jax.models import InputError, create_model
from resnet_jax.models.design import BASIC, BOTTLENECK


@pytest.mark.parametrize(
    'size', [(9,), pytest.param((3, 4, 5), marks=pytest.mark.slow)], ids=['series', 'volumes']
)
@pytest.mark.parametrize(
    ('base', 'placement', 'shortcut'),
    [(BASIC, 'original', 'zero_pad'), (BOTTLENECK, 'full_preact', 'projection')],
)
def test_block_by_formula(base, placement, shortcut, size):
    design = dataclasses.replace(base, placement=placement, shortcut=shortcut)
    channels = 4 * design.expansion
    x = random_images((2, *size, channels // 2))
    block = make_block(design, stride=2, dimensions=len(size))
    variables = random_variables(block, x.shape)
    for train in (False, True):
        expected = FORMULAS[placement](
            Formula(variables, train), np.asarray(x), strides_of(design, 2), shortcut, channels
        )
        actual, _ = block.apply(variables, x, train=train, mutable=['batch_stats'])
        assert_close(actual, expected)


@pytest.mark.slow
def test_digits_read_as_series_are_learnt():
    """Real 8x8 scans, read row by row as 64 steps; chance is 10 %."""
    images, labels = load_digits(return_X_y=True)
    series = jnp.asarray(images[..., None] / 8 - 1, jnp.float32)
    labels = jnp.asarray(labels, jnp.int32)
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[:1440], order[1440:]
    model = create_model('cifar_resnet8', dimensions=1, width=8, stem_width=8)
    variables = fast_jit(lambda x: model.init(jax.random.key(0), x, train=False))(series[:1])
    assert variables['params']['stage1']['block1']['conv1']['kernel'].shape == (3, 8, 8)
    momentum = optax.trace(0.9)

    @jax.jit
    def step(carry, batch, rate):
        variables, trace = carry

        def loss(params):
            logits, stats = model.apply(
                {**variables, 'params': params}, series[batch], train=True, mutable=['batch_stats']
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch])
            return losses.mean(), stats

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(variables['params'])
        updates, trace = momentum.update(gradient, trace)
        params = jax.tree.map(lambda p, u: p - rate * u, variables['params'], updates)
        return ({'params': params, **stats}, trace), value

    carry = variables, momentum.init(variables['params'])
    rng = np.random.default_rng(1)
    for epoch in range(6):
        for batch in rng.permutation(train).reshape(-1, 32):
            carry, _ = step(carry, batch, jnp.float32(0.1 * (1 - epoch / 6)))
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(carry[0], series[test])
    assert np.mean(np.argmax(logits, -1) == labels[test]) > 0.85


@pytest.mark.slow
@pytest.mark.parametrize('name', ['resnet18', 'cifar_preact_resnet20'])
def test_volumes_take_a_step(name):
    model = create_model(name, 3, dimensions=3, stage_sizes=(1, 1), width=4, stem_width=4)
    video = random_images((2, 9, 16, 17, 2))
    variables = random_variables(model, video.shape)
    assert variables['params']['stem']['conv1']['kernel'].ndim == 5

    @fast_jit
    def step(params):
        def loss(params):
            logits, _ = model.apply(
                {**variables, 'params': params}, video, train=True, mutable=['batch_stats']
            )
            labels = jnp.array([0, 2])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.value_and_grad(loss)(params)

    value, gradient = step(variables['params'])
    # A short step downhill goes down by what the gradient says.
    length = 1e-3 / optax.tree_utils.tree_norm(gradient)
    lower, _ = step(jax.tree.map(lambda p, g: p - length * g, variables['params'], gradient))
    expected = length * optax.tree_utils.tree_norm(gradient) ** 2
    np.testing.assert_allclose(value - lower, expected, rtol=0.1)


@pytest.mark.parametrize(
    ('dimensions', 'letters'),
    [(1, r'\[N, L, C\]'), (2, r'\[N, H, W, C\]'), (3, r'\[N, D, H, W, C\]')],
)
def test_wrong_dimensions_are_named(dimensions, letters):
    model = create_model('cifar_resnet8', dimensions=dimensions)
    for wrong in {1, 2, 3} - {dimensions}:
        with pytest.raises(InputError, match=letters):
            model.init(jax.random.key(0), jnp.zeros((1, *(8,) * wrong, 3)), train=False)
    with pytest.raises(InputError, match='dimensions must be at most 3, got 4'):
        create_model('cifar_resnet8', dimensions=4)
