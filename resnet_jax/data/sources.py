"""Examples with labels in a known order: a split of a data set, or a selection from one."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from resnet_jax.data.pictures import Picture
from resnet_jax.data.targets import check_targets
from resnet_jax.errors import InputError

# (image: a path, the bytes of a file or uint8 [H, W, C]; its label, or what a dense task has of it,
# see `targets`, or a function of the `Picture` that reads that)
Record = tuple[str | bytes | np.ndarray, Any]
Read = Callable[[str, Sequence[int]], list[Record]]  # (whole split, indices in it) -> records

_CHUNK = 4096  # records read at a time
_ORDER_SEED = 0  # of `stratified_order`


@dataclasses.dataclass(frozen=True)
class Catalog:
    """What a data set contains.

    Attributes:
      sizes: whole split -> number of examples.
      class_names: the name of each label.
      channels: of its images: 1 (grey), 3 (RGB), or their bands.
      open: prepares the named whole splits for reading; raises InputError if it cannot.
      version: of the data, where it has one.
      root: the folder that the paths of images start with; empty unless they are files.
      by_class: whether slices take the classes in proportion, because the examples of a split are,
        or may be, in the order of their classes.
      notes: remarks for the user, one line per remark.
      labels: whole split -> int [n]: its labels, without reading images; None if they are only
        known from the records.
      name_of: (whole split, index in it) -> where that example is stored, for messages; None if
        nothing more is known than its number.
      check: (whole split, index in it): refuses an example whose files do not belong together, by
        their headers; None if there is nothing to check.
      space: (length,) of series, arrays of floats [L, C] that all have it; () of images.
      decode: reads a file that is no image, from its path; None: files are images.
      vocabulary: of texts [L]: how many whole numbers there are; 0: the examples are no texts.
      noun: what several examples are called.
      targets: what each example has besides the image, names of `targets.TARGETS`.
    """

    sizes: Mapping[str, int]
    class_names: tuple[str, ...]
    channels: int
    open: Callable[[Sequence[str]], Read]
    version: str = ''
    root: str = ''
    by_class: bool = False
    notes: tuple[str, ...] = ()
    labels: Callable[[str], np.ndarray] | None = None
    name_of: Callable[[str, int], str] | None = None
    check: Callable[[str, int], None] | None = None
    space: tuple[int, ...] = ()
    decode: Callable[[str], np.ndarray] | None = None
    vocabulary: int = 0
    noun: str = 'images'
    targets: tuple[str, ...] = ('label',)


@dataclasses.dataclass(frozen=True)
class Details:
    """What the name of a data set leaves open; a kind of data set takes some of them.

    Attributes:
      data_dir: the folder of prepared TFDS data sets; None: TFDS's default.
      labels: a file that gives the class of each image of a folder.
      image_key, label_key: which columns or files of an example hold its image and its label.
      label_names: a file of the names of the classes, a line for each, in the order of the labels.
      length: of texts, bytes, and sounds, samples.
      sample_rate: of sounds, samples a second.
    """

    data_dir: str | None = None
    labels: str | None = None
    image_key: str | None = None
    label_key: str | None = None
    label_names: str | None = None
    length: int | None = None
    sample_rate: int | None = None


# {'image': uint8 [H, W, C], 'label': int}; of a dense task its targets in place of the label.
Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Source:
    """A split of a data set: `len(source)`, `source[i]`, and names. Picklable.

    Attributes:
      name: the data set as the caller gave it, e.g. 'tfds:cifar10_jpeg'.
      split: the split as the caller gave it, e.g. 'train[:45000]'.
      class_names: the name of each label.
      channels: of its images: 1 (grey), 3 (RGB), or their bands.
      read: reads records of a whole split.
      parts: (whole split, start, stop), concatenated.
      chosen: int64 [n], which examples of the parts it has, in this order; None: all.
      version, root, notes, name_of, check, space, decode, vocabulary, noun, targets: as in
        `Catalog`.
      read_labels: `Catalog.labels`.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    channels: int
    read: Read
    parts: tuple[tuple[str, int, int], ...]
    chosen: Int[np.ndarray, ' n'] | None = None
    version: str = ''
    root: str = ''
    notes: tuple[str, ...] = ()
    read_labels: Callable[[str], np.ndarray] | None = None
    name_of: Callable[[str, int], str] | None = None
    check: Callable[[str, int], None] | None = None
    space: tuple[int, ...] = ()
    decode: Callable[[str], np.ndarray] | None = None
    vocabulary: int = 0
    noun: str = 'images'
    targets: tuple[str, ...] = ('label',)

    @property
    def is_dense(self) -> bool:
        """Whether its examples have masks, boxes or maps of depth in place of a label."""
        return self.targets != ('label',)

    def __len__(self) -> int:
        if self.chosen is not None:
            return len(self.chosen)
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
        return [
            {'image': picture.whole(), **(label() if self.is_dense else {'label': label})}
            for picture, label in self.pictures(indices)
        ]

    def pictures(
        self, indices: Iterable[int], shown: int | None = None
    ) -> list[tuple[Picture, Any]]:
        """Reads examples together, not decoded: each image, and its label or its targets' reader.

        Args:
          indices: as for `take`.
          shown: what the images are converted to; None: as they are.

        Raises:
          InputError: on a label outside the classes.
        """
        return [self._picture(*record, where, shown) for record, where in self.records(indices)]

    def labels(self) -> Int[np.ndarray, ' n']:
        """The label of each example; 0 where the data has other targets.

        Images are not decoded, but those of tfds are read.
        """
        if self.is_dense:
            return np.zeros(len(self), np.int64)
        if self.read_labels is not None:
            parts = [self.read_labels(split)[start:stop] for split, start, stop in self.parts]
            whole = np.concatenate(parts).astype(np.int64)
            return whole if self.chosen is None else whole[self.chosen]
        found = np.empty(len(self), np.int64)
        for start in range(0, len(self), _CHUNK):
            here = range(start, min(start + _CHUNK, len(self)))
            found[here.start : here.stop] = [label for (_, label), _ in self.records(here)]
        return found

    def files(self) -> list[str]:
        """The path of each image, relative to `root`; only of a source that has one."""
        records = self.records(range(len(self)))
        return [os.path.relpath(str(image), self.root) for (image, _), _ in records]

    def select(self, indices: Int[np.ndarray, ' m'], split: str) -> 'Source':
        """The source of some of its examples, in this order, under another name of a split."""
        chosen = indices if self.chosen is None else self.chosen[indices]
        return dataclasses.replace(self, chosen=chosen, split=split)

    def with_targets(self, names: Sequence[str]) -> 'Source':
        """The source with some of its targets alone.

        Raises:
          InputError: for one that it has not.
        """
        lacking = [name for name in names if name not in self.targets]
        if lacking:
            raise InputError(
                f'{self.name} has {" and ".join(self.targets)} for each example, and no '
                f'{lacking[0]}; choose data that has, or another task'
            )
        return dataclasses.replace(self, targets=tuple(names))

    def with_bands(self, channels: int) -> 'Source':
        """The source with files read as images of this many bands, unless that is grey or RGB."""
        return (
            self
            if self.space or channels in (1, 3)
            else dataclasses.replace(self, channels=channels)
        )

    def records(self, indices: Iterable[int]) -> list[tuple[Record, str]]:
        """Records, not decoded, each with the words that name it in messages."""
        wanted = [int(i if self.chosen is None else self.chosen[i]) for i in indices]
        found: dict[int, tuple[Record, str]] = {}
        first = 0
        for split, start, stop in self.parts:
            here = [i for i in wanted if first <= i < first + stop - start]
            inside = [i - first + start for i in here]
            for i, j, record in zip(here, inside, self.read(split, inside), strict=True):
                found[i] = record, f'{split} example {j}'
            first += stop - start
        return [found[i] for i in wanted]

    def stored_as(self, index: int) -> str:
        """Where an example is stored, as far as that is known: the path of a file, or more."""
        split, i = self._place(index)
        if self.name_of is not None:
            return self.name_of(split, i)
        ((image, _),) = self.read(split, [i])
        return image if isinstance(image, str) else f'{split} example {i}'

    def check_files(self, index: int) -> None:
        """Looks at the headers of an example's files.

        Raises:
          InputError: if they cannot be read, or do not belong together.
        """
        if self.check is not None:
            self.check(*self._place(index))

    def _place(self, index: int) -> tuple[str, int]:
        """The whole split of an example, and its index in it."""
        i = index if self.chosen is None else int(self.chosen[index])
        for split, start, stop in self.parts:
            if i < stop - start:
                return split, i + start
            i -= stop - start
        raise IndexError(index)

    def _picture(
        self, image: str | bytes | np.ndarray, label: Any, where: str, shown: int | None
    ) -> tuple[Picture, Any]:
        name = image if isinstance(image, str) else f'{where} of {self.name}'
        if not self.is_dense and not 0 <= label < len(self.class_names):
            raise InputError(
                f'{where} of {self.name} has label {label}, outside its {len(self.class_names)} '
                f'classes (0 to {len(self.class_names) - 1}); correct the label or choose another '
                'split'
            )
        if self.space or getattr(image, 'ndim', 3) > 3:  # series and videos are prepared whole
            shown = None
        picture = Picture(image, self.channels, name, shown, self.decode)
        if self.is_dense:
            return picture, functools.partial(self._read_targets, label, picture)
        return picture, label

    def _read_targets(self, record: Any, picture: Picture) -> dict[str, np.ndarray]:
        """Those of an example that are wanted, checked."""
        every = record(picture) if callable(record) else record
        found = {target: every[target] for target in self.targets}
        check_targets(found, len(self.class_names), picture.name)
        return found


def sliced_in_proportion(source: Source, sizes: Mapping[str, int]) -> Source:
    """The same slices, of whole splits in stratified order."""
    chosen, first = [], 0
    wholes = tuple((name, 0, sizes[name]) for name, _, _ in source.parts)
    for whole, (_, start, stop) in zip(wholes, source.parts, strict=True):
        split = dataclasses.replace(source, parts=(whole,))
        chosen.append(first + stratified_order(split.labels())[start:stop])
        first += whole[2]
    return dataclasses.replace(source, parts=wholes, chosen=np.concatenate(chosen))


def stratified_order(labels: Int[np.ndarray, ' n']) -> Int[np.ndarray, ' n']:
    """A fixed random order in which every stretch has the classes nearly in proportion.

    The k-th of the n examples of a class stands at about (k + 1/2) / n of the way.
    """
    rng = np.random.default_rng(_ORDER_SEED)
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind='stable')]
    of = labels[by_class]
    counts = np.bincount(of)
    ranks = np.arange(len(of)) - (np.cumsum(counts) - counts)[of]
    return by_class[np.lexsort((rng.random(len(of)), (ranks + 0.5) / counts[of]))]


def hold_out(source: Source, fraction: float) -> tuple[Source, Source]:
    """Splits a source in two, each with the classes in proportion, the same way every time.

    Args:
      source: a source; of tfds all examples are read once.
      fraction: of the second part, above 0 and below 1.

    Returns:
      The rest, and the part held out, both in the order of the source.

    Raises:
      InputError: if either would be empty.
    """
    held = round(fraction * len(source))
    if not 0 < held < len(source):
        raise InputError(
            f'data.validation={fraction:g} of {len(source):,} examples leaves a part empty'
        )
    order = stratified_order(source.labels())
    name = f'{source.split} held out {fraction:g}'
    rest = source.select(np.sort(order[:-held]), f'{source.split} without {fraction:g}')
    return rest, source.select(np.sort(order[-held:]), name)
