"""A model with its weights in one call; stems for images of other channels."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_models import assert_close, fast_jit, random_images, random_variables
from running import differing, tiny

from resnet_jax import create_model, from_pretrained, load_weights
from resnet_jax.cli import main
from resnet_jax.errors import InputError
from resnet_jax.inference.published import pretrained_preprocessing
from resnet_jax.interop import hub, save_weights
from resnet_jax.interop.files import Tensors, write_tensors
from resnet_jax.interop.weights import tensors_from_variables
from resnet_jax.training import build

SMALL = {'stage_sizes': (1, 1), 'width': 8, 'stem_width': 8}
FLAGS = ['--model.stage_sizes=(1,1)', '--model.width=8', '--model.stem_width=8']
CLASSES = 3


def small(name='resnet18'):
    return create_model(name, CLASSES, **SMALL)


@functools.cache
def variables_of(name='resnet18', seed=0, channels=3):
    return random_variables(small(name), (1, 32, 32, channels), seed)


@pytest.fixture
def file(tmp_path):
    """A file of the small resnet18, named as torchvision does."""
    save_weights(tmp_path / 'x.npz', variables_of(), small(), layout='torchvision')
    return tmp_path / 'x.npz'


def write_two(path, model, averaged, last):
    """A file of averaged variables and the last ones, as training scripts name them."""
    arrays = {
        f'{branch}.{name}': array
        for branch, variables in (('state_dict_ema', averaged), ('state_dict', last))
        for name, array in tensors_from_variables(variables, model, 'torchvision').items()
    }
    write_tensors(path, Tensors(arrays, {}))
    return path


@pytest.fixture
def two_nets(tmp_path):
    return write_two(tmp_path / 'two.npz', small(), variables_of(), variables_of(seed=1))


# The stem


def stem_of(variables):
    return np.asarray(variables['params']['stem']['conv1']['kernel'])


def saved(tmp_path, channels):
    variables = variables_of(channels=channels)
    save_weights(tmp_path / 'x.npz', variables, small(), layout='torchvision')
    return tmp_path / 'x.npz', stem_of(variables)


@pytest.mark.parametrize(('theirs', 'ours'), [(3, 1), (3, 6), (3, 3), (1, 3), (6, 3), (4, 1)])
def test_a_stem_for_other_channels_answers_as_before(theirs, ours, tmp_path, capsys):
    """To images of equal channels."""
    path, kernel = saved(tmp_path, theirs)
    adapted = load_weights(path, small(), channels=ours, adapt_stem=True)
    patch = np.random.default_rng(0).normal(size=(7, 7, 1))
    before = np.tensordot(np.repeat(patch, theirs, -1), kernel, 3)
    if (theirs, ours) == (6, 3):  # of three of the six channels, twice
        before = np.tensordot(np.repeat(patch, 3, -1), 2 * kernel[:, :, :3], 3)
    after = np.tensordot(np.repeat(patch, ours, -1), stem_of(adapted), 3)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == (theirs != ours)
    assert all(f'for {theirs} channels' in note for note in notes)
    adapted['params']['stem']['conv1']['kernel'] = kernel
    assert not differing(adapted, variables_of(channels=theirs))


def test_what_a_stem_for_other_channels_holds(tmp_path):
    path, kernel = saved(tmp_path, 3)

    def adapted(channels):
        return stem_of(load_weights(path, small(), channels=channels, adapt_stem=True))

    np.testing.assert_allclose(adapted(1)[..., 0, :], kernel.sum(-2), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(adapted(6), np.concatenate([kernel, kernel], -2) / 2)
    np.testing.assert_allclose(adapted(4), kernel[:, :, [0, 1, 2, 0]] * (3 / 4), rtol=1e-6)


def test_other_channels_are_refused_unless_asked_for(file):
    with pytest.raises(InputError, match=r'images of 3 channels.* to take 1; set adapt_stem=True'):
        load_weights(file, small(), channels=1)


def test_convert_takes_a_key_and_channels(two_nets, tmp_path, capsys):
    out = tmp_path / 'y.safetensors'
    options = ['--weights-key=state_dict', '--adapt-stem=1', *FLAGS]
    assert main(['convert', str(two_nets), str(out), '--model=resnet18', *options]) == 0
    notes = capsys.readouterr().err
    assert 'took state_dict, ' in notes
    assert 'stem for 3 channels are summed to 1' in notes
    loaded, expected = load_weights(out, small()), variables_of(seed=1)
    kernel = stem_of(expected).sum(-2, keepdims=True)
    np.testing.assert_allclose(stem_of(loaded), kernel, rtol=1e-5, atol=1e-6)
    assert differing(loaded, expected) == ["['params']['stem']['conv1']['kernel']"]


def test_a_run_starts_from_a_key_and_adapts_the_stem(tmp_path, capsys):
    """The config's images have one channel, the file's three."""
    model = create_model('cifar_resnet8', 10, stage_sizes=(1,), width=4, stem_width=4)
    averaged, last = (random_variables(model, (1, 8, 8, 3), seed) for seed in (0, 1))
    path = write_two(tmp_path / 'x.npz', model, averaged, last)
    fields = {'init.weights': path, 'init.weights_key': 'state_dict', 'init.adapt_stem': True}
    params = build.build_run(tiny(fields)).init_state().params
    kernel = stem_of(last).sum(-2, keepdims=True)
    np.testing.assert_allclose(stem_of({'params': params}), kernel, rtol=1e-5, atol=1e-6)
    assert differing(params, last['params']) == ["['stem']['conv1']['kernel']"]
    notes = capsys.readouterr().err
    assert 'took state_dict, ' in notes
    assert 'summed to 1' in notes


# The model and its weights in one call


@pytest.mark.parametrize(
    ('name', 'layout'),
    [('resnet18', 'torchvision'), ('resnetv2_18', 'timm_v2'), ('cifar_resnet20', 'cifar')],
)
def test_from_pretrained(name, layout, tmp_path):
    path = tmp_path / 'x.safetensors'
    save_weights(path, variables_of(name), small(name), layout=layout)
    model, variables = from_pretrained(name, path, **SMALL)
    assert model == small(name)
    assert not differing(variables, variables_of(name))
    half, variables = from_pretrained(name, str(path), dtype=jnp.bfloat16, **SMALL)
    assert half == model.clone(dtype=jnp.bfloat16)
    assert not differing(variables, variables_of(name))


def test_from_pretrained_takes_a_key(two_nets):
    _, variables = from_pretrained('resnet18', two_nets, **SMALL)
    assert not differing(variables, variables_of())
    _, variables = from_pretrained('resnet18', two_nets, weights_key='state_dict', **SMALL)
    assert not differing(variables, variables_of(seed=1))


def test_from_pretrained_sets_the_fields_that_a_layout_needs(tmp_path):
    """timm's pre-activation activates the first block's branch alone; he2016's net its shortcut."""
    path = tmp_path / 'x.safetensors'
    save_weights(path, variables_of('resnetv2_18'), small('resnetv2_18'), layout='timm_v2')
    model, variables = from_pretrained('preact_resnet18', path, **SMALL)
    assert model.block.raw_first_shortcut
    assert not differing(variables, variables_of('resnetv2_18'))
    with pytest.raises(InputError, match='set raw_first_shortcut=True'):
        from_pretrained('preact_resnet18', path, raw_first_shortcut=False, **SMALL)


def test_from_pretrained_with_other_classes(file):
    load = functools.partial(from_pretrained, 'resnet18', file, **SMALL)
    _, same = load(num_classes=CLASSES)
    assert not differing(same, variables_of())
    model, new = load(num_classes=7, key=jax.random.key(3))
    assert model.num_classes == 7
    heads = [new['params'].pop('head')]
    for seed in (3, 4):
        heads.append(load(num_classes=7, key=jax.random.key(seed))[1]['params']['head'])
    assert heads[0]['kernel'].shape == (16, 7)
    assert not differing(heads[0], heads[1])
    assert differing(heads[0], heads[2])
    same['params'].pop('head')
    assert not differing(new, same)


def test_from_pretrained_for_other_channels(file):
    """The answer to a grey image is that to the same image of three equal channels."""
    with pytest.raises(InputError, match='set adapt_stem=True'):
        from_pretrained('resnet18', file, channels=1, **SMALL)
    model, grey = from_pretrained('resnet18', file, channels=1, adapt_stem=True, **SMALL)
    images = random_images((2, 32, 32, 1))
    apply = fast_jit(functools.partial(model.apply, train=False))
    logits = apply(variables_of(), jnp.repeat(images, 3, -1))
    assert_close(apply(grey, images), logits, 1e-4)


def test_from_pretrained_without_a_head_wants_the_classes(tmp_path):
    arrays = tensors_from_variables(variables_of(), small(), 'torchvision')
    body = {name: array for name, array in arrays.items() if not name.startswith('fc.')}
    write_tensors(tmp_path / 'x.npz', Tensors(body, {}))
    with pytest.raises(InputError, match=r'has no head.*give num_classes'):
        from_pretrained('resnet18', tmp_path / 'x.npz', **SMALL)
    model, _ = from_pretrained('resnet18', tmp_path / 'x.npz', num_classes=5, **SMALL)
    assert model.num_classes == 5


def test_from_pretrained_of_a_file_that_does_not_fit(file):
    with pytest.raises(InputError, match=r'does not fit the model: .* tensors are missing'):
        from_pretrained('resnet34', file, **SMALL | {'stage_sizes': (2, 1)})


def test_create_model_with_weights_names_from_pretrained():
    with pytest.raises(InputError, match='from_pretrained'):
        create_model('resnet18', weights='torchvision:v1')


def test_the_preprocessing_of_pretrained_weights(file):
    found, assumed = pretrained_preprocessing('resnet18', file, overrides=SMALL)
    assert (assumed, found.image_size, found.resize) == (True, 224, 256)
    found, assumed = pretrained_preprocessing(
        'resnet18', file, overrides=SMALL, known='torchvision_v2'
    )
    assert (assumed, found.resize) == (False, 232)


def test_a_variant_is_completed_with_the_models_name():
    assert hub.completed('torchvision:v2', 'resnet50') == 'torchvision:resnet50:v2'
    for spec in ('torchvision:resnet50', 'v2', pathlib.Path('torchvision:v2')):
        assert hub.completed(spec, 'resnet50') == spec
    with pytest.raises(InputError, match=r"variant of torchvision:resnet18 'v2'.*v1"):
        from_pretrained('resnet18', 'torchvision:v2')
