"""Every file of a workdir, damaged in every way: the same figures as without damage, or one line.

Nothing else in the workdir is changed. `damage.py` makes the runs and says what can happen.
"""

import itertools
import json
import re
import shutil

import pytest
from damage import (
    COMMANDS,
    DEEP,
    KINDS,
    OUTPUTS,
    call,
    changed,
    files,
    make_runs,
    restore,
    write_outputs,
)
from run_folders import write_sweep
from studies import STUDY, search_a_function

from resnet_jax.errors import InputError, RunError
from resnet_jax.experiments.search import study
from resnet_jax.records.writers import read_metrics, run_id

# Of Orbax's other reads, after one has failed, when Python frees them; `process_settings` silences
# them in a command, and `Bench.problem` looks for any that gets through.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

READERS = ('report', 'sweep', 'resume')  # of metrics.jsonl, besides `compare`
QUICK_KINDS = ('noise', 'folder', 'nested', 'an object')


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """The folder of undamaged runs."""
    root = tmp_path_factory.mktemp('runs')
    make_runs(root)
    return root


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Drawing takes most of the time of a report, and reads no file."""
    for module, names in (
        ('run_report', ('draw_run', 'plot_confusion')),
        ('sweep_report', ('draw_curves', 'draw_final_errors')),
    ):
        reports = f'resnet_jax.experiments.reports.{module}'
        monkeypatch.setattr(f'{reports}.write_figures', lambda figures, folder: [])
        for name in names:
            monkeypatch.setattr(f'{reports}.{name}', lambda *args: None)


class Bench:
    """A copy of the folder that a command is about, in which a file is damaged at a time.

    Attributes:
      run: the workdir that the command gets.
      inner: the run in it: itself, or a run of the sweep.
      count: cases tried.
      problems: what was wrong.
    """

    def __init__(self, runs, root, command):
        self.command, self.root = command, root
        folder, self.arguments, self.figures = COMMANDS[command]
        self.source, self.run = runs / folder, root / folder
        inner = 'runs/a/seed0' if command == 'sweep' else '.'
        self.inner = self.run / inner
        shutil.copytree(self.source, self.run)
        shutil.copytree(runs / 'other', root / 'other')
        shutil.copy(runs / 'x.png', root)
        self.count, self.problems = 0, []
        result = call(*self.arguments(self.run, root))
        assert result.returncode == 0, result.stderr
        self.expected = self.figures(result, self.run)
        restore(self.run, self.source)

    def attempt(self, case, damage, damaged, must_fail=False, only_one_line=False):
        """Damages, runs the command, notes what is wrong with its answer, and restores the files.

        Args:
          case: to show.
          damage: a function that damages the run.
          damaged: the names of the damaged files.
          must_fail: whether no figures are right, not even those without damage.
          only_one_line: whether other figures and a line about something else may be right.
        """
        damage()
        self.count += 1
        try:
            result = call(*self.arguments(self.run, self.root))
        except Exception as error:  # whatever it is, it is a problem
            problem = f'raised {error!r:.200}'
        else:
            problem = self.problem(result, damaged, must_fail)
            good = result.returncode == 0 or result.stderr.count('resnet-jax: ') == 1
            problem = None if only_one_line and good else problem
        if problem:
            self.problems.append(f'{self.command}, {case}: {problem}')
        restore(self.run, self.source)

    def problem(self, result, damaged, must_fail):
        """What is wrong with a command's answer; None where nothing is."""
        lines = result.stderr.splitlines()
        if 'Traceback' in result.stderr or 'in the background' in result.stderr:
            return result.stderr
        ours = tuple(f'{self.inner.relative_to(self.run) / name}' for name in damaged)
        lost = [n for n in changed(self.run, self.source) if not n.startswith((*ours, *OUTPUTS))]
        if result.returncode == 0:
            lost = [name for name in lost if not (self.command == 'resume' and name in WRITTEN)]
            found = self.figures(result, self.run)
            if must_fail or not agree(found, self.expected, self.command):
                return f'the figures are {found}'
        elif result.returncode not in (1, 2) or result.stdout:
            return f'code {result.returncode}: {result.stdout}'
        elif self.command in ('train', 'resume'):  # says more before
            lines = [line for line in lines if line.startswith('resnet-jax: ')]
        if result.returncode:
            if len(lines) != 1 or not any(name in lines[0] for name in self.places(damaged)):
                return f'it says {lines}'
            if ';' not in lines[0]:
                return f'it does not say what to do: {lines}'
        return f'it changed {lost}' if lost else None

    def places(self, damaged):
        """What a message may name: the file, its checkpoint, or the whole run where it is gone."""
        name = damaged[0]
        parts = name.split('/')
        if name.startswith('checkpoints'):
            return ['/'.join(parts[:2])]
        gone = not (self.inner / name).is_file() or self.command == 'convert'
        whole = [f'workdir {self.inner}', f'{self.inner} holds', f'{self.inner}: ']
        return [name, *whole] if gone else [name]


WRITTEN = ('metrics.jsonl', 'failed.json')  # by a run that continues


def agree(found, expected, command):
    """Whether figures are the same; a report and a comparison may also say that there are none."""
    if command not in ('report', 'compare', 'sweep'):
        return found == expected
    return all(found.get(key) in (value, None) for key, value in expected.items())


def report(benches, least):
    """Prints how many cases were tried, and fails with all that went wrong."""
    count = sum(bench.count for bench in benches)
    problems = [problem for bench in benches for problem in bench.problems]
    print(f'{count} cases, {len(problems)} problems')
    assert not problems, '\n'.join([f'{len(problems)} of {count} cases', *problems])
    assert count >= least


def damage_file(bench, name, kind):
    """Does something to a file of the run."""
    path = bench.inner / name
    if path.stat().st_size:  # the lock holds nothing
        bench.attempt(f'{name}, {kind}', lambda: KINDS[kind](path, path.read_bytes()), [name])


def test_some_files(runs, tmp_path):
    """The files that describe a run and its last checkpoint; each case with one command in turn."""
    names = [n for n in files(runs / 'finished') if n.count('/') == 0 or '/12/' in n]
    names = [
        n for n in names if n.endswith(('.json', '.jsonl', 'metrics', 'metadata', '_METADATA'))
    ]
    benches = [Bench(runs, tmp_path / c, c) for c in ('eval', 'compare', 'report', 'train')]
    for name, kind in itertools.product(names, QUICK_KINDS):
        damage_file(benches[hash_of(name, kind) % len(benches)], name, kind)
    report(benches, 25)


def hash_of(*words):
    """A number that depends on some words alone."""
    return sum(sum(map(ord, word)) for word in words)


@pytest.mark.slow
@pytest.mark.parametrize('command', COMMANDS)
def test_every_file(runs, tmp_path, command):
    if not (runs / 'finished' / 'report.md').exists():
        write_outputs(runs)
    bench = Bench(runs, tmp_path, command)
    for name, kind in itertools.product(files(bench.source / bench.inner), KINDS):
        old = 'checkpoints/4/state' in name
        if not (command == 'resume' and old and kind not in ('noise', 'deleted')):
            damage_file(bench, name, kind)
    report([bench], 350)


def is_wrong(value, given):
    """Whether a value is of another type than what a field of a config holds."""
    if given is None or value is None:  # a field that may be unset
        return isinstance(given or value, dict)
    if isinstance(given, float):
        return isinstance(value, bool) or not isinstance(value, int | float)
    return type(value) is not type(given)


# 10**400 is no number that JAX holds; 1e400 is read as infinity.
VALUES = (None, [], {}, 'x', -1, 1.5, True, 10**400, float('inf'), {'a': 1})


@pytest.mark.slow
@pytest.mark.parametrize('command', ['compare', 'eval', 'train'])
def test_every_field_of_the_config(runs, tmp_path, command):
    bench = Bench(runs, tmp_path, command)
    path = bench.inner / 'config.json'
    fields = json.loads(path.read_text())
    places = [(name,) for name in fields]
    places += [(name, leaf) for name in fields if isinstance(fields[name], dict)
               for leaf in fields[name]]  # fmt: skip
    chosen = VALUES if command == 'eval' else ([], {'a': 1})
    for place, value in itertools.product(places, chosen):
        other = json.loads(path.read_text())
        section = other if len(place) == 1 else other[place[0]]
        wrong = is_wrong(value, section[place[-1]])
        section[place[-1]] = value
        text = json.dumps(other)
        bench.attempt((place, value), lambda text=text: path.write_text(text),
                      ['config.json'], must_fail=wrong, only_one_line=not wrong)  # fmt: skip
    report([bench], len(places) * len(chosen))


@pytest.mark.parametrize('command', ['eval', 'report'])
def test_a_task_of_another_version(runs, tmp_path, command):
    bench = Bench(runs, tmp_path, command)
    path = bench.inner / 'config.json'
    text = json.dumps(json.loads(path.read_text()) | {'task': 'keypoints'})
    bench.attempt('task', lambda: path.write_text(text), ['config.json'], must_fail=True)
    report([bench], 1)


BAD_LINES = (
    '', '{', '[]', '3', 'null', '{}', DEEP, '\0' * 50, '\ufffd', '{"step": 4}',
    '{"split": "eval"}', '{"step": "4", "split": "eval"}', '{"step": 4.5, "split": "eval"}',
    '{"step": true, "split": 3}',
    '{"step": -4, "split": "train", "loss": 1.0, "top1": 0.5}',
    '{"step": 4, "split": "train", "loss": "x", "top1": [], "images_per_second": {}}',
    '{"step": 4, "split": "train", "loss": true, "top1": 1e999, "images_per_second": "fast"}',
    '{"step": 4, "split": "eval", "loss": null, "top1": 7, "n": "many"}',
    f'{{"step": {10**400}, "split": "train", "loss": {10**400}}}',
)  # fmt: skip


@pytest.mark.parametrize(
    'command', ['compare', *(pytest.param(c, marks=pytest.mark.slow) for c in READERS)]
)
def test_a_bad_line_of_the_metrics(runs, tmp_path, command):
    """Whatever it holds, the good ones before and after it count."""
    bench = Bench(runs, tmp_path, command)
    path = bench.inner / 'metrics.jsonl'
    good = path.read_text().splitlines()
    for line in BAD_LINES:
        text = '\n'.join([*good[:2], line, *good[2:]]) + '\n'
        bench.attempt(repr(line[:60]), lambda text=text: path.write_text(text), ['metrics.jsonl'])
        path.write_text(text)
        kept = list(map(json.dumps, read_metrics(bench.inner)))
        assert [line for line in kept if line in good] == good
        restore(bench.run, bench.source)
    report([bench], len(BAD_LINES))


def test_every_key_of_a_sweep(tmp_path):
    """Refused by name, or the report has the figures that it has without damage."""
    folder = write_sweep(tmp_path / 'sweep', {'a': [10.0, 11.0], 'b': [12.0, 13.0]})
    path = folder / 'sweep.json'
    good = path.read_bytes()
    keys = json.loads(good)
    values = (None, [], 'x', -1, 10**400, {'a': None}, [True])
    cases = [(key, value) for key in keys for value in values] + [(kind, None) for kind in KINDS]

    def errors():
        result = call('report', '--workdir', folder, '--json')
        if result.returncode:
            assert (result.returncode, result.stdout) == (2, '')
            assert len(result.stderr.splitlines()) == 1
            assert 'sweep.json' in result.stderr and ';' in result.stderr
            return None
        return {run['folder']: run['error'] for run in json.loads(result.stdout)['runs']}

    expected, refused = errors(), 0
    for key, value in cases:
        if key in KINDS:
            KINDS[key](path, good)
        else:
            path.write_text(json.dumps({**keys, key: value}))
        found = errors()
        refused += found is None
        assert found in (None, expected), (key, value)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(good)
    assert len(cases) >= 60 and refused >= 50


@pytest.mark.parametrize('how', ['whole', pytest.param('line by line', marks=pytest.mark.slow)])
def test_journal_of_a_search(tmp_path, how):
    """What Optuna cannot read is refused in one line; it is never changed by that."""
    pytest.importorskip('optuna', reason='needs the extra resnet-jax[search]')
    search_a_function(STUDY, tmp_path)
    journal = tmp_path / study.JOURNAL
    good = journal.read_bytes()
    cases, refused = damaged_journals(good.decode().splitlines()), 0
    if how == 'whole':
        cases = [lambda kind=kind: kind(journal, good) for kind in KINDS.values()]
    else:
        cases = [lambda text=text: journal.write_text(text) for text in cases]
    for damage in cases:
        damage()
        before = journal.read_bytes() if journal.is_file() else None
        try:
            study.proposals(tmp_path)
            study.propose(STUDY, tmp_path)
        except (InputError, RunError) as error:
            refused += 1
            assert str(journal) in str(error) and '\n' not in str(error) and ';' in str(error)
            assert (journal.read_bytes() if journal.is_file() else None) == before
        shutil.rmtree(journal) if journal.is_dir() else journal.unlink(missing_ok=True)
        journal.write_bytes(good)
    assert len(cases) >= (12 if how == 'whole' else 200) and refused >= 8


def damaged_journals(lines):
    """Journals in which a line of each kind has a value that it cannot have."""
    first = {}
    for number, line in enumerate(lines):
        first.setdefault(json.loads(line)['op_code'], (number, json.loads(line)))
    return [
        '\n'.join([*lines[:number], json.dumps({**content, key: value}), *lines[number + 1 :]])
        for number, content in first.values()
        for key in content
        for value in (None, 'x', -1, [], {}, 10**400, float('inf'))
    ]


@pytest.mark.parametrize('kind', [*KINDS, 'a name'])
def test_id_of_a_record(tmp_path, kind):
    """A new one is made up where a tracker could not have been given this one."""
    first = run_id(tmp_path)
    assert run_id(tmp_path) == first
    path = tmp_path / 'tracking_id'
    if kind == 'a name':
        path.write_text('run-7_of_mine\n')
        assert run_id(tmp_path) == 'run-7_of_mine'
    elif kind != 'folder':  # refused before
        KINDS[kind](path, path.read_bytes())
        assert re.fullmatch(r'[\w-]{1,64}', run_id(tmp_path))
        assert run_id(tmp_path) == path.read_text().strip()
