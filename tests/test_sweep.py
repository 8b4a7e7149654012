"""Sweeps: files of arms, paired runs, continued through anything, one failure or not."""

import csv
import dataclasses
import json
import pathlib
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from members import members
from running import ROOT, checkpoint_steps, command, complains, differing, load_state, start
from sweep_files import ARMS, summaries, sweep_file

from resnet_jax.experiments import from_table, grid, zipped
from resnet_jax.experiments.engines.engine import run_sweep
from resnet_jax.experiments.sweep import (
    Sweep,
    begin,
    folder_name,
    load_sweep,
    read_sweep,
    sweep_json,
    units,
)
from resnet_jax.models import InputError

SWEEPS = sorted(p for p in (ROOT / 'configs' / 'sweeps').glob('*.py') if p.stem != 'budgets')


# Two steps of a tiny net on the digits.
@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A sweep that nobody disturbed: its file and workdir."""
    folder = tmp_path_factory.mktemp('whole')
    file = sweep_file(folder)
    assert run_sweep(load_sweep(str(file)), folder / 'out') == []
    return file, folder / 'out'


def test_every_run_has_a_folder_of_its_own(whole):
    assert list(summaries(whole[1])) == [
        'fast_2x/seed0',
        'fast_2x/seed1',
        'plain/seed0',
        'plain/seed1',
    ]
    config = json.loads((whole[1] / 'runs' / 'fast_2x' / 'seed1' / 'config.json').read_text())
    assert (config['optim']['momentum'], config['seed']) == (0.9, 1)
    described = json.loads((whole[1] / 'sweep.json').read_text())
    assert described['baseline'] == 'plain' and described['seeds'] == [0, 1]


@pytest.mark.slow
def test_arms_are_paired(whole, tmp_path):
    """The same seed: the same initial values, the same order. Other seeds: others."""
    arms = {'a': {'optim.learning_rate': 1e-9}, 'b': {'optim.learning_rate': 2e-9}}
    arms['deeper'] = {'optim.learning_rate': 1e-9, 'model.stage_sizes': (2,)}
    file = sweep_file(tmp_path, arms, steps=1)
    run_sweep(load_sweep(str(file)), tmp_path / 'out')
    params = {
        '/'.join(p.parts[-2:]): load_state(p).params for p in (tmp_path / 'out').glob('runs/*/*')
    }
    deeper = params['deeper/seed1']['stage1']['block1']
    pairs = [
        (params['a/seed1'], params['b/seed1']),
        (params['a/seed1']['stage1']['block1'], deeper),
    ]
    for one, other in pairs:  # they have hardly moved
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), one, other)
    assert differing(params['a/seed0'], params['a/seed1'])
    # Before the first update the loss is that of the same images.
    losses = {
        name: json.loads((tmp_path / 'out' / 'runs' / name / 'metrics.jsonl').open().readline())
        for name in ('a/seed1', 'b/seed1', 'a/seed0')
    }
    assert losses['a/seed1']['loss'] == losses['b/seed1']['loss'] != losses['a/seed0']['loss']


def kill_when(arguments, out, saved):
    """Starts a sweep and kills it when so many runs have a checkpoint: in the midst of one."""
    process = start(*arguments)
    until = time.monotonic() + 200
    while len({path.parent for path in out.glob('runs/*/*/checkpoints/*')}) < saved:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_killed_it_ends_with_the_same_figures(whole, tmp_path):
    file, out = whole[0], tmp_path / 'out'
    arguments = ('sweep', '--config', file, '--workdir', out)
    kill_when(arguments, out, 1)
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert summaries(out) == summaries(whole[1])
    # Once more there is nothing to do.
    again = command(*arguments)
    assert again.returncode == 0 and '] ' not in again.stderr


@pytest.mark.slow
def test_twenty_runs_killed_three_times_give_the_same_table(tmp_path):
    arms = {f'momentum {momentum}': {'optim.momentum': momentum} for momentum in (0.0, 0.5, 0.9)}
    file = sweep_file(tmp_path, {**arms, 'adam': {'optim.name': 'adam'}})
    arguments = ('sweep', '--config', file, '--seeds', '5', '--workdir')
    tables = []
    for name, kills in (('alone', ()), ('killed', (2, 9, 16))):
        out = tmp_path / name
        for saved in kills:
            kill_when([*arguments, out], out, saved)
        done = command(*arguments, out)
        assert done.returncode == 0, done.stderr
        assert len(summaries(out)) == 20
        report = command('report', '--workdir', out)
        assert report.returncode == 0, report.stderr
        with (out / 'report.csv').open(newline='') as lines:
            table = list(csv.DictReader(lines))
        for row in table:  # what is measured in time, and nothing else, may differ
            for name in ('images_per_second', 'seconds', 'first_step_seconds'):
                del row[name]
            del row['training_seconds']
        tables.append(table)
    assert len(tables[0]) == 4 and all(float(row['error_n']) == 5 for row in tables[0])
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_one_failure_does_not_stop_the_others(tmp_path):
    arms = {
        'good': {},
        'bad': {'optim.learning_rate': 1e30},
        'also good': {'optim.weight_decay': 4e-4},
    }
    file = sweep_file(tmp_path, arms)
    result = command('sweep', '--config', file, '--workdir', tmp_path / 'out')
    last = complains(result, 1, '2 of 6 runs failed: bad seed 0, bad seed 1')
    assert 'failed.json' in last
    assert list(summaries(tmp_path / 'out')) == [
        *('also_good/seed0', 'also_good/seed1'),
        *('good/seed0', 'good/seed1'),
    ]
    why = json.loads((tmp_path / 'out' / 'runs' / 'bad' / 'seed0' / 'failed.json').read_text())
    assert why['diverged'] and 'diverged' in why['error']
    assert '[4/6] bad seed1: failed: training diverged' in result.stderr


@pytest.mark.slow
def test_shards_are_parts_that_make_up_the_whole(whole, tmp_path):
    file, out = whole[0], tmp_path / 'out'
    sweep = load_sweep(str(file))
    run_sweep(sweep, out, (2, 2))
    assert len(summaries(out)) == 2
    run_sweep(sweep, out, (1, 2))
    assert summaries(out) == summaries(whole[1])


def test_another_sweep_in_the_same_folder_is_refused(whole, tmp_path):
    for arms in ({**ARMS, 'plain': {'optim.momentum': 0.1}}, {'fast, 2x': ARMS['fast, 2x']}):
        file = sweep_file(tmp_path, arms)
        with pytest.raises(InputError, match=r"holds another sweep \(it differs in arm 'plain'\)"):
            run_sweep(load_sweep(str(file)), whole[1])
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'letter.txt').write_text('dear')
    with pytest.raises(InputError, match='not empty and no sweep'):
        run_sweep(load_sweep(str(whole[0])), tmp_path / 'full')


def test_arms_and_seeds_may_be_added(whole, tmp_path):
    """What was there stays in the sweep, also where the later command does not name it."""
    out = tmp_path / 'out'
    shutil.copytree(whole[1], out)
    more = sweep_file(tmp_path, {**ARMS, 'third': {}})
    watched = [('train.log_every', '2')]  # how a run is watched may change
    assert run_sweep(load_sweep(str(more), watched, seeds=[7]), out) == []
    assert list(summaries(out)) == [
        *(f'fast_2x/seed{seed}' for seed in (0, 1, 7)),
        *(f'plain/seed{seed}' for seed in (0, 1, 7)),
        'third/seed7',
    ]
    assert read_sweep(out).seeds == (0, 1, 7)
    assert read_sweep(out).source == f'sweep --config {more} --config.train.log_every=2'


def test_a_sweep_is_the_same_if_its_runs_are(whole, tmp_path):
    """A field may move from all arms into each, into the base config, or back."""
    out, base = tmp_path / 'out', tmp_path / 'base.py'
    shutil.copytree(whole[1], out)
    before = summaries(out)
    text = whole[0].read_text().replace("'train.batch_size': 32, ", '')
    base.write_text(
        'import digits\n\ndef get_config():\n    config = digits.get_config()\n'
        '    config.train.batch_size = 32\n    return config\n'
    )
    file = tmp_path / 'sweep.py'
    file.write_text(text.replace(repr(str(ROOT / 'configs' / 'digits.py')), "'base.py'"))
    assert run_sweep(load_sweep(str(file)), out) == []
    assert read_sweep(out).base == str(base) and summaries(out) == before
    base.write_text(base.read_text().replace('= 32', '= 33'))
    # An edit of the base does not show in the sweep's own description: only a move is looked into.
    with pytest.raises(InputError, match=r"arm 'plain', .*train\.batch_size: 32 -> 33"):
        run_sweep(load_sweep(str(whole[0]), [('train.batch_size', '33')]), out)


OLD_BASES = {
    'of a checkout': 'configs/sweeps/../digits.py',
    'of another checkout': '/no/such/checkout/configs/digits.py',
}


@pytest.mark.parametrize('begun', members(['all', 'half', 'none'], ('all',)))
@pytest.mark.parametrize('base', OLD_BASES.values(), ids=list(OLD_BASES))
def test_sweeps_of_earlier_versions_are_continued(base, begun, whole, tmp_path):
    """They wrote the path of the base config, where this one writes its name."""
    out = tmp_path / 'out'
    shutil.copytree(whole[1], out)
    described = json.loads((out / 'sweep.json').read_text())
    assert described['base'] == 'digits'
    (out / 'sweep.json').write_text(json.dumps({**described, 'base': base}, indent=2) + '\n')
    assert read_sweep(out).base == 'digits'
    if begun == 'none':
        shutil.rmtree(out / 'runs')
        wrong = [('optim.weight_decay', '0.5')]
    else:
        folders = sorted((out / 'runs').glob('*/*'))
        for folder in folders[: {'all': 0, 'half': 2}[begun]]:
            shutil.rmtree(folder)
        wrong = [('data.normalize', 'pixel')]
    sweep = load_sweep(str(whole[0]))
    changed = dataclasses.replace(sweep, fields={**sweep.fields, **dict(wrong)})
    with pytest.raises(InputError, match=f'another sweep .* {re.escape(wrong[0][0])}: .* -> '):
        begin(changed, out)
    assert json.loads((out / 'sweep.json').read_text())['base'] == base
    if begun == 'none':
        begin(sweep, out)
    else:
        assert run_sweep(sweep, out) == []
        assert summaries(out) == summaries(whole[1])
    assert json.loads((out / 'sweep.json').read_text()) == {**described, 'base': 'digits'}


def test_a_base_that_was_another_file_is_told_by_its_runs(whole, tmp_path):
    """An earlier version's path says little: what its runs were told counts."""
    out = tmp_path / 'out'
    shutil.copytree(whole[1], out)
    path = out / 'runs' / 'plain' / 'seed1' / 'config.json'
    config = json.loads(path.read_text())
    config['data']['train_split'] = 'train[:1000]'
    path.write_text(json.dumps(config))
    described = json.loads((out / 'sweep.json').read_text())
    described['base'] = '/home/me/project/configs/digits.py'
    (out / 'sweep.json').write_text(json.dumps(described))
    with pytest.raises(InputError) as error:
        begin(load_sweep(str(whole[0])), out)
    expected = "(it differs in arm 'plain'): data.train_split: 'train[:1000]' -> 'train'; use"
    assert expected in str(error.value)


def test_jobs_may_begin_at_the_same_moment(whole, tmp_path):
    sweep = load_sweep(str(whole[0]))
    with ThreadPoolExecutor(8) as jobs:
        assert list(jobs.map(lambda _: begin(sweep, tmp_path / 'out'), range(8))) == [None] * 8
    assert sweep_json(read_sweep(tmp_path / 'out')) == sweep_json(sweep)


# Sweep files


def test_a_title_says_what_the_command_changed(whole):
    """But for what changes no figure."""
    title = load_sweep(str(whole[0])).title
    changes = [('model.stage_sizes', '(1,)'), ('train.log_every', '1')]
    assert load_sweep(str(whole[0]), changes).title == f'{title} (model.stage_sizes=(1,))'
    assert load_sweep(str(whole[0]), changes[1:]).title == title


# Of some the variant is no base config.
NETS = {
    'compression': 'cifar_resnet32',
    'distillation': 'resnet56_to_20',
    'dense_output_stride': 'digits_depth',
}


@pytest.mark.parametrize('path', SWEEPS, ids=lambda p: p.stem)
@pytest.mark.parametrize(
    'base', ['', ':cifar10', pytest.param(':imagenette', marks=pytest.mark.slow)]
)
def test_sweep_files_name_real_fields_and_models(path, base):
    """`load_sweep` makes each arm's config and model."""
    if base and path.stem in NETS:
        base = f':{NETS[path.stem]}'
    sweep = load_sweep(f'{path}{base}')
    assert sweep.baseline in sweep.arms and len(sweep.arms) > 1 and len(sweep.seeds) >= 3
    configs = [sweep.config(arm, 0).to_json() for arm in sweep.arms]
    assert len(set(configs)) == len(configs), 'every arm is another run'
    assert len({unit.folder for unit in units(sweep, pathlib.Path())}) == len(configs) * len(
        sweep.seeds
    )


def test_sweeps_of_the_package_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = load_sweep('sweeps/norms:cifar10', [('train.log_every', '7')], seeds=[3])
    assert sweep.base == 'cifar10' and sweep.config('group', 3).train.log_every == 7
    assert sweep.source == 'sweep --config sweeps/norms:cifar10 --config.train.log_every=7'
    with pytest.raises(InputError, match="unknown config 'cifr10'; did you mean 'cifar10'"):
        load_sweep('sweeps/norms:cifr10')
    with pytest.raises(InputError, match="unknown config 'norms'; did you mean 'sweeps/norms'"):
        load_sweep('norms')


def test_the_documented_sweeps_are_there():
    assert {p.stem for p in SWEEPS} == {
        *('preact_vs_original', 'shortcuts_he2016_table1', 'placements_he2016_table2'),
        *('depth_degradation', 'width_wrn', 'activations', 'norms', 'stochastic_depth'),
        *('optimisers', 'learning_rate', 'finetuning', 'augmentation'),
        *('compression', 'distillation'),
        *('series_placements', 'series_shortcuts', 'series_depth', 'dense_output_stride'),
    }


def test_grids_and_zips():
    both = {'optim.learning_rate': [0.1, 0.2], 'model.width': [4, 8]}
    assert grid(both) == {
        'learning_rate=0.1, width=4': {'optim.learning_rate': 0.1, 'model.width': 4},
        'learning_rate=0.1, width=8': {'optim.learning_rate': 0.1, 'model.width': 8},
        'learning_rate=0.2, width=4': {'optim.learning_rate': 0.2, 'model.width': 4},
        'learning_rate=0.2, width=8': {'optim.learning_rate': 0.2, 'model.width': 8},
    }
    assert list(zipped(both)) == ['learning_rate=0.1, width=4', 'learning_rate=0.2, width=8']


def test_a_papers_table_as_arms():
    arms = from_table('he2016_table1')
    assert arms['published']['original'] == 6.61
    assert arms['arms']['dropout 0.5']['model.shortcut_dropout'] == 0.5
    assert 'dropout 0.5' not in arms['published']  # the paper says it failed


def test_folder_names_stay_inside():
    for name in ('../x', '/etc', '..', 'a/b', '\\', ''):
        assert '/' not in folder_name(name) and folder_name(name) not in ('', '.', '..')


@pytest.mark.parametrize(
    ('arms', 'message'),
    [
        ({'a': {'optim.momentun': 0.5}}, "arm 'a': unknown config field 'optim.momentun'"),
        ({'a': {'model.placement': 'preact'}}, "arm 'a': .*placement"),
        ({'a': {'seed': 3}}, "arm 'a' sets seed"),
        (
            {'a': {'optim.b1': 0.8}},
            "arm 'a': config field optim.b1 has no effect without another optim.name",
        ),
        ({'a b': {}, 'a_b': {}}, 'two arms have names that look alike'),
        ({}, 'lacks arms'),
    ],
)
def test_bad_arms(arms, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_sweep(str(sweep_file(tmp_path, arms)))


@pytest.mark.parametrize(
    ('body', 'message'),
    [
        ('return 3', 'must return a dict'),
        ("return {'titel': 'x'}", "'titel'; did you mean 'title'"),
        ("return {'title': 'x', 'base': 'no.py', 'arms': {'a': {}}}", 'no config file|no.py'),
        (
            "return {'title': 'x', 'base': 'sweep.py', 'arms': {'a': {}}, 'baseline': 'b'}",
            'unknown arm',
        ),
        ('return 1 / 0', 'ZeroDivisionError'),
    ],
)
def test_bad_files(body, message, tmp_path):
    path = tmp_path / 'sweep.py'
    path.write_text(f'def get_sweep():\n    {body}\n')
    with pytest.raises(InputError, match=message):
        load_sweep(str(path))


@pytest.mark.parametrize(
    ('option', 'value', 'message'),
    [('--seeds', 'three', '--seeds is a number'), ('--shard', '3/2', '--shard is I/N')],
)
def test_bad_options(option, value, message, whole, tmp_path):
    out = tmp_path / 'out'
    complains(command('sweep', '--config', whole[0], '--workdir', out, option, value), 2, message)
    assert not out.exists()


def test_a_field_of_all_arms_needs_an_effect_in_one(tmp_path):
    arms = {'sgd': {}, 'adam': {'optim.name': 'adam'}}
    momentum = [('optim.momentum', '0.5')]
    file = sweep_file(tmp_path, arms)
    assert load_sweep(str(file), momentum).config('adam', 0).optim.momentum == 0.5
    sweep_file(tmp_path, {**arms, 'sgd': {'optim.name': 'lamb'}})
    with pytest.raises(InputError, match=r'optim\.momentum has no effect without optim'):
        load_sweep(str(file), momentum)


def test_seeds_by_hand(whole):
    assert load_sweep(str(whole[0]), seeds=[7, 9]).seeds == (7, 9)
    with pytest.raises(InputError, match='each once'):
        load_sweep(str(whole[0]), seeds=[7, 7])
    assert isinstance(load_sweep(str(whole[0])), Sweep)
    assert checkpoint_steps(whole[1] / 'runs' / 'plain' / 'seed0')[-1] == 8


def test_a_field_that_was_renamed_is_read(whole, tmp_path):
    """Earlier versions kept a flip in `augment.flip`: `sweep.json` and its runs' configs agree."""
    out = tmp_path / 'out'
    shutil.copytree(whole[1], out)
    shutil.rmtree(out / 'runs')
    described = json.loads((out / 'sweep.json').read_text())
    described['fields'] |= {'augment.pad': 2, 'augment.flip': True}
    (out / 'sweep.json').write_text(json.dumps(described))
    found = read_sweep(out).config('plain', 0).augment
    assert found.transforms == ('pad_crop(pad=2)', 'flip')
    # Later ones had transforms with their settings apart, those of the base where a sweep has none.
    described['fields'] = {'augment.pad': 3}
    (out / 'sweep.json').write_text(json.dumps(described))
    assert read_sweep(out).config('plain', 0).augment.transforms == ('pad_crop(pad=3)',)


def test_a_rate_of_another_optimiser_is_noted_once_for_its_arms(tmp_path, capsys):
    """Once for all runs, before the first is trained."""
    rates = {'optim.momentum': 0, 'optim.learning_rate': 0.1}
    arms = {
        'sgd': {},
        'adam': {'optim.name': 'adam', **rates},
        'slow adam': {'optim.name': 'adam', 'optim.momentum': 0, 'optim.learning_rate': 0.001},
        'adam, again': {'optim.name': 'adam', **rates, 'optim.weight_decay': 0.01},
    }
    sweep = load_sweep(str(sweep_file(tmp_path, arms=arms)))
    assert run_sweep(sweep, tmp_path / 'out', engine=lambda *_: []) == []
    (line,) = (line for line in capsys.readouterr().err.splitlines() if 'note' in line)
    assert line.startswith('note: optim.learning_rate 0.1 is high for adam')
    assert line.endswith('(adam; adam, again)')
