"""Series that come inside the Python package aeon: `aeon:NAME`, such as aeon:ArrowHead.

They are sets of the UCR and UEA archives of time series classification. Nothing is downloaded.
"""

import functools
import hashlib
import importlib.util
import pathlib
from collections.abc import Sequence

import numpy as np

from resnet_jax.data.sources import Catalog, Details, Record
from resnet_jax.errors import InputError, first_line, unknown_name

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
    known = sorted(path.parent.name for path in root.glob('*/*_TRAIN.ts'))
    known = [each for each in dict.fromkeys(known) if _files(root, each)]
    if name not in known:
        raise unknown_name('set in the package aeon', name, known)
    files = _files(root, name)
    series, names = _read_files(files)
    lengths = {one.shape[0] for values, _ in series.values() for one in values}
    if len(lengths) > 1:
        raise InputError(
            f'aeon:{name} has series of {min(lengths)} to {max(lengths)} steps, and a model takes '
            'one length; cut or pad them and give the arrays as npz:FILE (docs/data.md)'
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
    )


Files = tuple[tuple[str, str], ...]  # (split, path) of each


def _files(root: pathlib.Path, name: str) -> Files:
    paths = {split: root / name / f'{name}_{word}.ts' for split, word in SPLITS.items()}
    return tuple((split, str(path)) for split, path in paths.items() if path.is_file())


@functools.lru_cache(maxsize=4)
def _read_files(
    files: Files,
) -> tuple[dict[str, tuple[list[np.ndarray], np.ndarray]], tuple[str, ...]]:
    """Split -> series [L, C] and labels; and the names of the classes."""
    from aeon.datasets import load_from_ts_file

    found, names = {}, {}
    for split, path in files:
        try:
            values, classes, about = load_from_ts_file(path, return_meta_data=True)
        except (OSError, ValueError, IndexError) as error:
            raise InputError(f'{path} cannot be read: {first_line(error)}') from error
        names |= dict.fromkeys(map(str, about.get('class_values') or sorted(set(classes))))
        found[split] = [np.ascontiguousarray(one.T, np.float32) for one in values], classes
    numbers = {name: number for number, name in enumerate(names)}
    return {
        split: (values, np.asarray([numbers[str(name)] for name in classes], np.int32))
        for split, (values, classes) in found.items()
    }, tuple(names)


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
