"""The command line: what it prints, for people and for programs."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from running import ROOT, command, flags

from resnet_jax import create_model, data, list_models
from resnet_jax.cli import main
from resnet_jax.models.counting import count

COMMANDS = ('train', 'eval', 'predict', 'features', 'probe', 'models')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The workdir of a short run: 12 steps, checkpoints at 4, 8 and 12."""
    folder = tmp_path_factory.mktemp('runs') / 'trained'
    assert main(['train', *flags({'checkpoint.keep': 3}), '--workdir', str(folder)]) == 0
    return folder


@pytest.mark.parametrize('arguments', [[], *([name] for name in COMMANDS)])
def test_help(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, '--help'])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith('usage: resnet-jax')
    if not arguments:
        assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ([], ('resnet-jax: error: give a command: train, ', '`resnet-jax --help`')),
        (['analyze'], ('resnet-jax analyze: error: give a kind: lesion, ',)),
        (['eval', '--confusio', 'a.png'], ("unknown option '--confusio'", 'mean --confusion?')),
        (['eval', 'tests'], ("'tests'", "did you mean --workdir 'tests'?", 'eval --help')),
        (
            ['report', '--workdir', 'x', '--config.seed=1'],
            ("unrecognized arguments: '--config.seed=1'",),
        ),
        (
            ['data', 'check', '--data', 'digits', '--fulll'],
            ('resnet-jax data check: error: unknown option', 'did you mean --full?'),
        ),
    ],
)
def test_what_the_command_line_does_not_take(capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    last = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2
    assert all(word in last for word in words), last


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


def test_eval_of_the_first_examples(ask, trained):
    """As the slice that takes them."""
    found, sliced = (
        ask('eval', '--workdir', trained, *options)
        for options in (('--limit', 50), ('--split', 'test[:50]'))
    )
    assert (found['n'], found['loss']) == (50, sliced['loss'])
    assert ask('eval', '--workdir', trained, '--limit', 1000)['n'] == 360


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


def test_figures_come_before_a_picture_that_cannot_be_drawn(capsys, trained, tmp_path):
    """Where a workdir takes no file; --confusion takes it elsewhere."""
    path = trained / 'confusion_test__7_.png'
    path.mkdir()
    arguments = ['eval', '--workdir', str(trained), '--split', 'test[:7]', '--per-class']
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert 'top-1' in out and 'precision %' in out and 'confusion matrix' not in out
    (line,) = err.splitlines()
    assert line.startswith('resnet-jax: ') and str(path) in line and '--confusion' in line
    assert main([*arguments, '--json']) == 1
    assert json.loads(capsys.readouterr().out)['confusion_png'] is None
    elsewhere = tmp_path / 'elsewhere.png'
    assert main([*arguments, '--confusion', str(elsewhere)]) == 0
    assert f'confusion matrix: {elsewhere}' in capsys.readouterr().out.splitlines()
    assert Image.open(elsewhere).format == 'PNG'
    path.rmdir()


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--confusion', 'c.png'], '--per-class'),
        (['--per-class', '--confusion', 'c.jpg'], '.png'),
        (['--per-class', '--confusion', 'gone/c.png'], 'gone/c.png'),
    ],
)
def test_a_picture_that_cannot_be_is_refused_before_the_evaluation(trained, capsys, options, words):
    assert main(['eval', '--workdir', str(trained), *options]) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('resnet-jax: ') and err.count('\n') == 1
    assert '--confusion' in err and words in err


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
    assert main(['models', 'plain']) == 2
    found = list_models('*plain*')
    assert f'"*plain*" lists {len(found)}, such as {found[0]}' in capsys.readouterr().err


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
