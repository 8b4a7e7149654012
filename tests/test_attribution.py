"""Maps of attribution and their checks, against closed forms, direct loops and PyTorch."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from random_models import assert_close, fast_jit, random_images, random_variables

from resnet_jax import create_model
from resnet_jax.analysis import attribution, faithfulness, responses
from resnet_jax.analysis.attribution import METHODS, Settings
from resnet_jax.analysis.examples import Batch
from resnet_jax.analysis.figures.attribution import crop_box
from resnet_jax.analysis.networks import fresh_network
from resnet_jax.analysis.parts import chain
from resnet_jax.data import Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.interop import save_weights
from resnet_jax.models.stages import stack_blocks

SIZE, CLASSES, N = 8, 5, 6
SMALL = {'num_classes': CLASSES, 'stage_sizes': (2, 1), 'width': 4, 'stem_width': 4}
CAMS = ['grad_cam', 'grad_cam++', 'hires_cam', 'layer_cam', 'eigen_cam']
BASELINE = jnp.full((SIZE, SIZE, 3), 0.1)
TARGETS = np.array([0, 3, 1, 4, 4, 2])
QUICK = Settings(steps=2, samples=2, stride=2, patch=3)


@pytest.fixture(scope='module')
def images():
    return random_images((N, SIZE, SIZE, 3))


@pytest.fixture(scope='module')
def original():
    model = create_model('cifar_resnet20', **SMALL)
    return model, random_variables(model, (1, SIZE, SIZE, 3))


@pytest.fixture(scope='module')
def preactivation():
    model = create_model('cifar_preact_resnet20', **SMALL)
    return model, random_variables(model, (1, SIZE, SIZE, 3))


def batches(images, size=N):
    """Batches of a size, the last one padded."""
    for start in range(0, len(images), size):
        part = images[start : start + size]
        missing = size - len(part)
        padded = jnp.concatenate([part, jnp.ones((missing, *part.shape[1:]))])
        yield Batch(padded, np.zeros(size, np.int32), np.arange(size) < len(part))


def explain(network, images, methods, size=N, targets=TARGETS, **options):
    model, variables = network
    options = {'baseline': BASELINE, 'settings': QUICK, **options}
    return attribution.explain(model, variables, batches(images, size), targets, methods, **options)


@functools.cache
def compiled(model, method='__call__'):
    return fast_jit(lambda v, x: model.apply(v, x, train=False, method=method))


def logits(network, images):
    return np.asarray(compiled(network[0])(network[1], images))


def logit(network, images):
    """Of each image's target."""
    return logits(network, images)[np.arange(N), TARGETS]


def final_maps(network, images):
    """What the head averages, by plain NumPy from the last stage's output; and the head."""
    model, variables = network
    found = np.asarray(compiled(model, 'features')(variables, images)['stage2'])
    variables = jax.tree.map(np.asarray, variables)
    norm, stats = (variables[kind].get('final_norm') for kind in ('params', 'batch_stats'))
    if norm:
        found = (found - stats['mean']) / np.sqrt(stats['var'] + 1e-5) * norm['scale']
        found = np.maximum(found + norm['bias'], 0)
    head = variables['params']['head']
    return found, head['kernel'], head['bias']


# Class activation maps


@pytest.mark.parametrize('kind', ['original', 'preactivation'])
def test_before_the_average_class_activation_maps_are_the_heads_weights(kind, images, request):
    """Grad-CAM is relu(CAM) and HiResCAM is CAM, by the number of positions, CAM's sum the logit.

    arXiv 1512.04150; the gradient of the logit at each position is w_c / (h * w).
    """
    network = request.getfixturevalue(kind)
    activation, kernel, bias = final_maps(network, images)
    assert activation.min() == 0
    cam = np.einsum('nhwc,cn->nhw', activation, kernel[:, TARGETS]) / activation[0, ..., 0].size
    found = explain(network, images, CAMS)
    assert (cam < 0).any() and (cam > 0).any()
    assert_close(found['grad_cam'], np.maximum(cam, 0))
    assert_close(found['hires_cam'], cam)
    positive = np.einsum('nhwc,cn->nhw', activation, np.maximum(kernel[:, TARGETS], 0))
    assert_close(found['layer_cam'], positive / activation[0, ..., 0].size)
    assert_close(found['hires_cam'].sum(axis=(1, 2)), logit(network, images) - bias[TARGETS])


def test_the_gradient_is_of_the_logit_with_respect_to_the_layer(original, images):
    """Which the parts of the network behind that layer have as well."""
    model, variables = original
    parts = chain(model, SIZE)
    split = parts.split(variables)
    x, activations = images, {}
    for part in parts:
        x = activations[part.name] = part(split[part.name], x)
    run = responses.compiled_response(model, 'stage1/block2')
    activation, gradient = run(variables, images, jnp.asarray(TARGETS))
    assert_close(activation, activations['stage1/block2'])

    def score(y):
        for part in (parts.blocks[-1], parts.tail):
            y = part.apply(split[part.name], y)
        return y[jnp.arange(N), TARGETS].sum()

    assert_close(gradient, fast_jit(jax.grad(score))(activation))


def test_formulas_of_class_activation_maps():
    """As the papers write them, position by position."""
    rng = np.random.default_rng(0)
    activation, gradient = rng.uniform(size=(2, 3, 4, 5)), rng.normal(size=(2, 3, 4, 5))
    activation[0, :, :, 2] = 0
    alpha = gradient**2 / (
        2 * gradient**2 + activation.sum(axis=(1, 2), keepdims=True) * gradient**3
    )
    weights = (alpha * np.maximum(gradient, 0)).sum(axis=(1, 2))
    expected = np.maximum(np.einsum('nc,nhwc->nhw', weights, activation), 0)
    a, g = jnp.asarray(activation, jnp.float32), jnp.asarray(gradient, jnp.float32)
    assert_close(attribution.grad_cam_plus_plus(a, g), expected)
    assert_close(attribution.layer_cam(a, g), (np.maximum(gradient, 0) * activation).sum(axis=-1))
    for image, found in zip(activation, attribution.eigen_cam(a, g), strict=True):
        matrix = image.reshape(12, 5)
        _, vectors = np.linalg.eigh(matrix.T @ matrix)
        projection = matrix @ vectors[:, -1]
        assert_close(found.ravel(), projection * np.sign(projection.sum()))
        assert (found >= 0).all()


def test_the_final_map_of_an_original_net_is_its_last_stage(original, preactivation, images):
    assert responses.default_layer(original[0]) == 'stage2'
    assert responses.default_layer(preactivation[0]) == responses.FINAL_MAP
    named = explain(original, images, CAMS, layer=responses.FINAL_MAP)
    for name, maps in explain(original, images, CAMS).items():
        np.testing.assert_array_equal(maps, named[name])


def test_layers_are_named_by_path(original, images):
    shapes = {'stem': 8, 'stage1/block1/conv1': 8, 'stage1/block2': 8, 'stage2/block1': 4}
    for layer, side in shapes.items():
        found = explain(original, images, ['hires_cam'], layer=layer)['hires_cam']
        assert found.shape == (N, side, side) and np.abs(found).max() > 0
    with pytest.raises(InputError, match=r"unknown layer 'stage3'.*stage2"):
        explain(original, images, ['grad_cam'], layer='stage3')
    for layer in ('head', 'pooled'):
        with pytest.raises(InputError, match=layer):
            explain(original, images, ['grad_cam'], layer=layer)
    with pytest.raises(InputError, match="unknown method 'gradcam'; did you mean 'grad_cam'"):
        explain(original, images, ['gradcam'])


@pytest.mark.parametrize('name', ['preact', 'basic'])
def test_grad_cam_is_that_of_pytorch(name, standard_promotion):
    torch = pytest.importorskip('torch')
    torch_models = pytest.importorskip('torch_models')
    from resnet_jax.interop.weights import variables_from_tensors

    net = torch_models.randomise(torch_models.tiny_torch_net(name).double(), seed=1)
    family = torch_models.FAMILIES[name]
    fields = {**family.overrides, **({'raw_first_shortcut': True} if name == 'preact' else {})}
    model = create_model(family.name, torch_models.CLASSES, **fields)
    tensors = {
        key: value.detach().numpy()
        for key, value in net.state_dict().items()
        if not key.endswith('num_batches_tracked')
    }
    variables = variables_from_tensors(tensors, model)
    x = torch.randn(N, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    stage = net.features(x)['stage2']
    activation = net.last(stage).detach().requires_grad_()
    scores = net.classify(activation.mean((2, 3)))[torch.arange(N), torch.tensor(TARGETS)]
    (gradient,) = torch.autograd.grad(scores.sum(), activation)
    expected = torch.relu((gradient.mean((2, 3), keepdim=True) * activation).sum(1))
    given = jnp.asarray(x.numpy().transpose(0, 2, 3, 1), jnp.float32)
    baseline = jnp.zeros((32, 32, 3))
    found = explain((model, variables), given, ['grad_cam'], baseline=baseline)['grad_cam']
    assert expected.detach().numpy().max() > 0
    assert_close(found, expected.detach().numpy(), 1e-3)


# Maps of pixels


def test_integrated_gradients_sum_to_the_difference_of_the_logits(original, images):
    """Up to an error that shrinks with the number of steps."""
    errors = []
    for steps in (4, 64):
        found = explain(original, images, ['integrated_gradients'], settings=Settings(steps=steps))[
            'integrated_gradients'
        ]
        assert found.shape == (N, SIZE, SIZE)
        start = jnp.broadcast_to(BASELINE, images.shape)
        differences = logit(original, images) - logit(original, start)
        errors.append(np.abs(found.sum(axis=(1, 2)) - differences))
    assert errors[1].max() < 0.05 * np.abs(differences).max()
    assert errors[1].mean() < errors[0].mean() / 2


def test_smooth_grad_without_noise_is_the_gradient(original, images):
    model, variables = original

    def score(x):
        return model.apply(variables, x, train=False)[jnp.arange(N), TARGETS].sum()

    expected = fast_jit(jax.grad(score))(images).sum(axis=-1)
    quiet, noisy = (
        explain(
            original, images, ['smooth_grad'], settings=dataclasses.replace(QUICK, noise=noise)
        )['smooth_grad']
        for noise in (0.0, 0.5)
    )
    assert_close(quiet, expected, 1e-4)
    assert np.abs(noisy - expected).max() > 0.1 * np.abs(expected).max()


@pytest.mark.parametrize(('stride', 'patch'), [(2, 4), (3, 3), (4, 1)])
def test_occlusion_is_a_loop_over_hidden_squares(stride, patch, original, images):
    settings = Settings(stride=stride, patch=patch)
    found = explain(original, images, ['occlusion'], settings=settings)['occlusion']
    cells = -(-SIZE // stride)
    assert found.shape == (N, cells, cells)
    whole = logit(original, images)
    for row, column in [(0, 0), (1, 0), (cells - 1, cells - 1), (0, 1)]:
        hidden = np.array(images)
        for y in range(SIZE):
            for x in range(SIZE):
                # Pixels whose middles are within half a patch of the middle of the cell.
                middles = (row * stride + stride / 2, column * stride + stride / 2)
                far = max(abs(y + 0.5 - middles[0] + 0.25), abs(x + 0.5 - middles[1] + 0.25))
                if far < patch / 2:
                    hidden[:, y, x] = BASELINE[y, x]
        assert_close(found[:, row, column], whole - logit(original, jnp.asarray(hidden)), 1e-4)


def test_maps_do_not_depend_on_the_batches(original, images):
    together = explain(original, images, list(METHODS))
    apart = explain(original, images, list(METHODS), size=4)
    for name, maps in together.items():
        assert len(maps) == N
        assert_close(apart[name], maps, 1e-4)


def test_scanned_networks_have_the_same_maps(original, images):
    model, variables = original
    scanned = (model.clone(scan_blocks=True), stack_blocks(variables))
    methods = ['grad_cam', 'integrated_gradients']
    found = explain(scanned, images, methods, layer='stage1/block2')
    for name, maps in explain(original, images, methods, layer='stage1/block2').items():
        assert_close(found[name], maps, 1e-4)


# Checks


def test_curves_replace_pixels_in_the_order_of_the_map():
    """Of a score that is the mean of the weights of the pixels that are left."""
    rng = np.random.default_rng(0)
    weights = rng.permutation(16).reshape(1, 4, 4).astype(float)

    def score(images):
        return (np.asarray(images)[..., 0] * weights).sum(axis=(1, 2)) / weights.sum()

    start, end = jnp.ones((1, 4, 4, 1)), jnp.zeros((1, 4, 4, 1))
    ties = faithfulness.random_ranks(np.array([0]), 4, seed=0)
    fractions = np.linspace(0, 1, 17).tolist()
    best = faithfulness.curve(score, start, end, faithfulness.ranks(weights, ties), fractions)
    # The largest go first: 15, 15 + 14, ... of 120 are missing.
    missing = np.concatenate([[0], np.cumsum(np.arange(15, -1, -1))])
    np.testing.assert_allclose(best[0], 1 - missing / 120)
    trapezoids = ((best[0, 1:] + best[0, :-1]) / 2).sum() / 16
    assert faithfulness.area(best, fractions)[0] == pytest.approx(trapezoids)
    worst = faithfulness.curve(score, start, end, faithfulness.ranks(-weights, ties), fractions)
    np.testing.assert_allclose(worst[0], 1 - best[0][::-1])
    flat = faithfulness.ranks(np.zeros((1, 4, 4)), ties)
    np.testing.assert_array_equal(flat, ties)


def test_areas_are_of_the_probability_of_the_class(original, images):
    """From the whole image to the baseline, and from the blurred image to the whole one."""
    model, variables = original
    maps = explain(original, images, ['grad_cam', 'occlusion'])
    found = faithfulness.deletion_and_insertion(
        model, variables, batches(images, 4), TARGETS, maps, baseline=BASELINE, points=5
    )

    def mean_probability(x):
        each = np.exp(logits(original, x).astype(float))
        each /= each.sum(axis=1, keepdims=True)
        return each[np.arange(N), TARGETS].mean()

    whole = mean_probability(images)
    ends = {
        'deletion': (whole, mean_probability(jnp.broadcast_to(BASELINE, images.shape))),
        'insertion': (mean_probability(faithfulness.blurred(images)), whole),
    }
    assert found['curves']['fraction'] == [0, 0.25, 0.5, 0.75, 1]
    for kind, (start, end) in ends.items():
        assert list(found[kind]) == ['grad_cam', 'occlusion', 'random']
        for name, area in found[kind].items():
            curve = found['curves'][kind][name]
            assert curve['mean'][0] == pytest.approx(start, abs=1e-4)
            assert curve['mean'][-1] == pytest.approx(end, abs=1e-4)
            assert area == pytest.approx(np.trapezoid(curve['mean'], dx=0.25))
            difference = area - found[kind]['random']
            assert curve['minus_random']['mean'] == pytest.approx(difference)
    assert found['deletion']['grad_cam'] != found['deletion']['random']


def test_weights_become_random_from_the_head_downwards(preactivation):
    model, trained = preactivation
    parts = chain(model, SIZE)
    fresh = fresh_network(model, SIZE, 3, seed=0).variables
    order = ['tail', 'stage2/block1', 'stage1/block2', 'stage1/block1', 'stem']
    found = dict(faithfulness.cascade(parts, trained, fresh))
    assert list(found) == order
    for i, name in enumerate(order):
        split = parts.split(found[name])
        for j, part in enumerate(order):
            expected = parts.split(fresh if j <= i else trained)[part]
            jax.tree.map(np.testing.assert_array_equal, split[part], expected)
    jax.tree.map(np.testing.assert_array_equal, found['stem'], dict(fresh))


def test_rank_correlation_is_scipys():
    from scipy import stats

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, size=(2, 3, 4, 5)).astype(float)
    expected = [stats.spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(faithfulness.rank_correlations(a, b), expected)
    a[1] = 0
    assert np.isnan(faithfulness.rank_correlations(a, b)).tolist() == [False, True, False]


def test_maps_that_ignore_the_weights_fail_the_sanity_check(original, images):
    """A map of the image alone stays; Grad-CAM does not, and Eigen-CAM does not see the head."""
    model, trained = original
    fresh = fresh_network(model, SIZE, 3, seed=0).variables
    maps = {
        **explain(original, images, ['grad_cam', 'eigen_cam']),
        'edges': np.asarray(images[..., 0]),
    }

    def explain_again(variables):
        found = explain((model, variables), images, ['grad_cam', 'eigen_cam'])
        return {**found, 'edges': -maps['edges']}

    signed = {'grad_cam': False, 'eigen_cam': False, 'edges': True}
    found = faithfulness.sanity(chain(model, SIZE), trained, fresh, maps, explain_again, signed)
    assert list(found['sanity']['edges'].values()) == pytest.approx([1.0] * 5)
    assert found['sanity']['eigen_cam']['tail'] == pytest.approx(1)
    assert found['sanity']['grad_cam']['tail'] < 0.9
    assert found['sanity']['eigen_cam']['stem'] < 0.9
    assert set(found['sanity_other_images']) == set(maps)


# Pictures and the command


@pytest.mark.parametrize('shape', [(60, 90), (90, 60), (40, 40), (20, 31), (32, 32)])
@pytest.mark.parametrize('resize', [None, 36])
def test_the_crop_is_where_the_preprocessing_takes_it(shape, resize):
    """Of an image whose values are its coordinates."""
    preprocessing = Preprocessing(32, 3, resize, (0.0,) * 3, (1.0,) * 3, ('a',))
    height, width = shape
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing='ij')
    ramp = np.stack([y, x, 0 * x], axis=-1) * 2  # up to 180: two grey levels a pixel
    cropped = preprocessing.prepare(ramp.astype(np.uint8)).astype(float) / 2
    left, top, right, bottom = crop_box((*shape, 3), preprocessing)
    middles = (np.arange(32) + 0.5) / 32
    inside = slice(4, 28)  # away from the border, where a resize has fewer pixels
    np.testing.assert_allclose(
        cropped[:, 16, 0][inside], (top + middles * (bottom - top))[inside], atol=0.6
    )
    np.testing.assert_allclose(
        cropped[16, :, 1][inside], (left + middles * (right - left))[inside], atol=0.6
    )


@pytest.mark.slow
def test_the_command_writes_maps_and_pictures(tmp_path, ask):
    sizes = {'stage_sizes': (1,), 'width': 4, 'stem_width': 4}
    model = create_model('cifar_resnet8', **sizes)
    save_weights(tmp_path / 'w.npz', random_variables(model, (1, SIZE, SIZE, 3)), model)
    out = tmp_path / 'out'
    found = ask(
        *('analyze', 'attribution', '--model', 'cifar_resnet8', '--weights', tmp_path / 'w.npz'),
        *(f'--model.{name}={value}' for name, value in sizes.items()),
        *('--image-size', SIZE, '--data', 'digits', '--limit', 5, '--batch-size', 3, '--out', out),
        *('--method', 'grad_cam', 'integrated_gradients', '--curves', '--sanity', '--images', 2),
    )
    assert json.loads((out / 'attribution.json').read_text()) == found
    assert found['layer'] == 'stage1' and found['n'] == 5 and len(found['examples']) == 5
    arrays = np.load(out / 'attribution.npz')
    assert arrays['maps'].shape == (5, 8, 8) and arrays['maps'].dtype == np.float32
    np.testing.assert_array_equal(arrays['maps'], arrays['grad_cam'])
    np.testing.assert_allclose(found['maps'], arrays['maps'], rtol=1e-6)
    np.testing.assert_array_equal(arrays['labels'], arrays['targets'])
    names = arrays['names'][arrays['predicted']].tolist()
    assert names == [example['predicted'] for example in found['examples']]
    assert found['completeness']['error'] < 0.2 * found['completeness']['difference']
    assert list(found['deletion']) == ['grad_cam', 'integrated_gradients', 'random']
    assert list(found['sanity']['grad_cam']) == ['tail', 'stage1/block1', 'stem']
    for name in ('maps', 'curves', 'sanity'):
        assert Image.open(out / f'{name}.png').width > 600
        assert (out / f'{name}.svg').stat().st_size > 1000


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--method', 'gradcam'], 'grad_cam'),
        (['--method', 'grad_cam', 'grad_cam'], 'twice'),
        (['--samples', '0'], '--samples must be at least 1'),
        (['--noise', 'nan'], '--noise must be'),
        (['--baseline', 'white'], "unknown baseline 'white'; known: black, mean"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_computed(options, words):
    import argparse

    from resnet_jax.commands.analyses import attribution as kind

    parser = argparse.ArgumentParser()
    kind.add_arguments(parser)
    with pytest.raises(InputError) as refused:
        kind.analyse(parser.parse_args(options), None)
    assert words in str(refused.value)
