"""`resnet-jax export`, and what runs its files: `predict --exported` and `eval --exported`."""

import json

import numpy as np
import pytest
from PIL import Image
from running import ROOT, flags
from test_documents import blocks, commands

from resnet_jax.cli import main
from resnet_jax.export import program

pytest.importorskip('onnx', reason='needs the extra onnx')
pytest.importorskip('onnxruntime', reason='needs the extra onnx')

# Orbax closes its event loop while reads of other files are pending.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The workdir of a short run on grey 8x8 digits, and files exported from it."""
    folder = tmp_path_factory.mktemp('runs') / 'trained'
    assert main(['train', *flags(), '--workdir', str(folder)]) == 0
    for name in ('net.onnx', 'net.stablehlo'):
        preprocess = ['--preprocess'] * (name == 'net.onnx')
        assert main(['export', '--workdir', str(folder), str(folder / name), *preprocess]) == 0
    return folder


def refused(capsys, *arguments):
    """The line on standard error of exit code 2."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    found = capsys.readouterr()
    assert not found.out and found.err.count('\n') == 1
    return found.err


@pytest.mark.parametrize('file', ['net.onnx', 'net.stablehlo'])
def test_the_file_is_evaluated_as_the_run(ask, run, file):
    data = ('--data', 'digits', '--split', 'test', '--limit', 100)
    expected = ask('eval', '--workdir', run, *data)
    found = ask('eval', '--exported', run / file, *data)
    assert found['exported'] == str(run / file) and found['source']['workdir'] == str(run)
    for name in ('n', 'loss', 'top1', 'top5', 'ece'):
        assert found[name] == pytest.approx(expected[name], abs=1e-5), name
    flipped = [ask('eval', *w, *data, '--tta', 'flip') for w in (
        ('--workdir', run), ('--exported', run / file))]  # fmt: skip
    assert flipped[0]['loss'] == pytest.approx(flipped[1]['loss'], abs=1e-5)


def test_a_run_gives_the_data_that_its_file_is_evaluated_on(ask, run):
    found = ask('eval', '--workdir', run, '--exported', run / 'net.onnx', '--limit', 30)
    assert (found['n'], found['data'], found['split']) == (30, 'digits', 'test')


@pytest.mark.parametrize('file', ['net.onnx', 'net.stablehlo'])
def test_the_file_predicts_as_the_run(ask, run, file, tmp_path):
    rng = np.random.default_rng(0)
    for name in 'ab':
        pixels = rng.integers(0, 256, (9, 12)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f'{name}.png')
    expected = ask('predict', '--workdir', run, tmp_path, '--topk', 10)['predictions']
    found = ask('predict', '--exported', run / file, tmp_path, '--topk', 10)['predictions']
    assert [p['image'] for p in found] == [p['image'] for p in expected]
    for one, other in zip(found, expected, strict=True):
        ours, theirs = ({t['class']: t['probability'] for t in p['top']} for p in (one, other))
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_what_the_command_says(ask, run, capsys, tmp_path):
    said = ask('export', '--workdir', run, tmp_path / 'a.onnx', '--layout', 'NHWC')
    assert said['format'] == 'onnx' and said['input']['shape'] == ['N', 8, 8, 1]
    assert said['difference']['data'] == 'digits test' and said['difference']['images'] == 32
    assert said['difference']['relative'] < 1e-5
    stored = json.loads((tmp_path / 'a.onnx.json').read_text())
    assert stored.pop('sha256') and stored == {k: v for k, v in said.items() if k != 'out'}
    assert main(['export', '--workdir', str(run), str(tmp_path / 'b.onnx')]) == 0
    printed = capsys.readouterr().out
    assert 'Nx1x8x8 float32' in printed and '32 images: digits test' in printed


def test_eight_bits_are_calibrated_on_the_training_split(ask, run, tmp_path):
    out = tmp_path / 'a.onnx'
    said = ask('export', '--workdir', run, out, '--dtype', 'int8', '--fit-images', 40)
    assert said['dtype'] == 'int8' and said['difference']['rms'] < 0.2
    found = ask('eval', '--exported', out, '--data', 'digits', '--split', 'test')
    whole = ask('eval', '--workdir', run)
    assert found['top1'] == pytest.approx(whole['top1'], abs=0.03)


def test_data_that_cannot_be_read(capsys, run, tmp_path, monkeypatch):
    """Random numbers stand for those of a run, with a note; those that are named are an error."""
    from resnet_jax.commands import data_options
    from resnet_jax.errors import InputError

    def gone(options, dense=False):
        raise InputError('the disk is gone')

    monkeypatch.setattr(data_options, 'choose_data', gone)
    assert main(['export', '--workdir', str(run), str(tmp_path / 'a.onnx')]) == 0
    found = capsys.readouterr()
    assert 'note: compared on random images, as those of the run cannot be read: the' in found.err
    assert '32 images: random numbers' in found.out
    said = refused(capsys, 'export', '--workdir', run, tmp_path / 'b.onnx', '--data', 'digits')
    assert 'the disk is gone' in said and not (tmp_path / 'b.onnx').exists()


def test_a_file_that_differs_gives_exit_code_1(capsys, run, tmp_path, monkeypatch):
    monkeypatch.setitem(program.BOUNDS, 'float32', 1e-12)
    assert main(['export', '--workdir', str(run), str(tmp_path / 'a.onnx')]) == 1
    assert 'no file is left' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_bad_usage(capsys, run, tmp_path):
    out, file = tmp_path / 'a.onnx', run / 'net.onnx'
    says = {
        ('export', '--workdir', run, tmp_path / 'a.pb'): 'has no ending of an exported file',
        ('export', '--workdir', run, out, '--format', 'onx'): "did you mean 'onnx'",
        ('export', '--workdir', run, file): 'exists; give --overwrite',
        ('export', '--workdir', run, out, '--batch', 0): '--batch must be at least 1',
        ('export', '--workdir', run, out, '--dtype=int8', '--fit-images', 0): 'must be at least 1',
        ('export', out): 'give --workdir DIR, or --model NAME and --weights FILE\n',
        ('eval', '--exported', tmp_path / 'b.onnx', '--data', 'digits'): 'there is no file',
        ('eval', '--exported', file, '--model', 'resnet18', '--data', 'digits'): '--model does not',
        ('predict', '--exported', file, '--workdir', run, 'a.png'): 'not go with --workdir',
        ('predict', '--exported', file, '--calibrated', 'a.png'): 'and not with --exported',
        ('predict', 'a.png'): 'or --exported FILE',
    }
    for arguments, message in says.items():
        assert message in refused(capsys, *arguments), arguments
    assert not list(tmp_path.iterdir())


def test_weights_without_a_run(ask, tmp_path, run):
    """The weights of the run, converted: exported and checked on random numbers."""
    weights = tmp_path / 'weights.safetensors'
    fields = ('--model.stage_sizes=(1,)', '--model.width=4', '--model.stem_width=4')
    assert main(['convert', str(run), str(weights), '--model', 'cifar_resnet20', *fields]) == 0
    published = ('--model', 'cifar_resnet20', '--weights', weights, *fields)
    said = ask('export', *published, tmp_path / 'a.stablehlo', '--dtype', 'bfloat16')
    assert said['difference']['data'] == 'random numbers' and said['dtype'] == 'bfloat16'
    assert said['source'] == {'model': 'cifar_resnet20', 'weights': str(weights)}
    said = ask('export', *published, tmp_path / 'a.onnx', '--dtype', 'int8', '--data', 'digits')
    assert said['difference']['data'] == 'digits test'


@pytest.mark.slow
def test_the_commands_of_the_document(tmp_path, monkeypatch, capsys):
    """In a folder of their own, one after another."""
    monkeypatch.chdir(tmp_path)
    ((_, _, text), *_) = blocks(ROOT / 'docs' / 'export.md', 'bash')
    for arguments in commands(text):
        assert main(arguments) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found['n'] == 360 and found['top1'] > 0.9
