"""Reports of single runs: real ones, unfinished ones, and ones whose data is not there."""

import datetime
import html.parser
import json
import re
import shutil

import numpy as np
import pytest
from pages import probe
from PIL import Image
from run_folders import write_run
from running import tiny

from resnet_jax.cli import main
from resnet_jax.experiments.reports import run_report
from resnet_jax.experiments.reports.run_report import write_run_report
from resnet_jax.training import loop

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A tiny run that has ended, and its report."""
    folder = tmp_path_factory.mktemp('run') / 'run'
    loop.train(tiny(), folder)
    return folder, write_run_report(folder, NOW)


def test_files_of_a_run(run):
    folder, report = run
    assert {path.name for path in report.files} == {
        *('report.md', 'report.html', 'report.json', 'curves.png', 'curves.svg', 'confusion.png')
    }
    for name in ('curves.png', 'confusion.png'):
        with Image.open(folder / name) as image:
            assert min(image.size) > 300
        assert f'({name})' in (folder / 'report.md').read_text()


def test_the_summary_is_that_of_the_run(run):
    folder, report = run
    summary = json.loads((folder / 'summary.json').read_text())
    rows = dict(report.document.tables[0].rows)
    error = f'{100 * (1 - summary["eval"]["top1"]):.2f} %'
    assert rows['error (top-1)'] == error and error in report.document.statement[0]
    assert rows['parameters'] == f'{summary["parameters"]:,}' and rows['steps'] == '12'
    assert rows['seed'] == '0' and rows['device'] == summary['device']
    assert f'jax {summary["versions"]["jax"]}' in rows['versions']
    assert rows['git commit'] == (summary['git_commit'] or '-')
    seconds = summary['seconds'] - summary['first_step_seconds']
    assert rows['wall time without the first step'] == f'{seconds:,.1f} s'
    assert rows['memory of a step, as compiled'].endswith('MiB')


def test_the_confusion_matrix_is_that_of_the_last_checkpoint(run, ask):
    folder, report = run
    found = report.json['evaluation']
    evaluated = ask('eval', '--workdir', folder, '--per-class')
    assert found['confusion'] == evaluated['confusion'] and found['step'] == 12
    assert (found['n'], found['top1']) == (evaluated['n'], evaluated['top1'])
    table = report.document.tables[1]
    counts = [[int(cell) for cell in row[1:-1]] for row in table.rows]
    assert counts == found['confusion'] and np.sum(counts) == 360
    (folder / 'confusion_test.png').unlink()


def test_curves_of_a_run(run):
    folder, _ = run
    curves = json.loads((folder / 'report.json').read_text())['curves']
    by_name = {(c['figure'], c['split']): c['points'] for c in curves}
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    train = [line for line in lines if line['split'] == 'train']
    assert by_name['loss', 'train'] == [[m['step'], pytest.approx(m['loss'])] for m in train]
    rates = [[m['step'], pytest.approx(m['learning_rate'])] for m in train]
    assert by_name['learning_rate', 'train'] == rates
    assert [point[0] for point in by_name['error', 'test']] == [6, 12]
    assert set(by_name) == {
        *((figure, split) for figure in ('loss', 'error') for split in ('train', 'test')),
        ('learning_rate', 'train'),
    }


def test_page_of_a_run(run):
    folder, report = run
    page = (folder / 'report.html').read_text()
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split('<')[0])
    assert [panel['name'] for panel in data['panels']] == ['loss', 'error', 'learning_rate']
    assert [arm['name'] for arm in data['arms']] == ['training', 'evaluation']
    assert '<section hidden>' in page and '{{' not in page
    parser = html.parser.HTMLParser()
    parser.feed(page)
    assert report.document.title in page and 'model.width = 4' in page


SCRIPT = """
const curves = document.getElementById('curves');
const labels = () => [...curves.querySelectorAll(':scope > text')].map((t) => t.textContent);
const shown = () => [...curves.querySelectorAll('g.curve')].map((g) => g.dataset.arm);
const step = () => curves.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' }));
const bad = () => [...document.querySelectorAll('svg *')].filter((node) =>
  [...node.attributes].some((a) => /NaN|undefined|Infinity/.test(a.value))).length;
const read = () => document.getElementById('readout').textContent;
found.loss = [shown(), labels().includes('loss (nats)')];
step();
found.first = read();
document.querySelector('[value=error]').click();
found.error = [shown(), labels().includes('error, top-1 (%)')];
step();
found.percent = read();
document.querySelector('[value=learning_rate]').click();
document.querySelector('[name=log]').click();
found.rate = [shown(), labels().includes('learning rate'), bad()];
found.hidden = ['several', 'finals'].map((id) => document.getElementById(id).checkVisibility());
"""


def test_page_of_a_run_in_a_browser(run, tmp_path):
    folder, _ = run
    found = probe((folder / 'report.html').read_text(), SCRIPT, tmp_path)
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    assert found['errors'] == [] and found['hidden'] == [False, False]
    assert found['loss'] == [['training', 'evaluation'], True] == found['error']
    assert found['rate'] == [['training'], True, 0]
    assert re.fullmatch(r'training, seed 0, step 4: [\d.]+', found['first'])
    assert found['percent'] == f'training, seed 0, step 4: {100 * (1 - lines[0]["top1"]):.2f} %'


def test_the_report_depends_on_the_run_and_the_time_alone(run):
    folder, report = run
    before = {path: path.read_bytes() for path in report.files}
    again = write_run_report(folder, NOW)
    assert {path: path.read_bytes() for path in again.files} == before
    assert '2026-01-02T03:04:05+00:00' in (folder / 'report.md').read_text()


@pytest.mark.slow
def test_report_of_a_run_for_people_and_programs(run, ask, capsys):
    folder, _ = run
    found = ask('report', '--workdir', folder)
    assert found['run']['state'] == 'ended' and str(folder / 'confusion.png') in found['files']
    assert main(['report', '--workdir', str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith('cifar_resnet8 on digits, seed 0') and 'The run has finished' in out
    assert 'true class' in out and str(folder / 'report.html') in out


def test_an_unfinished_run(run, tmp_path):
    """What there is: curves, and the confusion matrix of the last checkpoint."""
    folder = tmp_path / 'run'
    shutil.copytree(run[0], folder)
    (folder / 'summary.json').unlink()
    shutil.rmtree(folder / 'checkpoints' / '12')
    report = write_run_report(folder, NOW)
    says = ' '.join(report.document.statement)
    assert 'The run has not finished; its last figures are of step 12 (planned: 12 steps)' in says
    assert 'Its last checkpoint, of step 8,' in says
    rows = dict(report.document.tables[0].rows)
    assert rows['parameters'] == dict(run[1].document.tables[0].rows)['parameters']
    assert report.json['evaluation']['step'] == 8 and report.json['run']['state'] == 'unfinished'


def test_without_its_data_or_checkpoints_a_run_has_a_report(run, tmp_path):
    folder = tmp_path / 'run'
    shutil.copytree(run[0], folder)
    config = json.loads((folder / 'config.json').read_text())
    config['data']['name'] = f'folder:{tmp_path}/gone'
    (folder / 'config.json').write_text(json.dumps(config))
    report = write_run_report(folder, NOW)
    assert 'There is no confusion matrix' in report.document.statement[-1]
    assert 'gone' in report.document.statement[-1] and 'confusion' not in report.json['evaluation']
    assert not any(path.name == 'confusion.png' for path in report.files)
    for name, error in {'a': 10.0, 'b': 'failed', 'c': 'unfinished'}.items():
        write_run(tmp_path / name, 0, error)
        says = ' '.join(write_run_report(tmp_path / name, NOW).document.statement)
        assert 'There is no confusion matrix' in says
        assert ('training diverged <at> step 21' in says) == (error == 'failed')


def test_many_classes_are_shown_by_their_confusions():
    counts = 3 * np.eye(40, dtype=int)
    counts[2, 5], counts[7, 1] = 4, 9
    found = {'class_names': [f'c{i}' for i in range(40)], 'confusion': counts.tolist()}
    table = run_report._confusion_table({**found, 'n': int(counts.sum()), 'split': 't', 'step': 1})
    assert table.rows == (('c7', 'c1', '9'), ('c2', 'c5', '4'))


@pytest.mark.parametrize('text', ['{', '[]', '{"eval": {"top1": NaN}}'])
def test_a_corrupted_summary_is_refused(text, tmp_path, capsys):
    write_run(tmp_path / 'run', 0, 10.0)
    (tmp_path / 'run' / 'summary.json').write_text(text)
    assert main(['report', '--workdir', str(tmp_path / 'run')]) == 2
    assert 'is no summary' in capsys.readouterr().err
