"""`resnet-jax data prepare`: a smaller copy, which the same pipeline reads, in the same order."""

import io
import json
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from resnet_jax.cli import main
from resnet_jax.data import open_source, split_sizes
from resnet_jax.data.prepared import shrink
from resnet_jax.data.resizing import resize_and_crop

RNG = np.random.default_rng(0)


def smooth(width, height):
    """An image that JPEG changes little."""
    x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 5, height))
    waves = np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=2)
    return Image.fromarray((127 + 100 * waves).astype(np.uint8))


def encoded(image, kind='PNG', **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.fixture
def photos(tmp_path):
    """Images of several shapes and formats; some are smaller than the copy."""
    files = {
        'train/b/wide.png': encoded(smooth(90, 40)),
        'train/b/high.jpg': encoded(smooth(40, 61), 'JPEG', quality=98, subsampling=0),
        'train/a/small.jpg': encoded(smooth(30, 20), 'JPEG'),
        'train/a/grey.png': encoded(smooth(50, 50).convert('L')),
        'val/c/tiny.png': encoded(smooth(9, 8)),
        'val/b/small.webp': encoded(smooth(10, 12), 'WEBP', lossless=True),
    }
    for name, content in files.items():
        path = tmp_path / 'photos' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / 'photos'


def prepare(folder, *options, code=0):
    assert main(['data', 'prepare', str(folder), *map(str, options)]) == code


@pytest.mark.parametrize('raw', [True, False])
def test_the_copy_is_the_set_scaled_down(photos, tmp_path, capsys, raw):
    dst = tmp_path / 'sets'
    options = ['--raw'] if raw else ['--quality=97']
    prepare(dst, f'--data=folder:{photos}', '--size=20', '--json', *options)
    result = json.loads(capsys.readouterr().out)
    assert result['data'] == 'tfds:photos_20px' and result['n'] == 6
    assert result['kept'] == (3 if raw else 2)  # of the pixels, or of JPEG and PNG files
    assert result['before'] == sum(p.stat().st_size for p in photos.rglob('*.*'))
    assert split_sizes(result['data'], str(dst)) == {'train': 4, 'val': 2}
    assert [p.name for p in dst.iterdir()] == ['photos_20px']
    for split in ('train', 'val'):
        old = open_source(f'folder:{photos}', split)
        new = open_source(result['data'], split, str(dst))
        assert new.class_names == old.class_names == ('a', 'b', 'c')
        assert new.labels().tolist() == old.labels().tolist()
        for i, file in enumerate(old.files()):
            before, after = old[i]['image'], new[i]['image']
            shorter = min(before.shape[:2])
            expected = before
            if shorter > 20:
                height, width = (side * 20 // shorter for side in before.shape[:2])
                size, method = (width, height), Image.Resampling.BILINEAR
                expected = np.asarray(Image.fromarray(before).resize(size, method))
            if not raw and (shorter > 20 or file.endswith('.webp')):
                expected = encoded(Image.fromarray(expected), 'JPEG', quality=97)
                expected = np.asarray(Image.open(io.BytesIO(expected)))
            np.testing.assert_array_equal(after, expected)
            assert min(after.shape[:2]) == min(20, shorter)


def test_small_files_are_copied_as_they_are(photos, tmp_path):
    prepare(tmp_path / 'sets', f'--data=folder:{photos}', '--size=20', '--name=mine')
    decoders = {'image': tfds.decode.SkipDecoding()}
    source = tfds.builder('mine', data_dir=tmp_path / 'sets').as_data_source(
        'train', decoders=decoders
    )
    stored = [example['image'] for example in source]
    assert stored[1] == (photos / 'train/a/small.jpg').read_bytes()
    assert Image.open(io.BytesIO(stored[3])).format == 'JPEG'


@pytest.mark.parametrize(('width', 'height'), [(100, 63), (63, 100), (64, 64), (300, 50)])
def test_a_later_crop_is_that_of_the_original(width, height):
    """`resize_and_crop` to the size of the copy gives the same pixels of either."""
    for channels in (1, 3, 5):
        image = RNG.integers(0, 256, (height, width, channels), np.uint8)
        expected = resize_and_crop(image, 24, 32)
        np.testing.assert_array_equal(resize_and_crop(shrink(image, 32), 24, 32), expected)


def test_arrays_of_grey_images(tmp_path, capsys):
    images = RNG.integers(0, 256, (5, 12, 10), np.uint8)
    np.savez(tmp_path / 'a.npz', train_images=images, train_labels=[0, 1, 1, 0, 2])
    prepare(tmp_path / 'sets', f'--data=npz:{tmp_path}/a.npz', '--size=10', '--raw')
    printed = capsys.readouterr().out
    assert f'--config.data.name=tfds:a_10px --config.data.dir={tmp_path}/sets' in printed
    assert '0.0 MiB' in printed and 'copied as they were  5' in printed
    copy = open_source('tfds:a_10px', 'train', str(tmp_path / 'sets'))
    assert copy.channels == 1 and copy.labels().tolist() == [0, 1, 1, 0, 2]
    np.testing.assert_array_equal(copy[4]['image'][:, :, 0], images[4])


def test_a_copy_that_fails_leaves_nothing(photos, tmp_path, capsys):
    whole = (photos / 'train/b/high.jpg').read_bytes()
    bad = photos / 'train/b/high.jpg'
    bad.write_bytes(whole[: len(whole) // 2])
    prepare(tmp_path / 'sets', f'--data=folder:{photos}', '--size=20', code=2)
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(f'resnet-jax: {bad}: ')
    left = [p for p in (tmp_path / 'sets').rglob('*') if p.is_file()]
    assert left == []
    bad.write_bytes(whole)
    prepare(tmp_path / 'sets', f'--data=folder:{photos}', '--size=20')
    prepare(tmp_path / 'sets', f'--data=folder:{photos}', '--size=20', code=2)
    assert 'exists: remove it, or give' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (['--size=0'], '--size must be'),
        (['--size=5000'], '--size must be at most 4096'),
        (['--quality=0'], '--quality must be'),
        (['--quality=101'], '--quality must be at most 100'),
        (['--channels=0'], '--channels must be'),
        (['--channels=4'], 'give --raw'),
        (['--name=../x'], 'small letters, digits and _'),
        (['--name=9x'], 'small letters, digits and _'),
        (['--split=trian'], "did you mean 'train'"),
        (['--split=train[:2]'], 'cannot be one of TFDS'),
        (['--raw', '--quality=9'], 'not allowed with'),
        (['--data=folder:/nowhere'], 'no such folder'),
    ],
)
def test_bad_options(photos, tmp_path, capsys, options, said):
    dst: pathlib.Path = tmp_path / 'sets'
    try:
        code = main(['data', 'prepare', str(dst), f'--data=folder:{photos}', '--size=20', *options])
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and said in capsys.readouterr().err.splitlines()[-1]
    assert not dst.exists()


def test_class_names_that_a_list_cannot_hold(photos, tmp_path, capsys):
    (photos / 'train' / 'a').rename(photos / 'train' / 'a\nb')
    prepare(tmp_path / 'sets', f'--data=folder:{photos}', '--size=20', code=2)
    assert r"the class 'a\nb' cannot be one of TFDS" in capsys.readouterr().err
