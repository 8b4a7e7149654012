"""Images of other channels than grey and RGB: TIFFs of N bands, arrays, and a run on them."""

import json
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from resnet_jax.cli import main
from resnet_jax.data import (
    Preprocessing,
    fit_mean,
    fit_std,
    load_arrays,
    open_source,
    train_batches,
)
from resnet_jax.data.images import decode_image
from resnet_jax.data.pictures import random_resized_crop
from resnet_jax.data.resizing import convert_channels, resize_and_crop
from resnet_jax.errors import InputError


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def tiff(
    image, order='<', planar=False, predictor=1, deflate=False, tile=0, rows=3, **changed
) -> bytes:
    """A TIFF 6.0 file written by hand: strips of `rows`, or square tiles, in one or N planes."""
    height, width, bands = image.shape
    planes = [image[:, :, i : i + 1] for i in range(bands)] if planar else [image]
    parts = []
    for plane in planes:
        if tile:
            padded = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)))
            corners = [(y, x) for y in range(0, height, tile) for x in range(0, width, tile)]
            parts += [padded[y : y + tile, x : x + tile] for y, x in corners]
        else:
            parts += [plane[y : y + rows] for y in range(0, height, rows)]
    if predictor == 2:  # section 14: each sample less its left neighbour in the same band
        parts = [np.diff(part, axis=1, prepend=np.uint8(0)) for part in parts]
    blobs = [part.astype(np.uint8).tobytes() for part in parts]
    blobs = [zlib.compress(blob) for blob in blobs] if deflate else blobs
    body, places = b'', []
    for blob in blobs:
        places.append(8 + len(body))
        body += blob + bytes(len(blob) % 2)
    entries = {256: [width], 257: [height], 258: [8] * bands, 259: [8 if deflate else 1]}
    entries |= {262: [1], 277: [bands], 284: [2 if planar else 1], 317: [predictor]}
    entries |= {322: [tile], 323: [tile], 324: places} if tile else {273: places, 278: [rows]}
    entries[325 if tile else 279] = [len(blob) for blob in blobs]
    entries |= {int(tag[1:]): value for tag, value in changed.items()}
    start, table, tail = 8 + len(body), b'', b''
    lists = start + 2 + 12 * len(entries) + 4
    for tag, values in sorted(entries.items()):
        short = tag in (258, 259, 262, 277, 284, 317, 274, 338, 339)
        packed = struct.pack(f'{order}{len(values)}{"H" if short else "I"}', *values)
        table += struct.pack(f'{order}HHI', tag, 3 if short else 4, len(values))
        if len(packed) > 4:
            place, tail = lists + len(tail), tail + packed
            packed = struct.pack(f'{order}I', place)
        table += packed.ljust(4, b'\0')
    head = {'<': b'II*\0', '>': b'MM\0*'}[order] + struct.pack(f'{order}I', start)
    return head + body + struct.pack(f'{order}H', len(entries)) + table + bytes(4) + tail


@pytest.mark.parametrize('planar', [False, True], ids=['interleaved', 'planar'])
@pytest.mark.parametrize('predictor', [1, 2])
@pytest.mark.parametrize('tile', [0, 16])
@pytest.mark.parametrize('order', ['<', '>'])
def test_bands_are_read_exactly(planar, predictor, tile, order):
    image = noise(21, 37, 5)
    deflate = predictor == 2  # a predictor goes with LZW and deflate only
    file = tiff(image, order, planar, predictor, deflate=deflate, tile=tile)
    np.testing.assert_array_equal(decode_image(file, 5), image)


def test_pillows_rgb_is_the_same_as_three_bands():
    image = noise(6, 7, 3)
    np.testing.assert_array_equal(decode_image(tiff(image, n262=[2])), image)
    np.testing.assert_array_equal(decode_image(tiff(image)), image)  # three bands of no colour
    four = noise(6, 7, 4)
    rgbx = tiff(four, n262=[2], n338=[0])
    np.testing.assert_array_equal(decode_image(rgbx, 4), four)
    np.testing.assert_array_equal(decode_image(rgbx, 3), four[:, :, :3])


def test_the_orientation_is_applied():
    image = noise(4, 6, 5)
    np.testing.assert_array_equal(
        decode_image(tiff(image, n274=[6]), 5), np.rot90(image, -1)
    )  # TIFF 6.0: row 0 is the right side


def rgb_png(path):
    Image.fromarray(noise(4, 4, 3)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ('file', 'channels', 'message'),
    [
        (
            lambda p: rgb_png(p / 'x.png'),
            4,
            'no TIFF of several bands, and 4 are wanted; give one, or',
        ),
        (lambda p: b'II+\0' + bytes(40), 4, 'a BigTIFF; write it'),
        (lambda p: tiff(noise(4, 4, 5)), 4, 'a TIFF of 5 bands where 4 are wanted; .*channels=5'),
        (lambda p: tiff(noise(4, 4, 5)), 3, 'a TIFF of 5 bands, not of grey or RGB; .*channels=5'),
        (lambda p: tiff(noise(4, 4, 5), n258=[16] * 5), 5, '5 bands of 16 bits, .*8 bits'),
        (lambda p: tiff(noise(4, 4, 5), n339=[3] * 5), 5, 'signed or floating.*8 bits'),
        (lambda p: tiff(noise(4, 4, 5), n259=[7]), 5, 'uncompressed or with LZW'),
        (lambda p: tiff(noise(4, 4, 5))[:60], 5, 'x'),
        (lambda p: tiff(noise(4, 4, 5), n273=[8, 10**6]), 5, 'x'),
    ],
)
def test_what_is_not_read_says_what_to_do(file, channels, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        decode_image(file(tmp_path), channels, 'x')
    assert '\n' not in str(error.value) and str(error.value).startswith('x: ')


def test_damaged_files_are_refused_or_read():
    """Bytes at random places: an image of the right shape, or an error that a user can read."""
    data, rng = tiff(noise(8, 9, 5), deflate=True), np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            damaged[place] = rng.integers(256)
        try:
            assert decode_image(bytes(damaged), 5, 'x').shape[2] == 5
        except InputError as error:
            assert str(error).startswith('x: ')


def test_bands_are_resized_like_the_colours_of_an_image():
    image = noise(40, 50, 3)
    five = np.concatenate([image, image[:, :, :2]], axis=2)
    for change in (
        lambda x: resize_and_crop(x, 16, 20),
        lambda x: random_resized_crop(x, 16, np.random.default_rng(3)),
    ):
        np.testing.assert_array_equal(change(five)[:, :, :3], change(image))
        np.testing.assert_array_equal(change(five)[:, :, 3:], change(image)[:, :, :2])


def test_only_grey_and_rgb_are_converted():
    five = noise(4, 4, 5)
    assert convert_channels(five, 5) is five
    with pytest.raises(InputError, match=re.escape('set data.channels=5')):
        convert_channels(five, 3)
    with pytest.raises(InputError, match='3 channels where 4 are wanted'):
        convert_channels(five[:, :, :3], 4)


def test_statistics_are_those_of_each_band():
    images = noise(10, 4, 4, 6)
    mean, std = fit_mean(images), fit_std(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-6)
    prepared = Preprocessing(4, 6, None, mean, std, ('a',))
    assert prepared == Preprocessing.from_json(prepared.to_json())
    normal = np.asarray(prepared.normalize(images))
    np.testing.assert_allclose(normal.std((0, 1, 2)), 1, rtol=1e-5)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Two classes that only the fifth band tells apart."""
    root = tmp_path_factory.mktemp('bands')
    for split, count in (('train', 12), ('test', 4)):
        for label, name in enumerate(('dry', 'wet')):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = noise(12, 14, 5, seed=100 * i + label)
                image[:, :, 4] = 40 + 150 * label
                file = tiff(image, planar=i % 2 > 0)
                (root / split / name / f'{i}.tif').write_bytes(file)
    return root


TRAIN = {'model.name': 'cifar_resnet8', 'model.stage_sizes': '(1,)', 'model.width': 4,
         'model.stem_width': 4, 'data.image_size': 8, 'train.batch_size': 8, 'train.steps': 12,
         'augment.transforms': "('pad_crop(pad=1)','flip')",
         'optim.learning_rate': 0.1}  # fmt: skip


@pytest.mark.slow
def test_a_run_on_five_bands(folder, tmp_path, capsys):
    fields = {**TRAIN, 'data.name': f'folder:{folder}', 'data.channels': 5}
    flags = [f'--config.{name}={value}' for name, value in fields.items()]
    work = tmp_path / 'run'
    assert main(['train', '--config', 'digits', '--workdir', str(work), *flags]) == 0
    capsys.readouterr()
    assert main(['eval', '--workdir', str(work), '--json']) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures['n'], figures['top1']) == (8, 1.0)
    images = [str(folder / 'test' / name / '0.tif') for name in ('dry', 'wet')]
    sheet = tmp_path / 'sheet.png'
    assert main(['predict', '--workdir', str(work), *images, '--json', f'--sheet={sheet}']) == 0
    found = json.loads(capsys.readouterr().out)['predictions']
    assert [one['top'][0]['class'] for one in found] == ['dry', 'wet']
    assert min(Image.open(sheet).size) > 100
    assert main(['predict', '--workdir', str(work), str(rgb_png_file(tmp_path))]) == 2
    assert 'no TIFF of several bands, and 5 are wanted' in capsys.readouterr().err


def rgb_png_file(folder):
    rgb_png(folder / 'x.png')
    return folder / 'x.png'


def test_images_of_other_bands_are_refused_before_training(folder, tmp_path, capsys):
    fields = {**TRAIN, 'data.name': f'folder:{folder}', 'data.channels': 4}
    flags = [f'--config.{name}={value}' for name, value in fields.items()]
    assert main(['train', '--config', 'digits', '--workdir', str(tmp_path / 'x'), *flags]) == 2
    assert 'a TIFF of 5 bands where 4 are wanted' in capsys.readouterr().err


def test_random_crops_of_a_streamed_folder(folder):
    """The bands of a crop come from one box: the constant fifth stays so."""
    source = open_source(f'folder:{folder}', 'train')
    to = Preprocessing(8, 5, None, (0.5,) * 5, (0.5,) * 5, source.class_names)
    (batch,) = train_batches(
        *(source, to), seed=0, batch_size=8, first_step=0, last_step=1,
        transforms=('random_resized_crop(scale=(0.3, 1.0))',),
    )  # fmt: skip
    assert batch['image'].shape == (8, 8, 8, 5)
    for image, label in zip(batch['image'], batch['label'], strict=True):
        assert (image[:, :, 4] == 40 + 150 * label).all()


def tfds_of(shape, dtype, place):
    """A data set of arrays, written without TensorFlow."""
    import tensorflow_datasets as tfds

    class TinyArrays(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version('1.0.0')

        def _info(self):
            features = {
                'bands': tfds.features.Tensor(shape=shape, dtype=dtype),
                'label': tfds.features.ClassLabel(names=['a', 'b']),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {'train': self._generate_examples()}

        def _generate_examples(self):
            for i in range(4):
                yield i, {'bands': noise(*shape, seed=i).astype(dtype), 'label': i % 2}

    builder = TinyArrays(data_dir=str(place), file_format='array_record')
    builder.download_and_prepare()
    return str(place)


def test_a_data_set_of_arrays(tmp_path):
    place = tfds_of((6, 7, 4), np.uint8, tmp_path)
    source = open_source('tfds:tiny_arrays', 'train', place)
    assert (source.channels, len(source)) == (4, 4)
    expected = {noise(6, 7, 4, seed=i).tobytes() for i in range(4)}
    assert {source[i]['image'].tobytes() for i in range(4)} == expected
    three = Preprocessing(6, 3, None, (0.5,) * 3, (0.5,) * 3, source.class_names)
    with pytest.raises(InputError, match=r'4 channels where 3 are wanted.*set data\.channels=4'):
        load_arrays(source, three)
    four = Preprocessing(6, 4, None, (0.5,) * 4, (0.5,) * 4, source.class_names)
    assert load_arrays(source, four)['image'].shape == (4, 6, 6, 4)


def test_arrays_that_are_no_images_are_refused(tmp_path):
    place = tfds_of((6, 7, 4), np.float32, tmp_path)
    with pytest.raises(InputError, match=r'bands holds float32 numbers of shape .*uint8'):
        open_source('tfds:tiny_arrays', 'train', place)
