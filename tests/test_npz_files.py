"""`npz:FILE`: arrays with MedMNIST's names, stored or compressed, and files of other things."""

import io
import os
import pickle
import random
import zipfile

import numpy as np
import pytest

from resnet_jax.data import fingerprint, npz_files, open_source, split_sizes
from resnet_jax.errors import InputError

RNG = np.random.default_rng(0)
IMAGES = {n: RNG.integers(0, 256, (n, 6, 5), np.uint8) for n in (12, 4, 6)}
ARRAYS = {
    'train_images': IMAGES[12],
    'train_labels': np.arange(12, dtype=np.uint8)[:, None] % 3,
    'val_images': IMAGES[4],
    'val_labels': np.asarray([[2], [1], [0], [2]]),
    'test_images': IMAGES[6],
    'test_labels': np.asarray([0, 1, 2, 2, 1, 0], np.int64)[:, None],
}


def written(path, compressed=False, **arrays):
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return f'npz:{path}'


def line(*args, **keys):
    with pytest.raises(InputError) as caught:
        open_source(*args, **keys)
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 500
    return str(caught.value)


@pytest.mark.parametrize('compressed', [False, True])
def test_medmnists_arrays(tmp_path, compressed):
    spec = written(tmp_path / 'a.npz', compressed, **ARRAYS)
    assert split_sizes(spec) == {'train': 12, 'val': 4, 'test': 6}
    source = open_source(spec, 'val+test')
    assert (source.class_names, source.channels) == (('0', '1', '2'), 1)
    assert source.labels().tolist() == [2, 1, 0, 2, 0, 1, 2, 2, 1, 0]
    for i, example in enumerate(source.take(range(10))):
        expected = IMAGES[4][i] if i < 4 else IMAGES[6][i - 4]
        np.testing.assert_array_equal(example['image'], expected[:, :, None])
        assert example['label'] == source.labels()[i]
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[5]['image'], source[5]['image'])
    assert len(pickle.dumps(source)) < 20_000  # no images in it


def test_stored_arrays_are_mapped_and_compressed_ones_are_read_once(tmp_path, monkeypatch):
    kept = {}
    for compressed in (False, True):
        path = tmp_path / f'{compressed}.npz'
        source = open_source(written(path, compressed, **ARRAYS), 'train')
        assert not npz_files._kept.cache_info().currsize or compressed
        source[0], source[11]
        member = npz_files._read_headers(path, '')[0]['train_images']
        kept[compressed] = npz_files._kept(path, member, path.stat().st_mtime_ns)
        assert (member.start is None) == compressed
    assert isinstance(kept[False], np.memmap) and not isinstance(kept[True], np.memmap)
    info = npz_files._kept.cache_info()
    assert info.misses == 2


@pytest.fixture(autouse=True)
def nothing_kept():
    npz_files._kept.cache_clear()


def test_colour_order_in_memory_and_empty_splits(tmp_path):
    colour = RNG.integers(0, 256, (3, 4, 5, 3), np.uint8)
    spec = written(
        tmp_path / 'a.npz',
        train_images=np.asfortranarray(colour),
        train_labels=[1, 0, 1],
        test_images=colour[:0],
        test_labels=np.zeros(0, int),
    )
    source = open_source(spec, 'train')
    assert source.channels == 3
    np.testing.assert_array_equal(np.stack([e['image'] for e in source.take(range(3))]), colour)
    assert split_sizes(spec) == {'train': 3, 'test': 0}
    assert 'selects nothing' in line(spec, 'test')


def test_slices_have_the_classes_in_proportion(tmp_path):
    labels = np.sort(ARRAYS['train_labels'].ravel())
    spec = written(tmp_path / 'a.npz', train_images=IMAGES[12], train_labels=labels)
    assert np.bincount(open_source(spec, 'train[:50%]').labels()).tolist() == [2, 2, 2]
    plain = open_source(spec, 'train[:50%]', slice_order='sorted')
    assert plain.labels().tolist() == [0] * 4 + [1] * 2


def test_names_of_classes(tmp_path):
    spec = written(tmp_path / 'a.npz', **ARRAYS)
    names = tmp_path / 'names.txt'
    names.write_text('\ufeffbasophil\neosinophil \nplatelet\n\n')
    source = open_source(spec, 'train', label_names=str(names))
    assert source.class_names == ('basophil', 'eosinophil', 'platelet')
    for text, said in {
        'a\nb': 'has the label 2, and',
        'a\na\nb': 'lines 1 and 2',
        'a\n\nb\nc': 'line 2',
        ' \n': 'is empty',
    }.items():
        names.write_text(text)
        assert said in line(spec, 'train', label_names=str(names))
    names.write_bytes(b'\xff\xfe\xff')
    assert 'no text in UTF-8' in line(spec, 'train', label_names=str(names))
    assert 'No such file' in line(spec, 'train', label_names=str(tmp_path / 'gone'))


def test_the_fingerprint_tells_changed_pixels(tmp_path):
    marks = []
    for i, value in enumerate([0, 0, 1]):
        path = tmp_path / str(i) / 'a.npz'
        path.parent.mkdir()
        written(path, **{**ARRAYS, 'train_images': IMAGES[12] | np.uint8(value)})
        marks.append(fingerprint(open_source(f'npz:{path}', 'train')))
    assert marks[0] == marks[1] != marks[2]


OBJECTS = np.asarray([{'a': 1}], object)
FAULTS = {
    'float': ({'train_images': IMAGES[12].astype(float)}, 'dtype float64; pictures are uint8'),
    'series': ({'train_images': IMAGES[12][:, :, 0]}, 'shape [12, 6]'),
    'six': ({'train_images': np.zeros((12, 8, 8, 8, 1, 1), np.uint8)}, 'that cannot be read'),
    'no pixels': ({'train_images': np.zeros((12, 0, 8), np.uint8)}, 'shape [12, 0, 8]'),
    'fewer labels': ({'train_labels': np.zeros(11, int)}, 'for 12 images'),
    'several labels': ({'train_labels': np.zeros((12, 14), int)}, 'several for an image'),
    'float labels': ({'train_labels': np.zeros(12)}, 'labels are whole numbers'),
    'huge label': ({'train_labels': np.full(12, 2**62)}, 'above 1,048,576'),
    'unsigned label': ({'train_labels': np.full(12, 2**64 - 1, np.uint64)}, 'above 1,048,576'),
    'no class': ({'train_labels': np.full(12, -1)}, 'has the label -1, which is no class'),
    'other channels': ({'train_images': np.zeros((12, 6, 5, 3), np.uint8)}, 'of 1 and 3 channels'),
    'pickles': ({'train_images': OBJECTS}, 'Python objects'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_other_arrays_are_refused(tmp_path, fault):
    changed, said = FAULTS[fault]
    path = tmp_path / 'a.npz'
    np.savez(path, allow_pickle=True, **{**ARRAYS, **changed})
    found = line(f'npz:{path}', 'train')
    assert said in found and found.startswith(('npz:', 'the split train of npz:'))


def test_files_that_are_none(tmp_path):
    assert line(f'npz:{tmp_path}/a.npz', 'train').endswith('a.npz: no such file')
    (tmp_path / 'a.npz').write_text('hello')
    assert 'cannot be read as .npz' in line(f'npz:{tmp_path}/a.npz', 'train')
    assert 'cannot be read as .npz' in line(f'npz:{tmp_path}', 'train')
    assert 'no arrays SPLIT_images' in line(written(tmp_path / 'b.npz', x=[1]), 'train')
    only = {'train_images': IMAGES[12]}
    assert 'has no train_labels' in line(written(tmp_path / 'c.npz', **only), 'train')


def test_a_header_that_claims_more_than_there_is(tmp_path):
    """No memory is taken for it."""
    header = io.BytesIO()
    about = {'descr': '|u1', 'fortran_order': False, 'shape': (2**40, 6, 5)}
    np.lib.format.write_array_header_1_0(header, about)
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = tmp_path / f'{kind}.npz'
        with zipfile.ZipFile(path, 'w', kind) as file:
            file.writestr('train_images.npy', header.getvalue())
        assert 'is said to hold 32,985,348,833,280 bytes' in line(f'npz:{path}', 'train')


def test_a_compressed_array_larger_than_the_memory(tmp_path, monkeypatch):
    spec = written(tmp_path / 'a.npz', True, **ARRAYS)
    monkeypatch.setattr(os, 'sysconf', {'SC_PAGE_SIZE': 100, 'SC_PHYS_PAGES': 1}.__getitem__)
    assert 'write it again with np.savez' in line(spec, 'train')
    plain = written(tmp_path / 'b.npz', False, **ARRAYS)
    assert len(open_source(plain, 'train')) == 12


@pytest.mark.parametrize('compressed', [False, True])
def test_damaged_files_are_read_or_refused(tmp_path, compressed):
    path = tmp_path / 'a.npz'
    spec = written(path, compressed, **ARRAYS)
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(150):
        data = bytearray(whole)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        else:
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        npz_files._kept.cache_clear()
        try:
            source = open_source(spec, 'train')
            source.take(range(len(source)))
        except InputError as error:
            assert '\n' not in str(error)
            refused += 1
    assert refused > 50
