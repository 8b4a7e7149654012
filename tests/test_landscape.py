"""Loss surfaces, trajectories and curvature, against closed forms, NumPy and dense matrices."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_models import assert_close, fast_jit, random_images, random_variables, randomised
from running import flags

from resnet_jax import create_model
from resnet_jax.analysis import hessian, landscape, trajectory
from resnet_jax.analysis.directions import Grid, random_direction, random_grid
from resnet_jax.analysis.examples import Batch
from resnet_jax.analysis.figures.landscape import draw, has_plotly, page, ticks
from resnet_jax.cli import main
from resnet_jax.errors import InputError
from resnet_jax.models.stages import stack_blocks

SIZE, CLASSES, EPSILON = 4, 3, 1e-5
SMALL = {'num_classes': CLASSES, 'stage_sizes': (1, 1), 'width': 4, 'stem_width': 4}
POINTS = np.array([[0.0, 0.0], [0.5, -0.3], [-1.0, 0.2], [0.1, 0.9], [0.3, 0.3]], np.float32)


def network(name='cifar_resnet20', size=SIZE, **overrides):
    model = create_model(name, **{**SMALL, **overrides})
    return model, random_variables(model, (1, size, size, 3))


def batches(count=10, size=SIZE, padded=True):
    """Two batches, the second one padded; or one."""
    images, labels = random_images((count, size, size, 3)), np.arange(count) % CLASSES
    if not padded:
        return [Batch(images, labels, np.ones(count, bool))]
    half = count // 2 + 1
    rest = count - half
    end = jnp.concatenate([images[half:], jnp.full((half - rest, size, size, 3), 7.0)])
    ends = np.concatenate([labels[half:], np.zeros(half - rest, labels.dtype)])
    return [
        Batch(images[:half], labels[:half], np.ones(half, bool)),
        Batch(end, ends, np.arange(half) < rest),
    ]


def directions(variables, number=2, **kwargs):
    rng = np.random.default_rng(3)
    return [random_direction(variables['params'], rng, **kwargs) for _ in range(number)]


class Linear(nn.Module):
    """A linear classifier."""

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(CLASSES)(images.reshape(len(images), -1))


def test_the_surface_of_a_linear_model_is_its_closed_form():
    model = Linear()
    variables = random_variables(model, (1, SIZE, SIZE, 3))
    first, second = directions(variables)
    found = landscape.measure(model, variables, (first, second), POINTS, batches())
    images, labels, _ = batches(padded=False)[0]
    x = np.asarray(images, np.float64).reshape(len(images), -1)
    layers = [tree['Dense_0'] for tree in (variables['params'], first, second)]
    weights, one, two = (np.asarray(layer['kernel'], np.float64) for layer in layers)
    for i, (a, b) in enumerate(POINTS):
        logits = x @ (weights + a * one + b * two) + np.asarray(layers[0]['bias'])
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(x)), labels]
        assert found.loss[i] == pytest.approx(losses.mean(), rel=1e-5)
        assert found.error[i] == np.mean(logits.argmax(1) != labels)


def test_directions_have_the_norms_of_the_filters_and_rows():
    _, variables = network('cifar_se_resnet20')
    plain = random_direction(variables['params'], np.random.default_rng(0))
    whole = random_direction(variables['params'], np.random.default_rng(0), norms=True)
    seen = set()
    for (path, weights), one, other in zip(
        jax.tree.leaves_with_path(variables['params']),
        jax.tree.leaves(plain),
        jax.tree.leaves(whole),
        strict=True,
    ):
        seen.add((path[-1].key, weights.ndim))
        if weights.ndim > 1:
            for i in range(weights.shape[-1]):
                length = np.linalg.norm(np.asarray(weights[..., i]).ravel())
                assert np.linalg.norm(np.asarray(one[..., i]).ravel()) == pytest.approx(length)
            np.testing.assert_array_equal(one, other)
        else:
            assert not np.any(one)
            assert np.linalg.norm(other) == pytest.approx(float(jnp.linalg.norm(weights)))
    assert seen == {('kernel', 4), ('kernel', 2), ('bias', 1), ('scale', 1)}


def test_a_zero_filter_stays_zero_and_seeds_differ():
    params = {'kernel': jnp.ones((3, 3, 2, 4)).at[..., 1].set(0)}
    found = random_grid(params, 2, 5, 2.0, seed=1)
    assert not np.any(found.directions[0]['kernel'][..., 1])
    line = random_grid(params, 1, 5, 2.0, seed=1)
    np.testing.assert_array_equal(line.directions[0]['kernel'], found.directions[0]['kernel'])
    other = random_grid(params, 1, 5, 2.0, seed=2)
    assert np.any(other.directions[0]['kernel'] != line.directions[0]['kernel'])
    assert line.points.tolist() == [[-2], [-1], [0], [1], [2]]
    assert found.points[:6].tolist() == [[x, -2] for x in (-2, -1, 0, 1, 2)] + [[-2, -1]]


@pytest.mark.slow
@pytest.mark.parametrize('batch_norm', landscape.BATCH_NORM)
def test_chunks_change_nothing(batch_norm):
    model, variables = network()
    along = directions(variables)
    one, three = (
        landscape.measure(
            model, variables, along, POINTS, batches(), batch_norm=batch_norm, chunk=chunk
        )
        for chunk in (1, 3)
    )
    assert_close(three.loss, one.loss, 1e-4)
    np.testing.assert_array_equal(three.error, one.error)


def scaled(variables, factors):
    """Variables with the filters before each norm multiplied, and the statistics to match."""

    def change(params, stats):
        params, stats = dict(params), dict(stats)
        for name, tree in params.items():
            norm = name.replace('conv', 'norm')
            if name.startswith('conv') and norm in stats:
                factor = factors[: tree['kernel'].shape[-1]]
                params[name] = {'kernel': jnp.asarray(np.asarray(tree['kernel']) * factor)}
                mean, var = stats[norm]['mean'], stats[norm]['var']
                stats[norm] = {'mean': mean * factor, 'var': var * factor**2}
            elif isinstance(stats.get(name), dict) and 'mean' not in stats[name]:
                params[name], stats[name] = change(tree, stats[name])
        return params, stats

    params, stats = change(variables['params'], variables['batch_stats'])
    return {'params': params, 'batch_stats': stats}


@pytest.mark.parametrize('batch_norm', landscape.BATCH_NORM)
def test_the_scale_of_filters_before_norms_changes_no_surface(batch_norm):
    """Which is why directions are normalised by filter (li2018, section 4)."""
    model, variables = network()
    other = scaled(variables, np.float32([0.5, 3.0, 2.0, 0.7, 1.5, 4.0, 0.6, 1.0]))

    def losses(at, along):
        return landscape.measure(
            model, at, along, POINTS, batches(padded=False), batch_norm=batch_norm
        ).loss

    expected = losses(variables, directions(variables))
    np.testing.assert_allclose(losses(other, directions(other)), expected, rtol=2e-3)
    raw = losses(other, directions(variables))
    assert np.abs(raw - expected).max() > 0.05 * expected.max(), 'the check could not fail'


def test_recomputed_statistics_are_those_of_the_examples():
    """At one pixel, a convolution is a product with its kernel's middle."""
    model, variables = network(size=1, stage_sizes=(1,))
    along = directions(variables)
    (batch,) = batches(size=1, padded=False)
    found = landscape.statistics(model, variables, along, POINTS, [batch])
    once = landscape.statistics(model, variables, along, POINTS, batches(size=1), chunk=2)
    for i, (a, b) in enumerate(POINTS):
        params = jax.tree.map(
            lambda w, d, e, a=a, b=b: np.asarray(w + a * d + b * e, np.float64),
            variables['params'],
            *along,
        )
        block = params['stage1']['block1']

        def norm(x, tree, where, i=i):
            mean, var = x.mean(axis=0), x.var(axis=0)
            assert_close(where['mean'][i], mean)
            assert_close(where['var'][i], var)
            return (x - mean) / np.sqrt(var + EPSILON) * tree['scale'] + tree['bias']

        stats = found['stage1']['block1']
        raw = (
            np.asarray(batch.images, np.float64)[:, 0, 0] @ params['stem']['conv1']['kernel'][1, 1]
        )
        x = np.maximum(norm(raw, params['stem']['norm1'], found['stem']['norm1']), 0)
        y = np.maximum(norm(x @ block['conv1']['kernel'][1, 1], block['norm1'], stats['norm1']), 0)
        norm(y @ block['conv2']['kernel'][1, 1], block['norm2'], stats['norm2'])
        # Of two batches, of which one is padded, too; there the first norm's are exact.
        assert_close(once['stem']['norm1']['var'][i], raw.var(axis=0))
        assert_close(once['stem']['norm1']['mean'][i], raw.mean(axis=0))


def test_recomputed_statistics_of_one_batch_are_those_of_training():
    model, variables = network(dropout=0.5, bn_momentum=0.5)
    still = create_model('cifar_resnet20', **SMALL)
    (batch,) = batches(padded=False)
    found = landscape.measure(
        model, variables, directions(variables), POINTS[:1], [batch], batch_norm='recompute'
    )

    @fast_jit
    def run(variables, images):
        return still.apply(variables, images, train=True, mutable=['batch_stats'])[0]

    logits = run(variables, batch.images)
    expected = -jax.nn.log_softmax(logits)[np.arange(10), batch.labels].mean()
    assert found.loss[0] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize('name', ['cifar_plain20', 'cifar_preact_resnet20'])
def test_scanned_networks_have_the_same_surface(name):
    model, variables = network(name, stage_sizes=(3,))
    scanned = model.clone(scan_blocks=True, remat=True)
    unrolled, same = landscape.unrolled(scanned, stack_blocks(variables))
    grid = random_grid(same['params'], 2, 3, 0.5)
    found = landscape.study(unrolled, same, grid, batches(), path=np.array([[0.0, 0.5]]))
    grid = random_grid(variables['params'], 2, 3, 0.5)
    expected = landscape.study(model, variables, grid, batches())
    assert found['loss'] == expected['loss'] and found['error'] == expected['error']
    # Rows are those of y; the centre and points of a path are where the grid has them.
    assert found['loss'][1][1] == found['centre'] and found['loss'][2][1] == found['path'][0]
    assert found['loss'][1][2] != found['loss'][2][1]


def test_a_network_without_batch_norm_says_so():
    model, variables = network(norm='group', norm_groups=2)
    grid = random_grid(variables['params'], 1, 3, 1.0)
    found = landscape.study(model, variables, grid, batches(), batch_norm='recompute')
    assert found['batch_norm'] == 'none' and np.shape(found['loss']) == (3,) and 'y' not in found


def test_the_plane_of_a_trajectory_is_that_of_the_principal_components():
    from sklearn.decomposition import PCA

    _, variables = network()
    weights = [randomised(variables, seed)['params'] for seed in range(5)]
    found = trajectory.plane(weights)

    def flat(tree):
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(float)

    differences = np.stack([flat(each) - flat(weights[-1]) for each in weights])
    pca = PCA(2).fit(differences)
    np.testing.assert_allclose(found.explained, pca.explained_variance_ratio_, rtol=1e-5)
    for direction, component in zip(found.directions, pca.components_, strict=True):
        assert abs(flat(direction) @ component) == pytest.approx(1, rel=1e-5)
        assert jax.tree.structure(direction) == jax.tree.structure(variables['params'])
    projected = np.abs(differences @ pca.components_.T)
    np.testing.assert_allclose(np.abs(found.path), projected, rtol=1e-4, atol=1e-4)
    assert found.path[-1].tolist() == [0, 0]
    grid = trajectory.plane_grid(found, 4)
    assert (found.path.min(0) > [grid.x[0], grid.y[0]]).all()
    assert (found.path.max(0) < [grid.x[-1], grid.y[-1]]).all()
    with pytest.raises(InputError, match='lie on a line'):
        trajectory.plane([{'w': jnp.full(3, i, jnp.float32)} for i in range(4)])


@pytest.fixture(scope='module')
def matfree():
    return pytest.importorskip('matfree', reason='needs the extra: analysis')


@pytest.mark.slow
def test_the_spectrum_of_a_quadratic_is_found(matfree):
    rng = np.random.default_rng(0)
    spectrum = np.concatenate([[50.0, 20.0, 10.0, 9.0, -4.0], rng.uniform(-1, 1, 195)])
    basis = np.linalg.qr(rng.normal(size=(200, 200)))[0]
    matrix = basis * spectrum @ basis.T
    products = []

    def product(vector):
        products.append(vector)
        return jnp.asarray(matrix @ np.asarray(vector, np.float64), jnp.float32)

    values, residuals = hessian.eigenvalues(product, 200, 30)
    assert len(products) == len(values) == 30
    np.testing.assert_allclose(values[:4], [50, 20, 10, 9], rtol=1e-4)
    assert values[-1] == pytest.approx(-4, rel=1e-3)
    distances = np.abs(values[:, None] - spectrum).min(axis=1)
    assert (distances <= residuals + 1e-4).all() and residuals[0] < 1e-2
    mean, error = hessian.trace(product, 200, 40)
    # Hutchinson's variance for signs: twice the squares beside the diagonal.
    deviation = np.sqrt(2 * (np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2)) / 40)
    assert abs(mean - spectrum.sum()) < 4 * deviation and 0.5 < error / deviation < 2
    exact, error = hessian.trace(lambda v: v * jnp.arange(5, dtype=jnp.float32), 5, 3)
    assert exact == 10 and error == 0  # of a diagonal matrix


@pytest.mark.slow
def test_curvature_is_that_of_the_dense_hessian(matfree):
    model, variables = network(stage_sizes=(1,), width=2, stem_width=2)
    data = batches(count=7)
    flat, shaped = jax.flatten_util.ravel_pytree(variables['params'])
    images, labels, _ = batches(count=7, padded=False)[0]

    def loss(flat):
        logits = model.apply({**variables, 'params': shaped(flat)}, images, train=False)
        return -jax.nn.log_softmax(logits)[np.arange(len(labels)), labels].mean()

    dense = np.asarray(jax.jit(jax.hessian(loss))(flat), np.float64)
    expected = np.linalg.eigvalsh(dense)[::-1]
    steps = []
    found = hessian.curvature(model, variables, data, 4, notice=lambda: steps.append(1))
    largest = expected[0]
    np.testing.assert_allclose(found['eigenvalues'], expected[:4], atol=1e-3 * largest)
    assert found['smallest_eigenvalue'] == pytest.approx(expected[-1], abs=1e-3 * largest)
    assert found['convexity'] == pytest.approx(-expected[-1] / largest, abs=2e-3)
    assert len(steps) == hessian.lanczos_steps(4, len(flat)) + hessian.PROBES
    vector = np.random.default_rng(0).normal(size=len(flat)).astype(np.float32)
    product = hessian.hessian_product(model, variables, data)(jnp.asarray(vector))
    assert_close(product, dense @ vector, 1e-4)
    assert abs(found['trace'] - np.trace(dense)) < 5 * found['trace_error']


@pytest.mark.parametrize(
    ('ends', 'expected'),
    [
        ((0.1, 52), [0.1, 0.3, 1, 3, 10, 30]),
        ((0.01, 300), [0.01, 0.1, 1, 10, 100]),
        ((0.1, 2.4), [0.1, 0.2, 0.5, 1, 2]),
        ((2.0, 2.41), [2.0, 2.1, 2.2, 2.3, 2.4]),
    ],
)
def test_scales_have_round_numbers(ends, expected):
    assert ticks(ends) == expected


def test_surfaces_that_are_not_finite_are_drawn():
    surface = {'x': [-1.0, 0.0, 1.0], 'y': [-1.0, 0.0, 1.0], 'dimensions': 2, 'norms': False}
    rows = [[np.inf, 1.0, np.nan], [2.0, 0.0, 1.0], [3.0, 2.0, 1e30]]
    found = {**surface, 'loss': rows, 'error': np.zeros((3, 3)).tolist(), 'batch_norm': 'keep'}
    figures = draw(found, 'title')
    for figure in figures.values():
        figure.canvas.draw()
    contour = figures['contour'].axes[0].collections[0]
    assert contour.norm.vmax == pytest.approx(1e30)
    limited = draw(found, 'title', (0.1, 10.0))['contour'].axes[0].collections[0]
    assert (limited.norm.vmin, limited.norm.vmax) == (0.1, 10.0)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run with four checkpoints."""
    folder = tmp_path_factory.mktemp('landscape') / 'run'
    fields = {'checkpoint.keep': 9, 'checkpoint.every': 3}
    assert main(['train', *flags(fields), '--workdir', str(folder)]) == 0
    return folder


def test_the_command_measures_the_surface_around_the_run(run, ask, tmp_path):
    evaluated = ask('eval', '--workdir', run)
    options = ('--workdir', run, '--points', 3, '--range', 0.5)
    found = ask('analyze', 'landscape', *options)
    assert found['centre'] == pytest.approx(evaluated['loss'], rel=1e-5)
    assert found['centre_error'] == pytest.approx(1 - evaluated['top1'])
    assert found['loss'][1][1] == found['centre'] and found['batch_norm'] == 'keep'
    assert found['x'] == found['y'] == [-0.5, 0, 0.5] and np.shape(found['error']) == (3, 3)
    folder = run / 'analysis' / 'landscape'
    assert json.loads((folder / 'landscape.json').read_text()) == found
    for name in ('contour.png', 'contour.svg', 'surface.png', 'surface.svg'):
        assert (folder / name).stat().st_size > 5000


def test_the_command_follows_the_checkpoints(run, ask, tmp_path):
    options = ('--workdir', run, '--checkpoint', 9, '--points', 3, '--out', tmp_path)
    found = ask('analyze', 'landscape', *options, '--trajectory')
    way = found['trajectory']
    assert way['steps'] == [3, 6, 9] and found['batch_norm'] == 'recompute'
    assert (way['x'][-1], way['y'][-1]) == (0, 0) and way['loss'][-1] == found['centre']
    # Three points lie in a plane.
    assert sum(way['explained']) == pytest.approx(1) and way['explained'][0] > way['explained'][1]


@pytest.mark.slow
def test_the_command_measures_a_line_and_the_curvature(run, ask, tmp_path, matfree):
    line = ('--dimensions', 1, '--points', 3, '--limit', 100, '--out', tmp_path)
    found = ask('analyze', 'landscape', '--workdir', run, *line, '--curvature', 2)
    assert found['loss'][1] == found['centre'] and len(found['error']) == 3
    largest, second = found['eigenvalues']
    assert largest > second > found['smallest_eigenvalue'] and largest > found['residuals'][0]
    assert found['trace_error'] > 0 and found['convexity'] >= 0
    assert (tmp_path / 'line.png').stat().st_size > 5000
    assert not (tmp_path / 'surface.html').exists()


def test_the_page_opens_without_a_network(tmp_path):
    if not has_plotly():
        pytest.skip('needs the extra: analysis')
    grid = Grid((), np.linspace(-1, 1, 3), np.linspace(-1, 1, 3))
    loss = [[1.0, 2.0, 3.0], [1.5, 0.1, 2.0], [9.0, 8.0, float('inf')]]
    found = {'x': grid.x.tolist(), 'y': grid.y.tolist(), 'loss': loss, 'dimensions': 2}
    way = {'steps': [1, 2, 3], 'x': [0.5, 0.2, 0.0], 'y': [0.1, 0.3, 0.0]}
    way |= {'loss': [1.0, 0.5, 0.1], 'explained': [0.9, 0.05]}
    found |= {'error': loss, 'batch_norm': 'keep', 'trajectory': way}
    page(found, 'a <title>', (0.1, 10.0))(tmp_path / 'surface.html')
    text = (tmp_path / 'surface.html').read_text()
    head = text[: text.index('plotly.js v')] + text[text.rindex('<div') :]
    assert 'src=' not in head and 'a &lt;title&gt;' in text and 'step 3' in text
    assert '90.0 % of the variance' in text and 'Plotly.newPlot' in text


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--points', '1'], '--points must be at least 2'),
        (['--range', '0'], '--range must be above 0'),
        (['--range', 'inf'], '--range must be a finite number'),
        (['--chunk', '0'], '--chunk must be at least 1'),
        (['--batch-norm', 'recompte'], "did you mean 'recompute'"),
        (['--loss-range', '2,1'], 'the lower first'),
        (['--trajectory', '--norms'], '--norms does not go with --trajectory'),
        (['--trajectory', '--checkpoint', '6'], 'needs at least 3 checkpoints up to step 6'),
    ],
)
def test_wrong_options_are_refused(run, capsys, tmp_path, options, message):
    given = ['analyze', 'landscape', '--workdir', str(run), '--out', str(tmp_path), *options]
    assert main(given) == 2
    assert message in capsys.readouterr().err


def test_curvature_without_matfree_names_the_extra(monkeypatch):
    monkeypatch.setattr(hessian.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match=r'resnet-jax\[analysis\]'):
        hessian.need_matfree()
