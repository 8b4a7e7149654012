"""Images with boxes, as COCO's JSON describes them."""

import contextlib
import functools
import hashlib
import os
import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from resnet_jax.data.pictures import Picture
from resnet_jax.data.sources import Catalog, Read, Record
from resnet_jax.data.targets import MOST_OBJECTS
from resnet_jax.errors import LARGEST_FLOAT, InputError, shown
from resnet_jax.json_files import read_json, unreadable
from resnet_jax.text import printable

_LAYOUT = 'PATH/annotations/instances_SPLIT.json with the images in PATH/SPLIT'
# What a file that holds something else leads to.
_FAULTS = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
BACKGROUND = 'background'  # class 0, of which no box is


class Described(NamedTuple):
    """An image as the annotations have it.

    Attributes:
      path: of the file.
      size: width and height, pixels; None without boxes.
      boxes: their corners.
      classes: of the boxes.
    """

    path: str
    size: tuple[float, float] | None
    boxes: Float32[np.ndarray, 'n 4']
    classes: Int32[np.ndarray, ' n']


Split = list[Described]


def coco_catalog(path: str) -> Catalog:
    """Images and boxes of a folder in COCO's layout (cocodataset.org, "data format").

    The classes are those of the categories of all splits, by their number, behind 'background'.
    Boxes are cut at the border of their image; those without area, crowds, and all beyond the
    `MOST_OBJECTS` largest of an image are left out, which a note says.

    Raises:
      InputError: for another layout, or a file that does not hold what it should.
    """
    root = pathlib.Path(path).expanduser()
    files = sorted((root / 'annotations').glob('instances_*.json'))
    if not files:
        raise InputError(f'{root} has no annotations/instances_*.json; wanted: {_LAYOUT}')
    states = [file.stat() for file in files]
    return _catalog(root, tuple(files), tuple((s.st_size, s.st_mtime_ns) for s in states))


# Kept for the next split of the same files: COCO's own take half a minute to parse.
@functools.lru_cache(maxsize=1)
def _catalog(
    root: pathlib.Path, files: tuple[pathlib.Path, ...], stamps: tuple[tuple[int, int], ...]
) -> Catalog:
    contents = {file: read_json(file, f'wanted: {_LAYOUT}') for file in files}
    names: dict[int, str] = {}
    for file, content in contents.items():
        for number, name in _categories(file, content).items():
            if names.setdefault(number, name) != name:
                raise InputError(
                    f'{file} calls category {number} {name!r}, and another split {names[number]!r}'
                )
    numbers = {category: i for i, category in enumerate(sorted(names), 1)}
    splits, notes, digest = {}, [], hashlib.blake2b(digest_size=8)
    for file, content in contents.items():
        split = file.stem.removeprefix('instances_')
        try:
            found, left_out = _split(content, root / split, numbers)
        except _FAULTS as error:
            raise unreadable(file, error, f'wanted: {_LAYOUT}') from None
        if found:
            splits[split] = found
        if left_out:
            notes.append(
                f'{left_out:,} boxes of {split} are left out: crowds, without area, or beyond the '
                f'{MOST_OBJECTS} largest of an image'
            )
        digest.update(file.read_bytes())
    if not splits:
        raise InputError(f'{files[0]} names no images; wanted: {_LAYOUT}')
    return Catalog(
        {split: len(found) for split, found in splits.items()},
        (BACKGROUND, *(names[number] for number in sorted(names))),
        3,
        functools.partial(_open, splits),
        version=digest.hexdigest(),
        root=str(root),
        notes=tuple(notes),
        name_of=functools.partial(_path, splits),
        targets=('boxes', 'classes'),
    )


def _categories(file: pathlib.Path, content: Mapping[str, Any]) -> dict[int, str]:
    try:
        found: dict[int, str] = {}
        for row in content['categories']:
            number, name = row['id'], row['name']
            if type(number) is not int or not isinstance(name, str) or not name:
                raise ValueError(f'a category has id {shown(number)} and name {shown(name)}')
            if found.setdefault(number, name) != name:
                raise ValueError(f'it calls category {number} {name!r}, and {found[number]!r}')
    except _FAULTS as error:
        raise unreadable(file, error, f'wanted: {_LAYOUT}') from None
    if not found:
        raise InputError(f'{file} has no categories; wanted: {_LAYOUT}')
    return found


def _split(
    content: Mapping[str, Any], folder: pathlib.Path, numbers: Mapping[int, int]
) -> tuple[Split, int]:
    """The images of a split, and how many boxes were left out."""
    by_image = defaultdict(list)
    for row in content.get('annotations', ()):
        by_image[row['image_id']].append(row)
    found, left_out, known = [], 0, set()
    for row in content['images']:
        name = row['file_name']
        if not isinstance(name, str) or os.path.isabs(name) or '..' in pathlib.Path(name).parts:
            raise ValueError(f'the image {shown(name)} is outside of {folder.name}')
        if row['id'] in known:
            raise ValueError(f'two images have the id {shown(row["id"])}')
        known.add(row['id'])
        kept = []
        for one in by_image[row['id']]:
            box = _clipped(one['bbox'], row['width'], row['height'])
            if one.get('iscrowd') or box is None:
                left_out += 1
                continue
            if one['category_id'] not in numbers:
                raise ValueError(f'no category {shown(one["category_id"])} is described')
            kept.append((box, numbers[one['category_id']]))
        kept.sort(key=lambda pair: -(pair[0][2] - pair[0][0]) * (pair[0][3] - pair[0][1]))
        left_out += max(0, len(kept) - MOST_OBJECTS)
        kept = kept[:MOST_OBJECTS]
        found.append(
            Described(
                str(folder / name),
                (row['width'], row['height']) if kept else None,
                np.asarray([box for box, _ in kept], np.float32).reshape(-1, 4),
                np.asarray([number for _, number in kept], np.int32),
            )
        )
    if strange := set(by_image) - known:
        raise ValueError(f'it has boxes of image {shown(next(iter(strange)))}, which is not listed')
    return found, left_out


def _clipped(
    box: Sequence[float], width: float, height: float
) -> tuple[float, float, float, float] | None:
    """COCO's (left, top, width, height) as the corners inside of the image; None without area."""
    if not all(map(_is_number, (width, height))) or min(width, height) <= 0:
        raise ValueError(f'an image has {shown(width)}x{shown(height)} pixels')
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f'the box {shown(box)} is not four finite numbers')
    left, top, across, down = box
    corners = (max(left, 0), max(top, 0), min(left + across, width), min(top + down, height))
    # As they are kept, so that no rounding leaves a box without area.
    left, top, right, bottom = np.asarray(corners, np.float32).tolist()
    return (left, top, right, bottom) if right > left and bottom > top else None


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < LARGEST_FLOAT
    )


def _open(splits: Mapping[str, Split], names: Sequence[str]) -> Read:
    for split in names:
        missing = [one.path for one in splits[split] if not os.path.isfile(one.path)]
        if missing:
            raise InputError(
                f'{printable(missing[0])} does not exist, one of {len(missing):,} that the '
                f'annotations of {split} name; wanted: {_LAYOUT}'
            )
    return functools.partial(_read, {split: splits[split] for split in names})


def _read(splits: Mapping[str, Split], split: str, indices: Sequence[int]) -> list[Record]:
    chosen = [splits[split][i] for i in indices]
    return [(one.path, functools.partial(_targets, one)) for one in chosen]


def _path(splits: Mapping[str, Split], split: str, index: int) -> str:
    return splits[split][index].path


def _targets(one: Described, picture: Picture) -> dict[str, np.ndarray]:
    """Boxes and classes, of an image of the size that they are for."""
    size = one.size
    if size:
        # A file that cannot be read is told of where it is decoded, and may be replaced.
        with contextlib.suppress(InputError):
            size = picture.size()
    if size and one.size and size != one.size:
        raise InputError(
            f'{printable(one.path)} has, upright, {size[0]}x{size[1]} pixels, and its annotations '
            f'are for {one.size[0]}x{one.size[1]}; correct them, or replace the image'
        )
    return {'boxes': one.boxes, 'classes': one.classes}
