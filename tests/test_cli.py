"""The command line: what it prints, for people and for programs."""

import io
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image, ImageOps
from running import ROOT, command, flags

from resnet_jax import create_model, data, list_models
from resnet_jax.cli import main
from resnet_jax.models.counting import count
from resnet_jax.training import workdir

COMMANDS = ('train', 'eval', 'predict', 'models')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The workdir of a short run: 12 steps, checkpoints at 4, 8 and 12."""
    folder = tmp_path_factory.mktemp('runs') / 'trained'
    assert main(['train', *flags({'checkpoint.keep': 3}), '--workdir', str(folder)]) == 0
    return folder


@pytest.fixture
def ask(capsys):
    """Runs a command with --json in this process; gives the one object that it printed."""

    def run_command(*arguments):
        capsys.readouterr()
        assert main([*map(str, arguments), '--json']) == 0
        return json.loads(capsys.readouterr().out)  # fails unless it is one object and no more

    return run_command


@pytest.mark.parametrize('arguments', [[], *([name] for name in COMMANDS)])
def test_help(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, '--help'])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith('usage: resnet-jax')
    if not arguments:
        assert all(name in text for name in COMMANDS)


def test_installed_script_and_module_are_the_same():
    script = subprocess.run(
        [f'{sys.prefix}/bin/resnet-jax', '--help'], capture_output=True, text=True, timeout=60
    )
    module = command('--help')
    assert (script.returncode, script.stdout) == (0, module.stdout)


def test_train_says_what_came_out_and_what_to_do_next(capsys, tmp_path):
    """Progress goes to standard error, the result to standard output."""
    folder = tmp_path / 'run'
    assert main(['train', *flags({'train.steps': 8}), '--workdir', str(folder)]) == 0
    out, err = capsys.readouterr()
    first, *following = out.splitlines()
    summary = json.loads((folder / 'summary.json').read_text())
    assert first.startswith('8 steps in ')
    assert f'360 images evaluated: top1 {100 * summary["eval"]["top1"]:.2f} %' in first
    assert f'resnet-jax eval --workdir {folder}' in following[0]
    assert f'resnet-jax predict --workdir {folder}' in following[1]
    assert 'step 4/8  loss' in err
    assert 'step 6  eval: loss' in err


def test_eval_gives_the_figures_of_the_contract(ask, trained):
    found = ask('eval', '--workdir', trained)
    assert {'n', 'loss', 'top1', 'top5', 'ece'} <= found.keys()
    summary = json.loads((trained / 'summary.json').read_text())
    for name in ('n', 'top1', 'top5'):
        assert found[name] == summary['eval'][name]
    assert found['loss'] == pytest.approx(summary['eval']['loss'], rel=1e-6)
    assert (found['step'], found['data'], found['split']) == (12, 'digits', 'test')


def test_eval_of_another_split_and_checkpoint(ask, trained):
    slices = [
        ask('eval', '--workdir', trained, '--split', f'train{s}') for s in ('', '[:400]', '[400:]')
    ]
    assert [s['n'] for s in slices] == [1437, 400, 1037]
    whole, *parts = slices
    for name in ('loss', 'top1', 'top5'):
        together = sum(p['n'] * p[name] for p in parts) / 1437
        assert together == pytest.approx(whole[name], rel=1e-6)
    earlier = ask('eval', '--workdir', trained, '--checkpoint', 4)
    assert earlier['step'] == 4
    assert earlier['loss'] != ask('eval', '--workdir', trained)['loss']


def test_best_checkpoint(ask, trained):
    """The only evaluated ones that were saved are the last; `best` finds it."""
    assert ask('eval', '--workdir', trained, '--checkpoint', 'best')['step'] == 12


def test_eval_per_class(ask, trained):
    found = ask('eval', '--workdir', trained, '--per-class')
    matrix = np.asarray(found['confusion'])
    labels = [example['label'] for example in data.open_source('digits', 'test').take(range(360))]
    np.testing.assert_array_equal(matrix.sum(axis=1), np.bincount(labels))
    assert matrix.trace() / 360 == pytest.approx(found['top1'])
    assert list(found['per_class']) == list('0123456789')
    for i, accuracy in enumerate(found['per_class'].values()):
        assert accuracy == matrix[i, i] / matrix[i].sum()
    assert found['confusion_png'].startswith(str(trained))
    with Image.open(found['confusion_png']) as image:
        assert image.format == 'PNG'
        assert min(image.size) > 300
        assert len(np.unique(np.asarray(image.convert('L')))) > 10  # something is drawn


def test_class_without_examples(ask, trained):
    """Its accuracy is unknown, not zero and not NaN."""
    found = ask('eval', '--workdir', trained, '--split', 'test[:3]', '--per-class')
    assert found['n'] == 3
    labels = {data.open_source('digits', 'test')[i]['label'] for i in range(3)}
    absent = {name for name, accuracy in found['per_class'].items() if accuracy is None}
    assert absent == {str(c) for c in range(10) if c not in labels}


def test_eval_for_people(capsys, trained):
    assert main(['eval', '--workdir', str(trained), '--per-class']) == 0
    out = capsys.readouterr().out
    for words in (
        '360 images',
        'loss',
        'top-1',
        'top-5',
        'calibration error',
        'confusion matrix: ',
    ):
        assert words in out


def pixels(size, seed=0, channels=3):
    shape = (size[1], size[0], channels)[: 3 if channels > 1 else 2]
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


@pytest.fixture
def pictures(tmp_path):
    """Path -> the image that a viewer would show."""
    shown = {}
    for i, size in enumerate([(8, 8), (31, 17), (9, 40), (3, 5), (200, 100)]):
        for kind, channels in (('PNG', 3), ('PNG', 1), ('JPEG', 3), ('JPEG', 1)):
            path = tmp_path / f'{size[0]}x{size[1]}_{channels}.{kind.lower()}'
            Image.fromarray(pixels(size, i, channels)).save(path, kind)
            shown[path] = Image.open(io.BytesIO(path.read_bytes()))
    for orientation in (3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f'turned{orientation}.jpeg'
        Image.fromarray(pixels((30, 20), 9)).save(path, exif=exif)
        shown[path] = ImageOps.exif_transpose(Image.open(path))
    return shown


def prepared(image, preprocessing):
    """Grey, shorter side to 8, the centre 8x8: as the digits run says, in Pillow's own words."""
    image = image.convert('L')
    if min(image.size) != 8:
        short = min(image.size)
        image = image.resize(
            (image.width * 8 // short, image.height * 8 // short), Image.Resampling.BILINEAR
        )
    left, top = round((image.width - 8) / 2), round((image.height - 8) / 2)
    array = np.asarray(image.crop((left, top, left + 8, top + 8)), np.float32)[None, :, :, None]
    return (array / 255 - np.float32(preprocessing.mean)) / np.float32(preprocessing.std)


def test_predict_is_the_model_applied_to_the_prepared_image(ask, trained, pictures):
    found = ask('predict', '--workdir', trained, '--topk', 10, *pictures)
    loaded = workdir.load_trained(trained)
    apply = jax.jit(lambda images: loaded.model.apply(loaded.variables, images, train=False))
    assert found['step'] == 12
    assert [item['image'] for item in found['predictions']] == [str(p) for p in pictures]
    for item, image in zip(found['predictions'], pictures.values(), strict=True):
        logits = np.asarray(apply(prepared(image, loaded.preprocessing))[0], np.float64)
        expected = np.exp(logits) / np.exp(logits).sum()
        got = {top['class']: top['probability'] for top in item['top']}
        # float32 through the network, in other batches
        np.testing.assert_allclose([got[str(c)] for c in range(10)], expected, atol=2e-5)
        probabilities = [top['probability'] for top in item['top']]
        assert probabilities == sorted(probabilities, reverse=True)


def test_predict_does_not_depend_on_the_other_images(ask, trained, tmp_path):
    """More images than one batch holds."""
    paths = []
    for i in range(70):
        paths.append(tmp_path / f'{i}.png')
        Image.fromarray(pixels((8, 8), i, 1)).save(paths[-1])
    together = ask('predict', '--workdir', trained, *paths)['predictions']
    assert len(together) == 70
    for i in (0, 63, 64, 69):
        (alone,) = ask('predict', '--workdir', trained, paths[i])['predictions']
        assert alone['top'][0]['class'] == together[i]['top'][0]['class']
        assert alone['top'][0]['probability'] == pytest.approx(
            together[i]['top'][0]['probability'], abs=2e-5
        )


@pytest.mark.parametrize(('topk', 'count'), [(1, 1), (3, 3), (99, 10)])
def test_topk(ask, trained, pictures, topk, count):
    path = next(iter(pictures))
    (item,) = ask('predict', '--workdir', trained, path, '--topk', topk)['predictions']
    assert len(item['top']) == count
    full = ask('predict', '--workdir', trained, path, '--topk', 10)['predictions'][0]['top']
    assert item['top'] == full[:count]
    if count == 10:
        assert sum(top['probability'] for top in full) == pytest.approx(1, abs=1e-5)


def test_predict_for_people(capsys, trained, pictures):
    paths = [str(p) for p in pictures][:3]
    assert main(['predict', '--workdir', str(trained), *paths, '--topk', '2']) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out] == paths
    assert all(line.count(' % ') == 2 for line in out)


def test_predict_of_digits_is_their_evaluation(ask, trained, tmp_path):
    """The test split as image files: the same share is right."""
    source = data.open_source('digits', 'test[:100]')
    paths, labels = [], []
    for i in range(len(source)):
        paths.append(tmp_path / f'{i}.png')
        Image.fromarray(source[i]['image'][..., 0]).save(paths[-1])
        labels.append(str(source[i]['label']))
    found = ask('predict', '--workdir', trained, *paths, '--topk', 1)['predictions']
    right = sum(item['top'][0]['class'] == label for item, label in zip(found, labels, strict=True))
    assert right / 100 == ask('eval', '--workdir', trained, '--split', 'test[:100]')['top1']


def test_models(ask, capsys):
    rows = ask('models', 'cifar_plain*')['models']
    assert [row['name'] for row in rows] == list_models('cifar_plain*')
    first = rows[0]
    expected = count(create_model('cifar_plain20'), (32, 32, 3))
    assert first['parameters'] == expected.parameters == 269_722
    assert first['multiply_adds'] == expected.multiply_adds
    assert first['input'] == [32, 32, 3]
    assert first['paper'] == 'he2015'
    assert main(['models', 'cifar_plain20']) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ['model', 'parameters', 'multiply-adds', 'input', 'paper']
    assert line.split() == ['cifar_plain20', '269,722', '41', 'M', '32x32', 'he2015']


def test_models_unknown(capsys):
    assert main(['models', 'resnet_18']) == 2
    assert "'resnet18'" in capsys.readouterr().err


@pytest.mark.parametrize(
    'arguments', [['models', 'cifar_p*'], ['models', 'cifar_plain20', '--json']]
)
def test_a_closed_reader_is_no_error(arguments):
    """`resnet-jax models | head -0`, where Python writes only at the end as where it does not."""
    buffered = {name: value for name, value in os.environ.items() if name != 'PYTHONUNBUFFERED'}
    process = subprocess.Popen(
        [sys.executable, '-m', 'resnet_jax', *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=buffered,
    )
    process.stdout.close()
    err = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(timeout=60) == 0, err
    assert err == ''
