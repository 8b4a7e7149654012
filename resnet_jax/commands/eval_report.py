"""The report of `resnet-jax eval --report`: a page with the mistakes, and its files."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax.errors import InputError, Range, check_number
from resnet_jax.json_files import json_text

if TYPE_CHECKING:
    from resnet_jax.analysis.gallery import Curves, Predictions
    from resnet_jax.data import Source
    from resnet_jax.experiments.reports.gallery_page import Card
    from resnet_jax.inference.trained import TrainedModel
    from resnet_jax.text import Table

MISTAKES, PAIRS = 24, 12  # shown by default: mistakes; pairs of confused classes
_DEFAULT = Path('report_SPLIT')  # what --report alone stands for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares --report and --mistakes."""
    parser.add_argument(
        '--report',
        nargs='?',
        type=Path,
        const=_DEFAULT,
        metavar='DIR',
        help='write a page with the most confident mistakes, the most confused classes and the ROC '
        'and precision-recall curves of each class; default: report_SPLIT in the workdir, or in '
        'the current folder without a run',
    )
    parser.add_argument(
        '--mistakes', type=int, metavar='N', help=f'shown on that page (default: {MISTAKES})'
    )


def prepare(options: argparse.Namespace, split: str) -> Path | None:
    """The folder of the report, which can be written; None without a report.

    Raises:
      InputError: for a folder that cannot be written, and a number of mistakes below 0.
    """
    from resnet_jax.records.writers import check_folder

    if options.report is None:
        if options.mistakes is not None:
            raise InputError('--mistakes goes with --report: give that too')
        return None
    if options.mistakes is not None:
        check_number('--mistakes', options.mistakes, Range(0, whole=True))
    plain = ''.join(c if c.isalnum() else '_' for c in split)
    default = (options.workdir or Path('.')) / f'report_{plain}'
    folder: Path = default if options.report == _DEFAULT else options.report
    check_folder(folder, 'give another --report DIR')
    return folder


def write(
    folder: Path,
    count: int | None,
    trained: 'TrainedModel',
    source: 'Source',
    names: Sequence[str],
    predictions: 'Predictions',
    result: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes report.html, report.json and the pictures.

    Args:
      folder: made if it does not exist.
      count: of mistakes to show; None: `MISTAKES`.
      trained: the model.
      source: the examples.
      names: of the classes that count, those of the data first.
      predictions: the model's.
      result: the figures of the evaluation, among them 'classes' and 'confusion'.

    Returns:
      What the report adds to the figures: 'mistakes', 'confused', 'curves_n', 'report', and
      'classes' with 'auc' and 'average_precision'.
    """
    from resnet_jax.analysis import gallery
    from resnet_jax.experiments.reports.document import write_texts

    folder.mkdir(parents=True, exist_ok=True)
    curves = {i: gallery.class_curves(predictions, i) for i in range(len(source.class_names))}
    mistakes = gallery.confident_mistakes(predictions, MISTAKES if count is None else count)
    pairs = gallery.confused_pairs(predictions, PAIRS)
    files = _file_names(source, mistakes)
    added: dict[str, Any] = {
        'classes': _with_areas(result['classes'], curves),
        'mistakes': [_mistake(predictions, i, files[i], names) for i in mistakes],
        'confused': [
            {
                **dataclasses.asdict(pair),
                'true': names[pair.true],
                'predicted': names[pair.predicted],
            }
            for pair in pairs
        ],
        'curves_n': len(predictions.scores),
        'report': str(folder / 'report.html'),
    }
    whole = {**result, **added}
    plots = _pictures(folder, trained, source, names, curves, whole)
    images = _images(trained, source, [*mistakes, *(pair.example for pair in pairs)])
    page = _page(trained, source, whole, images, plots)
    write_texts(folder, {'report.json': json_text(whole, indent=1) + '\n', 'report.html': page})
    return added


def _with_areas(
    classes: Mapping[str, Mapping[str, Any]], curves: 'Mapping[int, Curves | None]'
) -> dict[str, dict[str, Any]]:
    return {
        name: {
            **of,
            'auc': None if (each := curves[i]) is None else each.auc,
            'average_precision': None if each is None else each.average_precision,
        }
        for i, (name, of) in enumerate(classes.items())
    }


def _mistake(
    predictions: 'Predictions', index: int, file: str | None, names: Sequence[str]
) -> dict[str, Any]:
    return {
        'index': index,
        'file': file,
        'true': names[predictions.labels[index]],
        'predicted': names[predictions.guessed[index]],
        'confidence': float(predictions.confidence[index]),
        'probability_of_true': float(predictions.of_label[index]),
    }


def _file_names(source: 'Source', indices: Sequence[int]) -> dict[int, str | None]:
    import numpy as np

    if not source.root or not indices:
        return dict.fromkeys(indices)
    chosen = source.select(np.array(indices), source.split)
    return dict(zip(indices, chosen.files(), strict=True))


def _images(trained: 'TrainedModel', source: 'Source', indices: Sequence[int]) -> dict[int, Any]:
    """The chosen examples as the model sees them."""
    preprocessing = trained.preprocessing
    source = source.with_bands(preprocessing.channels)
    return {i: preprocessing.prepare(source[i]['image']) for i in sorted(set(indices))}


def _pictures(
    folder: Path,
    trained: 'TrainedModel',
    source: 'Source',
    names: Sequence[str],
    curves: 'Mapping[int, Curves | None]',
    whole: Mapping[str, Any],
) -> dict[str, Path]:
    """What the pictures show -> their PNGs."""
    import numpy as np

    from resnet_jax.analysis.figures.gallery import MOST_CLASSES, draw
    from resnet_jax.analysis.gallery import worst_classes
    from resnet_jax.figures import write_figures
    from resnet_jax.inference import plots

    title = f'{trained.title}, {source.name} {source.split}'
    worst = worst_classes(list(whole['classes'].values()), MOST_CLASSES)
    shown = {names[i]: each for i in worst if (each := curves[i]) is not None}
    if len(worst) < len(source.class_names):
        title += f': the {len(worst)} classes of the largest error'
    found = {}
    if shown:
        write_figures(draw(shown, title), folder)
        found = {
            'ROC curves': folder / 'roc.png',
            'precision-recall curves': folder / 'precision_recall.png',
        }
    path = folder / 'confusion.png'
    plots.plot_confusion(
        np.array(whole['confusion']), names, f'{trained.title}, {source.split}', path
    )
    return {**found, 'confusion matrix': path}


def _page(
    trained: 'TrainedModel',
    source: 'Source',
    whole: Mapping[str, Any],
    images: Mapping[int, Any],
    plots: Mapping[str, Path],
) -> str:
    from resnet_jax.experiments.reports.document import timestamp
    from resnet_jax.experiments.reports.gallery_page import gallery_page

    n, wrong = whole['n'], round(whole['n'] * (1 - whole['top1']))
    statement = [
        f'{wrong:,} of {n:,} images are classified wrongly: top-1 {100 * whole["top1"]:.2f} %, '
        f'top-5 {100 * whole["top5"]:.2f} %',
        f'loss {whole["loss"]:.4f} nats; calibration error {100 * whole["ece"]:.2f} % (15 bins)',
    ]
    facts = [
        ('model', trained.title),
        ('data', f'{source.name} {source.split}, {n:,} images'),
        ('scored over', f'{whole["over"]} classes'),
        ('written', timestamp(None)),
    ]
    return gallery_page(
        f'{trained.title}, on {source.name} {source.split}',
        statement,
        [
            ('The most confident mistakes', _mistake_cards(whole, images)),
            ('The most confused pairs of classes', _pair_cards(whole, images)),
        ],
        [_class_table(whole)],
        plots,
        facts,
    )


def _mistake_cards(whole: Mapping[str, Any], images: Mapping[int, Any]) -> 'list[Card]':
    from resnet_jax.experiments.reports.gallery_page import Card

    return [
        Card(
            images[each['index']],
            [
                ('wrong', f'✗ {each["predicted"]}, {100 * each["confidence"]:.1f} %'),
                ('right', f'is {each["true"]}, {100 * each["probability_of_true"]:.1f} %'),
                ('note', each['file'] or f'example {each["index"]}'),
            ],
        )
        for each in whole['mistakes']
    ]


def _pair_cards(whole: Mapping[str, Any], images: Mapping[int, Any]) -> 'list[Card]':
    from resnet_jax.experiments.reports.gallery_page import Card

    return [
        Card(
            images[each['example']],
            [
                ('', f'{each["true"]} taken for {each["predicted"]}'),
                (
                    '',
                    f'{each["count"]:,} image{"s" * (each["count"] > 1)}, '
                    f'{100 * each["share"]:.1f} % of {each["true"]}',
                ),
                ('note', f'shown: example {each["example"]}'),
            ],
        )
        for each in whole['confused']
    ]


def _class_table(whole: Mapping[str, Any]) -> 'Table':
    from resnet_jax.text import Table, number

    def percent(value: float | None) -> str:
        return number(None if value is None else 100 * value, '.2f')

    notes = ['A class against the rest: ROC area and average precision over all thresholds.']
    if whole['curves_n'] < whole['n']:
        notes.append(
            f'The curves are of {whole["curves_n"]:,} examples, evenly spaced: the scores of all '
            'would take too much memory.'
        )
    return Table(
        'Classes',
        ('class', 'images', 'accuracy %', 'precision %', 'F1 %', 'ROC area', 'average precision'),
        tuple(
            (
                name,
                f'{of["n"]:,}',
                *map(percent, (of['recall'], of['precision'], of['f1'])),
                number(of['auc'], '.4f'),
                number(of['average_precision'], '.4f'),
            )
            for name, of in whole['classes'].items()
        ),
        tuple(notes),
    )
