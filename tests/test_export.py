"""Exported files: the same function, run by other programs."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import members
from random_models import random_variables
from small_nets import NETS, logits_of, net

from resnet_jax import create_model
from resnet_jax.data import Preprocessing
from resnet_jax.errors import InputError, RunError
from resnet_jax.export import writing
from resnet_jax.export.exported import load_exported
from resnet_jax.export.formats import FORMATS, check_settings, format_of
from resnet_jax.export.onnx import file as onnx_file
from resnet_jax.export.onnx import network, operations
from resnet_jax.export.program import make_program
from resnet_jax.export.stablehlo import export as export_stablehlo
from resnet_jax.export.writing import write_exported
from resnet_jax.inference.trained import TrainedModel
from resnet_jax.models import block, design, norms, stem

onnx = pytest.importorskip('onnx', reason='needs the extra onnx')
pytest.importorskip('onnxruntime', reason='needs the extra onnx')

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
FORMATS_OF_ANY_BATCH = ('onnx', 'stablehlo')


def trained_net(name='basic', size=9):
    """A small net of float32 as a trained model, pixels, and their logits in float64."""
    wide, variables, _, _ = net(name)
    variables = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float32), variables)
    preprocessing = Preprocessing(size, 3, None, MEAN, STD, ('a', 'b', 'c'))
    model = wide.clone(dtype=jnp.float32)
    return TrainedModel(model, variables, preprocessing, {'model': name}, name)


@functools.cache
def basic_net():
    """The same with pixels, and their logits in float64."""
    trained = trained_net()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 9, 3)).astype(np.uint8)
    images = (pixels / 255 - np.float32(MEAN)) / np.float32(STD)
    model, variables, _, _ = net('basic')
    with jax.enable_x64(True):
        return trained, pixels, logits_of(model, variables, images)


def run_onnx(program, pixels, tmp_path):
    path = tmp_path / 'net.onnx'
    onnx_file.write(program, path, {})
    return onnx_file.open_file(path)(program.images(pixels))['logits']


def compare(found, expected, bound):
    """The difference of logits."""
    return writing.compare({'logits': found}, {'logits': expected}, bound)


# Their programs have the operations of others.
_ALIKE = (
    *('plain', 'ghost', 'zero at start', 'conv1x1', 'relu_before_add', 'preactivated fixup'),
    *('se before', 'se of the shortcut', 'average in both paths', 'gated', 'constant factors'),
    *('layer norm', 'no norm'),
)


@pytest.mark.parametrize('name', members(NETS, _ALIKE))
def test_onnxruntime_agrees_with_the_original_in_float64(name, tmp_path):
    """The graph has no needless node."""
    *_, images, expected = net(name)
    images, trained = images.astype(np.float32), trained_net(name)
    path, program = tmp_path / 'net.onnx', make_program(trained, channels_last=False)
    onnx_file.write(program, path, {})
    found = onnx_file.open_file(path)(np.moveaxis(images, -1, 1))['logits']
    assert compare(found, expected, 2e-5).accepted
    nodes = {node.op_type for node in onnx.load(path).graph.node}
    needless = {'Transpose', 'BatchNormalization', 'Gather', 'Identity', 'Cast'}
    assert not nodes & (needless - {'Transpose'} if name == 'shuffle' else needless)


# Of the others the program is the model itself, folded as tests/test_fold.py folds it.
@pytest.mark.parametrize('name', ['bottleneck', 'full_preact', 'bit', 'eca', 'blur', 'volume'])
def test_stablehlo_agrees_with_the_original_in_float64(name):
    *_, images, expected = net(name)
    exported, _ = export_stablehlo(make_program(trained_net(name)))
    assert exported.platforms == ('cpu', 'cuda', 'rocm', 'tpu')
    assert compare(exported.call(images.astype(np.float32)), expected, 2e-5).accepted


def test_the_program_holds_nothing_of_the_cpu_forms():
    """Its convolutions are those of the network, with their own strides and channels."""
    trained = trained_net('bottleneck')
    program = make_program(trained)
    images = jax.ShapeDtypeStruct((2, *program.image_shape), jnp.float32)
    text = jax.export.export(jax.jit(program), platforms=['tpu'])(images).mlir_module()
    kernels = [p for p in jax.tree.leaves(trained.variables['params']) if p.ndim == 4]
    assert text.count('stablehlo.convolution(') == len(kernels)
    assert 'custom_call' not in text and 'optimization_barrier' not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'size', 'expected'), [('basic', 9, 'any'), ('deep stem', 16, 'multiples of 8')]
)
def test_other_sizes_of_images(name, size, expected):
    trained = trained_net(name, size)
    exported, sizes = export_stablehlo(make_program(trained))
    assert sizes == expected
    images = np.random.default_rng(1).normal(size=(3, 24, 32, 3)).astype(np.float32)
    found = np.asarray(exported.call(images))
    logits = np.asarray(trained.model.apply(trained.variables, images, train=False))
    assert compare(found, logits, 1e-5).accepted


def test_a_net_whose_sizes_must_be_known_takes_its_own():
    trained = trained_net('deep stem')
    exported, sizes = export_stablehlo(make_program(trained, takes_pixels=True))
    assert sizes == '9x9' and exported.in_avals[0].shape[1:] == (9, 9, 3)
    mean = np.random.default_rng(0).uniform(0.3, 0.6, (9, 9, 3))
    each = dataclasses.replace(trained.preprocessing, mean=mean)
    trained = dataclasses.replace(trained, preprocessing=each)
    _, sizes = export_stablehlo(make_program(trained, takes_pixels=True))
    assert sizes == '9x9'


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('per_pixel', [False, True])
def test_pixels_are_normalised_inside(channels_last, per_pixel, tmp_path):
    trained, pixels, expected = basic_net()
    if per_pixel:
        mean = np.broadcast_to(np.float32(MEAN), (9, 9, 3))
        each = dataclasses.replace(trained.preprocessing, mean=mean)
        trained = dataclasses.replace(trained, preprocessing=each)
    program = make_program(trained, takes_pixels=True, channels_last=channels_last)
    assert program.images(pixels).dtype == np.uint8
    found = run_onnx(program, pixels, tmp_path)
    assert compare(found, expected, 1e-5).accepted
    kinds = [node.op_type for node in onnx.load(tmp_path / 'net.onnx').graph.node]
    assert kinds.count('Transpose') == channels_last


def test_onnx_has_a_form_for_every_value_of_the_grammar():
    """norm='batch' is folded before."""
    assert set(operations.OPERATIONS) == set(block.OPERATIONS)
    assert set(operations.ACTIVATIONS) == set(design.ACTIVATIONS)
    assert set(operations.NORMS) == set(norms.NORMS) - {'batch'}
    assert set(operations.STEM_POOLS) == set(stem.STEM_POOLS)
    assert set(operations.DOWNSAMPLINGS) == set(design.DOWNSAMPLINGS)
    assert set(network.GATES) == set(design.GATES)


def test_what_has_no_form_is_refused_in_one_line(monkeypatch, tmp_path):
    monkeypatch.delitem(operations.ACTIVATIONS, 'relu')
    trained, pixels, _ = basic_net()
    with pytest.raises(InputError, match="activation 'relu' has no form in ONNX here; export with"):
        write_exported(make_program(trained), 'onnx', tmp_path / 'net.onnx', pixels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', FORMATS_OF_ANY_BATCH)
def test_a_file_in_the_place_of_the_model(name, tmp_path):
    trained, pixels, expected = basic_net()
    path = tmp_path / f'net{FORMATS[name].suffix}'
    for takes_pixels in (False, True):
        about = write_exported(make_program(trained, takes_pixels=takes_pixels), name, path, pixels)
        assert about['difference']['relative'] < 1e-5 and about['bytes'] == path.stat().st_size
        found = load_exported(path)
        assert found.preprocessing.class_names == ('a', 'b', 'c')
        images = found.preprocessing.normalize(pixels)
        assert compare(found.model.apply({}, images, train=False), expected, 1e-5).accepted
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, f'{path.name}.json']


def test_a_fixed_number_of_images(tmp_path):
    trained, pixels, expected = basic_net()
    path = tmp_path / 'net.onnx'
    write_exported(make_program(trained, batch=3), 'onnx', path, pixels)
    shape = onnx.load(path).graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [3, 9, 9, 3]
    found = load_exported(path)
    logits = found.model.apply({}, found.preprocessing.normalize(pixels), train=False)
    assert compare(logits, expected, 1e-5).accepted  # five images in two calls


def test_the_file_says_what_it_is(tmp_path):
    trained, pixels, _ = basic_net()
    path = tmp_path / 'net.onnx'
    write_exported(make_program(trained, channels_last=False), 'onnx', path, pixels, 'noise')
    stored = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    about = json.loads((tmp_path / 'net.onnx.json').read_text())
    assert json.loads(stored['preprocessing'])['class_names'] == ['a', 'b', 'c']
    assert about['input']['shape'] == ['N', 3, 9, 9] and about['source'] == {'model': 'basic'}
    assert about['difference']['data'] == 'noise' and about['difference']['images'] == 5
    model = onnx.load(path)
    assert [op.version for op in model.opset_import] == [17]
    onnx.checker.check_model(model, full_check=True)


def test_bfloat16(tmp_path, standard_promotion):
    trained, pixels, expected = basic_net()
    path = tmp_path / 'net.stablehlo'
    about = write_exported(make_program(trained, dtype='bfloat16'), 'stablehlo', path, pixels)
    assert 1e-5 < about['difference']['relative'] < 5e-2
    found = load_exported(path)
    logits = found.model.apply({}, found.preprocessing.normalize(pixels), train=False)
    assert logits.dtype == jnp.float32 and compare(logits, expected, 5e-2).accepted


def test_eight_bits(tmp_path):
    """Convolutions and the head compute on eight bits; the file is smaller, the classes agree."""
    model = create_model('cifar_resnet8', 3)
    preprocessing = Preprocessing(16, 3, None, MEAN, STD, ('a', 'b', 'c'))
    images = jnp.zeros((1, 16, 16, 3))
    variables = model.init(jax.random.key(0), images, train=False)
    trained = TrainedModel(model, variables, preprocessing, {}, 'net')
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3)).astype(np.uint8)
    sizes = {}
    for dtype in ('float32', 'int8'):
        program = make_program(trained, dtype=dtype, calibration=pixels, takes_pixels=True)
        path = tmp_path / f'{dtype}.onnx'
        about = write_exported(program, 'onnx', path, pixels)
        sizes[dtype] = about['bytes']
    assert about['difference']['rms'] < 0.2 and about['difference']['agreement'] > 0.8
    assert sizes['int8'] < sizes['float32'] / 2.5
    graph = onnx.load(path).graph
    by_output = {name: node for node in graph.node for name in node.output}
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ('Conv', 'Gemm'):
            assert {by_output[name].op_type for name in node.input[:2]} == {'DequantizeLinear'}
            assert stored[by_output[node.input[1]].input[0]] == onnx.TensorProto.INT8
        assert node.name not in network.PREPARATION or by_output.get(
            node.input[0], node
        ).op_type != ('DequantizeLinear')


@pytest.mark.parametrize(
    'fields', [{'weight_bits': 2}, {'weight_bits': 4, 'layer_bits': ('head=8', 'stem/conv1=0')}]
)
def test_weights_trained_for_few_bits_are_rounded(tmp_path, fields):
    """Training stores unrounded weights; the model rounds them each time that it computes."""
    model = create_model('cifar_resnet8', 3, **fields)
    variables = random_variables(model, (1, 16, 16, 3))
    preprocessing = Preprocessing(16, 3, None, MEAN, STD, ('a', 'b', 'c'))
    trained = TrainedModel(model, variables, preprocessing, {}, 'net')
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    write_exported(make_program(trained), 'onnx', tmp_path / 'net.onnx', pixels)
    graph = onnx.load(tmp_path / 'net.onnx').graph
    kernels = [onnx.numpy_helper.to_array(x) for x in graph.initializer if len(x.dims) == 4]
    # The most values of an output channel: [blocks ...], and of the only one of three channels.
    levels = [max(len(np.unique(channel)) for channel in x) for x in kernels if x.shape[1] > 3]
    (stem,) = [max(len(np.unique(channel)) for channel in x) for x in kernels if x.shape[1] == 3]
    most = 2 ** fields['weight_bits'] - 1
    assert len(levels) == 6 and max(levels) <= most
    assert stem <= most if 'layer_bits' not in fields else stem == 27  # each of 3x3x3 its own


def test_a_file_that_differs_is_not_left(tmp_path, monkeypatch):
    """A runtime that computes something else: the logits of one image are changed."""
    trained, pixels, _ = basic_net()
    row = FORMATS['onnx']

    def other(path):
        run = row.open(path)
        return lambda images: {
            'logits': run(images)['logits'] + 0.01 * (np.arange(len(images)) == 2)[:, None]
        }

    path = tmp_path / 'net.onnx'
    write_exported(make_program(trained), 'onnx', path, pixels)
    before = path.read_bytes()
    monkeypatch.setitem(FORMATS, 'onnx', dataclasses.replace(row, open=other))
    with pytest.raises(RunError, match=r'its outputs differ from the original by 0\.00'):
        write_exported(make_program(trained), 'onnx', path, pixels)
    assert path.read_bytes() == before, 'what was there is kept'
    with pytest.raises(RunError):
        write_exported(make_program(trained), 'onnx', tmp_path / 'new.onnx', pixels)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['net.onnx', 'net.onnx.json']


def test_a_difference():
    """By hand: of the largest logit, and of the deviation of all."""
    expected = np.array([[1.0, -4.0], [3.0, 0.0]])
    found = expected + np.array([[0.0, 0.0], [0.0, 3.4]])
    difference = compare(found.astype(np.float32), expected, 0.9)
    assert difference.relative == pytest.approx(3.4 / 4)
    assert difference.rms == pytest.approx(np.sqrt(3.4**2 / 4) / np.std([1, -4, 3, 0]))
    assert difference.agreement == 0.5 and difference.accepted
    assert not compare(found * np.nan, expected, 0.9).accepted


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('tflit', 'net.onnx', 'float32', None), "unknown format 'tflit'"),
        (('onnx', 'net.stablehlo', 'float32', None), 'of format onnx ends in .onnx'),
        (('onnx', 'net.onnx', 'float', None), "unknown dtype 'float'; did you mean 'float32'"),
        (('onnx', 'net.onnx', 'bfloat16', None), 'does not go with --format onnx, but with stable'),
        (('stablehlo', 'a.stablehlo', 'float32', 'NCHW'), '--layout NCHW does not go with'),
    ],
)
def test_what_a_format_cannot_hold(arguments, message, tmp_path):
    name, file, *others = arguments
    with pytest.raises(InputError, match=message):
        check_settings(name, tmp_path / file, *others)


@pytest.mark.parametrize('name', FORMATS_OF_ANY_BATCH)
def test_damaged_files(name, tmp_path):
    trained, pixels, _ = basic_net()
    path = tmp_path / f'net{FORMATS[name].suffix}'
    write_exported(make_program(trained), name, path, pixels)
    whole, about = path.read_bytes(), tmp_path / f'{path.name}.json'
    described = about.read_text()

    def refused(match):
        with pytest.raises(InputError, match=match) as error:
            load_exported(path)
        assert '\n' not in str(error.value)

    path.write_bytes(whole[: len(whole) // 2])
    refused('is not the file that .* describes; export it again')
    with pytest.raises(InputError, match=f'cannot be read as {FORMATS[name].title}'):
        FORMATS[name].open(path)
    path.write_bytes(whole)
    wrong = [described.replace(f'"{w}"', '"no"') for w in ('batch', 'takes_pixels', 'image_size')]
    wrong.append(described.replace('"batch": null', '"batch": "a"'))
    for text in ('', '{"sha256": 3}', described[:50], '[]', *wrong):
        about.write_text(text)
        refused(f'cannot read .*{path.name}.json')
    about.unlink()
    refused('No such file')
    path.unlink()
    refused('there is no file')
    with pytest.raises(InputError, match='no ending of an exported file; they are'):
        format_of(tmp_path / 'net.pb')


def test_images_of_another_size(tmp_path):
    trained, pixels, _ = basic_net()
    path = tmp_path / 'net.onnx'
    write_exported(make_program(trained), 'onnx', path, pixels)
    net_of_file = load_exported(path).model
    with pytest.raises(InputError, match='takes images of 9x9, not 10x9'):
        net_of_file.apply({}, np.zeros((2, 10, 9, 3), np.float32), train=False)
    with pytest.raises(RunError, match=r'net\.onnx cannot be run: '):
        net_of_file.apply({}, np.zeros((2, 9, 9, 4), np.float32), train=False)


def test_the_folder_must_exist(tmp_path):
    trained, pixels, _ = basic_net()
    with pytest.raises(InputError, match='there is no folder'):
        write_exported(make_program(trained), 'onnx', tmp_path / 'a' / 'net.onnx', pixels)


def test_the_original_is_evaluated_in_batches():
    trained, pixels, expected = basic_net()
    found = writing.original_outputs(make_program(trained), pixels, batch_size=2)['logits']
    assert compare(found, expected, 1e-5).accepted


def test_stacked_blocks(tmp_path):
    trained, pixels, _ = basic_net()
    model = create_model('cifar_resnet14', 3, width=4, stem_width=4, scan_blocks=True)
    variables = random_variables(model, (1, 9, 9, 3))
    trained = dataclasses.replace(trained, model=model, variables=variables)
    about = write_exported(make_program(trained), 'onnx', tmp_path / 'net.onnx', pixels)
    assert about['difference']['relative'] < 1e-4
