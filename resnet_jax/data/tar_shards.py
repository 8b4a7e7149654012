"""Shards of WebDataset: tar files whose members are grouped by name, `tar:PATTERN`.

An example is the neighbouring members of a shard that share a key, their path up to the first dot
of the file name: `0001.jpg` with `0001.cls`, or with `0001.json`. The headers of all members are
read once, with the standard library; after that any image is read by its place in the file. The
examples are therefore shuffled like those of every other data set, over all shards, and a run can
be resumed anywhere. A reader of streams, as WebDataset's, shuffles within a buffer instead.
"""

import functools
import hashlib
import io
import os
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnet_jax.data.class_labels import check_labelled, number_classes
from resnet_jax.data.images import IMAGE_SUFFIXES, LARGEST_FILE
from resnet_jax.data.shard_names import find_shards
from resnet_jax.data.sources import Catalog, Details, Read, Record
from resnet_jax.data.tar_headers import Member, read_members
from resnet_jax.errors import InputError, first_line
from resnet_jax.json_files import parse_json
from resnet_jax.text import printable

_LARGEST_LABEL = 2**20  # bytes, of a member that holds a label
_CLASS_SUFFIX, _JSON_SUFFIX = 'cls', 'json'  # WebDataset's, and img2dataset's
_LABEL_FIELD = 'label'  # of the JSON
_COMPRESSED = {
    b'\x1f\x8b': 'gzip',
    b'BZh': 'bzip2',
    b'\xfd7zXZ': 'xz',
    b'\x28\xb5\x2f\xfd': 'zstd',
}


class Shard(NamedTuple):
    """What a shard holds.

    Attributes:
      headers: int64 [n], where the header of each example's image begins, bytes.
      starts: int64 [n], where the image begins.
      sizes: int64 [n], bytes.
      labels: as they are stored.
      left_out: reason -> number of members or examples that are not used.
    """

    headers: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    labels: tuple[str, ...]
    left_out: Mapping[str, int]


class Split(NamedTuple):
    """The images of a split: paths of its shards, and for each image its shard and place."""

    paths: tuple[str, ...]
    shards: np.ndarray
    headers: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray


def tar_catalog(pattern: str, details: Details) -> Catalog:
    """The examples of shards.

    Args:
      pattern: see `shard_names.find_shards`.
      details: `image_key`, the suffix of the members that are images, where several are; by default
        any of `IMAGE_SUFFIXES`. `label_key`, the suffix of those that hold labels, or a field of
        `json`; by default `cls`, or the field `label`. `label_names`, a file of them.

    Raises:
      InputError: if there are no such shards, one is damaged or compressed, or none has an image
        with a label.
    """
    spec = f'tar:{pattern}'
    found: dict[str, Split] = {}
    labels: dict[str, list[str]] = {}
    left_out: dict[str, int] = {}
    digest = hashlib.blake2b(digest_size=8)
    for split, paths in find_shards(pattern, spec).items():
        shards = [_read_shard(path, details.image_key, details.label_key) for path in paths]
        labels[split] = [label for shard in shards for label in shard.labels]
        counts = [len(shard.labels) for shard in shards]
        places = [np.concatenate([shard[i] for shard in shards]) for i in range(3)]
        numbers = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
        found[split] = Split(tuple(map(str, paths)), numbers, *places)
        for shard in shards:
            for reason, count in shard.left_out.items():
                left_out[reason] = left_out.get(reason, 0) + count
        names = [path.name for path in paths]
        for part in (
            repr((split, names, labels[split])).encode(),
            *map(np.ndarray.tobytes, places),
        ):
            digest.update(part)
    found = {split: of for split, of in found.items() if len(of.starts)}
    if not found:
        why = ', '.join(f'{reason} ({count:,})' for reason, count in left_out.items())
        raise InputError(
            f'{spec}: no image with a label in the shards' + (f': {why}' if why else '')
        )
    class_names, numbered = number_classes(
        spec, {split: labels[split] for split in found}, details.label_names
    )
    return Catalog(
        {split: len(of.starts) for split, of in found.items()},
        class_names,
        3,
        functools.partial(_open, spec, found, numbered),
        version=digest.hexdigest(),
        by_class=True,
        notes=tuple(f'left out of the shards: {n:,} {reason}' for reason, n in left_out.items()),
        labels=numbered.__getitem__,
        name_of=functools.partial(_name_of, found),
    )


def _read_shard(path: Path, image_key: str | None, label_key: str | None) -> Shard:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f'{path}: cannot read this shard ({error.strerror})') from None
    return _indexed(path, image_key, label_key, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _indexed(
    path: Path, image_key: str | None, label_key: str | None, size: int, modified: int
) -> Shard:
    """The contents of a shard as it was modified last; read once in a process."""
    left_out: dict[str, int] = {}
    rows, labels = [], []
    try:
        with path.open('rb') as raw:
            _check_start(raw, path)
            members = read_members(raw, path, left_out)
            for key, of_key in _grouped(members):
                image, fault = _image(path, key, of_key, image_key)
                label = _label(raw, path, key, of_key, label_key)
                if image is None or label is None:
                    reason = fault or (
                        'images without a label' if image else 'labels without an image'
                    )
                    left_out[reason] = left_out.get(reason, 0) + 1
                    continue
                rows.append((image.header, image.start, image.size))
                labels.append(sys.intern(label))
    except OSError as error:
        raise InputError(f'{path}: cannot read this shard ({error.strerror})') from None
    columns = np.asarray(rows, np.int64).reshape(-1, 3).T
    headers, starts, sizes = map(np.ascontiguousarray, columns)
    return Shard(headers, starts, sizes, tuple(labels), left_out)


def _check_start(raw: io.BufferedReader, path: Path) -> None:
    start = raw.read(8)
    raw.seek(0)
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise InputError(
                f'{path}: compressed with {name}, so that no image in it can be found without '
                'reading all before it; decompress it (images are compressed already)'
            )


def _grouped(
    members: Iterator[Member],
) -> Iterator[tuple[str, dict[str, Member]]]:
    """(key, suffix in lower case -> member) of neighbours that share a key."""
    key = ''
    found: dict[str, Member] = {}
    for member in members:
        folder, name = os.path.split(member.name)
        stem, _, suffix = name.partition('.')
        here, suffix = f'{folder}/{stem}', suffix.lower()
        if found and (here != key or suffix in found):
            yield key, found
            found = {}
        key = here
        found[suffix] = member
    if found:
        yield key, found


def _image(
    path: Path, key: str, members: Mapping[str, Member], image_key: str | None
) -> tuple[Member | None, str]:
    """The image of an example, or why there is none."""
    if image_key is not None:
        member = members.get(image_key.lower().removeprefix('.'))
        return member, '' if member else f'examples without a member .{printable(image_key)}'
    images = [suffix for suffix in members if f'.{suffix}' in IMAGE_SUFFIXES]
    if len(images) > 1:
        raise InputError(
            f'{path}: {printable(key)} has several images ({", ".join(images)}); choose one with '
            f'data.image_key={images[0]}'
        )
    if not images:
        return None, ''
    member = members[images[0]]
    return (member, '') if member.size <= LARGEST_FILE else (None, 'images that are too large')


def _label(
    raw: io.BufferedReader,
    path: Path,
    key: str,
    members: Mapping[str, Member],
    label_key: str | None,
) -> str | None:
    """The label of an example, as text; None if it has none."""
    suffix = _CLASS_SUFFIX if label_key is None else label_key.lower().removeprefix('.')
    where = f'{path}: {printable(key)}'
    if suffix in members:
        return _contents(raw, members[suffix], f'{where}.{suffix}') or None
    if _JSON_SUFFIX not in members:
        return None
    text = _contents(raw, members[_JSON_SUFFIX], f'{where}.{_JSON_SUFFIX}')
    try:
        value: Any = parse_json(text).get(label_key or _LABEL_FIELD)
    except ValueError as error:
        raise InputError(f'{where}.{_JSON_SUFFIX}: no JSON object ({first_line(error)})') from None
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return str(value).strip() or None


def _contents(raw: io.BufferedReader, member: Member, where: str) -> str:
    if member.size > _LARGEST_LABEL:
        raise InputError(f'{where}: {member.size:,} bytes are too many for a label')
    data = os.pread(raw.fileno(), member.size, member.start)
    try:
        return data.decode().strip()
    except UnicodeDecodeError:
        raise InputError(f'{where}: a label must be text or a number') from None


def _open(
    spec: str, found: Mapping[str, Split], labels: Mapping[str, np.ndarray], splits: Sequence[str]
) -> Read:
    check_labelled(spec, labels, splits)
    return functools.partial(
        _read, {split: found[split] for split in splits}, {split: labels[split] for split in splits}
    )


def _read(
    found: Mapping[str, Split],
    labels: Mapping[str, np.ndarray],
    split: str,
    indices: Sequence[int],
) -> list[Record]:
    of = found[split]
    records: dict[int, Record] = {}
    # By shard and place, so that each shard is opened once and read forwards.
    rows = np.asarray(indices, np.int64)
    ordered = rows[np.lexsort((of.starts[rows], of.shards[rows]))]
    for shard in np.unique(of.shards[rows]):
        path = of.paths[shard]
        try:
            with open(path, 'rb', buffering=0) as file:
                for i in ordered[of.shards[ordered] == shard].tolist():
                    records[i] = _read_at(file, of, i), int(labels[split][i])
        except OSError as error:
            raise InputError(f'{path}: cannot read this shard ({error.strerror})') from None
        short = [i for i, (data, _) in records.items() if len(data) < of.sizes[i]]
        if short:
            raise InputError(f'{path}: the shard has changed since it was opened')
    return [records[i] for i in rows.tolist()]


def _read_at(file: io.FileIO, of: Split, index: int) -> bytes:
    file.seek(of.starts[index])
    return file.read(of.sizes[index])


def _name_of(found: Mapping[str, Split], split: str, index: int) -> str:
    """The name of an image in its shard, read from its header."""
    of = found[split]
    path = of.paths[of.shards[index]]
    with open(path, 'rb') as raw:
        archive = tarfile.TarFile(fileobj=raw)
        raw.seek(of.headers[index])
        archive.offset = int(of.headers[index])
        member = tarfile.TarInfo.fromtarfile(archive)
    return f'{printable(member.name)} in {path}'
