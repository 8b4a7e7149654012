"""Data sets as random-access sources, by the names of `KINDS`.

To add a kind of data set, write a function that returns a `Catalog` and give it a row in `KINDS`.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from resnet_jax.data.coco import coco_catalog
from resnet_jax.data.digits_scenes import digits_scenes_catalog
from resnet_jax.data.folders import IMAGES, FileKind, read_image_folder
from resnet_jax.data.hub_sets import hub_catalog
from resnet_jax.data.masks import masks_catalog, voc_catalog
from resnet_jax.data.moving_digits import moving_digits_catalog
from resnet_jax.data.npz_files import npz_catalog
from resnet_jax.data.series_sets import aeon_catalog
from resnet_jax.data.sounds import SOUNDS, read_sound
from resnet_jax.data.sources import Catalog, Details, Read, Record, Source, sliced_in_proportion
from resnet_jax.data.tar_shards import tar_catalog
from resnet_jax.data.texts import BYTES, TEXTS, read_text
from resnet_jax.data.tfds_sets import tfds_catalog
from resnet_jax.errors import InputError, UnknownSplit, check_choice, unknown_name

# Orders of the examples that a slice such as train[:75%] takes, in a set ordered by class:
#   stratified  shuffled with a fixed seed, so that every slice has the classes in proportion
#   sorted      class by class, as versions before this choice did
SLICE_ORDERS = ('stratified', 'sorted')
DIGITS_TEST = 360
SYNTHETIC_SIZES = {'train': 1024, 'test': 256}
SYNTHETIC_CLASSES = 10
SYNTHETIC_SHAPE = (32, 32, 3)
SYNTHETIC_NOISE = 48.0  # standard deviation, in steps of 0 to 255


def open_source(
    spec: str,
    split: str,
    data_dir: str | None = None,
    labels: str | None = None,
    slice_order: str = 'stratified',
    checked: bool = True,
    **keys: Any,
) -> Source:
    """Opens a split of a data set.

    Args:
      spec: a name of `KINDS`, such as 'digits' or 'folder:PATH'.
      split: in TensorFlow Datasets' syntax for every kind of data set: 'train', 'train[:45000]',
        'train[10%:20%]', 'train[:50%]+test'.
      data_dir: the folder of prepared TFDS data sets; None for TFDS's default.
      labels: of a folder: the file that gives the classes of images outside class folders.
      slice_order: one of `SLICE_ORDERS`.
      checked: whether the headers of all files are looked at first, where a kind of data does.
      keys: the other attributes of `Details`, such as image_key. What a kind of data set does not
        take, it ignores.

    Raises:
      InputError: on an unknown data set or split, a slice out of range, and data that is missing,
        empty, damaged or not prepared.
    """
    check_choice('data.slice_order', slice_order, SLICE_ORDERS)
    catalog = _find_catalog(spec, Details(data_dir, labels, **keys))
    parts = _split_parts(split, catalog.sizes, spec)
    wholes = tuple(dict.fromkeys(name for name, _, _ in parts))
    if checked and catalog.check is not None:
        for name in wholes:
            for i in range(catalog.sizes[name]):
                catalog.check(name, i)
    read = catalog.open(wholes)
    if any(start >= stop for _, start, stop in parts):
        raise InputError(f'split {split!r} of {spec} selects nothing; {_sizes_text(catalog.sizes)}')
    same = (
        'version',
        'root',
        'notes',
        'name_of',
        'check',
        'space',
        'decode',
        'vocabulary',
        'noun',
        'targets',
    )
    about = {key: getattr(catalog, key) for key in same}
    source = Source(
        *(spec, split, catalog.class_names, catalog.channels, read, parts),
        **about,
        read_labels=catalog.labels,
    )
    sliced = any((start, stop) != (0, catalog.sizes[name]) for name, start, stop in parts)
    if sliced and catalog.by_class and slice_order == 'stratified':
        return sliced_in_proportion(source, catalog.sizes)
    return source


def split_sizes(
    spec: str, data_dir: str | None = None, labels: str | None = None, **keys: Any
) -> dict[str, int]:
    """Counts the examples of each whole split of a data set; arguments as for `open_source`."""
    return dict(_find_catalog(spec, Details(data_dir, labels, **keys)).sizes)


def kinds_that_take(field: str) -> list[str]:
    """The names of `KINDS` on which a field of `config.data` has an effect."""
    return [kind for kind, row in KINDS.items() if field in row.takes]


def has_effect(spec: str, field: str) -> bool:
    """Whether a field of `config.data` has an effect on a data set, of which only the name counts.

    Args:
      spec: the data set; for one of an unknown kind the answer is yes.
      field: one of the `takes` of `KINDS`.
    """
    name = str(spec).partition(':')[0]
    rows = [row for kind, row in KINDS.items() if kind.partition(':')[0] == name]
    return not rows or field in rows[0].takes


def _find_catalog(spec: str, details: Details) -> Catalog:
    name, _, rest = spec.partition(':')
    for kind, row in KINDS.items():
        kind_name, _, argument = kind.partition(':')
        if name == kind_name and bool(rest) == bool(argument):
            return row.open(rest, details)
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
        if name != 'all' and name not in sizes:
            raise UnknownSplit(str(unknown_name(f'split of {spec}', name, sizes)))
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


def digits_scans() -> dict[str, np.ndarray]:
    """The images of the data set digits, uint8 [N, 8, 8, 1], by split."""
    return {split: np.asarray(images) for split, (images, _) in _digits_images().items()}


def digits_labels() -> dict[str, np.ndarray]:
    """Their digits, by split."""
    return {split: labels for split, (_, labels) in _digits_images().items()}


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
    labels = functools.partial(_labels, {name: of for name, (_, of) in images.items()})
    return Catalog(sizes, tuple('0123456789'), 1, lambda splits: read, labels=labels)


def _labels(labels: Mapping[str, np.ndarray], split: str) -> np.ndarray:
    return labels[split]


def synthetic_catalog() -> Catalog:
    """Noisy one-colour images whose hue is the label: learnable, also after flips and crops."""
    names = tuple(f'hue{k}' for k in range(SYNTHETIC_CLASSES))
    return Catalog(
        *(SYNTHETIC_SIZES, names, SYNTHETIC_SHAPE[2], lambda splits: _read_synthetic),
        labels=_synthetic_labels,
    )


def _synthetic_labels(split: str) -> np.ndarray:
    return np.arange(SYNTHETIC_SIZES[split]) % SYNTHETIC_CLASSES


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


def folder_catalog(path: str, labels: str | None = None, kind: FileKind = IMAGES) -> Catalog:
    """The images of a folder, or its files of another kind, see `folders.read_image_folder`.

    The classes are those of all splits together, sorted by name, so a label means the same in every
    split, even if a split lacks a class.
    """
    found = read_image_folder(pathlib.Path(path).expanduser(), labels, kind)
    files: Images = {
        split: (
            [str(found.root / file) for file, _ in of_split],
            np.asarray([label for _, label in of_split], np.int32),
        )
        for split, of_split in found.files.items()
    }
    sizes = {split: len(paths) for split, (paths, _) in files.items()}
    return Catalog(
        sizes,
        found.class_names,
        3,
        functools.partial(_open_folder, files, found.faults),
        root=str(found.root),
        by_class=True,
        notes=found.notes,
        labels=functools.partial(_labels, {split: of for split, (_, of) in files.items()}),
    )


def _open_folder(files: Images, faults: Mapping[str, str], splits: Sequence[str]) -> Read:
    # Faults in splits that are not used, such as an unlabelled test folder, do no harm.
    for split in splits:
        if split in faults:
            raise InputError(faults[split])
    return functools.partial(_read_images, {split: files[split] for split in splits})


def text_catalog(path: str, details: Details) -> Catalog:
    """The texts of a folder, each as its first `length` bytes.

    Raises:
      InputError: without a length, and as `folder_catalog`.
    """
    length = _needed(f'text:{path}', 'length', details.length, '1024: how many bytes of each text')
    return dataclasses.replace(
        folder_catalog(path, details.labels, TEXTS),
        channels=1,
        space=(length,),
        decode=functools.partial(read_text, length=length),
        vocabulary=BYTES,
        noun='texts',
    )


def audio_catalog(path: str, details: Details) -> Catalog:
    """The sounds of a folder, each as its first `length` samples.

    Raises:
      InputError: without a length or sample rate, and as `folder_catalog`.
    """
    spec = f'audio:{path}'
    rate = _needed(spec, 'sample_rate', details.sample_rate, '16000: samples a second')
    length = _needed(spec, 'length', details.length, f'{rate}: samples of each sound')
    return dataclasses.replace(
        folder_catalog(path, details.labels, SOUNDS),
        channels=1,
        space=(length,),
        decode=functools.partial(read_sound, length=length, sample_rate=rate),
        noun='sounds',
    )


def _needed(spec: str, field: str, value: int | None, example: str) -> int:
    if value is None:
        raise InputError(
            f'{spec} needs data.{field}, in commands without a config '
            f'--{field.replace("_", "-")}, such as {example}'
        )
    return value


class Kind(NamedTuple):
    """A kind of data set.

    Attributes:
      open: (what follows the colon of its name, details) -> its catalog.
      takes: the fields of `config.data` that it looks at, splits left out.
    """

    open: Callable[[str, Details], Catalog]
    takes: tuple[str, ...] = ()


_KEYS = ('image_key', 'label_key')
_NAMES = ('label_names', 'slice_order')
# Spelling of config.data.name -> the kind of data set.
KINDS: dict[str, Kind] = {
    'digits': Kind(lambda _, details: digits_catalog()),
    'moving_digits': Kind(lambda _, details: moving_digits_catalog(digits_scans())),
    'digits_scenes': Kind(
        lambda _, details: digits_scenes_catalog(digits_scans(), digits_labels())
    ),
    'synthetic': Kind(lambda _, details: synthetic_catalog()),
    'tfds:NAME': Kind(tfds_catalog, ('dir', *_KEYS)),
    'folder:PATH': Kind(
        lambda path, details: folder_catalog(path, details.labels), ('labels', 'slice_order')
    ),
    'tar:PATTERN': Kind(tar_catalog, (*_KEYS, *_NAMES)),
    'npz:FILE': Kind(npz_catalog, _NAMES),
    'hf:NAME': Kind(hub_catalog, (*_KEYS, *_NAMES)),
    'aeon:NAME': Kind(aeon_catalog, ('slice_order',)),
    'masks:PATH': Kind(lambda path, details: masks_catalog(path)),
    'voc:PATH': Kind(lambda path, details: voc_catalog(path)),
    'coco:PATH': Kind(lambda path, details: coco_catalog(path)),
    'text:PATH': Kind(text_catalog, ('labels', 'slice_order', 'length')),
    'audio:PATH': Kind(
        audio_catalog, ('labels', 'slice_order', 'length', 'sample_rate', 'spectrogram')
    ),
}
