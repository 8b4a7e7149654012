"""Schedules and optimisers against their formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from running import CONFIGS

from resnet_jax.models import InputError, create_model
from resnet_jax.training import optim
from resnet_jax.training.config import load_config


def settings(**fields):
    """config.optim of the default config with these fields changed."""
    values = [(f'optim.{name}', str(value)) for name, value in fields.items()]
    return load_config(str(CONFIGS / 'default.py'), values).optim


def schedule(settings, *, batch_size=128, total_steps=64_000, steps_per_epoch=351.5625):
    """The learning rate as a function of the step, jitted as in training."""
    jitted = jax.jit(
        optim.make_schedule(
            settings,
            batch_size=batch_size,
            total_steps=total_steps,
            steps_per_epoch=steps_per_epoch,
        )
    )
    return lambda step: float(jitted(jnp.int32(step)))


def rates(rate, steps):
    return [rate(step) for step in steps]


def near(values):
    # float32 of a product of two or three factors
    return pytest.approx(values, rel=1e-6, abs=1e-12)


def test_he2015_divides_at_32k_and_48k_iterations():
    rate = schedule(load_config(str(CONFIGS / 'cifar10.py')).optim)
    steps = (0, 399, 400, 31_999, 32_000, 47_999, 48_000, 63_999)
    assert rates(rate, steps) == near([0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_he2015_warms_up_110_layers_for_400_iterations_at_a_hundredth():
    """0.01 for steps 0 to 399, and the boundaries stay at 32k and 48k iterations of the run."""
    rate = schedule(load_config(str(CONFIGS / 'cifar10.py:cifar_resnet110')).optim)
    steps = (0, 1, 399, 400, 401, 31_999, 32_000, 47_999, 48_000)
    assert rates(rate, steps) == near([0.01, 0.01, 0.01, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001])


def test_boundaries_in_epochs():
    config = load_config(str(CONFIGS / 'imagenet.py')).optim
    per_epoch = 5004.25
    rate = schedule(config, batch_size=256, total_steps=450_383, steps_per_epoch=per_epoch)
    at = [round(epochs * per_epoch) for epochs in (30, 60, 80)]
    before_and_after = [s for boundary in at for s in (boundary - 1, boundary)]
    assert rates(rate, before_and_after) == near([0.1, 0.01, 0.01, 0.001, 0.001, 0.0001])
    warmup = round(5 * per_epoch)
    assert rates(rate, (0, warmup // 4, warmup - 1, warmup)) == near(
        [0.0, 0.1 * (warmup // 4) / warmup, 0.1 * (warmup - 1) / warmup, 0.1]
    )


def test_cosine_follows_its_formula_and_ends_at_zero():
    rate = schedule(settings(schedule='cosine', learning_rate=0.4), total_steps=1000)
    for step in (0, 1, 250, 500, 999):
        expected = 0.4 * 0.5 * (1 + math.cos(math.pi * step / 1000))
        # 1 + cos cancels near the end: an absolute error of float32 there
        assert rate(step) == pytest.approx(expected, rel=1e-6, abs=4e-8)
    assert rate(1000) == 0.0


def test_cosine_after_linear_warmup():
    """Warm-up to the full rate, then the whole cosine over the steps that are left."""
    config = settings(schedule='cosine', learning_rate=0.4, warmup=100, warmup_start=0.1)
    rate = schedule(config, total_steps=1000)
    assert rates(rate, (0, 50, 100)) == near([0.04, 0.22, 0.4])
    assert rate(550) == pytest.approx(0.2, rel=1e-6)
    assert rate(1000) == 0.0


def test_onecycle_rises_to_the_peak_at_30_percent_and_falls():
    """arXiv 1708.07120; from peak / 25 by a half cosine, to peak / 25e4 by another."""
    rate = schedule(settings(schedule='onecycle', learning_rate=0.2), total_steps=1000)
    assert rates(rate, (0, 300)) == near([0.2 / 25, 0.2])
    assert rate(150) == pytest.approx((0.2 / 25 + 0.2) / 2, rel=1e-5)
    assert rate(650) == pytest.approx((0.2 + 0.2 / 25e4) / 2, rel=1e-5)
    assert rate(1000) == pytest.approx(0.2 / 25e4, abs=2e-8)


def test_constant_with_warmup_in_epochs():
    config = settings(schedule='constant', schedule_unit='epochs', warmup=2, learning_rate=1)
    rate = schedule(config, steps_per_epoch=4.0)
    assert rates(rate, range(10)) == near(
        [0, 1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8, 1, 1]
    )


@pytest.mark.parametrize('name', optim.SCHEDULES)
def test_rate_scales_linearly_with_the_batch(name):
    small, large = (
        schedule(settings(schedule=name, scale_by_batch=256, warmup=10), batch_size=b)
        for b in (256, 1024)
    )
    steps = (0, 5, 10, 1000, 40_000)
    assert rates(large, steps) == near([4 * r for r in rates(small, steps)])
    assert optim.peak_learning_rate(settings(), 1024) == 0.1  # not scaled unless asked


# Parameters named as the model names them.
PARAMS = {
    'conv1': {'kernel': np.asarray([[1.0, -2.0]], np.float32)},
    'norm1': {'scale': np.asarray([3.0], np.float32), 'bias': np.asarray([-0.5], np.float32)},
    'head': {'kernel': np.asarray([[0.25]], np.float32), 'bias': np.asarray([4.0], np.float32)},
}
GRADS = [
    jax.tree.map(lambda p, k=k: np.asarray(np.cos(3 * p + k), np.float32), PARAMS) for k in range(4)
]


def steps(settings, grads=GRADS, rate=lambda step: 0.1):
    """The parameters after each step with these gradients."""
    optimizer = optim.make_optimizer(settings, rate)
    params, state = PARAMS, optimizer.init(PARAMS)
    for grad in grads:
        updates, state = optimizer.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        yield params


def assert_close(actual, expected, rtol=2e-6):
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=1e-7), actual, expected
    )


@pytest.mark.parametrize('nesterov', [False, True])
def test_sgd_is_the_formula(nesterov):
    """v = m v + (g + w p); p -= r v, or with Nesterov p -= r (g + w p + m v)."""
    rate = lambda step: 0.1 / (1 + step)  # noqa: E731
    config = settings(nesterov=nesterov, momentum=0.9, weight_decay=0.01)
    params = jax.tree.map(lambda p: p.astype(np.float64), PARAMS)
    velocity = jax.tree.map(np.zeros_like, params)
    for number, (actual, grads) in enumerate(zip(steps(config, rate=rate), GRADS, strict=True)):
        decayed = jax.tree.map(lambda g, p: g + 0.01 * p, grads, params)
        velocity = jax.tree.map(lambda v, d: 0.9 * v + d, velocity, decayed)
        ahead = jax.tree.map(lambda v, d: d + 0.9 * v, velocity, decayed)
        change = ahead if nesterov else velocity
        params = jax.tree.map(lambda p, c, n=number: p - rate(n) * c, params, change)
        assert_close(actual, params)


def test_sgd_without_momentum():
    *_, actual = steps(settings(momentum=0, weight_decay=0), GRADS[:1])
    assert_close(actual, jax.tree.map(lambda p, g: p - 0.1 * g, PARAMS, GRADS[0]))


ZERO = [jax.tree.map(np.zeros_like, PARAMS)]


@pytest.mark.parametrize('name', ['sgd', 'adamw', 'lamb'])
def test_weight_decay_of_all_parameters_or_of_kernels_only(name):
    """With zero gradients only the decay acts; he2015 decays every parameter."""
    config = {'name': name, 'weight_decay': 0.5, 'momentum': 0}
    (spared,) = steps(settings(decay_norm_and_bias=False, **config), ZERO)
    (decayed,) = steps(settings(decay_norm_and_bias=True, **config), ZERO)
    for layer, part in (('norm1', 'scale'), ('norm1', 'bias'), ('head', 'bias')):
        assert np.array_equal(spared[layer][part], PARAMS[layer][part])
        assert (np.abs(decayed[layer][part]) < np.abs(PARAMS[layer][part])).all()
    for layer in ('conv1', 'head'):
        assert np.array_equal(spared[layer]['kernel'], decayed[layer]['kernel'])
        assert (np.abs(spared[layer]['kernel']) < np.abs(PARAMS[layer]['kernel'])).all()
    if name != 'lamb':  # which rescales each layer's update
        assert_close(decayed, jax.tree.map(lambda p: p - 0.1 * 0.5 * p, PARAMS))


def test_default_and_2015_recipe_decay_everything():
    for config in (settings(), load_config(str(CONFIGS / 'cifar10.py')).optim):
        assert config.decay_norm_and_bias
        assert config.weight_decay == 1e-4


def test_decay_mask_of_a_whole_model():
    """Kernels of convolutions and head decay; scales and biases do not."""
    model = create_model('cifar_preact_resnet20', shortcut='projection')
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
    )['params']
    mask = optim.decay_mask(shapes)
    for path, decays in jax.tree_util.tree_leaves_with_path(mask):
        leaf = shapes
        for key in path:
            leaf = leaf[key.key]
        assert decays == (len(leaf.shape) > 1), path


@pytest.mark.parametrize('name', ['sgd', 'adam'])
def test_clipping_by_the_global_norm_comes_before_the_decay(name):
    norm = math.sqrt(
        sum(float((g.astype(np.float64) ** 2).sum()) for g in jax.tree.leaves(GRADS[0]))
    )
    assert norm > 1.0
    scaled = jax.tree.map(lambda g: g * (0.5 / norm), GRADS[0])
    clipped = settings(name=name, clip_norm=0.5, weight_decay=0.1)
    plain = settings(name=name, weight_decay=0.1)
    assert_close(*[list(steps(*a)) for a in ((clipped, GRADS[:1]), (plain, [scaled]))], rtol=1e-5)
    wide = settings(name=name, clip_norm=2 * norm, weight_decay=0.1)
    assert_close(list(steps(wide)), list(steps(plain)), rtol=0)


def test_adam_and_adamw_are_their_formulas():
    """Kingma & Ba 2015, algorithm 1, without decay, and arXiv 1711.05101's decoupled decay."""
    b1, b2, rate, decay = 0.8, 0.95, 0.1, 0.02
    for name, coupled, decoupled in (('adam', decay, 0.0), ('adamw', 0.0, decay)):
        config = settings(name=name, b1=b1, b2=b2, weight_decay=decay)
        params = jax.tree.map(lambda p: p.astype(np.float64), PARAMS)
        m = v = jax.tree.map(np.zeros_like, params)
        for t, (actual, grads) in enumerate(zip(steps(config), GRADS, strict=True), 1):
            g = jax.tree.map(lambda g, p, w=coupled: g + w * p, grads, params)
            m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, g)
            v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, v, g)
            params = jax.tree.map(
                lambda p, m, v, t=t, w=decoupled: p
                - rate * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + 1e-8) + w * p),
                params, m, v,
            )  # fmt: skip
            assert_close(actual, params, rtol=1e-5)


def test_lamb_scales_each_layer_by_its_norm():
    """arXiv 1904.00962, algorithm 2: an update's norm is the rate times the parameter's norm."""
    (actual,) = steps(settings(name='lamb', weight_decay=0), GRADS[:1])
    for layer in PARAMS:
        for part, before in PARAMS[layer].items():
            moved = np.linalg.norm(actual[layer][part] - before)
            assert moved == pytest.approx(0.1 * np.linalg.norm(before), rel=1e-5)


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({'schedule': 'cosin'}, "unknown optim.schedule 'cosin'; did you mean 'cosine'"),
        ({'schedule_unit': 'epoch'}, "did you mean 'epochs'"),
        ({'warmup_shape': 'lineal'}, "did you mean 'linear'"),
        ({'schedule': 'cosine', 'warmup': 64_000}, 'warm-up of 64000 steps'),
    ],
)
def test_bad_schedule(fields, words):
    with pytest.raises(InputError) as error:
        schedule(settings(**fields))
    assert words in str(error.value)


def test_bad_optimizer():
    with pytest.raises(InputError, match=r"unknown optim\.name 'adamW'.*'adamw'"):
        optim.make_optimizer(settings(name='adamW'), lambda step: 0.1)


@pytest.mark.parametrize(
    ('fields', 'noted'),
    [
        ({}, False),
        ({'optim.name': 'adamw', 'optim.momentum': 0}, True),  # at sgd's rate
        ({'optim.name': 'adam', 'optim.momentum': 0, 'optim.learning_rate': 0.003}, False),
        ({'optim.name': 'adam', 'optim.momentum': 0, 'optim.learning_rate': 0.003,
          'optim.scale_by_batch': 16}, True),  # 0.024 at the batch of 128
    ],
)  # fmt: skip
def test_a_rate_that_is_another_optimisers_is_noted(fields, noted):
    config = load_config('cifar10', [(name, str(value)) for name, value in fields.items()])
    note = optim.rate_note(config.optim, 128)
    assert bool(note) == noted
    assert not noted or f'is high for {config.optim.name}' in note


def after(name, gradients, start, **fields):
    """The parameters after a step for each gradient, of learning rate 0.1, and the state."""
    optimizer = optim.make_optimizer(
        settings(name=name, weight_decay=0.0, **fields), optax.constant_schedule(0.1)
    )
    params, state = start, optimizer.init(start)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


GRADIENTS = [{'head': {'kernel': jnp.asarray([[g]])}} for g in (0.5, -2.0, 3.0)]
ONE = {'head': {'kernel': jnp.asarray([[1.0]])}}


def test_lion_steps_by_the_sign():
    """arXiv 2302.06675, algorithm 2: the sign of b1 m + (1 - b1) g; m decays with b2."""
    found, _ = after('lion', GRADIENTS, ONE, b1=0.9, b2=0.5)
    p, m = 1.0, 0.0
    for g in (0.5, -2.0, 3.0):
        p -= 0.1 * np.sign(0.9 * m + 0.1 * g)
        m = 0.5 * m + 0.5 * g
    np.testing.assert_allclose(found['head']['kernel'], [[p]], rtol=1e-6)


@pytest.mark.parametrize('name', ['nadam', 'nadamw'])
def test_nadam_looks_one_step_ahead(name):
    """Dozat 2016, algorithm 8, with a constant b1: the next step's momentum takes the present's."""
    found, _ = after(name, GRADIENTS, ONE, b1=0.9, b2=0.99)
    p, m, v = 1.0, 0.0, 0.0
    for t, g in enumerate((0.5, -2.0, 3.0), 1):
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        ahead = 0.9 * m / (1 - 0.9 ** (t + 1)) + 0.1 * g / (1 - 0.9**t)
        p -= 0.1 * ahead / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
    np.testing.assert_allclose(found['head']['kernel'], [[p]], rtol=1e-5)


@pytest.mark.parametrize('weight_decay', [0.0, 0.1])
def test_nadam_decays_the_gradient_and_nadamw_the_parameter(weight_decay):
    gradient = {'head': {'kernel': jnp.asarray([[0.0]])}}
    found = {}
    for name in ('nadam', 'nadamw'):
        config = settings(name=name, weight_decay=weight_decay)
        optimizer = optim.make_optimizer(config, optax.constant_schedule(0.1))
        updates, _ = optimizer.update(gradient, optimizer.init(ONE), ONE)
        found[name] = float(updates['head']['kernel'][0, 0])
    if not weight_decay:
        assert found == {'nadam': 0.0, 'nadamw': 0.0}
    else:
        assert found['nadamw'] == pytest.approx(-0.01)  # rate x decay x parameter
        assert found['nadam'] < -0.05  # Adam makes a step of its own size of any gradient


def test_muon_makes_updates_of_convolutions_orthogonal():
    """As a matrix [all inputs, outputs] of singular values near 1, scaled to the size of Adam's."""
    rng = np.random.default_rng(0)
    gradient = {
        'stage1': {'conv1': {'kernel': jnp.asarray(rng.normal(size=(3, 3, 8, 16)), jnp.float32)}},
        'head': {'kernel': jnp.asarray(rng.normal(size=(16, 10)), jnp.float32)},
    }
    start = jax.tree.map(jnp.zeros_like, gradient)
    found, _ = after('muon', [gradient], start)
    update = np.asarray(found['stage1']['conv1']['kernel']).reshape(72, 16)
    values = np.linalg.svd(update, compute_uv=False) / (0.1 * 0.2 * np.sqrt(72))
    assert values.min() > 0.6 and values.max() < 1.3  # of 5 Newton-Schulz steps: Jordan, 2024
    before = np.asarray(gradient['stage1']['conv1']['kernel']).reshape(72, 16)
    left, _, right = np.linalg.svd(before, full_matrices=False)
    assert np.sum(-update * (left @ right)) > 0.95 * np.linalg.norm(update) * np.sqrt(16)
    # The first step of NAdam is the sign; its momentum looks ahead.
    expected = -0.1 * (0.9 * 0.1 / (1 - 0.9**2) + 1) * np.sign(gradient['head']['kernel'])
    np.testing.assert_allclose(found['head']['kernel'], expected, rtol=1e-4)


def test_muon_takes_each_block_of_a_scanned_stage_by_itself():
    rng = np.random.default_rng(0)
    blocks = jnp.asarray(rng.normal(size=(2, 3, 3, 4, 8)), jnp.float32)
    scanned = {'stage1': {'blocks': {'conv1': {'kernel': blocks}}}}
    alone = {f'block{i}': {'conv1': {'kernel': blocks[i]}} for i in range(2)}
    together, _ = after('muon', [scanned], jax.tree.map(jnp.zeros_like, scanned))
    apart, _ = after('muon', [alone], jax.tree.map(jnp.zeros_like, alone))
    for i in range(2):
        np.testing.assert_allclose(
            together['stage1']['blocks']['conv1']['kernel'][i],
            apart[f'block{i}']['conv1']['kernel'],
            rtol=1e-4,
            atol=1e-6,
        )


def test_schedule_free_evaluates_the_mean_of_its_sequence():
    """arXiv 2405.15682, equations 3 to 5: at a constant rate x is the mean of z."""
    config = settings(name='schedule_free_sgd', b1=0.9, clip_norm=100.0)
    found, state = after('schedule_free_sgd', GRADIENTS, ONE, b1=0.9, clip_norm=100.0)
    z = 1.0 - 0.1 * np.cumsum([0.5, -2.0, 3.0])
    evaluated = optim.evaluated_params(config)(state, found)
    np.testing.assert_allclose(evaluated['head']['kernel'], [[z.mean()]], rtol=1e-5)
    np.testing.assert_allclose(found['head']['kernel'], [[0.9 * z.mean() + 0.1 * z[-1]]], rtol=1e-5)
    assert optim.evaluated_params(settings(name='adamw')) is None


@pytest.mark.parametrize(
    'fields',
    [
        {'optim.ema': 0.9},
        {'optim.layer_decay': 0.5},
        {'optim.rates': 'head=10'},
        {'train.freeze': 'stem'},
        {'prune.schedule': 'keep'},
        {'optim.b1': 0.0},
    ],
)
def test_schedule_free_refuses_what_changes_its_updates(fields):
    given = {'optim.name': 'schedule_free_adamw', **fields}
    (field,) = fields
    with pytest.raises(InputError, match=field):
        load_config(str(CONFIGS / 'default.py'), [(f, str(v)) for f, v in given.items()])


def test_schedule_free_adamw_steps_by_adam_without_momentum():
    """Of z: each step is g over the root of the corrected mean square; x is the mean of z."""
    found, state = after('schedule_free_adamw', GRADIENTS, ONE, b1=0.8, b2=0.9)
    z, v, sequence = 1.0, 0.0, []
    for t, g in enumerate((0.5, -2.0, 3.0), 1):
        v = 0.9 * v + 0.1 * g * g
        z -= 0.1 * g / (np.sqrt(v / (1 - 0.9**t)) + 1e-8)
        sequence.append(z)
    x = np.mean(sequence)
    np.testing.assert_allclose(found['head']['kernel'], [[0.8 * x + 0.2 * z]], rtol=1e-5)
    config = settings(name='schedule_free_adamw', b1=0.8)
    evaluated = optim.evaluated_params(config)(state, found)
    np.testing.assert_allclose(evaluated['head']['kernel'], [[x]], rtol=1e-5)


def test_rising_goes_from_a_ten_millionth_to_the_peak_in_equal_factors():
    rate = schedule(settings(schedule='rising', learning_rate=10.0), total_steps=8)
    assert rates(rate, range(8)) == pytest.approx([10 ** (k - 6) for k in range(8)], rel=1e-4)


@pytest.mark.parametrize(
    ('fields', 'kept'),
    [({}, False), ({'ema': 0.9}, True), ({'name': 'schedule_free_sgd'}, True)],
)
def test_averages_are_kept_where_something_averages(fields, kept):
    assert optim.averages(settings(**fields)) is kept
