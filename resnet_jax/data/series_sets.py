"""Series that come inside the Python package aeon: `aeon:NAME`, such as aeon:ArrowHead.

They are sets of the UCR and UEA archives of time series classification. Nothing is downloaded.
"""

import functools
import hashlib
import importlib.util
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float32

from resnet_jax.data.sources import Catalog, Details, Record
from resnet_jax.errors import InputError, check_choice, first_line
from resnet_jax.text import printable

SPLITS = {'train': 'TRAIN', 'test': 'TEST'}


def aeon_catalog(name: str, details: Details) -> Catalog:
    """The splits `train` and `test` of a set in the package aeon.

    Args:
      name: of the set.
      details: nothing of it is used.

    Raises:
      InputError: without aeon, for a set that is not in it, and for one whose series differ in
        length.
    """
    del details
    spec = importlib.util.find_spec('aeon')
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f'aeon:{name} is read from the package aeon; install it with pip install '
            "'resnet-jax[series]'"
        )
    root = pathlib.Path(spec.submodule_search_locations[0]) / 'datasets' / 'data'
    stem = f'_{SPLITS["train"]}.ts'
    folders = {path.name.removesuffix(stem): path.parent for path in root.glob(f'*/*{stem}')}
    check_choice('set in the package aeon', name, folders)
    files = _files(folders[name], name)
    series, names = _read_files(files)
    lengths = {one.shape[0] for values, _ in series.values() for one in values}
    if len(lengths) > 1:
        raise InputError(
            f'aeon:{name} has series of {min(lengths)} to {max(lengths)} steps, and a model takes '
            + (
                f'one length; aeon:{name}_eq has them'
                if f'{name}_eq' in folders
                else 'one length; cut or pad them and give the arrays as npz:FILE'
            )
        )
    channels = {one.shape[1] for values, _ in series.values() for one in values}
    return Catalog(
        {split: len(labels) for split, (_, labels) in series.items()},
        names,
        channels.pop(),
        lambda splits: functools.partial(_read, files),
        version=_version(files),
        by_class=True,
        labels=functools.partial(_labels, files),
        space=(lengths.pop(),),
        noun='series',
    )


Files = tuple[tuple[str, str], ...]  # (split, path) of each


def _files(folder: pathlib.Path, name: str) -> Files:
    paths = {split: folder / f'{name}_{word}.ts' for split, word in SPLITS.items()}
    return tuple((split, str(path)) for split, path in paths.items() if path.is_file())


@functools.lru_cache(maxsize=4)
def _read_files(
    files: Files,
) -> tuple[dict[str, tuple[list[np.ndarray], np.ndarray]], tuple[str, ...]]:
    """Split -> series [L, C] and labels; and the names of the classes."""
    found: dict[str, tuple[list[np.ndarray], np.ndarray]] = {}
    names: tuple[str, ...] = ()
    for split, path in files:
        try:
            with open(path, encoding='utf-8') as file:
                names, values, labels = read_ts(file)
        except (OSError, ValueError) as error:
            raise InputError(f'{path} cannot be read: {first_line(error)}') from error
        found[split] = values, labels
    return found, names


def read_ts(
    lines: Iterable[str],
) -> tuple[tuple[str, ...], list[np.ndarray], np.ndarray]:
    """Reads the format .ts of the UEA archive, of classes and without time stamps.

    Args:
      lines: of a file: a header of lines `@NAME ...`, then an example in each line, its channels
        and its class apart by colons, the values of a channel by commas; ? is a missing value.

    Returns:
      The names of the classes, float32 [L, C] of each example, and its label.

    Raises:
      ValueError: for another format.
    """
    names: tuple[str, ...] = ()
    values: list[np.ndarray] = []
    labels: list[str] = []
    for line in map(str.strip, lines):
        if not line or line[0] in '#@':
            words = line.split()
            if line.lower().startswith('@classlabel true'):
                names = tuple(words[2:])
            if line.lower().startswith('@timestamps true'):
                raise ValueError('it has time stamps')
            continue
        *channels, label = line.split(':')
        numbers = [
            [float('nan' if value == '?' else value) for value in channel.split(',')]
            for channel in channels
        ]
        if len({len(channel) for channel in numbers}) != 1:
            raise ValueError(f'line {len(values) + 1} of the data has channels of several lengths')
        values.append(np.asarray(numbers, np.float32).T.copy())
        labels.append(label.strip().lower())
    known = {name.lower(): number for number, name in enumerate(names)}
    if not values or not set(labels) <= set(known):
        raise ValueError('it has no examples, or classes that its header does not name')
    return names, values, np.asarray([known[label] for label in labels], np.int32)


def _read(files: Files, split: str, indices: Sequence[int]) -> list[Record]:
    values, labels = _read_files(files)[0][split]
    return [(values[i], int(labels[i])) for i in indices]


def _labels(files: Files, split: str) -> np.ndarray:
    return _read_files(files)[0][split][1]


def _version(files: Files) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for _, path in files:
        digest.update(pathlib.Path(path).read_bytes())
    return digest.hexdigest()


def read_series(path: str | os.PathLike[str]) -> Float32[np.ndarray, 'length channels']:
    """Reads a series: an .npy of [L] or [L, C], or text of a line for each step.

    Args:
      path: of the file; of text, commas part the channels.

    Raises:
      InputError: if it cannot be read, or holds anything else.
    """
    where = printable(os.fspath(path))
    if not os.path.exists(path):
        raise InputError(f'{where}: no such file')
    try:
        if pathlib.Path(path).suffix.lower() == '.npy':
            values = np.load(path, allow_pickle=False)
        else:
            values = np.loadtxt(path, np.float32, delimiter=',', ndmin=2)
    except (OSError, ValueError, EOFError) as error:
        what = 'give an .npy of [L] or [L, C], or a CSV of a line for each step'
        raise InputError(
            f'{where}: not a series that can be read ({first_line(error)}); {what}'
        ) from error
    if values.ndim not in (1, 2) or values.dtype.kind not in 'iuf' or not values.size:
        raise InputError(
            f'{where}: shape {list(values.shape)} and dtype {values.dtype}; a series is numbers '
            '[L] or [L, C]'
        )
    return values.reshape(len(values), -1).astype(np.float32)
