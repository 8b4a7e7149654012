"""Which class of a model each class of a data set is: by name, never by their number alone."""

import functools
import importlib.resources
from collections.abc import Callable, Mapping, Sequence

from resnet_jax.data import listed, printable
from resnet_jax.errors import InputError


def match_classes(model: Sequence[str], data: Sequence[str]) -> tuple[tuple[int, ...], str]:
    """The model's class of each class of the data.

    Names are compared as they are; then as classes of ImageNet, of which either side may give the
    WordNet id ('n01440764') or one of the words ('tench'); then data whose classes are called by
    numbers ('0' to '999') are taken to give the model's labels. A model without names, whose
    classes are called '0', '1', ..., is taken to have the order of ImageNet if it has 1,000
    classes, otherwise that of the data, if these have as many.

    Args:
      model: the names of the model's classes.
      data: the names of the data's classes.

    Returns:
      For each class of the data, the index of the model's; and how they were matched, in words;
      empty if by equal names.

    Raises:
      InputError: naming classes of the data that the model does not have.
    """
    if (found := _find(data, {name: i for i, name in enumerate(model)})) is not None:
        return found, ''
    unnamed, by_synset = _is_unnamed(model), _by_synset(model)
    if (found := _find([_synset(name) or '' for name in data], by_synset)) is not None:
        return found, "the classes are matched as ImageNet's, by WordNet id or word"
    numbers = [int(name) if name.isascii() and name.isdigit() else -1 for name in data]
    if all(0 <= n < len(model) for n in numbers) and len(set(numbers)) == len(data):
        return tuple(numbers), "the data's class names are taken as the model's label numbers"
    if unnamed and len(model) == len(data):
        return tuple(range(len(data))), (
            'the weights do not name their classes; they are taken in the order of those of the '
            'data (--class-names gives their names)'
        )
    lacking = [name for name in data if name not in set(model)]
    known = 'numbers only' if unnamed else listed(model)
    raise InputError(
        f'the data has classes that the model does not have: {printable(listed(lacking))} (the '
        f'model has {len(model)}: {printable(known)}); evaluate it on data of classes that it was '
        'trained for'
    )


def class_finder(model: Sequence[str]) -> Callable[[str], int | None]:
    """Finds the model's class of a name, by the name itself or as a class of ImageNet; else None.

    Args:
      model: the names of the model's classes.
    """
    by_name = {name: i for i, name in enumerate(model)}
    by_synset: dict[str, int] = {}

    def find(name: str) -> int | None:
        if name in by_name:
            return by_name[name]
        if (synset := _synset(name)) is None:
            return None
        if not by_synset:
            by_synset.update(_by_synset(model))
        return by_synset.get(synset)

    return find


def _is_unnamed(model: Sequence[str]) -> bool:
    return list(model) == [str(i) for i in range(len(model))]


def _by_synset(model: Sequence[str]) -> dict[str, int]:
    """The WordNet id of a class of ImageNet -> the model's class."""
    ids = list(_imagenet()[0]) if _is_unnamed(model) and len(model) == 1000 else map(_synset, model)
    return {name: i for i, name in enumerate(ids) if name is not None}


def _find(names: Sequence[str], known: Mapping[str, int]) -> tuple[int, ...] | None:
    """The index of each name, if all are known and different."""
    found = tuple(known.get(name, -1) for name in names)
    return found if -1 not in found and len(set(found)) == len(found) else None


def _synset(name: str) -> str | None:
    """The WordNet id of a class of ImageNet, from the id or one of its words."""
    ids, by_word = _imagenet()
    return name if name in ids else by_word.get(_plain(name))


def _plain(word: str) -> str:
    return ' '.join(word.casefold().replace('_', ' ').split())


@functools.cache
def _imagenet() -> tuple[dict[str, None], dict[str, str]]:
    """The WordNet ids of ILSVRC 2012's classes, in the order of labels; and word -> id.

    A word of two classes, such as crane, the bird and the machine, is left out. The list is that of
    Russakovsky et al. 2015, the words are WordNet 3.0's, both as timm 1.0.31 has them (Apache-2.0;
    timm/data/_info/imagenet_synsets.txt and imagenet_synset_to_lemma.txt).
    """
    text = (importlib.resources.files('resnet_jax.data') / 'imagenet_classes.tsv').read_text()
    rows = [line.split('\t') for line in text.splitlines()]
    by_word: dict[str, str] = {}
    ambiguous = set()
    for synset, words in rows:
        for word in {_plain(words), *map(_plain, words.split(','))}:
            if by_word.setdefault(word, synset) != synset:
                ambiguous.add(word)
    return (
        dict.fromkeys(synset for synset, _ in rows),
        {word: synset for word, synset in by_word.items() if word not in ambiguous},
    )
