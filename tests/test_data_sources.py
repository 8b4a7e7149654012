import hashlib
import io
import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data import open_source, split_sizes
from resnet_jax.errors import InputError


def png(value: int, shape: tuple[int, ...] = (4, 5, 3)) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full(shape, value, np.uint8)).save(out, 'PNG')
    return out.getvalue()


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two splits; the pixel value identifies each image."""
    for i, name in enumerate(['train/dog/b.PNG', 'train/dog/a.png', 'train/cat/c.Jpeg']):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(10 * i))
    (tmp_path / 'train/cat/notes.txt').write_text('no image')
    (tmp_path / 'train/cat/._c.jpg').write_text('what macOS leaves behind')
    (tmp_path / 'val/dog').mkdir(parents=True)
    (tmp_path / 'val/dog/d.jpg').write_bytes(png(30))
    return tmp_path


@pytest.fixture(scope='module')
def tfds_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data set written by TFDS itself, without TensorFlow; one label is outside the classes."""
    import tensorflow_datasets as tfds

    # Not registered, so that TFDS finds it only by its files.
    class TinyPictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version('1.0.0')

        def _info(self):
            features = {
                'image': tfds.features.Image(shape=(None, None, 3), encoding_format='png'),
                'label': tfds.features.ClassLabel(names=['even', 'odd']),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {
                'train': self._generate_examples(10),
                'test': self._generate_examples(4, last=-1),
            }

        def _generate_examples(self, count, last=None):
            for i in range(count):
                label = last if last is not None and i == count - 1 else i % 2
                yield i, {'image': io.BytesIO(png(i)), 'label': label}

    place = str(tmp_path_factory.mktemp('tfds'))
    TinyPictures(data_dir=place, file_format='array_record').download_and_prepare()
    return place


def line(*args: str) -> str:
    """The one-line error of opening a source with these arguments."""
    with pytest.raises(InputError) as caught:
        open_source(*args)
    assert '\n' not in str(caught.value)
    return str(caught.value)


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    train, test = open_source('digits', 'train'), open_source('digits', 'test')
    assert split_sizes('digits') == {'train': 1437, 'test': 360}
    assert (len(train), len(test)) == (1437, 360)
    assert train.class_names == tuple('0123456789')
    both = train.take(range(1437)) + test.take(range(360))
    assert both[0]['image'].shape == (8, 8, 1)
    assert both[0]['image'].dtype == np.uint8

    def rows(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        table = np.concatenate([images.reshape(len(labels), 64), labels[:, None]], axis=1)
        return table[np.lexsort(table.T)]

    images = np.stack([e['image'] for e in both]) / 255 * 16
    labels = np.asarray([e['label'] for e in both])
    original = load_digits()
    np.testing.assert_array_equal(
        rows(np.rint(images), labels), rows(original.images, original.target)
    )
    np.testing.assert_allclose(images, np.rint(images), atol=0.04)


def test_digits_split_is_stratified_and_fixed():
    train, test = open_source('digits', 'train'), open_source('digits', 'test')
    labels = [np.bincount([s[i]['label'] for i in range(len(s))]) for s in (train, test)]
    np.testing.assert_allclose(labels[1] / labels[0], 360 / 1437, atol=0.01)
    pixels = b''.join(e['image'].tobytes() for e in test.take(range(360)))
    assert hashlib.sha256(pixels).hexdigest()[:16] == 'de85aee14a9506dd'


def test_synthetic_is_a_function_of_split_and_index():
    train = open_source('synthetic', 'train')
    assert (len(train), len(open_source('synthetic', 'test'))) == (1024, 256)
    assert train[17]['image'].shape == (32, 32, 3)
    again = open_source('synthetic', 'train[10:]')[7]
    np.testing.assert_array_equal(again['image'], train[17]['image'])
    assert (train[17]['image'] != open_source('synthetic', 'test')[17]['image']).any()


def test_synthetic_can_be_learnt():
    def table(split: str) -> tuple[np.ndarray, np.ndarray]:
        source = open_source('synthetic', split)
        examples = source.take(range(200))
        means = [e['image'].mean(axis=(0, 1)) for e in examples]
        return np.asarray(means), np.asarray([e['label'] for e in examples])

    (colours, labels), (test_colours, test_labels) = table('train'), table('test')
    centres = np.stack([colours[labels == k].mean(axis=0) for k in range(10)])
    distance = np.linalg.norm(test_colours[:, None] - centres[None], axis=2)
    np.testing.assert_array_equal(distance.argmin(axis=1), test_labels)


def test_folder(folder):
    source = open_source(f'folder:{folder}', 'train')
    assert split_sizes(f'folder:{folder}') == {'train': 3, 'val': 1}
    assert source.class_names == ('cat', 'dog')
    examples = [source[i] for i in range(len(source))]
    assert [(e['image'][0, 0, 0], e['label']) for e in examples] == [(20, 0), (10, 1), (0, 1)]
    assert examples[0]['image'].shape == (4, 5, 3)


def test_labels_agree_between_splits_where_a_class_is_missing(folder):
    assert open_source(f'folder:{folder}', 'val')[0]['label'] == 1


def test_tfds(tfds_dir):
    assert split_sizes('tfds:tiny_pictures', tfds_dir) == {'train': 10, 'test': 4}
    source = open_source('tfds:tiny_pictures', 'train', tfds_dir)
    assert source.class_names == ('even', 'odd')
    values = [(e['image'], e['label']) for e in source.take(range(10))]
    # TFDS shuffles once when it writes.
    assert sorted(int(image[0, 0, 0]) for image, _ in values) == list(range(10))
    for image, label in values:
        assert image.shape == (4, 5, 3)
        assert (image == image[0, 0, 0]).all()
        assert label == image[0, 0, 0] % 2


def test_tfds_reads_real_data(shared_data):
    source = open_source('tfds:cifar10_jpeg', 'train[:45000]+test', str(shared_data / 'tfds'))
    assert len(source) == 55_000
    assert source.class_names[3] == 'cat'
    assert source[54_999]['image'].shape == (32, 32, 3)


@pytest.mark.parametrize(
    ('split', 'expected'),
    [
        ('train[2:5]', range(2, 5)),
        ('train[-3:]', range(7, 10)),
        ('train[:20%]+train[90%:]', [0, 1, 9]),
        ('train[5:] + train[:2]', [5, 6, 7, 8, 9, 0, 1]),
    ],
)
def test_slices_mean_what_tfds_means(tfds_dir, split, expected):
    import tensorflow_datasets as tfds

    ours = open_source('tfds:tiny_pictures', split, tfds_dir)
    theirs = tfds.builder('tiny_pictures', data_dir=tfds_dir).as_data_source(split)
    whole = open_source('tfds:tiny_pictures', 'train', tfds_dir)
    assert len(ours) == len(theirs) == len(expected)
    for i, j in enumerate(expected):
        np.testing.assert_array_equal(ours[i]['image'], whole[j]['image'])
        np.testing.assert_array_equal(ours[i]['image'], theirs[i]['image'])


def test_take_keeps_the_order_across_splits():
    source = open_source('digits', 'test[:3]+train[10:12]')
    parts = [open_source('digits', 'test'), open_source('digits', 'train')]
    expected = [parts[1][11], parts[0][0], parts[1][11], parts[0][2]]
    for got, wanted in zip(source.take([4, 0, 4, 2]), expected, strict=True):
        np.testing.assert_array_equal(got['image'], wanted['image'])


def test_a_source_ends_and_pickles(folder, tfds_dir):
    for args in (
        ('digits', 'train'),
        ('synthetic', 'test'),
        (f'folder:{folder}', 'train'),
        ('tfds:tiny_pictures', 'train', tfds_dir),
    ):
        source = open_source(*args)
        copy = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(copy[1]['image'], source[1]['image'])
        with pytest.raises(IndexError):
            source[len(source)]


def test_unknown_data_set():
    assert "did you mean 'digits'?" in line('digit', 'train')
    assert 'tfds:NAME' in line('cifar10', 'train')
    assert 'tfds:NAME' in line('tfds:', 'train')


def test_unknown_split(folder, tfds_dir):
    assert line('digits', 'trian') == "unknown split of digits 'trian'; did you mean 'train'?"
    assert "'val'" in line(f'folder:{folder}', 'vali')
    assert 'known: test, train' in line('tfds:tiny_pictures', 'x[:5]', tfds_dir)


@pytest.mark.parametrize('split', ['train[5', 'train[110%:]', 'train[a:b]', 'train[1shard:]'])
def test_unreadable_split(split):
    assert line('digits', split).startswith(f'cannot read the split {split!r}')


def test_slices_out_of_range():
    assert 'out of range; train has 1437 examples' in line('digits', 'train[:2000]')
    assert 'selects nothing' in line('digits', 'train[20:10]')


def test_folder_faults(folder, tmp_path):
    assert 'no such folder' in line(f'folder:{folder}/gone', 'train')
    assert 'no SPLIT/CLASS folders' in line(f'folder:{folder}/val/dog', 'train')
    (folder / 'train/bird').mkdir()
    assert f'class folder {folder}/train/bird holds no' in line(f'folder:{folder}', 'train')
    assert len(open_source(f'folder:{folder}', 'val')) == 1
    (folder / 'flat').mkdir()
    (folder / 'flat/a.jpg').write_bytes(png(0))
    assert 'holds no class folders' in line(f'folder:{folder}', 'flat')


@pytest.mark.parametrize('content', [png(0, (64, 64, 3))[:60], b'hello'])
def test_bad_image_is_named(folder, content):
    bad = folder / 'train/dog/a.png'
    bad.write_bytes(content)
    source = open_source(f'folder:{folder}', 'train')
    assert source[0]['label'] == 0
    with pytest.raises(InputError, match=str(bad)):
        source[1]


def test_label_outside_the_classes_is_named(tfds_dir):
    source = open_source('tfds:tiny_pictures', 'test', tfds_dir)
    faults = []
    for i in range(4):
        try:
            source[i]
        except InputError as error:
            faults.append((i, str(error)))
    [(index, message)] = faults
    assert f'test example {index} of tfds:tiny_pictures has label -1' in message


def test_tfds_faults(tfds_dir, tmp_path):
    assert "did you mean 'tiny_pictures'" in line('tfds:tiny_picture', 'train', tfds_dir)
    assert 'not prepared' in line('tfds:mnist', 'train', tfds_dir)
    assert 'there: tiny_pictures' in line('tfds:mnist', 'train', tfds_dir)
    assert 'no folder' in line('tfds:mnist', 'train', str(tmp_path / 'gone'))
    assert 'cannot be opened' in line('tfds:mnist:9.9.9', 'train', tfds_dir)


def test_damaged_tfds_files(tfds_dir, tmp_path):
    place = tmp_path / 'tiny_pictures' / '1.0.0'
    shutil.copytree(pathlib.Path(tfds_dir) / 'tiny_pictures' / '1.0.0', place)
    [records] = place.glob('*train*')
    records.unlink()
    source = open_source('tfds:tiny_pictures', 'train', str(tmp_path))
    with pytest.raises(InputError, match=r'cannot read the train split.*array_record'):
        source[0]
    (place / 'dataset_info.json').write_text('{')
    assert 'cannot be opened' in line('tfds:tiny_pictures', 'train', str(tmp_path))


def test_importing_data_imports_nothing_slow():
    slow = "('tensorflow', 'tensorflow_datasets', 'grain', 'sklearn')"
    code = f'import resnet_jax.data, sys; assert not [m for m in {slow} if m in sys.modules]'
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60)
