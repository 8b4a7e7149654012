"""Data sets as random-access sources: `digits`, `synthetic`, `tfds:NAME` and `folder:PATH`.

To add a kind of data set, write a function that returns a `Catalog` and give it a row in `KINDS`.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_jax.data.folders import read_image_folder
from resnet_jax.data.sources import Catalog, Read, Record, Source, sliced_in_proportion
from resnet_jax.errors import InputError, check_choice, first_line, unknown_name

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

# Orders of the examples that a slice such as train[:75%] takes, in a set ordered by class:
#   stratified  shuffled with a fixed seed, so that every slice has the classes in proportion
#   sorted      class by class, as versions before this choice did
SLICE_ORDERS = ('stratified', 'sorted')
DIGITS_TEST = 360
_ORDERED = (
    'the set is stored in a fixed order: if that is by class, a slice lacks classes; '
    'data.validation=0.1 takes all in proportion',
)
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
) -> Source:
    """Opens a split of a data set.

    Args:
      spec: 'digits', 'synthetic', 'tfds:NAME' or 'folder:PATH', see `folders.read_image_folder`.
      split: in TensorFlow Datasets' syntax for every kind of data set: 'train', 'train[:45000]',
        'train[10%:20%]', 'train[:50%]+test'.
      data_dir: the folder of prepared TFDS data sets; None for TFDS's default. Other kinds ignore
        it.
      labels: of a folder: the file that gives the classes of images outside class folders.
      slice_order: one of `SLICE_ORDERS`.

    Raises:
      InputError: on an unknown data set or split, a slice out of range, a missing or empty folder,
        a TFDS data set that is not prepared.
    """
    check_choice('data.slice_order', slice_order, SLICE_ORDERS)
    catalog = _find_catalog(spec, data_dir, labels)
    parts = _split_parts(split, catalog.sizes, spec)
    read = catalog.open(tuple(dict.fromkeys(name for name, _, _ in parts)))
    if any(start >= stop for _, start, stop in parts):
        raise InputError(f'split {split!r} of {spec} selects nothing; {_sizes_text(catalog.sizes)}')
    about = {key: getattr(catalog, key) for key in ('version', 'root', 'notes')}
    source = Source(spec, split, catalog.class_names, catalog.channels, read, parts, **about)
    sliced = any((start, stop) != (0, catalog.sizes[name]) for name, start, stop in parts)
    if sliced and catalog.by_class and slice_order == 'stratified':
        return sliced_in_proportion(source, catalog.sizes)
    return source


def split_sizes(
    spec: str, data_dir: str | None = None, labels: str | None = None
) -> dict[str, int]:
    """Counts the examples of each whole split of a data set; arguments as for `open_source`."""
    return dict(_find_catalog(spec, data_dir, labels).sizes)


def _find_catalog(spec: str, data_dir: str | None, labels: str | None) -> Catalog:
    name, _, rest = spec.partition(':')
    for kind, make_catalog in KINDS.items():
        kind_name, _, argument = kind.partition(':')
        if name == kind_name and bool(rest) == bool(argument):
            return make_catalog(rest, data_dir, labels)
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


def folder_catalog(path: str, labels: str | None = None) -> Catalog:
    """The images of a folder, see `folders.read_image_folder`.

    The classes are those of all splits together, sorted by name, so a label means the same in every
    split, even if a split lacks a class.
    """
    found = read_image_folder(pathlib.Path(path).expanduser(), labels)
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
    )


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
    image = _tfds_feature(name, builder, 'image', (tfds.features.Image, tfds.features.Tensor))
    label = _tfds_feature(name, builder, 'label', (tfds.features.ClassLabel,))
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    feature = builder.info.features[label]
    class_names = tuple(feature.names or map(str, range(feature.num_classes)))
    stored = builder.info.features[image]
    channels = 1 if stored.shape[-1] == 1 else 3
    if not isinstance(stored, tfds.features.Image):
        if stored.np_dtype != np.uint8 or len(stored.shape) != 3:
            raise InputError(
                f'tfds:{name}: {image} holds {np.dtype(stored.np_dtype)} numbers of shape '
                f'{stored.shape}; images are uint8 numbers [height, width, channels]'
            )
        channels = stored.shape[-1] or channels
    return Catalog(
        sizes,
        class_names,
        channels,
        functools.partial(_open_tfds, name, builder, image, label),
        version=str(builder.version),
        notes=_ORDERED if builder.info.disable_shuffling else (),
    )


def _tfds_missing(name: str, folder: str, known: bool) -> InputError:
    """The error for a data set that is not prepared, or (not `known`) that TFDS has no code for."""
    import tensorflow_datasets as tfds

    if not os.path.isdir(folder):
        return InputError(
            f'tfds:{name}: no folder {folder}; set data.dir to the folder of TFDS data sets'
        )
    found = sorted(p.name for p in pathlib.Path(folder).iterdir() if p.is_dir())
    prepared = [name for name in found if name != 'downloads' and not name.startswith('.')]
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


def _tfds_feature(
    name: str, builder: 'tfds.core.DatasetBuilder', key: str, kinds: Sequence[type]
) -> str:
    """The name of the feature of the first kind that is there: `key` if several, or the first."""
    features = builder.info.features
    for kind in kinds:
        keys = [name for name, feature in features.items() if type(feature) is kind]
        if keys:
            return key if key in keys else keys[0]
    raise InputError(
        f'tfds:{name} has no {key} feature of type {" or ".join(k.__name__ for k in kinds)}, only '
        + ', '.join(features)
    )


def _open_tfds(
    name: str, builder: 'tfds.core.DatasetBuilder', image: str, label: str, splits: Sequence[str]
) -> Read:
    import tensorflow_datasets as tfds

    # Decode here, not in TFDS: for CMYK, 16 bits, and errors that name the example.
    encoded = isinstance(builder.info.features[image], tfds.features.Image)
    decoders = {image: tfds.decode.SkipDecoding()} if encoded else None
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


# Spelling of config.data.name -> (what follows its colon, data_dir, labels) -> Catalog.
KINDS: dict[str, Callable[[str, str | None, str | None], Catalog]] = {
    'digits': lambda _, data_dir, labels: digits_catalog(),
    'synthetic': lambda _, data_dir, labels: synthetic_catalog(),
    'tfds:NAME': lambda name, data_dir, labels: tfds_catalog(name, data_dir),
    'folder:PATH': lambda path, data_dir, labels: folder_catalog(path, labels),
}
