"""`hf:NAME`: data sets of Hugging Face's package, from files that it and pyarrow wrote."""

import io
import pickle
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data import fingerprint, hub_sets, open_source, split_sizes
from resnet_jax.errors import InputError

datasets = pytest.importorskip('datasets')
import pyarrow  # noqa: E402
import pyarrow.parquet  # noqa: E402


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(out, 'PNG')
    return out.getvalue()


def line(name, split='train', **keys):
    with pytest.raises(InputError) as caught:
        open_source(f'hf:{name}', split, **keys)
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 600
    return str(caught.value)


def values(source):
    return [int(example['image'][0, 0, 0]) for example in source.take(range(len(source)))]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """What `datasets` makes of Parquet files, and no network."""
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
    monkeypatch.setattr(datasets.config, 'HF_HUB_OFFLINE', True)
    datasets.disable_progress_bars()
    yield tmp_path / 'cache'
    datasets.enable_progress_bars()


def dataset(numbers, **more):
    columns = {
        'image': [{'bytes': png(i), 'path': None} for i in numbers],
        'label': [i % 3 for i in numbers],
        **{name: [value(i) for i in numbers] for name, (value, _) in more.items()},
    }
    features = {
        'image': datasets.Image(),
        'label': datasets.ClassLabel(names=['rose', 'lily', 'iris']),
        **{name: kind for name, (_, kind) in more.items()},
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def parquet(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_what_save_to_disk_wrote(tmp_path):
    splits = {'train': dataset(range(12)), 'test': dataset(range(20, 24))}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / 'both')
    spec = f'hf:{tmp_path}/both'
    assert split_sizes(spec) == {'train': 12, 'test': 4}
    source = open_source(spec, 'train')
    assert (source.class_names, source.channels) == (('rose', 'lily', 'iris'), 3)
    assert values(source) == list(range(12))
    assert source.labels().tolist() == [i % 3 for i in range(12)]
    assert [e['label'] for e in source.take([7, 0, 7, 11])] == [1, 0, 1, 2]
    assert np.bincount(open_source(spec, 'train[:50%]').labels()).tolist() == [2, 2, 2]
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[5]['image'], source[5]['image'])
    dataset(range(3)).save_to_disk(tmp_path / 'one')
    assert values(open_source(f'hf:{tmp_path}/one', 'train')) == [0, 1, 2]


def test_parquet_files_of_the_package_and_a_moved_folder(tmp_path):
    (tmp_path / 'set').mkdir()
    dataset(range(6)).to_parquet(tmp_path / 'set' / 'train-00000-of-00002.parquet')
    dataset(range(6, 9)).to_parquet(tmp_path / 'set' / 'train-00001-of-00002.parquet')
    dataset(range(2)).to_parquet(tmp_path / 'set' / 'validation-00000-of-00001.parquet')
    source = open_source(f'hf:{tmp_path}/set', 'train')
    assert split_sizes(f'hf:{tmp_path}/set') == {'train': 9, 'validation': 2}
    assert values(source) == list(range(9)) and source.class_names[2] == 'iris'
    shutil.copytree(tmp_path / 'set', tmp_path / 'moved')
    moved = open_source(f'hf:{tmp_path}/moved', 'train')
    assert fingerprint(moved) == fingerprint(source)
    one = open_source(f'hf:{tmp_path}/set/train-00001-of-00002.parquet', 'train')
    assert values(one) == [6, 7, 8]


def test_parquet_files_of_others(tmp_path):
    """Bytes, or bytes beside paths, and numbers or names."""
    images = [png(i) for i in range(4)]
    parquet(tmp_path / 'a' / 'train.parquet', pixels=images, y=[2, 0, 1, 2], note=['x'] * 4)
    source = open_source(f'hf:{tmp_path}/a', 'train')
    assert values(source) == [0, 1, 2, 3] and source.labels().tolist() == [2, 0, 1, 2]
    assert source.class_names == ('0', '1', '2')
    names = tmp_path / 'names.txt'
    names.write_text('p\nq\nr\ns\n')
    named = open_source(f'hf:{tmp_path}/a', 'train', label_names=str(names))
    assert named.class_names == ('p', 'q', 'r', 's')
    cells = [{'bytes': image, 'path': f'{i}.png'} for i, image in enumerate(images)]
    parquet(tmp_path / 'b' / 'test.parquet', img=cells, label=['b', 'a', 'b', 'c'], n=[1, 2, 3, 4])
    source = open_source(f'hf:{tmp_path}/b', 'test')
    assert source.class_names == ('a', 'b', 'c') and source.labels().tolist() == [1, 0, 1, 2]
    assert values(source) == [0, 1, 2, 3]


def test_columns_are_found_or_chosen(tmp_path):
    fine = datasets.ClassLabel(names=['x', 'y'])
    both = dataset(range(4), coarse=(lambda i: i // 2, fine))
    both.save_to_disk(tmp_path / 'named')
    assert len(open_source(f'hf:{tmp_path}/named', 'train').class_names) == 3
    chosen = open_source(f'hf:{tmp_path}/named', 'train', label_key='coarse')
    assert chosen.class_names == ('x', 'y') and chosen.labels().tolist() == [0, 0, 1, 1]
    both.rename_columns({'label': 'fine', 'image': 'photo'}).save_to_disk(tmp_path / 'other')
    said = line(tmp_path / 'other')
    assert 'several columns may hold the labels (fine, coarse)' in said
    assert 'data.label_key=fine' in said
    assert "did you mean 'coarse'" in line(tmp_path / 'other', label_key='coarze')
    assert 'unknown image column' in line(tmp_path / 'other', label_key='fine', image_key='fine')
    assert values(open_source(f'hf:{tmp_path}/other', 'train', label_key='fine')) == [0, 1, 2, 3]


def test_examples_without_labels_or_images(tmp_path):
    images = [png(0), None]
    parquet(tmp_path / 'a' / 'train.parquet', image=images, label=[0, 1])
    source = open_source(f'hf:{tmp_path}/a', 'train')
    assert source[0]['label'] == 0
    with pytest.raises(InputError, match=r'train example 1 of hf:.*there is no image'):
        source[1]
    parquet(tmp_path / 'b' / 'train.parquet', image=[png(0)] * 2, label=[0, None])
    assert 'has the label -1, which is no class' in line(tmp_path / 'b')
    parquet(tmp_path / 'c' / 'train.parquet', image=[png(0)] * 2, label=['x', None])
    assert '1 examples of train have no label' in line(tmp_path / 'c')
    parquet(tmp_path / 'd' / 'train.parquet', image=[b'hello'], label=[0])
    with pytest.raises(InputError, match='not an image that can be read'):
        open_source(f'hf:{tmp_path}/d', 'train')[0]


def test_paths_stay_inside_of_the_data_set(tmp_path):
    inside, outside = tmp_path / 'set' / 'inside.png', tmp_path / 'outside.png'
    inside.parent.mkdir()
    for path in (inside, outside):
        path.write_bytes(png(7))
    cells = [
        {'bytes': None, 'path': str(p)} for p in (inside, outside, tmp_path / 'set/../outside.png')
    ]
    parquet(tmp_path / 'set' / 'train.parquet', image=cells, label=[0, 0, 0])
    source = open_source(f'hf:{tmp_path}/set', 'train')
    assert source[0]['image'][0, 0, 0] == 7
    for i in (1, 2):
        with pytest.raises(InputError, match='outside of the data set'):
            source[i]


def test_what_is_no_such_data_set(tmp_path):
    assert 'no such file or folder' in line(tmp_path / 'gone')
    (tmp_path / 'empty').mkdir()
    assert 'neither what save_to_disk wrote' in line(tmp_path / 'empty')
    (tmp_path / 'bad').mkdir()
    (tmp_path / 'bad' / 'train.parquet').write_bytes(b'PAR1 no table')
    assert 'cannot be read' in line(tmp_path / 'bad')
    (tmp_path / 'state.json').write_text('{')
    assert 'cannot be read' in line(tmp_path)
    parquet(tmp_path / 'a' / 'train.parquet', x=[1.5])
    assert 'no column of images; its columns are x' in line(tmp_path / 'a')
    parquet(tmp_path / 'b' / 'train.parquet', image=[png(0)], x=[1.5])
    assert 'no column of labels' in line(tmp_path / 'b')
    assert 'and no name such as' in line('a/b/c/d')
    dataset(range(2)).save_to_disk(tmp_path / 'cut')
    (arrow,) = (tmp_path / 'cut').glob('*.arrow')
    arrow.write_bytes(arrow.read_bytes()[:100])
    assert 'cannot be read' in line(tmp_path / 'cut')


def test_names_of_the_hub(monkeypatch):
    """What `load_dataset` is asked for; the rest is the package's."""
    assert hub_sets._hub_name('mnist', '') == ['mnist']
    assert hub_sets._hub_name('ylecun/mnist', '') == ['ylecun/mnist']
    assert hub_sets._hub_name('uoft-cs/cifar100/default', '') == ['uoft-cs/cifar100', 'default']
    assert 'cannot be loaded from the hub or its cache' in line('nobody/nothing')


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'datasets', None)
    assert 'pip install "resnet-jax[hf]"' in line('mnist')
