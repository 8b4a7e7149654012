"""Look at every image of a data set before anything is trained on it: `resnet-jax data check`."""

import concurrent.futures
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, Shaped
from tqdm import tqdm

from resnet_jax.data.containers import split_metadata
from resnet_jax.data.images import decode_image, read_file, size_of
from resnet_jax.data.read_ahead import usable_cores
from resnet_jax.data.sources import Record, Source
from resnet_jax.data.targets import IGNORED
from resnet_jax.errors import InputError

READ_TOGETHER = 64  # examples that one thread reads in one call
LONGEST_ASPECT = 4  # longer over shorter side; of a longer image most is cut off
SMALLEST_SHARE = 1 / 4  # of the median shorter side
SMALLEST_OF_MODEL = 1 / 2  # of the side that a model sees: below, an image is enlarged twofold
_DIGEST = 16  # bytes

Group = tuple[tuple[int, int], ...]  # (which of the inspections, index) of each image


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What was seen of the images of a split, in their order.

    Attributes:
      source: the split.
      labels: of the images; of dense data, numbers that are equal for equal targets.
      sizes: width and height, pixels; 0 where they are not known.
      digests: equal for equal images: of the stored bytes, or of the pixels if all were decoded.
      counts: in how many images each class is.
      read: whether the label or the targets were read.
      empty: whether nothing is marked in the image; only of dense data.
      flat: whether all pixels are of one colour; False where they were not decoded.
      faults: index -> why an image cannot be read.
    """

    source: Source
    labels: Int[np.ndarray, ' n']
    sizes: Int32[np.ndarray, 'n 2']
    digests: Shaped[np.ndarray, ' n']
    counts: Int[np.ndarray, ' classes']
    read: Bool[np.ndarray, ' n']
    empty: Bool[np.ndarray, ' n']
    flat: Bool[np.ndarray, ' n']
    faults: Mapping[int, str]


class Case(NamedTuple):
    """One or more images with a problem.

    Attributes:
      images: (which of the inspections, index) of each.
      text: the problem.
    """

    images: Group
    text: str


class Seen(NamedTuple):
    """What problems are looked for in.

    Attributes:
      inspections: the splits of one data set.
      side: of the model's input, pixels, or None.
      groups: the images that are the same, group by group, in the order of their first.
    """

    inspections: Sequence[Inspection]
    side: int | None
    groups: Sequence[Group]


class Concern(NamedTuple):
    """A problem that images can have.

    Attributes:
      level: 'error' if training stops at it, else 'warning'.
      title: in a table.
      find: gives the cases.
    """

    level: Literal['error', 'warning']
    title: str
    find: Callable[[Seen], Iterator[Case]]


def inspect(source: Source, full: bool = False, progress: bool = True) -> Inspection:
    """Looks at all images of a split, with a thread for each core.

    Args:
      source: the split; images are decoded to its number of channels.
      full: decode the images; otherwise files are read, and only their headers looked at.
      progress: show a bar where standard error is a terminal and it takes over a second.
    """
    n = len(source)
    faults: dict[int, str] = {}
    found = Inspection(
        source,
        np.zeros(n, np.int64),
        np.zeros((n, 2), np.int32),
        np.zeros(n, f'S{_DIGEST}'),
        np.zeros(len(source.class_names), np.int64),
        np.zeros(n, bool),
        np.zeros(n, bool),
        np.zeros(n, bool),
        faults,
    )

    def look(start: int) -> list[Int[np.ndarray, ' k']]:
        present = [np.zeros(0, np.int64)] * min(READ_TOGETHER, n - start)
        here = range(start, start + len(present))
        for i, (record, where) in zip(here, _records(source, here, faults), strict=True):
            if record is None:
                continue
            try:
                if not source.is_dense:
                    present[i - start] = _note_label(found, i, record[1])
                source.check_files(i)
                found.sizes[i], found.digests[i], found.flat[i] = _seen(source, record, where, full)
                # Masks are files of their own.
                if source.is_dense and (full or not callable(record[1])):
                    present[i - start] = _note_targets(found, i)
            except InputError as error:
                faults[i] = str(error)
        return present

    pool = concurrent.futures.ThreadPoolExecutor(usable_cores())
    title = f'{source.name} {source.split}'
    bar = tqdm(total=n, desc=title, delay=1, disable=None if progress else True)
    try:
        for present in pool.map(look, range(0, n, READ_TOGETHER)):
            for classes in present:
                found.counts[classes] += 1
            bar.update(len(present))
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()
    return found


def _records(
    source: Source, indices: Sequence[int], faults: dict[int, str]
) -> list[tuple[Record | None, str]]:
    """The records; of those that cannot be read together, each by itself."""
    try:
        return list(source.records(indices))
    except InputError:
        found: list[tuple[Record | None, str]] = []
        for i in indices:
            try:
                found += source.records([i])
            except InputError as error:
                faults[i] = str(error)
                found.append((None, ''))
        return found


def _seen(
    source: Source, record: Record, where: str, full: bool
) -> tuple[tuple[int, int], bytes, bool]:
    """The size, the digest and whether the image is of one colour."""
    image = record[0]
    name = image if isinstance(image, str) else f'{where} of {source.name}'
    if source.decode is not None:  # a text or sound, without height and width
        read = np.ascontiguousarray(source.decode(name))
        return (0, 0), hashlib.blake2b(read.data, digest_size=_DIGEST).digest(), False
    if not isinstance(image, np.ndarray):
        data = image if isinstance(image, bytes) else read_file(image, name)
        if not full:
            size = size_of(data, split_metadata(data), source.channels, name)
            return size, hashlib.blake2b(data, digest_size=_DIGEST).digest(), False
        image = decode_image(data, source.channels, name)
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=_DIGEST)
    digest.update(np.ascontiguousarray(image).data)
    size = image.shape[1], image.shape[0]
    return size, digest.digest(), full and bool((image == image[0, 0]).all())


def _note_label(found: Inspection, index: int, label: int) -> Int[np.ndarray, ' k']:
    """Notes the label of an example, and returns the classes that it has."""
    found.labels[index], found.read[index] = label, True
    return np.asarray([label] if 0 <= label < len(found.counts) else [], np.int64)


def _note_targets(found: Inspection, index: int) -> Int[np.ndarray, ' k']:
    """Reads and notes the targets of an example, and returns the classes that it has.

    Raises:
      InputError: for targets that cannot be read or are none of this image.
    """
    ((_, read),) = found.source.pictures([index])
    targets: dict[str, np.ndarray] = read()
    classes = _classes_in(targets)
    found.labels[index], found.read[index] = _number_of(targets), True
    found.empty[index] = not len(classes)
    return classes


def _classes_in(targets: Mapping[str, np.ndarray]) -> Int[np.ndarray, ' k']:
    """The classes of the pixels and boxes, each once."""
    named = [targets[name] for name in ('segmentation', 'classes') if name in targets]
    every = np.unique(np.concatenate([np.zeros(0, np.int64), *(x.ravel() for x in named)]))
    return every[every != IGNORED]


def _number_of(targets: Mapping[str, np.ndarray]) -> int:
    """A number that is equal for equal targets."""
    digest = hashlib.blake2b(digest_size=7)
    for name, x in sorted(targets.items()):
        digest.update(f'{name} {x.shape}'.encode())
        digest.update(np.ascontiguousarray(x).data)
    return int.from_bytes(digest.digest(), 'big')


def _groups(found: Sequence[Inspection]) -> Iterator[Group]:
    """The images that are the same, group by group, in the order of their first."""
    places = np.concatenate(
        [
            np.stack([np.full(len(s.labels), i), np.arange(len(s.labels))], 1)
            for i, s in enumerate(found)
        ]
    )
    digests = np.concatenate([each.digests for each in found])
    known = digests != b''
    places, digests = places[known], digests[known]
    order = np.argsort(digests, kind='stable')
    ends = np.flatnonzero(digests[order][1:] != digests[order][:-1]) + 1
    groups = [rows for rows in np.split(order, ends) if len(rows) > 1]
    for rows in sorted(groups, key=lambda rows: int(rows[0])):
        yield tuple((int(i), int(j)) for i, j in places[rows])


def _splits(seen: Seen, group: Group) -> list[str]:
    return [seen.inspections[i].source.split for i in sorted({i for i, _ in group})]


def _broken(seen: Seen) -> Iterator[Case]:
    for number, each in enumerate(seen.inspections):
        for index in sorted(each.faults):
            yield Case(((number, index),), each.faults[index])


def _without_class(seen: Seen) -> Iterator[Case]:
    for number, each in enumerate(seen.inspections):
        if each.source.is_dense:  # whose targets are refused as they are read
            continue
        classes = len(each.source.class_names)
        for index in np.flatnonzero((each.labels < 0) | (each.labels >= classes)).tolist():
            label = each.labels[index]
            yield Case(((number, index),), f'label {label}, outside of the {classes} classes')


def _leaked(seen: Seen) -> Iterator[Case]:
    for group in seen.groups:
        splits = _splits(seen, group)
        if len(splits) > 1:
            yield Case(group, f'the same image in {" and ".join(splits)}')


def _repeated(seen: Seen) -> Iterator[Case]:
    for group in seen.groups:
        splits = _splits(seen, group)
        if len(splits) == 1:
            yield Case(group, f'{len(group)} times in {splits[0]}')


def _contradictory(seen: Seen) -> Iterator[Case]:
    for group in seen.groups:
        labels = sorted(
            {int(seen.inspections[i].labels[j]) for i, j in group if seen.inspections[i].read[j]}
        )
        dense = seen.inspections[0].source.is_dense
        names = seen.inspections[0].source.class_names
        if len(labels) > 1:
            words = [names[k] if 0 <= k < len(names) else str(k) for k in labels]
            text = f'as {" and as ".join(words)}' if not dense else 'with other masks or boxes'
            yield Case(group, f'the same image {text}')


def _small(seen: Seen) -> Iterator[Case]:
    shorter = [each.sizes.min(axis=1) for each in seen.inspections]
    known = np.concatenate(shorter)
    if seen.side is not None:
        limit, what = SMALLEST_OF_MODEL * seen.side, f'the {seen.side} that the model sees'
    else:
        middle = float(np.median(known[known > 0])) if (known > 0).any() else 0.0
        limit, what = SMALLEST_SHARE * middle, f'a shorter side of {middle:g} that is usual here'
    for number, each in enumerate(seen.inspections):
        for index in np.flatnonzero((shorter[number] > 0) & (shorter[number] < limit)).tolist():
            width, height = each.sizes[index]
            yield Case(((number, index),), f'{width} x {height} pixels, for {what}')


def _long(seen: Seen) -> Iterator[Case]:
    for number, each in enumerate(seen.inspections):
        longer, shorter = each.sizes.max(axis=1), each.sizes.min(axis=1)
        for index in np.flatnonzero(longer > LONGEST_ASPECT * shorter).tolist():
            width, height = each.sizes[index]
            yield Case(((number, index),), f'{width} x {height} pixels')


def _empty(seen: Seen) -> Iterator[Case]:
    for number, each in enumerate(seen.inspections):
        for index in np.flatnonzero(each.empty).tolist():
            yield Case(((number, index),), 'no object and no pixel of a class')


def _flat(seen: Seen) -> Iterator[Case]:
    for number, each in enumerate(seen.inspections):
        for index in np.flatnonzero(each.flat).tolist():
            yield Case(((number, index),), 'all pixels are of one colour')


CONCERNS: dict[str, Concern] = {
    'broken': Concern('error', 'cannot be read', _broken),
    'no_class': Concern('error', 'label outside of the classes', _without_class),
    'leaked': Concern('warning', 'the same image in several splits', _leaked),
    'contradictory': Concern('warning', 'the same image with several answers', _contradictory),
    'repeated': Concern('warning', 'the same image several times in a split', _repeated),
    'small': Concern('warning', 'much smaller than the others, or than the model sees', _small),
    'long': Concern('warning', f'longer than {LONGEST_ASPECT} times the shorter side', _long),
    'flat': Concern('warning', 'of one colour', _flat),
    'empty': Concern('warning', 'with nothing marked in it', _empty),
}


def find_concerns(found: Sequence[Inspection], side: int | None = None) -> dict[str, list[Case]]:
    """Finds the problems of the images of some splits.

    Args:
      found: the splits of one data set.
      side: of the model's input, pixels: images of less than half of it are small. None: those of
        less than a quarter of the median are.

    Returns:
      A key of `CONCERNS` -> its cases, which may be none, in the order of the images.
    """
    seen = Seen(found, side, list(_groups(found)))
    return {name: list(concern.find(seen)) for name, concern in CONCERNS.items()}
