"""Loading and saving weights: names, files, mismatches. PyTorch's side is in test_torch_parity."""

import json
import pathlib
import pickle
import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from random_models import distinct_designs, random_variables
from running import command, complains, differing, flags, load_state

from resnet_jax import create_model, load_weights
from resnet_jax.cli import main
from resnet_jax.inference.published import load_published
from resnet_jax.interop import layouts, save_weights
from resnet_jax.interop.files import Tensors, read_tensors, write_tensors
from resnet_jax.interop.layouts import OURS
from resnet_jax.interop.matching import fitting_models, match
from resnet_jax.interop.publishers import LAYOUTS
from resnet_jax.interop.weights import tensors_from_variables, variables_from_tensors
from resnet_jax.models import InputError
from resnet_jax.models.stages import stack_blocks

SMALL = {'stage_sizes': (2, 1), 'width': 16, 'stem_width': 8, 'num_classes': 5}
IMAGES = (1, 32, 32, 3)
# model -> layouts that can say it
PUBLISHED = {
    'resnet18': ('torchvision', 'timm', 'huggingface'),
    'resnet50_v1': ('torchvision', 'timm', 'huggingface'),
    'resnext50_32x4d': ('torchvision', 'timm', 'huggingface'),
    'resnet50d': ('timm',),
    'se_resnet50': ('timm',),
    'ecaresnet50d': ('timm',),
    'resnetv2_18': ('timm_v2',),
    'resnetv2_50': ('timm_v2',),
    'resnetv2_50d': ('timm_v2',),
    'bit_resnet50x1': ('timm_v2', 'bit', 'big_vision'),
    'cifar_resnet20': ('torchvision', 'timm', 'cifar'),
    'cifar_resnet164': ('torchvision', 'timm', 'cifar'),
    'cifar_preact_resnet164': ('cifar',),
}


def small(name='resnet18', **overrides):
    groups = {'norm_groups': 8} if name.startswith('bit') else {}
    return create_model(name, **{**SMALL, **groups, **overrides})


@pytest.fixture(scope='module')
def model():
    return small('cifar_resnet20')


@pytest.fixture(scope='module')
def variables(model):
    return random_variables(model, IMAGES)


def sizes_in(layout, model):
    """The shapes of the tensors of a model in a layout, by name."""
    shapes = layouts.model_shapes(model)
    names = layouts.tensor_names(model, shapes, layout)
    return {
        name: layouts.their_shape(path, shapes[path].shape, layout) for path, name in names.items()
    }


@pytest.mark.parametrize(
    ('name', 'layout'), [(name, x) for name, known in PUBLISHED.items() for x in (*known, OURS)]
)
def test_the_round_trip_is_exact(name, layout):
    model = small(name)
    variables = random_variables(model, IMAGES)
    tensors = tensors_from_variables(variables, model, layout)
    assert match({k: v.shape for k, v in tensors.items()}, model).faults == 0
    assert not differing(variables_from_tensors(tensors, model), variables)


@pytest.mark.parametrize(
    ('name', 'overrides', 'layouts_that_can'),
    [
        ('resnet50d', {}, ('timm',)),
        ('se_resnet50', {}, ('timm',)),
        ('resnetv2_50', {}, ('timm_v2', 'cifar')),
        ('resnetv2_50d', {}, ('timm_v2',)),
        ('bit_resnet50x1', {}, ('timm_v2', 'cifar', 'bit', 'big_vision')),
        ('resnet18', {}, ('torchvision', 'timm', 'huggingface', 'cifar')),
        ('cifar_resnet20', {'gate': 'exclusive'}, ()),
        ('cifar_resnet20', {'learn_branch_scale': True}, ()),
    ],
)
def test_layouts_without_names_for_a_model_refuse_it(name, overrides, layouts_that_can):
    model = small(name, **overrides)
    assert sizes_in(OURS, model)
    for layout in LAYOUTS.keys() - set(layouts_that_can):
        with pytest.raises(InputError, match=rf'layout {layout} has no name for .*--layout ours'):
            sizes_in(layout, model)
    for layout in layouts_that_can:
        assert sizes_in(layout, model)


DESIGNS = distinct_designs()


@pytest.mark.parametrize(('model', 'name'), DESIGNS.items(), ids=DESIGNS.values())
def test_every_model_has_a_layout_with_a_name_for_each_tensor(model, name):
    layout = layouts.natural_layout(model)
    # The ports' pre-activation with basic blocks is another function, see raw_first_shortcut.
    unpublished = (
        'preact_resnet18',
        'preact_resnet34',
        'cifar_preact_resnet20',
        'shuffle_resnet50_g3',
        'vdcnn9',  # the paper's code is not published
    )
    assert (layout == OURS) == (name in unpublished)
    sizes = sizes_in(layout, model)
    assert len(sizes) == len(layouts.model_shapes(model))  # no two tensors share a name
    assert match(sizes, model).faults == 0


def test_names_are_those_of_the_publishers():
    """Spot checks against names in the publishers' own files."""
    resnet50 = sizes_in('torchvision', create_model('resnet50'))
    assert resnet50['conv1.weight'] == (64, 3, 7, 7)
    assert resnet50['layer1.0.downsample.0.weight'] == (256, 64, 1, 1)
    assert resnet50['layer4.2.bn3.running_var'] == (2048,)
    assert resnet50['fc.weight'] == (1000, 2048)
    d = sizes_in('timm', create_model('resnet50d'))
    assert d['conv1.6.weight'] == (64, 32, 3, 3)
    assert d['layer2.0.downsample.1.weight'] == (512, 256, 1, 1)
    assert sizes_in('timm', create_model('se_resnet50'))['layer1.0.se.fc1.weight'] == (
        16,
        256,
        1,
        1,
    )
    v2 = sizes_in('timm_v2', create_model('resnetv2_50'))
    assert v2['stages.3.blocks.2.norm3.weight'] == (512,)
    assert v2['head.fc.weight'] == (1000, 2048, 1, 1)
    # google-research/big_transfer, bit_pytorch/models.py, load_from
    bit = sizes_in('bit', create_model('bit_resnet101x1'))
    assert bit['resnet/root_block/standardized_conv2d/kernel'] == (7, 7, 3, 64)
    assert bit['resnet/block1/unit01/a/proj/standardized_conv2d/kernel'] == (1, 1, 64, 256)
    assert bit['resnet/block3/unit23/b/standardized_conv2d/kernel'] == (3, 3, 256, 256)
    assert bit['resnet/block4/unit03/c/group_norm/gamma'] == (512,)
    assert bit['resnet/group_norm/beta'] == (2048,)
    assert bit['resnet/head/conv2d/kernel'] == (1, 1, 2048, 1000)
    assert bit['resnet/head/conv2d/bias'] == (1000,)
    hf = sizes_in('huggingface', create_model('resnet50_v1'))
    assert hf['resnet.encoder.stages.1.layers.0.layer.0.convolution.weight'] == (128, 256, 1, 1)
    assert hf['classifier.1.bias'] == (1000,)


def big_visions_names(variables):
    """The arrays of a BiT net as google-research/big_vision, models/bit_paper.py, has them."""
    p = variables['params']
    found = {
        'root_block/conv_root/kernel': p['stem']['conv1']['kernel'],
        'head/kernel': p['head']['kernel'],
        'head/bias': p['head']['bias'],
    }
    norms = {'norm-pre-head': p['final_norm']}
    for stage, blocks in ((k, v) for k, v in p.items() if k.startswith('stage')):
        for block, parts in blocks.items():
            unit = f'block{stage[-1]}/unit{int(block[5:]):02}'
            for i in (1, 2, 3):
                found[f'{unit}/conv{i}/kernel'] = parts[f'conv{i}']['kernel']
                norms[f'{unit}/gn{i}'] = parts[f'norm{i}']
            if 'shortcut_conv' in parts:
                found[f'{unit}/conv_proj/kernel'] = parts['shortcut_conv']['kernel']
    for name, norm in norms.items():
        found |= {f'{name}/{leaf}': norm[leaf][None, None, None] for leaf in ('scale', 'bias')}
    return {name: np.asarray(x) for name, x in found.items()}


@pytest.mark.parametrize('prefix', ['', 'params/'])
def test_a_file_with_big_visions_names(prefix, tmp_path):
    model = small('bit_resnet50x1')
    variables = random_variables(model, IMAGES)
    arrays = {f'{prefix}{name}': x for name, x in big_visions_names(variables).items()}
    np.savez(tmp_path / 'R50x1_224.npz', **arrays)
    assert not differing(load_weights(tmp_path / 'R50x1_224.npz', model), variables)


def test_a_file_with_bits_names(tmp_path):
    """Google's .npz holds kernels as TensorFlow does, outputs last, and the head as 1x1."""
    model = small('bit_resnet50x1')
    variables = random_variables(model, IMAGES)
    save_weights(tmp_path / 'BiT-M-R50x1.npz', variables, model, layout='bit')
    with np.load(tmp_path / 'BiT-M-R50x1.npz') as file:
        arrays = {name: file[name] for name in file if name.startswith('resnet/')}
    block = variables['params']['stage1']['block2']
    np.testing.assert_array_equal(
        arrays['resnet/block1/unit02/b/standardized_conv2d/kernel'], block['conv2']['kernel']
    )
    np.testing.assert_array_equal(
        arrays['resnet/block1/unit02/c/group_norm/beta'], block['norm3']['bias']
    )
    np.testing.assert_array_equal(
        arrays['resnet/head/conv2d/kernel'][0, 0], variables['params']['head']['kernel']
    )
    np.savez(tmp_path / 'bare.npz', **arrays)  # as Google wrote them, with nothing of ours
    assert not differing(load_weights(tmp_path / 'bare.npz', model), variables)


def test_a_wrapped_model_is_recognised(model, variables):
    tensors = tensors_from_variables(variables, model, 'cifar')
    tensors = {f'module.{name}': array for name, array in tensors.items()}
    tensors |= {'n_averaged': np.zeros((), np.int64)}
    tensors |= {'module.bn1.num_batches_tracked': np.ones((), np.int64)}
    assert not differing(variables_from_tensors(tensors, model), variables)


def test_the_body_of_a_hugging_face_model_fills_all_but_the_head():
    model = small('resnet50_v1')
    variables = random_variables(model, IMAGES)
    tensors = tensors_from_variables(variables, model, 'huggingface')
    body = {k.removeprefix('resnet.'): v for k, v in tensors.items() if 'classifier' not in k}
    with pytest.raises(InputError, match=r'2 tensors are missing \(classifier'):
        variables_from_tensors(body, model)
    loaded = variables_from_tensors(body, model, reset_head=True)
    expected = {k: v for k, v in variables['params'].items() if k != 'head'}
    assert not differing(loaded, {**variables, 'params': expected})


def test_scanned_and_unrolled_models_read_the_same_file(model, variables, tmp_path):
    scanned = model.clone(scan_blocks=True)
    save_weights(tmp_path / 'a.safetensors', variables, model, layout='cifar')
    save_weights(tmp_path / 'b.safetensors', stack_blocks(variables), scanned, layout='cifar')
    assert (tmp_path / 'a.safetensors').read_bytes() == (tmp_path / 'b.safetensors').read_bytes()
    assert not differing(load_weights(tmp_path / 'a.safetensors', scanned), stack_blocks(variables))


@pytest.mark.parametrize('channels', [1, 4])
def test_other_numbers_of_channels(channels, model, tmp_path):
    variables = random_variables(model, (1, 32, 32, channels))
    for layout in ('cifar', OURS):
        save_weights(tmp_path / 'x.npz', variables, model, layout=layout)
        assert not differing(load_weights(tmp_path / 'x.npz', model), variables)


@pytest.mark.parametrize('dimensions', [1, 3])
def test_other_dimensions(dimensions, tmp_path):
    model = small('cifar_resnet20', dimensions=dimensions)
    variables = random_variables(model, (1, *(16,) * dimensions, 3))
    tensors = tensors_from_variables(variables, model, 'cifar')
    assert tensors['conv1.weight'].shape == (8, 3, *(3,) * dimensions)
    assert not differing(variables_from_tensors(tensors, model), variables)


# Files


ARRAYS = {
    'a': np.arange(6, dtype=np.float32).reshape(2, 3),
    'b': np.asarray(3, np.int64),
    'c': np.linspace(-1, 1, 5).astype(np.float16),
}
BFLOAT = {'d': np.linspace(-1, 1, 5).astype(ml_dtypes.bfloat16)}


@pytest.mark.parametrize('suffix', ['.safetensors', '.npz', '.pth', '.pt'])
def test_files_keep_names_types_and_texts(suffix, tmp_path):
    if suffix in ('.pth', '.pt'):
        pytest.importorskip('torch')
    path = tmp_path / f'x{suffix}'
    arrays = ARRAYS if suffix == '.npz' else ARRAYS | BFLOAT
    write_tensors(path, Tensors(arrays, {'model': 'ä', 'preprocessing': '{}'}))
    found = read_tensors(path)
    assert found.metadata == {'model': 'ä', 'preprocessing': '{}'}
    # Where PyTorch's users look for them, and joined by a dot as read.
    inside = 'state_dict.' if suffix in ('.pth', '.pt') else ''
    assert found.arrays.keys() == {inside + name for name in arrays}
    for name, array in arrays.items():
        assert found.arrays[inside + name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[inside + name], array)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / 'x.npz'
    path.write_bytes(b'old')
    with pytest.raises(InputError, match='npz cannot hold bfloat16'):
        write_tensors(path, Tensors(BFLOAT, {}))
    assert path.read_bytes() == b'old'
    assert [p.name for p in tmp_path.iterdir()] == ['x.npz']
    with pytest.raises(InputError, match=r'cannot write .*there is no folder .*absent'):
        write_tensors(tmp_path / 'absent' / 'x.npz', Tensors(ARRAYS, {}))


@pytest.mark.parametrize('key', ['', 'state_dict', 'model', 'model_ema'])
@pytest.mark.parametrize('legacy', [False, True])
def test_pth_files_of_training_scripts(key, legacy, model, variables, tmp_path):
    torch = pytest.importorskip('torch')
    arrays = tensors_from_variables(variables, model, 'torchvision')
    state_dict = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    saved = {key: state_dict, 'epoch': 3, 'optimizer': {'lr': 0.1}} if key else state_dict
    if key == 'model_ema':  # next to the last weights, which are worse
        saved['model'] = {name: torch.zeros_like(t) for name, t in state_dict.items()}
    path = tmp_path / 'x.pth'
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
    assert not differing(load_weights(path, model), variables)


class Harmful:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (pathlib.Path.touch, (self.path,))


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')  # PyTorch's, before it refuses
def test_a_pickle_is_never_run(tmp_path, model):
    torch = pytest.importorskip('torch')
    trace = tmp_path / 'trace'
    torch.save({'state_dict': {'conv1.weight': Harmful(trace)}}, tmp_path / 'a.pth')
    (tmp_path / 'b.pth').write_bytes(pickle.dumps(Harmful(trace)))
    np.savez(tmp_path / 'c.npz', np.array([Harmful(trace)], dtype=object))
    for name in ('a.pth', 'b.pth', 'c.npz'):
        with pytest.raises(InputError, match=f'{name} (holds more than tensors|cannot be read)'):
            load_weights(tmp_path / name, model)
    assert not trace.exists()


@pytest.mark.parametrize('name', ['x.safetensors', 'x.npz', 'x.pth'])
@pytest.mark.parametrize('content', [b'', b'not weights at all', b'PK\x03\x04 half a zip'])
def test_damaged_files_give_one_line(name, content, tmp_path, model):
    if name == 'x.pth':
        pytest.importorskip('torch')
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f'{name} (cannot be read|holds)') as error:
        load_weights(tmp_path / name, model)
    assert len(str(error.value).splitlines()) == 1


def test_other_files_are_refused(tmp_path, model):
    (tmp_path / 'x.h5').write_bytes(b'x')
    with pytest.raises(
        InputError, match=r"none that is known; .* read from safetensors, PyTorch's"
    ):
        load_weights(tmp_path / 'x.h5', model)
    with pytest.raises(InputError, match='holds no run'):
        load_weights(tmp_path, model)
    with pytest.raises(InputError, match=r"did you mean 'x\.h5'"):
        load_weights(tmp_path / 'y.h5', model)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_dtypes_are_kept_or_converted_on_request(dtype, model, variables, tmp_path):
    path = tmp_path / 'x.safetensors'
    save_weights(path, variables, model, layout='cifar', dtype=dtype)
    narrow = jax.tree.map(lambda x: x.astype(dtype), variables)
    assert not differing(load_weights(path, model, dtype=None), narrow)
    assert not differing(
        load_weights(path, model), jax.tree.map(lambda x: x.astype(jnp.float32), narrow)
    )
    with pytest.raises(InputError, match="did you mean 'float64'"):
        save_weights(path, variables, model, dtype='float46')


# What does not fit


@pytest.mark.slow
def test_the_models_that_fit_are_named():
    assert fitting_models(sizes_in('torchvision', create_model('resnet18'))) == ['resnet18']
    # The shapes do not depend on the position of the stride.
    assert fitting_models(sizes_in('huggingface', create_model('resnet50', 7))) == [
        'resnet50',
        'resnet50_v1',
        'resnetblur50',
    ]
    assert fitting_models({'encoder.weight': (3, 3)}) == []


@pytest.mark.slow
def test_the_error_for_a_wrong_file_groups_the_mismatches(tmp_path):
    tensors = {n: np.zeros(s) for n, s in sizes_in('torchvision', create_model('resnet18')).items()}
    write_tensors(tmp_path / 'x.npz', Tensors(tensors, {}))
    with pytest.raises(InputError) as error:
        load_weights(tmp_path / 'x.npz', create_model('resnet34'))
    # 34 - 18 = 16 more layers: 2 + 4 + 2 blocks in the stages 2 to 4 less 2 each, and one more.
    assert 'x.npz does not fit the model: 80 tensors are missing' in str(error.value)
    assert 'layer*.*.conv*.weight x 16' in str(error.value)
    assert str(error.value).endswith('it fits resnet18')
    with pytest.raises(InputError, match=r'left over .*conv\*\.weight x 16.*it fits resnet34'):
        variables_from_tensors(
            {n: np.zeros(s) for n, s in sizes_in('torchvision', create_model('resnet34')).items()},
            create_model('resnet18'),
        )
    tensors['layer1.0.conv1.weight'] = np.zeros((64, 64, 1, 1))
    with pytest.raises(InputError, match=r'1 have another shape \(layer1.0.conv1.weight is \[64, '):
        variables_from_tensors(tensors, create_model('resnet18'))


def test_another_head_needs_reset_head(model, variables, tmp_path):
    save_weights(tmp_path / 'x.npz', variables, model)
    more = small('cifar_resnet20', num_classes=7)
    with pytest.raises(InputError, match=r'the head in x.npz .* is \[.*5\].*\[.*7\].*reset_head'):
        load_weights(tmp_path / 'x.npz', more)
    loaded = load_weights(tmp_path / 'x.npz', more, reset_head=True, key=jax.random.key(3))
    head = loaded['params'].pop('head')
    expected = {**variables, 'params': dict(variables['params'])}
    del expected['params']['head']
    assert not differing(loaded, expected)
    assert head['kernel'].shape[1] == 7
    # lecun_normal of fan-in 16: deviation 1/4.
    assert 0.15 < float(head['kernel'].std()) < 0.35
    again = load_weights(tmp_path / 'x.npz', more, reset_head=True, key=jax.random.key(4))
    assert not np.array_equal(again['params']['head']['kernel'], head['kernel'])


# Runs and commands


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run that averages its variables, with a scanned stage."""
    folder = tmp_path_factory.mktemp('runs') / 'run'
    fields = {'optim.ema': 0.5, 'model.stage_sizes': '(3,)', 'model.scan_blocks': True}
    assert main(['train', *flags(fields), '--workdir', str(folder)]) == 0
    return folder


def digits_model(**overrides):
    fields = {'stage_sizes': (3,), 'width': 4, 'stem_width': 4, **overrides}
    return create_model('cifar_resnet8', 10, **fields)


def test_a_run_and_its_checkpoints_are_read(run):
    state = load_state(run)
    scanned = digits_model(scan_blocks=True)
    assert not differing(load_weights(run, scanned), state.ema)
    assert differing(load_weights(run, scanned)['params'], state.params)
    assert not differing(load_weights(run / 'checkpoints', scanned), state.ema)
    early = load_weights(run / 'checkpoints' / '8', scanned)
    assert not differing(early, load_state(run, '8').ema)


def figures(capsys, *arguments):
    capsys.readouterr()
    assert main(['eval', *map(str, arguments), '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    return {key: found[key] for key in ('n', 'loss', 'top1', 'top5', 'ece')}


def test_convert_keeps_the_model_and_its_preprocessing(run, tmp_path, capsys):
    """A run converted to PyTorch's layout and back evaluates to the same figures."""
    expected = figures(capsys, '--workdir', run)
    # The registered net of this name has other sizes.
    narrow = ('--model.stage_sizes=(3,)', '--model.width=4', '--model.stem_width=4')
    model, source = ['--model', 'cifar_resnet8', *narrow], run
    for target in ('a.safetensors', 'b.safetensors', 'c.npz'):
        assert main(['convert', str(source), str(tmp_path / target), *model]) == 0
        source = tmp_path / target
        found = figures(capsys, *model, '--weights', source, '--data', 'digits', '--split', 'test')
        # Other batches are summed in another order.
        assert found == pytest.approx(expected, rel=1e-6)
    assert 'layer1.0.conv1.weight' in read_tensors(tmp_path / 'a.safetensors').arrays
    assert 'params/stage1/block1/conv1/kernel' in read_tensors(tmp_path / 'b.safetensors').arrays
    assert main(['convert', str(run), str(source), *model]) == 2
    assert 'c.npz exists; give --overwrite' in capsys.readouterr().err
    assert main(['convert', str(run), str(source), *model, '--overwrite', '--dtype=float16']) == 0
    assert {a.dtype for a in read_tensors(source).arrays.values()} == {np.dtype('float16')}


@pytest.mark.parametrize('scan', [False, True])
def test_quantised_weights_are_rounded_for_other_programs(tmp_path, scan):
    """There the network is the plain one, with the logits of the quantised one here."""
    fields = {'stage_sizes': (3,), 'width': 4, 'stem_width': 4, 'shortcut': 'none'}
    model = create_model('cifar_resnet20', 10, weight_bits=3, **fields)
    variables, images = random_variables(model, IMAGES), jnp.ones(IMAGES)
    source, target = tmp_path / 'a.safetensors', tmp_path / 'b.pth'
    save_weights(source, variables, model, layout='ours')
    given = ['--model=cifar_resnet20', '--model.weight_bits=3', f'--model.scan_blocks={scan}']
    given += [f'--model.{name}={value}' for name, value in fields.items()]
    assert main(['convert', str(source), str(target), *given]) == 0
    plain = create_model('cifar_resnet20', 10, **fields)
    found = plain.apply(load_weights(target, plain), images, train=False)
    expected = model.apply(variables, images, train=False)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert not np.allclose(plain.apply(variables, images, train=False), expected, rtol=1e-2)


def test_preprocessing_given_by_flags_is_kept(tmp_path, capsys):
    model = create_model('cifar_resnet8')
    source, target = tmp_path / 'a.npz', tmp_path / 'b.safetensors'
    save_weights(source, random_variables(model, IMAGES), model, layout='cifar')
    names = tmp_path / 'names.txt'
    names.write_text('\n'.join('abcdefghij') + '\n')
    arguments = ['convert', str(source), str(target), '--model=cifar_resnet8']
    arguments += ['--preprocessing=cifar', '--mean=0.1,0.2,0.3', '--image-size=28']
    assert main([*arguments, f'--class-names={names}']) == 0
    stored = json.loads(read_tensors(target).metadata['preprocessing'])
    np.testing.assert_allclose(stored['mean'], [0.1, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(stored['std'], [0.229, 0.224, 0.225], rtol=1e-6)
    assert stored['image_size'] == 28
    assert stored['class_names'] == list('abcdefghij')
    # Class names alone are stored too, with the most common preprocessing.
    arguments = ['convert', str(source), str(tmp_path / 'c.npz'), '--model=cifar_resnet8']
    assert main([*arguments, f'--class-names={names}']) == 0
    stored = json.loads(read_tensors(tmp_path / 'c.npz').metadata['preprocessing'])
    assert stored['class_names'] == list('abcdefghij')
    assert stored['image_size'] == 32
    names.write_text('a\nb\n')
    assert main([*arguments, f'--class-names={names}', '--overwrite']) == 2
    assert 'has 10 classes, but there are 2 class names' in capsys.readouterr().err


def test_class_names_of_the_data_are_the_fallback(tmp_path):
    model = create_model('cifar_resnet8')
    path = tmp_path / 'a.npz'
    save_weights(path, random_variables(model, IMAGES), model, layout='cifar')
    names = tuple('klmnopqrst')
    trained, assumed = load_published('cifar_resnet8', path, data_names=names)
    assert assumed
    assert trained.preprocessing.class_names == names


def test_convert_takes_a_field_of_the_model(tmp_path, capsys):
    """Without it, the file belongs to another function than the registered net."""
    overrides = {'stage_sizes': (1, 1), 'raw_first_shortcut': True}
    model = create_model('cifar_preact_resnet20', **overrides)
    variables = random_variables(model, IMAGES)
    source, target = tmp_path / 'a.safetensors', tmp_path / 'b.npz'
    save_weights(source, variables, model, layout='cifar')
    arguments = ['convert', str(source), str(target), '--model=cifar_preact_resnet20']
    arguments += ['--model.stage_sizes=1,1']
    assert main(arguments) == 2
    assert 'raw_first_shortcut=True' in capsys.readouterr().err
    assert main([*arguments, '--model.raw_first_shortcut=true']) == 0
    assert not differing(load_weights(target, model), variables)


def test_bad_usage_gives_one_line(tmp_path, run, capfd):
    def complaint(*arguments):
        capfd.readouterr()
        code = main([*map(str, arguments)])
        return types.SimpleNamespace(returncode=code, stderr=capfd.readouterr().err)

    result = command('convert', 'x.pth', tmp_path / 'x.npz', '--model=resnet18', '--mean=a,b')
    complains(result, 2, "--mean takes numbers like 0.5,0.5,0.5, got 'a,b'")
    result = complaint('eval', '--workdir', run, '--image-size=8')
    complains(result, 2, '--image-size does not go with --workdir')
    complains(complaint('eval', '--json'), 2, '--data SPEC, or --workdir DIR')
    result = complaint('eval', '--workdir', run, '--model', 'resnet18')
    complains(result, 2, '--model does not go with --workdir')
    result = complaint('predict', '--model', 'resnet18', 'x.jpg')
    complains(result, 2, 'give --workdir DIR, or --model NAME and --weights FILE')
    result = complaint('eval', '--workdir', run, '--model.width=8')
    complains(result, 2, '--model.width does not go with --workdir')
    published = ('eval', '--model=resnet18', '--weights=x.pth', '--data=digits')
    complains(complaint(*published, '--model.widht=8'), 2, "did you mean 'width'")
    complains(complaint(*published, '--model.width=wide'), 2, "width takes int, got 'wide'")
    complains(complaint(*published, '--model.width'), 2, 'write --model.width=VALUE')
    result = complaint('eval', '--model=resnet81', '--weights=x.pth', '--data=digits')
    complains(result, 2, "unknown model 'resnet81'", 'resnet18')
    result = complaint('convert', run, tmp_path / 'x.h5', '--model=cifar_resnet8')
    complains(result, 2, 'does not fit the model')


# config.init


def test_a_run_starts_from_weights(run, tmp_path):
    """With a learning rate of zero, one step leaves the parameters as they were in the file."""
    fields = {'model.stage_sizes': '(3,)', 'init.weights': run, 'optim.learning_rate': 0.0}
    fields |= {'optim.weight_decay': 0.0, 'train.steps': 1, 'data.eval_split': 'test[:9]'}
    folder = tmp_path / 'kept'
    assert main(['train', *flags(fields), '--workdir', str(folder)]) == 0
    expected = load_weights(run, digits_model())['params']
    assert not differing(load_state(folder).params, expected)
    folder = tmp_path / 'reset'
    fields['init.reset_head'] = True
    assert main(['train', *flags(fields), '--workdir', str(folder)]) == 0
    changed = differing(load_state(folder).params, expected)
    assert [path for path in changed if 'kernel' in path] == ["['head']['kernel']"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({'model.stage_sizes': '(2,)'}, ['does not fit the model', 'left over']),
        ({'model.stage_sizes': '(3,)', 'data.channels': 3}, ['of 1 channels', 'data.channels=1']),
        ({'init.weights': 'no/such.pth'}, ['no weights at no/such.pth']),
    ],
)
def test_weights_that_do_not_fit_leave_nothing_behind(fields, words, run, tmp_path, capsys):
    folder = tmp_path / 'new'
    arguments = flags({'init.weights': run, **fields})
    assert main(['train', *arguments, '--workdir', str(folder)]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'error'), [('cifar_resnet20', 18.97), ('cifar_resnet32', 17.44)])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_trained_weights_give_pytorchs_error(name, error, suffix, shared_data, capsys):
    """A public PyTorch port's weights, and the error that PyTorch has with them on these images."""
    if suffix == '.pth':
        pytest.importorskip('torch')
    found = figures(
        capsys,
        f'--model={name}',
        f'--weights={shared_data}/weights/{name}{suffix}',
        '--data=tfds:cifar10_jpeg',
        f'--data-dir={shared_data}/tfds',
        '--split=test',
    )
    assert found['n'] == 10_000
    assert abs(100 * (1 - found['top1']) - error) <= 0.02
