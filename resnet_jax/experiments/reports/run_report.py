"""The report of a single run, in its workdir: curves, a summary and the confusion matrix."""

import datetime
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.errors import InputError
from resnet_jax.experiments.reports.document import (
    Document,
    WrittenReport,
    timestamp,
    to_html,
    to_markdown,
    write_texts,
)
from resnet_jax.experiments.reports.findings import thinned
from resnet_jax.experiments.reports.report_figures import draw_run
from resnet_jax.experiments.results import (
    Curve,
    FinalFigures,
    RunResult,
    counts_of_run,
    provenance,
    read_run,
    training_flops,
)
from resnet_jax.figures import styles, write_figures
from resnet_jax.inference.plots import plot_confusion
from resnet_jax.inference.trained import evaluate_trained, load_trained
from resnet_jax.text import NOTHING, Table, number
from resnet_jax.training.inputs import open_splits
from resnet_jax.training.tasks import score_of
from resnet_jax.training.workdir import read_config

# Figure of `RunResult.curve` -> its label, label of its axis, and whether it is in %.
_FIGURES = {
    'loss': ('loss', 'loss (nats)', False),
    'error': ('error', 'error, {} (%)', True),
    'learning_rate': ('learning rate', 'learning rate', False),
}
_MOST_CLASSES = 30  # of a confusion matrix in a table; of more, the most frequent confusions
_MOST_CONFUSIONS = 20
_CURVES_NOTE = (
    'Training figures are of augmented images, averaged since the previous point; evaluation '
    'figures are those of the whole evaluation split.'
)


def write_run_report(workdir: Path, now: datetime.datetime | None = None) -> WrittenReport:
    """Writes the report of a run into its workdir, of what there is so far.

    report.md, report.html, report.json (with the curves), curves as PNG and SVG, and the confusion
    matrix of the last checkpoint on the run's evaluation split, confusion.png, if it can be
    evaluated here.

    Args:
      workdir: of the run.
      now: when the report is written, the only thing in it that does not follow from the run and
        its data; None: now.

    Raises:
      InputError: if the workdir holds no run, its files cannot be understood, or it cannot be
        written.
    """
    read_config(workdir)  # complains unless it is a run
    run = read_run(workdir)
    evaluation = _evaluate_last(run)
    curves = _curves(run)
    content = {
        'title': _title(run),
        'workdir': str(workdir),
        'written': timestamp(now),
        **provenance([run]),
        'statement': _statement(run, evaluation),
        'config': dict(run.config),
        'run': run.to_json(),
        'evaluation': evaluation,
    }
    document = _document(run, content)
    figures = write_figures(
        {'curves': draw_run(document.title, _by_label(curves, run.error_kind))}, workdir
    )
    if 'confusion' in evaluation:
        path = workdir / 'confusion.png'
        title = f'{document.title}: step {evaluation["step"]}, {evaluation["split"]}'
        confusion = np.asarray(evaluation['confusion'])
        plot_confusion(confusion, evaluation['class_names'], title, path)
        figures.insert(1, path)
    shown = [path for path in figures if path.suffix == '.png']
    texts = {
        'report.md': to_markdown(document, shown),
        'report.html': to_html(
            document,
            _charts(curves, run.seed, run.error_kind),
            ('Figures over the steps', _CURVES_NOTE),
            finals=False,
        ),
        'report.json': json.dumps({**content, 'curves': curves}, indent=1) + '\n',
    }
    return WrittenReport(document, content, [*write_texts(workdir, texts), *figures])


def _title(run: RunResult) -> str:
    return f'{run.config.get("model.name")} on {run.config.get("data.name")}, seed {run.seed}'


def _evaluate_last(run: RunResult) -> dict[str, Any]:
    """Evaluates the last checkpoint on the run's evaluation split.

    Returns:
      'step', 'split', the figures, 'class_names' and 'confusion' (counts, row the true class); or
      'missing': why it could not be evaluated here.
    """
    try:
        trained = load_trained(run.folder)
        source = open_splits(read_config(run.folder))[1]
        name, split = source.name, source.split
        names = trained.preprocessing.class_names
        if source.class_names != names:
            raise InputError(f'{name} has other classes than the run was trained on')
        size, workers = run.config['train.eval_batch_size'], run.config['data.workers']
        figures, sums = evaluate_trained(trained, source, size, workers)
    except InputError as error:
        return {'missing': ' '.join(str(error).split())}
    return {
        'step': trained.origin['step'],
        'split': split,
        **{name: value if np.isfinite(value) else None for name, value in figures.items()},
        'class_names': list(names),
        **({'confusion': sums['confusion'].tolist()} if 'confusion' in sums else {}),
    }


def _curves(run: RunResult) -> list[dict[str, Any]]:
    """The curves for JSON: 'figure', 'split' and 'points' [step, value]."""
    found = []
    for figure in _FIGURES:
        for split in ('train', 'test'):
            points = thinned(_finite(run.curve(split, figure)), 10)
            if points:
                found.append({'figure': figure, 'split': split, 'points': points})
    return found


def _finite(curve: Curve) -> Curve:
    return [(step, value) for step, value in curve if np.isfinite(value)]


def _line_name(split: str) -> str:
    return 'training' if split == 'train' else 'evaluation'


def _by_label(curves: Sequence[Mapping[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """Label of an axis -> name of a line -> points."""
    return {
        axis.format(kind): {
            _line_name(c['split']): c['points'] for c in curves if c['figure'] == figure
        }
        for figure, (_, axis, _) in _FIGURES.items()
    }


def _charts(curves: Sequence[Mapping[str, Any]], seed: int, kind: str) -> dict[str, Any]:
    """What the page's script draws: the lines are training and evaluation."""
    looks = styles(['training', 'evaluation'])
    return {
        'arms': [
            {'name': name, 'colour': colour, 'dashes': list(dashes)}
            for name, (colour, dashes) in looks.items()
        ],
        'curves': [
            {
                'arm': _line_name(c['split']),
                'seeds': [{'seed': seed, 'points': c['points']}],
                'mean': [],
            }
            for c in curves
        ],
        'panels': [
            {
                'name': figure,
                'label': label,
                'axis': axis.format(kind),
                'percent': percent,
                'curves': [i for i, c in enumerate(curves) if c['figure'] == figure],
            }
            for figure, (label, axis, percent) in _FIGURES.items()
        ],
    }


def _statement(run: RunResult, evaluation: Mapping[str, Any]) -> list[str]:
    split = run.config.get('data.eval_split')
    errors = run.curve('test')
    found = []
    if run.final is not None:
        images = f'the {run.final.images:,} images of ' if run.final.images else ''
        found.append(
            f'The run has finished: after {run.final.steps:,} steps its error ({run.error_kind}) '
            f'on {images}{split} is {run.final.error:.2f} %.'
        )
    else:
        planned = f' (planned: {length})' if (length := _length(run)) else ''
        if run.failure is not None:
            found.append(f'The run failed: {run.failure.error}.')
        at = f'; its last figures are of step {run.last_step:,}{planned}' if run.last_step else ''
        found.append(f'The run has not finished{at}.')
        if errors:
            found.append(
                f'At its last evaluation, after {errors[-1][0]:,} steps, the error '
                f'({run.error_kind}) on {split} was {errors[-1][1]:.2f} %.'
            )
    best = min(errors, key=lambda point: point[1], default=None)
    if best and best[1] < errors[-1][1]:
        found.append(f'Its best evaluation was after {best[0]:,} steps: {best[1]:.2f} %.')
    score = score_of(evaluation)
    if 'step' in evaluation and run.final is None and score is not None:
        found.append(
            f'Its last checkpoint, of step {evaluation["step"]:,}, has an error '
            f'({run.error_kind}) of {100 * (1 - score):.2f} % on {split}.'
        )
    if 'missing' in evaluation:
        found.append(f'There is no confusion matrix: {evaluation["missing"]}.')
    return found


def _length(run: RunResult) -> str:
    """The planned length, in words; empty if the config does not say."""
    if steps := run.config.get('train.steps'):
        return f'{steps:,} steps'
    epochs = run.config.get('train.epochs')
    return f'{epochs:g} epochs' if epochs else ''


def _document(run: RunResult, content: Mapping[str, Any]) -> Document:
    evaluation = content['evaluation']
    tables = [_summary_table(run)]
    if 'confusion' in evaluation:
        tables.append(_confusion_table(evaluation))
    workdir = shlex.quote(str(run.folder))
    config = '\n'.join(f'{k} = {v}' for k, v in run.config.items() if v is not None)
    return Document(
        title=content['title'],
        statement=content['statement'],
        tables=tables,
        facts=[('state', run.state), ('written', content['written'])],
        blocks=[
            ('Its figures again', f'resnet-jax eval --workdir {workdir}'),
            ('Its config, without fields that are not set', config),
        ],
    )


def _summary_table(run: RunResult) -> Table:
    final, counts = run.final, counts_of_run(run.folder)
    adds = counts and counts.multiply_adds
    parameters = final.parameters if final else counts and counts.parameters
    steps = final.steps if final else run.last_step
    flops = training_flops(run.folder, steps)
    rows = [
        ('model', str(run.config.get('model.name'))),
        ('data', str(run.config.get('data.name'))),
        ('seed', str(run.seed)),
        ('parameters', number(parameters, ',')),
        ('multiply-adds of one image', NOTHING if adds is None else f'{adds / 1e6:,.1f} M'),
        ('steps', f'{steps:,}'),
        ('operations of training', NOTHING if flops is None else f'{flops / 1e15:,.3g} PFLOP'),
        *(
            _final_rows(final, run.error_kind)
            if final
            else [('planned length', _length(run) or NOTHING)]
        ),
    ]
    return Table('Summary', ('figure', 'value'), tuple(rows))


def _final_rows(final: FinalFigures, kind: str) -> list[tuple[str, str]]:
    """What only a run that has ended can tell."""
    compiling = number(final.first_step_seconds, ',.1f')
    memory = {name: value for name, value in final.memory.items() if value}
    return [
        (f'error ({kind})', f'{final.error:.2f} %'),
        ('loss', f'{number(final.loss, ".4f")} nats'),
        ('wall time without the first step', f'{final.training_seconds:,.1f} s'),
        ('first step of the last process, with compilation', f'{compiling} s'),
        ('training speed', f'{number(final.images_per_second, ",.0f")} images/s'),
        ('memory of a step, as compiled', _mebibytes(memory.get('step_bytes'))),
        ('peak memory of the device', _mebibytes(memory.get('device_peak_bytes'))),
        *([('runs that shared a step', str(final.together))] if final.together > 1 else []),
        ('device', final.device),
        ('versions', ', '.join(f'{k} {v}' for k, v in final.versions.items()) or NOTHING),
        ('git commit', final.git_commit or NOTHING),
    ]


def _mebibytes(count: int | None) -> str:
    return NOTHING if count is None else f'{count / 2**20:,.1f} MiB'


def _confusion_table(evaluation: Mapping[str, Any]) -> Table:
    """The confusion matrix; with many classes, the most frequent confusions."""
    names, counts = evaluation['class_names'], np.asarray(evaluation['confusion'])
    note = (
        f'{evaluation["n"]:,} images of {evaluation["split"]}, with the checkpoint of step '
        f'{evaluation["step"]:,}'
    )
    if len(names) <= _MOST_CLASSES:
        right, every = counts.diagonal(), counts.sum(axis=1)
        rows = tuple(
            (name, *map(str, row), number(100 * r / n if n else None, '.2f'))
            for name, row, r, n in zip(names, counts, right, every, strict=True)
        )
        header = ('true class', *names, 'accuracy %')
        note += ': a row for each true class, a column for each predicted one.'
        return Table('Confusion matrix', header, rows, (note,))
    wrong = counts - np.diag(counts.diagonal())
    order = np.argsort(wrong, axis=None, kind='stable')[::-1][:_MOST_CONFUSIONS]
    pairs = [np.unravel_index(i, wrong.shape) for i in order]
    rows = tuple((names[i], names[j], str(wrong[i, j])) for i, j in pairs if wrong[i, j])
    header = ('true class', 'predicted class', 'images')
    return Table('Most frequent confusions', header, rows, (f'{note}.',))
