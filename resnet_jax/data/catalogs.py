"""Data sets as random-access sources: `digits`, `synthetic`, `tfds:NAME` and `folder:PATH`.

To add a kind of data set, write a function that returns a `Catalog` and give it a row in `KINDS`.
"""

import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from jaxtyping import UInt8

from resnet_jax.data.images import IMAGE_SUFFIXES, decode_image
from resnet_jax.errors import InputError, check_choice, first_line, unknown_name

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

# (image: a path, the bytes of a file or uint8 [H, W, C]; label)
Record = tuple[str | bytes | np.ndarray, int]
Read = Callable[[str, Sequence[int]], list[Record]]  # (whole split, indices in it) -> records

DIGITS_TEST = 360
SYNTHETIC_SIZES = {'train': 1024, 'test': 256}
SYNTHETIC_CLASSES = 10
SYNTHETIC_SHAPE = (32, 32, 3)
SYNTHETIC_NOISE = 48.0  # standard deviation, in steps of 0 to 255


@dataclasses.dataclass(frozen=True)
class Catalog:
    """What a data set contains.

    Attributes:
      sizes: whole split -> number of examples.
      class_names: the name of each label.
      channels: of its images, 1 (grey) or 3 (RGB).
      open: prepares the named whole splits for reading; raises InputError if it cannot.
    """

    sizes: Mapping[str, int]
    class_names: tuple[str, ...]
    channels: int
    open: Callable[[Sequence[str]], Read]


class Example(TypedDict):
    """A labelled image."""

    image: UInt8[np.ndarray, 'h w c']
    label: int


@dataclasses.dataclass(frozen=True)
class Source:
    """A split of a data set: `len(source)`, `source[i]`, and names. Picklable.

    Attributes:
      name: the data set as the caller gave it, e.g. 'tfds:cifar10_jpeg'.
      split: the split as the caller gave it, e.g. 'train[:45000]'.
      class_names: the name of each label.
      channels: of its images, 1 (grey) or 3 (RGB).
      read: reads records of a whole split.
      parts: (whole split, start, stop), concatenated.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    channels: int
    read: Read
    parts: tuple[tuple[str, int, int], ...]

    def __len__(self) -> int:
        return sum(stop - start for _, start, stop in self.parts)

    def __getitem__(self, index: int) -> Example:
        """Reads one example; raises IndexError beyond the end."""
        return self.take([range(len(self))[index]])[0]

    def take(self, indices: Iterable[int]) -> list[Example]:
        """Reads examples together, several times faster than one at a time.

        Args:
          indices: 0 <= i < len(source), in any order.

        Returns:
          `[source[i] for i in indices]`.

        Raises:
          InputError: on an image that cannot be read or a label outside the classes, naming it.
        """
        indices = [int(i) for i in indices]
        found: dict[int, Example] = {}
        first = 0
        for split, start, stop in self.parts:
            here = [i for i in indices if first <= i < first + stop - start]
            inside = [i - first + start for i in here]
            for i, j, record in zip(here, inside, self.read(split, inside), strict=True):
                found[i] = self._example(*record, f'{split} example {j}')
            first += stop - start
        return [found[i] for i in indices]

    def _example(self, image: str | bytes | np.ndarray, label: int, where: str) -> Example:
        if not 0 <= label < len(self.class_names):
            raise InputError(
                f'{where} of {self.name} has label {label}, outside its {len(self.class_names)} '
                f'classes (0 to {len(self.class_names) - 1}); correct the label or choose another '
                'split'
            )
        if not isinstance(image, np.ndarray):
            name = image if isinstance(image, str) else f'{where} of {self.name}'
            image = decode_image(image, self.channels, name)
        return {'image': image, 'label': label}


def open_source(spec: str, split: str, data_dir: str | None = None) -> Source:
    """Opens a split of a data set.

    Args:
      spec: 'digits', 'synthetic', 'tfds:NAME' or 'folder:PATH' (PATH/SPLIT/CLASS/*.jpg|jpeg|png).
      split: in TensorFlow Datasets' syntax for every kind of data set: 'train', 'train[:45000]',
        'train[10%:20%]', 'train[:50%]+test'.
      data_dir: the folder of prepared TFDS data sets; None for TFDS's default. Other kinds ignore
        it.

    Raises:
      InputError: on an unknown data set or split, a slice out of range, a missing or empty folder,
        a TFDS data set that is not prepared.
    """
    catalog = _find_catalog(spec, data_dir)
    parts = _split_parts(split, catalog.sizes, spec)
    read = catalog.open(tuple(dict.fromkeys(name for name, _, _ in parts)))
    if any(start >= stop for _, start, stop in parts):
        raise InputError(f'split {split!r} of {spec} selects nothing; {_sizes_text(catalog.sizes)}')
    return Source(spec, split, catalog.class_names, catalog.channels, read, parts)


def split_sizes(spec: str, data_dir: str | None = None) -> dict[str, int]:
    """Counts the examples of each whole split of a data set; arguments as for `open_source`."""
    return dict(_find_catalog(spec, data_dir).sizes)


def _find_catalog(spec: str, data_dir: str | None) -> Catalog:
    name, _, rest = spec.partition(':')
    for kind, make_catalog in KINDS.items():
        kind_name, _, argument = kind.partition(':')
        if name == kind_name and bool(rest) == bool(argument):
            return make_catalog(rest, data_dir)
    raise unknown_name('data set', spec, KINDS)


def _sizes_text(sizes: Mapping[str, int]) -> str:
    return ', '.join(f'{name} has {size} examples' for name, size in sizes.items())


def _split_parts(
    split: str, sizes: Mapping[str, int], spec: str
) -> tuple[tuple[str, int, int], ...]:
    """The (whole split, start, stop) that a split string selects."""
    import tensorflow_datasets as tfds

    for term in split.split('+'):
        name = term.partition('[')[0].strip()
        if name != 'all':
            check_choice(f'split of {spec}', name, sizes)
    try:
        instruction = tfds.core.ReadInstruction.from_spec(split)
        if 'shard' in split:
            raise ValueError('slices of shards depend on how the files were written')
    except (ValueError, NotImplementedError):
        raise InputError(
            f'cannot read the split {split!r}; write it like train, train[:45000], '
            'train[10%:20%] or train[:50%]+test'
        ) from None
    infos = {
        name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0)
        for name, size in sizes.items()
    }
    try:
        absolute = instruction.to_absolute(infos)
    except ValueError:
        raise InputError(
            f'split {split!r} of {spec} is out of range; {_sizes_text(sizes)}'
        ) from None
    return tuple(
        (part.splitname, part.from_ or 0, sizes[part.splitname] if part.to is None else part.to)
        for part in absolute
    )


# split -> images (arrays or paths of files), labels
Images = Mapping[str, tuple[Sequence[str] | np.ndarray, np.ndarray]]


def _read_images(images: Images, split: str, indices: Sequence[int]) -> list[Record]:
    found, labels = images[split]
    return [(found[i], int(labels[i])) for i in indices]


@functools.lru_cache(maxsize=1)
def _digits_images() -> Images:
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


def digits_catalog() -> Catalog:
    """scikit-learn's 1,797 scans of handwritten digits, 8x8 grey, in a fixed stratified split."""
    images = _digits_images()
    sizes = {name: len(labels) for name, (_, labels) in images.items()}
    read = functools.partial(_read_images, images)
    return Catalog(sizes, tuple('0123456789'), 1, lambda splits: read)


def synthetic_catalog() -> Catalog:
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
        records.append((image, label))
    return records


def folder_catalog(path: str) -> Catalog:
    """Images in PATH/SPLIT/CLASS/. The classes are those of all splits together, sorted by name.

    So a label means the same in every split, even if a split lacks a class.
    """
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
        raise InputError(f'folder:{path}: no such folder; give the one that contains the splits')
    splits = {s.name: [c.name for c in _subfolders(s)] for s in _subfolders(root)}
    names = tuple(sorted({c for classes in splits.values() for c in classes}))
    if not names:
        raise InputError(
            f'folder:{path}: no SPLIT/CLASS folders in it; '
            'images belong in PATH/SPLIT/CLASS/, e.g. train/cat/1.jpg'
        )
    labels = {name: label for label, name in enumerate(names)}
    files, faults = {}, {}
    for split, classes in splits.items():
        images = {c: _image_files(root / split / c) for c in classes}
        split_labels = [labels[c] for c, found in images.items() for _ in found]
        paths = list(itertools.chain.from_iterable(images.values()))
        files[split] = (paths, np.asarray(split_labels, np.int32))
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


def _open_folder(files: Images, faults: Mapping[str, str], splits: Sequence[str]) -> Read:
    # Faults in splits that are not used, such as an unlabelled test folder, do no harm.
    for split in splits:
        if split in faults:
            raise InputError(faults[split])
    return functools.partial(_read_images, {split: files[split] for split in splits})


def tfds_catalog(name: str, data_dir: str | None) -> Catalog:
    """A TensorFlow Datasets data set, prepared as array_record, which needs no TensorFlow."""
    import tensorflow_datasets as tfds

    folder = os.path.expanduser(data_dir) if data_dir else str(tfds.core.constants.DATA_DIR)
    try:
        builder = tfds.builder(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError:
        raise _tfds_missing(name, folder, known=False) from None
    except Exception as error:  # of many kinds: bad names and versions, damaged files
        raise InputError(f'tfds:{name} cannot be opened in {folder}: {first_line(error)}') from None
    if not builder.info.splits:
        raise _tfds_missing(name, folder, known=True)
    image = _tfds_feature(name, builder, 'image', tfds.features.Image)
    label = _tfds_feature(name, builder, 'label', tfds.features.ClassLabel)
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    feature = builder.info.features[label]
    class_names = tuple(feature.names or map(str, range(feature.num_classes)))
    channels = 1 if builder.info.features[image].shape[-1] == 1 else 3
    return Catalog(
        sizes, class_names, channels, functools.partial(_open_tfds, name, builder, image, label)
    )


def _tfds_missing(name: str, folder: str, known: bool) -> InputError:
    """The error for a data set that is not prepared, or (not `known`) that TFDS has no code for."""
    import tensorflow_datasets as tfds

    if not os.path.isdir(folder):
        return InputError(
            f'tfds:{name}: no folder {folder}; set data.dir to the folder of TFDS data sets'
        )
    prepared = [f.name for f in _subfolders(pathlib.Path(folder)) if f.name != 'downloads']
    if not known:
        # Community data sets are known only to TensorFlow.
        known_names = tfds.list_builders(with_community_datasets=False)
        kind = f'TFDS data set (prepared in {folder} or not)'
        return unknown_name(kind, name, {*prepared, *known_names})
    return InputError(
        f'tfds:{name} is not prepared in {folder} (there: {", ".join(prepared) or "nothing"}); run '
        f"tfds.builder('{name}', data_dir=...).download_and_prepare(file_format='array_record') "
        'once, with TensorFlow installed'
    )


def _tfds_feature(name: str, builder: 'tfds.core.DatasetBuilder', key: str, kind: type) -> str:
    """The name of the feature of a kind: `key` if there are several, else the first."""
    features = builder.info.features
    keys = [name for name, feature in features.items() if isinstance(feature, kind)]
    if not keys:
        raise InputError(
            f'tfds:{name} has no {key} feature of type {kind.__name__}, only ' + ', '.join(features)
        )
    return key if key in keys else keys[0]


def _open_tfds(
    name: str, builder: 'tfds.core.DatasetBuilder', image: str, label: str, splits: Sequence[str]
) -> Read:
    import tensorflow_datasets as tfds

    # Decode here, not in TFDS: for CMYK, 16 bits, and errors that name the example.
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
    return [(record[image], int(record[label])) for record in records]


# Spelling of config.data.name -> (what follows its colon, data_dir) -> Catalog.
KINDS: dict[str, Callable[[str, str | None], Catalog]] = {
    'digits': lambda _, data_dir: digits_catalog(),
    'synthetic': lambda _, data_dir: synthetic_catalog(),
    'tfds:NAME': tfds_catalog,
    'folder:PATH': lambda path, data_dir: folder_catalog(path),
}
