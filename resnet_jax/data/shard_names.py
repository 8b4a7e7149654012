"""Find the shards of a data set by a pattern of names, and the splits that they belong to."""

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from resnet_jax.data.folders import ONLY_SPLIT, SPLIT_NAMES
from resnet_jax.errors import InputError

SPLIT_MARK = '{split}'
MOST_SHARDS = 100_000
_BRACES = re.compile(r'\{([^{}]*)\}')
_RANGE = re.compile(r'(\d+)\.\.(\d+)')


def find_shards(pattern: str, spec: str) -> dict[str, list[Path]]:
    """Finds shards.

    Args:
      pattern: a path in which `{000..127}` and `{a,b}` stand for each of these, as in a shell, `*`,
        `?`, `[...]` and `**` for any characters, and `{split}` for the name of a split; or a
        folder, which stands for the `*.tar` in it and one level below.
      spec: the data set, for messages.

    Returns:
      split -> its shards, in the order of the braces, and sorted where they match a pattern. The
      split is what `{split}` matches; without that it is as in `by_words`.

    Raises:
      InputError: if nothing matches, or one of the shards that braces name does not exist.
    """
    expanded = os.path.expanduser(pattern)
    if os.path.isdir(expanded):
        folder = glob.escape(expanded)
        names = [
            name for part in ('*.tar', '*/*.tar') for name in sorted(glob.glob(f'{folder}/{part}'))
        ]
        if not names:
            raise InputError(f'{spec}: no *.tar in this folder or one below')
        return by_words(list(map(Path, names)))
    if SPLIT_MARK not in expanded:
        return by_words(list(map(Path, _existing(list(_expanded(expanded, spec)), spec))))
    splits = _splits(expanded, spec)
    return {
        split: list(map(Path, _existing(list(_expanded(named, spec)), spec, cut=True)))
        for split, named in splits.items()
    }


def _expanded(pattern: str, spec: str) -> Iterator[str]:
    """The patterns that a pattern with braces stands for, the last braces running fastest."""
    parts = _BRACES.split(pattern)
    choices: list[Sequence[str]] = []
    for number, part in enumerate(parts):
        span = _RANGE.fullmatch(part)
        if number % 2 == 0:
            choices.append([part])
        elif span:
            first, last = int(span[1]), int(span[2])
            if not first <= last < first + MOST_SHARDS:
                raise InputError(f'{spec}: {{{part}}} is no range of up to {MOST_SHARDS:,} shards')
            choices.append([str(i).zfill(len(span[1])) for i in range(first, last + 1)])
        elif ',' in part:
            choices.append(part.split(','))
        else:
            raise InputError(
                f'{spec}: {{{part}}} is neither a range such as {{000..127}}, nor a list such as '
                f'{{train,val}}, nor {SPLIT_MARK}'
            )
    product = (''.join(parts) for parts in itertools.product(*choices))
    found = list(itertools.islice(product, MOST_SHARDS + 1))
    if len(found) > MOST_SHARDS:
        raise InputError(f'{spec}: more than {MOST_SHARDS:,} shards')
    yield from found


def _existing(patterns: Sequence[str], spec: str, cut: bool = False) -> list[str]:
    """The files that patterns match; each must match one, or, if `cut`, those before the last."""
    found = [
        sorted(glob.glob(pattern, recursive=True))
        if glob.has_magic(pattern)
        else [pattern] * os.path.isfile(pattern)
        for pattern in patterns
    ]
    full = [number for number, names in enumerate(found) if names]
    if not full:
        raise InputError(f'{spec}: no such shard, {patterns[0]}')
    wanted = range(full[-1] + 1) if cut else range(len(found))
    missing = [patterns[number] for number in wanted if not found[number]]
    if missing:
        more = f' and {len(missing) - 1:,} more' if len(missing) > 1 else ''
        raise InputError(f'{spec}: no shard {missing[0]}{more}')
    names = [name for of in found for name in of if os.path.isfile(name)]
    if len(set(names)) < len(names):
        raise InputError(f'{spec}: names a shard twice')
    return names


def _splits(pattern: str, spec: str) -> dict[str, str]:
    """Split -> the pattern with its name in place of `{split}`, for the splits that exist."""
    found = set()
    for choice in _expanded(pattern.replace(SPLIT_MARK, '\0'), spec):
        form = re.escape(choice).replace(re.escape('\0'), '([^/]+?)', 1)
        form = form.replace(re.escape('\0'), r'\1')
        form = form.replace(r'\*', '[^/]*').replace(r'\?', '[^/]')
        for name in glob.glob(choice.replace('\0', '*')):
            match = re.fullmatch(form, name)
            if match:
                found.add(match[1])
    if not found:
        raise InputError(
            f'{spec}: no shard whose name fits, with the name of a split for {SPLIT_MARK}'
        )
    return {split: pattern.replace(SPLIT_MARK, glob.escape(split)) for split in sorted(found)}


def by_words(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Splits by the names of files.

    Returns:
      split -> its files, in their order: the first of `SPLIT_NAMES` among the words of the file's
      name, or else the name of its folder, if that is one; `train` for other files.
    """
    found: dict[str, list[Path]] = {}
    for path in paths:
        words = [*re.split(r'[^a-z]+', path.stem.lower()), path.absolute().parent.name.lower()]
        split = next((word for word in words if word in SPLIT_NAMES), ONLY_SPLIT)
        found.setdefault(split, []).append(path)
    return found
