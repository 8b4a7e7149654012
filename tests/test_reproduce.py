"""Tables run again: recipes against the papers' numbers, verdicts on figures made by hand."""

import datetime
import json
import math
import shutil

import numpy as np
import pytest
from running import CONFIGS, ROOT, command

from resnet_jax import data
from resnet_jax.cli import main
from resnet_jax.errors import Diverged
from resnet_jax.experiments.reproduce import costs, reproduction
from resnet_jax.experiments.reproduce.plan import SCALES, find_configs, make_plan
from resnet_jax.experiments.reproduce.verdicts import RowResult, judge
from resnet_jax.experiments.results import write_failure
from resnet_jax.experiments.sweep import from_table, sweep_json, units
from resnet_jax.models import InputError, create_model
from resnet_jax.models.counting import count
from resnet_jax.papers.cifar import TABLES, build, find_table
from resnet_jax.papers.row_counts import COUNTS
from resnet_jax.papers.table import PublishedRow, PublishedTable
from resnet_jax.training.config import to_json
from resnet_jax.training.optim import make_schedule

CHEAPEST = 'he2016_table4'


def plan(key, scale='full', overrides=(), seeds=None):
    return make_plan(key, scale, None, overrides, seeds)


def config(key, row, scale='full', overrides=()):
    return plan(key, scale, overrides).sweep.config(row, 0)


def rates(found, steps_per_epoch, steps):
    """The learning rate at these steps."""
    schedule = make_schedule(
        found.optim,
        batch_size=found.train.batch_size,
        total_steps=10**6,
        steps_per_epoch=steps_per_epoch,
    )
    return [float(schedule(step)) for step in steps]


# Recipes


# Of the scale "smoke". At full scale all but the other large ones; none at "short".
_SMOKE = (CHEAPEST, 'stochastic_depth', 'rsb_imagenet')


def is_quick(key, scale):
    large = key.endswith('_imagenet') and key not in _SMOKE
    return (scale == 'full' and not large) or (scale == 'smoke' and key in _SMOKE)


@pytest.mark.parametrize(
    ('key', 'scale'),
    [
        pytest.param(key, scale, marks=[pytest.mark.slow] * (not is_quick(key, scale)))
        for key in TABLES
        for scale in SCALES
    ],
)
def test_every_row_is_a_run_of_its_own(key, scale):
    """Each loads, with its model; lengths are the recipe's or the scale's, never the base's."""
    found = plan(key, scale)
    assert list(found.sweep.arms) == [row.name for row in TABLES[key].rows]
    texts = {to_json(found.sweep.config(arm, 0)) for arm in found.sweep.arms}
    assert len(texts) == len(found.sweep.arms)
    set_here = found.sweep.fields.keys()
    assert set_here & {'train.steps', 'train.epochs'}
    assert {'data.name', 'optim.warmup', 'train.batch_size', 'optim.weight_decay'} <= set_here
    assert {'optim.boundaries', 'optim.learning_rate'} <= set_here
    # Nesterov's momentum is SGD's.
    assert ('optim.nesterov' in set_here) == (found.sweep.fields['optim.name'] == 'sgd')


def test_he2015_on_cifar():
    """Section 4.2: 64k iterations at batch 128, divided by 10 at 32k and 48k."""
    found = config('he2015_table6', 'ResNet-20')
    assert (found.train.steps, found.train.epochs, found.train.batch_size) == (64_000, None, 128)
    assert (found.optim.name, found.optim.momentum, found.optim.nesterov) == ('sgd', 0.9, False)
    assert (found.optim.weight_decay, found.optim.decay_norm_and_bias) == (1e-4, True)
    assert rates(found, 0, [0, 31_999, 32_000, 47_999, 48_000, 63_999]) == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )
    assert (found.data.name, found.data.train_split) == ('tfds:cifar10', 'train[:45000]')
    assert (found.data.eval_split, found.data.normalize) == ('test', 'pixel')
    assert found.augment.transforms == ('pad_crop', 'flip')
    (crop, _) = data.read_transforms(found.augment.transforms)
    assert crop.settings == {'pad': 4, 'mode': 'zero'}


@pytest.mark.parametrize(
    ('key', 'row'),
    [
        ('he2015_table6', 'ResNet-110'),
        ('he2016_table3_cifar100', 'pre-act ResNet-1001'),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in (
                ('he2015_plain', 'plain-110'),
                *(('he2016_table1', row.name) for row in TABLES['he2016_table1'].rows[:2]),
                ('he2016_table2', 'full_preact, ResNet-164'),
            )
        ),
    ],
)
def test_deep_nets_warm_up_at_a_tenth_for_400_iterations(key, row):
    found = config(key, row)
    assert rates(found, 0, [0, 399, 400, 32_000]) == pytest.approx([0.01, 0.01, 0.1, 0.01])


def test_wide_nets():
    """wrn: 200 epochs, x 0.2 at 60, 120 and 160, Nesterov, 5e-4, reflections."""
    for row, dropout in (('WRN-28-10', None), ('WRN-28-10, dropout', 0.3)):
        found = config('wrn_cifar100', row)
        assert (found.train.epochs, found.train.steps, found.train.batch_size) == (200, None, 128)
        assert (found.optim.nesterov, found.optim.weight_decay) == (True, 5e-4)
        at = [0, 599, 600, 1199, 1200, 1599, 1600]
        assert rates(found, 10, at) == pytest.approx([0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 8e-4])
        assert found.augment.transforms == ('pad_crop(mode=reflect)', 'flip')
        assert found.data.normalize == 'channel'
        assert (found.data.name, found.model.branch_dropout) == ('tfds:cifar100', dropout)


def test_resnext_and_stochastic_depth_on_cifar():
    found = config('resnext_cifar10', 'ResNeXt-29, 8x64d')
    assert (found.train.epochs, found.train.batch_size) == (300, 128)
    assert found.optim.weight_decay == 5e-4
    assert rates(found, 2, [0, 299, 300, 449, 450]) == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3])
    found = config('stochastic_depth', 'ResNet-110')
    assert (found.train.epochs, found.train.batch_size) == (500, 128)
    assert (found.optim.nesterov, found.optim.weight_decay) == (True, 1e-4)
    assert rates(found, 2, [0, 499, 500, 749, 750]) == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3])
    assert found.model.stochastic_depth == 0.5


def test_imagenet():
    """The common recipe: 90 epochs at batch 256, five of them warm-up; he2015 has none."""
    found = config('senet_imagenet', 'SE-ResNet-50')
    assert (found.train.epochs, found.train.batch_size, found.data.image_size) == (90, 256, 224)
    assert found.data.resize == 256
    assert found.augment.transforms == ('random_resized_crop', 'flip')
    at = [0, 25, 50, 299, 300, 600, 800]
    assert rates(found, 10, at) == pytest.approx([0, 0.05, 0.1, 0.1, 0.01, 1e-3, 1e-4])
    old = config('he2015_imagenet', 'ResNet-34 A')
    assert rates(old, 10, [0, 300]) == pytest.approx([0.1, 0.01])
    assert (old.optim.decay_norm_and_bias, old.model.zero_init_last) == (True, False)
    epochs = {row: config('rsb_imagenet', row).train.epochs for row in ('A1', 'A2', 'A3')}
    assert epochs == {'A1': 600, 'A2': 300, 'A3': 100}
    sizes = {row: config('rsb_imagenet', row).data.train_image_size for row in epochs}
    assert sizes == {'A1': 224, 'A2': 224, 'A3': 160}
    a1, a3 = config('rsb_imagenet', 'A1'), config('rsb_imagenet', 'A3')
    assert (a1.augment.repeats, a1.loss.label_smoothing, a3.augment.repeats) == (3, 0.1, 1)
    assert a1.augment.transforms[2] == 'rand_augment(layers=2, magnitude=7, std=0.5)'
    assert rates(a3, 10, [0, 50]) == pytest.approx([1e-4, 8e-3], rel=1e-3)


def test_the_number_of_runs_is_the_papers():
    def runs(key, **options):
        found = [unit.arm for unit in units(plan(key, **options).sweep, CONFIGS)]
        return {arm: found.count(arm) for arm in found}

    assert runs('he2015_table6') == {
        **{f'ResNet-{d}': 1 for d in (20, 32, 44, 56, 1202)},
        'ResNet-110': 5,
    }
    assert set(runs('he2016_table1').values()) == {5}
    assert set(runs('he2015_table6', seeds=[3, 4]).values()) == {2}
    assert set(runs('he2015_table6', scale='short').values()) == {3}
    assert set(runs('he2015_table6', scale='smoke').values()) == {1}


# Scales and overrides


@pytest.mark.parametrize(
    ('key', 'row', 'length', 'boundaries', 'warmup'),
    [
        ('he2015_table6', 'ResNet-110', 4000, (2000, 3000), 25),
        ('wrn_cifar10', 'WRN-16-8', 12.5, (3.75, 7.5, 10), 0),
        ('rsb_imagenet', 'A1', 37.5, (), 0.3125),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in (
                ('he2015_table6', 'ResNet-20', 4000, (2000, 3000), 0),
                ('resnext_cifar10', 'ResNeXt-29, 8x64d', 18.75, (9.375, 14.0625), 0),
                ('stochastic_depth', 'ResNet-110', 31.25, (15.625, 23.4375), 0),
                ('resnext_imagenet', 'ResNet-50', 5.625, (1.875, 3.75, 5), 0.3125),
            )
        ),
    ],
)
def test_short_is_a_sixteenth(key, row, length, boundaries, warmup):
    found, full = config(key, row, 'short'), config(key, row)
    assert (found.train.steps or found.train.epochs) == length
    assert (found.optim.boundaries, found.optim.warmup) == (boundaries, warmup)
    assert found.optim.learning_rate == full.optim.learning_rate
    assert found.train.batch_size == full.train.batch_size
    text = ' '.join(plan(key, 'short').scaled)
    assert f'-> {length}' in text and (not warmup or f'-> {warmup}' in text)


def test_smoke_is_two_steps_on_synthetic_images():
    sizes = (('he2016_table3_cifar100', 32), ('he2015_imagenet', 32), ('resnext_cifar10', 8))
    for key, size in sizes:
        found = plan(key, 'smoke')
        for arm in found.sweep.arms:
            settings = found.sweep.config(arm, 0)
            assert (settings.data.name, settings.train.steps) == ('synthetic', 2)
            assert (settings.data.image_size, settings.train.epochs) == (size, None)
            assert settings.train.xla_optimization_level == 0
        assert not found.figures and 'no verdict' in found.notes[0]


def test_overrides_come_on_top_and_are_told():
    digits = {'data.name': 'digits', 'train.epochs': '3', 'optim.warmup': '0'}
    found = plan('he2015_table6', 'short', digits.items())
    for arm in found.sweep.arms:
        settings = found.sweep.config(arm, 0)
        assert (settings.data.name, settings.train.epochs) == ('digits', 3)
        assert (settings.train.steps, settings.optim.warmup) == (None, 0)
    assert found.overridden[0] == '--config.data.name=digits'
    assert any(note.startswith("other data than the paper's") for note in found.notes)
    # A length set by hand is neither scaled nor does the schedule follow it.
    assert not any('train.' in line for line in found.scaled)
    assert any('(2000.0, 3000.0) steps' in note for note in found.notes)
    slower = plan('he2015_table6', overrides=[('optim.learning_rate', '0.05')])
    assert not slower.figures
    assert any('optim.learning_rate: 0.1 -> 0.05' in note for note in slower.notes)


@pytest.mark.slow
def test_where_the_data_lies_does_not_matter_to_the_verdict():
    assert plan('he2016_table2', overrides=[('data.dir', '/x'), ('model.remat', 'True')]).figures
    assert plan('he2016_table2').figures
    assert plan('rsb_imagenet').figures
    assert not plan('timm_ra4_imagenet').figures  # another recipe stands in


def test_what_rows_are_cannot_be_overridden():
    with pytest.raises(InputError, match=r'model\.placement is what the rows'):
        plan('he2016_table2', overrides=[('model.placement', 'original')])
    with pytest.raises(InputError, match='the same run'):
        same = {'train.epochs': '1', 'optim.weight_decay': '0', 'optim.learning_rate': '1'}
        same |= {'model.stochastic_depth': '0.1', 'loss.label_smoothing': '0'}
        same |= {'augment.transforms': 'random_resized_crop', 'augment.repeats': '1'}
        same |= {'data.train_image_size': 'None', 'optim.warmup_start': '0'}
        plan('rsb_imagenet', overrides=same.items())


def test_the_packages_configs_are_used_unless_others_are_given(tmp_path, monkeypatch):
    """A folder `configs` where the command happens to run is not."""
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs' / 'default.py').write_text('')
    monkeypatch.chdir(tmp_path)
    assert find_configs(None) is None
    assert plan(CHEAPEST).sweep.base == 'cifar10:cifar_resnet110'
    with pytest.raises(InputError, match=r'has no default\.py'):
        find_configs(tmp_path)
    shutil.copytree(CONFIGS, tmp_path / 'mine')
    mine = find_configs(tmp_path / 'mine')
    with (tmp_path / 'mine' / 'cifar10.py').open('a') as file:
        file.write("\n\ndef get_config(model='cifar_resnet20'):\n")
        file.write('    config = default.get_config()\n    config.train.eval_every = 7\n')
        file.write('    return config\n')
    found = make_plan(CHEAPEST, 'full', mine).sweep
    assert found.base == f'{mine}/cifar10.py:cifar_resnet110'
    assert found.config('pre-act ResNet-1001', 0).train.eval_every == 7


# Verdicts


def verdicts(rows, results, figures=True, **fields):
    table = PublishedTable(
        **{'paper': 'he2016', 'title': '', 'data': 'cifar10', 'rows': rows} | fields
    )
    return {name: v.word for name, v in judge(table, results, figures).items()}


def test_within_twice_the_joint_deviation():
    """Published 6.61 +- 0.16; ours of five with deviation 0.1: 2 sqrt(0.002 + 0.0256) = 0.332."""
    deviates = [-0.1, 0.1, -0.1, 0.1, 0.0]  # sd 0.1
    rows = (PublishedRow('a', 'm', {}, 6.61, spread=0.16), PublishedRow('b', 'm', {}, 9.0))
    for shift, word in ((0.33, 'within published spread'), (0.34, 'same order')):
        values = tuple(6.61 + shift + d for d in deviates)
        found = verdicts(rows, {'a': RowResult(values), 'b': RowResult((10.0,))})
        assert found == {'a': word, 'b': 'same order'}
    assert verdicts(rows, {'a': RowResult((6.6, 6.62)), 'b': RowResult((8.99, 9.01))}, False) == {
        'a': 'same order',
        'b': 'same order',
    }
    # One run of ours: only the published spread, 0.32.
    assert verdicts(rows, {'a': RowResult((6.9,))})['a'] == 'within published spread'
    assert verdicts(rows, {'a': RowResult((6.95,))})['a'] == 'nothing to compare with'


def test_order_is_the_rank_and_ties_within_an_error_count():
    rows = tuple(
        PublishedRow(name, 'm', {}, value) for name, value in (('a', 5.0), ('b', 6.0), ('c', 7.0))
    )

    def ours(*values):
        return verdicts(rows, dict(zip('abc', map(RowResult, values), strict=True)), False)

    same, no = 'same order', 'not'
    assert ours((8.0,), (9.0,), (9.5,)) == {'a': same, 'b': same, 'c': same}
    assert ours((9.0,), (8.0,), (9.5,)) == {'a': no, 'b': no, 'c': same}
    # Means 9.0 and 8.9 with deviations of 0.71: an error of 0.71 makes it a tie.
    assert ours((8.5, 9.5), (8.4, 9.4), (20.0,)) == {'a': same, 'b': same, 'c': same}
    assert ours((9.0, 9.1), (8.9, 8.8), (20.0,)) == {'a': no, 'b': no, 'c': same}
    assert ours((9.0,), (), (9.5,)) == {'a': same, 'b': 'not run yet', 'c': same}


def test_accuracies_are_the_other_way_round():
    rows = (PublishedRow('a', 'm', {}, 70.0), PublishedRow('b', 'm', {}, 75.0))
    results = {'a': RowResult((60.0,)), 'b': RowResult((61.0,))}
    same = {'a': 'same order', 'b': 'same order'}
    assert verdicts(rows, results, False, metric='top-1 accuracy, %') == same
    table = PublishedTable('torchvision', '', 'imagenet', rows, 'top-1 accuracy, %')
    assert judge(table, results, False)['b'].why == 'rank 1, published 1, of 2'
    results = {'a': RowResult((60.0,)), 'b': RowResult((59.0,))}
    assert verdicts(rows, results, False, metric='top-1 accuracy, %') == {'a': 'not', 'b': 'not'}


def test_failures():
    rows = (
        PublishedRow('a', 'm', {}, 5.0),
        PublishedRow('f', 'm', {}, failed=True),
        PublishedRow('g', 'm', failed=True),
    )
    found = verdicts(rows, {'a': RowResult((5.5,)), 'f': RowResult((21.0,)), 'g': RowResult((), 2)})
    assert found == {'a': 'same order', 'f': 'failed, as published', 'g': 'failed, as published'}
    found = verdicts(rows, {'a': RowResult((), 3), 'f': RowResult((19.0,))})
    assert found == {'a': 'failed, but published 5.00', 'f': 'not', 'g': 'not run yet'}
    # Above the threshold where the paper does not speak of failing: a figure like others.
    assert verdicts(rows, {'a': RowResult((25.0, 5.0)), 'f': RowResult((60.0,))})['a'] != 'failed'
    # he2015 draws the line for the plain net at 60 %.
    plain = (PublishedRow('p', 'm'), PublishedRow('q', 'm', failed=True))
    found = verdicts(plain, {'p': RowResult((9.0,)), 'q': RowResult((59.0,))}, paper='he2015')
    assert found == {'p': 'no published figure', 'q': 'not'}
    # Of five runs one diverged: the others' mean is not held against the paper's.
    some = {'a': RowResult((5.0, 5.1, 4.9, 5.0), 1, 5), 'f': RowResult((90.0,))}
    assert verdicts(rows, some)['a'] == 'same order'


def ended(folder, error):
    """A run's summary.json, as far as it is read; or its failed.json."""
    folder.mkdir(parents=True)
    if isinstance(error, str):
        write_failure(folder, Diverged(error) if 'diverged' in error else error)
        return
    summary = {'eval': {'top1': 1 - error / 100}, 'parameters': 9, 'steps': 8, 'seconds': 7.0}
    (folder / 'summary.json').write_text(json.dumps(summary))


def by_hand(found, workdir, errors):
    """A sweep's folder with these errors in %, a list for each row."""
    workdir.mkdir()
    (workdir / 'sweep.json').write_text(sweep_json(found.sweep))
    for unit in units(found.sweep, workdir):
        values = errors.get(unit.arm, [])
        if unit.seed < len(values):
            ended(unit.folder, values[unit.seed])


@pytest.mark.slow
def test_the_report_of_a_table_that_has_been_run(tmp_path):
    """Nothing is left to train, so the command only compares."""
    found = plan('he2016_table4_cifar100', seeds=[0, 1])
    by_hand(found, tmp_path / 'out', {'pre-act ResNet-1001': [22.5, 22.9]})
    arguments = ('--scale', 'full', '--workdir', tmp_path / 'out', '--seeds', '2')
    result = command('reproduce', 'he2016_table4_cifar100', *arguments)
    assert result.returncode == 0, result.stderr
    text = (tmp_path / 'out' / 'reproduce.md').read_text()
    assert text == result.stdout
    assert '| pre-act ResNet-1001 | 22.68 +- 0.22 | 22.70 +- 0.28 | 2 of 2 | within pub' in text
    report = json.loads((tmp_path / 'out' / 'reproduce.json').read_text())
    assert report['rows'][0]['mean'] == pytest.approx(22.7)
    assert report['rows'][0]['sd'] == pytest.approx(0.2 * math.sqrt(2))


def test_a_reproduction_has_the_report_of_a_sweep(tmp_path, ask):
    """With ours beside published and what to know about it; `report` writes the same again."""
    found = plan('he2016_table1', 'short', [('optim.momentum', '0.8')])
    out = tmp_path / 'out'
    errors = {'original': [6.6, 6.7, 6.6], '1x1 convolution': [12.2, 12.3, 12.2]}
    by_hand(found, out, errors)
    now = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    reproduction.write_reproduction(reproduction.collect(found, out), out, now)
    names = {path.name for path in out.iterdir()} - {'sweep.json', 'runs'}
    assert names == {
        *('report.md', 'report.html', 'report.json', 'report.csv', 'runs.csv'),
        *('curves.png', 'curves.svg', 'final_error.png', 'final_error.svg'),
        *('reproduce.md', 'reproduce.json'),
    }
    for name in ('report.md', 'report.html'):
        text = (out / name).read_text()
        for words in (
            *('Beside the published table', 'rank 1, published 1, of 2', 'Paired differences'),
            *('Changed for this scale', 'Changed on the command line', 'optim.momentum=0.8'),
            *('Limits of this comparison', 'Not stated by the reference', '6.61'),
        ):
            assert words in text, (name, words)
    report = json.loads((out / 'report.json').read_text())
    assert report['reproduction'] == json.loads((out / 'reproduce.json').read_text())
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert reproduction.write_sweep_or_reproduction(out, now).json['arms'] == report['arms']
    assert {path: path.read_bytes() for path in before} == before
    # Judged again: a run that has ended since counts.
    ended(out / 'runs' / 'dropout_0.5' / 'seed0', 50.0)
    rows = ask('report', '--workdir', out)['reproduction']['rows']
    assert [row['verdict'] for row in rows if row['name'] == 'dropout 0.5'] != ['not run yet']


def test_a_reproduction_of_an_earlier_version_is_read(tmp_path, ask, capsys):
    """It lacks `figures`, so only the order of its rows is compared."""
    found = plan('he2016_table4_cifar100', seeds=[0, 1])
    out = tmp_path / 'out'
    by_hand(found, out, {'pre-act ResNet-1001': [22.5, 22.9]})
    old = reproduction.collect(found, out)
    assert old['rows'][0]['verdict'] == 'within published spread' and old.pop('figures')
    (out / 'reproduce.json').write_text(json.dumps(old))
    (row,) = ask('report', '--workdir', out)['reproduction']['rows']
    assert row['verdict'] == 'nothing to compare with'
    (out / 'reproduce.json').write_text('{"table": ')
    assert main(['report', '--workdir', str(out)]) == 2
    assert 'describes no reproduction' in capsys.readouterr().err


def test_a_reproduction_without_a_run_that_ended(tmp_path):
    found = plan('he2016_table1', 'short')
    by_hand(found, tmp_path / 'out', {'original': ['training diverged: not finite'] * 3})
    reproduction.write_reproduction(reproduction.collect(found, tmp_path / 'out'), tmp_path / 'out')
    text = (tmp_path / 'out' / 'report.md').read_text()
    assert 'failed, but published 6.61' in text and '3 of 3 runs of original failed' in text


def test_smoke_has_no_report_of_errors(tmp_path):
    """Two steps on synthetic images have no error worth a report."""
    found = plan('he2016_table4', 'smoke')
    by_hand(found, tmp_path / 'out', {'pre-act ResNet-1001': [90.0]})
    collected = reproduction.collect(found, tmp_path / 'out')
    reproduction.write_reproduction(collected, tmp_path / 'out')
    names = {path.name for path in (tmp_path / 'out').iterdir()} - {'sweep.json', 'runs'}
    assert names == {'reproduce.md', 'reproduce.json'}
    text = (tmp_path / 'out' / 'reproduce.md').read_text()
    assert '| pre-act ResNet-1001 | 9 | 8 | 7.0 | ran |' in text


def test_published_accuracies_become_errors_in_a_sweep():
    table = find_table('torchvision_imagenet')
    published = from_table('torchvision_imagenet')['published']
    assert table.metric == 'top-1 accuracy, %'
    for row in table.rows:
        assert published[row.name] == pytest.approx(100 - row.value)


def test_the_report_of_a_short_table_has_no_figures_to_judge(tmp_path):
    found = plan('he2016_table1', 'short')
    errors = {'original': [6.6, 6.7, 6.6], '1x1 convolution': [12.2, 12.3, 12.2]}
    errors['constant scaling (0.5, 1)'] = ['training diverged: not finite at step 3', 90.0, 95.0]
    errors['constant scaling (0, 1)'] = ['disk full']
    by_hand(found, tmp_path / 'out', errors)
    report = reproduction.collect(found, tmp_path / 'out')
    words = {row['name']: (row['verdict'], row['why']) for row in report['rows']}
    assert words['original'] == ('same order', 'rank 1, published 1, of 3')
    assert words['1x1 convolution'] == ('same order', 'rank 2, published 2, of 3')
    assert words['constant scaling (0.5, 1)'][0] == 'failed, as published'
    assert words['constant scaling (0, 1)'] == ('not run yet', 'disk full')
    assert words['dropout 0.5'] == ('not run yet', '')
    text = reproduction.reproduction_markdown(report)
    assert 'within' not in text and 'train.steps: 64000 -> 4000' in text
    assert '1/16 of the length' in text


# Costs


def test_costs_of_resnet_20():
    """Multiply-adds by hand: stem, 6 + 6 + 6 convolutions, two of them strided, head."""
    stem, head = 32 * 32 * 9 * 3 * 16, 64 * 10
    same = 32 * 32 * 9 * 16 * 16  # of each convolution that keeps the shape, in every stage
    by_hand = stem + head + 16 * same + 2 * same // 2
    cost = costs.cost_of('he2015_table6')
    row = cost['rows'][0]
    assert (row['multiply_adds'], row['parameters'], row['runs']) == (by_hand, 269_722, 1)
    assert row['flops'] == 3 * 2 * by_hand * 64_000 * 128
    assert cost['flops'] == sum(row['flops'] for row in cost['rows'])
    assert cost['rows'][4]['runs'] == 5
    assert 'hours' not in cost
    # At one speed, hours are FLOPs over it.
    timed = costs.cost_of('he2015_table6', [costs.Speed('m', 10**6, 1e12)])
    assert timed['hours'] == pytest.approx(cost['flops'] / 3.6e15)


def test_images_seen():
    def images(key, number):
        table = find_table(key)
        return costs.images_seen(table, table.rows[number])

    assert images('stochastic_depth', 0) == 500 * 45_000
    assert images('wrn_cifar10', 0) == 200 * 50_000
    assert images('rsb_imagenet', 2) == 100 * 1_281_167


def count_blocks(model, shape):
    """`counting.count` of a net of many blocks: a stage's later blocks are alike, so one counts."""
    sizes = model.stage_sizes
    few = tuple(min(n, 2) for n in sizes)
    base = count(model.clone(stage_sizes=few), shape)
    found = np.array(base)
    for i, n in enumerate(sizes):
        if n > few[i]:
            more = tuple(f + (i == j) for j, f in enumerate(few))
            found += (n - few[i]) * (np.array(count(model.clone(stage_sizes=more), shape)) - base)
    return tuple(found.tolist())


@pytest.mark.parametrize(
    ('name', 'size'),
    [
        ('cifar_resnet56', 32),
        pytest.param('cifar_preact_resnet164', 32, marks=pytest.mark.slow),
        pytest.param('resnet50', 64, marks=pytest.mark.slow),
    ],
)
def test_counting_a_few_blocks_is_exact(name, size):
    model = create_model(name)
    assert count_blocks(model, (size, size, 3)) == count(model, (size, size, 3))
    gated = build(find_table('he2016_table1'), find_table('he2016_table1').rows[4])
    gated = gated.clone(stage_sizes=(5, 4, 3))
    assert count_blocks(gated, (32, 32, 3)) == count(gated, (32, 32, 3))


def assert_counts_are_exact(key):
    table = TABLES[key]
    counted = {
        row.name: count_blocks(build(table, row), table.facts(row).image_shape)
        for row in table.rows
    }
    assert COUNTS.get(key) == counted, f'write these into papers/row_counts.py: {counted}'


def test_every_table_has_stored_counts():
    missing = TABLES.keys() - COUNTS.keys()
    assert not missing, f'papers/row_counts.py lacks {missing}; see test_stored_counts_are_exact'
    assert COUNTS.keys() == TABLES.keys()


@pytest.mark.slow
@pytest.mark.parametrize('key', TABLES)
def test_stored_counts_are_exact(key):
    assert_counts_are_exact(key)


@pytest.mark.slow
def test_counts_that_are_not_stored_are_traced(monkeypatch):
    stored = costs.cost_of('wrn_blocks')
    monkeypatch.delitem(COUNTS, 'wrn_blocks')
    assert costs.cost_of('wrn_blocks') == stored


def test_speeds_between_the_probed_ones():
    speeds = [costs.Speed('small', 10, 100.0), costs.Speed('large', 1000, 400.0)]
    found = [costs.speed_at(n, speeds) for n in (1, 10, 100, 1000, 5000)]
    assert found == pytest.approx([100, 100, 200, 400, 400])


def test_list(ask):
    found = ask('reproduce', '--list', 'wrn_blocks')
    (table,) = found['tables']
    assert table['table'] == 'wrn_blocks' and len(table['rows']) == 6
    assert found['probe'] == []
    text = command('reproduce', '--list', 'he2016_table4')
    assert text.returncode == 0 and '10,327,706 parameters' in text.stdout


def test_listing_all_tables_traces_no_model(ask, monkeypatch):
    monkeypatch.setattr('resnet_jax.models.counting.count', None)
    found = ask('reproduce', '--list')
    assert [table['table'] for table in found['tables']] == list(TABLES)


# The command


def smoke(key, folder):
    arguments = ('--scale', 'smoke', '--workdir', folder)
    result = command('reproduce', key, *arguments, timeout=1800)
    assert result.returncode == 0, result.stderr
    report = json.loads((folder / 'reproduce.json').read_text())
    assert [row['verdict'] for row in report['rows']] == ['ran'] * len(TABLES[key].rows)
    for row, published in zip(report['rows'], TABLES[key].rows, strict=True):
        if published.parameters and TABLES[key].facts(published).classes == 10:  # as synthetic
            assert row['parameters'] == published.parameters
    return result


@pytest.mark.slow
def test_smoke_of_one_row(tmp_path):
    """The first of five parts; the other rows are told as missing."""
    out = tmp_path / 'out'
    arguments = ('--scale', 'smoke', '--workdir', out, '--shard', '1/5')
    result = command('reproduce', 'he2015_plain', *arguments)
    assert result.returncode == 0, result.stderr
    rows = json.loads((out / 'reproduce.json').read_text())['rows']
    assert [row['verdict'] for row in rows] == ['ran'] + 4 * ['not run yet']
    assert 'within' not in result.stdout and 'no verdict' in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize('key', TABLES)
def test_smoke_of_every_table(key, tmp_path):
    smoke(key, tmp_path / 'out')


@pytest.mark.slow
def test_what_diverges_is_known_as_such(tmp_path):
    fields = ['--config.data.name=synthetic', '--config.data.train_split=train[:64]']
    fields += ['--config.train.steps=4', '--config.optim.learning_rate=1e30', '--seeds=1']
    fields += ['--config.train.batch_size=4', '--config.data.eval_split=test[:4]']
    fields += ['--config.optim.warmup=0', '--config.train.log_every=1']
    out = tmp_path / 'out'
    result = command('reproduce', CHEAPEST, '--scale', 'short', '--workdir', out, *fields)
    assert result.returncode == 0, result.stderr  # a result, not a fault
    assert 'failed, but published 4.89' in result.stdout


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--scale', 'full', '--workdir', 'x'], 'reproduce needs TABLE'),
        ([CHEAPEST, '--scale', 'full'], 'reproduce needs --workdir'),
        ([CHEAPEST, '--workdir', 'x'], 'reproduce needs --scale'),
        ([CHEAPEST, '--scale', 'smok', '--workdir', 'x'], "'smok'; did you mean 'smoke'"),
        (['he2016_tabel4', '--scale', 'full', '--workdir', 'x'], "did you mean 'he2016_table4'"),
        (['--list', 'he2016_tabel4'], "did you mean 'he2016_table4'"),
        ([CHEAPEST, '--probe'], '--probe goes with --list'),
        ([CHEAPEST, '--scale=full', '--workdir=x', f'--configs={ROOT}/tests'], 'no default.py'),
        ([CHEAPEST, '--scale=full', '--workdir=x', '--config.optim.lr=1'], 'unknown config field'),
        ([CHEAPEST, '--scale=full', '--workdir=x', '--seeds=x'], '--seeds is a number'),
        ([CHEAPEST, '--scale=full', '--workdir=x', '--shard=2/1'], '--shard is I/N'),
    ],
)
def test_bad_input(arguments, message, capsys):
    assert main(['reproduce', *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1


# Time series: each row has a data set of its own


def test_the_rows_of_series_have_their_own_data_and_batch():
    """int(min(n / 10, 64)) series at a time (hfawaz/dl-4-tsc), 1,500 epochs, ten runs."""
    plan = make_plan('fawaz2019', 'full')
    assert plan.figures and plan.sweep.seeds == tuple(range(10))
    sizes = {'ItalyPowerDemand': 67, 'GunPoint': 50, 'ArrowHead': 36, 'OSULeaf': 200}
    assert set(plan.sweep.arms) == set(sizes)
    for name, n in sizes.items():
        found = plan.sweep.config(name, 3)
        assert found.data.name == f'aeon:{name}' and found.model.name == 'tsc_resnet'
        assert found.train.batch_size == int(min(n / 10, 64))
        assert (found.train.epochs, found.optim.plateau_patience) == (1500.0, 50)
        assert (found.optim.name, found.optim.learning_rate) == ('adam', 1e-3)
        assert (found.optim.decay_factor, found.optim.plateau_floor) == (0.5, 1e-4)
        assert (found.checkpoint.best, found.data.normalize) == ('train_loss', 'series')
    short = make_plan('fawaz2019', 'short').sweep.config('GunPoint', 0)
    assert (short.train.epochs, short.optim.plateau_patience) == (93.75, 4)


def test_an_accuracy_is_judged_by_its_mean_and_both_deviations():
    table = TABLES['fawaz2019']
    values = (83.0, 84.0, 85.0, 86.0)  # mean 84.5 of 84.5 (1.2)
    near = judge(table, {'ArrowHead': RowResult(values)}, figures=True)['ArrowHead']
    assert near.word == 'within published spread' and '0.00 apart' in near.why
    # Standard error 0.645, so twice the joint error is 2 sqrt(0.645^2 + 1.2^2) = 2.73.
    far = judge(table, {'ArrowHead': RowResult(tuple(v - 2.8 for v in values))}, figures=True)
    assert far['ArrowHead'].word != near.word and '2.80 apart > 2.73' in far['ArrowHead'].why


def test_a_row_that_is_not_there_is_named(tmp_path, capsys):
    where = ('--scale', 'full', '--workdir', str(tmp_path / 'out'))
    code = main(['reproduce', 'fawaz2019', *where, '--rows', 'GunPont'])
    assert code == 2 and "did you mean 'GunPoint'" in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
