"""`tar:PATTERN`: shards of WebDataset, written by the standard library, GNU tar and by hand."""

import io
import json
import pathlib
import pickle
import random
import shutil
import subprocess
import tarfile

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data import fingerprint, open_source, split_sizes
from resnet_jax.data.shard_names import find_shards
from resnet_jax.data.tar_headers import read_members
from resnet_jax.errors import InputError


def png(value: int, kind: str = 'PNG') -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(out, kind)
    return out.getvalue()


def shard(path: pathlib.Path, members, **options) -> pathlib.Path:
    """A shard of (name, bytes or text) members, or of whole TarInfos."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w', **options) as file:
        for name, content in members:
            if isinstance(name, tarfile.TarInfo):
                file.addfile(name)
                continue
            data = content if isinstance(content, bytes) else str(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def pairs(numbers, labels=None):
    """Images of one colour each, with the class that `labels` gives or the number modulo 3."""
    for i in numbers:
        yield f'{i:04}.png', png(i)
        yield f'{i:04}.cls', labels[i] if labels else i % 3


def line(pattern, split='train', **keys):
    with pytest.raises(InputError) as caught:
        open_source(f'tar:{pattern}', split, **keys)
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 600
    return str(caught.value)


def values(source):
    return [int(example['image'][0, 0, 0]) for example in source.take(range(len(source)))]


@pytest.fixture
def shards(tmp_path):
    """Twelve training images in three shards, four others in one."""
    for number in range(3):
        here = range(4 * number, 4 * number + 4)
        shard(tmp_path / f'set-train-{number:03}.tar', pairs(here))
    shard(tmp_path / 'set-val-000.tar', pairs(range(100, 104)))
    return tmp_path


@pytest.mark.parametrize(
    'pattern',
    ['', '/*.tar', '/set-{split}-{000..002}.tar', '/set-{split}-*.tar', '/*-{split}-00?.tar'],
)
def test_patterns(shards, pattern):
    spec = f'tar:{shards}{pattern}'
    assert split_sizes(spec) == {'train': 12, 'val': 4}
    source = open_source(spec, 'train')
    assert (source.class_names, source.channels) == (('0', '1', '2'), 3)
    assert values(source) == list(range(12))
    assert source.labels().tolist() == [i % 3 for i in range(12)]
    assert [e['label'] for e in source.take([7, 0, 11])] == [1, 0, 2]
    assert [int(e['image'][0, 0, 0]) for e in source.take([7, 0, 7, 11])] == [7, 0, 7, 11]
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[5]['image'], source[5]['image'])


def test_braces(shards):
    one = open_source(f'tar:{shards}/set-train-{{002..002}}.tar', 'train')
    assert values(one) == [8, 9, 10, 11]
    listed = open_source(f'tar:{shards}/set-train-{{002,000}}.tar', 'train')
    assert values(listed) == [8, 9, 10, 11, 0, 1, 2, 3]
    both = split_sizes(f'tar:{shards}/set-{{train,val}}-000.tar')
    assert both == {'train': 4, 'val': 4}


def test_splits_are_words(tmp_path):
    for name in ('mytrainer-0', 'Test-0', 'x/valid/0', 'imagenet1k-validation-0', 'a.train.0'):
        shard(tmp_path / f'{name}.tar', pairs(range(2)))
    found = find_shards(f'{tmp_path}/**/*.tar', '')
    names = {split: [path.name for path in paths] for split, paths in found.items()}
    assert names == {
        'train': ['a.train.0.tar', 'mytrainer-0.tar'],
        'test': ['Test-0.tar'],
        'validation': ['imagenet1k-validation-0.tar'],
        'valid': ['0.tar'],
    }


def test_a_split_of_any_name_in_folders(tmp_path):
    for name in ('left/0', 'left/1', 'right/0'):
        shard(tmp_path / f'{name}.tar', pairs(range(2)))
    assert split_sizes(f'tar:{tmp_path}/{{split}}/{{0..1}}.tar') == {'left': 4, 'right': 2}


def test_patterns_without_shards(shards):
    assert 'no such shard' in line(f'{shards}/gone-*.tar')
    assert 'no shard' in line(f'{shards}/set-train-{{000..004}}.tar')
    assert 'and 1 more' in line(f'{shards}/set-train-{{000..004}}.tar')
    (shards / 'set-train-001.tar').unlink()
    assert 'no shard' in line(f'{shards}/set-{{split}}-{{000..002}}.tar')
    assert 'neither a range' in line(f'{shards}/set-{{x}}.tar')
    assert 'no range' in line(f'{shards}/{{9..2}}.tar')
    assert 'no range' in line(f'{shards}/{{0..99999999999}}.tar')
    assert 'more than 100,000' in line(f'{shards}/{{0..9999}}{{0..9999}}.tar')
    assert 'names a shard twice' in line(f'{shards}/{{set-train-000,set-train-000}}.tar')
    (shards / 'empty').mkdir()
    assert 'no *.tar in this folder' in line(shards / 'empty')
    assert "did you mean 'train'" in line(shards, 'trian')


def test_labels_of_json_names_and_others(tmp_path):
    def sample(i):
        fields = {'label': ['ant', 'bee'][i % 2], 'fine': 10 + i, 'id': True}
        return [(f'd/{i}.jpg', png(i, 'JPEG')), (f'd/{i}.json', json.dumps(fields))]

    path = shard(tmp_path / '0.tar', [m for i in range(4) for m in sample(i)])
    assert open_source(f'tar:{path}', 'train').class_names == ('ant', 'bee')
    assert open_source(f'tar:{path}', 'train').labels().tolist() == [0, 1, 0, 1]
    fine = open_source(f'tar:{path}', 'train', label_key='fine')
    assert fine.labels().tolist() == [10, 11, 12, 13] and len(fine.class_names) == 14
    assert 'labels without' not in line(path, label_key='nothing')
    assert 'images without a label (4)' in line(path, label_key='id')
    names = tmp_path / 'names.txt'
    names.write_text('bee\nant\n')
    assert open_source(f'tar:{path}', 'train', label_names=str(names)).labels().tolist() == [
        1,
        0,
        1,
        0,
    ]
    names.write_text('ant\n')
    assert "the class 'bee', which" in line(path, label_names=str(names))
    assert 'has the label 13' in line(path, label_names=str(names), label_key='fine')
    text = shard(tmp_path / '1.tar', [('a.png', png(0)), ('a.txt', ' 7\n')])
    assert open_source(f'tar:{text}', 'train', label_key='txt').labels().tolist() == [7]


def test_several_images_need_a_choice(tmp_path):
    members = [('a.jpg', png(1, 'JPEG')), ('a.png', png(2)), ('a.seg.png', png(3)), ('a.cls', 0)]
    path = shard(tmp_path / '0.tar', members)
    assert 'a has several images (jpg, png); choose one with data.image_key=jpg' in line(path)
    for key, expected in {'png': 2, '.PNG': 2, 'seg.png': 3}.items():
        assert values(open_source(f'tar:{path}', 'train', image_key=key)) == [expected]
    assert 'examples without a member .gif (1)' in line(path, image_key='gif')


def test_what_is_left_out_is_counted_and_said(tmp_path):
    link, device, folder = (tarfile.TarInfo(name) for name in ('b.png', 'c.png', 'd'))
    link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
    device.type, folder.type = tarfile.CHRTYPE, tarfile.DIRTYPE
    members = [
        *[('../../a.png', png(1)), ('../../a.cls', 0)],
        *[(link, None), ('b.cls', 0), (device, None), (folder, None)],
        *[('._e.png', b'what macOS leaves'), ('e.png', png(2)), ('e.txt', 'no label')],
        *[('/etc/f.PNG', png(3)), ('/etc/f.CLS', ' 1 \n'), ('readme', 'x')],
    ]
    source = open_source(f'tar:{shard(tmp_path / "0.tar", members)}', 'train')
    assert values(source) == [1, 3] and source.labels().tolist() == [0, 1]
    assert set(source.notes) == {
        'left out of the shards: 2 links, devices and other members that are no files',
        'left out of the shards: 1 hidden files',
        'left out of the shards: 1 images without a label',
        'left out of the shards: 2 labels without an image',
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ['0.tar']


@pytest.mark.parametrize('form', [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_need_headers_of_their_own(tmp_path, form):
    deep = 'a' * 60 + '/' + 'b' * 60 + '/' + 'c' * 30
    odd = 'ü\x1b[31m'
    members = [(f'{deep}.png', png(1)), (f'{deep}.cls', 1), (f'{odd}.png', b'no image')]
    path = shard(tmp_path / '0.tar', [*members, (f'{odd}.cls', 0)], format=form)
    source = open_source(f'tar:{path}', 'train')
    assert source[0]['image'][0, 0, 0] == 1
    assert source.stored_as(0) == f'{deep}.png in {path}'
    with pytest.raises(InputError, match=f'train example 1 of tar:{path}: not an image'):
        source[1]
    assert source.stored_as(1) == f'ü\\x1b[31m.png in {path}'


@pytest.mark.parametrize('form', [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize('everywhere', [None, {'comment': 'x'}], ids=['', 'global header'])
def test_members_are_those_that_tarfile_lists(tmp_path, form, everywhere):
    """Names of all lengths, folders, links, empty files, and numbers that need base 256."""
    rng, path = random.Random(0), tmp_path / '0.tar'
    with tarfile.open(path, 'w', format=form, pax_headers=everywhere) as file:
        for i in range(120):
            name = '/'.join('ab é'[rng.randrange(4)] * rng.randrange(1, 70) for _ in range(3))
            info = tarfile.TarInfo(f'{name[:200]}{i}' if form != tarfile.USTAR_FORMAT else f'{i}.x')
            info.type = rng.choice([tarfile.REGTYPE] * 6 + [tarfile.DIRTYPE, tarfile.SYMTYPE])
            info.size = rng.choice([0, 1, 511, 512, 513]) if info.isreg() else 0
            info.mtime, info.uid = rng.random() * 1e9, rng.choice([0, 2**30])
            if form == tarfile.USTAR_FORMAT:
                info.mtime, info.uid = int(info.mtime), 0
            file.addfile(info, io.BytesIO(rng.randbytes(info.size)))
    with tarfile.open(path) as file:
        expected = [(m.name, m.offset_data, m.size) for m in file if m.isreg()]
    left_out = {}
    with path.open('rb') as raw:
        found = [(m.name, m.start, m.size) for m in read_members(raw, path, left_out)]
    assert found == expected
    assert len(expected) > 60 and next(iter(left_out.values())) > 5


@pytest.mark.skipif(not shutil.which('tar'), reason='needs tar')
def test_shards_of_tar_itself(tmp_path):
    for name, content in pairs(range(6)):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else b'%d' % content)
    names = sorted(p.name for p in tmp_path.iterdir())
    subprocess.run(['tar', '-cf', 'set.tar', *names], cwd=tmp_path, check=True)
    assert values(open_source(f'tar:{tmp_path}/set.tar', 'train')) == list(range(6))
    subprocess.run(['tar', '-czf', 'set.tgz', *names], cwd=tmp_path, check=True)
    assert 'compressed with gzip' in line(f'{tmp_path}/set.tgz')


@pytest.mark.parametrize('kind', ['gz', 'bz2', 'xz'])
def test_compressed_shards_are_refused(tmp_path, kind):
    path = tmp_path / '0.tar'
    with tarfile.open(path, f'w:{kind}') as file:
        file.addfile(tarfile.TarInfo('a.png'))
    assert 'decompress it' in line(path)


def test_damaged_shards_are_refused_or_read(shards):
    path = shards / 'set-train-001.tar'
    whole, rng = path.read_bytes(), random.Random(0)
    said = []
    for end in (0, 1, 511, 512, 600, 4000, 512 * 12):
        path.write_bytes(whole[:end])
        said.append(line(shards))
    assert all(str(path) in each for each in said)
    assert all('cut short' in each or 'damaged at byte 0' in each for each in said), said
    path.write_bytes(whole[:1024] + b'y' * 512 + whole[1536:])
    assert 'damaged at byte' in line(shards)
    path.write_bytes(whole + whole)
    assert 'as in archives that were joined' in line(shards)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            source = open_source(f'tar:{shards}', 'train')
            source.take(range(len(source)))
        except InputError as error:
            assert '\n' not in str(error)


def test_a_shard_that_changes_while_it_is_used(shards):
    source = open_source(f'tar:{shards}', 'train')
    (shards / 'set-train-002.tar').write_bytes(b'')
    assert source[0]['label'] == 0
    with pytest.raises(InputError, match='has changed since'):
        source[11]
    (shards / 'set-train-002.tar').unlink()
    with pytest.raises(InputError, match='cannot read this shard'):
        source[11]


def test_labels_that_are_none(tmp_path):
    path = tmp_path / '0.tar'
    for text, said in {
        '-1': 'has the label -1, which is no class',
        '9' * 30: 'no image',
        '1048577': 'above 1,048,576',
        '': 'images without a label (1)',
    }.items():
        shard(path, [('a.png', png(0)), ('a.cls', text)])
        if said == 'no image':  # text, since it is no number that a label can be
            assert open_source(f'tar:{path}', 'train').class_names == (text,)
        else:
            assert said in line(path)
    shard(path, [('a.png', png(0)), ('a.cls', b'\xff')])
    assert 'must be text or a number' in line(path)
    shard(path, [('a.png', png(0)), ('a.cls', b'0' * 2**21)])
    assert 'too many for a label' in line(path)
    shard(path, [('a.png', png(0)), ('a.json', '[' * 100)])
    assert 'a.json: no JSON object' in line(path)


def test_the_fingerprint_knows_a_moved_set_and_a_changed_one(shards):
    def mark(folder):
        return fingerprint(open_source(f'tar:{folder}', 'train'))

    first = mark(shards)
    shutil.copytree(shards, shards / 'moved')
    assert mark(shards / 'moved') == first
    shard(shards / 'set-train-001.tar', pairs(range(4, 8), {4: 1, 5: 1, 6: 1, 7: 1}))
    assert mark(shards) != first


def test_slices_have_the_classes_in_proportion(tmp_path):
    path = shard(tmp_path / '0.tar', pairs(range(12), {i: i // 4 for i in range(12)}))
    source = open_source(f'tar:{path}', 'train[:50%]')
    assert np.bincount(source.labels()).tolist() == [2, 2, 2]
    assert [e['label'] for e in source.take(range(6))] == source.labels().tolist()
