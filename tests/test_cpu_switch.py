"""Programs for other backends hold nothing of the forms for a CPU, and compute the same."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from members import members
from random_models import (
    LABELS,
    fast_jit,
    loss_and_all,
    random_images,
    random_variables,
)

from resnet_jax.models import cpu, create_model
from resnet_jax.models.resnet import ResNet

# What the forms bring into a program; flax and jax put none of these into such a model.
PRIMITIVES = {'linear_with_transpose', 'optimization_barrier', 'while', 'custom rule of the forms'}

# 12 channels are few, and the last stage's images are smaller than the kernel.
SETTINGS = {'stem': 'cifar', 'stem_width': 12, 'width': 12, 'num_classes': 3}
MODELS = {
    'looped': ResNet((2, 1), **SETTINGS),
    'scanned': ResNet((3, 1), scan_blocks=True, **SETTINGS),
    'recomputed': ResNet((3, 1), scan_blocks=True, remat=True, **SETTINGS),
}
IMAGES = random_images((4, 4, 4, 3))


def training(model):
    """A function of variables: loss, statistics, logits and gradients of a training step."""
    return lambda variables: loss_and_all(model, variables, IMAGES)


def equations(jaxpr):
    """How many equations of each primitive a program holds, inner programs included."""
    found = collections.Counter()
    for eqn in jaxpr.eqns:
        found[eqn.primitive.name] += 1
        if eqn.primitive.name == 'custom_jvp_call':
            source = eqn.params['call_jaxpr'].jaxpr.debug_info.func_src_info
            found['custom rule of the forms'] += 'resnet_jax' in source
        for value in jax.tree.leaves(list(eqn.params.values())):
            inner = value.jaxpr if isinstance(value, core.ClosedJaxpr) else value
            if isinstance(inner, core.Jaxpr):
                found += equations(inner)
    return found


def traced(model):
    """What a training step and an evaluation hold."""
    variables = random_variables(model, IMAGES.shape)
    step = jax.make_jaxpr(training(model))(variables)
    logits = jax.make_jaxpr(lambda v: model.apply(v, IMAGES, train=False))(variables)
    return equations(step.jaxpr), equations(logits.jaxpr)


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_a_trace_without_the_forms_holds_nothing_of_them(name):
    with cpu.disabled():
        found, evaluated = traced(MODELS[name])
    assert not PRIMITIVES & set(+(found + evaluated))
    if name == 'looped':
        # Eight convolutions (stem, six in blocks, a projection), two gradients each but for the
        # first, one; the head's product with two.
        assert (found['conv_general_dilated'], found['dot_general']) == (8 * 3 - 1, 3)
    found, evaluated = traced(MODELS[name])
    assert {'linear_with_transpose', 'optimization_barrier'} <= set(found), 'the test can tell'
    assert evaluated['custom rule of the forms']


@pytest.mark.parametrize('platform', members(['cpu', 'cuda', 'tpu'], ('cpu', 'cuda')))
@pytest.mark.parametrize('name', MODELS)
def test_an_exported_program_holds_nothing_of_the_forms(name, platform):
    model = MODELS[name]
    variables = random_variables(model, IMAGES.shape)
    with cpu.disabled():
        exported = jax.export.export(jax.jit(training(model)), platforms=[platform])(variables)
    text = exported.mlir_module()
    assert 'stablehlo.convolution' in text
    # jax.checkpoint itself places one for each of the two blocks outside a scan.
    barriers = 2 if name == 'recomputed' else 0
    assert text.count('stablehlo.optimization_barrier') == barriers
    # A scan of blocks is a loop forward and one backward.
    assert text.count('stablehlo.while') == (0 if name == 'looped' else 2)


@pytest.mark.parametrize('name', ['looped', pytest.param('scanned', marks=pytest.mark.slow),
                                  pytest.param('recomputed', marks=pytest.mark.slow)])  # fmt: skip
def test_the_values_agree(name):
    model = MODELS[name]
    variables = random_variables(model, IMAGES.shape)
    jitted = fast_jit(training(model))
    with_forms = jitted(variables)
    with cpu.disabled():
        without = jitted(variables)  # traced again
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)  # noqa: E731
    jax.tree.map(close, with_forms, without)
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(with_forms), jax.tree.leaves(without), strict=True)
    ), 'they were computed in two ways'


def test_the_switch():
    assert cpu.enabled() == (jax.default_backend() == 'cpu')
    with cpu.disabled():
        assert not cpu.enabled()
        with cpu.disabled():
            assert not cpu.enabled()
        assert not cpu.enabled()
    assert cpu.enabled()


def test_another_backend_takes_no_forms(monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    assert not cpu.enabled()


def test_in_a_scan_batch_norm_keeps_only_its_input():
    """The backward pass of a scan reads stacks; without the forms they are no larger than with."""

    def stacked(model):
        variables = random_variables(model, IMAGES.shape)
        jaxpr = jax.make_jaxpr(training(model))(variables).jaxpr
        scans = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == 'scan']
        assert len(scans) == 2
        shapes = [v.aval.shape for v in scans[0].outvars if v.aval.ndim == 5]
        return sum(np.prod(shape) for shape in shapes)

    with_forms = stacked(MODELS['scanned'])
    with cpu.disabled():
        assert 0 < stacked(MODELS['scanned']) <= with_forms


def test_in_a_scan_gradients_are_convolutions_of_images_and_kernels():
    """In their layouts, the only ones that XLA runs fast there; elsewhere it changes others."""
    model = ResNet((3,), stem='cifar', stem_width=24, width=24, scan_blocks=True)
    program = jax.make_jaxpr(training(model))(random_variables(model, IMAGES.shape)).jaxpr
    scans = [eqn.params['jaxpr'] for eqn in program.eqns if eqn.primitive.name == 'scan']
    assert len(scans) == 2  # forward and backward
    for body in scans:
        inputs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in body.in_avals]
        text = jax.jit(core.jaxpr_as_fun(body)).lower(*inputs).as_text()
        assert set(re.findall(r'dim_numbers = (.*?),? window', text)) == {
            '[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]'
        }


def test_few_channels_are_evaluated_alike():
    """The logits of a registered model, at a size where every form is taken."""
    model = create_model('cifar_preact_resnet20', 3, stage_sizes=(1, 1, 1))
    variables = random_variables(model, IMAGES.shape)
    run = jax.jit(lambda v: model.apply(v, IMAGES, train=False))
    expected = run(variables)
    with cpu.disabled():
        np.testing.assert_allclose(run(variables), expected, rtol=1e-5, atol=1e-5)
    assert expected.shape == (len(LABELS), 3)
    assert jnp.all(jnp.isfinite(expected))
