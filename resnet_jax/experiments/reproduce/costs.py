"""What reproducing a table takes: operations of its full recipe, and hours from a timed probe."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from resnet_jax.experiments.reproduce.plan import make_plan
from resnet_jax.models import ResNet
from resnet_jax.models.counting import Counts, count
from resnet_jax.papers.cifar import build, find_table
from resnet_jax.papers.recipes import HELD_OUT, TRAIN_IMAGES, Recipe, recipe_of
from resnet_jax.papers.table import PAPERS, Row, Table

# A training step computes each product thrice (forward, and the gradients of both factors), and a
# multiply-add is two operations.
FLOPS_PER_MULTIPLY_ADD = 3 * 2
_SIZE = {'cifar10': 32, 'cifar100': 32, 'imagenet': 224}
# Blocks of a stage after the first are alike; so many are counted, the others follow from them.
_COUNTED = 2
# A small net and a larger one: table, row, batch.
_PROBES = (('he2015_table6', 'ResNet-20', 128), ('wrn_cifar10', 'WRN-16-8', 32))


class Speed(NamedTuple):
    """What a training step of a model achieved on this machine."""

    model: str
    multiply_adds: int
    flops_per_second: float


def cost_of(key: str, speeds: Sequence[Speed] = ()) -> dict[str, Any]:
    """What a table takes at scale full.

    Args:
      key: of the table.
      speeds: what `probe` gives; without it nothing is said of hours.

    Returns:
      'table', 'title', 'paper', 'data', 'rows' and, summed over the rows, 'flops' and 'hours'. A
      row has 'name', 'model', 'parameters', 'multiply_adds' of one image, 'images' seen in a run,
      'runs', and of all its runs 'flops' and 'hours'. Evaluation is left out.
    """
    table = find_table(key)
    recipe = recipe_of(table)
    rows = [_row_cost(table, recipe, row, speeds) for row in table.rows]
    summed = ('flops', 'hours') if speeds else ('flops',)
    return {
        'table': key,
        'title': table.title,
        'paper': PAPERS[table.paper],
        'data': table.data,
        **{name: sum(row[name] for row in rows) for name in summed},
        'rows': rows,
    }


def _row_cost(table: Table, recipe: Recipe, row: Row, speeds: Sequence[Speed]) -> dict[str, Any]:
    counts = count_blocks(build(table, row), _SIZE[table.data])
    images, runs = images_seen(table, recipe, row), recipe.runs_for(row.name)
    flops = FLOPS_PER_MULTIPLY_ADD * counts.multiply_adds * images * runs
    found: dict[str, Any] = {
        'name': row.name,
        'model': row.model,
        **counts._asdict(),
        'images': images,
        'runs': runs,
        'flops': flops,
    }
    if speeds:
        found['hours'] = flops / speed_at(counts.multiply_adds, speeds) / 3600
    return found


def images_seen(table: Table, recipe: Recipe, row: Row) -> int:
    """How many images a run of a row trains on at scale full, each as often as it comes."""
    fields = {**recipe.fields, **recipe.of_row(row.name, row.model)}
    if 'train.steps' in fields:
        return int(fields['train.steps'] * fields['train.batch_size'])
    held_out = HELD_OUT if fields.get('data.train_split') == 'train[:45000]' else 0
    return round(fields['train.epochs'] * (TRAIN_IMAGES[table.data] - held_out))


@functools.cache
def count_blocks(model: ResNet, image_size: int) -> Counts:
    """`counting.count` for nets of many blocks, in a second or two.

    What a stage's later blocks add is counted on one of them, which is exact: they are alike.

    Args:
      model: for images of three channels.
      image_size: their height and width, in pixels.
    """
    sizes = model.stage_sizes
    shape = (image_size, image_size, 3)
    few = tuple(min(n, _COUNTED) for n in sizes)
    base = count(model.clone(stage_sizes=few), shape)
    parameters, multiply_adds = base
    for i, n in enumerate(sizes):
        if n > few[i]:
            more = tuple(f + (i == j) for j, f in enumerate(few))
            with_one = count(model.clone(stage_sizes=more), shape)
            parameters += (n - few[i]) * (with_one.parameters - base.parameters)
            multiply_adds += (n - few[i]) * (with_one.multiply_adds - base.multiply_adds)
    return Counts(parameters, multiply_adds)


def speed_at(multiply_adds: int, speeds: Sequence[Speed]) -> float:
    """FLOP/s for a net of this size: between the probed ones, at the logarithms; not beyond."""
    ordered = sorted(speeds, key=lambda speed: speed.multiply_adds)
    low, high = ordered[0], ordered[-1]
    if low.multiply_adds == high.multiply_adds:
        return low.flops_per_second
    sizes = [math.log(n) for n in (low.multiply_adds, multiply_adds, high.multiply_adds)]
    part = min(1.0, max(0.0, (sizes[1] - sizes[0]) / (sizes[2] - sizes[0])))
    logs = [math.log(speed.flops_per_second) for speed in (low, high)]
    return math.exp(logs[0] + part * (logs[1] - logs[0]))


def probe(folder: Path) -> tuple[Speed, ...]:
    """Times training steps of a small and a larger net on synthetic images; takes a minute.

    Args:
      folder: of configs.
    """
    # Not needed, and a second to import, where nothing is timed.
    from resnet_jax.experiments.seeds import seconds_per_step
    from resnet_jax.training.build import build_run
    from resnet_jax.training.inputs import open_inputs

    speeds = []
    for key, name, batch in _PROBES:
        table = find_table(key)
        row = next(row for row in table.rows if row.name == name)
        overrides = [('train.batch_size', str(batch)), ('data.train_split', 'train')]
        plan = make_plan(key, 'smoke', folder, [*overrides, ('model.scan_blocks', 'False')])
        config = plan.sweep.config(name, 0)
        run = build_run(config, open_inputs(config))
        seconds = seconds_per_step(run)
        multiply_adds = count_blocks(build(table, row), _SIZE[table.data]).multiply_adds
        flops = FLOPS_PER_MULTIPLY_ADD * multiply_adds * batch
        speeds.append(Speed(row.model, multiply_adds, flops / seconds))
    return tuple(speeds)
