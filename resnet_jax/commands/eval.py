"""`resnet-jax eval`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands import data_options, eval_dense, eval_report, model_options
from resnet_jax.errors import InputError, RunError
from resnet_jax.json_files import json_text

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int

    from resnet_jax.data import Source

TEXT = 'Evaluate the model of a run, or a published one.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the command."""
    model_options.add_model_options(parser)
    model_options.add_exported_option(parser)
    group = data_options.add_data_options(parser)
    group.add_argument(
        '--over',
        choices=('all', 'subset'),
        default='all',
        help="of data that has some of the model's classes: score the model over all of its "
        'classes (default), or over those of the data alone',
    )
    parser.add_argument(
        '--per-class',
        action='store_true',
        help='also print accuracy (recall), precision and F1 of each class, and draw the confusion '
        'matrix',
    )
    parser.add_argument(
        '--confusion',
        type=Path,
        metavar='FILE.png',
        help='where --per-class draws it; default: confusion_SPLIT.png in the workdir, or in the '
        'current folder without a run',
    )
    eval_report.add_arguments(parser)
    parser.add_argument(
        '--tta',
        choices=('flip', 'ten_crop', 'whole', 'scales', 'windows'),
        help='test-time augmentation: average the probabilities of an image and its mirror image, '
        'or of ten crops of the resized image (corners, middle, and their mirror images); or show '
        'the model the whole resized square in place of its crop; of segmentation flip, scales '
        '(0.75, 1 and 1.25, each mirrored too) or windows (of half the side, which overlap)',
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object')


def run(options: argparse.Namespace) -> None:
    """Evaluates the model and prints the figures."""
    from resnet_jax.analysis.gallery import Observer
    from resnet_jax.inference.class_matching import match_classes
    from resnet_jax.inference.trained import evaluate_trained
    from resnet_jax.records.writers import signs_of_life
    from resnet_jax.training import compilation

    compilation.keep_compiled()
    _check_confusion(options)
    chosen = data_options.choose_data(options, dense=True)
    source = chosen.source
    trained = model_options.load_model_or_exported(options)
    if trained.does.is_dense:
        return eval_dense.run(options, trained, chosen)
    if source.is_dense:
        raise InputError(
            f'{source.name} has {" and ".join(source.targets)} for each image, and '
            f'{trained.title} classifies images; choose data with a class for each'
        )
    model_names = trained.preprocessing.class_names
    matched, how = match_classes(model_names, source.class_names)
    rest = sorted(set(range(len(model_names))) - set(matched))
    classes = [*matched, *(rest if options.over == 'all' else [])]
    notes = [*source.notes, *([how] if how else [])]
    if rest:
        of = f'all {len(model_names):,} classes of the model' if options.over == 'all' else ''
        of = of or 'the classes of the data alone'
        notes.append(f'scored over {of}; the data has {len(matched):,} of {len(model_names):,}')
    for remark in notes:
        text.note(remark)
    folder = eval_report.prepare(options, source.split)
    observer = None if folder is None else Observer(len(source), len(classes))
    with signs_of_life(f'evaluating {len(source):,} images'):
        figures, sums = evaluate_trained(
            *(trained, source, chosen.batch_size, chosen.workers, classes, observer),
            options.tta,
        )
    about = {'data': source.name, 'split': source.split, 'over': options.over, 'tta': options.tta}
    result: dict[str, Any] = {**trained.origin, **about, **figures}
    failed = None
    names = [*source.class_names, *(model_names[i] for i in classes[len(matched) :])]
    if options.per_class or folder:
        result |= _by_class(source.class_names, sums['confusion'])
    if folder and observer:
        result |= eval_report.write(
            folder, options.mistakes, trained, source, names, observer.predictions(), result
        )
    if options.per_class:
        path, failed = _draw(options, source, trained.title, names, sums['confusion'])
        result['confusion_png'] = None if failed else str(path)
    if options.json:
        print(json_text(result))
    else:
        title = f'{trained.title}, on {source.name} {source.split}: {figures["n"]} images'
        _print_figures(title, result, len(classes), options.per_class)
    if failed:  # the figures are worth more than their picture
        raise RunError(failed)


def _check_confusion(options: argparse.Namespace) -> None:
    """Refuses a file for the confusion matrix that cannot be written, before the evaluation."""
    from resnet_jax.inference import plots

    if options.confusion is None:
        return
    if not options.per_class:
        raise InputError('--confusion goes with --per-class: give that too')
    plots.check_writable(options.confusion, '--confusion')


def _print_figures(title: str, result: dict[str, Any], classes: int, per_class: bool) -> None:
    width = text.terminal_width()
    print(text.paragraph(title, width, '  '))
    rows = [
        ('loss', f'{result["loss"]:.4f} nats'),
        ('top-1', f'{100 * result["top1"]:.2f} %'),
        *([('top-5', f'{100 * result["top5"]:.2f} %')] if classes > 5 else []),
        ('calibration error', f'{100 * result["ece"]:.2f} % (15 bins)'),
    ]
    print(text.pairs(rows, width))
    if per_class:
        print(f'\n{_class_table(result["classes"], width)}')
    if result.get('confusion_png'):
        print(f'\nconfusion matrix: {result["confusion_png"]}')
    if 'report' in result:
        print(f'\nreport: {result["report"]}')


def _by_class(
    names: 'Sequence[str]', confusion: "Int[np.ndarray, 'classes classes']"
) -> dict[str, Any]:
    """Figures of each class of the data, None where undefined."""
    from resnet_jax.training import metrics

    by_name = dict(zip(names, metrics.class_figures(confusion), strict=False))
    return {
        'per_class': {name: found['recall'] for name, found in by_name.items()},
        'classes': by_name,
        'confusion': confusion.tolist(),
    }


def _draw(
    options: argparse.Namespace,
    source: 'Source',
    title: str,
    names: 'Sequence[str]',
    confusion: "Int[np.ndarray, 'classes classes']",
) -> tuple[Path, str | None]:
    """Draws the confusion matrix: into which file, and why that failed, if it did."""
    from resnet_jax.inference import plots

    plain = ''.join(c if c.isalnum() else '_' for c in source.split)
    path = options.confusion or (options.workdir or Path('.')) / f'confusion_{plain}.png'
    try:
        plots.plot_confusion(confusion, names, f'{title}, {source.split}', path)
    except OSError as error:
        return path, (
            f'no picture of the confusion matrix: cannot write {path}: {error.strerror}; give '
            '--confusion FILE.png to draw it elsewhere'
        )
    return path, None


def _class_table(classes: dict[str, dict[str, Any]], width: int | None) -> str:
    """A line for each class: its name, number of images, and figures in %."""

    def percent(value: float | None) -> str:
        return text.number(None if value is None else 100 * value, '.2f')

    rows = [
        [name, f'{f["n"]:,}', *map(percent, (f['recall'], f['precision'], f['f1']))]
        for name, f in classes.items()
    ]
    return text.aligned(['class', 'images', 'accuracy %', 'precision %', 'F1 %'], rows, width)
