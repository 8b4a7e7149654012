"""`resnet-jax compress`: its folders, what the other commands make of them, and comparisons."""

import json

import numpy as np
import pytest
from compressed_folders import random_folder
from members import members
from running import flags

from resnet_jax.cli import main
from resnet_jax.compress import compare, measure
from resnet_jax.inference.published import load_published
from resnet_jax.inference.trained import load_trained
from resnet_jax.models.counting import count
from resnet_jax.training import config as configs

pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

NET = {'model.stage_sizes': '(2, 1)', 'model.width': 16, 'model.stem_width': 16}
FEW = ('--limit', 40, '--fit-images', 40)
METHODS = {
    'fold': ('fold', '--limit', 40),
    'weights': ('prune', '--sparsity', 0.5, '--limit', 40),
    'channels': ('prune', '--unit', 'channel', '--sparsity', 0.5, '--criterion', 'taylor', *FEW),
    'stream': ('prune', '--unit', 'stream', '--sparsity', 0.5, '--limit', 40),
    'mixed': ('quantize', '--mean-bits', 6, '--activations', 8, '--calibration', 'mse', *FEW),
    'thin': ('factorize', '--budget', 0.6, '--limit', 40),
}


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    return random_folder(tmp_path_factory.mktemp('sources') / 'source', NET)


@pytest.fixture(scope='module')
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope='module')
def made(source, tmp_path_factory, monkeypatch_module):
    """Name of a method -> its folder, all compressed from one network."""
    out = tmp_path_factory.mktemp('compressed')
    monkeypatch_module.setattr(measure, '_SECONDS', 0.05)
    for name, (method, *options) in METHODS.items():
        arguments = [method, '--workdir', source, *options, '--out', out / name]
        assert main(['compress', *map(str, arguments)]) == 0
    return {name: out / name for name in METHODS}


def report_of(folder):
    return json.loads((folder / 'compress.json').read_text())


def counts_of(folder):
    return count(load_trained(folder).model, (8, 8, 1))


# Activations of 8 bits magnify how programs are rounded, which differs with the flags of
# `make test`.
@pytest.mark.parametrize('name', members(METHODS, ('mixed',)))
def test_every_method_writes_what_eval_reads(name, made, ask):
    """With the error that compress measured, on the same images."""
    figures, measured = ask('eval', '--workdir', made[name], '--limit', 40), report_of(made[name])
    assert 1 - figures['top1'] == pytest.approx(measured['after']['error'])
    assert figures['loss'] == pytest.approx(measured['after']['loss'], rel=1e-5)


def test_the_figures_are_exact(made, source):
    whole = counts_of(source)
    for name, folder in made.items():
        before, after = report_of(folder)['before'], report_of(folder)['after']
        assert (before['parameters'], before['multiply_adds']) == whole, name
        assert (after['parameters'], after['multiply_adds']) == counts_of(folder), name
        assert before['bytes'] == 4 * (before['parameters'] + 2 * statistics_of(source)), name
        assert min(before['latency_ms'], after['latency_ms']) > 0, name


def statistics_of(folder):
    import jax

    variables = load_trained(folder).variables
    return sum(x.size for x in jax.tree.leaves(variables['batch_stats'])) // 2


def test_each_method_saves_what_it_should(made):
    after = {name: report_of(folder)['after'] for name, folder in made.items()}
    before = report_of(made['fold'])['before']
    assert report_of(made['fold'])['difference']['relative'] < 1e-5
    assert report_of(made['fold'])['difference']['agreement'] == 1
    kernels = before['parameters'] - 2 * statistics_of(made['weights']) - 10  # norms, biases
    assert after['weights']['nonzero'] == before['parameters'] - round(0.5 * kernels)
    assert after['weights']['bytes'] == before['bytes']
    channels = report_of(made['channels'])['channels']
    assert sum(channels.values()) == round(0.5 * (16 + 16 + 32))
    assert 0.18 < after['mixed']['bytes'] / before['bytes'] < 0.25
    assert 0.5 < after['thin']['multiply_adds'] / before['multiply_adds'] <= 0.6


def test_the_costs_of_layers_are_kept(made):
    found = report_of(made['mixed'])['layers']
    assert {cost['bits'] for cost in found} == {4, 8} and len(found) == 2 * (1 + 6 + 1)


def test_training_from_a_folder_takes_its_model(made):
    """But for the fields that are given besides."""
    pairs = [('init.weights', str(made['channels'])), ('model.dropout', 0.1)]
    fields = configs.flatten(configs.load_config('digits', pairs))
    assert fields['model.inner_channels'] == load_trained(made['channels']).model.inner_channels
    assert (fields['model.stage_sizes'], fields['model.dropout']) == ((2, 1), 0.1)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['channels', 'thin', 'mixed'])
def test_a_folder_trains_further(made, tmp_path, name):
    weights = f'--config.init.weights={made[name]}'
    fields = {'train.batch_size': 32, 'train.steps': 2, 'train.eval_every': 0}
    settings = [f'--config.{field}={value}' for field, value in fields.items()]
    command = ['train', '--config', 'digits', weights, *settings, '--workdir', str(tmp_path)]
    assert main(command) == 0
    assert load_trained(tmp_path).model == load_trained(made[name]).model


def test_weights_alone_carry_their_model(made):
    """A file for `--weights`, with the model's name; also where its blocks differ."""
    for name in ('channels', 'thin', 'mixed'):
        trained, _ = load_published('cifar_resnet8', made[name] / 'weights.safetensors')
        assert trained.model.clone(dtype='float32') == load_trained(made[name]).model
        assert trained.weights_digest() == load_trained(made[name]).weights_digest()


@pytest.mark.slow
def test_published_weights_are_compressed(source, tmp_path, ask):
    model = ('--model', 'cifar_resnet8', '--weights', source / 'weights.safetensors')
    out = tmp_path / 'out'
    found = ask('compress', 'fold', *model, '--out', out)  # without data
    assert found['before']['error'] is None and found['difference']['relative'] < 1e-5
    found = ask('compress', 'fold', *model, '--data', 'digits', '--limit', 40, '--out', out,
                '--overwrite')  # fmt: skip
    assert ask('eval', '--workdir', out, '--limit', 40)['n'] == 40
    assert found['after']['error'] == found['before']['error']


@pytest.mark.slow
def test_blocks_of_their_own_are_analysed(made, ask, tmp_path):
    """The lesion study runs every block as a part of its own."""
    found = ask(
        'analyze', 'lesion', '--workdir', made['channels'], '--limit', 40, '--out', tmp_path
    )
    assert found['error'] == pytest.approx(report_of(made['channels'])['after']['error'])
    assert set(found['removed']) == {'stage1/block1', 'stage1/block2', 'stage2/block1'}


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (('prune',), '--unit weight needs --sparsity'),
        (('prune', '--sparsity', 1), '--sparsity must be in [0, 1)'),
        (('prune', '--sparsity', 0.5, '--blocks', 1), '--blocks does not go with --unit weight'),
        (('prune', '--pattern', '2:4', '--sparsity', 0.5), 'leave --sparsity out'),
        (('prune', '--unit', 'chanel', '--sparsity', 0.5), "did you mean 'channel'"),
        (('prune', '--unit', 'block', '--blocks', 9), 'can be removed at most'),
        (('factorize',), 'give one of --energy and --budget'),
        (('factorize', '--budget', 0.01), 'more than the budget'),
        (('quantize', '--bits', 1), '--bits must be at least 2'),
        (('quantize', '--calibration', 'mse'), '--calibration goes with --activations'),
        (('quantize', '--mean-bits', 9), '--mean-bits must be at most 8'),
    ],
)
def test_bad_options_leave_nothing(source, tmp_path, capsys, arguments, words):
    out = tmp_path / 'out'
    more = [*map(str, arguments), '--workdir', str(source), '--limit', '20', '--out', str(out)]
    assert main(['compress', *more]) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith('resnet-jax: ') and words in err
    assert list(tmp_path.iterdir()) == []


def test_other_folders_are_not_replaced(source, tmp_path, capsys):
    (tmp_path / 'mine').write_text('text')
    for out, words in ((tmp_path, 'no compressed model'), (source, 'give --overwrite')):
        assert main(['compress', 'fold', '--workdir', str(source), '--out', str(out)]) == 2
        assert words in capsys.readouterr().err
    assert (tmp_path / 'mine').read_text() == 'text'


def test_no_run_continues_in_the_folder_of_a_compressed_model(source, capsys):
    assert main(['train', *flags(), '--workdir', str(source)]) == 2
    assert f'--config.init.weights={source}' in capsys.readouterr().err


@pytest.mark.slow
def test_models_side_by_side(made, tmp_path, ask, capsys):
    out = tmp_path / 'compared'
    folders = [made[name] for name in ('fold', 'channels', 'mixed', 'thin')]
    found = ask('compress', 'compare', *folders, '--out', out)
    names = [each['name'] for each in found['models']]
    assert names == ['original cifar_resnet8', 'fold', 'channels', 'mixed', 'thin']
    assert all(each['latency_ms'] > 0 for each in found['models'])
    assert {path.name for path in out.iterdir()} == {
        'compare.md', 'compare.json', 'pareto.png', 'pareto.svg'
    }  # fmt: skip
    assert 'mixed' in found['unbeaten']['bytes']
    assert '| channels | prune |' in (out / 'compare.md').read_text()
    assert main(['compress', 'compare', str(tmp_path)]) == 2
    assert 'holds no compress.json' in capsys.readouterr().err


@pytest.mark.slow
def test_arms_of_a_sweep_side_by_side(made, tmp_path, ask, capsys):
    """A sweep trains the model of a compressed folder; an arm is shown with its mean error."""
    definition = {
        'title': 'trained further',
        'base': 'digits',
        'fields': {'train.steps': 2, 'train.batch_size': 32, 'train.eval_every': 0},
        'arms': {'narrow': {'init.weights': str(made['channels'])}},
        'seeds': 2,
    }
    file, folder = tmp_path / 'further.py', tmp_path / 'sweep'
    file.write_text(f'def get_sweep():\n    return {definition!r}\n')
    assert main(['sweep', '--config', str(file), '--workdir', str(folder), '--workers', '1']) == 0
    runs = [folder / 'runs' / 'narrow' / f'seed{seed}' for seed in range(2)]
    errors = [1 - json.loads((run / 'summary.json').read_text())['eval']['top1'] for run in runs]
    (arm, single) = ask('compress', 'compare', folder, runs[0])['models']
    assert (arm['name'], arm['method'], arm['runs']) == ('narrow', 'train', 2)
    assert arm['error'] == pytest.approx(np.mean(errors))
    assert arm['deviation'] == pytest.approx(np.std(errors, ddof=1))
    assert single['error'] == errors[0] and single['parameters'] == arm['parameters']
    assert arm['multiply_adds'] == counts_of(made['channels']).multiply_adds
    assert main(['compress', 'compare', str(made['channels']), str(folder)]) == 2
    assert '360 of digits' in capsys.readouterr().err
    (runs[1] / 'summary.json').unlink()
    assert main(['compress', 'compare', str(folder)]) == 2
    assert 'no arm of the sweep' in capsys.readouterr().err


def test_what_no_other_model_beats():
    def entry(name, error, price):
        figures = {'error': error, 'bytes': price}
        return compare.Entry(name, '', figures, (None, None, 0), None)

    points = {'a': (0.1, 9), 'b': (0.1, 8), 'c': (0.2, 8), 'd': (0.3, 2), 'e': (0.05, 20)}
    entries = [entry(name, *point) for name, point in points.items()]
    assert compare.unbeaten(entries, 'bytes') == ['b', 'd', 'e']
    assert compare.unbeaten([entry('f', None, 1), *entries], 'bytes') == ['b', 'd', 'e']


def test_a_damaged_folder_is_refused(source, tmp_path, capsys):
    import shutil

    copy = tmp_path / 'copy'
    shutil.copytree(source, copy)
    (copy / 'weights.safetensors').write_bytes(b'x' * 40)
    assert main(['eval', '--workdir', str(copy)]) == 2
    assert 'cannot be read' in capsys.readouterr().err
    (copy / 'config.json').write_text('{')
    assert main(['train', '--config', 'digits', f'--config.init.weights={copy}', '--workdir',
                 str(tmp_path / 'run')]) == 2  # fmt: skip
    assert 'compress the model again' in capsys.readouterr().err


def test_accuracy_and_differences():
    assert measure.accuracy(np.asarray([[2.0, 0.0], [0.0, 1.0]]), np.asarray([0, 0])) == {
        'error': 0.5,
        'loss': pytest.approx((np.log1p(np.exp(-2)) + np.log1p(np.exp(1))) / 2),
    }
    before, after = np.asarray([[1.0, -1.0]]), np.asarray([[1.5, -1.0]])
    found = measure.difference(before, after)
    assert found == {
        'largest': 0.5,
        'relative': 0.5,
        'rms': pytest.approx(0.5 / 2**0.5),
        'agreement': 1.0,
    }
