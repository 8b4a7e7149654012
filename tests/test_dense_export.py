"""Exported dense networks: the same functions, run by other programs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import members

from resnet_jax import cli, create_model
from resnet_jax.compress.fold import fold, unfolded
from resnet_jax.data import Preprocessing, open_source
from resnet_jax.dense.detector import detect
from resnet_jax.dense.heads import HEADS
from resnet_jax.export.exported import load_exported
from resnet_jax.export.onnx import dense as onnx_dense
from resnet_jax.export.program import make_program
from resnet_jax.export.writing import write_exported
from resnet_jax.inference.trained import TrainedModel, evaluate_trained

pytest.importorskip('onnx', reason='needs the extra onnx')
ort = pytest.importorskip('onnxruntime', reason='needs the extra onnx')

SMALL = {'stage_sizes': (1, 1, 1, 1), 'width': 8, 'stem_width': 8}
NETS = {
    'fcn': ('fcn_resnet50', 'segmentation', {'backbone': 'resnet18', 'scan_blocks': True}),
    'bits': ('fcn_resnet50', 'segmentation', {'backbone': 'resnet18', 'weight_bits': 4}),
    'aspp': (
        'deeplabv3_resnet50',
        'segmentation',
        {'backbone': 'preact_resnet18', 'head_width': 8},
    ),
    'psp': ('pspnet_resnet50', 'segmentation', {'backbone': 'resnet18'}),
    'unet': ('unet_resnet18', 'depth', {'norm': 'group', 'norm_groups': 4}),
    'retinanet': ('retinanet_resnet50_fpn', 'detection', {'pyramid_width': 8}),
}


def random_net(name, dtype=jnp.float32):
    """A small network of `NETS` with random variables, also of its norms, and its task."""
    model_name, task, settings = NETS[name]
    classes = 1 if task == 'depth' else 11
    model = create_model(model_name, classes, **SMALL | settings)
    images = jnp.zeros((1, 33, 33, 3), jnp.float32)
    variables = jax.jit(lambda: model.init(jax.random.key(0), images, train=False))()
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: np.asarray(x) + (0.1 * np.abs(rng.normal(size=x.shape)) if x.ndim == 1 else 0),
        variables,
    )
    if dtype == jnp.float64:
        model = create_model(model_name, classes, dtype=dtype, **SMALL | settings)
    return model, jax.tree.map(lambda x: jnp.asarray(x, dtype), variables), task


def trained_net(name, size=45):
    """The same as a trained model."""
    model, variables, task = random_net(name)
    names = tuple(['background', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])
    preprocessing = Preprocessing(size, 3, None, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), names, fit='pad')
    return TrainedModel(model, variables, preprocessing, {'model': name}, name, task=task)


def test_onnx_has_a_form_of_every_head():
    assert set(onnx_dense.HEADS) == set(HEADS)


@pytest.mark.parametrize('name', members(NETS, ('fcn', 'psp', 'retinanet')))
def test_folded_networks_are_the_same_function_in_float64(name):
    """Norms behind convolutions vanish, also in the heads."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
        model, variables, _ = random_net(name, jnp.float64)
        images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 45, 61, 3)))
        expected = jax.jit(lambda: model.apply(variables, images, train=False))()
        folded, smaller = fold(model, variables)
        found = jax.jit(lambda: folded.apply(smaller, images, train=False))()
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12 * np.abs(b).max())
    left = set(unfolded(folded, smaller))
    if name == 'unet':
        assert all('norm' in path for path in left) and 'head/norm1' in left
    elif name == 'aspp':  # pre-activation: a norm before each block that begins a stage with one
        assert left and all(path.startswith('backbone/') for path in left)
    else:
        assert not left


@pytest.mark.parametrize('name', members(NETS, ('fcn', 'psp', 'aspp', 'retinanet')))
@pytest.mark.parametrize(
    ('suffix', 'channels_last'),
    [('onnx', False), pytest.param('stablehlo', True, marks=pytest.mark.slow)],
)
def test_files_give_what_the_network_gives(name, suffix, channels_last, tmp_path):
    """At a size that no stride divides; as numbers, as figures, and with their description."""
    trained = trained_net(name)
    pixels = np.random.default_rng(2).integers(0, 256, (3, 45, 45, 3)).astype(np.uint8)
    program = make_program(trained, channels_last=channels_last)
    path = tmp_path / f'net.{suffix}'
    about = write_exported(program, suffix, path, pixels)
    assert about['difference']['relative'] < 1e-5
    exported = load_exported(path)
    assert exported.task == trained.task
    images = np.asarray(trained.preprocessing.normalize(pixels))
    expected = jax.jit(lambda v, x: trained.model.apply(v, x, train=False))(
        trained.variables, images
    )
    found = exported.model.apply({}, images, train=False)
    if trained.task == 'segmentation':  # a file has no second head
        expected = {'out': expected['out']}
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())

    if suffix == 'onnx' and trained.task == 'depth':
        source = open_source('digits_scenes', 'test[:4]').with_targets(trained.does.takes)
        figures, _ = evaluate_trained(exported, source, 2, workers=0)
        original, _ = evaluate_trained(trained, source, 4, workers=0)
        assert figures['loss'] == pytest.approx(original['loss'], rel=1e-4)
        assert figures['rmse'] == pytest.approx(original['rmse'], rel=1e-4)


@pytest.mark.slow
def test_a_reader_of_the_description_finds_the_boxes(tmp_path):
    """Without this package: from the anchors of the first place, and the steps between places."""
    trained = trained_net('retinanet', size=64)
    pixels = np.random.default_rng(2).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    program = make_program(trained, takes_pixels=True, channels_last=False)
    about = write_exported(program, 'onnx', tmp_path / 'net.onnx', pixels)
    assert json.loads((tmp_path / 'net.onnx.json').read_text())['levels'] == about['levels']

    anchors = []
    for level in about['levels']:
        for y in range(level['size'][0]):
            for x in range(level['size'][1]):
                across, down = x * level['step'][1], y * level['step'][0]
                anchors += [
                    (a + across, b + down, c + across, d + down) for a, b, c, d in level['anchors']
                ]
    anchors = np.array(anchors)
    session = ort.InferenceSession(str(tmp_path / 'net.onnx'))
    logits, offsets = session.run(None, {'images': np.moveaxis(pixels, -1, 1)})
    best = int(logits[0].max(-1).argmax())
    (left, top, right, bottom), (dx, dy, dw, dh) = anchors[best], offsets[0, best]
    middle = np.array([left + right, top + bottom]) / 2 + [dx * (right - left), dy * (bottom - top)]
    half = np.exp(np.minimum([dw, dh], 4.135)) * [right - left, bottom - top] / 2
    box = np.clip(np.concatenate([middle - half, middle + half]), 0, 64)

    outputs = trained.model.apply(
        trained.variables, trained.preprocessing.normalize(pixels), train=False
    )
    first = detect(outputs)
    np.testing.assert_allclose(first.boxes[0, 0], box, atol=1e-3)
    assert first.labels[0, 0] == logits[0, best].argmax()


@pytest.mark.slow
def test_the_commands_export_evaluate_and_predict(tmp_path, capsys):
    """Also in eight bits, with the ranges of training scenes."""
    run, file = tmp_path / 'run', tmp_path / 'net.onnx'
    tiny = ['--config.train.steps=1', '--config.model.width=4', '--config.model.stem_width=4']
    tiny += ['--config.data.eval_split=test[:8]', '--config.train.batch_size=4']
    cli.main(['train', '--config', 'digits_segmentation', '--workdir', str(run), *tiny])
    cli.main(['export', '--workdir', str(run), str(file)])
    printed = capsys.readouterr().out
    assert 'Nx11x64x64 float32: logits' in printed and '8 images: digits_scenes' in printed
    data = ['--data', 'digits_scenes', '--split', 'test[:8]', '--json']
    cli.main(['eval', '--exported', str(file), *data])
    found = json.loads(capsys.readouterr().out)
    cli.main(['eval', '--workdir', str(run), '--json'])
    original = json.loads(capsys.readouterr().out)
    assert found['loss'] == pytest.approx(original['loss'], rel=1e-4)
    assert found['miou'] == pytest.approx(original['miou'], rel=1e-3)

    small = tmp_path / 'small.onnx'
    cli.main(['export', '--workdir', str(run), str(small), '--dtype', 'int8', '--fit-images', '8'])
    assert small.stat().st_size < file.stat().st_size
