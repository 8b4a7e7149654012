"""Data sets of Hugging Face's `datasets`, from its hub or from files on the disk: `hf:NAME`.

Images are taken as they are stored, so that the decoder of the other kinds of data decodes them.
Rows are read from Arrow files that are mapped into memory; of Parquet files, `datasets` makes such
files once, in its cache.
"""

import contextlib
import functools
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_jax.data.class_labels import check_labelled, number_classes
from resnet_jax.data.shard_names import by_words
from resnet_jax.data.sources import Catalog, Details, Read, Record
from resnet_jax.errors import InputError, check_choice, first_line
from resnet_jax.text import printable

if TYPE_CHECKING:
    import datasets

_FORMATS = ('parquet', 'arrow')  # suffixes of files, and datasets' names of what reads them
_IMAGE_NAMES, _LABEL_NAMES = ('image', 'img'), ('label', 'labels', 'class')


def hub_catalog(name: str, details: Details) -> Catalog:
    """A data set of Hugging Face's `datasets`.

    Args:
      name: a path, of a folder that `save_to_disk` wrote, of a folder of .parquet or .arrow files,
        whose splits are found as `shard_names.by_words` does, or of one such file; else
        OWNER/NAME[/CONFIG] of the hub, which is downloaded the first time.
      details: `image_key` and `label_key`, its columns: by default those of the types Image and
        ClassLabel, or else of bytes, and of whole numbers or text. `label_names`, a file of them
        where the labels are numbers without names.

    Raises:
      InputError: if the package is missing, there is no such data set, or its columns do not fit.
    """
    spec = f'hf:{name}'
    splits, root, version = _load(name, spec)
    first = next(iter(splits.values()))
    image = _image_column(spec, first.features, details.image_key)
    label = _label_column(spec, first.features, details.label_key)
    rows, stored = {}, {}
    digest = hashlib.blake2b(version.encode(), digest_size=8)
    for split, dataset in splits.items():
        if not {image, label} <= dataset.features.keys():
            raise InputError(f'{spec}: its split {split} lacks the columns {image} and {label}')
        stored[split] = _labels(spec, split, dataset, label)
        rows[split] = _undecoded(spec, dataset, image)
    feature = first.features[label]
    names, labels = number_classes(spec, stored, details.label_names)
    names = tuple(getattr(feature, 'names', None) or names) if not details.label_names else names
    for split, of in labels.items():
        digest.update(split.encode() + of.tobytes())
    return Catalog(
        {split: len(dataset) for split, dataset in splits.items()},
        names,
        3,
        functools.partial(_open, spec, rows, image, labels, _roots(root)),
        version=digest.hexdigest(),
        by_class=True,
        labels=labels.__getitem__,
    )


def _load(name: str, spec: str) -> 'tuple[dict[str, datasets.Dataset], Path | None, str]':
    """The splits, the folder that they were read from, and what tells versions apart."""
    try:
        import datasets
    except ImportError:
        raise InputError(
            f'{spec}: hf: needs the package datasets: pip install "resnet-jax[hf]"'
        ) from None
    path = Path(name).expanduser()
    local = path.exists() or name.startswith(('/', './', '../', '~'))
    try:
        with _quiet_bars():
            if local:
                found, version = _load_files(path, spec)
            else:
                found, version = datasets.load_dataset(*_hub_name(name, spec)), ''
    except InputError:
        raise
    except Exception as error:  # of many kinds, of the hub and of damaged files
        what = 'cannot be read' if local else 'cannot be loaded from the hub or its cache'
        raise InputError(f'{spec} {what}: {printable(first_line(error, 300))}') from None
    if isinstance(found, datasets.Dataset):
        found = {str(found.split or 'train'): found}
    if not found or not all(isinstance(each, datasets.Dataset) for each in found.values()):
        raise InputError(f'{spec}: no table of rows that can be read in any order')
    about = next(iter(found.values())).info
    version = version or f'{about.config_name} {about.version}'
    return {str(split): each for split, each in found.items()}, path if local else None, version


def _hub_name(name: str, spec: str) -> list[str]:
    """NAME, OWNER/NAME and CONFIG as `load_dataset` takes them."""
    parts = name.split('/')
    if len(parts) > 3 or not all(parts):
        raise InputError(f'{spec}: no such path, and no name such as hf:OWNER/NAME or .../CONFIG')
    return ['/'.join(parts[:2]), *parts[2:]]


def _load_files(path: Path, spec: str) -> 'tuple[Any, str]':
    import datasets

    if not path.exists():
        raise InputError(f'{spec}: no such file or folder')
    saved = ('dataset_dict.json', 'state.json')  # what save_to_disk writes
    if any((path / name).is_file() for name in saved):
        return datasets.load_from_disk(path), _described(path, sorted(path.rglob('*.arrow')))
    for kind in _FORMATS:
        files = [path] if path.suffix == f'.{kind}' else sorted(path.rglob(f'*.{kind}'))
        files = [file for file in files if file.is_file()]
        if files:
            found = {s: list(map(str, of)) for s, of in by_words(files).items()}
            return datasets.load_dataset(kind, data_files=found), _described(path, files)
    raise InputError(
        f'{spec}: neither what save_to_disk wrote nor .parquet or .arrow files are in this folder'
    )


def _described(path: Path, files: Sequence[Path]) -> str:
    """Names and sizes of files, in a text that a moved folder leaves as it is."""
    return '\n'.join(f'{os.path.relpath(file, path)} {file.stat().st_size}' for file in files)


@contextlib.contextmanager
def _quiet_bars() -> Iterator[None]:
    """Without the bars of `datasets` where standard error is no terminal."""
    from datasets.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if are_progress_bars_disabled() or (sys.stderr is not None and sys.stderr.isatty()):
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _image_column(spec: str, features: Mapping[str, Any], chosen: str | None) -> str:
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    raw = [name for name, kind in features.items() if _is_bytes(kind)]
    return _column(spec, 'image', images or raw, images + raw, _IMAGE_NAMES, chosen, features)


def _is_bytes(kind: Any) -> bool:
    """Whether a column holds the bytes of files, as other programs write them to Parquet."""
    if isinstance(kind, dict):
        return 'bytes' in kind and kind.keys() <= {'bytes', 'path'}
    return getattr(kind, 'dtype', '') in ('binary', 'large_binary')


def _label_column(spec: str, features: Mapping[str, Any], chosen: str | None) -> str:
    import datasets

    named = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    plain = [
        name
        for name, kind in features.items()
        if isinstance(kind, datasets.Value) and 'int' in kind.dtype
    ]
    text = [
        name
        for name, kind in features.items()
        if isinstance(kind, datasets.Value) and kind.dtype in ('string', 'large_string')
    ]
    known = [*named, *plain, *text]
    usual = [name for name in (*plain, *text) if name in _LABEL_NAMES]
    likely = named or usual[:1] or plain or text
    return _column(spec, 'label', likely, known, _LABEL_NAMES, chosen, features)


def _column(
    spec: str,
    key: str,
    likely: Sequence[str],
    known: Sequence[str],
    usual: Sequence[str],
    chosen: str | None,
    features: Mapping[str, Any],
) -> str:
    """The chosen column, the only one that can be meant, or the one of a usual name."""
    if chosen is not None:
        check_choice(f'{key} column of {spec}', chosen, known)
        return chosen
    if not likely:
        raise InputError(f'{spec}: no column of {key}s; its columns are {", ".join(features)}')
    found = next((name for name in usual if name in likely), likely[0])
    if len(likely) > 1 and found not in usual:
        raise InputError(
            f'{spec}: several columns may hold the {key}s ({", ".join(likely)}); choose one with '
            f'data.{key}_key={likely[0]}'
        )
    return found


def _undecoded(spec: str, dataset: 'datasets.Dataset', image: str) -> 'datasets.Dataset':
    import datasets

    try:
        return dataset.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    except Exception as error:  # pyarrow's, of many kinds
        raise InputError(f'{spec}: {image} holds no images ({first_line(error)})') from None


def _labels(
    spec: str, split: str, dataset: 'datasets.Dataset', label: str
) -> np.ndarray | list[str]:
    """The labels of a split; those that are missing are -1, or ''."""
    column = dataset.select_columns([label]).with_format('arrow')[:][label]
    missing = column.null_count
    if 'int' in str(column.type):
        return np.asarray(column.fill_null(-1) if missing else column)
    if missing:
        raise InputError(f'{spec}: {missing:,} examples of {split} have no {label}')
    return list(map(str, column.to_pylist()))


def _roots(root: Path | None) -> tuple[str, ...]:
    """The folders that images in files of their own may lie in."""
    import datasets
    from huggingface_hub import constants

    folders = [datasets.config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE, *([root] if root else [])]
    return tuple(os.path.join(os.path.realpath(folder), '') for folder in folders)


def _open(
    spec: str,
    rows: 'Mapping[str, datasets.Dataset]',
    image: str,
    labels: Mapping[str, np.ndarray],
    roots: Sequence[str],
    splits: Sequence[str],
) -> Read:
    check_labelled(spec, labels, splits)
    mine = {split: rows[split] for split in splits}
    return functools.partial(_read, spec, mine, image, {s: labels[s] for s in splits}, roots)


def _read(
    spec: str,
    rows: 'Mapping[str, datasets.Dataset]',
    image: str,
    labels: Mapping[str, np.ndarray],
    roots: Sequence[str],
    split: str,
    indices: Sequence[int],
) -> list[Record]:
    if not indices:
        return []
    try:
        found = rows[split][list(indices)][image]
    except Exception as error:  # pyarrow's, of files that were damaged or removed
        raise InputError(f'{spec}: cannot read the {split} split: {first_line(error)}') from None
    return [
        (_image(cell, roots, f'{split} example {i} of {spec}'), int(labels[split][i]))
        for cell, i in zip(found, indices, strict=True)
    ]


def _image(cell: Mapping[str, Any] | None, roots: Sequence[str], where: str) -> bytes | str:
    """The bytes of an image, or its path, which must not lead out of the data set."""
    if cell is None or (cell.get('bytes') is None and not cell.get('path')):
        raise InputError(f'{where}: there is no image')
    if cell.get('bytes') is not None:
        return bytes(cell['bytes'])
    path = os.path.realpath(cell['path'])
    if not path.startswith(tuple(roots)):
        raise InputError(
            f'{where} names the file {printable(cell["path"])}, outside of the data set; save it '
            'with its images'
        )
    return path
