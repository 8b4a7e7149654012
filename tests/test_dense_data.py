"""Scenes of digits, pairs of images and masks, COCO's boxes, and targets in the model's square."""

import copy
import io
import json
import os
import pickle
import shutil
import warnings

import jax
import numpy as np
import pytest
from PIL import Image

from resnet_jax.cli import main
from resnet_jax.data import (
    Preprocessing,
    eval_batches,
    fingerprint,
    fingerprint_changes,
    load_arrays,
    open_source,
)
from resnet_jax.data.coco import BACKGROUND
from resnet_jax.data.digits_scenes import (
    CLASS_NAMES,
    FARTHEST,
    NEAREST,
    SIDE,
    SIZES,
    WALL,
    digits_scenes_catalog,
)
from resnet_jax.data.masks import VOC_CLASSES
from resnet_jax.data.resizing import GREY
from resnet_jax.data.targets import IGNORED, MOST_OBJECTS, NOTHING, fit_targets
from resnet_jax.errors import InputError


def refused(spec, *words, split='train', index=None):
    """The one line with which opening a data set ends, or reading one of its examples."""
    with pytest.raises(InputError) as caught:
        source = open_source(spec, split)
        assert index is not None, 'it was opened'
        source[index]
    line = str(caught.value)
    assert line.isprintable(), line
    for word in words:
        assert word in line, (word, line)
    return line


def box_of(where):
    rows, columns = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


# Scenes of digits


@pytest.fixture(scope='module')
def scenes():
    return open_source('digits_scenes', 'test').take(range(40))


def test_scenes_are_the_same_however_they_are_read(scenes):
    source = open_source('digits_scenes', 'test')
    assert {split: len(open_source('digits_scenes', split)) for split in SIZES} == SIZES
    assert source.class_names == ('background', *'0123456789')
    assert source.targets == ('segmentation', 'boxes', 'classes', 'depth')
    for i in (39, 0, 17):
        for name, values in source[i].items():
            np.testing.assert_array_equal(values, scenes[i][name])
    assert not np.array_equal(scenes[0]['image'], scenes[1]['image'])
    train = open_source('digits_scenes', 'train')[0]
    assert not np.array_equal(train['image'], scenes[0]['image'])


def test_boxes_hold_what_is_seen_of_each_digit(scenes):
    alone = 0
    for scene in scenes:
        mask, classes = scene['segmentation'], scene['classes']
        assert scene['image'].shape == (SIDE, SIDE, 3) and scene['image'].dtype == np.uint8
        assert set(np.unique(mask)) == {0, *classes} and 1 <= len(classes) <= 4
        for box, number in zip(scene['boxes'], classes, strict=True):
            if (classes == number).sum() == 1:  # the mask tells it from the others
                np.testing.assert_array_equal(box, box_of(mask == number))
                alone += 1
    assert alone > 80
    assert np.mean([len(scene['classes']) for scene in scenes]) > 2


def test_the_nearer_digit_hides_the_farther(scenes):
    """Each digit has one depth, smaller from one to the next: they go from back to front."""
    crossed = 0
    for scene in scenes:
        mask, depth, boxes = scene['segmentation'], scene['depth'], scene['boxes']
        np.testing.assert_array_equal(depth[mask == 0], np.float32(WALL))
        digits = depth[mask > 0]
        assert (digits >= NEAREST).all() and (digits <= FARTHEST).all()
        depths = np.unique(digits)[::-1]
        assert len(depths) == len(boxes)
        for each, box, number in zip(depths, boxes, scene['classes'], strict=True):
            np.testing.assert_array_equal(box_of(depth == each), box)
            assert set(mask[depth == each]) == {number}
        crossed += any(
            max(a[0], b[0]) < min(a[2], b[2]) and max(a[1], b[1]) < min(a[3], b[3])
            for i, a in enumerate(boxes)
            for b in boxes[i + 1 :]
        )
    assert crossed > 10, 'some of them meet'


def test_digits_for_testing_are_in_no_training_scene():
    """With scans of 3 alone for training and of 7 alone for testing."""
    scans = {name: np.full((2, 8, 8, 1), 255, np.uint8) for name in SIZES}
    labels = {'train': np.asarray([3, 3]), 'test': np.asarray([7, 7])}
    read = digits_scenes_catalog(scans, labels).open(tuple(SIZES))
    for split, digit in (('train', 3), ('test', 7)):
        found = {int(n) for _, targets in read(split, range(20)) for n in targets['classes']}
        assert [CLASS_NAMES[number] for number in found] == [str(digit)]


# Pairs of images and masks

NAMES = ['background', 'cat', 'dog']
COLOURS = [[0, 0, 0], [255, 0, 0], [0, 0, 255]]


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    image.save(path, **options)


def picture(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def numbers(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 3, (height, width), dtype=np.uint8)


def with_palette(values, palette=(10, 20, 30, 200, 0, 0, 0, 200, 0)):
    image = Image.fromarray(values)
    image.putpalette([*palette, *[0] * (768 - len(palette))])
    assert image.mode == 'P'
    return image


@pytest.fixture
def masks(tmp_path):
    """A folder of two images for training and one for testing, of masks that are grey."""
    root = tmp_path / 'pets'
    for split, name, seed in (('train', 'a', 1), ('train', 'b', 2), ('test', 'c', 3)):
        save(root / split / 'images' / f'{name}.jpg', picture(9, 6, seed))
        save(root / split / 'masks' / f'{name}.png', numbers(9, 6, seed))
    describe(root)
    return root


def describe(root, **content):
    (root / 'classes.json').write_text(json.dumps({'classes': NAMES, **content}))


def test_grey_masks_and_palettes_hold_the_numbers_of_classes(masks):
    values = numbers(9, 6, 2)
    values[0, :3] = IGNORED
    save(masks / 'train/masks/b.png', with_palette(values))
    save(masks / 'test/masks/c.png', Image.fromarray(numbers(9, 6, 3) > 0))
    (masks / 'train/images/readme.txt').write_text('no image')
    (masks / 'train/images/.hidden.jpg').write_text('no image')
    source = open_source(f'masks:{masks}', 'train')
    assert (len(source), source.class_names, source.channels) == (2, tuple(NAMES), 3)
    assert source.stored_as(1) == str(masks / 'train/images/b.jpg')
    np.testing.assert_array_equal(source[0]['segmentation'], numbers(9, 6, 1))
    np.testing.assert_array_equal(source[1]['segmentation'], values)
    assert source[1]['image'].shape == (6, 9, 3) and source[1]['segmentation'].dtype == np.uint8
    test = open_source(f'masks:{masks}', 'test')
    np.testing.assert_array_equal(test[0]['segmentation'], numbers(9, 6, 3) > 0)


def test_a_split_without_masks_is_left_out_with_a_note(masks):
    save(masks / 'later/images/d.jpg', picture(9, 6, 4))
    source = open_source(f'masks:{masks}', 'train')
    assert len(source) == 2 and source.notes == ('later has no folder of masks and is left out',)


@pytest.mark.parametrize('kind', ['RGB', 'RGBA', 'P'])
def test_colours_stand_for_classes_and_others_are_ignored(masks, kind):
    values = numbers(9, 6, 1)
    palette = np.asarray([*COLOURS, [254, 0, 0]], np.uint8)  # nearly that of a cat
    values[2, 2] = 3
    options = {'transparency': bytes([0, 255, 9])} if kind == 'P' else {}
    image = Image.fromarray(palette[values])
    drawn = with_palette(values, palette.ravel().tolist()) if kind == 'P' else image.convert(kind)
    save(masks / 'train/masks/a.png', drawn, **options)
    describe(masks, colours=COLOURS)
    found = open_source(f'masks:{masks}', 'train')[0]['segmentation']
    np.testing.assert_array_equal(found, np.where(values == 3, IGNORED, values))


def test_an_image_is_turned_upright_before_it_is_compared(masks):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(masks / 'train/images/a.jpg', picture(6, 9), exif=exif)
    found = open_source(f'masks:{masks}', 'train')[0]
    assert found['image'].shape[:2] == found['segmentation'].shape == (6, 9)


def rotated(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(root / 'train/images/a.jpg', picture(9, 6), exif=exif)


def damaged(root):
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 3, (6, 9), dtype=np.uint8)
    Image.fromarray(noise).save(out, 'PNG')
    (root / 'train/masks/a.png').write_bytes(out.getvalue()[:-30])


# Name -> (what happens to the folder, words of the line; whether only reading the example tells).
BAD_MASKS = {
    'no classes.json': (lambda root: (root / 'classes.json').unlink(),
                        ('classes.json does not exist', 'wanted: PATH/SPLIT/images'), False),
    'damaged classes.json': (lambda root: (root / 'classes.json').write_text('{'),
                             ('cannot read', 'classes.json', 'wanted:'), False),
    'classes.json without classes': (lambda root: (root / 'classes.json').write_text('{}'),
                                     ('classes.json must give the names', 'wanted:'), False),
    'names that are none': (lambda root: describe(root, classes=['a', 3]),
                            ('classes.json must give the names', 'wanted:'), False),
    'one name for all': (lambda root: describe(root, classes='cat'),
                         ('classes.json must give the names', 'wanted:'), False),
    'a name twice': (lambda root: describe(root, classes=['a', 'b', 'a']),
                     ('classes.json must give each class once',), False),
    'too many classes': (lambda root: describe(root, classes=list(map(str, range(256)))),
                         ('classes.json', 'at most 255'), False),
    'too few colours': (lambda root: describe(root, colours=COLOURS[:2]),
                        ('classes.json must give as many colours as classes',), False),
    'a colour of two numbers': (lambda root: describe(root, colours=[*COLOURS[:2], [0, 1]]),
                                ("classes.json must give three numbers from 0 to 255 for 'dog'",
                                 '[0, 1]'), False),
    'a colour out of range': (lambda root: describe(root, colours=[*COLOURS[:2], [0, 1, 256]]),
                              ('three numbers from 0 to 255', '[0, 1, 256]'), False),
    'a colour of truth values': (lambda root: describe(root, colours=[*COLOURS[:2], [0, 1, True]]),
                                 ('three numbers from 0 to 255',), False),
    'a colour twice': (lambda root: describe(root, colours=[*COLOURS[:2], [0, 0, 0]]),
                       ('classes.json gives [0, 0, 0] to two classes; give each',), False),
    'no images': (lambda root: shutil.rmtree(root / 'train'), ("unknown split", 'test'), False),
    'no folder of images': (
        lambda root: [shutil.rmtree(root / name) for name in ('train', 'test')],
        ('has no folders SPLIT/images and SPLIT/masks; wanted:',), False),
    'an empty folder': (lambda root: [path.unlink() for path in (root / 'train/images').iterdir()],
                        ('train/images holds no images; wanted:',), False),
    'a missing mask': (lambda root: (root / 'train/masks/b.png').unlink(),
                       ('b.jpg has no mask', 'b.png; add it, or remove the image'), False),
    'a name of two lines': (lambda root: save(root / 'train/images/x\ny.jpg', picture(2, 2)),
                            ('x\\ny.jpg has no mask',), False),
    'two images of a mask': (lambda root: save(root / 'train/images/a.png', picture(9, 6)),
                             ('a.png has the mask of a.jpg; remove one of the images',), False),
    'a mask of another size': (lambda root: save(root / 'train/masks/a.png', numbers(9, 7)),
                               ('a.png has 9x7 pixels, and its image, upright, 9x6; give both',),
                               False),
    'an image that is turned': (rotated, ('a.png has 9x6 pixels, and its image, upright, 6x9',),
                                False),
    'an image that is none': (lambda root: (root / 'train/images/a.jpg').write_text('x'),
                              ('cannot read', 'a.jpg', 'replace it'), False),
    'an empty mask': (lambda root: (root / 'train/masks/a.png').write_bytes(b''),
                      ('cannot read', 'a.png', 'replace it'), False),
    'a mask cut short': (damaged, ('cannot read', 'a.png', 'replace it'), True),
    'colours without meaning': (lambda root: save(root / 'train/masks/a.png', picture(9, 6)),
                                ('a.png has pixels of RGB', 'save the mask as grey',
                                 'classes.json'), True),
    'wide greys': (
        lambda root: save(root / 'train/masks/a.png', numbers(9, 6).astype(np.uint16)),
        ('a.png has pixels of I;16', 'grey of 8 bits'), True),
    'a class too many': (lambda root: save(root / 'train/masks/a.png', numbers(9, 6) + 2),
                         ('has class', 'outside its 3 classes (0 to 2, or 255 to ignore)',
                          'a.jpg'), True),
}  # fmt: skip


@pytest.mark.parametrize('name', BAD_MASKS)
def test_what_is_wrong_with_masks_is_told_in_a_line(masks, name):
    change, words, late = BAD_MASKS[name]
    change(masks)
    line = refused(f'masks:{masks}', *words, index=0 if late else None)
    assert str(masks) in line


def test_a_moved_folder_of_masks_is_the_same_and_a_changed_one_is_not(masks, tmp_path):
    def now(root=masks, split='train'):
        return json.loads(json.dumps(fingerprint(open_source(f'masks:{root}', split))))

    old = now()
    shutil.copytree(masks, tmp_path / 'moved')
    shutil.copytree(masks, tmp_path / 'good')
    assert fingerprint_changes(old, now(tmp_path / 'moved')) == []
    changes = {
        'an image more': lambda root: [
            save(root / 'train/images/d.jpg', picture(9, 6)),
            save(root / 'train/masks/d.png', numbers(9, 6)),
        ],
        'another mask': lambda root: save(root / 'train/masks/a.png', np.zeros((6, 9), np.uint8)),
        'a name': lambda root: [
            os.rename(root / f'train/{path}', root / f'train/{path}'.replace('b.', 'z.'))
            for path in ('images/b.jpg', 'masks/b.png')
        ],
        'a class': lambda root: describe(root, classes=['background', 'cat', 'wolf']),
        'colours': lambda root: describe(root, colours=COLOURS),
    }
    for name, change in changes.items():
        change(masks)
        assert fingerprint_changes(old, now()), name
        shutil.rmtree(masks)
        shutil.copytree(tmp_path / 'good', masks)
    describe(masks, colours=COLOURS)
    coloured = now()
    describe(masks, colours=COLOURS[::-1])
    assert fingerprint_changes(coloured, now())


# Pascal VOC


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / 'VOC2012'
    for i, name in enumerate(('2007_000032', '2007_000033')):
        save(root / f'JPEGImages/{name}.jpg', picture(8, 5, i))
        values = numbers(8, 5, i) * 10
        values[0] = IGNORED
        save(root / f'SegmentationClass/{name}.png', with_palette(values))
    lists = root / 'ImageSets/Segmentation'
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('2007_000032\n2007_000033\n')
    (lists / 'val.txt').write_text('2007_000033\n')
    (lists / 'nothing.txt').write_text('\n')
    return root


def test_pascal_voc(voc):
    source = open_source(f'voc:{voc}', 'train')
    assert source.class_names == VOC_CLASSES and len(VOC_CLASSES) == 21
    assert (VOC_CLASSES[15], len(source), len(open_source(f'voc:{voc}', 'val'))) == ('person', 2, 1)
    found = source[1]
    np.testing.assert_array_equal(found['segmentation'][0], IGNORED)
    np.testing.assert_array_equal(found['segmentation'][1:], numbers(8, 5, 1)[1:] * 10)
    assert found['image'].shape == (5, 8, 3)
    refused(f'voc:{voc}', 'unknown split of', 'nothing', split='nothing')


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        (b'../x\n', ("'../x'", 'no name of an image', 'train.txt')),
        (b'..\n', ("'..'", 'no name of an image')),
        (b'/etc/passwd\n', ("'/etc/passwd'", 'no name of an image')),
        (b'a\\b\n', ('no name of an image',)),
        (b'2007_000034\n', ('2007_000034.jpg does not exist', 'train.txt names it')),
        (b'\x002\n', ('does not exist', 'train.txt names it')),
        (b'\xff\xfe\n', ('train.txt', 'no text in UTF-8')),
    ],
)
def test_lists_of_pascal_voc_that_are_none(voc, text, words):
    (voc / 'ImageSets/Segmentation/train.txt').write_bytes(text)
    refused(f'voc:{voc}', *words)


def test_other_folders_are_not_pascal_voc(voc):
    refused(f'voc:{voc.parent}', 'no ImageSets/Segmentation/*.txt', 'such as VOCdevkit/VOC2012')
    (voc / 'SegmentationClass/2007_000032.png').unlink()
    refused(f'voc:{voc}', 'SegmentationClass', '2007_000032.png does not exist')


# COCO

CONTENT = {
    'images': [
        {'id': 7, 'file_name': 'a.jpg', 'width': 20, 'height': 10},
        {'id': 3, 'file_name': 'b.jpg', 'width': 12, 'height': 12},
        {'id': 5, 'file_name': 'c.jpg'},
    ],
    'annotations': [
        {'image_id': 7, 'category_id': 90, 'bbox': [1, 2, 3, 4]},
        {'image_id': 7, 'category_id': 2, 'bbox': [-5.0, 4.5, 30.0, 20.0], 'iscrowd': 0},
        {'image_id': 7, 'category_id': 2, 'bbox': [3, 3, 0, 5]},
        {'image_id': 7, 'category_id': 2, 'bbox': [19, 3, 1e-9, 5]},
        {'image_id': 7, 'category_id': 2, 'bbox': [25, 3, 4, 5]},
        {'image_id': 7, 'category_id': 2, 'bbox': [1, 1, 9, 9], 'iscrowd': 1},
        {'image_id': 3, 'category_id': 17, 'bbox': [0, 0, 12, 12]},
    ],
    'categories': [
        {'id': 90, 'name': 'toothbrush'},
        {'id': 2, 'name': 'bicycle'},
        {'id': 17, 'name': 'cat'},
    ],
}


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    root = tmp_path_factory.mktemp('coco')
    for name, size in (('a', (20, 10)), ('b', (12, 12)), ('c', (4, 4))):
        save(root / f'train/{name}.jpg', picture(*size))
    annotate(root, CONTENT)
    return root


def annotate(root, content, split='train'):
    file = root / 'annotations' / f'instances_{split}.json'
    file.parent.mkdir(exist_ok=True)
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    file.write_bytes(data)


def test_boxes_of_coco(coco):
    annotate(coco, CONTENT)
    source = open_source(f'coco:{coco}', 'train')
    assert source.class_names == (BACKGROUND, 'bicycle', 'cat', 'toothbrush')
    assert [source.stored_as(i) for i in range(3)] == [str(coco / f'train/{x}.jpg') for x in 'abc']
    first, second, third = source.take(range(3))
    # Cut at the border, the largest first.
    np.testing.assert_allclose(first['boxes'], [[0, 4.5, 20, 10], [1, 2, 4, 6]])
    assert first['classes'].tolist() == [1, 3]
    assert (second['boxes'].tolist(), second['classes'].tolist()) == ([[0, 0, 12, 12]], [2])
    assert (third['boxes'].shape, third['classes'].shape) == ((0, 4), (0,))
    (note,) = source.notes
    assert note.startswith('4 boxes of train are left out: crowds, without area')


def test_the_largest_boxes_of_many(coco):
    content = copy.deepcopy(CONTENT)
    content['annotations'] = [
        {'image_id': 3, 'category_id': 2, 'bbox': [0, 0, 1 + i / 100, 1]} for i in range(130)
    ]
    annotate(coco, content)
    source = open_source(f'coco:{coco}', 'train')
    found = source[1]['boxes']
    assert len(found) == MOST_OBJECTS and found[-1, 2] == np.float32(1.3)
    assert source.notes[0].startswith('30 boxes') and 'beyond the 100 largest' in source.notes[0]


def test_splits_of_coco_share_classes(coco, tmp_path):
    root = shutil.copytree(coco, tmp_path / 'coco')
    annotate(root, CONTENT)
    other = {**CONTENT, 'images': [], 'annotations': [], 'categories': [{'id': 1, 'name': 'dog'}]}
    annotate(root, other, 'val')
    before = open_source(f'coco:{root}', 'train')
    assert before.class_names == (BACKGROUND, 'dog', 'bicycle', 'cat', 'toothbrush')
    assert before[0]['classes'].tolist() == [2, 4]
    old = fingerprint(before)
    moved = root.rename(tmp_path / 'moved')
    assert fingerprint_changes(old, fingerprint(open_source(f'coco:{moved}', 'train'))) == []
    annotate(moved, {**other, 'categories': [{'id': 2, 'name': 'dog'}]}, 'val')
    refused(f'coco:{moved}', 'instances_val.json calls category 2', "'dog'", "'bicycle'")
    (moved / 'annotations/instances_val.json').unlink()
    assert fingerprint_changes(old, fingerprint(open_source(f'coco:{moved}', 'train')))
    shutil.rmtree(moved / 'annotations')
    refused(f'coco:{moved}', 'has no annotations/instances_*.json; wanted:')


def at(*path, value):
    """The content with another value at a place; without it, where that is None."""
    found = copy.deepcopy(CONTENT)
    place = found
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return found


BAD_COCO = {
    'an empty file': (b'', 'it is empty'),
    'no JSON': (b'{"images"', 'wanted:'),
    'bytes': (b'\xff\xfe\x00', 'no text in UTF-8'),
    'a list': (b'[]', 'no JSON object'),
    'a deep nest': (b'[' * 100_000, 'nested too deep'),
    'a long number': (b'{"images": ' + b'9' * 5000 + b'}', 'wanted:'),
    'no images': (at('images', value=None), "it lacks 'images'"),
    'images that are a number': (at('images', value=3), 'wanted:'),
    'images that are texts': (at('images', value='ab'), 'wanted:'),
    'an empty list of images': ({**CONTENT, 'images': [], 'annotations': []}, 'names no images'),
    'no categories': (at('categories', value=None), "it lacks 'categories'"),
    'an empty list of categories': (at('categories', value=[]), 'has no categories; wanted:'),
    'a category without a name': (at('categories', 0, 'name', value=None), "it lacks 'name'"),
    'a name that is none': (at('categories', 0, 'name', value=['x']), "name ['x']"),
    'an id that is no number': (at('categories', 0, 'id', value='90'), "id '90'"),
    'an id without end': (at('categories', 0, 'id', value=float('inf')), 'id inf'),
    'an id twice': (at('categories', 0, 'id', value=2), 'calls category 2'),
    'annotations that are none': (at('annotations', value=[None]), 'wanted:'),
    'annotations of another kind': (at('annotations', value={'a': 1}), 'wanted:'),
    'an unknown category': (at('annotations', 0, 'category_id', value=4), 'no category 4'),
    'a category that is a list': (at('annotations', 0, 'category_id', value=[1]), 'wanted:'),
    'an unknown image': (at('annotations', 0, 'image_id', value=99), 'boxes of image 99'),
    'an image that is a list': (at('annotations', 0, 'image_id', value=[]), 'wanted:'),
    'no box': (at('annotations', 0, 'bbox', value=None), "it lacks 'bbox'"),
    'a box of three': (at('annotations', 0, 'bbox', value=[1, 2, 3]), 'the box [1, 2, 3]'),
    'a box of texts': (at('annotations', 0, 'bbox', value=list('1234')), 'four finite numbers'),
    'a box that is a text': (at('annotations', 0, 'bbox', value='1234'), "the box '1234'"),
    'a box without end': (at('annotations', 0, 'bbox', value=[0, 0, 1, float('inf')]), 'finite'),
    'a box of nothing': (at('annotations', 0, 'bbox', value=[0, float('nan'), 1, 1]), 'finite'),
    'a box too large': (at('annotations', 0, 'bbox', value=[0, 0, 1, 10**400]), 'finite'),
    'no width': (at('images', 0, 'width', value=None), "it lacks 'width'"),
    'a width that is a text': (at('images', 0, 'width', value='20'), "'20'x10 pixels"),
    'a width of nothing': (at('images', 0, 'width', value=float('nan')), 'nanx10 pixels'),
    'a height below 0': (at('images', 0, 'height', value=-1), '20x-1 pixels'),
    'two images of an id': (at('images', 0, 'id', value=3), 'two images have the id 3'),
    'a path outside': (at('images', 0, 'file_name', value='../a.jpg'), "'../a.jpg' is outside"),
    'a deep path outside': (at('images', 0, 'file_name', value='x/../../a.jpg'), 'is outside'),
    'an absolute path': (at('images', 0, 'file_name', value='/etc/passwd'), 'is outside'),
    'no file name': (at('images', 0, 'file_name', value=None), "it lacks 'file_name'"),
    'a file name that is none': (at('images', 0, 'file_name', value=3), 'the image 3'),
    'a missing image': (at('images', 0, 'file_name', value='x.jpg'), 'x.jpg does not exist, one'),
    'a name of two lines': (at('images', 0, 'file_name', value='a\nb'), 'a\\nb does not exist'),
    'a name that is no text': (at('images', 0, 'file_name', value='\ud800'), 'does not exist'),
    'a name with a zero': (at('images', 0, 'file_name', value='a\0'), 'a\\x00 does not exist'),
}


@pytest.mark.parametrize('name', BAD_COCO)
def test_what_is_wrong_with_annotations_is_told_in_a_line(coco, name):
    content, words = BAD_COCO[name]
    annotate(coco, content)
    assert str(coco) in refused(f'coco:{coco}', words)


def test_any_damage_of_annotations_is_told_in_a_line(coco):
    """Whatever stands at any place of the file, and however its bytes are damaged."""
    rng = np.random.default_rng(0)
    places = [(key,) for key in CONTENT]
    places += [(key, 0) for key in CONTENT]
    places += [(key, 0, field) for key in CONTENT for field in CONTENT[key][0]]
    values = [0, -1, 1e999, float('nan'), True, '', 'x', [], [[]], {}, {'a': 1}, 10**400, 'a\nb']
    contents = [at(*place, value=value) for place in places for value in values]
    text = json.dumps(CONTENT).encode()
    for _ in range(150):
        noise = bytearray(text)
        for i in rng.integers(len(text), size=rng.integers(1, 4)):
            noise[i] = rng.integers(256)
        contents.append(bytes(noise))
    contents += [text[:end] for end in rng.integers(len(text), size=30)]
    opened = 0
    for content in contents:
        annotate(coco, content)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            try:
                open_source(f'coco:{coco}', 'train').take(range(1))
                opened += 1
            except InputError as error:
                assert str(error).isprintable(), str(error)
    assert 0 < opened < len(contents) / 2


def test_annotations_are_for_an_image_of_their_size(coco, tmp_path):
    root = shutil.copytree(coco, tmp_path / 'coco')
    annotate(root, CONTENT)
    exif = Image.Exif()
    exif[0x0112] = 8
    save(root / 'train/a.jpg', picture(20, 10), exif=exif)
    refused(f'coco:{root}', 'a.jpg has, upright, 10x20 pixels', 'are for 20x10', index=0)
    (root / 'train/a.jpg').write_text('no image')
    refused(f'coco:{root}', 'a.jpg', 'not an image', index=0)


def test_processes_can_read_masks_and_boxes(coco, masks, voc):
    annotate(coco, CONTENT)
    for spec in (f'coco:{coco}', f'masks:{masks}', f'voc:{voc}', 'digits_scenes'):
        source = open_source(spec, 'train')
        copied = pickle.loads(pickle.dumps(source))
        jax.tree.map(np.testing.assert_array_equal, copied[1], source[1])
        assert copied.stored_as(1) == source.stored_as(1)


def test_batches_of_images_of_all_sizes(coco):
    annotate(coco, CONTENT)
    prepared = Preprocessing(16, 3, None, (0.5,) * 3, (0.25,) * 3, ('a',) * 4, fit='pad')
    source = open_source(f'coco:{coco}', 'train')
    whole = load_arrays(source, prepared, progress=False)
    assert whole['image'].shape == (3, 16, 16, 3)
    assert (whole['classes'] != NOTHING).sum(1).tolist() == [2, 1, 0]
    np.testing.assert_allclose(whole['boxes'][1, 0], [0, 0, 16, 16])
    np.testing.assert_allclose(whole['boxes'][0, 1], np.asarray([1, 2, 4, 6]) * 16 / 20)
    last = list(eval_batches(source, prepared, 2))[-1]
    assert last['mask'].tolist() == [True, False]
    assert (last['classes'] == NOTHING).all(), 'padding has no objects'


# In the square that a model sees


def square(targets, size, side):
    """A twin: each pixel and box by itself."""
    height, width = size
    scale = side / max(size)
    inner = [max(1, round(length * scale)) for length in size]
    found = {}
    if 'segmentation' in targets:
        mask = np.full((side, side), IGNORED, np.uint8)
        for y in range(inner[0]):
            for x in range(inner[1]):
                above, left = int((y + 0.5) * height / inner[0]), int((x + 0.5) * width / inner[1])
                mask[y, x] = targets['segmentation'][above, left]
        found['segmentation'] = mask
    if 'boxes' in targets:
        boxes, classes = np.zeros((MOST_OBJECTS, 4)), np.full(MOST_OBJECTS, NOTHING)
        for i, (left, top, right, bottom) in enumerate(targets['boxes']):
            wide, high = inner[1] / width, inner[0] / height
            boxes[i] = left * wide, top * high, right * wide, bottom * high
            classes[i] = targets['classes'][i]
        found.update(boxes=boxes, classes=classes)
    return found


@pytest.mark.parametrize(
    ('size', 'side'), [((6, 9), 9), ((9, 6), 18), ((40, 30), 16), ((3, 50), 10), ((7, 7), 7)]
)
def test_targets_of_images_of_any_shape(size, side):
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 1, (5, 2, 2)), 1).reshape(5, 4) * ([size[1], size[0]] * 2)
    targets = {
        'segmentation': rng.integers(0, 5, size, dtype=np.uint8),
        'boxes': corners.astype(np.float32),
        'classes': np.arange(5, dtype=np.int32),
    }
    found = fit_targets(targets, size, side)
    for name, values in square(targets, size, side).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5)
    depth = rng.uniform(1, 2, size).astype(np.float32)
    known = fit_targets({'depth': depth}, size, side)['depth']
    assert set(np.unique(known)) <= {0, *depth.ravel()} and known.dtype == np.float32
    np.testing.assert_array_equal(known > 0, found['segmentation'] != IGNORED)


def test_masks_and_boxes_lie_where_the_image_shows_them():
    """A bright rectangle in dark pictures, through the preparation of images and of targets."""
    prepare = Preprocessing(32, 1, None, (0.5,), (0.25,), ('a', 'b'), fit='pad').prepare_example
    for height, width in ((24, 64), (96, 40), (32, 32), (10, 16)):
        image = np.zeros((height, width, 1), np.uint8)
        top, left, bottom, right = (
            round(share * side)
            for share, side in zip((0.25, 0.5, 0.75, 1), (height, width) * 2, strict=True)
        )
        image[top:bottom, left:right] = 255
        targets = {
            'segmentation': (image[..., 0] > 0).astype(np.uint8),
            'boxes': np.asarray([[left, top, right, bottom]], np.float32),
            'classes': np.asarray([1], np.int32),
        }
        found = prepare(image, targets)
        bright, mask = found['image'][..., 0], found['segmentation']
        inside = mask != IGNORED
        assert (bright[~inside] == GREY).all()
        sure = inside & ((bright < 64) | (bright > 192))
        assert sure[inside].mean() > 0.8
        np.testing.assert_array_equal(mask[sure], bright[sure] > 128)
        np.testing.assert_allclose(found['boxes'][0], box_of(mask == 1), atol=1)


def test_no_object_and_too_many():
    empty = {'boxes': np.zeros((0, 4), np.float32), 'classes': np.zeros(0, np.int32)}
    found = fit_targets(empty, (4, 6), 8)
    assert (found['boxes'].shape, found['classes'].shape) == ((MOST_OBJECTS, 4), (MOST_OBJECTS,))
    assert (found['classes'] == NOTHING).all() and not found['boxes'].any()
    count = MOST_OBJECTS + 1
    many = {'boxes': np.ones((count, 4), np.float32), 'classes': np.ones(count, np.int32)}
    with pytest.raises(InputError, match='has 101 objects; at most 100'):
        fit_targets(many, (4, 6), 8)
    with pytest.raises(InputError, match='segmentation has 4x6 pixels and the image 6x4'):
        fit_targets({'segmentation': np.zeros((6, 4), np.uint8)}, (4, 6), 8)


# Check


def check(spec, out, *options, code=0):
    assert main(['data', 'check', '--data', spec, '--out', str(out), *options]) == code
    found = json.loads((out / 'check.json').read_text())
    return found, {name: of['cases'] for name, of in found['findings'].items() if of['count']}


def test_masks_are_checked(masks, tmp_path, capsys):
    """Headers alone say nothing of them; decoded, each class is counted once an image."""
    out = tmp_path / 'out'
    save(masks / 'train/masks/a.png', np.zeros((6, 9), np.uint8))
    found, cases = check(f'masks:{masks}', out)
    assert not cases and set(found['splits']['train']['classes'].values()) == {0}
    found, cases = check(f'masks:{masks}', out, '--full', '--strict')
    assert not cases
    assert found['splits']['train']['classes'] == {'background': 2, 'cat': 1, 'dog': 1}
    assert found['splits']['train'] | {'classes': None} == {
        'n': 2,
        'width': [9, 9, 9],
        'height': [6, 6, 6],
        'classes': None,
        'read': 2,
    }
    printed = capsys.readouterr().out
    assert 'targets of 3 of 3 were read.' in ' '.join(printed.split())

    # The same image with other masks, in two splits; and all of a mask ignored.
    for split, name in (('train', 'twin'), ('test', 'twin')):
        save(masks / split / 'images' / f'{name}.png', picture(9, 6, 7))
        value = 1 if split == 'train' else IGNORED
        save(masks / split / 'masks' / f'{name}.png', np.full((6, 9), value, np.uint8))
    found, cases = check(f'masks:{masks}', out, '--full')
    assert set(cases) == {'leaked', 'contradictory', 'empty'}
    assert cases['contradictory'][0]['text'] == 'the same image with other masks or boxes'
    (empty,) = cases['empty']
    assert [image['stored_as'] for image in empty['images']] == [
        str(masks / 'test/images/twin.png')
    ]
    # Files whose bytes are the same, with the same masks, are only repeated.
    save(masks / 'test/masks/twin.png', np.full((6, 9), 1, np.uint8))
    assert set(check(f'masks:{masks}', out, '--full')[1]) == {'leaked'}


@pytest.mark.parametrize('full', [False, True])
def test_every_broken_mask_is_found(masks, tmp_path, capsys, full):
    """Headers tell sizes; a class that there is not shows when the mask is decoded."""
    save(masks / 'train/masks/a.png', numbers(5, 6))
    (masks / 'train/masks/b.png').write_bytes(b'no image')
    save(masks / 'test/masks/c.png', np.full((6, 9), 3, np.uint8))
    _, cases = check(f'masks:{masks}', tmp_path / 'out', *['--full'] * full, code=1)
    assert len(cases['broken']) == 2 + full and list(cases) == ['broken']
    texts = ' '.join(case['text'] for case in cases['broken'])
    assert 'a.png has 5x6 pixels' in texts and 'b.png' in texts
    assert f'training would stop at {2 + full} images' in capsys.readouterr().err


def test_boxes_are_checked(coco, tmp_path):
    annotate(coco, CONTENT)
    found, cases = check(f'coco:{coco}', tmp_path / 'out', '--full')
    counts = {BACKGROUND: 0, 'bicycle': 1, 'cat': 1, 'toothbrush': 1}
    assert found['splits']['train']['classes'] == counts
    assert [case['images'][0]['index'] for case in cases.pop('empty')] == [2]
    assert set(cases) <= {'small', 'repeated'}
