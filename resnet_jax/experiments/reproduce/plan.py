"""A published table as a sweep: with the paper's recipe, a sixteenth of it, or two steps."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError, check_choice
from resnet_jax.experiments.sweep import (
    Sweep,
    from_table,
    make_sweep,
    refuse_shared_without_effect,
    source_text,
)
from resnet_jax.papers.cifar import find_table
from resnet_jax.papers.recipes import Recipe, base_of, recipe_of, row_fields, shared_fields
from resnet_jax.papers.table import PublishedRow, PublishedTable
from resnet_jax.training import config as configs

# full   the recipe
# short  the recipe, its length divided by SHORTER
# smoke  two steps, on synthetic images where the data are images
SCALES = ('smoke', 'short', 'full')
SHORTER = 16
SHORT_SEEDS = 3
# The fields that grow with the length of a run.
_LENGTHS = (
    *('train.steps', 'train.epochs', 'optim.boundaries', 'optim.warmup'),
    'optim.plateau_patience',
)
_SCHEDULE = ('optim.boundaries', 'optim.schedule', 'optim.schedule_unit')
# Fields that change how a run is computed or watched, not what it computes; see also FREE_FIELDS.
_HARMLESS = frozenset({'train.eval_every', 'model.scan_blocks', 'model.remat', 'data.memory_mib'})

_SMOKE: dict[str, Any] = {
    'data.name': 'synthetic',  # with 10 classes
    'data.train_split': 'train[:64]',
    'data.eval_split': 'test[:4]',
    'data.image_size': 32,  # the last stage of an ImageNet net then sees a single pixel
    'data.workers': 0,
    'train.batch_size': 4,
    'train.steps': 2,
    'train.log_every': 1,
    'train.eval_every': 0,
    'train.eval_batch_size': 4,
    'train.xla_optimization_level': 0,  # two steps take less time than compiling them
    'optim.learning_rate': 1e-3,
    'optim.scale_by_batch': 0,
    'optim.warmup': 0.0,  # often longer than the two steps
    'model.dtype': 'float32',
    'model.scan_blocks': True,  # compiles faster
    'checkpoint.keep': 1,
}
# Of series, which are there: no image takes their place.
_SMOKE_SERIES: dict[str, Any] = {
    'data.eval_split': 'test[:8]',
    'train.steps': 2,
    'train.log_every': 1,
    'train.eval_every': 0,
    'train.eval_batch_size': 8,
    'train.xla_optimization_level': 0,
    'checkpoint.every': 2,
    'checkpoint.keep': 1,
}
# A CPU takes minutes for grouped convolutions of 32x32 images, above all in a scan.
_SMOKE_GROUPED: dict[str, Any] = {'train.batch_size': 2, 'model.scan_blocks': False}


@dataclasses.dataclass(frozen=True)
class Plan:
    """A table, and the sweep that reproduces it.

    Attributes:
      key: the table's key in `papers.cifar.TABLES`.
      table: the published table.
      recipe: how its paper trained.
      scale: one of `SCALES`.
      sweep: has an arm for each row, under the row's name.
      scaled: what the scale changes in the recipe, a line for each field.
      overridden: what the caller changes besides, likewise.
      notes: what the result cannot show, and why.
      figures: whether figures may be compared with the published ones, not only the order of rows.
    """

    key: str
    table: PublishedTable
    recipe: Recipe
    scale: str
    sweep: Sweep
    scaled: tuple[str, ...]
    overridden: tuple[str, ...]
    notes: tuple[str, ...]
    figures: bool


def find_configs(folder: Path | None) -> Path | None:
    """Checks a folder of configs that replaces the package's; None stands for the package's.

    Raises:
      InputError: if the folder has no default.py.
    """
    if folder is not None and not (folder / 'default.py').is_file():
        raise InputError(f'{folder} has no default.py; --configs takes a folder of configs')
    return folder


def make_plan(
    key: str,
    scale: str,
    folder: Path | None = None,
    overrides: Sequence[tuple[str, str]] = (),
    seeds: Sequence[int] | None = None,
) -> Plan:
    """Plans the reproduction of a table.

    Args:
      key: the table's key in `papers.cifar.TABLES`.
      scale: one of `SCALES`.
      folder: replaces the package's configs, which are the default.
      overrides: fields and their values as text; they take precedence over the recipe and the
        scale, in all rows.
      seeds: of every row; by default as many as the paper reports, 3 at scale short, 1 at smoke.

    Raises:
      InputError: for an unknown table, scale or field, an invalid value, or an override of a field
        in which the rows differ.
    """
    table = find_table(key)
    check_choice('scale', scale, SCALES)
    recipe = recipe_of(table)
    _check_overrides(key, table, overrides)
    sweep = _sweep(key, scale, folder, (), seeds)
    changes: tuple[str, ...] = ()
    if overrides:
        changed = _sweep(key, scale, folder, overrides, seeds)
        changes = _changes(sweep, changed)
        sweep = changed
    _check_distinct(sweep)
    serious = [change for change in changes if change.partition(':')[0] not in _HARMLESS]
    return Plan(
        key=key,
        table=table,
        recipe=recipe,
        scale=scale,
        sweep=sweep,
        scaled=_scaled_text(table, scale, dict(overrides)),
        overridden=tuple(f'--config.{field}={value}' for field, value in overrides),
        notes=_notes(table, recipe, scale, sweep, serious, dict(overrides)),
        figures=scale == 'full' and not recipe.differs and not serious,
    )


def _sweep(
    key: str,
    scale: str,
    folder: Path | None,
    overrides: Sequence[tuple[str, str]],
    seeds: Sequence[int] | None,
) -> Sweep:
    table = find_table(key)
    recipe, found = recipe_of(table), from_table(key)
    changed = dict(overrides)
    runs = {row.name: recipe.runs_for(row.name) for row in table.rows}
    most = max(runs.values())
    base = base_of(recipe) if folder is None else _in_folder(folder, base_of(recipe))
    found |= {
        'base': base,
        'fields': _without(_scaled(shared_fields(table), scale, _smoke_fields(table)), changed),
        'arms': {
            row.name: _without(_row_fields(table, row, scale), changed) | found['arms'][row.name]
            for row in table.rows
        },
        'seeds': {'smoke': 1, 'short': SHORT_SEEDS, 'full': most}[scale],
        'runs': {name: n for name, n in runs.items() if n < most and scale == 'full'},
    }
    sweep = make_sweep(found, f'table {key}', None, overrides, seeds)
    refuse_shared_without_effect(sweep, dict(overrides))
    source = source_text(['reproduce', key, '--scale', scale], overrides)
    return dataclasses.replace(sweep, source=source)


def _in_folder(folder: Path, name: str) -> str:
    """The path in another folder of configs for the name of a config of the package."""
    stem, separator, variant = name.partition(':')
    return f'{folder / stem}.py{separator}{variant}'


def _smoke_fields(table: PublishedTable) -> dict[str, Any]:
    """What scale smoke sets in all rows of a table."""
    if table.data == 'ucr':
        return _SMOKE_SERIES
    if table.data != 'imagenet':
        return _SMOKE
    # For the central crop, in the proportion of 256 to 224, and for training at fewer pixels.
    return {**_SMOKE, 'data.resize': 36, 'data.train_image_size': 24}


def _row_fields(table: PublishedTable, row: PublishedRow, scale: str) -> dict[str, Any]:
    """What one row sets at a scale, besides its model."""
    fields = row_fields(table, row)
    if scale != 'smoke':
        return _scaled(fields, scale, {})
    return _without(fields, _smoke_fields(table)) | _smoke_fields_of(table, row)


def _smoke_fields_of(table: PublishedTable, row: PublishedRow) -> dict[str, Any]:
    """What scale smoke sets in one row."""
    from resnet_jax.models.registry import model_row

    if model_row(row.model).settings['block'].groups == 1:
        return {}
    return {**_SMOKE_GROUPED, **({} if table.data == 'imagenet' else {'data.image_size': 8})}


def _scaled(fields: Mapping[str, Any], scale: str, smoke: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a recipe at a scale; `smoke` replaces them at scale smoke."""
    if scale == 'smoke':
        return {**_without(fields, smoke), **smoke}
    if scale == 'full':
        return dict(fields)
    return {f: shorter(v) if f in _LENGTHS else v for f, v in fields.items()}


def shorter(length: Any) -> Any:
    """A length at scale short: a float, an int (rounded up), or a tuple of either."""
    if isinstance(length, tuple):
        return tuple(map(shorter, length))
    return -(-length // SHORTER) if isinstance(length, int) else length / SHORTER


def _without(fields: Mapping[str, Any], replaced: Mapping[str, Any]) -> dict[str, Any]:
    """Fields except those that others replace; of steps and epochs, one is enough."""
    gone = {*replaced, *(configs.ALTERNATIVES.get(field) for field in replaced)}
    return {field: value for field, value in fields.items() if field not in gone}


def _check_overrides(key: str, table: PublishedTable, overrides: Sequence[tuple[str, str]]) -> None:
    identity = {'model.name', *(f'model.{f}' for row in table.rows for f in row.overrides)}
    for field, _ in overrides:
        if field in identity:
            raise InputError(
                f'--config.{field} is what the rows of {key} differ in; it cannot be changed'
            )


def _check_distinct(sweep: Sweep) -> None:
    seen: dict[str, str] = {}
    for arm in sweep.arms:
        text = configs.to_json(sweep.config(arm, sweep.seeds[0]))
        if text in seen:
            raise InputError(
                f'with these fields {arm!r} and {seen[text]!r} are the same run; do not set '
                'fields in which the rows differ'
            )
        seen[text] = arm


def _changes(old: Sweep, new: Sweep) -> tuple[str, ...]:
    """The fields that differ in any arm, a line for each; FREE_FIELDS are left out."""
    lines: dict[str, None] = {}
    for arm in old.arms:
        pair = [sweep.config(arm, sweep.seeds[0]) for sweep in (old, new)]
        lines |= dict.fromkeys(configs.differences(*pair))
    return tuple(lines)


def _scaled_text(
    table: PublishedTable, scale: str, overrides: Mapping[str, str]
) -> tuple[str, ...]:
    """What a scale changes in the recipe, a line for each field."""
    if scale == 'full':
        return ()
    of_rows: Callable[[PublishedRow], Mapping[str, Any]]
    if scale == 'smoke':
        shared, of_rows = _smoke_fields(table), lambda row: _smoke_fields_of(table, row)
    else:
        shared, of_rows = shared_fields(table), lambda row: row_fields(table, row)
    sources = [('', shared), *((f' of {row.name}', of_rows(row)) for row in table.rows)]
    fields = [
        (f'{field}{owner}', field, value)
        for owner, found in sources
        for field, value in _without(found, overrides).items()
    ]
    if scale == 'smoke':
        return tuple(f'{name}: {value}' for name, _, value in fields)
    return tuple(
        f'{name}: {value} -> {shorter(value)}'
        for name, field, value in fields
        if field in _LENGTHS and value
    )


def _notes(
    table: PublishedTable,
    recipe: Recipe,
    scale: str,
    sweep: Sweep,
    changes: Sequence[str],
    overrides: Mapping[str, str],
) -> tuple[str, ...]:
    if scale == 'smoke':
        what = '' if table.data == 'ucr' else ' on synthetic images'
        return (f'no verdict: two steps{what} show that a row runs, and nothing else',)
    notes = []
    own_length = overrides.keys() & configs.ALTERNATIVES.keys()
    only = 'only the order of the rows is compared, no figure with the published one'
    if scale == 'short':
        length = 'another length than published' if own_length else f'1/{SHORTER} of the length'
        notes.append(f'{length}: {only}')
    boundaries = sweep.fields.get('optim.boundaries')
    if own_length and boundaries and overrides.keys().isdisjoint(_SCHEDULE):
        notes.append(
            'the length was set by hand, but not the schedule, which keeps its boundaries: '
            f'{boundaries} {sweep.fields["optim.schedule_unit"]}'
        )
    if any(change.startswith('data.name:') for change in changes):
        notes.append(f"other data than the paper's: {only}")
    elif changes:
        notes.append(f"not the paper's recipe ({'; '.join(changes)}): {only}")
    if recipe.differs:
        notes.append(f"not the paper's recipe in every respect, see below: {only}")
    few = [row.name for row in table.rows if sweep.runs.get(row.name, len(sweep.seeds)) < 2]
    if few:
        rows = 'every row' if len(few) == len(table.rows) else ', '.join(few)
        notes.append(
            f'one run of {rows}: its spread is unknown, so without a published spread no figure is '
            'compared, and any difference counts in the order; --seeds 5 measures the spread'
        )
    return tuple(notes)
