"""`resnet-jax features`: what the files hold, however and in how many goes they are written."""

import dataclasses
import json
import pathlib
import resource
import signal

import jax
import numpy as np
import pytest
from PIL import Image
from running import command, flags

from resnet_jax import data
from resnet_jax.cli import main
from resnet_jax.errors import InputError, RunError
from resnet_jax.inference import extraction
from resnet_jax.inference.extraction import extract
from resnet_jax.inference.feature_files import read_features
from resnet_jax.inference.trained import load_trained

# Orbax closes its event loop while reads of other files are pending.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

LAYERS = ('pooled', 'stage1/block1', 'pixels')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The workdir of a short run on grey 8x8 digits."""
    folder = tmp_path_factory.mktemp('runs') / 'trained'
    assert main(['train', *flags(), '--workdir', str(folder)]) == 0
    return folder


@pytest.fixture(scope='module')
def trained(run):
    return load_trained(run)


@pytest.fixture(scope='module')
def source():
    """60 digits in an order of their own."""
    return data.open_source('digits', 'test').select(np.arange(3, 63), 'test')


def close(a, b):
    assert list(a.layers) == list(b.layers)
    for name, values in a.layers.items():
        np.testing.assert_allclose(values, b.layers[name], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(a.labels, b.labels)
    assert (a.names, a.class_names) == (b.names, b.class_names)


def test_a_file_holds_what_the_model_gives(ask, run, trained, tmp_path):
    """The first examples of what the run was evaluated on, read, prepared and pooled by hand."""
    out = tmp_path / 'a.npz'
    layers = [word for name in LAYERS for word in ('--layer', name)]
    said = ask('features', '--workdir', run, *layers, '--limit', 20, '--out', out)
    assert said['layers'] == {'pooled': [4], 'stage1/block1': [4], 'pixels': [64]}
    assert said['data']['split'] == 'test' and said['data']['examples'] == 20
    digits = data.open_source('digits', 'test').take(range(20))
    images = np.stack([example['image'] for example in digits]) / np.float32(255)
    mean, std = trained.preprocessing.mean, trained.preprocessing.std
    images = (images - np.float32(mean)) / np.float32(std)
    expected = jax.jit(
        lambda x: trained.model.apply(trained.variables, x, train=False, method='features')
    )(images)
    with np.load(out, allow_pickle=False) as file:
        about = {'labels', 'names', 'class_names', 'description'}
        assert set(file) == {*LAYERS, *about}
        close_to = {'rtol': 1e-5, 'atol': 1e-5}
        np.testing.assert_allclose(file['pooled'], expected['pooled'], **close_to)
        pooled = np.asarray(expected['stage1']).mean((1, 2))
        np.testing.assert_allclose(file['stage1/block1'], pooled, **close_to)
        np.testing.assert_allclose(file['pixels'], images.reshape(20, -1), **close_to)
        assert file['labels'].tolist() == [example['label'] for example in digits]
        assert file['names'].tolist() == list(map(str, range(20)))
        assert file['class_names'].tolist() == list('0123456789')
        description = json.loads(str(file['description']))
    assert description['source'] == {'workdir': str(run), 'step': 12}
    assert description['preprocessing']['image_size'] == 8
    full = tmp_path / 'full.npz'
    extract(trained, data.open_source('digits', 'test[:20]'), ['stage1'], full, full=True)
    found = read_features(full).layers['stage1']
    np.testing.assert_allclose(found, expected['stage1'], **close_to)


def test_the_batch_size_makes_no_difference(trained, source, tmp_path, monkeypatch):
    """Nor does the size of a part."""
    for size in (7, 32):
        extract(trained, source, LAYERS, tmp_path / f'{size}.npz', batch_size=size)
    monkeypatch.setattr(extraction, 'MOST_EXAMPLES', 13)
    extract(trained, source, LAYERS, tmp_path / 'parts.npz', batch_size=7)
    first = read_features(tmp_path / '7.npz')
    close(first, read_features(tmp_path / '32.npz'))
    assert (tmp_path / '7.npz').read_bytes() == (tmp_path / 'parts.npz').read_bytes()


@pytest.mark.parametrize('suffix', ['.npz', '.array_record'])
def test_an_interrupted_extraction_goes_on(trained, source, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(extraction, 'MOST_EXAMPLES', 10)
    out = tmp_path / f'a{suffix}'
    read = []

    def interrupted(split, indices):
        read.extend(indices)
        if max(indices, default=0) >= 3 + 40:
            raise InputError('the disk is gone')
        return source.read(split, indices)

    def run(source, **options):
        return extract(trained, source, LAYERS, out, batch_size=5, **options)

    with pytest.raises(InputError, match='gone'):
        run(dataclasses.replace(source, read=interrupted))
    (folder,) = tmp_path.iterdir()
    assert folder.name == f'a{suffix}.parts'
    kept = len(list(folder.glob('*.npz')))
    assert 1 <= kept <= 4
    # Other settings are refused, and nothing is touched.
    with pytest.raises(InputError, match=r'layers: .*pooled.* -> .*stem.*--overwrite'):
        extract(trained, source, ('stem',), out)
    assert len(list(folder.glob('*.npz'))) == kept

    read.clear()
    watched = dataclasses.replace(
        source, read=lambda split, indices: read.extend(indices) or source.read(split, indices)
    )
    assert run(watched).found == 10 * kept
    assert min(read) == 3 + 10 * kept
    assert not folder.exists()
    extract(trained, source, LAYERS, tmp_path / 'whole.npz')
    close(read_features(out), read_features(tmp_path / 'whole.npz'))

    # A finished file is found; one of other settings is refused, and replaced only when told so.
    assert run(source).found == 60
    with pytest.raises(InputError, match=r'exists, with other settings .*full: False -> True'):
        run(source, full=True)
    run(source, full=True, overwrite=True)
    assert read_features(out).layers['stage1/block1'].shape == (60, 8, 8, 4)


@pytest.mark.filterwarnings('ignore:Error writing persistent compilation cache')
def test_full_disk(trained, source, tmp_path):
    """One line, with what to do; then the same command gives the whole file."""
    out = tmp_path / 'a.npz'
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(RunError, match=r'cannot write .*a\.npz: .*; make room') as error:
            extract(trained, source, LAYERS, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert '\n' not in str(error.value) and not out.exists()
    extract(trained, source, LAYERS, out)
    assert len(read_features(out).labels) == 60 and [p.name for p in tmp_path.iterdir()] == [
        'a.npz'
    ]


def test_array_record_is_read_by_others(trained, source, tmp_path):
    import grain
    from safetensors.numpy import load

    out = tmp_path / 'a.array_record'
    extract(trained, source, ('pooled', 'stem'), out, full=True)
    extract(trained, source, ('pooled', 'stem'), tmp_path / 'a.npz', full=True)
    expected = read_features(tmp_path / 'a.npz')
    records = grain.sources.ArrayRecordDataSource(str(out))
    assert len(records) == 60
    example = load(records[7])
    assert bytes(example['name']).decode() == '7' and example['label'] == expected.labels[7]
    np.testing.assert_array_equal(example['stem'], expected.layers['stem'][7])
    about = json.loads((tmp_path / 'a.array_record.json').read_text())
    assert about['class_names'] == list('0123456789')
    assert list(read_features(out, ['pooled']).layers) == ['pooled']


def test_images_of_a_folder_keep_their_names(ask, run, tmp_path):
    for i in range(5):
        path = tmp_path / 'images' / 'test' / ('3', '5')[i % 2] / f'é {i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9), 40 * i, np.uint8)).save(path)
    out = tmp_path / 'a.npz'
    on = ['--data', f'folder:{tmp_path / "images"}', '--split', 'test']
    ask('features', '--workdir', run, *on, '--layer', 'logits', '--out', out)
    found = read_features(out)
    names = [*(f'test/3/é {i}.png' for i in (0, 2, 4)), *(f'test/5/é {i}.png' for i in (1, 3))]
    assert list(found.names) == names
    assert found.labels.tolist() == [0, 0, 0, 1, 1] and found.class_names == ('3', '5')


def test_the_layers_are_listed(ask, capsys, run):
    found = ask('features', '--workdir', run, '--list')['layers']
    assert found['stage1/block1/conv1'] == [8, 8, 4] and found['pooled'] == [4]
    assert list(found)[:2] == ['pixels', 'stem/conv1'] and list(found)[-1] == 'logits'
    assert main(['features', '--workdir', str(run), '--list']) == 0
    assert 'stage1/block1/conv1  8x8x4' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--out', 'a.npz'], ['--layer', '--list']),
        (['--layer', 'pooled'], ['--out']),
        (['--layer', 'pooled', '--out', 'a.csv'], ['.npz', '.array_record']),
        (['--layer', 'pooled', '--out', 'gone/a.npz'], ['gone']),
        (['--layer', 'pooled', '--layer', 'stage7', '--out', 'a.npz'], ['stage7', "'stage1'"]),
        (['--layer', 'pooled', '--out', 'a.npz', '--limit', '0'], ['--limit']),
        (['--layer', 'pooled', '--out', 'a.npz', '--batch-size', '0'], ['--batch-size']),
    ],
)
def test_bad_usage(run, capsys, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    assert main(['features', '--workdir', str(run), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('contents', [b'', b'PK\x03\x04 no archive', None])
def test_what_is_no_file_of_features(capsys, tmp_path, contents):
    path = tmp_path / 'a.npz'
    np.savez(path, pooled=np.zeros((3, 2)))
    if contents is not None:
        path.write_bytes(contents)
    assert main(['probe', str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line and 'resnet-jax features' in line


@pytest.mark.slow
def test_the_number_of_devices_makes_no_difference(run, tmp_path):
    for devices in (1, 8):
        out = tmp_path / f'{devices}.npz'
        layers = [word for name in LAYERS for word in ('--layer', name)]
        done = command(
            *('features', '--workdir', run, *layers, '--batch-size', 20, '--out', out),
            env={'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}'},
        )
        assert done.returncode == 0, done.stderr
    close(read_features(tmp_path / '1.npz'), read_features(pathlib.Path(tmp_path, '8.npz')))
