"""Python files that describe runs: finding, reading and naming them."""

import contextlib
import difflib
import functools
import importlib.resources
import importlib.util
import os.path
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from resnet_jax.errors import InputError, shown, unknown_name


@functools.cache
def package_folder() -> Path:
    """The folder of the configs that come with the package."""
    return Path(str(importlib.resources.files('resnet_jax') / 'configs'))


@functools.cache
def package_names() -> tuple[str, ...]:
    """Names of the package's configs: 'digits', 'sweeps/norms', ..."""
    folder = package_folder()
    paths = (path.relative_to(folder).with_suffix('') for path in folder.rglob('*.py'))
    return tuple(sorted(path.as_posix() for path in paths))


def find(spec: str, folder: Path | None = None) -> tuple[Path, str | None]:
    """Finds a Python file by its path, or a config of the package by its name.

    Args:
      spec: 'path/to/file.py', or the name of a config of the package, such as 'digits' or
        'sweeps/norms', where no such file exists. A variant may follow after a colon.
      folder: where relative paths start; the current folder by default.

    Returns:
      The file, and the variant, None without one.

    Raises:
      InputError: if there is neither; the message suggests the nearest names.
    """
    folder = folder or Path()
    text, variant = _split(spec)
    path = folder / text
    if '\0' in text or any(len(os.fsencode(part)) > 255 for part in path.parts):
        raise InputError(f'no config file can have the name {shown(text)}')
    if path.is_file():
        return path, variant
    if text in package_names():
        return package_folder() / f'{text}.py', variant
    raise _not_found(text, path)


def _split(spec: str) -> tuple[str, str | None]:
    """The path or name, and the variant after it; a path to a .py file may contain colons."""
    name, separator, variant = spec.partition('.py:')
    if separator:
        return f'{name}.py', variant
    if spec.endswith('.py'):
        return spec, None
    name, separator, variant = spec.partition(':')
    return name, variant if separator else None


def _not_found(text: str, path: Path) -> InputError:
    neighbours = {p.name for p in path.parent.glob('*.py')} if path.parent.is_dir() else set()
    if not (text.endswith('.py') or path.exists() or os.path.isabs(text)):
        near = [name for name in package_names() if name.endswith(f'/{text}')]
        near = near or difflib.get_close_matches(text, package_names(), n=3, cutoff=0.6)
        stems = [name.removesuffix('.py') for name in neighbours]
        alike = difflib.get_close_matches(path.name, stems, n=3, cutoff=0.6)
        near += [f'{stem}.py' for stem in alike]
        return unknown_name('config', text, package_names(), near)
    if name := _legacy_name(text) or (path.stem if path.stem in package_names() else None):
        return InputError(f'no config file {path}; the package has a config {name!r}')
    if not path.exists():
        near = difflib.get_close_matches(path.name, neighbours, n=1, cutoff=0.6)
        if near:
            return unknown_name(f'config file in {path.parent}/:', path.name, neighbours)
        return InputError(f'no config file {path}: no such file')
    return InputError(f'no config file {path}: it is no file')


def canonical(spec: str, folder: Path | None = None) -> str:
    """How the program writes a config down: the package's by name, others by their path.

    Args:
      spec: as `find` takes it. A file that no longer exists counts as the package's config if it
        was in a folder `configs`, where earlier versions kept them.
      folder: where relative paths start; the current folder by default.

    Returns:
      A name or a path, with the variant after a colon where there is one.
    """
    text, variant = _split(spec)
    path = (folder or Path()) / text
    if path.is_file():
        name: str | None = _package_name(path)
    elif text in package_names():
        name = text
    else:
        name = _legacy_name(text)
    ending = '' if variant is None else f':{variant}'
    return f'{name or path}{ending}'


def absolute(spec: str) -> str:
    """A config as `canonical` writes it down, with an absolute path."""
    text, variant = _split(canonical(spec))
    if text not in package_names():
        text = os.path.abspath(text)
    return text if variant is None else f'{text}:{variant}'


def _package_name(path: Path) -> str | None:
    """The name of a config of the package; None for other files."""
    resolved, folder = path.resolve(), package_folder().resolve()
    if not resolved.is_relative_to(folder):
        return None
    return resolved.relative_to(folder).with_suffix('').as_posix()


def _legacy_name(text: str) -> str | None:
    """The package's name for a path such as '/checkout/configs/sweeps/../digits.py'."""
    parts = PurePath(os.path.normpath(text.removesuffix('.py'))).parts
    names = ('/'.join(parts[i + 1 :]) for i, part in enumerate(parts) if part == 'configs')
    return next((name for name in names if name in package_names()), None)


def call(spec: str, function: str) -> Any:
    """Runs a file and calls a function that it defines.

    Args:
      spec: as `find` takes it; a variant is passed to the function. While the file runs, its own
        folder comes first on the import path, as when Python runs a script, and the package's
        configs last, so that `import default` works in every folder.
      function: the function's name.

    Raises:
      InputError: for a file that cannot be found or read, or that raises an error.
    """
    path, variant = find(spec)
    with_path = importlib.util.spec_from_file_location(f'config_{path.stem}', path)
    if with_path is None or with_path.loader is None:
        raise InputError(f'config file {path} is not a Python file (.py)')
    module = importlib.util.module_from_spec(with_path)
    try:
        # What it prints must not mix with the one JSON object of --json.
        with _importing_from(path.parent), contextlib.redirect_stdout(sys.stderr):
            with_path.loader.exec_module(module)
            if not hasattr(module, function):
                raise InputError(f'config file {path} does not define {function}()')
            get = getattr(module, function)
            return get() if variant is None else get(variant)
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:  # anything may go wrong in a user's file, also sys.exit()
        reason = ' '.join(str(error).split())[:300]
        raise InputError(f'config file {spec}: {type(error).__name__}: {reason}') from error


@contextlib.contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Lets imports find the files of a folder first, and the package's configs last.

    What is imported from there is forgotten afterwards: `default` is always the neighbour of the
    file that imports it, whatever was imported before.
    """
    neighbours = {path.stem for place in (folder, package_folder()) for path in place.glob('*.py')}
    hidden = {name: sys.modules.pop(name) for name in neighbours if name in sys.modules}
    first, last = str(folder.resolve()), str(package_folder())
    sys.path[:] = [first, *sys.path, last]
    try:
        yield
    finally:
        for entry in (first, last):
            sys.path.remove(entry)
        for name in neighbours:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)
