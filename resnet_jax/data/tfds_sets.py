"""Data sets of TensorFlow Datasets, prepared as array_record: `tfds:NAME`."""

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_jax.data.sources import Catalog, Details, Read, Record
from resnet_jax.errors import InputError, check_choice, first_line, unknown_name

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_ORDERED = (
    'the set is stored in a fixed order: if that is by class, a slice lacks classes; '
    'data.validation=0.1 takes all in proportion',
)


def tfds_catalog(name: str, details: Details) -> Catalog:
    """A TensorFlow Datasets data set, prepared as array_record, which needs no TensorFlow.

    Args:
      name: of the data set, as `tfds.builder` takes it.
      details: `data_dir`, where it lies; `image_key` and `label_key`, its features.

    Raises:
      InputError: on a data set that is not prepared, or features that are not there.
    """
    import tensorflow_datasets as tfds

    default = str(tfds.core.constants.DATA_DIR)
    folder = os.path.expanduser(details.data_dir) if details.data_dir else default
    try:
        builder = tfds.builder(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError:
        raise _tfds_missing(name, folder, known=False) from None
    except Exception as error:  # of many kinds: bad names and versions, damaged files
        raise InputError(f'tfds:{name} cannot be opened in {folder}: {first_line(error)}') from None
    if not builder.info.splits:
        raise _tfds_missing(name, folder, known=True)
    kinds = (tfds.features.Image, tfds.features.Tensor)
    image = _tfds_feature(name, builder, 'image', kinds, details.image_key)
    label = _tfds_feature(name, builder, 'label', (tfds.features.ClassLabel,), details.label_key)
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
    name: str,
    builder: 'tfds.core.DatasetBuilder',
    key: str,
    kinds: Sequence[type],
    chosen: str | None,
) -> str:
    """The chosen feature, or of the first kind that is there `key` if several, or the first."""
    features = builder.info.features
    if chosen is not None:
        known = [name for name, feature in features.items() if type(feature) in kinds]
        check_choice(f'{key} feature of tfds:{name}', chosen, known)
        return chosen
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
