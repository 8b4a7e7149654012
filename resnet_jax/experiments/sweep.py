"""A sweep as data: arms that differ in named fields, each trained with the same seeds.

The same seed means the same order of the examples, the same augmentation and, where shapes agree,
the same initial values in every arm: arms are compared in pairs.
"""

import dataclasses
import itertools
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from resnet_jax.errors import InputError, unknown_name
from resnet_jax.papers.cifar import find_table
from resnet_jax.training import config as configs
from resnet_jax.training import config_files
from resnet_jax.training.workdir import build_model

Fields = Mapping[str, Any]
# What get_sweep() may return, and what it must.
_KEYS = ('title', 'base', 'fields', 'arms', 'seeds', 'baseline', 'published', 'runs')
_NEEDED = ('title', 'base', 'arms')
_FORBIDDEN = ('seed',)  # the sweep's own


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep.

    Attributes:
      title: the question, in a line.
      base: path of the config that all arms start from.
      fields: of the config, in all arms: the budget, the data.
      arms: name -> fields that differ.
      seeds: each arm is trained with all of them.
      baseline: the arm that others are compared with.
      published: arm -> top-1 error in % that a paper reports, where one does.
      runs: arm -> how many of the seeds, the first ones, it is trained with; all if not here.
      source: what of the command line gave it, `sweep --config FILE`; '' if nothing did.
    """

    title: str
    base: str
    fields: Fields
    arms: Mapping[str, Fields]
    seeds: tuple[int, ...]
    baseline: str
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)
    runs: Mapping[str, int] = dataclasses.field(default_factory=dict)
    source: str = ''

    def config(self, arm: str, seed: int) -> ConfigDict:
        """The config of one run.

        Raises:
          InputError: naming the arm, for a field that does not exist or a value that it refuses.
        """
        fields = {**self.fields, **self.arms[arm], 'seed': seed}
        try:
            return checked_config(self.base, fields)
        except InputError as error:
            raise InputError(f'arm {arm!r}: {error}') from error


def checked_config(base: str, fields: Fields) -> ConfigDict:
    """A base config with other fields, its model built once.

    Raises:
      InputError: for a field that does not exist or a value that it refuses.
    """
    config = configs.load_config(base, [(name, str(value)) for name, value in fields.items()])
    configs.check_values(config)
    build_model(config.model, 10)
    return config


def check_keys(
    found: Any, where: str, function: str, known: Sequence[str], needed: Sequence[str]
) -> None:
    """Refuses what a file's function returned, if it is no dict, or lacks or adds keys.

    Raises:
      InputError: saying which.
    """
    if not isinstance(found, Mapping):
        raise InputError(f'{where}: {function}() must return a dict')
    for key in found:
        if key not in known:
            raise unknown_name(f'key of {where}:', str(key), known)
    missing = [key for key in needed if not found.get(key)]
    if missing:
        raise InputError(f'{where} lacks {", ".join(missing)}')


@dataclasses.dataclass(frozen=True)
class Unit:
    """One run of a sweep, and where it lives: `runs/ARM/seedN` of the sweep's workdir."""

    arm: str
    seed: int
    folder: Path


def units(sweep: Sweep, workdir: Path) -> list[Unit]:
    """All runs, arm by arm."""
    return [
        Unit(arm, seed, workdir / 'runs' / folder_name(arm) / f'seed{seed}')
        for arm in sweep.arms
        for seed in sweep.seeds[: sweep.runs.get(arm)]
    ]


def folder_name(arm: str) -> str:
    """An arm's name as a folder's: letters, digits and `.=-`, others become `_`."""
    return re.sub(r'[^A-Za-z0-9.=-]+', '_', arm).strip('._') or '_'


def load_sweep(
    spec: str, overrides: Sequence[tuple[str, str]] = (), seeds: Sequence[int] | None = None
) -> Sweep:
    """Reads a sweep file, one that defines `get_sweep()`.

    Args:
      spec: its path; `path.py:variant` calls `get_sweep(variant)`.
      overrides: fields of all arms that come before the sweep's own `fields`, but not before what
        an arm sets.
      seeds: instead of the file's.

    Raises:
      InputError: for a file that cannot be read, a field that does not exist, a value that a config
        refuses; nothing has been run then.
    """
    found = config_files.call(spec, 'get_sweep')
    where = f'sweep file {spec}'
    sweep = make_sweep(found, where, Path(spec.partition('.py:')[0]).parent, overrides, seeds)
    return dataclasses.replace(sweep, source=source_text(['sweep', '--config', spec], overrides))


def source_text(command: Sequence[str], overrides: Sequence[tuple[str, str]]) -> str:
    """A command with its overrides, as a shell takes them."""
    return shlex.join([*command, *(f'--config.{field}={value}' for field, value in overrides)])


def make_sweep(
    found: Mapping[str, Any],
    where: str,
    folder: Path,
    overrides: Sequence[tuple[str, str]] = (),
    seeds: Sequence[int] | None = None,
) -> Sweep:
    """A sweep from what `get_sweep()` returns: the fields of `Sweep`, `seeds` being their number.

    Args:
      found: the fields; all but `title`, `base` and `arms` may be left out.
      where: what it came from, for messages.
      folder: that `base` is relative to.
      overrides: as `load_sweep`.
      seeds: as `load_sweep`; they are then those of every arm.

    Raises:
      InputError: as `load_sweep`.
    """
    check_keys(found, where, 'get_sweep', _KEYS, _NEEDED)
    arms, count = dict(found['arms']), found.get('seeds', 3)
    names = {folder_name(arm) for arm in arms}
    if len(names) < len(arms):
        raise InputError(f'{where}: two arms have names that look alike as folders')
    baseline = found.get('baseline', next(iter(arms)))
    for name in (baseline, *found.get('published', {}), *found.get('runs', {})):
        if name not in arms:
            raise unknown_name(f'arm in {where}:', name, arms)
    chosen = tuple(seeds) if seeds is not None else tuple(range(count))
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError(f'a sweep needs seeds, each once; got {list(chosen)}')
    sweep = Sweep(
        title=_title(found['title'], overrides),
        base=str(folder / found['base']),
        fields={**found.get('fields', {}), **dict(overrides)},
        arms=arms,
        seeds=chosen,
        baseline=baseline,
        published=found.get('published', {}),
        runs=found.get('runs', {}) if seeds is None else {},
    )
    _check(sweep, where)
    return sweep


def _title(title: str, overrides: Sequence[tuple[str, str]]) -> str:
    """With what else is computed than the file says: a title may speak of it."""
    last = dict(overrides).items()
    changed = [f'{field}={value}' for field, value in last if field not in configs.FREE_FIELDS]
    return f'{title} ({", ".join(changed)})' if changed else title


def _check(sweep: Sweep, where: str) -> None:
    for arm, fields in sweep.arms.items():
        clash = sorted({*sweep.fields, *fields} & {*_FORBIDDEN})
        if clash:
            raise InputError(f"{where}: arm {arm!r} sets {clash[0]}; that is the sweep's to vary")
        sweep.config(arm, sweep.seeds[0])


def grid(fields: Mapping[str, Iterable[Any]]) -> dict[str, dict[str, Any]]:
    """An arm for each combination of values, named after them.

    `grid({'optim.learning_rate': (0.1, 0.2)})` gives {'learning_rate=0.1': {...}, ...}. Leave out
    what makes no sense with a comprehension over the result.
    """
    combinations = itertools.product(*fields.values())
    return _named([dict(zip(fields, values, strict=True)) for values in combinations])


def zipped(fields: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """An arm for each position of equally long sequences of values, named after them."""
    rows = zip(*fields.values(), strict=True)
    return _named([dict(zip(fields, values, strict=True)) for values in rows])


def _named(arms: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    def name(arm: dict[str, Any]) -> str:
        return ', '.join(f'{field.rpartition(".")[2]}={value}' for field, value in arm.items())

    return {name(arm): arm for arm in arms}


def from_table(name: str) -> dict[str, Any]:
    """Title, arms and published errors of a paper's table, for `get_sweep` to return.

    Raises:
      InputError: if there is no such table.
    """
    table = find_table(name)
    rows = {row.name: row for row in table.rows}
    return {
        'title': table.title,
        'arms': {
            name: {'model.name': row.model, **{f'model.{k}': v for k, v in row.overrides.items()}}
            for name, row in rows.items()
        },
        'published': {
            # Sweeps compare errors; a few tables report accuracies.
            name: round(100 - row.value, 4) if 'accuracy' in table.metric else row.value
            for name, row in rows.items()
            if row.value is not None
        },
    }
