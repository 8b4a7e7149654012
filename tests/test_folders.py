"""Folders of images: their layouts, slices in proportion, and data that change under a run."""

import io
import json
import os
import shutil
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image
from running import flags

from resnet_jax.cli import main
from resnet_jax.data import fingerprint, fingerprint_changes, hold_out, open_source
from resnet_jax.data.folders import read_image_folder
from resnet_jax.data.sources import stratified_order
from resnet_jax.errors import InputError


def write_images(root, paths):
    """A 4x4 picture at each path, whose colour depends on the path."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        value = zlib.crc32(str(path).encode()) % 256
        out = io.BytesIO()
        Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(out, 'PNG')
        file.write_bytes(out.getvalue())
    return root


def pairs(split, classes, count=2, inside=''):
    return [f'{split}/{name}/{inside}{i}.png' for name in classes for i in range(count)]


TWO = [*pairs('train', ('cat', 'dog')), *pairs('val', ('cat', 'dog'), 1)]
SIZES = {'train': {'cat': 2, 'dog': 2}, 'val': {'cat': 1, 'dog': 1}}
# Name -> (images, other files, images of each class of each split, words of the notes).
LAYOUTS = {
    'splits': (TWO, [], SIZES, []),
    'junk': (
        [*TWO, '__MACOSX/train/cat/x.png', 'train/@eaDir/x.png', 'train/cat/@eaDir/0.png'],
        ['lost+found/x', 'train/cat/Thumbs.db'],
        SIZES,
        ['__MACOSX', 'train/@eaDir', 'train/cat/@eaDir', 'lost+found', '1 files', '.db'],
    ),
    'annotations with masks': (
        [*TWO, 'annotations/masks/0.png'], ['notes/readme.txt'], SIZES, ['annotations', 'notes'],
    ),
    'images inside classes': (  # as TinyImageNet's training images
        [*pairs('train', ('cat', 'dog'), inside='images/'), *pairs('val', ('cat', 'dog'), 1)],
        ['train/cat/cat_boxes.txt'], SIZES, ['.txt'],
    ),
    'no splits': (
        [*pairs('.', ('cat', 'dog'))], [], {'train': {'cat': 2, 'dog': 2}}, ['no split folders'],
    ),
    'no splits, images inside': (
        [*pairs('.', ('cat', 'dog'), inside='images/')], [], {'train': {'cat': 2, 'dog': 2}},
        ['no split folders'],
    ),
    'doubled as a whole': ([f'pets/{path}' for path in TWO], [], SIZES, ['the images are in']),
    'doubled splits': (
        [*pairs('seg_train/seg_train', ('cat', 'dog')), 'seg_pred/seg_pred/0.png',
         *pairs('seg_test/seg_test', ('cat', 'dog'), 1)],
        [], {'seg_train': SIZES['train'], 'seg_test': SIZES['val'], 'seg_pred': {}}, [],
    ),
    'a split inside another': (
        [*TWO, *pairs('train/val', ('cat', 'dog'))], [], SIZES, ['train/val: a split inside'],
    ),
    'other names of splits': (
        [*pairs('a', ('cat', 'dog')), *pairs('b', ('dog',))], [],
        {'a': {'cat': 2, 'dog': 2}, 'b': {'dog': 2}}, ['the split b has no image of cat'],
    ),
    'an unlabelled test split': (
        [*TWO, 'test/0.png', 'test/1.png'], [], {**SIZES, 'test': {}}, [],
    ),
    'images beside the classes': ([*TWO, 'train/0.png'], [], SIZES, ['ignored 1 images']),
    'a class without training images': (
        [*pairs('train', ('cat',)), *pairs('val', ('cat', 'dog'), 1)], [],
        {'train': {'cat': 2}, 'val': {'cat': 1, 'dog': 1}}, ['the split train has no image of dog'],
    ),
    'names that look alike': (
        [*pairs('train', ('Cat', 'cat', 'caf\u00e9')),
         *pairs('val', (unicodedata.normalize('NFD', 'caf\u00e9'),))],
        [], {'train': {'Cat': 2, 'cat': 2, 'caf\u00e9': 2}, 'val': {'cafe\u0301': 2}},
        ['only by case: Cat, cat', "Unicode form: 'cafe\\u0301', 'caf\\xe9'"],
    ),
    'hidden files': ([*TWO, 'train/.cache/0.png', 'train/cat/.0.png'], ['.git/x'], SIZES, []),
}  # fmt: skip


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(layout, tmp_path):
    images, others, expected, words = LAYOUTS[layout]
    root = write_images(tmp_path / 'pets', images)
    for path in others:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text('x')
    found = read_image_folder(root)
    counts = {
        split: {name: sum(found.class_names[label] == name for _, label in files)
                for name in {found.class_names[label] for _, label in files}}
        for split, files in found.files.items()
    }  # fmt: skip
    assert counts == expected
    assert found.class_names == tuple(sorted({n for split in expected.values() for n in split}))
    for word in words:
        assert any(word in note for note in found.notes), (word, found.notes)
    for split, files in expected.items():
        if files:
            source = open_source(f'folder:{root}', split)
            assert [source[i]['label'] for i in range(len(source))] == list(source.labels())
        else:
            with pytest.raises(InputError, match=r'holds no class folders .*data\.labels=FILE'):
                open_source(f'folder:{root}', split)


LABELS = {
    'names, comma': 'a.png,cat\nb.png,dog\n',
    'names without suffix': 'a,cat\nb,dog\n',
    'paths in the folder': 'val/images/a.png,cat\nval/images/b.png,dog\n',
    'with a header': 'file,label\na.png,cat\nb.png,dog\n',
    "TinyImageNet's": 'a.png\tcat\t0\t32\t44\t62\nb.png\tdog\t0\t0\t63\t63\n',
    "ImageNet's": 'ImageId,PredictionString\na,cat 1 2 3 4 \nb,dog 1 2 3 4 cat 5 6 7 8 \n'
                  'c,dog 9 9 9 9\n',
    'with a byte order mark': '\ufeffa.png,cat\nb.png,dog\n',
}  # fmt: skip


@pytest.mark.parametrize('labels', LABELS)
def test_a_file_gives_the_classes(labels, tmp_path):
    write_images(
        tmp_path, [*pairs('train', ('cat', 'dog')), 'val/images/a.png', 'val/images/b.png']
    )
    (tmp_path / 'val' / 'labels.csv').write_text(LABELS[labels])
    source = open_source(f'folder:{tmp_path}', 'val', labels='val/labels.csv')
    assert source.class_names == ('cat', 'dog')
    assert source.files() == ['val/images/a.png', 'val/images/b.png']
    assert list(source.labels()) == [0, 1]
    absolute = open_source(f'folder:{tmp_path}', 'val', labels=str(tmp_path / 'val/labels.csv'))
    assert absolute.files() == source.files()


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('a.png,cat\n', 'gives no class for'),
        ('a.png,cat\nb.png\n', 'line 2 of'),
        ('a.png,cat\na.png,dog\nb.png,dog\n', 'two classes'),
        (None, 'cannot read'),
    ],
)
def test_a_file_of_classes_that_does_not_fit(text, words, tmp_path):
    write_images(tmp_path, [*pairs('train', ('cat', 'dog')), 'val/a.png', 'val/b.png'])
    if text is not None:
        (tmp_path / 'labels.csv').write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        open_source(f'folder:{tmp_path}', 'val', labels='labels.csv')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('seed', range(20))
def test_every_stretch_has_the_classes_in_proportion(seed):
    """In any stretch a class has its share, to within one example at each end."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 40, size=rng.integers(1, 12))
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    order = stratified_order(labels)
    assert sorted(order) == list(range(len(labels)))
    assert list(order) == list(stratified_order(labels))
    for start, stop in np.sort(rng.integers(len(labels) + 1, size=(50, 2))):
        found = np.bincount(labels[order[start:stop]], minlength=len(counts))
        share = counts * (stop - start) / len(labels)
        assert np.all(np.abs(found - share) < 2 + 1e-9), (found, share)


def test_slices_are_parts_in_proportion(tmp_path):
    write_images(tmp_path, [*pairs('train', 'abcd', 8), *pairs('test', 'abcd', 2)])
    spec = f'folder:{tmp_path}'
    whole = open_source(spec, 'train')
    parts = [open_source(spec, split) for split in ('train[:75%]', 'train[75%:]')]
    for part, each in zip(parts, (6, 2), strict=True):
        assert list(np.bincount(part.labels())) == [each] * 4
    assert sorted([*parts[0].files(), *parts[1].files()]) == whole.files()
    for part in parts:
        for i in (0, len(part) - 1):
            expected = whole[whole.files().index(part.files()[i])]
            np.testing.assert_array_equal(part[i]['image'], expected['image'])
    both = open_source(spec, 'train[:50%]+test')
    assert len(both) == 24 and list(np.bincount(both.labels())) == [6] * 4
    old = open_source(spec, 'train[:75%]', slice_order='sorted')
    assert list(np.bincount(old.labels())) == [8, 8, 8]
    assert whole.files() == sorted(whole.files()), 'a whole split keeps its order'


@pytest.mark.parametrize(('spec', 'split'), [('digits', 'train'), ('digits', 'train[:500]+test')])
def test_held_out_examples(spec, split):
    source = open_source(spec, split)
    rest, held = hold_out(source, 0.1)
    assert (len(rest), len(held)) == (
        len(source) - round(len(source) / 10),
        round(len(source) / 10),
    )
    share = np.bincount(source.labels()) / 10
    assert np.all(np.abs(np.bincount(held.labels()) - share) <= 1)
    assert sorted([*rest.chosen, *held.chosen]) == list(range(len(source)))
    for fraction in (1e-9, 1 - 1e-9):
        with pytest.raises(InputError, match='leaves a part empty'):
            hold_out(source, fraction)


def test_a_fingerprint_tells_what_changed(tmp_path):
    root = write_images(tmp_path / 'pets', TWO)

    def now(path=root):
        return fingerprint(open_source(f'folder:{path}', 'train'))

    old = json.loads(json.dumps(now()))
    assert fingerprint_changes(old, now()) == []
    shutil.copytree(root, tmp_path / 'moved')
    assert fingerprint_changes(old, now(tmp_path / 'moved')) == []

    cat = root / 'train/cat/0.png'
    good = cat.read_bytes()
    cat.write_bytes(good + b' ')
    assert fingerprint_changes(old, now()) == ["files of other names or sizes in 'cat'"]
    cat.unlink()
    assert fingerprint_changes(old, now()) == ["'cat' had 2 images and has 1"]
    cat.write_bytes(good)
    assert fingerprint_changes(old, now()) == []
    os.rename(root / 'train/cat', root / 'train/wolf')
    os.rename(root / 'val/cat', root / 'val/wolf')
    assert fingerprint_changes(old, now()) == ["the class 'cat' is gone", "the class 'wolf' is new"]


@pytest.fixture
def train(tmp_path, capsys):
    """Trains four steps on tmp_path/pets, or on another folder: exit code and stderr."""

    def run(fields=None, root=None):
        values = {
            'data.name': f'folder:{root or tmp_path / "pets"}', 'data.eval_split': 'val',
            'data.image_size': 8, 'data.channels': 3, 'train.batch_size': 2, 'train.steps': 4,
            'train.eval_every': 0, 'checkpoint.every': 2, **(fields or {}),
        }  # fmt: skip
        given = {name: value for name, value in values.items() if value is not None}
        capsys.readouterr()
        code = main(['train', *flags(given), '--workdir', str(tmp_path / 'run')])
        return code, capsys.readouterr().err

    return run


def half_done(folder):
    """Makes a finished run look as if it had been killed after the second step."""
    shutil.rmtree(folder / 'checkpoints' / '4')
    (folder / 'summary.json').unlink()


CHANGES = {
    'a class renamed': (lambda root: os.rename(root / 'train/cat', root / 'train/a'), False),
    'a class added': (lambda root: write_images(root, pairs('train', ('bee',))), False),
    'a class removed': (
        lambda root: [shutil.rmtree(root / split / 'cat') for split in ('train', 'val')], False),
    'an image added': (lambda root: write_images(root, ['train/cat/9.png']), True),
    'an image removed': (lambda root: (root / 'train/cat/0.png').unlink(), True),
    'an image replaced': (lambda root: write_images(root, ['x.png']).joinpath('x.png').replace(
        root / 'train/cat/0.png') and (root / 'train/cat/0.png').open('ab').write(b'  '), True),
    'an evaluation image removed': (lambda root: write_images(root, ['val/dog/1.png']), True),
}  # fmt: skip


@pytest.mark.slow
def test_a_run_is_continued_on_the_same_data_alone(tmp_path, train):
    root = write_images(tmp_path / 'pets', TWO)
    code, err = train()
    assert code == 0, err
    assert 'train: 4 images of 2 classes, 2 of each; eval: 2 images of 2 classes, 1 of each' in err
    half_done(tmp_path / 'run')
    shutil.copytree(tmp_path / 'run', tmp_path / 'kept')
    shutil.copytree(root, tmp_path / 'good')
    for name, (change, may_go_on) in CHANGES.items():
        change(root)
        code, err = train()
        assert code == 2 and len(err.splitlines()) == 1, (name, err)
        assert 'has changed' in err and ('accept_changes' in err) == may_go_on, (name, err)
        code, err = train({'data.accept_changes': True})
        assert code == (0 if may_go_on else 2), (name, err)
        for folder, good in ((tmp_path / 'run', tmp_path / 'kept'), (root, tmp_path / 'good')):
            shutil.rmtree(folder)
            shutil.copytree(good, folder)
    root.rename(tmp_path / 'moved')
    code, err = train(root=tmp_path / 'moved')
    assert code == 0 and 'continues after step 2' in err, err


@pytest.mark.slow
def test_a_run_of_an_earlier_version_keeps_its_slices(tmp_path, train):
    """Its config.json lacks the order of slices, which were class by class."""
    write_images(tmp_path / 'pets', [*pairs('train', ('cat', 'dog'), 4), *pairs('val', ('cat',))])
    fields = {'data.train_split': 'train[:75%]', 'data.slice_order': 'sorted'}
    code, err = train(fields)
    assert code == 0, err
    half_done(tmp_path / 'run')
    config = json.loads((tmp_path / 'run/config.json').read_text())
    for field in ('slice_order', 'validation', 'labels', 'accept_changes'):
        del config['data'][field]
    (tmp_path / 'run/config.json').write_text(json.dumps(config))
    (tmp_path / 'run/data.json').unlink()
    code, err = train({**fields, 'data.slice_order': None})
    assert code == 2 and "data.slice_order: 'sorted' -> 'stratified'" in err
    code, err = train(fields)
    assert code == 0 and 'continues after step 2' in err, err


def test_a_run_evaluates_what_it_held_out(tmp_path, train, ask):
    write_images(tmp_path / 'pets', pairs('train', ('cat', 'dog'), 10))
    code, err = train({'data.validation': 0.2, 'data.eval_split': 'train'})
    assert code == 2 and 'config field data.eval_split has no effect' in err
    code, err = train({'data.validation': 0.2, 'data.eval_split': None})
    assert code == 0, err
    assert 'train: 16 images of 2 classes, 8 of each; eval: 4 images of 2 classes, 2 of each' in err
    found = ask('eval', '--workdir', tmp_path / 'run')
    summary = json.loads((tmp_path / 'run/summary.json').read_text())
    assert found['n'] == 4 and found['loss'] == pytest.approx(summary['eval']['loss'], rel=1e-5)
