"""Scanned stages compute the same as looped ones, with convertible variables; great depth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from random_models import (
    LABELS,
    assert_close,
    fast_jit,
    loss_and_all,
    random_images,
    random_variables,
    replace,
)

from resnet_jax.models import create_model
from resnet_jax.models.counting import count_parameters
from resnet_jax.models.design import BASIC, BOTTLENECK
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.stages import stack_blocks, unstack_blocks


def pair(design, stage_sizes=(1, 3), **settings):
    """A looped and a scanned model."""
    settings = {'stem': 'cifar', 'stem_width': 4, 'width': 4} | settings
    return [ResNet(stage_sizes, design, 3, scan_blocks=scan, **settings) for scan in (False, True)]


DESIGNS = {
    'option_a': (replace(shortcut='zero_pad'), {}),
    'preact_bottleneck': (replace(BOTTLENECK, placement='full_preact', se_ratio=0.25), {}),
    'grouped_dilated': (replace(BOTTLENECK, groups=2), {'output_stride': 1}),
    'fixup': (replace(gate='exclusive'), {'norm': 'none', 'init_scheme': 'fixup'}),
    'series': (replace(kernels=(3, 3, 1)), {'dimensions': 1, 'ghost_batch': 2}),
}


_SLOW = ('preact_bottleneck', 'grouped_dilated', 'series', 'fixup')


@pytest.mark.parametrize(
    'name',
    [pytest.param(n, marks=[pytest.mark.slow] * (n in _SLOW)) for n in DESIGNS],
)
def test_scanned_is_looped(name):
    design, settings = DESIGNS[name]
    looped, scanned = pair(design, **settings)
    images = random_images((4, *(7,) * looped.dimensions, 3))
    variables = random_variables(looped, images.shape)
    stacked = stack_blocks(variables)
    shapes = functools.partial(jax.tree.map, jnp.shape)
    assert shapes(stacked) == shapes(random_variables(scanned, images.shape))
    assert set(stacked['params']['stage1']) == {'block1'}
    assert set(stacked['params']['stage2']) == {'block1', 'blocks'}

    @fast_jit
    def run(variables, stacked):
        return (
            loss_and_all(looped, variables, images),
            loss_and_all(scanned, stacked, images),
            looped.apply(variables, images, train=False),
            scanned.apply(stacked, images, train=False),
        )

    (loss, aux, gradient), (scanned_loss, scanned_aux, scanned_gradient), *logits = run(
        variables, stacked
    )
    assert_close(*logits)
    assert_close(scanned_loss, loss)
    jax.tree.map(assert_close, scanned_aux, stack_blocks(aux))
    # Rounding grows on the way back, through norms of few positions.
    expected = stack_blocks(gradient)
    jax.tree.map(functools.partial(assert_close, tolerance=1e-4), scanned_gradient, expected)


def test_layouts_convert_both_ways():
    looped, scanned = pair(BASIC, (12, 2, 1))  # block10 comes behind block9
    variables = random_variables(looped, (1, 8, 8, 3))
    stacked = stack_blocks(variables)
    kernel = stacked['params']['stage1']['blocks']['conv1']['kernel']
    for i in range(11):
        block = variables['params']['stage1'][f'block{i + 2}']
        np.testing.assert_array_equal(kernel[i], block['conv1']['kernel'])
    assert jax.tree.structure(unstack_blocks(stacked)) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, unstack_blocks(stacked), variables)
    stacked = random_variables(scanned, (1, 8, 8, 3), seed=2)
    jax.tree.map(np.testing.assert_array_equal, stack_blocks(unstack_blocks(stacked)), stacked)
    # A collection alone, too.
    np.testing.assert_array_equal(
        stack_blocks(variables['params'])['stage2']['blocks']['conv1']['kernel'][0],
        variables['params']['stage2']['block2']['conv1']['kernel'],
    )


@pytest.mark.parametrize(
    'transform',
    [
        optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, momentum=0.9, nesterov=True)),
        pytest.param(
            optax.inject_hyperparams(optax.adamw)(learning_rate=0.1), marks=pytest.mark.slow
        ),
    ],
    ids=['momentum', 'adamw'],
)
def test_an_optimisers_state_converts_with_its_parameters(transform, standard_promotion):
    looped, _ = pair(BASIC, (3, 2))
    params = random_variables(looped, (1, 8, 8, 3))['params']
    gradient = jax.tree.map(jnp.cos, params)
    state = transform.init(params)
    updates, state = transform.update(gradient, state, params)
    stacked_state = stack_blocks(state)
    template = transform.init(stack_blocks(params))
    assert jax.tree.structure(stacked_state) == jax.tree.structure(template)
    assert jax.tree.map(jnp.shape, stacked_state) == jax.tree.map(jnp.shape, template)
    # A further step from the converted state is the converted step.
    params = optax.apply_updates(params, updates)
    expected, _ = transform.update(gradient, state, params)
    actual, _ = transform.update(stack_blocks(gradient), stacked_state, stack_blocks(params))
    jax.tree.map(assert_close, actual, stack_blocks(expected))
    jax.tree.map(np.testing.assert_array_equal, unstack_blocks(stacked_state), state)
    assert jax.tree.structure(unstack_blocks(stacked_state)) == jax.tree.structure(state)


@pytest.mark.slow
def test_what_drops_depends_on_the_key_alone():
    design = replace(branch_dropout=0.3, shortcut_dropout=0.1)
    _, scanned = pair(design, stochastic_depth=0.5)
    images = random_images((4, 8, 8, 3))
    variables = random_variables(scanned, images.shape)

    @fast_jit
    def run(key):
        return loss_and_all(scanned, variables, images, rngs={'dropout': key})

    first, again, other = (run(jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert first[0] != other[0]
    shapes = functools.partial(jax.tree.map, jnp.shape)
    assert shapes(first[2]) == shapes(variables['params'])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(first))


@pytest.mark.parametrize(
    ('name', 'parameters'),
    [
        pytest.param('cifar_resnet1202', 19_421_274, marks=pytest.mark.slow),
        # Its blocks, few of them, are in test_scanned_is_looped.
        pytest.param('cifar_preact_resnet1001', 10_327_706, marks=pytest.mark.slow),
    ],
)
def test_a_thousand_layers_take_a_step(name, parameters):
    model = create_model(name, scan_blocks=True)
    images = random_images((2, 16, 16, 3))

    @fast_jit
    def step(images):
        variables = model.init(jax.random.key(0), images, train=False)

        def loss(params):
            logits, state = model.apply(
                {**variables, 'params': params}, images, train=True, mutable=['batch_stats']
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS[:2])
            return losses.mean(), state

        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(variables['params'])
        return value, state, gradient

    value, state, gradient = step(images)
    assert count_parameters(gradient) == parameters
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((state, gradient)))
    for stage in ('stage1', 'stage2', 'stage3'):
        kernels = gradient[stage]['blocks']['conv1']['kernel']
        assert np.all(np.any(kernels != 0, axis=(1, 2, 3, 4))), 'every block receives a gradient'
