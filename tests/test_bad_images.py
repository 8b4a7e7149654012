"""Training images that cannot be read: replaced by others, always the same, and counted."""

import json

import numpy as np
import pytest
from members import members
from PIL import Image
from running import STREAMED, tiny

from resnet_jax.data import (
    BadImages,
    Preprocessing,
    batch_indices,
    load_arrays,
    open_source,
    train_batches,
)
from resnet_jax.data.bad_images import JUDGED_AFTER
from resnet_jax.errors import InputError
from resnet_jax.training import loop

COUNT, BAD = 40, (3, 17, 29)
GREY = Preprocessing(8, 1, None, (0.5,), (1.0,), ('0', '1'))


@pytest.fixture
def folder(tmp_path):
    """Images of one shade each, 5 i, of which three are damaged in three ways."""
    for i in range(COUNT):
        path = tmp_path / f'images/train/{i % 2}/{i:02}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 5 * i, np.uint8)).save(path)
        (tmp_path / f'images/test/{i % 2}').mkdir(parents=True, exist_ok=True)
    for i in range(4):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(
            tmp_path / f'images/test/{i % 2}/{i}.png'
        )
    for i, text in zip(BAD, ('', 'no image', None), strict=True):
        path = tmp_path / f'images/train/{i % 2}/{i:02}.png'
        path.write_bytes(path.read_bytes()[:45] if text is None else text.encode())
    return tmp_path / 'images'


def numbers(batches):
    """Which image stands where in the stream."""
    return np.concatenate([batch['image'][:, 0, 0, 0] // 5 for batch in batches])


def stream(source, bad, steps=(0, 16), batch=10, workers=0, seed=4):
    return list(
        train_batches(
            source, GREY, seed=seed, batch_size=batch, first_step=steps[0], last_step=steps[1],
            workers=workers, bad=bad,
        )
    )  # fmt: skip


def order(source):
    """The number of the image that each index of the source stands for."""
    return np.asarray([int(name[-6:-4]) for name in source.files()])


def test_another_image_takes_the_place_of_a_bad_one(folder):
    source, bad = open_source(f'folder:{folder}', 'train'), BadImages(1.0)
    batches = stream(source, bad)
    wanted = order(source)[np.concatenate([batch_indices(4, s, 10, COUNT) for s in range(16)])]
    found, damaged = numbers(batches), np.isin(wanted, BAD)
    np.testing.assert_array_equal(found[~damaged], wanted[~damaged])
    assert not np.isin(found, BAD).any()
    assert len(set(found[damaged])) > 6  # 12 places, drawn anew for each
    np.testing.assert_array_equal(np.concatenate([b['label'] for b in batches]), found % 2)
    assert (bad.count, bad.read) == (12, 160)  # each of 3 in each of 4 epochs
    assert bad.first.endswith(('the file is empty; replace it', 'give a JPEG or PNG', ')'))
    assert set(batches[0]) == {'image', 'label'}


@pytest.mark.slow
def test_the_replacement_is_a_function_of_seed_and_position(folder):
    source = open_source(f'folder:{folder}', 'train')
    whole = numbers(stream(source, BadImages(1.0)))
    np.testing.assert_array_equal(numbers(stream(source, BadImages(1.0), workers=2)), whole)
    np.testing.assert_array_equal(numbers(stream(source, BadImages(1.0), (5, 16))), whole[50:])
    np.testing.assert_array_equal(numbers(stream(source, BadImages(1.0), (0, 8), 20)), whole)
    assert (numbers(stream(source, BadImages(1.0), seed=5)) != whole).any()


def test_images_in_memory_are_replaced_too(folder):
    source, bad = open_source(f'folder:{folder}', 'train'), BadImages(1.0)
    arrays, wanted = load_arrays(source, GREY, bad=bad), order(source)
    found, damaged = arrays['image'][:, 0, 0, 0] // 5, np.isin(wanted, BAD)
    np.testing.assert_array_equal(found[~damaged], wanted[~damaged])
    assert not np.isin(found, BAD).any()
    np.testing.assert_array_equal(arrays['label'], found % 2)
    assert (bad.count, bad.read) == (3, COUNT)


def test_a_share_of_bad_images_is_allowed():
    bad = BadImages(0.01)
    bad.add(['a: bad'] * 10, 64)  # of the first thousand
    with pytest.raises(InputError, match=r'11 of 128 images.*bad_images_share=0\.01.*a: bad'):
        bad.add(['b: bad'], 64)
    bad = BadImages(0.01)
    for _ in range(10):
        bad.add(['a: bad'], 100)
    assert bad.read == JUDGED_AFTER
    bad.add([], 100)
    bad.add(['a: bad'], 1)
    with pytest.raises(InputError, match='13 of 1101'):
        bad.add(['a: bad'] * 2, 0)
    with pytest.raises(InputError, match='1 of 5 images'):
        BadImages(0.0).add(['a: bad'], 5)


def test_where_none_can_be_read_the_image_is_named(tmp_path):
    for i in range(4):
        path = tmp_path / f'train/{i % 2}/{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('none')
    source = open_source(f'folder:{tmp_path}', 'train')
    with pytest.raises(InputError, match=r'\.png: not an image.*nor can 100 others'):
        stream(source, BadImages(1.0), batch=2)


FIELDS = {
    'data.image_size': 8,
    'data.bad_images': 'skip',
    'train.batch_size': 10,
    'train.steps': 8,
    'train.log_every': 4,
    'train.eval_every': 0,
    'checkpoint.every': 4,
}


@pytest.mark.parametrize('streamed', members([True, False], (False,)))
def test_a_run_counts_what_it_replaces(folder, tmp_path, capsys, streamed):
    fields = {**FIELDS, 'data.name': f'folder:{folder}', **(STREAMED if streamed else {})}
    summary = loop.train(tiny(fields), tmp_path / 'run')
    lines = [json.loads(line) for line in (tmp_path / 'run/metrics.jsonl').open()]
    train = [line for line in lines if line['split'] == 'train']
    said = capsys.readouterr().err
    assert 'training images cannot be read and were replaced' in said
    if streamed:
        assert [line['bad_images'] for line in train] == [3, 3]  # an epoch each
        assert all(0 <= line['data_wait'] <= 1 for line in train)
        assert 0 <= summary['data_wait'] <= 1
        assert 'data wait' in said and '3 bad images' in said
    else:
        assert not any('bad_images' in line or 'data_wait' in line for line in train)
        assert summary['data_wait'] is None
    assert summary['bad_images'] == (6 if streamed else 3)


@pytest.mark.slow
def test_too_many_end_the_run_and_keep_its_checkpoint(folder, tmp_path):
    fields = {**FIELDS, 'data.name': f'folder:{folder}', **STREAMED, 'train.steps': 30,
              'data.bad_images_share': 0.005}  # fmt: skip
    words = r'6 of \d+ images.*; the first: .*last good checkpoint is of step (4|8); correct'
    with pytest.raises(InputError, match=words) as error:
        loop.train(tiny(fields), tmp_path / 'run')
    assert '\n' not in str(error.value)
    with pytest.raises(InputError, match=r'not an image|cannot read'):
        loop.train(tiny({k: v for k, v in fields.items() if not k.startswith('data.bad')}),
                   tmp_path / 'other')  # fmt: skip
