"""The kinds of data sets: what each holds and how its records are read.

A new kind is one function here that returns a `Catalog`, and its row in `sources.py`.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from resnet_jax.errors import InputError, unknown_name

# (image: a path, file bytes or uint8 [H, W, C]; label; what to call the example in messages)
Record = tuple[str | bytes | np.ndarray, int, str]
Read = Callable[[str, Sequence[int]], list[Record]]  # (whole split, indices in it) -> records

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png')
DIGITS_TEST = 360
SYNTHETIC_SIZES = {'train': 1024, 'test': 256}
SYNTHETIC_CLASSES = 10
SYNTHETIC_SHAPE = (32, 32, 3)
SYNTHETIC_NOISE = 48.0  # standard deviation, in steps of 0 to 255


@dataclasses.dataclass(frozen=True)
class Catalog:
    """What a data set holds.

    Attributes:
      sizes: whole split -> number of examples.
      class_names: the name of each label.
      channels: of its images, 1 (grey) or 3 (RGB).
      open: makes the named whole splits ready to read; raises InputError where one is not.
    """

    sizes: Mapping[str, int]
    class_names: tuple[str, ...]
    channels: int
    open: Callable[[Sequence[str]], Read]


Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


@functools.lru_cache(maxsize=1)
def _digits_arrays() -> Arrays:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # The scans hold 0 to 16.
    images = np.rint(digits.images[..., None] * (255 / 16)).astype(np.uint8)
    train, test = train_test_split(
        np.arange(len(images)), test_size=DIGITS_TEST, stratify=digits.target, random_state=0
    )
    return {
        name: (images[rows], digits.target[rows])
        for name, rows in (('train', np.sort(train)), ('test', np.sort(test)))
    }


def digits() -> Catalog:
    """scikit-learn's 1,797 scans of handwritten digits, 8x8 grey, in a fixed stratified split."""
    arrays = _digits_arrays()
    sizes = {name: len(labels) for name, (_, labels) in arrays.items()}
    read = functools.partial(_read_arrays, arrays)
    return Catalog(sizes, tuple('0123456789'), 1, lambda splits: read)


def _read_arrays(arrays: Arrays, split: str, indices: Sequence[int]) -> list[Record]:
    images, labels = arrays[split]
    return [(images[i], int(labels[i]), f'{split} example {i}') for i in indices]


def synthetic() -> Catalog:
    """Noisy one-colour images whose hue is the label: learnable, also after flips and crops."""
    names = tuple(f'hue{k}' for k in range(SYNTHETIC_CLASSES))
    return Catalog(SYNTHETIC_SIZES, names, SYNTHETIC_SHAPE[2], lambda splits: _read_synthetic)


def _read_synthetic(split: str, indices: Sequence[int]) -> list[Record]:
    records: list[Record] = []
    for i in indices:
        label = i % SYNTHETIC_CLASSES
        angle = 2 * np.pi * (label / SYNTHETIC_CLASSES + np.arange(3) / 3)
        rng = np.random.default_rng([list(SYNTHETIC_SIZES).index(split), i])
        noise = SYNTHETIC_NOISE * rng.standard_normal(SYNTHETIC_SHAPE)
        image = np.clip(np.rint(128 + 64 * np.cos(angle) + noise), 0, 255).astype(np.uint8)
        records.append((image, label, f'{split} example {i}'))
    return records


Files = dict[str, tuple[tuple[str, ...], np.ndarray]]


def folder(path: str) -> Catalog:
    """PATH/SPLIT/CLASS/image. The classes are those of all splits together, sorted by name.

    So a label means the same in every split, also where one split lacks a class.
    """
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
        raise InputError(f'folder:{path}: no such folder; give the one that holds the splits')
    splits = {s.name: [c.name for c in _subfolders(s)] for s in _subfolders(root)}
    names = tuple(sorted({c for classes in splits.values() for c in classes}))
    if not names:
        raise InputError(
            f'folder:{path}: no SPLIT/CLASS folders in it; '
            'images belong in PATH/SPLIT/CLASS/, e.g. train/cat/1.jpg'
        )
    labels = {name: label for label, name in enumerate(names)}
    files: Files = {}
    faults: dict[str, str] = {}
    for split, classes in splits.items():
        images = {c: _image_files(root / split / c) for c in classes}
        files[split] = (
            tuple(path for found in images.values() for path in found),
            np.asarray([labels[c] for c, found in images.items() for _ in found], np.int32),
        )
        if not classes:
            faults[split] = f'split folder {root / split} holds no class folders'
        elif empty := [c for c, found in images.items() if not found]:
            faults[split] = (
                f'class folder {root / split / empty[0]} holds no .jpg, .jpeg or .png image; '
                'fill it or remove it'
            )
    sizes = {split: len(paths) for split, (paths, _) in files.items()}
    return Catalog(sizes, names, 3, functools.partial(_open_folder, files, faults))


def _subfolders(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith('.'))


def _image_files(path: pathlib.Path) -> list[str]:
    names = [f for f in os.listdir(path) if f.lower().endswith(IMAGE_SUFFIXES) and f[0] != '.']
    return [str(path / name) for name in sorted(names)]


def _open_folder(files: Files, faults: Mapping[str, str], splits: Sequence[str]) -> Read:
    # A fault in a split that is not used, such as an unlabelled test folder, does no harm.
    for split in splits:
        if split in faults:
            raise InputError(faults[split])
    return functools.partial(_read_folder, {split: files[split] for split in splits})


def _read_folder(files: Files, split: str, indices: Sequence[int]) -> list[Record]:
    paths, labels = files[split]
    return [(paths[i], int(labels[i]), paths[i]) for i in indices]


def tfds(name: str, data_dir: str | None) -> Catalog:
    """A TensorFlow Datasets data set, prepared as array_record, which needs no TensorFlow."""
    import tensorflow_datasets as tfds

    place = os.path.expanduser(data_dir) if data_dir else str(tfds.core.constants.DATA_DIR)
    try:
        builder = tfds.builder(name, data_dir=place)
    except tfds.core.DatasetNotFoundError:
        raise _tfds_missing(name, place, known=False) from None
    except Exception as error:  # of many kinds: bad names and versions, damaged files
        reason = str(error).partition('\n')[0].strip()
        raise InputError(f'tfds:{name} cannot be opened in {place}: {reason}') from None
    if not builder.info.splits:
        raise _tfds_missing(name, place, known=True)
    image, label = _tfds_features(name, builder.info.features)
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    feature = builder.info.features[label]
    class_names = tuple(feature.names or map(str, range(feature.num_classes)))
    channels = 1 if builder.info.features[image].shape[-1] == 1 else 3
    return Catalog(
        sizes, class_names, channels, functools.partial(_open_tfds, name, builder, image, label)
    )


def _tfds_missing(name: str, place: str, known: bool) -> InputError:
    """The error for a data set that is not prepared, or (not `known`) that TFDS has no code for."""
    import tensorflow_datasets as tfds

    if not os.path.isdir(place):
        return InputError(
            f'tfds:{name}: no folder {place}; set data.dir to where TFDS data sets are'
        )
    there = [f.name for f in _subfolders(pathlib.Path(place)) if f.name != 'downloads']
    if not known:
        # Community data sets are known only to TensorFlow.
        known_names = tfds.list_builders(with_community_datasets=False)
        return unknown_name(
            f'TFDS data set (prepared in {place} or not)', name, {*there, *known_names}
        )
    return InputError(
        f'tfds:{name} is not prepared in {place} (there: {", ".join(there) or "nothing"}); run '
        f"tfds.builder('{name}', data_dir=...).download_and_prepare(file_format='array_record') "
        'once, with TensorFlow installed'
    )


def _tfds_features(name: str, features: Mapping[str, Any]) -> tuple[str, str]:
    """The keys of the image and the label feature."""
    import tensorflow_datasets as tfds

    found = []
    for wanted, kind in (('image', tfds.features.Image), ('label', tfds.features.ClassLabel)):
        keys = [key for key, feature in features.items() if isinstance(feature, kind)]
        if not keys:
            raise InputError(
                f'tfds:{name} has no {wanted} feature of type {kind.__name__}, only '
                + ', '.join(features)
            )
        found.append(wanted if wanted in keys else keys[0])
    return found[0], found[1]


def _open_tfds(name: str, builder: Any, image: str, label: str, splits: Sequence[str]) -> Read:
    import tensorflow_datasets as tfds

    # We decode ourselves: CMYK, 16 bits, and errors that name the example.
    decoders = {image: tfds.decode.SkipDecoding()}
    try:
        sources = {split: builder.as_data_source(split, decoders=decoders) for split in splits}
    except NotImplementedError:
        raise InputError(
            f'tfds:{name} in {builder.data_dir} is stored as {builder.info.file_format.value}; '
            "prepare it again with file_format='array_record'"
        ) from None
    return functools.partial(_read_tfds, sources, image, label)


def _read_tfds(
    sources: Mapping[str, Any], image: str, label: str, split: str, indices: Sequence[int]
) -> list[Record]:
    try:
        # One call for many: array_record reads them together, several times faster.
        records = sources[split].__getitems__(list(indices))
    except RuntimeError as error:
        raise InputError(f'cannot read the {split} split from its files: {error}') from None
    return [
        (record[image], int(record[label]), f'{split} example {i}')
        for i, record in zip(indices, records, strict=True)
    ]
