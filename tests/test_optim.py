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
