"""`resnet-jax predict`: which files it reads, what it prints, and in which format."""

import csv
import io
import json
import os
import types

import jax
import numpy as np
import pytest
from members import members
from PIL import Image, ImageOps
from running import command, complains, flags

from resnet_jax import data
from resnet_jax.cli import main
from resnet_jax.commands import predict as predict_command
from resnet_jax.errors import InputError
from resnet_jax.inference import predict, sheet
from resnet_jax.inference.trained import load_trained

# Orbax closes its event loop while reads of other files are pending.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The workdir of a short run: 12 steps on grey 8x8 digits."""
    folder = tmp_path_factory.mktemp('runs') / 'trained'
    assert main(['train', *flags(), '--workdir', str(folder)]) == 0
    return folder


@pytest.fixture
def run(capfd, trained):
    """Runs `predict` with the trained model and returns its output and exit code."""

    def run_command(*arguments):
        capfd.readouterr()
        try:
            code = main(['predict', '--workdir', str(trained), *map(str, arguments)])
        except SystemExit as stop:  # argparse
            code = stop.code
        out, err = capfd.readouterr()
        return types.SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return run_command


def pixels(size, seed=0, channels=3):
    shape = (size[1], size[0], channels)[: 3 if channels > 1 else 2]
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


@pytest.fixture
def pictures(tmp_path):
    """Path -> the image as a viewer would show it."""
    shown = {}
    for i, size in enumerate([(8, 8), (31, 17), (9, 40), (3, 5), (200, 100)]):
        for kind, channels in (('PNG', 3), ('PNG', 1), ('JPEG', 3), ('JPEG', 1)):
            path = tmp_path / f'{size[0]}x{size[1]}_{channels}.{kind.lower()}'
            Image.fromarray(pixels(size, i, channels)).save(path, kind)
            shown[path] = Image.open(io.BytesIO(path.read_bytes()))
    for orientation in (3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f'turned{orientation}.jpeg'
        Image.fromarray(pixels((30, 20), 9)).save(path, exif=exif)
        shown[path] = ImageOps.exif_transpose(Image.open(path))
    return shown


def prepared(image, preprocessing):
    """The preprocessing of the digits run by Pillow: grey, shorter side to 8, the centre 8x8."""
    image = image.convert('L')
    if min(image.size) != 8:
        short = min(image.size)
        image = image.resize(
            (image.width * 8 // short, image.height * 8 // short), Image.Resampling.BILINEAR
        )
    left, top = round((image.width - 8) / 2), round((image.height - 8) / 2)
    array = np.asarray(image.crop((left, top, left + 8, top + 8)), np.float32)[None, :, :, None]
    return (array / 255 - np.float32(preprocessing.mean)) / np.float32(preprocessing.std)


def test_predict_is_the_model_applied_to_the_prepared_image(ask, trained, pictures):
    found = ask('predict', '--workdir', trained, '--topk', 10, *pictures)
    loaded = load_trained(trained)
    apply = jax.jit(lambda images: loaded.model.apply(loaded.variables, images, train=False))
    assert found['step'] == 12
    assert [item['image'] for item in found['predictions']] == [str(p) for p in pictures]
    for item, image in zip(found['predictions'], pictures.values(), strict=True):
        logits = np.asarray(apply(prepared(image, loaded.preprocessing))[0], np.float64)
        expected = np.exp(logits) / np.exp(logits).sum()
        got = {top['class']: top['probability'] for top in item['top']}
        # float32 through the network, in other batches
        np.testing.assert_allclose([got[str(c)] for c in range(10)], expected, atol=2e-5)
        probabilities = [top['probability'] for top in item['top']]
        assert probabilities == sorted(probabilities, reverse=True)


def test_loading_a_model_warns_of_nothing(trained, caplog):
    """Nor where nobody has set the levels of other packages, as in Python; the path is a text."""
    assert load_trained(str(trained)).origin['step'] == 12
    assert [record.getMessage() for record in caplog.records if record.levelname != 'INFO'] == []


def test_csv_of_strange_classes(capsys):
    """A record a line; nothing runs in a spreadsheet or on a terminal."""
    top = [{'class': name, 'probability': 0.5} for name in ('=1+1', 'a\nb', '\x1b[31mred', 'a,b')]
    predict_command._print_csv([{'image': '@a.png', 'top': top}])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        "'@a.png,1,'=1+1,0.5",
        "'@a.png,2,a\\nb,0.5",
        "'@a.png,3,\\x1b[31mred,0.5",
        '\'@a.png,4,"a,b",0.5',
    ]


def test_predict_does_not_depend_on_the_other_images(ask, trained, tmp_path):
    """With more images than fit in one batch."""
    paths = []
    for i in range(70):
        paths.append(tmp_path / f'{i}.png')
        Image.fromarray(pixels((8, 8), i, 1)).save(paths[-1])
    together = ask('predict', '--workdir', trained, *paths)['predictions']
    assert len(together) == 70
    for i in (0, 63, 64, 69):
        (alone,) = ask('predict', '--workdir', trained, paths[i])['predictions']
        assert alone['top'][0]['class'] == together[i]['top'][0]['class']
        assert alone['top'][0]['probability'] == pytest.approx(
            together[i]['top'][0]['probability'], abs=2e-5
        )


@pytest.mark.parametrize(('topk', 'count'), [(1, 1), (3, 3), (99, 10)])
def test_topk(ask, trained, pictures, topk, count):
    path = next(iter(pictures))
    (item,) = ask('predict', '--workdir', trained, path, '--topk', topk)['predictions']
    assert len(item['top']) == count
    full = ask('predict', '--workdir', trained, path, '--topk', 10)['predictions'][0]['top']
    assert item['top'] == full[:count]
    if count == 10:
        assert sum(top['probability'] for top in full) == pytest.approx(1, abs=1e-5)


def test_the_table_for_people(capsys, trained, pictures):
    paths = [str(p) for p in pictures][:3]
    assert main(['predict', '--workdir', str(trained), *paths, '--topk', '2']) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out] == paths
    assert all(line.count(' % ') == 2 for line in out)


def test_predict_of_digits_is_their_evaluation(ask, trained, tmp_path):
    """The test split as image files gives the same accuracy."""
    source = data.open_source('digits', 'test[:100]')
    paths, labels = [], []
    for i in range(len(source)):
        paths.append(tmp_path / f'{i}.png')
        Image.fromarray(source[i]['image'][..., 0]).save(paths[-1])
        labels.append(str(source[i]['label']))
    found = ask('predict', '--workdir', trained, *paths, '--topk', 1)['predictions']
    right = sum(item['top'][0]['class'] == label for item, label in zip(found, labels, strict=True))
    assert right / 100 == ask('eval', '--workdir', trained, '--split', 'test[:100]')['top1']


def touch(root, *names):
    """Creates empty files of these names and their folders."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b'')


def found(*arguments):
    return [str(file.path) for file in data.find_images(arguments)]


@pytest.fixture
def album(tmp_path, monkeypatch):
    """Files of many kinds in the working directory, in the order of `find_images`."""
    names = ['a.JPG', 'b/2.webp', 'b/c/1.jpeg', 'b-side/3.bmp', 'z.png']
    touch(tmp_path / 'album', *names, 'notes.txt', '.hidden.png', '.trash/x.png', 'b/.x.png', 'raw')
    monkeypatch.chdir(tmp_path)
    return [f'album/{name}' for name in names]


def test_a_folder_stands_for_its_images_sorted(album):
    assert found('album') == found('album/') == album
    assert found('album/b') == album[1:3]
    assert not any(file.named for file in data.find_images(['album']))


@pytest.mark.parametrize(
    ('pattern', 'names'),
    [
        ('album/*', ['a.JPG', 'z.png']),  # only images, unless the pattern has a suffix
        ('album/*.*', ['a.JPG', 'z.png']),
        ('album/*.png', ['z.png']),
        ('album/*.txt', ['notes.txt']),  # the suffix is explicit
        ('album/?/*', ['b/2.webp']),
        ('album/b*/*.[bw]*', ['b/2.webp', 'b-side/3.bmp']),
        ('album/**', ['a.JPG', 'b/2.webp', 'b/c/1.jpeg', 'b-side/3.bmp', 'z.png']),
        ('**/*.png', ['z.png']),
        ('**/b/**', ['b/2.webp', 'b/c/1.jpeg']),
        ('a*/**/c/*.jpeg', ['b/c/1.jpeg']),
        ('album/**/[ab]*/*', ['b/2.webp', 'b-side/3.bmp']),
    ],
)
def test_pattern(album, pattern, names):
    assert found(pattern) == [f'album/{name}' for name in names]
    assert not any(file.named for file in data.find_images([pattern]))


def test_arguments_keep_their_order(album):
    expected = ['album/z.png', *album[1:3], 'gone.jpg', 'album/a.JPG', 'album/a.JPG']
    arguments = ['album/z.png', 'album/b', 'gone.jpg', 'album/a.JPG', 'album/a.*']
    files = data.find_images(arguments)
    assert [str(file.path) for file in files] == expected
    assert [file.named for file in files] == [True, False, False, True, True, False]


def test_name_that_looks_like_a_pattern(tmp_path):
    touch(tmp_path, 'photo[1].png', 'photo1.png', 'set[a]/x.png')
    (file,) = data.find_images([tmp_path / 'photo[1].png'])
    assert (file.path.name, file.named) == ('photo[1].png', True)
    assert found(tmp_path / 'set[a]') == [str(tmp_path / 'set[a]' / 'x.png')]


@pytest.mark.parametrize('argument', ['{}', '{}/**', '{}/**/*.png'])
def test_links_to_folders_are_followed_once(tmp_path, argument):
    """Two links back make glob's own `**` visit 2^40 folders."""
    root, outside = tmp_path / 'root', tmp_path / 'outside'
    touch(root, 'b/1.png', 'c/2.png')
    touch(outside, '3.png')
    for name, target in (('loop', '.'), ('b/up', '..'), ('a', 'b'), ('d', str(outside))):
        (root / name).symlink_to(target)
    expected = ['b/1.png', 'c/2.png', 'd/3.png']
    assert found(argument.format(root)) == [str(root / name) for name in expected]


def test_pipes_are_skipped(tmp_path):
    touch(tmp_path, '1.png')
    os.mkfifo(tmp_path / '2.png')
    assert found(tmp_path) == found(tmp_path / '*') == [str(tmp_path / '1.png')]


@pytest.mark.parametrize(
    ('argument', 'words'),
    [
        ('empty', 'empty: no images in this folder'),
        ('*.gif', '*.gif: no image files match this pattern'),
        ('no/**/*.png', 'no/**/*.png: no image files match this pattern'),
    ],
)
def test_nothing_found(run, album, argument, words):
    os.mkdir('empty')
    result = run(album[0], argument)
    complains(result, 2, words)
    assert result.stdout == ''
    assert len(result.stderr.splitlines()) == 1


@pytest.fixture
def folder(tmp_path):
    """A folder of three good images and two bad ones."""
    root = tmp_path / 'folder'
    root.mkdir()
    for name, seed in (('1', 1), ('3', 3), ('5', 5)):
        Image.fromarray(pixels((9, 8), seed)).save(root / f'{name}.png')
    (root / '2.jpg').write_bytes(b'no image')
    (root / '4.png').write_bytes((root / '5.png').read_bytes()[:40])
    return root


@pytest.mark.parametrize('pattern', ['', '*'])
@pytest.mark.parametrize('form', [(), ('--json',), ('--jsonl',), ('--csv',)])
def test_bad_files_of_a_folder_are_skipped(run, folder, pattern, form):
    result = run(folder / pattern, *form)
    complains(result, 1, '2 of 5 images could not be read')
    skipped = result.stderr.splitlines()[:-1]
    assert [line.split(':')[0] for line in skipped] == [
        f'skipped {folder / name}' for name in ('2.jpg', '4.png')
    ]
    places = [result.stdout.find(str(folder / f'{i}.png')) for i in (1, 3, 5)]
    assert -1 < places[0] < places[1] < places[2]
    assert '2.jpg' not in result.stdout
    assert '4.png' not in result.stdout


def test_skipped_images_leave_the_others_as_they_are(run, folder):
    good = [folder / f'{i}.png' for i in (1, 3, 5)]
    alone = json.loads(run(*good, '--json').stdout)
    beside = json.loads(run(folder, '--json').stdout)
    assert {**beside, 'predictions': []} == {**alone, 'predictions': []}
    assert len(beside['predictions']) == len(good)
    for a, b in zip(alone['predictions'], beside['predictions'], strict=True):
        assert a['image'] == b['image']
        for one, other in zip(a['top'], b['top'], strict=True):  # of batches of another size
            assert one['class'] == other['class']
            assert one['probability'] == pytest.approx(other['probability'], rel=1e-5)


def test_bad_file_that_is_named(run, folder):
    """Nothing is printed, although another file is good and the format prints line by line."""
    for form in ('--jsonl', '--csv', '--json'):
        result = run(folder / '1.png', folder, folder / '2.jpg', form)
        assert result.returncode == 2
        assert result.stdout == ''
        assert '2.jpg: not an image' in result.stderr.splitlines()[-1]


def test_a_folder_without_readable_images(run, tmp_path):
    touch(tmp_path, 'a.png', 'b.png')
    for form in ((), ('--json',), ('--csv',), ('--sheet', tmp_path / 'sheet.png')):
        result = run(tmp_path / '[ab].png', *form)
        complains(result, 1, '2 of 2 images could not be read')
    assert not (tmp_path / 'sheet.png').exists()


def test_without_skip_a_bad_file_is_an_error(trained, folder):
    predictions = predict.predict(load_trained(trained), data.find_images([folder]), 1)
    with pytest.raises(InputError, match=r'2\.jpg: not an image'):
        list(predictions)


def test_more_images_than_are_decoded_ahead(run, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, 'BATCH_SIZE', 4)
    monkeypatch.setattr(predict, 'PREFETCH', 5)
    for i in range(23):
        Image.fromarray(pixels((8, 8), i, 1)).save(tmp_path / f'{i:02d}.png')
    (tmp_path / '07.png').write_bytes(b'')
    lines = run(tmp_path, '--jsonl').stdout.splitlines()
    assert [json.loads(line)['image'] for line in lines] == [
        str(tmp_path / f'{i:02d}.png') for i in range(23) if i != 7
    ]


def test_all_formats_have_the_same_contents(run, pictures):
    whole = json.loads(run(*pictures, '--json', '--topk', 4).stdout)['predictions']
    lines = run(*pictures, '--jsonl', '--topk', 4).stdout.splitlines()
    assert [json.loads(line) for line in lines] == whole
    header, *rows = csv.reader(io.StringIO(run(*pictures, '--csv', '--topk', 4).stdout))
    assert header == ['image', 'rank', 'class', 'probability']
    assert [(image, int(rank), name, float(p)) for image, rank, name, p in rows] == [
        (item['image'], i + 1, top['class'], top['probability'])
        for item in whole
        for i, top in enumerate(item['top'])
    ]


def test_strange_file_names(run, tmp_path):
    """The table prints each on one line; JSON and CSV keep them exactly."""
    names = ['comma, "quotes".png', 'naïve 日本.png', "dollar $x^$ 'n.png"]
    odd = ['line\nbreak.png', os.fsdecode(b'byte \xff.png')]
    for i, name in enumerate(names + odd):
        Image.fromarray(pixels((8, 8), i)).save(tmp_path / name, 'PNG')
    paths = sorted(str(tmp_path / name) for name in names + odd)
    result = run(tmp_path, '--json')
    assert [item['image'] for item in json.loads(result.stdout)['predictions']] == paths
    _, *rows = csv.reader(io.StringIO(run(tmp_path, '--csv', '--topk', 1).stdout))
    assert {str(tmp_path / name) for name in names} < {row[0] for row in rows}
    table = run(tmp_path, '--sheet', tmp_path / 'sheet.png')
    assert len(table.stdout.splitlines()) == 5
    assert 'line\\nbreak.png' in table.stdout
    assert 'byte \\udcff.png' in table.stdout
    assert len(table.stderr.splitlines()) == 1  # no warnings about missing glyphs


def test_formats_exclude_each_other(run, pictures):
    result = run(*pictures, '--json', '--csv')
    assert result.returncode == 2
    assert 'not allowed with' in result.stderr


def test_only_results_are_printed_without_a_terminal(trained, pictures):
    result = command('predict', '--workdir', trained, *pictures, '--jsonl')
    assert (result.returncode, result.stderr) == (0, '')
    assert len(result.stdout.splitlines()) == len(pictures)


def test_help_explains_bad_files(run):
    words = ' '.join(run('--help').stdout.split())
    for promise in ('exit code 2', 'exit code is 1', '.webp', "'photos/**/*.jpg'"):
        assert promise in words


def places(picture, image):
    """(row, column) of each exact occurrence of an image in a picture."""
    height, width = image.shape[:2]
    inner = picture[: len(picture) - height + 1, : picture.shape[1] - width + 1]
    corners = np.argwhere((inner == image[0, 0]).all(axis=-1))
    return [
        (int(y), int(x))
        for y, x in corners
        if np.array_equal(picture[y : y + height, x : x + width], image)
    ]


def read_rgb(path):
    with Image.open(path) as image:
        assert image.format == 'PNG'
        return np.asarray(image.convert('RGB'))


def test_sheet_shows_the_images_as_the_model_sees_them(run, trained, pictures, tmp_path):
    """Cropped and grey, enlarged by whole factors, in rows in the order of the files."""
    path = tmp_path / 'sheet.png'
    files = list(pictures)[4:9]
    result = run(*files, '--sheet', path, '--json', '--topk', 3)
    assert result.returncode == 0
    assert json.loads(result.stdout)['predictions']
    assert result.stderr == f'sheet of 5 of 5 images: {path}\n'
    picture = read_rgb(path)
    loaded = load_trained(trained)
    where = []
    for file in files:
        grey = prepared(pictures[file], loaded.preprocessing)[0]
        grey = grey * np.float32(loaded.preprocessing.std) + np.float32(loaded.preprocessing.mean)
        seen = np.rint(grey * 255).astype(np.uint8)
        large = np.kron(seen[..., 0], np.ones((20, 20), np.uint8))[..., None].repeat(3, axis=2)
        (place,) = places(picture, large)
        where.append(place)
    assert where == sorted(where)
    assert len({y for y, _ in where}) == 3
    assert len({x for _, x in where}) == 2


def rows_of_text(strip):
    """Counts the lines of text in a strip of a sheet, separated by white."""
    dark = (strip < 128).any(axis=(1, 2))
    return int(dark[0]) + int((dark[1:] & ~dark[:-1]).sum())


def prediction(name, colour, classes=('cat',), size=32, channels=3, true=None):
    top = tuple((label, 0.9 / 2**i) for i, label in enumerate(classes))
    image = np.full((size, size, channels), colour, np.uint8)
    return predict.Prediction(data.find_images([name])[0].path, image, top, true)


LONG = 'a_very_long_file_name_that_could_not_fit_above_an_image_of_any_size_and_its_bars_too.jpg'
MARGIN, NAME, BARS = 16, 21, 14 + 190  # between cells; above an image; beside it


@pytest.mark.parametrize('channels', members([1, 3], (3,)))
@pytest.mark.parametrize(('size', 'side'), [(32, 160), (224, 224), (500, 256)])
@pytest.mark.parametrize(('count', 'columns'), [(1, 1), (4, 2), (10, 3)])
def test_sheet_of_any_number_and_size(tmp_path, count, columns, size, side, channels):
    """Every cell holds its image, its name and its bar, and nothing touches the next cell."""
    items = [
        prediction(LONG if i % 2 else '$a_', 50 + i, ('x' * 80,), size, channels)
        for i in range(count)
    ]
    sheet.write_sheet(items, count, 1, tmp_path / 's.png')
    picture = read_rgb(tmp_path / 's.png')
    wide, high = side + BARS, NAME + side
    assert picture.shape[1] == columns * (wide + MARGIN) + MARGIN
    assert picture.shape[0] == -(-count // columns) * (high + MARGIN) + MARGIN
    cells = np.full(picture.shape[:2], False)
    for i in range(count):
        y, x = MARGIN + i // columns * (high + MARGIN), MARGIN + i % columns * (wide + MARGIN)
        assert (picture[y + NAME :, x:][:side, :side] == 50 + i).all()
        assert rows_of_text(picture[y : y + NAME - 1, x : x + wide]) == 1
        assert rows_of_text(picture[y + NAME : y + high, x + side : x + wide]) >= 1
        cells[y : y + high, x : x + wide] = True
    assert (picture[~cells] == 255).all()  # nothing but the images and their text


def length_of(colour, picture):
    """The pixels of a colour in the row that has most of them: the length of a bar."""
    return int((picture == tuple(bytes.fromhex(colour[1:]))).all(axis=-1).sum(axis=1).max())


def test_bars_are_as_long_as_their_probabilities(tmp_path):
    """0.9, 0.45 and 0.225 of 190 pixels, without a word about right and wrong."""
    path = tmp_path / 's.png'
    sheet.write_sheet([prediction('a.png', 0, ('cat', 'dog', 'cow'))], 1, 3, path)
    panel = read_rgb(path)[:, MARGIN + 160 :]
    blue = (panel == tuple(bytes.fromhex(sheet.OTHER[1:]))).all(axis=-1).sum(axis=1)
    assert sorted({int(n) for n in blue} - {0}) == [43, 86, 171]
    assert length_of(sheet.RIGHT, panel) == length_of(sheet.WRONG, panel) == 0


@pytest.mark.parametrize(
    ('true', 'words', 'green', 'red'),
    [
        ('cat', ['✓ right', '1 of 1 right'], 171, 0),
        ('dog', ['✗ wrong, it is dog', '0 of 1 right'], 86, 171),
        ('$ wolf $', [r'✗ wrong, it is \$ wolf \$', '0 of 1 right'], 0, 171),
    ],
)
def test_the_sheet_says_what_is_right_and_wrong(tmp_path, monkeypatch, true, words, green, red):
    """With a word and a mark, a frame and the bars of the true and of the wrong class."""
    from matplotlib.figure import Figure

    written = []
    text = Figure.text
    monkeypatch.setattr(
        Figure, 'text', lambda self, x, y, s, **k: written.append(s) or text(self, x, y, s, **k)
    )
    sheet.write_sheet([prediction('a.png', 0, ('cat', 'dog'), true=true)], 1, 2, tmp_path / 's.png')
    picture = read_rgb(tmp_path / 's.png')
    assert set(words) < set(written)
    panel = picture[:, MARGIN + 160 + 5 :]
    assert (length_of(sheet.RIGHT, panel), length_of(sheet.WRONG, panel)) == (green, red)
    frame = sheet.RIGHT if true == 'cat' else sheet.WRONG
    assert length_of(frame, picture[:, : MARGIN + 160 + 5]) == 160 + 2 * 4


def test_the_true_class_is_that_of_the_labels_or_of_the_folder(trained, tmp_path):
    for name in ('3/a.png', '3/b.png', 'other/c.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels((8, 8), 1, 1)).save(tmp_path / name)
    loaded, files = load_trained(trained), data.find_images([tmp_path])
    found = predict.predict(loaded, files, 1, labels={'b.png': '7', 'c': 'no class of the model'})
    assert [item.true for item in found] == ['3', '7', None]
    assert [item.true for item in predict.predict(loaded, files, 1)] == ['3', '3', None]


def test_labels_go_with_a_sheet(run, pictures, tmp_path):
    (tmp_path / 'labels.csv').write_text('a.png,1\nb.png\n')
    path = next(iter(pictures))
    complains(run(path, '--labels', tmp_path / 'labels.csv'), 2, '--sheet')
    wrong = run(path, '--sheet', tmp_path / 's.png', '--labels', tmp_path / 'labels.csv')
    complains(wrong, 2, '--labels', 'line 2')
    (tmp_path / 'labels.csv').write_text('a.png,1\nb.png,one\n')
    noted = run(path, '--sheet', tmp_path / 's.png', '--labels', tmp_path / 'labels.csv')
    assert noted.returncode == 0 and 'note: the model has no class one of ' in noted.stderr


@pytest.mark.slow
def test_a_sheet_shows_at_most_a_hundred_images(run, tmp_path):
    for i in range(103):
        Image.fromarray(np.full((8, 8), 2 * i, np.uint8)).save(tmp_path / f'{i:03d}.png')
    (tmp_path / '000.png').write_bytes(b'')
    path = tmp_path / 'sheets.PNG'
    result = run(f'{tmp_path}/???.png', '--sheet', path)
    complains(result, 1, '1 of 103 images')
    assert f'sheet of 100 of 103 images: {path}' in result.stderr
    picture = read_rgb(path)
    assert picture.shape[1] == 9 * (160 + BARS + MARGIN) + MARGIN
    assert picture.shape[0] == 12 * (NAME + 160 + MARGIN) + MARGIN + 30  # with a title
    assert rows_of_text(picture[:40, :200]) == 1  # "the first 100 of 102 images"
    for i, shown in ((1, True), (100, True), (101, False), (102, False)):
        square = np.full((160, 160, 3), 2 * i, np.uint8)
        assert bool(places(picture, square)) == shown


@pytest.mark.parametrize('name', ['gone/s.png', 'file.txt/s.png', 'folder.png', 's.jpg'])
def test_sheet_that_cannot_be_written(run, trained, pictures, tmp_path, name):
    """Fails before anything is computed or printed."""
    (tmp_path / 'file.txt').write_text('x')
    (tmp_path / 'folder.png').mkdir()
    result = run(next(iter(pictures)), '--sheet', tmp_path / name)
    complains(result, 2, str(tmp_path / name), '--sheet')
    assert result.stdout == ''


def test_refused_images_leave_an_old_sheet_alone(run, tmp_path):
    (tmp_path / 'old.png').write_bytes(b'old')
    for name in ('old.png', 'new.png'):
        complains(run(tmp_path / 'gone.jpg', '--sheet', tmp_path / name), 2, 'gone.jpg')
    assert (tmp_path / 'old.png').read_bytes() == b'old'
    assert not (tmp_path / 'new.png').exists()
