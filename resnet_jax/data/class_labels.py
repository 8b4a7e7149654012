"""Labels as data sets store them, numbers or names of classes, to numbers and names."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from resnet_jax.errors import InputError
from resnet_jax.text import printable

MOST_CLASSES = 2**20  # a larger label is taken for a mistake
_LONGEST_FILE = 2**26  # bytes, of a file of names


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names of classes in a text file, a line for each, in the order of their labels.

    Raises:
      InputError: if it cannot be read, is empty, or has an empty line or a name twice.
    """
    try:
        if path.stat().st_size > _LONGEST_FILE:
            raise InputError(f'data.label_names: {path} is too large for a list of names')
        text = path.read_text(encoding='utf-8-sig')
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, 'strerror', None) or 'it holds no text in UTF-8'
        raise InputError(f'data.label_names: cannot read {path}: {reason}') from None
    names = tuple(line.strip() for line in text.rstrip().splitlines())
    if not text.strip():
        raise InputError(
            f'data.label_names: {path} is empty; give the name of a class on each line'
        )
    lines: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise InputError(f'data.label_names: line {number} of {path} is empty')
        if name in lines:
            raise InputError(
                f'data.label_names: lines {lines[name]} and {number} of {path} are both '
                f'{printable(name)}'
            )
        lines[name] = number
    return names


def number_classes(
    spec: str, labels: Mapping[str, np.ndarray | Sequence[str]], file: str | None
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Names and numbers the classes of a data set.

    Args:
      spec: the data set, for messages.
      labels: whole split -> the label of each example: whole numbers, or texts. Texts that are all
        whole numbers count as these.
      file: of names, see `read_class_names`; None: numbers are their own names, and texts are
        sorted.

    Returns:
      The names, and for each split int32 [n]. A negative number stays as it is: no class.

    Raises:
      InputError: for a label that cannot be one, or that the file does not name.
    """
    numbers = {split: _as_numbers(of) for split, of in labels.items()}
    names = read_class_names(Path(file).expanduser()) if file else None
    if all(of is not None for of in numbers.values()):
        found = {split: of for split, of in numbers.items() if of is not None}
        highest = max((int(of.max()) for of in found.values() if len(of)), default=-1)
        if names is not None and highest >= len(names):
            raise InputError(
                f'{spec} has the label {highest}, and {file} names {len(names):,} classes, 0 to '
                f'{len(names) - 1}'
            )
        if highest >= MOST_CLASSES:
            raise InputError(f'{spec} has the label {highest}, above {MOST_CLASSES:,}: no class')
        names = names or tuple(map(str, range(highest + 1)))
        return names, {split: of.astype(np.int32) for split, of in found.items()}
    texts = {split: [str(label) for label in of] for split, of in labels.items()}
    names = names or tuple(sorted({text for of in texts.values() for text in of}))
    places = {name: number for number, name in enumerate(names)}
    unknown = next((text for of in texts.values() for text in of if text not in places), None)
    if unknown is not None:
        raise InputError(f'{spec} has the class {unknown!r}, which {file} does not name')
    return names, {
        split: np.asarray([places[text] for text in of], np.int32) for split, of in texts.items()
    }


def check_labelled(spec: str, labels: Mapping[str, np.ndarray], splits: Sequence[str]) -> None:
    """Refuses splits with negative labels, which stand for no class.

    Raises:
      InputError: naming the split.
    """
    for split in splits:
        if len(labels[split]) and labels[split].min() < 0:
            raise InputError(
                f'the split {split} of {spec} has the label {labels[split].min()}, which is no '
                'class; choose a split with labels'
            )


def _as_numbers(labels: np.ndarray | Sequence[str]) -> np.ndarray | None:
    """Labels as int64 [n]; None if one is no whole number of that size."""
    if isinstance(labels, np.ndarray) and labels.dtype.kind in 'iu':
        wide = labels.dtype.kind == 'u' and labels.dtype.itemsize == 8
        most = np.uint64(np.iinfo(np.int64).max)
        return (np.minimum(labels, most) if wide else labels).astype(np.int64)
    try:
        return np.asarray([int(text) for text in labels], np.int64)
    except (ValueError, OverflowError):
        return None
