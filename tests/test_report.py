"""Reports of sweeps and comparisons of runs, mostly of run folders written by hand."""

import csv
import datetime
import html.parser
import json
import re
import shlex
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from pages import probe
from PIL import Image
from run_folders import BASE, BETTER, SIMILAR, write_run, write_sweep
from running import DIGITS, tiny

from resnet_jax.cli import main
from resnet_jax.experiments import results
from resnet_jax.experiments.engines.engine import run_sweep
from resnet_jax.experiments.reports import findings
from resnet_jax.experiments.reports.report_figures import draw_curves
from resnet_jax.experiments.reports.statement import statement
from resnet_jax.experiments.reports.sweep_report import write_report
from resnet_jax.experiments.sweep import load_sweep
from resnet_jax.training.config import flatten, load_config
from resnet_jax.training.inputs import open_inputs
from resnet_jax.training.workdir import write_run as write_config

EVIL = '</script><b>$&{{data}} | <!-- "\'`_'


def says(folder, arms, **fields):
    return '\n'.join(statement(findings.read_findings(write_sweep(folder, arms, **fields))))


# What is said


def test_a_difference_that_is_there(tmp_path):
    """Differences -1.9, -2.1, -2.0, -2.1, -1.9: mean -2, deviation 0.1; t(4) is 2.776."""
    text = says(tmp_path, {'base': BASE, 'new': BETTER})
    half = 2.776445 * 0.1 / 5**0.5
    assert text == (
        'new is better than base: its test error is 2.00 points below that of base (95 % interval '
        f'{-2 - half:+.2f} to {-2 + half:+.2f}, corrected p < 0.001, 5 seeds).'
    )
    text = says(tmp_path / 'turned', {'base': BETTER, 'new': BASE})
    assert text.startswith(
        'new is worse than base: its test error is 2.00 points above that of base'
    )


def test_a_difference_that_cannot_be_seen(tmp_path):
    text = says(tmp_path, {'base': BASE, 'new': SIMILAR})
    assert text.startswith('new and base cannot be told apart with 5 seeds')
    assert 'better' not in text and 'worse' not in text
    needed = int(re.search(r'about (\d+) seeds would show it with a power of 80 %', text)[1])
    d = np.subtract(SIMILAR, BASE)
    # The normal approximation of the noncentral t, from below.
    assert needed >= ((1.960 + 0.8416) * d.std(ddof=1) / d.mean()) ** 2 > 0.95 * (needed - 3)


@pytest.mark.parametrize(
    ('arms', 'words'),
    [
        ({'base': (10.0,), 'new': (5.0,)}, 'The arms cannot be compared: there is only one seed'),
        ({'base': (10.0, 11.0)}, 'There is nothing to compare: base is the only arm'),
        (
            {'base': ('failed',) * 2, 'new': (5.0, 6.0)},
            'no run of the baseline, base, has finished',
        ),
        (
            {'base': (10.0, 11.0), 'new': ('failed',) * 2},
            'new cannot be compared with base: all its runs failed',
        ),
        (
            {'base': (10.0, 11.0), 'new': ('failed', None)},
            'new cannot be compared with base: none of its runs has',
        ),
        (
            {'base': (10.0, None), 'new': (None, 9.0)},
            'new cannot be compared with base: no seed has',
        ),
        (
            {'base': (10.0, 11.0), 'new': (9.0, None)},
            'new cannot be compared with base: only one seed has',
        ),
        ({'base': (10.0, 11.0), 'new': (10.0, 11.0)}, 'have the same error with each of 2 seeds'),
        (
            {'base': (10.0, 11.0), 'new': (9.0, 10.0)},
            '1.00 points below that of base with each of 2',
        ),
        ({'base': (8.0, 9.0), 'new': (9.0, 8.0)}, 'more than 10,000 seeds would be needed'),
        (
            {'base': (8.0, 9.0), 'new': (9.5, 'failed')},
            '1 of 2 runs of new failed; its figures are',
        ),
        (
            {'base': (8.0, 9.0), 'new': (9.5, 'unfinished')},
            '3 of 4 runs have finished, and the rest may',
        ),
    ],
)
def test_what_limits_a_statement(arms, words, tmp_path):
    text = says(tmp_path, arms)
    assert words in text
    assert 'better' not in text and 'worse' not in text


def test_several_arms_are_corrected(tmp_path):
    arms = {'base': BASE, 'new': BETTER, 'similar': SIMILAR, 'gone': ('failed',) * 5}
    found = findings.read_findings(write_sweep(tmp_path, arms))
    text = '\n'.join(statement(found))
    assert 'corrected for 2 comparisons (Holm)' in text
    assert 'new is better than base' in text and 'similar and base cannot' in text
    _, new, similar, _ = (arm.difference for arm in found.arms)
    assert new.corrected == pytest.approx(2 * new.p)
    assert similar.corrected == similar.p


def test_arms_of_different_data_are_not_compared(tmp_path):
    """An error of one set of data above that of another says nothing of the arms."""
    arms = {'one': BASE, 'two': BETTER}
    own = {'one': {'data.name': 'digits'}, 'two': {'data.name': 'synthetic', 'train.steps': 9}}
    found = findings.read_findings(write_sweep(tmp_path, dict.fromkeys(arms, BASE) | arms))
    assert found.comparable and found.others[0].difference is not None
    write_sweep(tmp_path / 'own', arms)
    sweep = tmp_path / 'own' / 'sweep.json'
    sweep.write_text(json.dumps({**json.loads(sweep.read_text()), 'arms': own}))
    found = findings.read_findings(tmp_path / 'own')
    (sentence,) = statement(found)
    assert sentence.startswith('The arms are of different data') and 'better' not in sentence
    assert found.others[0].difference is None
    assert 'data.name' not in found.settings  # no one name is that of all
    written = write_report(tmp_path / 'own')
    titles = [table.title for table in written.document.tables]
    assert 'Arms' in titles and not any('Paired' in title for title in titles)


# What is written


@pytest.fixture(scope='module')
def evil(tmp_path_factory):
    """A report with everything: failures, runs under way, a published error, dreadful names."""
    folder = tmp_path_factory.mktemp('evil') / 'sweep'
    arms = {
        'base': BASE,
        EVIL: BETTER,
        'half': (9.0, 9.5, 'failed', 'unfinished', None),
        'lost': ('failed',) * 5,
    }
    source = 'reproduce he2016_table2 --scale short'
    title = f'is {EVIL} better?'
    write_sweep(folder, arms, title=title, published={'base': 6.61}, source=source)
    return write_report(folder)


def test_all_files_are_written_and_nothing_else(evil):
    folder = Path(evil.json['workdir'])
    assert {p.name for p in folder.iterdir()} == {
        'sweep.json',
        'runs',
        *(p.name for p in evil.files),
    }
    assert {path.name for path in evil.files} == {
        *('report.md', 'report.html', 'report.json', 'report.csv', 'runs.csv'),
        *('curves.png', 'curves.svg', 'final_error.png', 'final_error.svg'),
    }


def cells(line):
    return [cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]]


def test_markdown(evil):
    text = (Path(evil.json['workdir']) / 'report.md').read_text()
    # The arm of the base: mean 11, deviation sqrt(0.625), interval by hand.
    half = 2.776445 * 0.125**0.5
    row = next(line for line in text.splitlines() if line.startswith('| base | 11.00'))
    assert cells(row) == [
        *('base', '11.00', '0.79', '5', f'{11 - half:.2f} to {11 + half:.2f}', '1,234,567'),
        *('1,002', '4.5', '6.61', '0', '0'),
    ]
    assert 'digits' in text and '30 steps' in text and 'compare the order of the arms' in text
    assert '| half | 2 | failed | training diverged &lt;at> step 21 |' in text
    assert '| half | 3 | unfinished | at step 20 |' in text
    assert '| half | 4 | not begun | - |' in text
    assert '![curves](curves.png)' in text
    assert 'resnet-jax reproduce he2016_table2 --scale short --workdir' in text
    assert 'train.epochs=5' in text
    fenced = text.split('```')
    assert all('<b>' not in part for part in fenced[::2]), 'HTML outside the code'
    tables = [line for line in ''.join(fenced[::2]).splitlines() if line.startswith('|')]
    widths = [len(cells(line)) for line in tables]
    assert len(set(widths)) == 3 + 1  # arms, differences, fields, runs: no cell ends early


def test_json_and_csv_agree(evil):
    folder = Path(evil.json['workdir'])
    found = json.loads((folder / 'report.json').read_text())
    assert found['arms'][0]['error']['mean'] == pytest.approx(11)
    assert [arm['ended'] for arm in found['arms']] == [5, 5, 2, 0]
    assert not found['complete'] and found['tests'] == 2
    with (folder / 'report.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['arm'] for row in rows] == [arm['name'] for arm in found['arms']]
    assert float(rows[1]['difference_mean']) == pytest.approx(-2)
    assert rows[1]['differs'] == 'True' and rows[3]['error_mean'] == ''
    with (folder / 'runs.csv').open(newline='') as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 20
    assert [float(run['error']) for run in runs[:5]] == pytest.approx(BASE)
    assert {run['state'] for run in runs} == {'ended', 'failed', 'unfinished', 'not begun'}


def test_curves_are_those_of_the_runs(evil):
    found = json.loads((Path(evil.json['workdir']) / 'report.json').read_text())['curves']
    curve = next(c for c in found if (c['arm'], c['split']) == ('base', 'test'))
    # `write_run` makes the error fall as 1 / step.
    assert curve['seeds'][1] == {'seed': 1, 'points': [[10, 33.0], [20, 16.5], [30, 11.0]]}
    assert curve['mean'] == [[10, 33.0, 30.0, 36.0], [20, 16.5, 15.0, 18.0], [30, 11.0, 10.0, 12.0]]
    train = next(c for c in found if (c['arm'], c['split']) == ('base', 'train'))
    assert train['mean'][-1][1] == pytest.approx(11 * 100 / 120, abs=1e-4)
    # The mean is of the two that have ended; the others are there too.
    half = next(c for c in found if (c['arm'], c['split']) == ('half', 'test'))
    assert len(half['seeds']) == 4 and half['mean'][-1] == [30, 9.25, 9.0, 9.5]


NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def add_to_summary(run, **fields):
    path = run / 'summary.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_report_tells_when_where_and_with_what(tmp_path):
    """Distinct values of the runs; what no run knows is unknown."""
    folder = write_sweep(tmp_path, {'base': (10.0, 11.0), 'new': (9.0, 10.0)})
    facts = dict(write_report(folder, NOW).document.facts)
    assert (facts['versions'], facts['git commit']) == ('unknown', 'unknown')
    runs = folder / 'runs'
    add_to_summary(runs / 'base' / 'seed0', versions={'python': '3.11.7', 'jax': '0.10.1'})
    add_to_summary(runs / 'new' / 'seed0', versions={'python': '3.11.7', 'jax': '0.9'})
    add_to_summary(runs / 'new' / 'seed0', git_commit='abc+', device='TPU v4')
    add_to_summary(runs / 'new' / 'seed1', git_commit='abc')
    report = write_report(folder, NOW)
    assert dict(report.document.facts) | {
        'hardware': 'TPU v4, cpu',
        'versions': 'python 3.11.7, jax 0.10.1 or 0.9',
        'git commit': 'abc, abc+',
        'written': '2026-01-02T03:04:05+00:00',
    } == dict(report.document.facts)
    found = json.loads((folder / 'report.json').read_text())
    assert found['devices'] == ['TPU v4', 'cpu'] and found['git_commits'] == ['abc', 'abc+']
    assert found['versions'] == {'python': ['3.11.7'], 'jax': ['0.10.1', '0.9']}
    for name in ('report.md', 'report.html', 'report.json'):
        text = (folder / name).read_text()
        assert text.count('2026-01-02T03:04:05+00:00') == 1 and 'TPU v4' in text


def test_a_report_depends_on_the_runs_and_the_time_alone(tmp_path):
    folder = write_sweep(tmp_path, {'base': BASE, 'new': BETTER})
    once, again = (
        {path.name: path.read_bytes() for path in write_report(folder, NOW).files} for _ in range(2)
    )
    assert once == again
    later = {path.name: path.read_bytes() for path in write_report(folder).files}
    changed = [name for name in once if once[name] != later[name]]
    assert changed == ['report.md', 'report.html', 'report.json']
    for name in changed:
        pairs = zip(once[name].splitlines(), later[name].splitlines(), strict=True)
        assert sum(one != other for one, other in pairs) == 1


def test_time_without_compilation(tmp_path):
    """Seconds 2.5 + seed, of which the first step took 2; the files keep both."""
    folder = write_sweep(tmp_path, {'base': (10.0, 11.0), 'new': (9.0, 10.0)})
    for seed in (0, 1):
        add_to_summary(folder / 'runs' / 'base' / f'seed{seed}', first_step_seconds=2.0)
    table = write_report(folder).document.tables[0]
    column = table.header.index('training s')
    assert [row[column] for row in table.rows] == ['1.0', '3.0']
    assert any('compilation' in note for note in table.notes)
    assert 'For 2 of 4 runs that time is unknown and included.' in table.notes
    found = json.loads((folder / 'report.json').read_text())
    run = found['runs'][1]
    assert (run['seconds'], run['first_step_seconds'], run['training_seconds']) == (3.5, 2.0, 1.5)
    assert (found['arms'][0]['seconds'], found['arms'][0]['training_seconds']) == (3.0, 1.0)
    with (folder / 'runs.csv').open(newline='') as file:
        first = next(csv.DictReader(file))
    assert (first['seconds'], first['training_seconds']) == ('2.5', '0.5')


def test_intervals_of_errors_stay_between_0_and_100(tmp_path):
    arms = {'base': (1.0, 9.0), 'new': (99.0, 91.0)}
    report = write_report(write_sweep(tmp_path, arms))
    base, new = report.json['arms']
    assert (base['error']['low'], new['error']['high']) == (0, 100)
    assert new['difference']['high'] > 100  # a difference is not clipped
    assert any('clipped' in note for note in report.document.tables[0].notes)


def test_long_curves_are_thinned(tmp_path):
    folder = write_sweep(tmp_path, {'base': (10.0, 11.0), 'new': (9.0, 10.0)})
    lines = [{'step': i, 'split': 'eval', 'top1': 0.5} for i in range(1, 1002)]
    run = folder / 'runs' / 'base' / 'seed0' / 'metrics.jsonl'
    run.write_text('\n'.join(map(json.dumps, lines)))
    curve = findings.curves(findings.read_findings(folder).arms)[0]
    points = curve['seeds'][0]['points']
    assert 300 < len(points) <= findings.MOST_POINTS
    assert points[0] == [1, 50.0] and points[-1] == [1001, 50.0]
    assert [point[0] for point in curve['mean']] == [10, 20, 30]  # common to both seeds


def test_the_curves_of_all_splits_are_seen():
    """Panels share their steps, whichever ends later; a split without curves has none."""
    look = {'arm': 'a', 'seeds': [{'seed': 0}]}
    test = {**look, 'split': 'test', 'mean': [[625, 30.0, 30.0, 30.0]]}
    train = {**look, 'split': 'train', 'mean': [[5, 40.0, 40.0, 40.0]]}
    (alone,) = draw_curves('one', ['a'], [test]).axes
    assert alone.get_title() == 'test' and alone.get_xlim()[1] > 625
    left, right = draw_curves('two', ['a'], [train, test]).axes
    assert left.get_title().startswith('training') and right.get_title() == 'test'
    assert left.get_xlim() == right.get_xlim() and right.get_xlim()[1] > 625


def test_figures(evil):
    folder = Path(evil.json['workdir'])
    for name in ('curves', 'final_error'):
        with Image.open(folder / f'{name}.png') as image:
            assert image.format == 'PNG' and min(image.size) > 300
            colours = np.unique(np.asarray(image.convert('RGB')).reshape(-1, 3), axis=0)
        for colour in ((0x3B, 0x7D, 0xD8), (0xE0, 0x7B, 0x22)):
            assert (colours == colour).all(axis=1).any(), 'an arm is not drawn'
        svg = ElementTree.parse(folder / f'{name}.svg')
        words = ' '.join(''.join(text.itertext()) for text in svg.iterfind('.//{*}text'))
        for label in ('error, top-1 (%)', 'base', '</script><b>$&{{data}}'):
            assert label in words


class Page(html.parser.HTMLParser):
    """What a page consists of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self._script = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == 'script':
            self.scripts.append('')
        self._script = tag == 'script'

    def handle_endtag(self, tag):
        self._script = False

    def handle_data(self, data):
        if self._script:
            self.scripts[-1] += data


@pytest.fixture(scope='module')
def page(evil):
    return (Path(evil.json['workdir']) / 'report.html').read_text()


def test_page_needs_nothing_but_itself(page):
    found = Page(page)
    for tag, attributes in found.tags:
        assert tag not in ('link', 'img', 'iframe', 'object', 'embed', 'base')
        assert not attributes.keys() & {'src', 'href', 'action', 'xlink:href', 'srcset', 'data'}
    assert not re.search(r'https?:|url\(|@import|fetch\(|XMLHttpRequest|\bimport\b', page)


def test_page_holds_the_curves(page, evil):
    data = json.loads(Page(page).scripts[0])
    report = json.loads((Path(evil.json['workdir']) / 'report.json').read_text())
    assert data['curves'] == report['curves']
    assert [arm['name'] for arm in data['arms']] == [arm['name'] for arm in report['arms']]
    assert data['arms'][0]['errors'] == pytest.approx(BASE)


def test_names_are_harmless_in_the_page(page):
    found = Page(page)
    assert len(found.scripts) == 2 and 'b' not in {tag for tag, _ in found.tags}
    assert '</script>' not in found.scripts[0] and '<!--' not in found.scripts[0]
    assert page.count('<script') == page.count('</script>') == 2
    assert '{{title}}' not in page and '$&{{data}}' in found.scripts[0].replace('\\u0026', '&')


def test_page_is_accessible(page):
    found = Page(page)
    svgs = [attributes for tag, attributes in found.tags if tag == 'svg']
    assert all(a['role'] == 'img' and a['aria-labelledby'] for a in svgs) and len(svgs) == 2
    ids = {attributes['id'] for _, attributes in found.tags if 'id' in attributes}
    for _, attributes in found.tags:
        for name in ('aria-labelledby', 'aria-describedby'):
            assert name not in attributes or attributes[name] in ids
    assert {a.get('scope') for tag, a in found.tags if tag == 'th'} == {'col', 'row'}
    assert ('html', {'lang': 'en'}) in found.tags and 'prefers-color-scheme: dark' in page


# In a browser

PROBE = """
const count = (what) => document.querySelectorAll(what).length;
const arms = [...document.querySelectorAll('[name=arm]')];
const curves = document.getElementById('curves');
const readout = document.getElementById('readout');
const labels = () => [...curves.querySelectorAll(':scope > text')].map((t) => t.textContent);
found.arms = arms.map((box) => box.value);
found.test = [count('g.curve'), count('path.band'), count('g.final')];
found.testLabels = labels();
const point = curves.querySelector('g.curve circle');
const box = curves.getBoundingClientRect();
const at = { clientX: box.left + +point.getAttribute('cx') + 2,
  clientY: box.top + +point.getAttribute('cy') };
curves.dispatchEvent(new PointerEvent('pointermove', at));
found.hover = [readout.textContent, readout.style.visibility];
curves.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' }));
found.key = readout.textContent;
curves.dispatchEvent(new PointerEvent('pointerleave'));
found.left = readout.style.visibility;
arms[1].click();
found.hidden = [...curves.querySelectorAll('g.curve')].map((g) => g.dataset.arm);
arms[1].click();
found.again = count('g.curve');
document.querySelector('[name=band]').click();
found.bands = count('path.band');
document.querySelector('[name=seeds]').click();
found.lines = count('g.curve path');
document.querySelector('[name=log]').click();
document.querySelector('[value=train]').click();
found.trainLabels = labels();
arms.forEach((box) => box.click());
found.none = [count('g.curve'), curves.textContent.includes('no curve chosen')];
found.bold = count('b');
found.bad = [...document.querySelectorAll('svg *')].filter((node) =>
  [...node.attributes].some((a) => /NaN|undefined|Infinity/.test(a.value))).length;
"""


def test_page_in_a_browser(page, tmp_path):
    found = probe(page, PROBE, tmp_path)
    assert found['errors'] == [] and found['bad'] == 0 and found['bold'] == 0
    assert found['arms'] == ['base', EVIL, 'half', 'lost']
    assert found['test'] == [4, 4, 4]  # those that failed have curves too
    assert 'test error, top-1 (%)' in found['testLabels'] and 'training step' in found['testLabels']
    assert found['hover'] == ['base, mean, step 10: 33.00 %', 'visible']
    assert found['key'] == 'base, mean, step 20: 16.50 %' and found['left'] == 'hidden'
    assert found['hidden'] == ['base', 'half', 'lost'] and found['again'] == 4
    assert found['bands'] == 0
    assert found['lines'] == 4 + 5 + 5 + 4 + 5  # means, and seeds that have begun
    assert 'training error, top-1 (%)' in found['trainLabels']
    assert found['none'] == [0, True]


# The commands


def test_report_for_people(tmp_path, capsys):
    folder = write_sweep(tmp_path / 'sweep', {'base': BASE, 'a longer name': BETTER})
    assert main(['report', '--workdir', str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'which is better?'
    assert lines[2].startswith('- a longer name is better than base')
    header = next(i for i, line in enumerate(lines) if line.startswith('arm '))
    assert lines[header + 1].split()[:4] == ['base', '11.00', '0.79', '5']
    ends = {line.index(mean) for line, mean in zip(lines[header + 1 :], ('11.00', ' 9.00'))}  # noqa: B905
    assert len(ends) == 1, 'columns are aligned'
    assert f'{folder / "report.html"}' in lines


def test_report_for_programs(tmp_path, ask):
    folder = write_sweep(tmp_path / 'sweep', {'base': BASE, 'new': BETTER})
    found = ask('report', '--workdir', folder)
    written = json.loads((folder / 'report.json').read_text())
    assert 'curves' in written
    del written['curves']
    assert {key: found[key] for key in written} == written
    assert str(folder / 'report.md') in found['files']
    assert found['arms'][1]['difference']['differs'] is True


def test_report_again_of_more_runs(tmp_path):
    folder = write_sweep(tmp_path, {'base': (10.0, 11.0), 'new': (9.0, None)})
    assert 'only one seed' in write_report(folder).document.statement[0]
    write_run(folder / 'runs' / 'new' / 'seed1', 1, 9.5)
    report = write_report(folder)
    assert (
        'cannot be told apart with 2 seeds' in report.document.statement[0]
        and report.json['complete']
    )


def refused(capsys, *arguments):
    """The one line with which a command ends with code 2."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('resnet-jax: ') and err.count('\n') == 1
    return err


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('{"title": "x", ', 'describes no sweep'),
        ('[]', 'no JSON object'),
        ('{}', "lacks 'title'"),
        ('{"title": "x", "base": "b", "fields": {}, "arms": [], "seeds": []}', 'describes no'),
        (
            '{"title":"x","base":"b","fields":{},"arms":{"a":{}},"seeds":[0],"baseline":"b"}',
            "baseline 'b' is none of its arms",
        ),
        (
            '{"title":"x","base":"b","fields":{},"arms":{"a":{}},"seeds":["s"],"baseline":"a"}',
            'describes no sweep',
        ),
        ('\udcff', 'describes no sweep'),
    ],
)
def test_corrupted_sweep(text, words, tmp_path, capsys):
    (tmp_path / 'sweep.json').write_text(text, errors='surrogateescape')
    err = refused(capsys, 'report', '--workdir', tmp_path)
    assert words in err and 'sweep.json' in err


def test_no_sweep(tmp_path, capsys):
    assert 'does not exist' in refused(capsys, 'report', '--workdir', tmp_path / 'none')
    assert 'holds no sweep' in refused(capsys, 'report', '--workdir', tmp_path)


def test_nothing_has_ended(tmp_path, capsys):
    folder = write_sweep(tmp_path / 'a', {'base': ('unfinished', None), 'new': (None, None)})
    err = refused(capsys, 'report', '--workdir', folder)
    assert 'none of the 4 runs' in err and '1 have begun' in err
    folder = write_sweep(tmp_path / 'b', {'base': ('failed',), 'new': ('failed',)})
    assert 'base seed 0: training diverged' in refused(capsys, 'report', '--workdir', folder)
    assert not (folder / 'report.md').exists()


@pytest.mark.parametrize('text', ['{', '[]', '{"eval": {"top1": NaN}}', '{"eval": {}}'])
def test_corrupted_summary(text, tmp_path, capsys):
    folder = write_sweep(tmp_path, {'base': BASE, 'new': BETTER})
    path = folder / 'runs' / 'new' / 'seed2' / 'summary.json'
    path.write_text(text)
    # The report is written; the run counts as failed in it, and says why.
    assert main(['report', '--workdir', str(folder), '--json']) == 0
    assert str(path.parent) in capsys.readouterr().out + (folder / 'report.md').read_text()
    (failed,) = findings.read_findings(folder).runs('failed')
    assert failed.folder == path.parent
    assert failed.failure.error.startswith(f'cannot read {path}: ')
    # Alone, it is refused.
    other = path.parent.with_name('seed1')
    assert f'cannot read {path}: ' in refused(capsys, 'compare', other, path.parent)


# Real runs

SWEEP = """
def get_sweep():
    return {{
        'title': 'is momentum of use?', 'base': {base!r}, 'seeds': 2,
        'fields': {{'model.stage_sizes': (1,), 'model.width': 4, 'model.stem_width': 4,
                   'train.batch_size': 32, 'train.steps': 6, 'train.log_every': 2,
                   'train.eval_every': 3, 'checkpoint.every': 6}},
        'arms': {{'with': {{}}, 'without': {{'optim.momentum': 0.0}}}},
    }}
"""
# Multiply-adds at 8x8 with four channels: stem 3x3, a block of two 3x3 convolutions, head.
STEM, BLOCK, HEAD = 64 * 9 * 4, 2 * 64 * 9 * 16, 4 * 10


def test_a_real_sweep(tmp_path, ask):
    file, folder = tmp_path / 'sweep.py', tmp_path / 'out'
    file.write_text(SWEEP.format(base=str(DIGITS)))
    assert run_sweep(load_sweep(str(file)), folder) == []
    found = ask('report', '--workdir', folder)
    assert found['complete'] and [arm['error']['n'] for arm in found['arms']] == [2, 2]
    assert [arm['multiply_adds'] for arm in found['arms']] == [STEM + BLOCK + HEAD] * 2
    summary = json.loads((folder / 'runs' / 'with' / 'seed1' / 'summary.json').read_text())
    run = next(r for r in found['runs'] if (r['arm'], r['seed']) == ('with', 1))
    assert run['error'] == pytest.approx(100 - 100 * summary['eval']['top1'])
    assert run['parameters'] == summary['parameters']
    curves = json.loads((folder / 'report.json').read_text())['curves']
    assert [point[0] for point in curves[0]['mean']] == [3, 6]
    # The command in the report trains the same run.
    line = re.search(r'^resnet-jax train .*$', (folder / 'report.md').read_text(), re.MULTILINE)[0]
    _, _, _, base, _, _, *flags = shlex.split(line)
    pairs = [tuple(flag.removeprefix('--config.').split('=', 1)) for flag in flags]
    config = json.loads((folder / 'runs' / 'with' / 'seed0' / 'config.json').read_text())
    assert flatten(json.loads(load_config(base, pairs).to_json())) == flatten(config)
    # Its runs as if they were made by hand, in the same groups.
    compared = ask('compare', *(run['folder'] for run in found['runs']))
    names = {'optim.momentum=0.9': 0.9, 'optim.momentum=0.0': 0.0}
    assert compared['differs'] == {'optim.momentum': names}
    assert compared['groups'][1]['difference'] == found['arms'][1]['difference']


def test_operations_of_training_are_at_its_image_size(tmp_path):
    config = tiny({'model.stage_sizes': (1,), 'data.train_image_size': 4})
    tmp_path.joinpath('run').mkdir()
    write_config(tmp_path / 'run', config, open_inputs(config).preprocessing)
    # A quarter of the pixels, and the head as before.
    adds = (STEM + BLOCK) // 4 + HEAD
    assert results.training_flops(tmp_path / 'run', 1) == 6 * config.train.batch_size * adds
    assert results.counts_of_run(tmp_path / 'run').multiply_adds == STEM + BLOCK + HEAD


def test_multiply_adds_of_scanned_blocks(tmp_path):
    """All of them count, though they are traced once."""
    config = tiny({'model.stage_sizes': (5,), 'model.scan_blocks': True, 'model.remat': True})
    tmp_path.joinpath('run').mkdir()
    write_config(tmp_path / 'run', config, open_inputs(config).preprocessing)
    run = tmp_path / 'run'
    adds = STEM + 5 * BLOCK + HEAD
    assert results.counts_of_run(run).multiply_adds == adds
    # Forward, and the gradients of both factors; a multiplication and an addition each.
    assert results.training_flops(run, 10) == 10 * config.train.batch_size * 3 * 2 * adds
