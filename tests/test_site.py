"""The documentation as a site: pages that are made from the code, and figures that are computed."""

import importlib.util
import pathlib
import re

import pytest
from expected_counts import EXPECTED

from resnet_jax import cli
from resnet_jax.data import Preprocessing
from resnet_jax.models.counts import COUNTS
from resnet_jax.models.design import DOWNSAMPLINGS, GATES, PLACEMENTS, SE_PLACES, SHORTCUTS
from resnet_jax.models.rows import MODELS
from resnet_jax.models.stem import STEMS
from resnet_jax.training import workdir
from resnet_jax.training.config import load_config

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / 'docs'


def script(name):
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_models_lists_every_one_with_its_parameters():
    rows = re.findall(r'^\| `(\w+)` \| ([\d,]+) \|', (DOCS / 'models.md').read_text(), re.MULTILINE)
    listed = {name: int(count.replace(',', '')) for name, count in rows}
    assert len(rows) == len(listed)
    assert listed == {name: count for name, (count, _) in EXPECTED.items()}


def test_the_page_of_models_is_as_the_script_writes_it():
    assert script('list_models').tables() in (DOCS / 'models.md').read_text()


def test_each_paper_of_the_page_of_models_is_that_of_the_registry():
    """Whose docstring names the number of every paper."""
    rows = (ROOT / 'resnet_jax' / 'models' / 'rows.py').read_text().partition('"""\n\n')[0]
    papers = script('list_models').PAPERS
    assert set(papers) == {row.paper for row in MODELS.values()}
    for paper, number in papers.items():
        assert re.search(rf'{paper}\s(is arXiv )?{number}', rows), paper


def test_costs_are_the_closed_forms():
    text = (DOCS / 'costs.md').read_text()
    one, bottleneck, narrow = 3 * 3 * 256 * 256, 2 * 256 * 64 + 9 * 64 * 64, 2 * 9 * 64 * 64
    assert all(f'| {n:,} |' in text for n in (one, 2 * one, bottleneck, narrow))
    for saved in (1 - bottleneck / one, 1 - bottleneck / (2 * one)):
        assert f'{saved:.1%}'.replace('%', ' %') in text
    for name in ('plain34', 'resnet34', 'resnet50', 'resnet152'):
        parameters, multiply_adds = COUNTS[name]
        assert f'{parameters:,} | {multiply_adds / 1e9:.2f} G' in text


def test_the_cost_of_vgg19_is_torchvisions():
    """Its metadata: 143,667,240 parameters, 19.632 G multiply-adds."""
    parameters, multiply_adds = script('draw_costs').vgg19()
    assert parameters == 143_667_240
    assert multiply_adds / 1e9 == pytest.approx(19.632, abs=5e-4)
    assert f'{multiply_adds / COUNTS["resnet34"][1]:.2f}' in (DOCS / 'costs.md').read_text()


def test_what_is_drawn_of_a_block_is_the_figure_of_the_paper():
    """he2016, figure 4a and 4e, and the three convolutions of he2015, figure 5."""
    draw = script('draw_blocks')
    panels = {p: draw.panel(p, draw.designed(placement=p)) for p in PLACEMENTS}
    words = {p: [word for word, _ in panel.branch] for p, panel in panels.items()}
    assert words['original'] == ['3x3 conv', 'BN', 'ReLU', '3x3 conv', 'BN']
    assert words['full_preact'] == ['BN', 'ReLU', '3x3 conv', 'BN', 'ReLU', '3x3 conv']
    bottleneck = draw.panel('', draw.BOTTLENECK, 256, channels=True)
    convs = [word for word, kind in bottleneck.branch if kind == 'conv']
    assert convs == ['1x1 conv, 64', '3x3 conv, 64', '1x1 conv, 256'] and bottleneck.shortcut == []
    changed = draw.panel('', draw.designed(shortcut='zero_pad'), width=128, stride=2)
    assert [word for word, _ in changed.shortcut] == ['every 2nd pixel', 'zero channels']


def test_the_block_grammar_names_every_row():
    text = (DOCS / 'blocks.md').read_text()
    for row in (*PLACEMENTS, *SHORTCUTS, *DOWNSAMPLINGS):
        assert re.search(rf'\b{row}\b', text), row
    drawn = (DOCS / 'draw_blocks.py').read_text()
    assert all(f"'{gate}'" in drawn for gate in GATES if gate != 'none')
    assert len(SE_PLACES) == 4 and 'Four places of squeeze-and-excitation' in text
    assert len(STEMS) - 1 == 11 and 'Eleven stems' in text


def test_the_readme_is_short():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 150


# Commands whose errors docs/troubleshooting.md quotes; the others need a run, another machine or
# an environment without extras.
QUOTED = (
    'train --config digits --workdir runs/x --config.optim.lerning_rate=0.1',
    'train --config digits --workdir runs/x --config.optim.b2=0.9',
    'train --config digits --workdir runs/x --config.train.batch_size=4000',
    'train --config digits --workdir runs/x --config.model.dtype=float16',
    'train --config imagenette --workdir runs/x --config.data.name=folder:nowhere',
    'models resnet51',
    'eval --model resnet50 --weights nothere.pth --data digits',
    'eval --workdir runs/nothing',
)


def in_one_line(text):
    return ' '.join(text.split())


@pytest.mark.parametrize('command', QUOTED)
def test_quoted_errors_are_the_program_s(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'photos').mkdir()
    assert cli.main(command.split()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('resnet-jax: ')
    assert in_one_line(error) in in_one_line((DOCS / 'troubleshooting.md').read_text())


def test_a_run_of_another_config_is_refused_as_quoted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = load_config('digits')
    preprocessing = Preprocessing(8, 1, None, (0.5,), (0.5,), ('a', 'b'))
    folder = pathlib.Path('runs/digits')
    folder.mkdir(parents=True)
    workdir.write_run(folder, config, preprocessing)
    arguments = ['train', '--config', 'digits', '--workdir', 'runs/digits']
    assert cli.main([*arguments, '--config.model.placement=full_preact']) == 2
    error = in_one_line(capsys.readouterr().err)
    assert error in in_one_line((DOCS / 'troubleshooting.md').read_text())
