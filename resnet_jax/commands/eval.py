"""`resnet-jax eval`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands import model_options
from resnet_jax.errors import InputError
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
        help='also print accuracy (recall), precision and F1 of each class, and write the '
        'confusion matrix as a PNG to the workdir, or to the current folder without a run',
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object')


def run(options: argparse.Namespace) -> None:
    """Evaluates the model and prints the figures."""
    from resnet_jax.inference.class_matching import match_classes
    from resnet_jax.inference.trained import evaluate_trained
    from resnet_jax.training import compilation

    compilation.keep_compiled()
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
    for note in notes:
        print(f'resnet-jax: {note}', file=sys.stderr)
    figures, sums = evaluate_trained(trained, source, batch_size, workers, classes)
    about = {'data': source.name, 'split': source.split, 'over': options.over}
    result: dict[str, Any] = {**trained.origin, **about, **figures}
    if options.per_class:
        names = [*source.class_names, *(model_names[i] for i in classes[len(matched) :])]
        result |= _per_class(options, source, trained.title, names, sums['confusion'])
    if options.json:
        print(json_text(result))
        return
    print(f'{trained.title}, on {source.name} {source.split}: {figures["n"]} images')
    rows = [
        ('loss', f'{figures["loss"]:.4f} nats'),
        ('top-1', f'{100 * figures["top1"]:.2f} %'),
        *([('top-5', f'{100 * figures["top5"]:.2f} %')] if len(classes) > 5 else []),
        ('calibration error', f'{100 * figures["ece"]:.2f} % (15 bins)'),
    ]
    print(text.pairs(rows))
    if options.per_class:
        print(f'\n{_class_table(result["classes"])}')
        if result['confusion_png']:
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


def _per_class(
    options: argparse.Namespace,
    source: 'Source',
    title: str,
    names: 'Sequence[str]',
    confusion: "Int[np.ndarray, 'classes classes']",
) -> dict[str, Any]:
    """Figures of each class of the data, None where undefined, and the confusion matrix."""
    from resnet_jax.inference import plots
    from resnet_jax.training import metrics

    folder = options.workdir or Path('.')
    plain = ''.join(c if c.isalnum() else '_' for c in source.split)
    path = folder / f'confusion_{plain}.png'
    failed = None
    try:
        plots.plot_confusion(confusion, names, f'{title}, {source.split}', path)
    except OSError as error:  # the figures are worth more than their picture
        failed = f'no picture of the confusion matrix: cannot write {path}: {error.strerror}'
        print(f'resnet-jax: {failed}', file=sys.stderr)
    figures = metrics.class_figures(confusion)
    by_name = dict(zip(source.class_names, figures, strict=False))
    return {
        'per_class': {name: found['recall'] for name, found in by_name.items()},
        'classes': by_name,
        'confusion': confusion.tolist(),
        'confusion_png': None if failed else str(path),
    }


def _class_table(classes: dict[str, dict[str, Any]]) -> str:
    """A line for each class: its name, number of images, and figures in %."""

    def percent(value: float | None) -> str:
        return text.number(None if value is None else 100 * value, '.2f')

    rows = [
        [text.printable(name), f'{f["n"]:,}', *map(percent, (f['recall'], f['precision'], f['f1']))]
        for name, f in classes.items()
    ]
    return text.aligned(['class', 'images', 'accuracy %', 'precision %', 'F1 %'], rows)
