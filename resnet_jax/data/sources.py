"""Data sets as random-access sources: `digits`, `synthetic`, `tfds:NAME` and `folder:PATH`."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from resnet_jax.data import catalogs
from resnet_jax.data.catalogs import Catalog, Read, Record
from resnet_jax.data.images import decode_image
from resnet_jax.errors import InputError, unknown_name

# What a data set may be called: (what follows the colon, data_dir) -> Catalog.
KINDS: dict[str, Callable[[str, str | None], Catalog]] = {
    'digits': lambda _, data_dir: catalogs.digits(),
    'synthetic': lambda _, data_dir: catalogs.synthetic(),
    'tfds:NAME': catalogs.tfds,
    'folder:PATH': lambda path, data_dir: catalogs.folder(path),
}


@dataclasses.dataclass(frozen=True)
class Source:
    """A split of a data set: `len(source)`, `source[i]`, and names. Picklable.

    Attributes:
      name: the data set as it was asked for, e.g. 'tfds:cifar10_jpeg'.
      split: the split as it was asked for, e.g. 'train[:45000]'.
      class_names: the name of each label.
      channels: of its images, 1 (grey) or 3 (RGB).
      read: reads records of a whole split.
      parts: (whole split, start, stop), one after another.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    channels: int
    read: Read
    parts: tuple[tuple[str, int, int], ...]

    def __len__(self) -> int:
        return sum(stop - start for _, start, stop in self.parts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """{'image': uint8 [H, W, C], 'label': int}; IndexError beyond the end."""
        return self.take([range(len(self))[index]])[0]

    def take(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """`[source[i] for i in indices]`, read together, which is several times faster.

        Args:
          indices: 0 <= i < len(source), in any order.

        Returns:
          One {'image', 'label'} for each index, in the order of `indices`.

        Raises:
          InputError: on an image that cannot be read or a label outside the classes, naming it.
        """
        indices = [int(i) for i in indices]
        found: dict[int, Record] = {}
        first = 0
        for split, start, stop in self.parts:
            here = [i for i in indices if first <= i < first + stop - start]
            records = self.read(split, [i - first + start for i in here])
            found.update(zip(here, records, strict=True))
            first += stop - start
        return [self._example(*found[i]) for i in indices]

    def _example(self, image: str | bytes | np.ndarray, label: int, where: str) -> dict[str, Any]:
        if not 0 <= label < len(self.class_names):
            raise InputError(
                f'{where} of {self.name} has label {label}, outside its {len(self.class_names)} '
                f'classes (0 to {len(self.class_names) - 1}); mend the data or pick another split'
            )
        if not isinstance(image, np.ndarray):
            name = where if isinstance(image, str) else f'{where} of {self.name}'
            image = decode_image(image, self.channels, name)
        return {'image': image, 'label': label}


def open_source(spec: str, split: str, data_dir: str | None = None) -> Source:
    """Opens a split of a data set.

    Args:
      spec: 'digits', 'synthetic', 'tfds:NAME' or 'folder:PATH' (PATH/SPLIT/CLASS/*.jpg|jpeg|png).
      split: in TensorFlow Datasets' syntax for every kind of data set: 'train', 'train[:45000]',
        'train[10%:20%]', 'train[:50%]+test'.
      data_dir: where prepared TFDS data sets are; None for TFDS's own default. Others ignore it.

    Returns:
      The source.

    Raises:
      InputError: on an unknown data set or split, a slice out of range, a missing or empty folder,
        a TFDS data set that is not prepared.
    """
    catalog = _catalog(spec, data_dir)
    parts = _split_parts(split, catalog.sizes, spec)
    read = catalog.open(tuple(dict.fromkeys(name for name, _, _ in parts)))
    if any(start >= stop for _, start, stop in parts):
        raise InputError(f'split {split!r} of {spec} selects nothing; {_held(catalog.sizes)}')
    return Source(spec, split, catalog.class_names, catalog.channels, read, parts)


def split_sizes(spec: str, data_dir: str | None = None) -> dict[str, int]:
    """The whole splits of a data set and how many examples each holds; as `open_source`."""
    return dict(_catalog(spec, data_dir).sizes)


def _catalog(spec: str, data_dir: str | None) -> Catalog:
    name, _, rest = spec.partition(':')
    for kind, catalog in KINDS.items():
        kind_name, _, argument = kind.partition(':')
        if name == kind_name and bool(rest) == bool(argument):
            return catalog(rest, data_dir)
    raise unknown_name('data set', spec, KINDS)


def _held(sizes: Mapping[str, int]) -> str:
    return ', '.join(f'{name} has {size} examples' for name, size in sizes.items())


def _split_parts(
    split: str, sizes: Mapping[str, int], spec: str
) -> tuple[tuple[str, int, int], ...]:
    """The (whole split, start, stop) that a split string selects."""
    import tensorflow_datasets as tfds

    for term in split.split('+'):
        name = term.partition('[')[0].strip()
        if name not in (*sizes, 'all'):
            raise unknown_name(f'split of {spec}', name, sizes)
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
        raise InputError(f'split {split!r} of {spec} is out of range; {_held(sizes)}') from None
    return tuple(
        (part.splitname, part.from_ or 0, sizes[part.splitname] if part.to is None else part.to)
        for part in absolute
    )
