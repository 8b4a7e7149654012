"""`resnet-jax eval`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands import model_options
from resnet_jax.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int

    from resnet_jax.inference.trained import TrainedModel

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
    parser.add_argument(
        '--per-class',
        action='store_true',
        help='also print the accuracy of each class, and write the confusion matrix as a PNG to '
        'the workdir, or to the current folder without a run',
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object')


def run(options: argparse.Namespace) -> None:
    """Evaluates the model and prints the figures."""
    from resnet_jax import data
    from resnet_jax.inference.trained import evaluate_trained
    from resnet_jax.training import compilation

    compilation.keep_compiled()
    spec, split, data_dir, batch_size, workers = _choose_data(options)
    source = data.open_source(spec, split, data_dir)
    trained = model_options.load_model(options, source.class_names)
    classes = trained.model.num_classes
    if len(source.class_names) != classes:
        raise InputError(
            f'the model has {classes} classes and {spec} has {len(source.class_names)}; evaluate '
            'it on data of the same classes as its training'
        )
    figures, sums = evaluate_trained(trained, source, batch_size, workers)
    result: dict[str, Any] = {**trained.origin, 'data': spec, 'split': split, **figures}
    if options.per_class:
        result |= _per_class(options.workdir or Path('.'), split, trained, sums['confusion'])
    if options.json:
        print(json.dumps(result))
        return
    print(f'{trained.title}, on {spec} {split}: {figures["n"]} images')
    rows = [
        ('loss', f'{figures["loss"]:.4f} nats'),
        ('top-1', f'{100 * figures["top1"]:.2f} %'),
        ('top-5', f'{100 * figures["top5"]:.2f} %'),
        ('calibration error', f'{100 * figures["ece"]:.2f} % (15 bins)'),
    ]
    print(text.pairs(rows))
    if options.per_class:
        print('\naccuracy by class')
        accuracies = result['per_class'].items()
        print(
            text.pairs(
                (name, 'none' if a is None else f'{100 * a:.2f} %') for name, a in accuracies
            )
        )
        print(f'\nconfusion matrix: {result["confusion_png"]}')


def _choose_data(options: argparse.Namespace) -> tuple[str, str, str | None, int, int | None]:
    """Data set, split, data_dir, batch size and worker processes: the options', else the run's."""
    from resnet_jax import data
    from resnet_jax.training import workdir

    if options.batch_size is not None and options.batch_size < 1:
        raise InputError(f'--batch-size must be at least 1, got {options.batch_size}')
    if options.workdir is not None:
        config = workdir.read_config(options.workdir)
        return (
            options.data or config.data.name,
            options.split or config.data.eval_split,
            options.data_dir or config.data.dir,
            options.batch_size or config.train.eval_batch_size,
            config.data.workers,
        )
    if options.data is None:
        raise InputError('choose what to evaluate on: give --data SPEC, or --workdir DIR of a run')
    sizes = data.split_sizes(options.data, options.data_dir)
    usual = [name for name in ('test', 'validation', 'val') if name in sizes]
    split = options.split or next(iter([*usual, *sizes]))
    size = options.batch_size or 100
    return options.data, split, options.data_dir, size, None


def _per_class(
    folder: Path,
    split: str,
    trained: 'TrainedModel',
    confusion: "Int[np.ndarray, 'classes classes']",
) -> dict[str, Any]:
    """Accuracy by class name (None for a class without examples) and the confusion matrix."""
    from resnet_jax.inference import plots

    names = trained.preprocessing.class_names
    counts = confusion.sum(axis=1)
    plain = ''.join(c if c.isalnum() else '_' for c in split)
    path = folder / f'confusion_{plain}.png'
    plots.plot_confusion(confusion, names, f'{trained.title}, {split}', path)
    right = confusion.diagonal()
    return {
        'per_class': {
            name: float(r / n) if n else None
            for name, r, n in zip(names, right, counts, strict=True)
        },
        'confusion': confusion.tolist(),
        'confusion_png': str(path),
    }
