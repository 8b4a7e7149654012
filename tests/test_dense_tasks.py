"""Segmentation, detection and depth from config to prediction, by the commands."""

import json
import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from compressed_folders import random_folder
from members import members
from PIL import Image
from running import differing, load_state

from resnet_jax import data
from resnet_jax.cli import main
from resnet_jax.errors import InputError, Stopped
from resnet_jax.training import config as configs
from resnet_jax.training import loop

TASKS = ('segmentation', 'detection', 'depth')
SCORES = {'segmentation': 'miou', 'detection': 'ap', 'depth': 'delta1'}
TINY = {
    'model.width': 4,
    'model.stem_width': 4,
    'data.image_size': 32,
    'data.train_split': 'train[:16]',
    'data.eval_split': 'test[:6]',
    'train.batch_size': 4,
    'train.eval_batch_size': 4,
    'train.epochs': None,
    'train.steps': 4,
    'train.eval_every': 2,
    'train.log_every': 2,
    'checkpoint.every': 2,
    'optim.ema': 0.5,
    'train.xla_optimization_level': 0,
}
SMALLER = {
    'model.stage_sizes': (1, 1),
    'model.stage_strides': (1, 2),
    'model.features': ('stage1', 'stage2'),
}
EXTRA = {'detection': {'model.pyramid_width': 4}, 'segmentation': SMALLER, 'depth': SMALLER}


def config_of(task, /, **fields):
    if task == 'detection':
        pytest.importorskip('faster_coco_eval')
    settings = configs.load_config(f'digits_{task}')
    return configs.changed(settings, {**TINY, **EXTRA[task], **fields})


@pytest.fixture(scope='module', params=members(TASKS, ('detection', 'depth')))
def run(request, tmp_path_factory):
    """A run of a task, with what it is."""
    folder = tmp_path_factory.mktemp(request.param) / 'run'
    summary = loop.train(config_of(request.param), folder)
    return types.SimpleNamespace(task=request.param, folder=folder, summary=summary)


@pytest.fixture
def output(capfd):
    """Runs a command that succeeds; what it prints."""

    def of(*args):
        capfd.readouterr()
        code = main([str(arg) for arg in args])
        out, err = capfd.readouterr()
        assert code == 0, err
        return out

    return of


def refusal(capfd, *args):
    """The one line that refuses a command."""
    capfd.readouterr()
    assert main([str(arg) for arg in args]) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    found = [line for line in lines if line.startswith('resnet-jax:')]
    assert len(found) == 1 and 'Traceback' not in '\n'.join(lines)
    return found[0]


def test_a_run_learns_and_says_its_figures(run):
    lines = [json.loads(line) for line in (run.folder / 'metrics.jsonl').read_text().splitlines()]
    assert [(line['step'], line['split']) for line in lines] == [
        (2, 'train'),
        (2, 'eval'),
        (4, 'train'),
        (4, 'eval'),
    ]
    score = SCORES[run.task]
    assert lines[-1]['n'] == 6 and 0 <= lines[-1][score] <= 1 and f'raw_{score}' in lines[-1]
    assert run.summary['eval'][score] == lines[-1][score]


def test_eval_gives_the_figures_of_the_run(run, output):
    found = json.loads(output('eval', '--workdir', run.folder, '--json'))
    for name, value in run.summary['eval'].items():
        if not name.startswith('raw_'):
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    assert found['task'] == run.task
    text = output('eval', '--workdir', run.folder)
    assert '6 scenes' in text


def test_a_stopped_run_continues_to_the_same_state(run, tmp_path):
    """Stopped after two of four steps, and started again."""
    with pytest.raises(Stopped):
        loop.train(config_of(run.task), tmp_path / 'run', on_evaluation=lambda step, figures: False)
    loop.train(config_of(run.task), tmp_path / 'run')
    assert not differing(load_state(run.folder), load_state(tmp_path / 'run'))


def test_predictions_have_the_size_of_their_image(run, output, tmp_path):
    scene = data.open_source('digits_scenes', 'test')[0]['image']
    wide = np.concatenate([scene, scene[:, :30]], 1)
    Image.fromarray(wide).save(tmp_path / 'wide.png')
    where = ('--workdir', run.folder, tmp_path / 'wide.png')
    out = output('predict', *where, '--json', '--overlays', tmp_path / 'seen', '--score', '0.0')
    (found,) = json.loads(out)['predictions']
    with Image.open(found['overlay']) as picture:
        assert min(picture.size) > 300
    if run.task == 'segmentation':
        assert sum(part['share'] for part in found['classes']) == pytest.approx(1)
    elif run.task == 'depth':
        assert 0 < found['depth']['nearest'] <= found['depth']['median']
    else:
        boxes = np.asarray([one['box'] for one in found['objects']])
        assert len(boxes) and (boxes >= 0).all() and (boxes <= [94, 64, 94, 64]).all()
    assert 'wide.png' in output('predict', *where)


def test_the_report_names_the_kind_of_error(run, output):
    output('report', '--workdir', run.folder)
    kind = {'segmentation': '1 - mean IoU', 'detection': '1 - AP', 'depth': '1 - delta1'}[run.task]
    assert kind in (run.folder / 'report.md').read_text()


@pytest.mark.parametrize(
    'command',
    [
        ('analyze', 'lesion'),
        ('compress', 'fold', '--out', 'x'),
        ('features', '--layer', 'pooled', '--out', 'x.npz'),
        ('eval', '--report'),
        ('eval', '--tta', 'ten_crop'),
        ('eval', '--data', 'digits'),
    ],
    ids=' '.join,
)
def test_what_takes_classifiers_refuses_others(run, command, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refusal(capfd, *command, '--workdir', run.folder)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_test_time_augmentation_of_segmentation(run, output):
    if run.task != 'segmentation':
        pytest.skip('of segmentation alone')
    plain = json.loads(output('eval', '--workdir', run.folder, '--json'))
    for tta in ('flip', 'scales', 'windows'):
        found = json.loads(output('eval', '--workdir', run.folder, '--json', '--tta', tta))
        assert found['loss'] != plain['loss'] and np.isfinite(found['loss'])


@pytest.mark.parametrize(
    ('recipe', 'fields', 'words'),
    [
        ('segmentation', {'task': 'classification', 'loss.name': 'focal'}, 'miou'),
        ('detection', {'task': 'segmentation', 'checkpoint.best': 'miou'}, 'unet_resnet18'),
        ('segmentation', {'model.name': 'resnet18'}, 'unet_resnet18'),
        ('segmentation', {'augment.transforms': ('rotation',)}, 'random_zoom'),
        ('segmentation', {'augment.transforms': ('mixup',)}, 'leave it out'),
        ('segmentation', {'data.name': 'digits'}, 'no segmentation'),
        ('segmentation', {'data.resize': 64}, 'data.resize'),
        ('segmentation', {'checkpoint.best': 'top1'}, 'miou'),
        ('segmentation', {'loss.class_weights': ('balanced',)}, 'class_weights'),
        ('depth', {'loss.name': 'cross_entropy'}, 'scale_invariant'),
    ],
)
def test_configs_that_cannot_be_meant(recipe, fields, words, tmp_path):
    with pytest.raises(InputError) as caught:
        loop.train(config_of(recipe, **fields), tmp_path / 'run')
    assert words in str(caught.value) and '\n' not in str(caught.value)
    assert not (tmp_path / 'run').exists()


def test_any_network_can_be_the_backbone():
    """A pre-activation network, with a norm before each feature that the decoder takes."""
    from resnet_jax.training.start import build_model

    settings = config_of('segmentation', **{'model.backbone': 'preact_resnet18'}).model
    model = build_model(settings, 11)
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), train=False)
    )
    assert {'stage1_norm', 'final_norm'} <= set(variables['params']['backbone'])


@pytest.mark.parametrize('task', TASKS)
def test_data_show_draws_the_targets(task, output, tmp_path):
    if task == 'detection':
        pytest.importorskip('faster_coco_eval')
    small = ('--config.train.batch_size=4', '--config.data.train_split=train[:8]')
    out = tmp_path / 'examples.png'
    output('data', 'show', '--config', f'digits_{task}', *small, '--count', '4', '--out', out)
    with Image.open(out) as picture:
        assert min(picture.size) > 200


def test_data_prepare_takes_labels(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = refusal(capfd, 'data', 'prepare', '--size', '8', 'x', '--data', 'digits_scenes')
    assert 'a class for each' in words
    assert not list(tmp_path.iterdir())


def test_models_lists_dense_networks(output, capfd):
    found = json.loads(output('models', 'fcn_*', '--json'))['models']
    assert [(row['name'], row['parameters']) for row in found] == [
        ('fcn_resnet50', 35_322_218),  # torchvision's published counts
        ('fcn_resnet101', 54_314_346),
    ]
    assert 'unet_resnet18' in refusal(capfd, 'models', 'unet_resnet81')
    assert '--memory' in refusal(capfd, 'models', 'unet_resnet18', '--memory', '2')


def test_published_weights_predict(output, capfd, tmp_path):
    """A file with torchvision's names, of a thin network with Pascal VOC's classes."""
    from safetensors.numpy import save_file

    from resnet_jax import create_model
    from resnet_jax.interop import dense_weights

    small = {'width': 4, 'stem_width': 4, 'stage_sizes': (1, 1, 1, 1)}
    model = create_model('fcn_resnet50', **small)
    images = np.zeros((1, 32, 32, 3), np.float32)
    variables = jax.jit(lambda: model.init(jax.random.key(0), images, train=False))()
    file = tmp_path / 'fcn.safetensors'
    save_file(dense_weights.named_tensors(jax.device_get(variables), model), file)
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / 'grey.png')
    about = ('--model', 'fcn_resnet50', '--weights', file, '--image-size', '32')
    about += tuple(f'--model.{field}={value}' for field, value in small.items())
    (found,) = json.loads(output('predict', *about, tmp_path / 'grey.png', '--json'))['predictions']
    assert {part['class'] for part in found['classes']} <= set(data.masks.VOC_CLASSES)
    assert 'classes' in refusal(capfd, 'eval', *about, '--data', 'digits_scenes')
    words = refusal(capfd, 'convert', file, tmp_path / 'x.npz', '--model', 'fcn_resnet50')
    assert 'load_weights' in words


@pytest.fixture
def pets(tmp_path):
    """A folder of images and masks, of which one image for testing is cut off."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 4), ('test', 2)):
        for kind in ('images', 'masks'):
            (tmp_path / 'pets' / split / kind).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (20, 30, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f'pets/{split}/images/{i}.png')
            Image.fromarray(pixels[..., 0] % 2).save(tmp_path / f'pets/{split}/masks/{i}.png')
    (tmp_path / 'pets/classes.json').write_text(json.dumps({'classes': ['floor', 'cat']}))
    return tmp_path / 'pets'


def test_a_bad_image_of_the_evaluation_is_found_before_training(pets, tmp_path):
    whole = (pets / 'test/images/1.png').read_bytes()
    (pets / 'test/images/1.png').write_bytes(whole[: len(whole) // 2])
    own = {'data.name': f'masks:{pets}', 'data.train_split': 'train', 'data.eval_split': 'test'}
    with pytest.raises(InputError, match=r'1\.png'):
        loop.train(config_of('segmentation', **own), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_options_of_dense_networks_are_refused_for_classifiers(capfd, tmp_path):
    folder = random_folder(tmp_path / 'run', {'model.stage_sizes': '(1,)', 'model.width': 4})
    Image.new('L', (8, 8)).save(tmp_path / 'x.png')
    where = ('--workdir', folder, tmp_path / 'x.png')
    assert '--score' in refusal(capfd, 'predict', *where, '--score', '0.2')
    assert '--overlays' in refusal(capfd, 'predict', *where, '--overlays', tmp_path / 'seen')


@pytest.mark.slow
@pytest.mark.parametrize('task', ['segmentation', 'detection'])
def test_two_devices_are_one(task, tmp_path):
    """In every mode; the loss after three steps with a smooth activation."""
    if task == 'detection':
        pytest.importorskip('faster_coco_eval')
    environment = {**os.environ, 'XLA_FLAGS': '--xla_force_host_platform_device_count=2'}
    fields = {**TINY, **EXTRA[task], 'train.steps': 3, 'model.activation': 'silu'}
    losses = {}
    for mode, devices in (('jit', 1), ('jit', 2), ('shard_map', 2), ('pmap', 2)):
        folder = tmp_path / f'{mode}{devices}'
        placed = {**fields, 'parallel.mode': mode, 'parallel.devices': devices}
        flags = [f'--config.{field}={value}' for field, value in placed.items()]
        command = ['train', '--config', f'digits_{task}', '--workdir', str(folder), *flags]
        subprocess.run([sys.executable, '-m', 'resnet_jax', *command], env=environment, check=True)
        losses[mode, devices] = json.loads((folder / 'summary.json').read_text())['eval']['loss']
    one = losses.pop(('jit', 1))
    np.testing.assert_allclose(list(losses.values()), one, rtol=1e-4)
