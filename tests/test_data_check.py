"""`resnet-jax data check` finds what was put there, and nothing else."""

import io
import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image
from test_gallery import Page

from resnet_jax.cli import main
from resnet_jax.data import inspection, open_source

RNG = np.random.default_rng(0)


def picture(width=20, height=16, seed=None):
    """Noise, another one each time."""
    rng = RNG if seed is None else np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def encoded(image, kind='PNG', **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def put(root: pathlib.Path, name: str, content: bytes) -> str:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


@pytest.fixture
def clean(tmp_path):
    """Two splits of two classes, three images each."""
    root = tmp_path / 'photos'
    for split in ('train', 'val'):
        for name in ('cat', 'dog'):
            for i in range(3):
                put(root, f'{split}/{name}/{i}.png', encoded(picture()))
    return root


def check(root, *options, code=0):
    out = root.parent / 'out'
    assert main(['data', 'check', f'--data=folder:{root}', f'--out={out}', *options]) == code
    return json.loads((out / 'check.json').read_text())


def counted(found):
    return {name: of['count'] for name, of in found['findings'].items() if of['count']}


def test_a_clean_set(clean, capsys):
    for options in ([], ['--full'], ['--full', '--strict']):
        found = check(clean, *options)
        assert counted(found) == {}
    assert found['splits']['val'] == {
        'n': 6,
        'width': [20, 20, 20],
        'height': [16, 16, 16],
        'classes': {'cat': 3, 'dog': 3},
    }
    printed = capsys.readouterr().out
    assert re.search(r'^train +6 +20 / 20 / 20 +16 / 16 / 16$', printed, re.MULTILINE), printed
    page = Page((clean.parent / 'out' / 'check.html').read_text())
    assert 'No problems were found.' in page.words and 'img' not in page.tags


def test_everything_that_can_be_the_matter(clean, capsys):
    whole = encoded(picture(64, 64), 'JPEG')
    cut = put(clean, 'train/cat/cut.jpg', whole[: len(whole) // 2])
    text = put(clean, 'train/cat/text.jpg', b'hello')
    same = encoded(picture())
    leaked = [put(clean, f'{name}/same.png', same) for name in ('train/cat', 'val/cat')]
    again = encoded(picture())
    repeated = [put(clean, f'train/dog/{name}.png', again) for name in 'xyz']
    other = encoded(picture())
    contradictory = [put(clean, f'val/{name}/other.png', other) for name in ('cat', 'dog')]
    small = put(clean, 'val/dog/small.png', encoded(picture(3, 3)))
    long = put(clean, 'val/dog/long.png', encoded(picture(160, 16)))
    flat = put(clean, 'val/dog/flat.png', encoded(Image.new('RGB', (20, 16), (1, 2, 3))))

    found = check(clean, code=1)
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith(
        f'resnet-jax: training would stop at 1 images of folder:{clean}; see '
    )
    expected = {'broken': 1, 'leaked': 1, 'contradictory': 1, 'repeated': 2, 'small': 1, 'long': 1}
    assert counted(found) == expected  # a header says nothing of the rest of a file
    found = check(clean, '--full', '--json', code=1)
    assert json.loads(capsys.readouterr().out) == found
    assert counted(found) == {**expected, 'broken': 2, 'flat': 1}

    def files(name):
        return [
            [i['stored_as'] for i in case['images']] for case in found['findings'][name]['cases']
        ]

    assert files('broken') == [[cut], [text]]
    assert files('leaked') == [leaked]
    assert files('repeated') == [repeated, contradictory]
    assert files('contradictory') == [contradictory]
    assert (files('small'), files('long'), files('flat')) == ([[small]], [[long]], [[flat]])
    (case,) = found['findings']['contradictory']['cases']
    assert case['text'] == 'the same image as cat and as dog'
    page = Page((clean.parent / 'out' / 'check.html').read_text())
    assert 'of one colour' in page.words and small in page.words
    assert page.tags.count('img') == 2 * 4 + 3 and 'script' not in page.tags


def test_equal_pixels_in_different_files(clean):
    image = picture()
    put(clean, 'train/cat/one.png', encoded(image, compress_level=1))
    put(clean, 'val/cat/two.png', encoded(image, compress_level=9))
    assert counted(check(clean)) == {}
    assert counted(check(clean, '--full')) == {'leaked': 1}
    assert counted(check(clean, '--full', '--split', 'train')) == {}
    check(clean, '--full', '--strict', code=1)


def test_of_many_classes_the_smallest_are_printed(tmp_path, capsys):
    labels = np.concatenate([np.arange(40), np.arange(35), [7]])
    images = RNG.integers(0, 256, (len(labels), 6, 6), np.uint8)
    np.savez(tmp_path / 'a.npz', train_images=images, train_labels=labels)
    options = [f'--data=npz:{tmp_path}/a.npz', f'--out={tmp_path}/out']
    assert main(['data', 'check', *options]) == 0
    printed = capsys.readouterr().out
    assert 'the 30 smallest of 40 classes' in printed
    rows = re.findall(r'^(\d+) +(\d)$', printed, re.MULTILINE)
    assert [name for name, n in rows if n == '1'] == ['35', '36', '37', '38', '39']
    assert len(rows) == 30 and '7' not in dict(rows)
    assert (
        len(json.loads((tmp_path / 'out' / 'check.json').read_text())['splits']['train']['classes'])
        == 40
    )


def test_sizes_are_judged_by_the_model(clean):
    assert counted(check(clean, '--image-size', '32')) == {}
    assert counted(check(clean, '--image-size', '33')) == {'small': 12}


def test_a_split_that_cannot_be_used(clean, capsys):
    put(clean, 'test/1.png', encoded(picture()))
    assert list(check(clean)['splits']) == ['train', 'val']
    assert 'note: left out: split folder' in capsys.readouterr().err
    arguments = ['data', 'check', f'--data=folder:{clean}', f'--out={clean}/out']
    assert main([*arguments, '--split', 'test']) == 2
    assert not (clean / 'out').exists()


def test_labels_outside_of_the_classes_and_arrays(tmp_path, capsys):
    """As of `npz:`, whose labels are read before the images."""
    images = RNG.integers(0, 256, (4, 6, 6), np.uint8)
    images[2] = images[0]
    names = tmp_path / 'names.txt'
    names.write_text('a\nb\n')
    np.savez(tmp_path / 'a.npz', train_images=images, train_labels=[0, 1, 0, 1])
    source = open_source(f'npz:{tmp_path}/a.npz', 'train', label_names=str(names))
    found = inspection.inspect(source)
    assert found.sizes.tolist() == [[6, 6]] * 4 and not found.faults
    concerns = inspection.find_concerns([found])
    assert [case.images for case in concerns['repeated']] == [((0, 0), (0, 2))]
    found.labels[1] = 7
    (case,) = inspection.find_concerns([found])['no_class']
    assert case == (((0, 1),), 'label 7, outside of the 2 classes')


def test_real_data_are_clean(shared_data, tmp_path):
    """The first images of each split of Imagenette."""
    arguments = ['--data=tfds:imagenette224', f'--data-dir={shared_data / "tfds"}', '--full']
    splits = ['--split', 'train[:60]', 'validation[:40]', '--image-size=224']
    assert main(['data', 'check', *arguments, *splits, f'--out={tmp_path}']) == 0
    found = json.loads((tmp_path / 'check.json').read_text())
    assert counted(found) == {} and found['splits']['train[:60]']['width'] == [224, 224, 224]


@pytest.mark.parametrize(
    ('option', 'said'),
    [
        ('--image-size=0', '--image-size must be'),
        ('--image-size=99999', '--image-size must be at most'),
        ('--channels=0', '--channels must be'),
        ('--split=trian', "did you mean 'train'"),
        ('--label-key=x', '--label-key has no effect on folder:'),
        ('--data=folder:/nowhere', 'no such folder'),
        ('--data=foldr:x', "did you mean 'folder:PATH'"),
        ('--config.seed=1', 'unrecognized arguments'),
    ],
)
def test_bad_options(clean, capsys, option, said):
    out = clean.parent / 'out'
    try:
        code = main(['data', 'check', f'--data=folder:{clean}', f'--out={out}', option])
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and said in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()
