"""Images with boxes, as COCO's JSON describes them."""

import functools
import hashlib
import math
import os
import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resnet_jax.data.sources import Catalog, Read, Record
from resnet_jax.data.targets import MOST_OBJECTS
from resnet_jax.errors import InputError, shown
from resnet_jax.json_files import read_json, unreadable

_LAYOUT = 'PATH/annotations/instances_SPLIT.json with the images in PATH/SPLIT'
BACKGROUND = 'background'  # class 0, of which no box is
Split = list[tuple[str, np.ndarray, np.ndarray]]  # path of an image, its boxes, their classes


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
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise unreadable(file, error, f'wanted: {_LAYOUT}') from None
        if found:
            splits[split] = found
        if left_out:
            notes.append(f'{left_out:,} boxes of {split} are left out: crowds, or without area')
        digest.update(file.read_bytes())
    if not splits:
        raise InputError(f'{files[0]} names no images; wanted: {_LAYOUT}')
    return Catalog(
        {split: len(found) for split, found in splits.items()},
        (BACKGROUND, *(names[number] for number in sorted(names))),
        3,
        functools.partial(_open, splits),
        version=digest.hexdigest(),
        notes=tuple(notes),
        name_of=lambda split, i: splits[split][i][0],
        targets=('boxes', 'classes'),
    )


def _categories(file: pathlib.Path, content: Mapping[str, Any]) -> dict[int, str]:
    try:
        found = {int(row['id']): str(row['name']) for row in content['categories']}
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(file, error, f'wanted: {_LAYOUT}') from None
    if not found:
        raise InputError(f'{file} has no categories')
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
            (
                str(folder / name),
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
    left, top, across, down = (float(number) for number in box)
    if not all(map(math.isfinite, (left, top, across, down))):
        raise ValueError(f'the box {shown(box)} is not finite')
    right, bottom = min(left + across, float(width)), min(top + down, float(height))
    left, top = max(left, 0.0), max(top, 0.0)
    return (left, top, right, bottom) if right > left and bottom > top else None


def _open(splits: Mapping[str, Split], names: Sequence[str]) -> Read:
    for split in names:
        missing = [path for path, _, _ in splits[split] if not os.path.isfile(path)]
        if missing:
            raise InputError(
                f'{missing[0]} does not exist, one of {len(missing):,} that the annotations of '
                f'{split} name; wanted: {_LAYOUT}'
            )
    return functools.partial(_read, {split: splits[split] for split in names})


def _read(splits: Mapping[str, Split], split: str, indices: Sequence[int]) -> list[Record]:
    return [
        (path, {'boxes': boxes, 'classes': classes})
        for path, boxes, classes in (splits[split][i] for i in indices)
    ]
