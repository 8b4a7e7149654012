"""A search as data: ranges of config fields, and the number of trials that explore them.

Every trial has the same seed, so that trials differ only in the searched fields.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from resnet_jax.errors import InputError, check_choice
from resnet_jax.experiments.definitions import SEARCH, check_definition
from resnet_jax.experiments.sweep import (
    Fields,
    checked_config,
    overridden,
    source_text,
)
from resnet_jax.training import config_files
from resnet_jax.training.effects import lacking, refuse_without_effect
from resnet_jax.training.tasks import score_of

_REQUIRED = ('title', 'base', 'space')  # of what get_search() returns

# Optuna's algorithms that propose trials and end them early.
SAMPLERS = ('tpe', 'random', 'qmc')
PRUNERS = ('none', 'median', 'halving', 'hyperband')
# What the search minimises, from the figures of an evaluation.
METRICS: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    'error': lambda figures: 1 - (score_of(figures) or 0.0),
    'loss': lambda figures: figures['loss'],
}


@dataclasses.dataclass(frozen=True)
class Range:
    """The values of a field between two ends, both included.

    Attributes:
      kind: 'log' (the logarithm is uniform), 'linear' (the number is), or 'int' (whole numbers).
      low, high: the ends.
    """

    kind: str
    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float]:
        """The values that are checked before anything runs."""
        return self.low, self.high


@dataclasses.dataclass(frozen=True)
class Choices:
    """Unordered values of a field, as text that a config accepts."""

    choices: tuple[str, ...]

    @property
    def ends(self) -> tuple[str, ...]:
        """The values that are checked before anything runs."""
        return self.choices


@dataclasses.dataclass(frozen=True)
class Search:
    """A search.

    Attributes:
      title: the question, in one line.
      base: the config that all trials start from: the name of one of the package's, or a path.
      fields: config fields that all trials share, such as the budget and the data.
      space: field -> the values that it may take.
      trials: number of trials.
      sampler: one of `SAMPLERS`.
      pruner: one of `PRUNERS`.
      seed: seed of the sampler, and of the training of every trial.
      metric: one of `METRICS`, which is minimised.
    """

    title: str
    base: str
    fields: Fields
    space: Mapping[str, Range | Choices]
    trials: int = 30
    sampler: str = 'tpe'
    pruner: str = 'none'
    seed: int = 0
    metric: str = 'error'

    def config(self, values: Fields) -> ConfigDict:
        """The config of a trial with these values of the searched fields.

        Raises:
          InputError: for invalid values.
        """
        return checked_config(self.base, {**self.fields, **values, 'seed': self.seed})

    def command(self, values: Fields, workdir: Path) -> str:
        """The shell command that trains a config with these values."""
        fields = self.effective({**self.fields, **values}) | {'seed': self.seed}
        overrides = [(field, str(value)) for field, value in fields.items()]
        where = ['train', '--config', self.base, '--workdir', str(workdir)]
        return f'resnet-jax {source_text(where, overrides)}'

    def effective(self, values: Fields) -> dict[str, Any]:
        """The values that have an effect together: a conditional field may have none in a trial."""
        config = self.config(values)
        return {field: value for field, value in values.items() if not lacking(config, field)}

    def described(self) -> dict[str, Any]:
        """The search as JSON data."""
        found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return found


def load_search(
    spec: str,
    overrides: Sequence[tuple[str, str]] = (),
    trials: int | None = None,
    sampler: str | None = None,
    pruner: str | None = None,
) -> Search:
    """Reads a search file, one that defines `get_search()`.

    Args:
      spec: its path or, for one of the package, its name; with a variant after a colon,
        `get_search(variant)` is called.
      overrides: fields of all trials; they take precedence over the file's own `fields`.
      trials: replaces the file's number, as do the next two.
      sampler: one of `SAMPLERS`.
      pruner: one of `PRUNERS`.

    Raises:
      InputError: for a file that cannot be read, a field that does not exist, or a range with an
        invalid end; nothing has been run or written then.
    """
    found = config_files.call(spec, 'get_search')
    where = f'search file {spec}'
    check_definition(found, where, 'get_search', SEARCH, _REQUIRED)
    given = {'trials': trials, 'sampler': sampler, 'pruner': pruner}
    chosen = {**found, **{name: value for name, value in given.items() if value is not None}}
    space = chosen['space']
    if not isinstance(space, Mapping):
        raise InputError(f'{where}: space must be a dict, field -> range or choices')
    folder = config_files.find(spec)[0].parent
    config_files.find(found['base'], folder)
    search = Search(
        **{
            **chosen,
            'base': config_files.canonical(found['base'], folder),
            'fields': overridden(found.get('fields', {}), dict(overrides)),
            'space': {field: _values(field, given, where) for field, given in space.items()},
        }
    )
    _check(search, where)
    return search


def _values(field: str, given: Any, where: str) -> Range | Choices:
    """The range or choices that a file describes by a tuple or a list."""
    if isinstance(given, list):
        texts = tuple(map(str, given))
        if len(set(texts)) < max(len(texts), 2):
            raise InputError(f'{where}: {field} needs two choices or more, each once; got {given}')
        return Choices(texts)
    if not isinstance(given, tuple) or len(given) != 3:
        raise InputError(
            f"{where}: {field} takes ('log', low, high), ('linear', low, high), ('int', low, high) "
            f'or a list of choices, got {given!r}'
        )
    kind, low, high = given
    check_choice(f'kind of range of {field} in {where}:', str(kind), ('log', 'linear', 'int'))
    number = int if kind == 'int' else int | float
    numbers = all(isinstance(x, number) and not isinstance(x, bool) for x in (low, high))
    if not numbers or not low < high or (kind == 'log' and low <= 0):
        wanted = {'log': 'numbers above 0', 'linear': 'numbers', 'int': 'whole numbers'}[kind]
        raise InputError(f'{where}: {field} goes from low to high, {wanted}; got {low!r}, {high!r}')
    return Range(kind, low, high) if kind == 'int' else Range(kind, float(low), float(high))


def _check(search: Search, where: str) -> None:
    for kind, name, known in (
        ('sampler', search.sampler, SAMPLERS),
        ('pruner', search.pruner, PRUNERS),
        ('metric', search.metric, METRICS),
    ):
        check_choice(kind, str(name), known)
    for name, value, least in (('trials', search.trials, 1), ('seed', search.seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f'{where}: {name} must be a whole number from {least}, got {value!r}')
    for field in ('seed', *search.space):
        if field in search.fields:
            whose = "is the search's own" if field == 'seed' else 'is searched'
            raise InputError(f'{where}: {field} {whose}; it cannot be set as well')
    if 'seed' in search.space:
        raise InputError(f'{where}: seed cannot be searched; use the sweep command')
    tried = []
    first = {field: values.ends[0] for field, values in search.space.items()}
    for field, values in search.space.items():
        for end in values.ends:
            try:
                config = search.config({**first, field: end})
            except InputError as error:
                raise InputError(f'{where}, with {field} {end}: {error}') from error
            tried.append(config)
            if search.pruner != 'none' and not config.train.eval_every:
                raise InputError(
                    f'pruner {search.pruner!r} needs evaluations during a run; set '
                    'train.eval_every, or use the pruner none'
                )
    refuse_without_effect(tried, [*search.fields, *search.space])
