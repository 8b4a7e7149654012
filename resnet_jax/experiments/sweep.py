"""A sweep as data: arms that differ in named fields, each trained with the same seeds.

The same seed means the same order of the examples, the same augmentation and, where shapes agree,
the same initial values in every arm, so arms are compared in pairs; sweep.json describes it.
"""

import dataclasses
import itertools
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from resnet_jax.errors import InputError, Unreadable, check_choice, shown
from resnet_jax.experiments.definitions import SWEEP, check_definition
from resnet_jax.json_files import read_json, unreadable
from resnet_jax.papers.cifar import find_table
from resnet_jax.records.writers import write_atomically
from resnet_jax.training import config as configs
from resnet_jax.training import config_files, workdir
from resnet_jax.training.checks import RANGES, resolve
from resnet_jax.training.effects import refuse_without_effect

Fields = Mapping[str, Any]
SWEEP_FILE = 'sweep.json'
_WRITTEN = ('title', 'base', 'fields', 'arms', 'baseline')  # keys of sweep.json in every version
_REQUIRED = ('title', 'base', 'arms')  # of what get_sweep() returns


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep.

    Attributes:
      title: the question, in one line.
      base: the config that all arms start from: the name of one of the package's, or a path.
      fields: config fields that all arms share, such as the budget and the data.
      arms: name -> the fields in which the arm differs.
      seeds: every arm is trained with all of them.
      baseline: the arm that the others are compared with.
      published: arm -> top-1 error in % that a paper reports, where one does.
      runs: arm -> number of seeds, the first ones, that it is trained with; all where absent.
      source: the part of the command line that defines the sweep, such as `sweep --config FILE`;
        empty if it was not defined on one.
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
          InputError: naming the arm, for a field that does not exist or an invalid value.
        """
        fields = {**self.fields, **self.arms[arm], 'seed': seed}
        try:
            return checked_config(self.base, fields)
        except InputError as error:
            raise InputError(f'arm {arm!r}: {error}') from error


@dataclasses.dataclass(frozen=True)
class Unit:
    """One run of a sweep, and its folder: `runs/ARM/seedN` in the sweep's workdir."""

    arm: str
    seed: int
    folder: Path


def checked_config(base: str, fields: Fields) -> ConfigDict:
    """A base config with some fields changed, checked; as `load_config`, of a compressed model too.

    Raises:
      InputError: for a field that does not exist or an invalid value.
    """
    config = configs.read_config_file(base)
    configs.override(config, [(name, str(value)) for name, value in fields.items()])
    configs.adopt_model(config, fields)
    return resolve(config)


def units(sweep: Sweep, folder: Path) -> list[Unit]:
    """All runs of a sweep with this workdir, arm by arm."""
    return [
        Unit(arm, seed, folder / 'runs' / folder_name(arm) / f'seed{seed}')
        for arm in sweep.arms
        for seed in sweep.seeds[: sweep.runs.get(arm)]
    ]


def folder_name(arm: str) -> str:
    """The name of an arm's folder: every character but letters, digits and `.=-` becomes `_`."""
    return re.sub(r'[^A-Za-z0-9.=-]+', '_', arm).strip('._') or '_'


def source_text(command: Sequence[str], overrides: Sequence[tuple[str, str]]) -> str:
    """A command with its overrides, quoted for a shell."""
    return shlex.join([*command, *(f'--config.{field}={value}' for field, value in overrides)])


def load_sweep(
    spec: str, overrides: Sequence[tuple[str, str]] = (), seeds: Sequence[int] | None = None
) -> Sweep:
    """Reads a sweep file, one that defines `get_sweep()`.

    Args:
      spec: its path or, for one of the package, its name; with a variant after a colon,
        `get_sweep(variant)` is called.
      overrides: fields of all arms; they take precedence over the sweep's own `fields`, but not
        over what an arm sets.
      seeds: replace those of the file.

    Raises:
      InputError: for a file that cannot be read, a field that does not exist or an invalid value;
        nothing has been run or written then.
    """
    found = config_files.call(spec, 'get_sweep')
    folder = config_files.find(spec)[0].parent
    sweep = make_sweep(found, f'sweep file {spec}', folder, overrides, seeds)
    refuse_shared_without_effect(sweep, sweep.fields)
    for arm, fields in sweep.arms.items():
        try:
            refuse_without_effect([sweep.config(arm, sweep.seeds[0])], fields)
        except InputError as error:
            raise InputError(f'arm {arm!r}: {error}') from error
    return dataclasses.replace(sweep, source=source_text(['sweep', '--config', spec], overrides))


def refuse_shared_without_effect(sweep: Sweep, fields: Iterable[str]) -> None:
    """Refuses fields of all arms that change nothing in any of them.

    Raises:
      InputError: naming the first such field and what it needs.
    """
    refuse_without_effect([sweep.config(arm, sweep.seeds[0]) for arm in sweep.arms], fields)


def make_sweep(
    found: Any,
    where: str,
    folder: Path | None = None,
    overrides: Sequence[tuple[str, str]] = (),
    seeds: Sequence[int] | None = None,
) -> Sweep:
    """Makes a sweep of what `get_sweep()` returns and checks it.

    Args:
      found: the fields of `Sweep`, `seeds` being their number; only `title`, `base` and `arms` are
        required.
      where: where it comes from, for messages.
      folder: where a relative path in `base` starts; the current folder by default.
      overrides: as in `load_sweep`.
      seeds: as in `load_sweep`; all arms are then trained with all of them.

    Raises:
      InputError: as `load_sweep`.
    """
    check_definition(found, where, 'get_sweep', SWEEP, _REQUIRED)
    arms, count = dict(found['arms']), found.get('seeds', 3)
    if len({folder_name(arm) for arm in arms}) < len(arms):
        raise InputError(f'{where}: two arms have names that look alike as folders')
    baseline = found.get('baseline', next(iter(arms)))
    for name in (baseline, *found.get('published', {}), *found.get('runs', {})):
        check_choice(f'arm in {where}:', name, arms)
    chosen = tuple(seeds) if seeds is not None else tuple(range(count))
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError(f'a sweep needs at least one seed, each once; got {list(chosen)}')
    config_files.find(found['base'], folder)
    sweep = Sweep(
        title=_title(found['title'], overrides),
        base=config_files.canonical(found['base'], folder),
        fields=overridden(found.get('fields', {}), dict(overrides)),
        arms=arms,
        seeds=chosen,
        baseline=baseline,
        published=found.get('published', {}),
        runs=found.get('runs', {}) if seeds is None else {},
    )
    for arm, fields in arms.items():
        if 'seed' in {*sweep.fields, *fields}:
            raise InputError(f'{where}: arm {arm!r} sets seed; the sweep itself varies the seed')
        sweep.config(arm, chosen[0])
    return sweep


def overridden(fields: Fields, overrides: Fields) -> Fields:
    """Fields with overrides, which also replace alternatives: train.steps replaces train.epochs."""
    replaced = {configs.ALTERNATIVES.get(field) for field in overrides}
    return {**{k: v for k, v in fields.items() if k not in replaced}, **overrides}


def _title(title: str, overrides: Sequence[tuple[str, str]]) -> str:
    """The title, followed by the overrides that change results: it may no longer be true alone."""
    last = dict(overrides).items()
    changed = [f'{field}={value}' for field, value in last if field not in configs.FREE_FIELDS]
    return f'{title} ({", ".join(changed)})' if changed else title


def grid(fields: Mapping[str, Iterable[Any]]) -> dict[str, dict[str, Any]]:
    """An arm for each combination of values, named after them.

    `grid({'optim.learning_rate': (0.1, 0.2)})` gives {'learning_rate=0.1': {...}, ...}. Use a
    comprehension over the result to leave combinations out.
    """
    return _named(fields, itertools.product(*fields.values()))


def zipped(fields: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """An arm for each position in sequences of equal length, named after the values there."""
    return _named(fields, zip(*fields.values(), strict=True))


def _named(fields: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> dict[str, dict[str, Any]]:
    leaves = [field.rpartition('.')[2] for field in fields]
    return {
        ', '.join(f'{leaf}={value}' for leaf, value in zip(leaves, row, strict=True)): dict(
            zip(fields, row, strict=True)
        )
        for row in rows
    }


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


def sweep_json(sweep: Sweep) -> str:
    """The sweep as indented JSON."""
    return json.dumps(dataclasses.asdict(sweep), indent=2) + '\n'


def read_sweep(folder: Path) -> Sweep:
    """The sweep that a workdir was made for.

    Raises:
      InputError: if there is none, or its description cannot be read.
    """
    path = folder / SWEEP_FILE
    if not folder.is_dir():
        raise InputError(f'workdir {folder} does not exist; make one with `resnet-jax sweep`')
    if not path.exists():
        hint = 'make one with `resnet-jax sweep`'
        if workdir.is_run(folder):
            hint = '`resnet-jax report` and `compare` take single runs'
        raise InputError(f'workdir {folder} holds no sweep (it has no {SWEEP_FILE}); {hint}')
    hint = 'it describes no sweep; restore it from a copy, or use another --workdir'
    try:
        return _from_json(read_json(path, hint))
    except Unreadable:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise unreadable(path, error, hint) from error


def _from_json(found: Mapping[str, Any]) -> Sweep:
    """The inverse of `sweep_json`; unknown keys are ignored."""
    for key, check in SWEEP.items():
        value = found[key] if key in _WRITTEN else found.get(key) or {}
        if key != 'seeds' and check is not None and not check(value):
            raise ValueError(f'its {key} is {shown(value)}')
    seeds = found['seeds']
    if not isinstance(seeds, list) or not all(map(RANGES['seed'].holds, seeds)):
        raise ValueError(f'its seeds are {shown(seeds)}')
    base, fields = config_files.canonical(str(found['base'])), dict[str, Any]()

    def transforms() -> Any:
        if 'augment.transforms' in fields:
            return fields['augment.transforms']
        return configs.read_config_file(base).augment.transforms

    fields = configs.upgraded(found['fields'], transforms)
    sweep = Sweep(
        title=str(found['title']),
        base=base,
        fields=fields,
        arms={str(arm): configs.upgraded(own, transforms) for arm, own in found['arms'].items()},
        seeds=tuple(seeds),
        baseline=found['baseline'],
        published={arm: float(error) for arm, error in (found.get('published') or {}).items()},
        runs=dict(found.get('runs') or {}),
        source=str(found.get('source') or ''),
    )
    if sweep.baseline not in sweep.arms:
        raise ValueError(f'its baseline {sweep.baseline!r} is none of its arms')
    if not sweep.seeds:
        raise ValueError('it has no seeds')
    return sweep


def begin(sweep: Sweep, folder: Path) -> None:
    """Makes a sweep's workdir, or adds the sweep's new arms and seeds to an existing one.

    Raises:
      InputError: for a workdir that holds something else, such as an arm of the same name with
        other fields.
    """
    if not (folder / SWEEP_FILE).exists():
        ours = (workdir.LOCK, SWEEP_FILE, f'{SWEEP_FILE}.tmp')
        empty = folder.is_dir() and all(path.name in ours for path in folder.iterdir())
        if folder.exists() and not empty:
            raise InputError(f'workdir {folder} is not empty and no sweep; use another --workdir')
    with workdir.locked(folder, wait=True):  # the jobs of an array start together
        try:
            _write(sweep, folder)
        except OSError as error:
            raise InputError(f'cannot write in workdir {folder}: {error.strerror}') from error


def _write(sweep: Sweep, folder: Path) -> None:
    path = folder / SWEEP_FILE
    if path.exists():
        old, text = read_sweep(folder), path.read_text()
        _check_same(old, sweep, folder, moved=json.loads(text)['base'] != sweep.base)
        seeds = old.seeds + tuple(seed for seed in sweep.seeds if seed not in old.seeds)
        sweep = dataclasses.replace(sweep, seeds=seeds)
        if sweep_json(sweep) == text:
            return
    write_atomically(path, sweep_json(sweep))


def _check_same(old: Sweep, new: Sweep, folder: Path, moved: bool) -> None:
    """Refuses a new sweep unless every arm of the old one is in it and computes the same.

    Args:
      old: what sweep.json describes.
      new: the sweep.
      folder: its workdir.
      moved: whether sweep.json gives the base by another path or name, as earlier versions do.
    """
    changed, lines = [], dict[str, None]()
    for arm in old.arms:
        found = _changes(old, new, arm, folder, moved) if arm in new.arms else ['it is missing']
        changed += [f'arm {arm!r}'] if found else []
        lines |= dict.fromkeys(found)
    if changed:
        raise InputError(
            f'workdir {folder} holds another sweep (it differs in {_first(4, changed)}): '
            f'{_first(4, [*lines])}; use another --workdir, or the same sweep to continue; arms '
            'and seeds may be added'
        )


def _first(count: int, items: Sequence[str]) -> str:
    return ', '.join(items[:count]) + (', ...' if len(items) > count else '')


def _changes(old: Sweep, new: Sweep, arm: str, folder: Path, moved: bool) -> list[str]:
    """What an arm computes differently in the new sweep: a line for each field.

    Where the descriptions differ, the configs count, of runs that have begun those in their
    folders: a base config may have moved, and a field may be set there now.
    """
    before, after = ({**sweep.fields, **sweep.arms[arm]} for sweep in (old, new))
    if _computed(before) == _computed(after) and not moved:
        return []
    begun = [unit for unit in units(old, folder) if unit.arm == arm]
    pairs = [(workdir.read_config(u.folder), u.seed) for u in begun if workdir.is_sound(u.folder)]
    try:
        pairs = pairs or [(old.config(arm, new.seeds[0]), new.seeds[0])]
        compared = (configs.differences(config, new.config(arm, seed)) for config, seed in pairs)
        return [line for lines in compared for line in lines]
    except InputError as error:  # the old base is gone, or its fields are no longer accepted
        return [str(error)]


def _computed(fields: Fields) -> Any:
    """The fields that determine what a run computes, as JSON represents them."""
    return json.loads(json.dumps({k: v for k, v in fields.items() if k not in configs.FREE_FIELDS}))
