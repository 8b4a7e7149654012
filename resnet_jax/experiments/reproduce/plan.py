"""A published table as a sweep: at the paper's recipe, at a sixteenth of it, or two steps of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError, unknown_name
from resnet_jax.experiments.reproduce.scales import (
    LENGTHS,
    SCALES,
    SHORT_SEEDS,
    SHORTER,
    shorter,
    smoke_fields,
    smoke_fields_of,
)
from resnet_jax.experiments.sweep import Sweep, from_table, make_sweep, source_text
from resnet_jax.papers.cifar import find_table
from resnet_jax.papers.recipes import DATA, Recipe, recipe_of
from resnet_jax.papers.table import Row, Table
from resnet_jax.training import config as configs

_SCHEDULE = ('optim.boundaries', 'optim.schedule', 'optim.schedule_unit')
# Fields that change how a run is computed or watched, not what it computes; see also FREE_FIELDS.
_HARMLESS = frozenset({'train.eval_every', 'model.scan_blocks', 'model.remat', 'data.memory_mib'})


@dataclasses.dataclass(frozen=True)
class Plan:
    """A table, and the sweep that reproduces it.

    Attributes:
      key: of the table.
      table: the published one.
      recipe: of its paper.
      scale: one of `SCALES`.
      sweep: an arm for each row, under the row's name.
      scaled: what the scale makes of the recipe, a line for each field.
      overridden: what the caller changed besides, likewise.
      notes: what the result cannot show, and why.
      figures: whether a figure may be held against the published one, besides the order of rows.
    """

    key: str
    table: Table
    recipe: Recipe
    scale: str
    sweep: Sweep
    scaled: tuple[str, ...]
    overridden: tuple[str, ...]
    notes: tuple[str, ...]
    figures: bool


def find_configs(folder: Path | None) -> Path:
    """The folder of configs: the given one, else ./configs, else that of the code's checkout.

    Raises:
      InputError: if there is none.
    """
    checkout = Path(__file__).parents[2] / 'configs'
    for place in (Path('configs'), checkout) if folder is None else (folder,):
        if (place / 'default.py').is_file():
            return place.resolve()
    where = f'{folder} has no default.py' if folder else 'there is no folder configs/ here'
    raise InputError(f'{where}; give the configs of the checkout with --configs DIR')


def make_plan(
    key: str,
    scale: str,
    folder: Path,
    overrides: Sequence[tuple[str, str]] = (),
    seeds: Sequence[int] | None = None,
) -> Plan:
    """What reproduces a table.

    Args:
      key: of the table, in `papers.TABLES`.
      scale: one of `SCALES`.
      folder: the one that `find_configs` gives.
      overrides: fields and their values as text, on top of the recipe and the scale, in all rows.
      seeds: of every row; else as many as the paper reports, 3 at scale short, 1 at smoke.

    Raises:
      InputError: for an unknown table, scale or field, a value that a config refuses, an override
        of what the rows differ in.
    """
    table = find_table(key)
    if scale not in SCALES:
        raise unknown_name('scale', scale, SCALES)
    recipe = recipe_of(table)
    _check_overrides(key, table, overrides)
    sweep = _sweep(key, scale, folder, (), seeds)
    changes: tuple[str, ...] = ()
    if overrides:
        changed = _sweep(key, scale, folder, overrides, seeds)
        changes = _changes(sweep, changed)
        sweep = changed
    _check_distinct(sweep)
    serious = [c for c in changes if c.partition(':')[0] not in _HARMLESS]
    figures = scale == 'full' and not recipe.differs and not serious
    return Plan(
        key=key,
        table=table,
        recipe=recipe,
        scale=scale,
        sweep=sweep,
        scaled=_scaled_text(recipe, table, scale, dict(overrides)),
        overridden=tuple(f'--config.{field}={value}' for field, value in overrides),
        notes=_notes(table, recipe, scale, sweep, serious, dict(overrides)),
        figures=figures,
    )


def _sweep(
    key: str,
    scale: str,
    folder: Path,
    overrides: Sequence[tuple[str, str]],
    seeds: Sequence[int] | None,
) -> Sweep:
    table = find_table(key)
    recipe, found = recipe_of(table), from_table(key)
    scaling = _scaling(scale, table)
    fields = _scaled({'data.name': DATA[table.data], **recipe.fields}, scaling)
    arms = {
        row.name: _without(
            {**_own(recipe, table, row, scaling), **found['arms'][row.name]}, dict(overrides)
        )
        for row in table.rows
    }
    most = max(recipe.runs_for(row.name) for row in table.rows)
    count = {'smoke': 1, 'short': SHORT_SEEDS, 'full': most}[scale]
    runs = {row.name: recipe.runs_for(row.name) for row in table.rows}
    found |= {
        'base': recipe.base,
        'fields': _without(fields, dict(overrides)),
        'arms': arms,
        'seeds': count,
        'runs': {name: n for name, n in runs.items() if n < most and scale == 'full'},
    }
    sweep = make_sweep(found, f'table {key}', folder, overrides, seeds)
    source = source_text(['reproduce', key, '--scale', scale], overrides)
    return dataclasses.replace(sweep, source=source)


def _scaling(scale: str, table: Table) -> Mapping[str, Any] | int:
    """What a scale does to a recipe: fields that it sets, or what it divides lengths by."""
    if scale == 'smoke':
        return smoke_fields(table)
    return SHORTER if scale == 'short' else 1


def _scaled(fields: Mapping[str, Any], scaling: Mapping[str, Any] | int) -> dict[str, Any]:
    if isinstance(scaling, int):
        return {
            field: shorter(value, scaling) if field in LENGTHS else value
            for field, value in fields.items()
        }
    return {**_without(fields, scaling), **scaling}


def _own(
    recipe: Recipe, table: Table, row: Row, scaling: Mapping[str, Any] | int
) -> dict[str, Any]:
    """The fields of a row alone; what the scale sets for all comes before the recipe's."""
    own = recipe.of_row(row.name, row.model)
    if isinstance(scaling, int):
        return _scaled(own, scaling)
    return {**_without(own, scaling), **smoke_fields_of(table, row)}


def _without(fields: Mapping[str, Any], set_later: Mapping[str, Any]) -> dict[str, Any]:
    """Fields less those that come from elsewhere; of the length's two fields one is enough."""
    gone = {*set_later, *(configs.ALTERNATIVES.get(field) for field in set_later)}
    return {field: value for field, value in fields.items() if field not in gone}


def _check_overrides(key: str, table: Table, overrides: Sequence[tuple[str, str]]) -> None:
    identity = {'model.name', *(f'model.{f}' for row in table.rows for f in row.overrides)}
    for field, _ in overrides:
        if field in identity:
            raise InputError(
                f'--config.{field} is what the rows of {key} are; it cannot be changed'
            )


def _check_distinct(sweep: Sweep) -> None:
    seen: dict[str, str] = {}
    for arm in sweep.arms:
        text = configs.to_json(sweep.config(arm, sweep.seeds[0]))
        if text in seen:
            raise InputError(
                f'with these fields {arm!r} and {seen[text]!r} are the same run; leave out what '
                'the rows differ in'
            )
        seen[text] = arm


def _changes(old: Sweep, new: Sweep) -> tuple[str, ...]:
    """The fields that differ in any arm, a line each; not those of `FREE_FIELDS`."""
    lines: dict[str, None] = {}
    for arm in old.arms:
        pair = [sweep.config(arm, sweep.seeds[0]) for sweep in (old, new)]
        lines |= dict.fromkeys(configs.differences(*pair))
    return tuple(lines)


def _scaled_text(
    recipe: Recipe, table: Table, scale: str, overrides: Mapping[str, str]
) -> tuple[str, ...]:
    if scale == 'full':
        return ()
    scaling = _scaling(scale, table)
    if not isinstance(scaling, int):
        lines = [f'{field}: {value}' for field, value in _without(scaling, overrides).items()]
        for row in table.rows:
            fields = _without(smoke_fields_of(table, row), overrides)
            lines += [f'{field} of {row.name}: {value}' for field, value in fields.items()]
        return tuple(lines)
    sources = {'': recipe.fields, **recipe.by_model, **recipe.by_row}
    return tuple(
        f'{field}{f" of {name}" if name else ""}: {value} -> {shorter(value, scaling)}'
        for name, fields in sources.items()
        for field, value in _without(fields, overrides).items()
        if field in LENGTHS and value
    )


def _notes(
    table: Table,
    recipe: Recipe,
    scale: str,
    sweep: Sweep,
    changes: Sequence[str],
    overrides: Mapping[str, str],
) -> tuple[str, ...]:
    if scale == 'smoke':
        return ('no verdict: two steps on synthetic images show that a row runs, and nothing else',)
    notes, own_length = [], overrides.keys() & configs.ALTERNATIVES.keys()
    only = 'only the order of the rows is compared, no figure with the published one'
    if scale == 'short':
        length = 'another length than published' if own_length else f'1/{SHORTER} of the length'
        notes.append(f'{length}: {only}')
    boundaries = sweep.fields['optim.boundaries']
    if own_length and boundaries and overrides.keys().isdisjoint(_SCHEDULE):
        notes.append(
            'the length was set by hand, the schedule was not: it keeps its boundaries, '
            f'{boundaries} {sweep.fields["optim.schedule_unit"]}'
        )
    if any(change.startswith('data.name:') for change in changes):
        notes.append(f"other data than the paper's: {only}")
    elif changes:
        notes.append(f"not the paper's recipe ({'; '.join(changes)}): {only}")
    if recipe.differs:
        notes.append(f"not the paper's recipe in all, see below: {only}")
    few = [row.name for row in table.rows if sweep.runs.get(row.name, len(sweep.seeds)) < 2]
    if few:
        rows = 'every row' if len(few) == len(table.rows) else ', '.join(few)
        notes.append(
            f'one run of {rows}: nothing tells how much it varies, so without a published spread '
            'no figure is compared, and any difference counts in the order; --seeds 5 tells'
        )
    return tuple(notes)
