"""What reproducing a table takes: operations of its full recipe, and hours from a timed probe."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from resnet_jax.experiments.reproduce.plan import make_plan
from resnet_jax.models.counting import FLOPS_PER_MULTIPLY_ADD
from resnet_jax.papers.cifar import find_table
from resnet_jax.papers.recipes import HELD_OUT, recipe_of, row_fields, shared_fields
from resnet_jax.papers.row_counts import COUNTS
from resnet_jax.papers.table import PAPERS, PublishedRow, PublishedTable

# A small net and a larger one: table, row, batch size.
_PROBES = (('he2015_table6', 'ResNet-20', 128), ('wrn_cifar10', 'WRN-16-8', 32))


class Speed(NamedTuple):
    """The speed of a model's training step on this machine."""

    model: str
    multiply_adds: int
    flops_per_second: float


def cost_of(key: str, speeds: Sequence[Speed] = ()) -> dict[str, Any]:
    """What a table takes at scale full; evaluation is left out.

    Args:
      key: the table's key.
      speeds: from `probe`; without them, nothing is said of hours.

    Returns:
      'table', 'title', 'paper', 'data', 'rows' and, summed over the rows, 'flops' and 'hours'. A
      row has 'name', 'model', 'parameters', 'multiply_adds' of one image, 'images' seen in a run,
      'runs', and for all its runs together 'flops' and 'hours'.
    """
    table = find_table(key)
    rows = [_row_cost(key, table, row, speeds) for row in table.rows]
    summed = ('flops', 'hours') if speeds else ('flops',)
    return {
        'table': key,
        'title': table.title,
        'paper': PAPERS[table.paper],
        'data': table.data,
        **{name: sum(row[name] for row in rows) for name in summed},
        'rows': rows,
    }


def _row_cost(
    key: str, table: PublishedTable, row: PublishedRow, speeds: Sequence[Speed]
) -> dict[str, Any]:
    parameters, multiply_adds = counts_of(key, row)
    images, runs = images_seen(table, row), recipe_of(table).runs_for(row.name)
    flops = FLOPS_PER_MULTIPLY_ADD * multiply_adds * images * runs
    found: dict[str, Any] = {
        'name': row.name,
        'model': row.model,
        'parameters': parameters,
        'multiply_adds': multiply_adds,
        'images': images,
        'runs': runs,
        'flops': flops,
    }
    if speeds:
        found['hours'] = flops / speed_at(multiply_adds, speeds) / 3600
    return found


def counts_of(key: str, row: PublishedRow) -> tuple[int, int]:
    """Parameters of a row's model, and multiply-adds of one image of its data set.

    They are stored; only those of a row that is not stored yet are counted by tracing the model.
    """
    if found := COUNTS.get(key, {}).get(row.name):
        return found
    from resnet_jax.models.counting import count
    from resnet_jax.papers.cifar import build

    table = find_table(key)
    parameters, multiply_adds = count(build(table, row), table.facts(row).image_shape)
    return parameters, multiply_adds


def images_seen(table: PublishedTable, row: PublishedRow) -> int:
    """How many images a run of a row trains on at scale full, with repetition."""
    fields = shared_fields(table) | row_fields(table, row)
    if 'train.steps' in fields:
        return int(fields['train.steps'] * fields['train.batch_size'])
    held_out = HELD_OUT if fields['data.train_split'] == 'train[:45000]' else 0
    return round(fields['train.epochs'] * (table.facts(row).examples - held_out))


def speed_at(multiply_adds: int, speeds: Sequence[Speed]) -> float:
    """FLOP/s for a net of this size: log-log interpolation between the probed ones, no further."""
    ordered = sorted(speeds, key=lambda speed: speed.multiply_adds)
    low, high = ordered[0], ordered[-1]
    if low.multiply_adds == high.multiply_adds:
        return low.flops_per_second
    sizes = [math.log(n) for n in (low.multiply_adds, multiply_adds, high.multiply_adds)]
    part = min(1.0, max(0.0, (sizes[1] - sizes[0]) / (sizes[2] - sizes[0])))
    logs = [math.log(speed.flops_per_second) for speed in (low, high)]
    return math.exp(logs[0] + part * (logs[1] - logs[0]))


def probe(folder: Path | None = None) -> tuple[Speed, ...]:
    """Times training steps of a small and a larger net on synthetic images; takes a minute.

    Args:
      folder: replaces the package's configs.
    """
    # Takes a second to import, which listing without a probe does not need.
    from resnet_jax.experiments.seeds import seconds_per_step
    from resnet_jax.training.build import build_run
    from resnet_jax.training.inputs import open_inputs

    speeds = []
    for key, name, batch in _PROBES:
        row = next(row for row in find_table(key).rows if row.name == name)
        overrides = [('train.batch_size', str(batch)), ('data.train_split', 'train')]
        plan = make_plan(key, 'smoke', folder, [*overrides, ('model.scan_blocks', 'False')])
        config = plan.sweep.config(name, 0)
        run = build_run(config, open_inputs(config))
        seconds = seconds_per_step(run)
        _, multiply_adds = counts_of(key, row)
        flops = FLOPS_PER_MULTIPLY_ADD * multiply_adds * batch
        speeds.append(Speed(row.model, multiply_adds, flops / seconds))
    return tuple(speeds)
