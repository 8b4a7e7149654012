"""Quantisation: integer arithmetic in NumPy, files of integers, and training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from random_models import assert_close, fast_jit, random_images, random_variables

from resnet_jax import create_model
from resnet_jax.analysis.examples import Batch
from resnet_jax.compress import folder, quantize
from resnet_jax.compress.fold import fold
from resnet_jax.errors import InputError
from resnet_jax.interop import files, integers
from resnet_jax.interop.weights import variables_from_tensors
from resnet_jax.models import quantized
from resnet_jax.models.convolution import convolution

SIZE = 8
SMALL = {'num_classes': 5, 'stage_sizes': (1, 1), 'width': 4, 'stem_width': 4}


def network(name='cifar_resnet20', **overrides):
    model = create_model(name, **{**SMALL, **overrides})
    return model, random_variables(model, (1, SIZE, SIZE, 3))


def logits_of(model, variables, images):
    return fast_jit(lambda v, x: model.apply(v, x, train=False))(variables, images)


def batches(count=6, seed=1):
    images = random_images((count, SIZE, SIZE, 3), seed)
    return [Batch(images, np.arange(count) % 5, np.ones(count, bool))]


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_weights_lie_on_the_grid_of_their_channel(bits):
    """Symmetric, max|w| / (2^(bits-1) - 1) for each output channel; written in NumPy."""
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32)
    kernel[..., 2] = 0
    found = np.asarray(quantized.quantize_weights(jnp.asarray(kernel), bits))
    top = 2 ** (bits - 1) - 1
    for channel in range(5):
        w = kernel[..., channel]
        scale = np.abs(w).max() / top if w.any() else 1.0
        np.testing.assert_allclose(found[..., channel], np.round(w / scale) * scale, rtol=1e-6)
        assert len(np.unique(found[..., channel])) <= 2 * top + 1
    again = np.asarray(quantized.quantize_weights(jnp.asarray(found), bits))
    np.testing.assert_allclose(again, found, rtol=1e-6)


@pytest.mark.parametrize('limits', [(-1.0, 3.0), (0.0, 2.5), (0.5, 2.0), (-2.0, -1.0)])
def test_activations_have_an_integer_for_zero(limits):
    """arXiv 1712.05877, equation 1 and section 3: a range that holds 0, and holds it exactly."""
    x = np.linspace(-4, 4, 401, dtype=np.float32)
    found = np.asarray(quantized.quantize_activations(jnp.asarray(x), jnp.asarray(limits), 8))
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    scale = (high - low) / 255
    zero = round(-low / scale)
    whole = np.clip(np.round(x / scale) + zero, 0, 255)
    # Halfway between two integers, float32 may go either way.
    np.testing.assert_allclose(found, (whole - zero) * scale, atol=1.01 * scale)
    assert (np.abs(found - (whole - zero) * scale) < 1e-5).mean() > 0.98
    assert 0 in found and len(np.unique(found)) <= 256


def test_gradients_pass_straight_through():
    kernel = random_images((3, 3, 2, 2))
    grad = jax.grad(lambda w: jnp.sum(quantized.quantize_weights(w, 4) * kernel))(kernel)
    np.testing.assert_allclose(grad, kernel, rtol=1e-6)
    x = jnp.asarray([-2.0, -0.5, 0.3, 5.0])
    limits = jnp.asarray([-1.0, 1.0])
    grad = jax.grad(lambda x: jnp.sum(quantized.quantize_activations(x, limits, 8)))(x)
    assert grad.tolist() == [0.0, 1.0, 1.0, 0.0]  # nothing beyond the limits


def test_a_convolution_is_that_of_the_integers():
    """Against int32 sums of products, scaled once at the end."""
    rng = np.random.default_rng(0)
    kernel, x = rng.normal(size=(1, 1, 6, 3)), rng.normal(size=(2, 4, 4, 6))
    conv = convolution(3, 1, bits=8, name=None)
    variables = {'params': {'kernel': jnp.asarray(kernel, jnp.float32)}}
    limits = np.asarray([-2.0, 2.5], np.float32)
    rounded = quantized.quantize_activations(jnp.asarray(x, jnp.float32), jnp.asarray(limits), 8)
    found = conv.apply(variables, rounded)
    whole, scales = integers.grid(kernel, 8)
    scale = np.float32(4.5) / 255
    zero = int(np.round(2.0 / scale))
    inputs = np.asarray(np.round(np.asarray(rounded) / scale), np.int32) + zero
    assert inputs.min() >= 0 and inputs.max() <= 255
    sums = np.einsum('nhwc,cd->nhwd', inputs - zero, whole[0, 0].astype(np.int32))
    np.testing.assert_allclose(found, sums * (scale * scales), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('bits', [3, 4, 8])
@pytest.mark.parametrize('shape', [(3, 3, 3, 5), (7, 3)])
def test_files_hold_integers(tmp_path, bits, shape):
    """Two of at most four bits in a byte, and back to the last bit."""
    kernel = quantize.on_grid(np.random.default_rng(0).normal(size=shape), bits)
    arrays, notes = integers.packed({'a/kernel': kernel, 'a/bias': kernel[0]}, {'a/kernel': bits})
    size = kernel.size if bits > 4 else -(-kernel.size // 2)
    assert arrays['a/kernel'].nbytes == size and arrays['a/kernel/scale'].shape == shape[-1:]
    files.write_tensors(tmp_path / 'a.safetensors', files.Tensors(arrays, notes))
    again = files.read_tensors(tmp_path / 'a.safetensors').arrays
    assert set(again) == {'a/kernel', 'a/bias'}
    np.testing.assert_allclose(again['a/kernel'], kernel, rtol=1e-6)


def test_a_file_whose_integers_are_missing_is_refused(tmp_path):
    arrays, notes = integers.packed({'a': np.ones((2, 2), np.float32)}, {'a': 8})
    del arrays['a/scale']
    files.write_tensors(tmp_path / 'a.safetensors', files.Tensors(arrays, notes))
    with pytest.raises(InputError, match='does not hold the integers of a; restore'):
        files.read_tensors(tmp_path / 'a.safetensors')


@pytest.mark.parametrize('name', ['cifar_resnet20', 'cifar_preact_resnet20'])
def test_a_quantised_network_is_the_folded_one_with_rounded_weights(name):
    model, variables = network(name)
    images = random_images((3, SIZE, SIZE, 3))
    smaller, found = quantize.quantize(model, variables, layer_bits=('stem=0', 'head=4'))
    plain, held = fold(model, variables)
    flat = flatten_dict(held)
    for path, kernel in flat.items():
        if path[-1] == 'kernel' and path[1] != 'stem':
            flat[path] = jnp.asarray(quantize.on_grid(kernel, 4 if path[1] == 'head' else 8))
            assert_close(flatten_dict(found)[path], flat[path])
    expected = logits_of(plain, unflatten_dict(flat), images)
    assert_close(logits_of(smaller, found, images), expected, 1e-5)
    arrays, _ = folder.arrays_of(smaller, found)
    kinds = {k: a.dtype.name for k, a in arrays.items() if k.endswith('kernel')}
    assert kinds.pop('params/stem/conv1/kernel') == 'float32'
    assert kinds.pop('params/head/kernel') == 'uint8' and set(kinds.values()) == {'int8'}


@pytest.mark.slow
def test_the_lowest_and_highest_input_of_each_layer():
    model, variables = quantize.floating(*network())
    limits = quantize.calibrate(model, variables, batches())
    assert set(limits) == set(quantize.inputs_of(model.clone(weight_bits=8, activation_bits=8)))
    images = batches()[0].images
    assert limits['stem/conv1'].tolist() == [float(images.min()), float(images.max())]
    pooled = model.apply(variables, images, train=False, method='features')['pooled']
    assert limits['head'] == pytest.approx([float(pooled.min()), float(pooled.max())], rel=1e-5)
    assert limits['stage1/block1/conv2'][0] == 0  # behind a relu


def test_outliers_are_cut_off():
    """A share of the values; and where the squared error is least, as a search over NumPy's is."""
    rng = np.random.default_rng(0)
    x = np.append(np.abs(rng.normal(size=20_000)), [30.0])
    limits = np.asarray([0.0, 30.0])
    counts = np.histogram(x, quantize._BINS, (0, 30))[0]
    found = quantize._inside(counts, limits, 0.999)
    assert found[1] == pytest.approx(np.quantile(x, 0.999), abs=30 / quantize._BINS)

    def error(high):
        scale = high / 15
        return ((x - np.clip(np.round(x / scale), 0, 15) * scale) ** 2).sum()

    found = quantize._least_error(counts, limits, 4)
    best = min(30 * quantize._CANDIDATES, key=error)
    assert found[1] == pytest.approx(best, rel=0.02)


def test_more_bits_change_less():
    model, variables = network()
    plain, held = quantize.floating(model, variables)
    images = batches()[0].images
    exact, apart = np.asarray(logits_of(plain, held, images)), {}
    limits = quantize.calibrate(plain, held, batches())
    for bits in (4, 8):
        smaller, found = quantize.quantize(
            model, variables, bits=bits, activation_bits=bits, limits=limits
        )
        apart[bits] = np.abs(np.asarray(logits_of(smaller, found, images)) - exact).max()
    assert 0 < apart[8] < apart[4] / 4


def test_the_cost_of_a_layer_is_that_of_quantising_it_alone():
    model, variables = network()
    plain, held = quantize.floating(model, variables)
    limits = quantize.calibrate(plain, held, batches())
    costs = quantize.layer_costs(plain, held, batches(), (4,), limits, 8)
    assert len(costs) == 1 + 2 * 2 + 1
    images = batches()[0].images
    exact = np.asarray(logits_of(plain, held, images), np.float64)
    for cost in costs[2:4]:
        alone, found = quantize.quantize(
            *(model, variables),
            bits=8,
            activation_bits=8,
            layer_bits=('all=0', f'{cost.layer}=4'),
            limits=limits,
        )
        apart = np.asarray(logits_of(alone, found, images), np.float64) - exact
        expected = np.sqrt((apart**2).mean()) / exact.std()
        assert cost.rms == pytest.approx(expected, rel=1e-3)


def test_bits_go_where_they_save_most():
    def cost(layer, weights, bits, relative):
        return quantize.Cost(layer, weights, bits, relative, 0.0)

    costs = [cost('a', 100, 4, 0.5), cost('a', 100, 8, 0.1), cost('b', 100, 4, 0.2)]
    costs += [cost('b', 100, 8, 0.1), cost('c', 200, 4, 0.4), cost('c', 200, 8, 0.01)]
    # Of the squares a saves 0.24 for 100 weights, b 0.03 for 100, c 0.16 for 200.
    assert quantize.mixed_bits(costs, 4.0) == {'a': 4, 'b': 4, 'c': 4}
    assert quantize.mixed_bits(costs, 5.0) == {'a': 8, 'b': 4, 'c': 4}
    assert quantize.mixed_bits(costs, 7.0) == {'a': 8, 'b': 4, 'c': 8}
    assert quantize.mixed_bits(costs, 8.0) == {'a': 8, 'b': 8, 'c': 8}


def test_folding_a_network_that_was_trained_quantised_changes_nothing():
    """A scale for each output channel: what a folded norm multiplies with moves its grid along."""
    model, variables = network(weight_bits=8)
    folded, found = fold(model, variables)
    images = random_images((4, SIZE, SIZE, 3))
    assert folded.weight_bits == 8 and folded.norm == 'folded'
    assert_close(logits_of(folded, found, images), logits_of(model, variables, images), 1e-5)


def test_weights_of_floats_start_a_quantised_network():
    """Without ranges, which the first batch then gives; until then inputs stay floats."""
    model, variables = network()
    arrays = {'/'.join(path): np.asarray(x) for path, x in flatten_dict(variables).items()}
    model8 = model.clone(weight_bits=8, activation_bits=8)
    loaded = variables_from_tensors(arrays, model8)
    images = random_images((3, SIZE, SIZE, 3))
    only_weights = logits_of(model.clone(weight_bits=8), variables, images)
    assert_close(logits_of(model8, loaded, images), only_weights)
    step = fast_jit(lambda v, x: model8.apply(v, x, train=True, mutable=['batch_stats']))
    _, new = step(loaded, images)
    found = new['batch_stats']['stem']['conv1_input']['range']
    assert found.tolist() == [float(images.min()), float(images.max())]


@pytest.mark.parametrize('fields', [{'weight_bits': 1}, {'activation_bits': 9}])
def test_bits_that_no_integer_has(fields):
    with pytest.raises(InputError, match='must be'):
        create_model('cifar_resnet20', **fields)
