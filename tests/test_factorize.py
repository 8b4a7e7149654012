"""Factors of kernels: against NumPy's decompositions, and exact counts."""

import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from random_models import assert_close, fast_jit, random_images, random_variables

from resnet_jax import create_model
from resnet_jax.compress import factorize
from resnet_jax.compress.fold import fold
from resnet_jax.errors import InputError
from resnet_jax.models.counting import count

SIZE = 8
SMALL = {'num_classes': 5, 'stage_sizes': (2, 2), 'width': 4, 'stem_width': 4}


def network(name, **overrides):
    model = create_model(name, **{**SMALL, **overrides})
    return model, random_variables(model, (1, SIZE, SIZE, 3))


def logits_of(model, variables, images):
    return fast_jit(lambda v, x: model.apply(v, x, train=False))(variables, images)


def low_rank(rng, shape, ranks):
    """A kernel of exactly these ranks over its channels."""
    *taps, inputs, outputs = shape
    core = rng.normal(size=(*taps, *ranks))
    return np.einsum(
        'ic,abcd,do->abio', rng.normal(size=(inputs, ranks[0])), core,
        rng.normal(size=(ranks[1], outputs)),
    )  # fmt: skip


def test_a_matrix_of_low_rank_comes_back():
    """And of a full one the nearest: the error is that of the singular values left out."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(1, 1, 7, 5))
    down, up = factorize.singular_value_decomposition(kernel, 3)
    left_out = np.linalg.svd(kernel[0, 0], compute_uv=False)[3:]
    assert (down.shape, up.shape) == ((7, 3), (3, 5))
    assert np.linalg.norm(down @ up - kernel[0, 0]) == pytest.approx(np.linalg.norm(left_out))


def test_a_kernel_of_low_rank_comes_back():
    kernel = low_rank(np.random.default_rng(0), (3, 3, 8, 6), (3, 2))
    down, core, up = factorize.tucker(kernel, (3, 2))
    assert (down.shape, core.shape, up.shape) == ((8, 3), (3, 3, 3, 2), (2, 6))
    np.testing.assert_allclose(np.einsum('ic,abcd,do->abio', down, core, up), kernel, atol=1e-10)


def test_alternating_least_squares_improve_the_first_decomposition(monkeypatch):
    """The error of the higher-order decomposition is at most sqrt(2) that of the best."""
    kernel = np.random.default_rng(0).normal(size=(3, 3, 8, 6))

    def error():
        found = np.einsum('ic,abcd,do->abio', *factorize.tucker(kernel, (4, 3)))
        return np.linalg.norm(found - kernel)

    refined = error()
    monkeypatch.setattr(factorize, '_ROUNDS', 0)
    assert refined < error()


@pytest.mark.parametrize(
    ('name', 'overrides'),
    [
        ('cifar_resnet20', {}),
        ('cifar_preact_resnet20', {}),
        ('cifar_resnet164', {'shortcut': 'projection'}),
    ],
)
def test_factors_of_full_rank_are_the_same_function(name, overrides):
    model, variables = network(name, **overrides)
    layers = factorize.layers_of(model, (SIZE, SIZE, 3))
    ranks = {p: (min(s.inputs, s.taps * s.outputs), s.outputs) for p, s in layers.items()}
    ranks = {p: (min(r), min(r)) if layers[p].taps == 1 else r for p, r in ranks.items()}
    smaller, found, errors = factorize.factorize(model, variables, ranks)
    assert max(errors.values()) < 1e-6
    images = random_images((3, SIZE, SIZE, 3))
    expected = logits_of(model, variables, images)
    assert_close(logits_of(smaller, found, images), expected, 1e-4)
    if name == 'cifar_resnet20':
        folded, plain = fold(smaller, found)
        assert ('params', 'stage1', 'block1', 'conv1', 'up', 'bias') in flatten_dict(plain)
        assert_close(logits_of(folded, plain, images), expected, 1e-4)


def test_the_counts_are_those_of_the_smaller_network():
    """Also of a stride: the first 1x1 runs at the full resolution, of a 1x1 not at all."""
    model, variables = network('cifar_resnet164', stage_sizes=(1, 1))
    layers = factorize.layers_of(model, (SIZE, SIZE, 3))
    assert layers['stage2/block1/conv2'].taps == 9
    whole = count(model, (SIZE, SIZE, 3))
    ranks = {
        'stage2/block1/conv1': (2, 2),
        'stage2/block1/conv2': (3, 5),
        'stage2/block1/shortcut_conv': (4, 4),
    }
    smaller, _, _ = factorize.factorize(model, variables, ranks)
    saved = sum(layers[p].multiply_adds - layers[p].factored_multiply_adds(ranks[p]) for p in ranks)
    assert count(smaller, (SIZE, SIZE, 3)).multiply_adds == whole.multiply_adds - saved
    # conv1: 16 to 8; conv2: 3x3, 8 to 8; the shortcut: 16 to 32.
    weights = 2 * (16 + 8) - 16 * 8 + (8 * 3 + 9 * 15 + 5 * 8) - 9 * 64 + 4 * (16 + 32) - 16 * 32
    assert count(smaller, (SIZE, SIZE, 3)).parameters == whole.parameters + weights


def test_ranks_that_keep_the_energy():
    spectrum = factorize.Spectrum(np.asarray([3.0, 2.0, 1.0]), np.asarray([3.0, 2.0, 1.0]))
    layers = {'a': factorize.Layer(1, 30, 30, 4, 4)}
    for energy, rank in ((0.0, 1), (0.64, 1), (0.65, 2), (0.92, 2), (0.93, 3), (1.0, 3)):
        assert factorize.ranks_by_energy(layers, {'a': spectrum}, energy) == {'a': (rank, rank)}
    wide = {'a': factorize.Layer(1, 3, 3, 4, 4)}  # where no rank above 1 is cheaper
    assert factorize.ranks_by_energy(wide, {'a': spectrum}, 0.9) == {}


def test_a_budget_is_kept_and_used():
    model, variables = network('cifar_resnet20', width=16, stem_width=16)
    layers = factorize.layers_of(model, (SIZE, SIZE, 3))
    values = factorize.spectra(variables, layers)
    whole = count(model, (SIZE, SIZE, 3)).multiply_adds
    others = whole - sum(layer.multiply_adds for layer in layers.values())
    found = []
    for share in (0.4, 0.7):
        ranks = factorize.ranks_for_budget(layers, values, others, int(share * whole))
        smaller, _, _ = factorize.factorize(model, variables, ranks)
        found.append(count(smaller, (SIZE, SIZE, 3)).multiply_adds / whole)
    assert 0.35 < found[0] <= 0.4 and 0.65 < found[1] <= 0.7
    with pytest.raises(InputError, match='more than the budget'):
        factorize.ranks_for_budget(layers, values, others, 1000)


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({'groups': 2}, 'grouped'),
        ({'weight_standardization': True}, 'fold'),
        ({'ranks': ('stage1/block1/conv1=2',)}, 'factored already'),
    ],
)
def test_what_is_not_factored(fields, words):
    model = create_model('cifar_resnet20', **{**SMALL, **fields})
    with pytest.raises(InputError, match=words):
        factorize.layers_of(model, (SIZE, SIZE, 3))


@pytest.mark.parametrize('entry', ['stage1/block1/conv1', 'stage1/block1/conv1=0x4', 'head=4'])
def test_ranks_that_mean_nothing(entry):
    with pytest.raises(InputError, match='ranks'):
        create_model('cifar_resnet20', ranks=(entry,))


def test_the_first_block_of_low_rank_is_found_in_a_file():
    """Whose name is what tells the layouts of files apart."""
    from resnet_jax.interop.weights import variables_from_tensors

    model, variables = network('cifar_resnet20')
    smaller, found, _ = factorize.factorize(model, variables, {'stage1/block1/conv1': (2, 2)})
    flat = {'/'.join(path): np.asarray(x) for path, x in flatten_dict(found).items()}
    again = flatten_dict(variables_from_tensors(flat, smaller))
    assert set(again) == set(flatten_dict(found))
    assert unflatten_dict(again)['params']['stage1']['block1']['conv1']['core'] is not None
