"""The image files that arguments of a command mean: files, folders and patterns."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from resnet_jax.errors import InputError

SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')


@dataclass(frozen=True)
class ImageFile:
    """A file to be read as an image.

    Attributes:
      path: of the file, as it was given or found.
      named: whether the caller named it, rather than a folder or pattern that holds it.
    """

    path: Path
    named: bool


def find_images(arguments: Sequence[str | os.PathLike[str]]) -> list[ImageFile]:
    """The image files that the arguments mean, in their order.

    Args:
      arguments: each one of
        a file: taken whatever its suffix, and not looked at here;
        a folder: the files of `SUFFIXES` in it and in its subfolders;
        a pattern of `*`, `?`, `[...]` and `**` (any folders): the files that it matches, of
        `SUFFIXES` only where the pattern does not say which suffix.

    Returns:
      The files; those of a folder or pattern sorted by path, hidden ones left out. Links to folders
      are followed, but each folder is entered once.

    Raises:
      InputError: if a folder or pattern yields nothing, or a folder cannot be read.
    """
    found = []
    for argument in (os.fspath(a) for a in arguments):
        if os.path.isdir(argument):
            paths = [path for path in _files_below(argument) if _is_image(path)]
            nothing = f'no images in this folder (looked for {", ".join(SUFFIXES)})'
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            suffix = Path(argument).suffix
            any_suffix = bool(suffix) and not glob.has_magic(suffix)
            paths = [path for path in _matches(argument) if any_suffix or _is_image(path)]
            nothing = 'no image files match this pattern'
        else:
            found.append(ImageFile(Path(argument), named=True))
            continue
        if not paths:
            raise InputError(f'{argument}: {nothing}')
        paths = sorted(set(paths), key=lambda path: path.parts)
        found += [ImageFile(path, named=False) for path in paths]
    return found


def printable(name: str) -> str:
    """A file's name as text on one line: names may hold line breaks, and bytes that are no text."""
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _files_below(folder: str) -> Iterator[Path]:
    """The files in a folder and its subfolders, hidden ones left out, in no order."""
    entered: set[str] = set()
    waiting = [folder]  # links wait, so that a folder keeps its own name where it has one here
    while waiting:
        for where, folders, files in os.walk(waiting.pop(0), onerror=_refuse):
            real = os.path.realpath(where)
            if real in entered:
                folders.clear()
                continue
            entered.add(real)
            folders[:] = sorted(name for name in folders if name[0] != '.')
            below = [os.path.join(where, name) for name in folders]
            waiting += [path for path in below if os.path.islink(path)]  # which os.walk passes by
            yield from (path for name in files if _is_visible_file(path := Path(where, name)))


def _refuse(error: OSError) -> None:
    raise InputError(f'{error.filename}: cannot read this folder ({error.strerror})')


def _is_visible_file(path: Path) -> bool:
    """Pipes and devices are no files; a link that leads nowhere is, to be complained of later."""
    return path.name[0] != '.' and (os.path.isfile(path) or os.path.islink(path))


def _matches(pattern: str) -> Iterator[Path]:
    """The files that a pattern matches, in no order."""
    parts = Path(pattern).parts
    if '**' not in parts:
        yield from (path for path in map(Path, glob.glob(pattern)) if os.path.isfile(path))
        return
    # Not glob's own `**`, which walks in circles through links.
    start = parts.index('**')
    head = os.path.join(*parts[:start]) if start else '.'
    for folder in glob.glob(head):
        for path in _files_below(folder) if os.path.isdir(folder) else ():
            if _fits(path.relative_to(folder).parts, parts[start:]):
                yield path


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether the parts of a path fit the parts of a pattern; `**` stands for any number."""
    if not pattern:
        return not parts
    first, *rest = pattern
    if first == '**':
        return any(_fits(parts[i:], tuple(rest)) for i in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], first) and _fits(parts[1:], tuple(rest))
