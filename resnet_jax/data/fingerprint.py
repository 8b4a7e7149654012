"""What a source held, in a few lines of JSON, to tell later whether it still holds the same."""

import collections
import hashlib
import os
from collections.abc import Mapping
from typing import Any

from resnet_jax.data.folders import listed
from resnet_jax.data.sources import Source

# The sizes of files count in sets up to this size: asking a network file system for a million takes
# minutes.
MOST_SIZES = 200_000


def fingerprint(source: Source) -> dict[str, Any]:
    """Describes the examples of a source, as JSON data.

    Of images in files: for each class their number, and a hash of their paths below the source's
    root and of their sizes, so that a moved folder has the same fingerprint. Of other data,
    and of masks and boxes: their version, the number of examples and the names of the classes.
    """
    if not source.root or source.is_dense:
        return {
            'version': source.version,
            'examples': len(source),
            'class_names': list(source.class_names),
        }
    lines = collections.defaultdict(list)
    sized = len(source) <= MOST_SIZES
    for file, label in zip(source.files(), source.labels(), strict=True):
        size = _size(os.path.join(source.root, file)) if sized else ''
        lines[int(label)].append(f'{file}\n{size}\n'.encode(errors='surrogateescape'))
    classes = {
        name: {'images': len(lines[label]), 'digest': _digest(lines[label])}
        for label, name in enumerate(source.class_names)
    }
    return {'classes': classes}


def _digest(lines: list[bytes]) -> str:
    return hashlib.blake2b(b''.join(sorted(lines)), digest_size=8).hexdigest()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1  # reading it will say what is wrong


def fingerprint_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The differences between two fingerprints of the same split, one line per difference."""
    if 'classes' not in old or 'classes' not in new:
        return [
            f'{key.replace("_", " ")}: {old.get(key)} then, {new.get(key)} now'
            for key in new
            if old.get(key) != new[key]
        ]
    before, after = old['classes'], new['classes']
    gone = [name for name in before if name not in after]
    found = [f'the class {name!r} is gone' for name in gone]
    found += [f'the class {name!r} is new' for name in after if name not in before]
    same = [name for name in after if name in before and before[name] != after[name]]
    for name in same:
        then, now = before[name]['images'], after[name]['images']
        if then != now:
            found.append(f'{name!r} had {then:,} images and has {now:,}')
    replaced = [name for name in same if before[name]['images'] == after[name]['images']]
    if replaced:
        found.append(f'files of other names or sizes in {listed(list(map(repr, replaced)))}')
    return found
