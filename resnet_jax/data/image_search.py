"""Find image files: by name, in folders, and by patterns."""

import dataclasses
import glob
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from resnet_jax.data.images import IMAGE_SUFFIXES
from resnet_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """A file to be read as an image.

    Attributes:
      path: of the file, as given or found.
      named: whether the caller named the file itself, not a folder or pattern.
    """

    path: Path
    named: bool


def find_images(
    arguments: Sequence[str | os.PathLike[str]],
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
    noun: str = 'image',
) -> list[ImageFile]:
    """Finds image files, or others, in the order of the arguments.

    Args:
      arguments: each of them one of
        a file: taken whatever its suffix, without a check that it exists;
        a folder: the files with one of the suffixes in it and its subfolders;
        a pattern of `*`, `?`, `[...]` and `**` (any number of folders): the matching files, if the
        pattern has no suffix only those with one of the suffixes.
      suffixes: of such files, in lower case.
      noun: what one of them is called, for errors.

    Returns:
      The files; those of a folder or pattern sorted by path, without hidden ones. Links to folders
      are followed, but each folder is entered once.

    Raises:
      InputError: if a folder or pattern yields no files, or a folder cannot be read.
    """
    found, nouns = [], noun if noun.endswith('s') else f'{noun}s'
    for argument in (os.fspath(a) for a in arguments):
        if os.path.isdir(argument):
            paths = [path for path in _files_below(argument) if _has_one(path, suffixes)]
            nothing = f'no {nouns} in this folder (looked for {", ".join(suffixes)})'
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            suffix = Path(argument).suffix
            any_suffix = bool(suffix) and not glob.has_magic(suffix)
            paths = [path for path in _matches(argument) if any_suffix or _has_one(path, suffixes)]
            nothing = f'no {noun} files match this pattern'
        else:
            found.append(ImageFile(Path(argument), named=True))
            continue
        if not paths:
            raise InputError(f'{argument}: {nothing}')
        paths = sorted(set(paths), key=lambda path: path.parts)
        found += [ImageFile(path, named=False) for path in paths]
    return found


def _has_one(path: Path, suffixes: Sequence[str]) -> bool:
    return path.suffix.lower() in suffixes


def _files_below(folder: str) -> Iterator[Path]:
    """The files in a folder and its subfolders, without hidden ones, in any order."""
    entered: set[str] = set()
    waiting = [folder]  # links come last, so that a folder inside is found under its own path
    while waiting:
        for where, folders, files in os.walk(waiting.pop(0), onerror=_raise_input_error):
            real = os.path.realpath(where)
            if real in entered:
                folders.clear()
                continue
            entered.add(real)
            folders[:] = sorted(name for name in folders if name[0] != '.')
            below = [os.path.join(where, name) for name in folders]
            # os.walk does not follow links.
            waiting += [path for path in below if os.path.islink(path)]
            yield from (path for name in files if _is_visible_file(path := Path(where, name)))


def _raise_input_error(error: OSError) -> None:
    raise InputError(f'{error.filename}: cannot read this folder ({error.strerror})')


def _is_visible_file(path: Path) -> bool:
    return path.name[0] != '.' and _is_file(path)


def _is_file(path: Path) -> bool:
    """Leaves out folders, pipes and devices, not broken links: reading them reports the error."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.isdir(path))


def _matches(pattern: str) -> Iterator[Path]:
    """The files that a pattern matches, in any order."""
    parts = Path(pattern).parts
    if '**' not in parts:
        yield from (path for path in map(Path, glob.glob(pattern)) if _is_file(path))
        return
    # Not glob's own `**`, which follows links in circles.
    start = parts.index('**')
    head = os.path.join(*parts[:start]) if start else '.'
    for folder in glob.glob(head):
        for path in _files_below(folder) if os.path.isdir(folder) else ():
            if _parts_match(path.relative_to(folder).parts, parts[start:]):
                yield path


def _parts_match(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether the parts of a path match those of a pattern; `**` matches any number of parts."""
    if not pattern:
        return not parts
    first, *rest = pattern
    if first == '**':
        return any(_parts_match(parts[i:], tuple(rest)) for i in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], first) and _parts_match(parts[1:], tuple(rest))
