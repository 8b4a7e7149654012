"""Compressed models side by side, and which of them no other one beats."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_jax import text
from resnet_jax.compress import folder as folders
from resnet_jax.compress import measure
from resnet_jax.errors import InputError
from resnet_jax.figures import figure_text, new_figure, styles, write_figures
from resnet_jax.inference.published import load_published
from resnet_jax.inference.trained import TrainedModel, load_trained
from resnet_jax.interop.files import is_compressed
from resnet_jax.json_files import json_text
from resnet_jax.records.writers import write_atomically
from resnet_jax.training.tasks import score_of
from resnet_jax.training.workdir import is_run, read_config, read_summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORIGINAL = 'original'
# What a model costs: key of its figures -> title.
PRICES = {
    'multiply_adds': 'multiply-adds',
    'bytes': 'KiB of weights',
    'latency_ms': 'ms, XLA',
    'onnxruntime_ms': 'ms, onnxruntime',
}
_AXES = {'multiply_adds': 'multiply-adds, millions'}  # title of an axis, where it is another
_MARKERS = 'osD^vP'  # so that points that lie on each other show
_LEGEND_ROWS = 14


class Candidate(NamedTuple):
    """What takes part in a comparison.

    Attributes:
      name: shown for it.
      folders: one of a compressed model or a run, or the runs of an arm with several seeds.
    """

    name: str
    folders: tuple[Path, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A compressed model, an original, or one that was trained.

    Attributes:
      name: of its folder or arm, or 'original' and the name of the model.
      method: 'prune', ..., or 'train'; empty for an original.
      figures: from its report, and speeds that are measured together. 'error' is the mean over
        several runs, 'deviation' their standard deviation and 'runs' their number.
      judged_on: data, split and number of images of the error.
      trained: the model; None for an original whose source is not there any more.
    """

    name: str
    method: str
    figures: Mapping[str, Any]
    judged_on: tuple[Any, ...]
    trained: TrainedModel | None


def read(candidates: Sequence[Candidate]) -> list[Entry]:
    """The models in some folders, each original before what was made of it first.

    Raises:
      InputError: for a folder that holds none, a run that has not ended, and models that were
        judged on other images.
    """
    found: list[Entry] = []
    originals: dict[Any, None] = {}
    for candidate in candidates:
        path = candidate.folders[0]
        if is_run(path) and not is_compressed(path):
            found.append(_of_runs(candidate))
        else:
            report = folders.read_report(path)
            judged_on = (report.get('data'), report.get('split'), report.get('n'))
            source = (report.get('workdir') or report.get('weights'), report.get('model'))
            if source not in originals:
                originals[source] = None
                name = f'{ORIGINAL} {report.get("model")}'
                found.append(Entry(name, '', report['before'], judged_on, _original(report)))
            trained = load_trained(path)
            figures = report['after']
            found.append(Entry(candidate.name, report['method'], figures, judged_on, trained))
        if found[-1].judged_on != found[0].judged_on:
            raise InputError(
                f'{path} was judged on other images than {candidates[0].folders[0]}: '
                f'{_images(found[-1].judged_on)} and {_images(found[0].judged_on)}; judge both on '
                'the same'
            )
    return found


def _of_runs(candidate: Candidate) -> Entry:
    """Runs of one arm: the mean error, and what the first of them costs."""
    errors, judged_on = [], set()
    for folder in candidate.folders:
        summary = read_summary(folder)
        if summary is None:
            raise InputError(f'the run in {folder} has not ended; run the same command again')
        data = read_config(folder).data
        errors.append(1 - float(score_of(summary['eval']) or 0.0))
        judged_on.add((data.name, data.eval_split, summary['eval'].get('n')))
    if len(judged_on) > 1:
        raise InputError(f'the runs of {candidate.name} were judged on different images')
    trained = load_trained(candidate.folders[0])
    figures = {
        'error': statistics.fmean(errors),
        'deviation': statistics.stdev(errors) if len(errors) > 1 else None,
        'runs': len(errors),
        **measure.sizes(measure.Net(trained.model, trained.variables), trained.preprocessing),
    }
    return Entry(candidate.name, 'train', figures, judged_on.pop(), trained)


def _images(judged_on: tuple[Any, ...]) -> str:
    name, split, count = judged_on
    return f'{count:,} of {name} {split}' if name else 'none'


def _original(report: Mapping[str, Any]) -> TrainedModel | None:
    """The model that was compressed, where it is still there; published weights by their path."""
    try:
        if 'weights' in report:
            return load_published(report['model'], report['weights'])[0]
        return load_trained(report['workdir'], str(report.get('step') or 'latest'))
    except (InputError, KeyError):
        return None


def with_latencies(
    entries: Sequence[Entry],
    batch: int,
    other: Callable[[TrainedModel, int], Callable[[], Any] | None] = lambda trained, batch: None,
) -> list[Entry]:
    """The entries with speeds that are measured here, all by turns; an absent original has none.

    Args:
      entries: from `read`.
      batch: images at a time.
      other: (model, batch) -> what runs it in another runtime; None where nothing can.
    """
    programs: dict[tuple[int, str], Callable[[], Any]] = {}
    for i, entry in enumerate(entries):
        if (trained := entry.trained) is None:
            continue
        net = measure.Net(trained.model, trained.variables)
        programs[i, 'latency_ms'] = measure.program_of(net, trained.preprocessing, batch)
        if (program := other(trained, batch)) is not None:
            programs[i, 'onnxruntime_ms'] = program
    times = dict(zip(programs, measure.latencies(list(programs.values())), strict=True))
    return [
        dataclasses.replace(
            entry,
            figures={
                **entry.figures,
                **{key: times.get((i, key)) for key in ('latency_ms', 'onnxruntime_ms')},
            },
        )
        for i, entry in enumerate(entries)
    ]


def unbeaten(entries: Sequence[Entry], price: str) -> list[str]:
    """The names of the models than which no other has both a lower error and a lower price.

    Args:
      entries: the models.
      price: a key of `PRICES`; models without it, or without an error, take no part.
    """
    points = [
        (entry.figures[price], entry.figures['error'], entry.name)
        for entry in entries
        if entry.figures.get(price) is not None and entry.figures.get('error') is not None
    ]
    return [
        name
        for cost, error, name in points
        if not any(c <= cost and e <= error and (c, e) != (cost, error) for c, e, _ in points)
    ]


def table(entries: Sequence[Entry], batch: int) -> text.Table:
    """All figures; a star marks what no other model beats at that price."""
    prices = [key for key in PRICES if any(e.figures.get(key) is not None for e in entries)]
    best = {key: unbeaten(entries, key) for key in prices}

    def cell(entry: Entry, key: str) -> str:
        value = entry.figures.get(key)
        if value is None:
            return text.NOTHING
        shown = {'multiply_adds': f'{value:,}', 'bytes': f'{value / 1024:,.1f}'}
        star = ' *' if entry.name in best[key] else ''
        return shown.get(key, f'{value:.3f}') + star

    rows = []
    for entry in entries:
        rows.append(
            (
                entry.name,
                entry.method or text.NOTHING,
                _error_text(entry),
                f'{entry.figures["parameters"]:,}',
                f'{entry.figures["nonzero"]:,}',
                *(cell(entry, key) for key in prices),
            )
        )
    header = ('model', 'method', 'error %', 'parameters', 'not zero', *(PRICES[k] for k in prices))
    notes: tuple[str, ...] = (
        f'Judged on {_images(entries[0].judged_on)} images; speeds are medians for batches of '
        f'{batch}, measured by turns. * no other one is both better and cheaper.',
    )
    if any(entry.figures.get('deviation') is not None for entry in entries):
        notes += ('± standard deviation; in parentheses, the number of seeds.',)
    return text.Table('Compressed models', header, tuple(rows), notes)


def _error_text(entry: Entry) -> str:
    """The error in %, and of several runs its standard deviation and their number."""
    error, deviation = entry.figures.get('error'), entry.figures.get('deviation')
    shown = text.number(None if error is None else 100 * error, '.2f')
    if deviation is None:
        return shown
    return f'{shown} ± {100 * deviation:.2f} ({entry.figures["runs"]})'


def as_json(entries: Sequence[Entry], batch: int) -> dict[str, Any]:
    """The entries, and what no other one beats, for JSON."""
    import jax

    name, split, count = entries[0].judged_on
    return {
        'data': name,
        'split': split,
        'n': count,
        'latency_batch': batch,
        'device': jax.devices()[0].device_kind,
        'models': [
            {'name': e.name, 'method': e.method, **{k: v for k, v in e.figures.items()}}
            for e in entries
        ],
        'unbeaten': {price: unbeaten(entries, price) for price in PRICES},
    }


def draw(entries: Sequence[Entry]) -> 'Figure':
    """The error against each price; a line joins what no other one beats."""
    prices = [key for key in PRICES if any(e.figures.get(key) is not None for e in entries)]
    looks = styles([entry.name for entry in entries])
    columns = -(-len(entries) // _LEGEND_ROWS)
    size = (3.8 * len(prices) + 1.9 * columns, 4.2)
    figure = new_figure(size, 'What compression costs and saves')
    for number, price in enumerate(prices, 1):
        axes = figure.add_subplot(1, len(prices), number)
        best = unbeaten(entries, price)
        points = [e for e in entries if None not in (e.figures.get(price), e.figures.get('error'))]
        scale = {'bytes': 1024, 'multiply_adds': 1e6}.get(price, 1)
        line = sorted(
            (e.figures[price] / scale, 100 * e.figures['error']) for e in points if e.name in best
        )
        axes.plot(*zip(*line, strict=True), color='0.8', zorder=1) if line else None
        for place, entry in enumerate(points):
            x, y = entry.figures[price] / scale, 100 * entry.figures['error']
            colour, marker = looks[entry.name][0], _MARKERS[place % len(_MARKERS)]
            name = figure_text(entry.name)
            axes.scatter([x], [y], s=34, c=colour, marker=marker, alpha=0.8, zorder=2, label=name)
            deviation = 100 * (entry.figures.get('deviation') or 0)
            axes.plot([x, x], [y - deviation, y + deviation], color=colour, alpha=0.8, zorder=2)
        axes.set_xlabel(_AXES.get(price, PRICES[price]))
        axes.set_xlim(0, 1.1 * max(e.figures[price] / scale for e in points))
        if number == 1:
            axes.set_ylabel('error (%)')
        if number == len(prices):
            axes.legend(fontsize=8, loc='center left', bbox_to_anchor=(1.02, 0.5), ncols=columns)
    return figure


def write(entries: Sequence[Entry], found: Mapping[str, Any], out: Path) -> list[Path]:
    """Writes compare.md, compare.json, pareto.png and pareto.svg into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    shown = table(entries, found['latency_batch'])
    lines = [f'# {shown.title}', '', text.markdown(shown), '', *shown.notes, '']
    write_atomically(out / 'compare.md', '\n'.join(lines))
    write_atomically(out / 'compare.json', json_text(found, indent=1) + '\n')
    judged = any(entry.figures.get('error') is not None for entry in entries)
    figures = {'pareto': draw(entries)} if judged else {}
    return [out / 'compare.md', out / 'compare.json', *write_figures(figures, out)]
