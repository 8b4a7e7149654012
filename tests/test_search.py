"""Searches: the better values are found, bad trials end early, a kill changes nothing."""

import csv
import dataclasses
import importlib.util
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from running import ROOT, TINY, checkpoint_steps, command, complains, start
from studies import STUDY, search_a_function

from resnet_jax.cli import _parse, main
from resnet_jax.experiments.search import search_report, study
from resnet_jax.experiments.search.runs import trials_so_far
from resnet_jax.experiments.search.search import (
    PRUNERS,
    SAMPLERS,
    Range,
    Search,
    load_search,
)
from resnet_jax.experiments.search.search_report import write_tables
from resnet_jax.experiments.sweep import load_sweep
from resnet_jax.models import InputError
from resnet_jax.training.config import load_config, to_json

needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec('optuna') is None, reason='needs the extra "search"'
)
SEARCHES = sorted((ROOT / 'configs' / 'searches').glob('*.py'))
GOOD, BAD, HOPELESS = '0.2', '1e-07', '1e+30'
# A net that learns something, evaluated three times.
LENGTH = {'train.steps': 60, 'train.eval_every': 20, 'checkpoint.every': 20, 'train.log_every': 20}
FIELDS = {**TINY, **LENGTH, 'model.width': 8, 'model.stem_width': 8}
FOUND = {
    'title': 'a test',
    'base': str(ROOT / 'configs' / 'digits.py'),
    'fields': FIELDS,
    'space': {'optim.learning_rate': [float(GOOD), float(BAD), float(HOPELESS)]},
    'trials': 4,
    'sampler': 'random',
    'pruner': 'halving',
    'seed': 3,  # proposes good, hopeless, bad, good
}


def search_file(folder, **changes):
    path = folder / 'search.py'
    path.write_text(f'def get_search():\n    return { ({**FOUND, **changes})!r}\n')
    return path


def trials(workdir):
    """Of search.json, without what depends on the clock."""
    found = json.loads((workdir / 'search.json').read_text())['trials']
    return [{**trial, 'seconds': None} for trial in found]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A search that nobody disturbed: its file and workdir."""
    if importlib.util.find_spec('optuna') is None:
        pytest.skip('needs the extra "search"')
    folder = tmp_path_factory.mktemp('whole')
    file = search_file(folder)
    assert main(['search', '--config', str(file), '--workdir', str(folder / 'out')]) == 0
    return file, folder / 'out'


def of_rate(workdir, rate):
    return [t for t in trials(workdir) if t['values'] == {'optim.learning_rate': rate}]


@pytest.mark.slow
def test_the_better_learning_rate_is_found(whole):
    best = json.loads((whole[1] / 'best.json').read_text())
    assert best['values'] == {'optim.learning_rate': GOOD}
    assert {t['values']['optim.learning_rate'] for t in trials(whole[1])} == {GOOD, BAD, HOPELESS}
    assert of_rate(whole[1], GOOD)[0]['state'] == 'complete'
    summary = json.loads((whole[1] / best['folder'] / 'summary.json').read_text())
    assert best['error'] == 1 - summary['eval']['top1']


def test_a_bad_trial_is_pruned_after_a_saved_checkpoint(whole):
    """Bad: behind a good one. It can be looked at, and has no summary."""
    first_good = of_rate(whole[1], GOOD)[0]['number']
    behind = [t for t in of_rate(whole[1], BAD) if t['number'] > first_good]
    assert behind
    for trial in behind:
        folder = whole[1] / trial['folder']
        assert (trial['state'], trial['step'], trial['value']) == ('pruned', 20, None)
        assert json.loads((folder / 'pruned.json').read_text()) == {'step': 20, 'by': 'halving'}
        assert checkpoint_steps(folder) == [20] and not (folder / 'summary.json').exists()
    assert main(['eval', '--workdir', str(whole[1] / behind[0]['folder'])]) == 0


def test_a_diverged_trial_fails_and_the_search_goes_on(whole):
    failed = of_rate(whole[1], HOPELESS)
    assert {t['state'] for t in failed} == {'failed'}
    assert failed[0]['number'] < len(trials(whole[1])) - 1
    why = json.loads((whole[1] / failed[0]['folder'] / 'failed.json').read_text())
    assert 'diverged' in why['error'] and 'diverged' in failed[0]['failure']


def test_the_printed_commands_do_what_they_say(whole, capsys):
    file, out = whole
    assert main(['search', '--config', str(file), '--workdir', str(out)]) == 0  # nothing is left
    shown = capsys.readouterr().out
    best = json.loads((out / 'best.json').read_text())
    assert 'a test' in shown and 'optimistic' in shown and '4 of 4 trials' in shown
    assert f'{100 * best["error"]:.2f}' in shown and best['command'] in shown
    train = _parse(shlex.split(best['command'])[1:])
    config = load_config(train.config, train.overrides)
    assert to_json(config) == (out / best['folder'] / 'config.json').read_text()
    (confirm,) = (line for line in shown.splitlines() if 'resnet-jax sweep' in line)
    options = _parse(shlex.split(confirm)[1:])
    sweep = load_sweep(options.config)
    arm = sweep.config(f'trial {best["trial"]}', 1)
    assert (arm.optim.learning_rate, arm.train.steps) == (float(GOOD), 60)
    assert options.seeds == '4,5,6,7,8' and sweep.baseline == f'trial {best["trial"]}'


def test_tables_and_figure(whole):
    with (whole[1] / 'search.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['state'] for row in rows] == [t['state'] for t in trials(whole[1])]
    complete = next(row for row in rows if row['state'] == 'complete')
    summary = json.loads((whole[1] / complete['folder'] / 'summary.json').read_text())
    assert [row['optim.learning_rate'] for row in rows] == [GOOD, HOPELESS, BAD, GOOD]
    assert float(complete['error']) == pytest.approx(100 * (1 - summary['eval']['top1']))
    with Image.open(whole[1] / 'search.png') as image:
        assert len(np.unique(np.asarray(image.convert('L')))) > 20


@pytest.mark.parametrize(
    'signals',
    [
        pytest.param({2: signal.SIGKILL}, marks=pytest.mark.slow),
        pytest.param({0: signal.SIGTERM, 1: signal.SIGKILL}, marks=pytest.mark.slow),
    ],
    ids=['killed', 'stopped and killed'],
)
def test_disturbed_it_ends_with_the_same_trials(signals, whole, tmp_path):
    """The trial that was running goes on with its values; none is lost or comes twice."""
    out = tmp_path / 'out'
    arguments = ['search', '--config', str(whole[0]), '--workdir', str(out)]
    for number, how in signals.items():
        process = start(*arguments)
        until = time.monotonic() + 100
        while not (out / 'trials' / f'{number:04d}' / 'config.json').is_file():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(how)
        shown, _ = process.communicate()
        assert len(list((out / 'trials').iterdir())) == number + 1
        if how == signal.SIGTERM:
            assert process.returncode == 128 + how
            assert '1 of 4 trials, 1 running' in shown
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert trials(out) == trials(whole[1])


# What is kept of proposals

LOOP = """
import pathlib, sys
from studies import STUDY, search_a_function
search_a_function(STUDY, pathlib.Path(sys.argv[1]))
"""


def values(workdir):
    return [(dict(t.values), t.state) for t in study.proposals(workdir)]


@needs_optuna
@pytest.mark.parametrize('sampler', SAMPLERS)
def test_proposals_lie_in_the_space_and_follow_from_the_seed(sampler, tmp_path):
    search = Search(**{**vars(STUDY), 'sampler': sampler})
    for name in ('one', 'other'):
        (tmp_path / name).mkdir()
        search_a_function(search, tmp_path / name)
    one = values(tmp_path / 'one')
    assert one == values(tmp_path / 'other') and len(one) == search.trials
    for found, _ in one:
        assert 1e-3 <= found['a'] <= 1 and found['n'] in range(4, 17) and found['c'] in 'xy'
    assert len({found['a'] for found, _ in one}) == len(one)


@needs_optuna
@pytest.mark.parametrize('pruner', PRUNERS)
def test_pruners(pruner, tmp_path):
    """Each decides by itself, and again as before when it is asked again."""
    search = Search(**{**vars(STUDY), 'pruner': pruner})
    pruned = 0
    for number in range(8):  # each is worse than the one before
        study.propose(search, tmp_path)
        unpruned = True
        for evaluation in (1, 2, 3):
            report = search, tmp_path, number, 10 * evaluation, evaluation, number + 1 / evaluation
            unpruned = study.report(*report)
            assert study.report(*report) == unpruned
            if not unpruned:
                break
        if unpruned:
            study.complete(tmp_path, number, 4, number)
        else:
            study.prune(tmp_path, number)
            pruned += 1
    assert (pruned == 0) == (pruner == 'none')


@needs_optuna
def test_what_a_kill_leaves_of_a_change_is_no_part_of_the_journal(tmp_path):
    for name in ('killed', 'whole'):
        (tmp_path / name).mkdir()
    first = study.propose(STUDY, tmp_path / 'killed')
    journal = tmp_path / 'killed' / study.JOURNAL
    copy = journal.with_name(f'{journal.name}.tmp')
    copy.write_bytes(journal.read_bytes() + b'{"op_code": 4, "wor')
    copy.with_name(f'{copy.name}.lock').symlink_to(copy)  # Optuna's
    assert study.propose(STUDY, tmp_path / 'killed') == first
    for name in ('killed', 'whole'):
        search_a_function(STUDY, tmp_path / name)
    assert values(tmp_path / 'killed') == values(tmp_path / 'whole')


@needs_optuna
@pytest.mark.slow
def test_killed_anywhere_it_proposes_the_same(tmp_path):
    (tmp_path / 'whole').mkdir()
    search_a_function(STUDY, tmp_path / 'whole')
    killed = tmp_path / 'killed'
    killed.mkdir()
    draw, kills = np.random.default_rng(0), 0
    while True:
        command = [sys.executable, '-c', LOOP, str(killed)]
        process = subprocess.Popen(command, cwd=ROOT / 'tests')
        journal = killed / study.JOURNAL
        before = journal.stat().st_ino if journal.exists() else None
        while process.poll() is None and (not journal.exists() or journal.stat().st_ino == before):
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.15))
        process.kill()
        if process.wait() == 0:
            break
        kills += 1
    assert kills >= 3
    assert values(killed) == values(tmp_path / 'whole')


# Search files


@pytest.mark.parametrize('path', SEARCHES, ids=lambda p: p.stem)
@pytest.mark.parametrize('base', ['', ':cifar10'])
def test_search_files_name_real_fields(path, base):
    search = load_search(f'{path}{base}')
    assert search.space and search.pruner != 'none'
    config = search.config({field: v.ends[0] for field, v in search.space.items()})
    assert config.data.eval_split.startswith('train'), 'the test set chooses nothing'


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'trails': 3}, "'trails'; did you mean 'trials'"),
        ({'space': {}}, 'lacks space'),
        ({'space': {'optim.learning_rat': ('log', 0.1, 1)}}, "did you mean 'optim.learning_rate'"),
        ({'space': {'optim.learning_rate': ('lgo', 0.1, 1)}}, "'lgo'; did you mean 'log'"),
        ({'space': {'optim.learning_rate': ('log', 0, 1)}}, 'numbers above 0'),
        ({'space': {'optim.learning_rate': ('log', 1, 0.1)}}, 'from low to high'),
        ({'space': {'optim.learning_rate': (0.1, 1)}}, 'or a list of choices'),
        ({'space': {'optim.learning_rate': [0.1]}}, 'two choices or more'),
        ({'space': {'model.width': ('int', 4, 8.5)}}, 'whole numbers'),
        ({'space': {'optim.momentum': ('linear', 0.5, 1.5)}}, r'optim.momentum 1.5: .*\[0, 1\)'),
        ({'space': {'model.activation': ['relu', 'rleu']}}, 'model.activation rleu'),
        ({'space': {'train.batch_size': ('log', 8, 64)}}, 'batch_size'),
        ({'space': {'seed': ('int', 0, 9)}}, 'seed cannot be searched'),
        ({'space': {'train.steps': ('int', 8, 9)}}, 'train.steps is searched'),
        ({'fields': {'seed': 3}}, "seed is the search's own"),
        ({'sampler': 'tpee'}, "unknown sampler 'tpee'; did you mean 'tpe'"),
        ({'pruner': 'media'}, "unknown pruner 'media'; did you mean 'median'"),
        ({'metric': 'accuracy'}, 'unknown metric'),
        ({'trials': 0}, 'trials must be a whole number from 1'),
        ({'fields': {**FIELDS, 'train.eval_every': 0}}, 'set train.eval_every'),
        ({'base': 'no.py'}, 'no.py'),
    ],
)
def test_bad_files(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_search(str(search_file(tmp_path, **changes)))


def test_what_the_command_line_sets(tmp_path):
    file = str(search_file(tmp_path))
    search = load_search(file, [('train.steps', '8')], 2, 'tpe', 'none')
    assert (search.trials, search.sampler, search.pruner) == (2, 'tpe', 'none')
    assert search.config({'optim.learning_rate': GOOD}).train.steps == 8
    with pytest.raises(InputError, match='learning_rate is searched'):
        load_search(file, [('optim.learning_rate', '0.3')])
    epochs = load_search(file, [('train.epochs', '2')]).config({'optim.learning_rate': GOOD})
    assert (epochs.train.steps, epochs.train.epochs) == (None, 2)  # the file sets the steps


def refused(capsys, file, out, *options):
    """What the command says of bad input."""
    code = main(['search', '--config', str(file), '--workdir', str(out), *options])
    said = subprocess.CompletedProcess([], code, '', capsys.readouterr().err)
    return complains(said, 2)


def test_without_optuna_one_line_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'optuna', None)
    said = refused(capsys, search_file(tmp_path), tmp_path / 'out')
    assert 'pip install "resnet-jax[search]"' in said and not (tmp_path / 'out').exists()


@needs_optuna
def test_another_search_in_the_same_folder_is_refused(tmp_path, capsys):
    (tmp_path / 'out').mkdir()
    write_tables(load_search(str(search_file(tmp_path))), tmp_path / 'out', [])
    file = search_file(tmp_path, seed=1)
    said = refused(capsys, file, tmp_path / 'out', '--sampler', 'tpe')
    assert 'another search (it differs in sampler, seed)' in said
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'letter.txt').write_text('dear')
    assert 'not empty and no search' in refused(capsys, file, tmp_path / 'full')


@needs_optuna
@pytest.mark.parametrize(
    'base', ['configs/searches/../digits.py', '/no/checkout/configs/digits.py']
)
def test_a_search_of_an_earlier_version_is_continued(base, whole, tmp_path, capsys):
    """It wrote the path of the base config; nothing is left to train."""
    out = tmp_path / 'out'
    shutil.copytree(whole[1], out)
    found = json.loads((out / 'search.json').read_text())
    assert found['search']['base'] == 'digits'
    found['search']['base'] = base
    (out / 'search.json').write_text(json.dumps(found))
    assert main(['search', '--config', str(whole[0]), '--workdir', str(out)]) == 0
    assert '4 of 4 trials' in capsys.readouterr().out
    assert json.loads((out / 'search.json').read_text())['search']['base'] == 'digits'
    found['search']['base'] = '/no/checkout/configs/cifar10.py'
    (out / 'search.json').write_text(json.dumps(found))
    assert 'differs in base' in refused(capsys, whole[0], out)


def test_searches_of_the_package_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search = load_search('searches/learning_rate_weight_decay:cifar10')
    assert search.base == 'cifar10' and 'train --config cifar10 ' in search.command({}, tmp_path)
    with pytest.raises(InputError, match="or 'searches/learning_rate_weight_decay'"):
        load_search('searches/learning_rate')


@needs_optuna
def test_bad_input_leaves_nothing_behind(tmp_path, capsys):
    out = tmp_path / 'out'
    missing = {**FIELDS, 'data.name': f'folder:{tmp_path}/none'}
    assert 'none' in refused(capsys, search_file(tmp_path, fields=missing), out)
    assert '--trials is a number' in refused(capsys, search_file(tmp_path), out, '--trials', 'all')
    assert not out.exists()


def test_axes_that_count_have_whole_numbers(whole, tmp_path, monkeypatch):
    """The colour bar of the trials and the axis of a whole number, of however few trials."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    base = load_search(str(whole[0]))
    search = dataclasses.replace(base, space={'model.width': Range('int', 4, 6)})
    trials = [
        dataclasses.replace(trial, values={'model.width': 4 + trial.number % 3})
        for trial in trials_so_far(base, whole[1])
    ]
    labels = {}

    def look(canvas, *_, **options):
        canvas.draw()
        panel, bar = canvas.figure.axes
        labels['width'] = [tick.get_text() for tick in panel.get_xticklabels()]
        labels['trial'] = [tick.get_text() for tick in bar.get_yticklabels()]

    monkeypatch.setattr(FigureCanvasAgg, 'print_png', look)
    for count in (2, 3, len(trials)):
        search_report.write_figure(search, trials[:count], tmp_path / 'search.png')
        assert all(text.isdecimal() for texts in labels.values() for text in texts), labels
        assert {'0', '1'} <= set(labels['trial'])
