"""Comparisons of single runs: groups, names, real defaults and files."""

import datetime
import re
from pathlib import Path

import pytest
from PIL import Image
from run_folders import BASE, BETTER, write_run, write_sweep

from resnet_jax.cli import main
from resnet_jax.dense import ALL_DENSE_FIELDS
from resnet_jax.experiments.reports.comparison import (
    compare_runs,
    effective_settings,
    write_comparison,
)
from resnet_jax.models import create_model
from resnet_jax.training.config import flatten, load_config


def refused(capsys, *arguments):
    """The one line with which a command ends with code 2."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('resnet-jax: ') and err.count('\n') == 1
    return err


def singles(folder, errors, name, **model):
    """Runs of one config, a seed each."""
    folders = [folder / f'{name}{seed}' for seed in range(len(errors))]
    for seed, (path, error) in enumerate(zip(folders, errors, strict=True)):
        write_run(path, seed, error, {'model': {'name': name, 'width': None, **model}})
    return folders


M, N = 'model.name=m, model.width=4', 'model.name=n, model.depth=3'


def test_compare_groups_runs_by_config(tmp_path, ask, capsys):
    a = singles(tmp_path, BASE, 'm', width=4)
    b = singles(tmp_path, BETTER, 'n', depth=3)
    found = ask('compare', *b[:1], *a, *b[1:])
    assert found['differs'] == {
        'model.name': {N: 'n', M: 'm'},
        'model.width': {N: None, M: 4},
        'model.depth': {N: 3, M: '(absent)'},
    }
    first, second = found['groups']
    assert [run['workdir'] for run in first['runs']] == list(map(str, b))
    assert second['error']['mean'] == pytest.approx(11) and second['error']['n'] == 5
    assert second['difference']['mean'] == pytest.approx(2) and second['difference']['differs']
    assert found['statement'][0].startswith(f'{M} is worse than {N}')
    assert main(['compare', *map(str, [*a, *b])]) == 0
    out = capsys.readouterr().out
    assert re.search(r'model\.name +m +n\n', out) and f'{N} is better than {M}' in out
    assert '1,234,567' in out and str(a[3]) in out


def test_compare_of_single_runs(tmp_path, ask, capsys):
    """One of each says nothing about the configs; one that has not ended has no error."""
    (a,), (b,) = singles(tmp_path, [10.0], 'a'), singles(tmp_path, [9.0], 'b')
    (c,) = singles(tmp_path, ['unfinished'], 'c')
    found = ask('compare', a, b, c)
    assert [group['error'] and group['error']['mean'] for group in found['groups']] == [
        pytest.approx(10),
        pytest.approx(9),
        None,
    ]
    assert found['groups'][1]['difference']['p'] is None and len(found['statement']) == 1
    assert main(['compare', str(a), str(c)]) == 0
    assert 'unfinished' in capsys.readouterr().out


def test_compare_of_the_same_config(tmp_path, capsys):
    assert main(['compare', *map(str, singles(tmp_path, BASE, 'a'))]) == 0
    out = capsys.readouterr().out
    assert 'the same but for the seed' in out and '11.00  0.79  5' in out


def test_compare_refuses(tmp_path, capsys):
    one, two = singles(tmp_path, [10.0, 11.0], 'a')
    assert 'at least two' in refused(capsys, 'compare', one)
    assert 'given twice' in refused(capsys, 'compare', one, two, one)
    assert 'is not a run' in refused(capsys, 'compare', one, tmp_path)
    assert 'does not exist' in refused(capsys, 'compare', one, tmp_path / 'none')
    sweep = write_sweep(tmp_path / 'sweep', {'base': BASE})
    assert 'is a sweep' in refused(capsys, 'compare', one, sweep)
    open_ = singles(tmp_path, ['unfinished'] * 2, 'b')
    assert 'none of the 2 runs has ended' in refused(capsys, 'compare', *open_)


def changed(folder, **fields):
    """A run of the default config with other fields; None leaves a field out of its config.json."""
    config = flatten(load_config('configs/default.py'))
    config |= {name.replace('__', '.'): value for name, value in fields.items()}
    nested = {}
    for name, value in config.items():
        section, _, leaf = name.rpartition('.')
        if name.replace('.', '__') not in fields or value is not None:
            (nested.setdefault(section, {}) if section else nested)[leaf] = value
    write_run(folder, 0, 10.0, nested)
    return folder


def test_compare_shows_real_defaults(tmp_path, ask):
    """Also of a field that an earlier version did not have, and of the registered model."""
    new = changed(tmp_path / 'new', optim__accumulate=2, model__placement='full_preact')
    old = changed(tmp_path / 'old', optim__accumulate=None)
    found = ask('compare', old, new)
    placement = create_model('cifar_resnet20').block.placement
    assert placement == 'original'
    by_field = {field: list(values.values()) for field, values in found['differs'].items()}
    assert by_field == {'model.placement': [placement, 'full_preact'], 'optim.accumulate': [1, 2]}
    names = [group['name'] for group in found['groups']]
    assert names == [
        'model.placement=original, optim.accumulate=1',
        'model.placement=full_preact, optim.accumulate=2',
    ]


def test_what_is_the_same_is_one_group(tmp_path, ask):
    """A value given by hand, the registered model's, and none at all are the same setting."""
    a = changed(tmp_path / 'a', model__placement='original')
    b = changed(tmp_path / 'b', optim__accumulate=None)
    (group,) = ask('compare', a, b)['groups']
    assert group['name'] == 'all runs' and len(group['runs']) == 2


def test_another_model_is_named_by_its_name(tmp_path, ask):
    a = changed(tmp_path / 'a')
    b = changed(tmp_path / 'b', model__name='cifar_preact_resnet20')
    found = ask('compare', a, b)
    names = [f'model.name={name}' for name in ('cifar_resnet20', 'cifar_preact_resnet20')]
    assert [group['name'] for group in found['groups']] == names
    assert found['differs']['model.placement'] == dict(zip(names, ('original', 'full_preact')))  # noqa: B905


def test_settings_that_take_long_to_name_are_named_by_the_folder(tmp_path, ask):
    fields = {'optim__weight_decay': 0.123, 'optim__warmup': 5.0, 'data__image_size': 24}
    a = changed(tmp_path / 'arm a' / 'seed0')
    b = changed(tmp_path / 'arm b' / 'seed0', **fields)
    assert [group['name'] for group in ask('compare', a, b)['groups']] == ['arm a', 'arm b']
    c = changed(tmp_path / 'elsewhere' / 'arm b' / 'seed0', **fields, train__batch_size=64)
    assert [group['name'] for group in ask('compare', b, c)['groups']] == [
        'train.batch_size=128',
        'train.batch_size=64',
    ]


def test_every_model_field_has_a_value_of_the_registered_model():
    settings = effective_settings(flatten(load_config('configs/default.py')))
    unset = {field for field, value in settings.items() if value is None and 'model.' in field}
    dense = {f'model.{field}' for field in ALL_DENSE_FIELDS}  # of other networks
    assert unset - dense <= {'model.se_ratio', 'model.output_stride', 'model.norm_groups'}


def test_files_of_a_comparison(tmp_path, capsys):
    a, b = singles(tmp_path, BASE, 'm'), singles(tmp_path, BETTER, 'n')
    out = tmp_path / 'out' / 'ab'
    assert main(['compare', *map(str, [*a, *b]), '--out', str(out)]) == 0
    shown = capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {'compare.md', 'compare.png', 'compare.svg'}
    assert all(str(path) in shown for path in out.iterdir())
    with Image.open(out / 'compare.png') as image:
        assert image.format == 'PNG' and min(image.size) > 300
    svg = (out / 'compare.svg').read_text()
    assert 'model.name=m' in svg and 'model.name=n' in svg
    text = (out / 'compare.md').read_text()
    assert '![compare](compare.png)' in text and 'model.name=n is better than model.name=m' in text


def test_a_comparison_depends_on_the_runs_and_the_time_alone(tmp_path):
    folders = [*singles(tmp_path, BASE, 'm'), *singles(tmp_path, BETTER, 'n')]
    now = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    texts = []
    for name in ('one', 'other'):
        files = write_comparison(compare_runs(folders), tmp_path / name, now)
        texts.append([Path(file).read_bytes() for file in files])
    assert texts[0] == texts[1] and b'2026-01-02T03:04:05' in texts[0][0]


def test_compare_cannot_write(tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    runs = singles(tmp_path, [10.0, 11.0], 'a')
    err = refused(capsys, 'compare', *runs, '--out', tmp_path / 'file' / 'below')
    assert 'cannot write in' in err
