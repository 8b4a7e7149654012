"""`resnet-jax eval`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands import model_options
from resnet_jax.errors import InputError, RunError
from resnet_jax.json_files import json_text

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int

    from resnet_jax.data import Source

TEXT = 'Evaluate the model of a run, or a published one.'
EPILOG = (
    'Examples: resnet-jax eval --workdir runs/digits; PyTorch weights: resnet-jax eval --model '
    'resnet50 --weights resnet50.pth --data folder:imagenet --split val'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the command."""
    model_options.add_model_options(parser)
    data = parser.add_argument_group('the data')
    data.add_argument(
        '--data', metavar='SPEC', help="tfds:NAME, folder:PATH or digits; default: the run's"
    )
    data.add_argument('--data-dir', metavar='DIR', help="of tfds:NAME; default: the run's data.dir")
    data.add_argument(
        '--split',
        metavar='NAME',
        help="default: the run's; with --model test or validation, else the first",
    )
    data.add_argument(
        '--batch-size', type=int, metavar='N', help="default: the run's; with --model 100"
    )
    data.add_argument(
        '--labels',
        metavar='FILE',
        help='of folder:PATH: a CSV of file names and classes, for splits without class folders',
    )
    data.add_argument(
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
    parser.add_argument('--json', action='store_true', help='print one JSON object')


def run(options: argparse.Namespace) -> None:
    """Evaluates the model and prints the figures."""
    from resnet_jax.inference.class_matching import match_classes
    from resnet_jax.inference.trained import evaluate_trained
    from resnet_jax.records.writers import signs_of_life
    from resnet_jax.training import compilation

    compilation.keep_compiled()
    _check_confusion(options)
    source, batch_size, workers = _choose_data(options)
    trained = model_options.load_model(options)
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
    with signs_of_life(f'evaluating {len(source):,} images'):
        figures, sums = evaluate_trained(trained, source, batch_size, workers, classes)
    about = {'data': source.name, 'split': source.split, 'over': options.over}
    result: dict[str, Any] = {**trained.origin, **about, **figures}
    failed = None
    if options.per_class:
        names = [*source.class_names, *(model_names[i] for i in classes[len(matched) :])]
        result |= _by_class(source.class_names, sums['confusion'])
        path, failed = _draw(options, source, trained.title, names, sums['confusion'])
        result['confusion_png'] = None if failed else str(path)
    if options.json:
        print(json_text(result))
    else:
        title = f'{trained.title}, on {source.name} {source.split}: {figures["n"]} images'
        _print_figures(title, result, len(classes))
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


def _print_figures(title: str, result: dict[str, Any], classes: int) -> None:
    width = text.terminal_width()
    print(text.paragraph(title, width, '  '))
    rows = [
        ('loss', f'{result["loss"]:.4f} nats'),
        ('top-1', f'{100 * result["top1"]:.2f} %'),
        *([('top-5', f'{100 * result["top5"]:.2f} %')] if classes > 5 else []),
        ('calibration error', f'{100 * result["ece"]:.2f} % (15 bins)'),
    ]
    print(text.pairs(rows, width))
    if 'classes' in result:
        print(f'\n{_class_table(result["classes"], width)}')
    if result.get('confusion_png'):
        print(f'\nconfusion matrix: {result["confusion_png"]}')


def _choose_data(options: argparse.Namespace) -> tuple['Source', int, int | None]:
    """Examples, batch size and worker processes: the options', else the run's."""
    from resnet_jax import data
    from resnet_jax.training import inputs, workdir

    if options.batch_size is not None and options.batch_size < 1:
        raise InputError(f'--batch-size must be at least 1, got {options.batch_size}')
    if options.workdir is not None:
        config = workdir.read_config(options.workdir)
        size, workers = options.batch_size or config.train.eval_batch_size, config.data.workers
        if not any((options.data, options.split, options.data_dir, options.labels)):
            return inputs.open_splits(config)[1], size, workers
        own = options.data is None
        source = data.open_source(
            options.data or config.data.name,
            options.split or config.data.eval_split,
            options.data_dir or config.data.dir,
            options.labels or (config.data.labels if own else None),
            config.data.slice_order if own else 'stratified',
        )
        return source, size, workers
    if options.data is None:
        raise InputError('choose what to evaluate on: give --data SPEC, or --workdir DIR of a run')
    sizes = data.split_sizes(options.data, options.data_dir, options.labels)
    usual = [name for name in ('test', 'validation', 'val') if name in sizes]
    split = options.split or next(iter([*usual, *sizes]))
    source = data.open_source(options.data, split, options.data_dir, options.labels)
    return source, options.batch_size or 100, None


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
