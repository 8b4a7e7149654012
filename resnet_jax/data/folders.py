"""Folders of images, texts or sounds: which files belong to which split and class.

The layouts that are understood:

    PATH/SPLIT/CLASS/...     the usual one; images in sub-folders of a class count
    PATH/CLASS/...           without splits: everything is the split `train`
    PATH/SPLIT/*.jpg         with a file that gives their classes (`data.labels`)
    PATH/PATH/SPLIT/...      as archives unpack: the inner folder is taken
"""

import collections
import csv
import dataclasses
import itertools
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from resnet_jax.data.images import IMAGE_SUFFIXES
from resnet_jax.errors import InputError
from resnet_jax.text import printable

SPLIT_NAMES = frozenset(
    ('train', 'training', 'val', 'valid', 'validation', 'test', 'testing', 'eval', 'dev')
)
ONLY_SPLIT = 'train'  # the split of a folder without splits
# What archives and file systems leave behind, in lower case.
_JUNK = frozenset(('__macosx', '@eadir', 'lost+found', '$recycle.bin', 'system volume information'))
_ANNOTATIONS = frozenset(('annotation', 'annotations'))  # may hold images: masks
_PLAIN = frozenset(('images', 'image', 'img', 'imgs'))  # folders that are no class
_NAMED = 4  # names that a message gives before it only counts


@dataclasses.dataclass(frozen=True)
class FileKind:
    """A kind of files.

    Attributes:
      prefix: of the names of such data sets.
      noun: what one file is called.
      suffixes: of the files, in lower case.
    """

    prefix: str
    noun: str
    suffixes: tuple[str, ...]


IMAGES = FileKind('folder', 'image', tuple(IMAGE_SUFFIXES))


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """The images of a folder.

    Attributes:
      root: the folder that holds the splits, or the classes.
      class_names: of all splits together, sorted.
      files: split -> (path relative to `root`, label) of each image, class by class, by path.
      faults: split -> why it cannot be used.
      notes: one line for each ignored item and each remark.
    """

    root: Path
    class_names: tuple[str, ...]
    files: Mapping[str, Sequence[tuple[str, int]]]
    faults: Mapping[str, str]
    notes: tuple[str, ...]


@dataclasses.dataclass
class _Folder:
    """A folder on the disk: names of images, other files by suffix, and folders."""

    kind: FileKind
    name: str
    images: list[str]
    others: collections.Counter[str]
    folders: dict[str, '_Folder']

    def paths(self) -> Iterator[str]:
        """Paths of all images in it and below, relative to it, in order."""
        names = [(name, None) for name in self.images]
        for name, folder in sorted([*names, *self.folders.items()], key=lambda item: item[0]):
            if folder is None:
                yield name
            else:
                yield from (f'{name}/{path}' for path in folder.paths())

    def holds_images(self) -> bool:
        """Whether there is an image in it or below."""
        return next(self.paths(), None) is not None

    def left_out(self) -> 'collections.Counter[str]':
        """Suffix -> number of files in it and below that are no images."""
        return sum((f.left_out() for f in self.folders.values()), self.others)


def read_image_folder(
    path: Path, labels: str | None = None, kind: FileKind = IMAGES
) -> ImageFolder:
    """Finds out what a folder of images, or of files of another kind, holds.

    Args:
      path: the folder.
      labels: a file (CSV, or TSV) that gives the classes of images in splits without class
        folders: a line for each, its file name and its class; absolute, or relative to `path`.
      kind: of the files.

    Raises:
      InputError: saying what was found, if that is none of the known layouts.
    """
    if not path.is_dir():
        raise InputError(
            f'{kind.prefix}:{path}: no such folder; give the one that contains the splits'
        )
    notes: list[str] = []
    root, top = _unwrapped(path, _scan(path, kind, set()), notes)
    _drop(top, _JUNK | _ANNOTATIONS, notes)
    empty = [n for n, f in top.folders.items() if not f.holds_images()]
    for name in [name for name in empty if name.casefold() not in SPLIT_NAMES]:
        notes.append(f'ignored the folder {name}, which holds no {kind.noun}')
        del top.folders[name]
    given = read_labels(path / Path(labels).expanduser()) if labels else None
    if _without_splits(top):
        notes.append(f'no split folders: all {kind.noun}s are the split {ONLY_SPLIT}')
        splits, prefix = {ONLY_SPLIT: top}, ''
    else:
        splits, prefix = dict(top.folders), '{}/'
    classes, faults = {}, {}
    for split, folder in splits.items():
        start = prefix.format(split)
        found, fault = _classes(root / start, split, start, folder, given, notes)
        classes[split] = found
        if fault:
            faults[split] = fault
    names = tuple(sorted({name for found in classes.values() for name in found}))
    if not names:
        raise InputError(f'{kind.prefix}:{path}: {next(iter(faults.values()), _nothing(top))}')
    number = {name: label for label, name in enumerate(names)}
    files = {
        split: [(file, number[name]) for name in sorted(found) for file in found[name]]
        for split, found in classes.items()
    }
    notes += [*_alike(names), *_missing(classes, names, kind.noun), *_left_out(top)]
    return ImageFolder(root, names, files, faults, tuple(map(printable, notes)))


def _nothing(top: _Folder) -> str:
    noun, suffix = top.kind.noun, top.kind.suffixes[0]
    found = f'{len(top.images):,} {noun}s directly in it' if top.images else f'no {noun} in it'
    return (
        f'no SPLIT/CLASS folders in it ({found}); {noun}s belong in PATH/SPLIT/CLASS/, e.g. '
        f'train/cat/1{suffix}'
    )


def _scan(path: Path, kind: FileKind, entered: set[str]) -> _Folder:
    """Reads a folder and those below; hidden files are left out, each folder is entered once."""
    name = os.path.basename(os.path.abspath(path))
    folder = _Folder(kind, name, [], collections.Counter(), {})
    real = os.path.realpath(path)
    if real in entered:
        return folder
    entered.add(real)
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f'{path}: cannot read this folder ({error.strerror})') from error
    for entry in entries:
        if entry.name.startswith('.'):
            continue
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.is_dir():
            folder.folders[entry.name] = _scan(path / entry.name, kind, entered)
        elif suffix in kind.suffixes:
            folder.images.append(entry.name)
        else:
            folder.others[suffix or 'no suffix'] += 1
    return folder


def _unwrapped(path: Path, folder: _Folder, notes: list[str]) -> tuple[Path, _Folder]:
    """The inner one of folders that hold a single folder of images, as archives unpack."""
    while True:
        full = [f for f in folder.folders.values() if f.name.casefold() not in _JUNK]
        full = [f for f in full if f.holds_images()]
        if len(full) != 1 or folder.images or full[0].name.casefold() in SPLIT_NAMES:
            return path, folder
        inside = {name.casefold() for name in full[0].folders}
        if full[0].name.casefold() != folder.name.casefold() and not inside & SPLIT_NAMES:
            return path, folder
        path, folder = path / full[0].name, full[0]
        notes.append(f'the {folder.kind.noun}s are in {path}')


def _drop(folder: _Folder, names: Iterable[str], notes: list[str], where: str = '') -> None:
    """Leaves folders of these names out, here and below; names in lower case."""
    for name in list(folder.folders):
        if name.casefold() in names:
            notes.append(f'ignored the folder {where}{name}')
            del folder.folders[name]
        else:
            _drop(folder.folders[name], _JUNK, notes, f'{where}{name}/')


def _without_splits(top: _Folder) -> bool:
    """Whether the folders are classes and not splits."""
    folders = top.folders.values()
    if not folders or any(f.name.casefold() in SPLIT_NAMES for f in folders):
        return False
    flat = [f for f in folders if f.images]
    inner = {name.casefold() for f in folders for name in f.folders}
    wrapped = not flat and len(folders) > 1 and len(inner) == 1  # PATH/CLASS/images/*.jpg
    return 2 * len(flat) >= len(folders) or wrapped


def _classes(
    path: Path,
    split: str,
    start: str,
    folder: _Folder,
    given: Mapping[str, str] | None,
    notes: list[str],
) -> tuple[dict[str, list[str]], str]:
    """The images of each class of a split, relative to the root, and why it cannot be used."""
    noun = folder.kind.noun
    only = [f for f in folder.folders.values() if f.holds_images()]
    while len(only) == 1 and not folder.images and only[0].name.casefold() == split.casefold():
        path, start, folder = path / only[0].name, f'{start}{only[0].name}/', only[0]
        only = [f for f in folder.folders.values() if f.holds_images()]
    plain = not folder.images and len(only) == 1 and only[0].name.casefold() in _PLAIN
    if not only or plain:
        images = list(folder.paths())
        if images and given is not None:
            return _by_labels(path, start, images, given)
        if not images and folder.folders:
            return {}, _empty(path / next(iter(folder.folders)), noun)
        what = f'{len(images):,} {noun}s' if images else f'no {noun}s'
        how = '; give their classes in a file: data.labels=FILE' if images else ''
        return {}, f'split folder {path} holds no class folders ({what}){how}'
    found, fault = {}, ''
    for name, inner in folder.folders.items():
        if name.casefold() in SPLIT_NAMES and inner.folders.keys() & folder.folders.keys():
            notes.append(f'ignored the folder {start}{name}: a split inside another')
            continue
        found[name] = [f'{start}{name}/{file}' for file in inner.paths()]
        fault = fault or ('' if found[name] else _empty(path / name, noun))
    if folder.images:
        outside = f'{len(folder.images):,} {noun}s in {path} outside its class folders'
        notes.append(f'ignored {outside}')
    return {name: files for name, files in found.items() if files}, fault


def _empty(path: Path, noun: str) -> str:
    return f'class folder {path} holds no {noun}; fill it or remove it'


def read_labels(file: Path, option: str = 'data.labels') -> dict[str, str]:
    """File name -> class, of a CSV or TSV with a line for each image.

    Args:
      file: the file.
      option: that gives it, for errors.

    Raises:
      InputError: if it cannot be read, or says nothing or two things of an image.
    """
    try:
        with file.open(newline='', encoding='utf-8-sig') as lines:
            first = lines.readline()
            lines.seek(0)
            rows = list(csv.reader(lines, delimiter='\t' if '\t' in first else ','))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, 'strerror', None) or error
        raise InputError(f'{option}: cannot read {file}: {reason}') from error
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        if len(row) < 2 or not row[0].strip() or not row[1].strip():
            if not any(cell.strip() for cell in row):
                continue
            raise InputError(f'{option}: line {number} of {file} is no file name and class')
        name, label = row[0].strip(), row[1].strip()
        if found.setdefault(name, label) != label:
            raise InputError(f'{option}: {file} gives {name} two classes, see line {number}')
    return found


def _by_labels(
    path: Path, start: str, images: Sequence[str], given: Mapping[str, str]
) -> tuple[dict[str, list[str]], str]:
    """The images of each class, where a file names their classes.

    A line may name an image by its path, its name or its name without suffix, and may say more than
    a class after it, as the boxes in ImageNet's lists.
    """
    found: dict[str, list[str]] = {}
    several = {label for label in given.values() if ' ' in label}
    heads = {label.split()[0] for label in several}
    boxes = (
        bool(several)
        and len(heads) < len(several)
        and all(part.lstrip('-').isdigit() for label in several for part in label.split()[1:5])
    )
    for image in images:
        name = Path(image).name
        keys = (f'{start}{image}', image, name, Path(name).stem)
        label = next((given[key] for key in keys if key in given), None)
        if label is None:
            return {}, f'data.labels gives no class for {path / image}'
        found.setdefault(label.split()[0] if boxes else label, []).append(f'{start}{image}')
    return found, ''


def _alike(names: Sequence[str]) -> Iterator[str]:
    """A note about classes whose names look the same."""
    by_form = collections.defaultdict(list)
    for name in names:
        by_form[unicodedata.normalize('NFKC', name).casefold()].append(name)
    for alike in by_form.values():
        if len(alike) > 1:
            differ = 'case' if len({n.casefold() for n in alike}) == 1 else 'Unicode form'
            listed = ', '.join(ascii(n) if differ != 'case' else n for n in alike)
            yield f'different classes whose names differ only by {differ}: {listed}'


def _missing(
    classes: Mapping[str, Mapping[str, Sequence[str]]], names: Sequence[str], noun: str
) -> list[str]:
    """Notes about classes that a split lacks."""
    found = []
    for split, of_split in classes.items():
        lacking = [name for name in names if name not in of_split]
        if lacking and of_split:
            found.append(f'the split {split} has no {noun} of {listed(lacking)}')
    return found


def _left_out(top: _Folder) -> list[str]:
    """A note about the files that are no images."""
    others = top.left_out()
    if not others:
        return []
    noun = top.kind.noun
    kinds = ', '.join(f'{count:,} {suffix}' for suffix, count in others.most_common(_NAMED))
    more = ', ...' if len(others) > _NAMED else ''
    return [f'left out {sum(others.values()):,} files that are no {noun}s ({kinds}{more})']


def listed(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    first = ', '.join(itertools.islice(names, _NAMED))
    return first + (f' and {len(names) - _NAMED} more' if len(names) > _NAMED else '')
