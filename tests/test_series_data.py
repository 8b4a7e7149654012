"""Sets of time series: files of the UEA archive, arrays, and what a run makes of them."""

import importlib.util
import json

import numpy as np
import pytest
from running import tiny

from resnet_jax import data
from resnet_jax.cli import main
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.series_sets import read_ts
from resnet_jax.errors import InputError
from resnet_jax.training import loop
from resnet_jax.training.inputs import open_inputs

needs_aeon = pytest.mark.skipif(
    importlib.util.find_spec('aeon') is None, reason='the package aeon is not installed'
)
TS = """#A comment
@problemName Two
@timeStamps false
@classLabel true Up down

@data
1,2,3:4,5,6:up
-1,?,1e2:0,0,0:Down
"""


def test_a_ts_file_is_read():
    names, values, labels = read_ts(TS.splitlines())
    assert names == ('Up', 'down') and labels.tolist() == [0, 1]
    np.testing.assert_array_equal(values[0], [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(values[1], [[-1, 0], [np.nan, 0], [100, 0]])
    assert values[0].dtype == np.float32


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('4,5,6', '4,5', 'channels of several lengths'),
        ('Down', 'left', 'classes that its header does not name'),
        ('timeStamps false', 'timeStamps true', 'time stamps'),
        ('1e2', 'x', 'could not convert'),
    ],
)
def test_another_format_is_refused(old, new, message):
    with pytest.raises(ValueError, match=message):
        read_ts(TS.replace(old, new).splitlines())


@needs_aeon
def test_a_set_of_aeon():
    """Sizes as timeseriesclassification.com lists them."""
    train, test = (data.open_source('aeon:GunPoint', split) for split in ('train', 'test'))
    assert (len(train), len(test), train.space, train.channels) == (50, 150, (150,), 1)
    assert train.class_names == ('1', '2') and set(train.labels()) == {0, 1}
    assert train[0]['image'].shape == (150, 1)
    assert data.open_source('aeon:BasicMotions', 'train').channels == 6
    assert data.fingerprint(train)['version']


@needs_aeon
@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('GunPont', "unknown set in the package aeon 'GunPont'; did you mean 'GunPoint'"),
        ('JapaneseVowels', 'series of 7 to 29 steps, and a model takes one length; aeon:Jap'),
    ],
)
def test_sets_that_cannot_be_read(name, message):
    with pytest.raises(InputError, match=message):
        data.open_source(f'aeon:{name}', 'train')


def test_without_aeon_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'resnet-jax\[series\]'"):
        data.open_source('aeon:GunPoint', 'train')


# Arrays


def series_file(folder, **changes):
    """Series of a rising or falling line in noise, in another scale each, [N, 20, 2]."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (('train', 40), ('test', 16)):
        labels = np.arange(n) % 2
        slope = np.where(labels, 1, -1)[:, None] * np.linspace(-1, 1, 20)
        values = slope[..., None] + 0.1 * rng.standard_normal((n, 20, 2))
        scale, shift = rng.uniform(1, 5, (2, n, 1, 2))
        arrays[f'{split}_images'] = (values * scale + shift).astype(np.float32)
        arrays[f'{split}_labels'] = labels
    np.savez(folder / 'series.npz', **{**arrays, **changes})
    return f'npz:{folder / "series.npz"}', arrays


FIELDS = {
    'model.name': 'tsc_resnet', 'model.stage_widths': '(4, 4, 4)', 'data.normalize': 'series',
    'augment.transforms': 'jitter', 'train.batch_size': 8, 'train.steps': 40,
    'train.eval_every': 20, 'checkpoint.every': 20, 'optim.learning_rate': 0.02,
}  # fmt: skip


def settings(name, **changes):
    fields = {'data.name': name, **FIELDS, **changes}
    return tiny({**dict.fromkeys(('model.stage_sizes',), '(1, 1, 1)'), **fields, **WIDTHS})


WIDTHS = {'model.width': None, 'model.stem_width': None}


def test_series_are_normalised_one_by_one(tmp_path):
    name, arrays = series_file(tmp_path)
    inputs = open_inputs(settings(name))
    assert inputs.preprocessing.input_shape == (20, 2)
    assert inputs.arrays['image'].dtype == np.float32
    np.testing.assert_array_equal(inputs.arrays['image'], arrays['train_images'])
    found = np.asarray(inputs.preprocessing.normalize(arrays['test_images']))
    x = arrays['test_images'].astype(np.float64)
    expected = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    constant = np.asarray(inputs.preprocessing.normalize(np.full((1, 20, 2), 3.0, np.float32)))
    assert not constant.any()


def test_series_are_normalised_by_the_training_set(tmp_path):
    name, arrays = series_file(tmp_path)
    inputs = open_inputs(settings(name, **{'data.normalize': 'channel'}))
    x = arrays['train_images'].astype(np.float64)
    expected = (x - x.mean((0, 1))) / x.std((0, 1))
    np.testing.assert_allclose(
        inputs.preprocessing.normalize(x.astype(np.float32)), expected, atol=1e-4
    )
    assert Preprocessing.from_json(inputs.preprocessing.to_json()) == inputs.preprocessing


def test_a_run_learns_evaluates_and_predicts(tmp_path, capsys):
    name, arrays = series_file(tmp_path)
    config = settings(name, **{'checkpoint.best': 'train_loss', 'optim.schedule': 'constant'})
    summary = loop.train(config, tmp_path / 'run')
    assert summary['eval']['top1'] == 1.0
    capsys.readouterr()
    assert main(['eval', '--workdir', str(tmp_path / 'run'), '--json']) == 0
    assert json.loads(capsys.readouterr().out)['top1'] == 1.0
    np.save(tmp_path / 'one.npy', arrays['test_images'][0])
    np.savetxt(tmp_path / 'two.csv', arrays['test_images'][1], delimiter=',')
    files = [str(tmp_path / file) for file in ('one.npy', 'two.csv')]
    assert main(['predict', '--workdir', str(tmp_path / 'run'), *files, '--json']) == 0
    found = json.loads(capsys.readouterr().out)['predictions']
    assert [one['top'][0]['class'] for one in found] == ['0', '1']
    for arguments, words in (
        (['predict', '--workdir', str(tmp_path / 'run'), files[0], '--sheet', 'x.png'], 'series'),
        (['eval', '--workdir', str(tmp_path / 'run'), '--tta', 'flip'], 'takes series'),
    ):
        assert main(arguments) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'test_images': np.zeros((16, 21, 2), np.float32)}, r'series of shapes \[20, 2\] and'),
        ({'train_images': np.full((40, 20, 2), np.nan, np.float32)}, 'missing or not finite'),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, changes, message):
    name, _ = series_file(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        open_inputs(settings(name))


def test_images_and_series_are_not_confused(tmp_path):
    name, _ = series_file(tmp_path)
    with pytest.raises(InputError, match=r'holds series, and cifar_resnet8 .* such as tsc_resnet'):
        open_inputs(tiny({'data.name': name, 'augment.transforms': ''}))
    with pytest.raises(InputError, match=r'holds images, and tsc_resnet .* spatial dimensions'):
        open_inputs(settings('digits'))
    with pytest.raises(InputError, match='takes channel or series'):
        settings(name, **{'data.normalize': 'pixel'})
    with pytest.raises(InputError, match='takes channel or pixel'):
        tiny({'data.normalize': 'series'})
    series = Preprocessing(20, 2, None, (0.0, 0.0), (1.0, 1.0), ('a', 'b'), dimensions=1)
    with pytest.raises(InputError, match=r'images .*, and the model takes series'):
        series.prepare(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match='a series of 19 steps and 2 channels'):
        series.prepare(np.zeros((19, 2), np.float32))
