"""`resnet-jax eval`."""

import argparse
import json
from pathlib import Path
from typing import Any

from resnet_jax.commands import model_options, tables
from resnet_jax.errors import InputError

TEXT = 'Evaluate the model of a run, or a published one.'
EPILOG = (
    'The weights of a published model may be of PyTorch: resnet-jax eval --model resnet50 '
    '--weights resnet50.pth --data folder:imagenet --split val'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    model_options.add_model_options(parser)
    data = parser.add_argument_group('the data')
    data.add_argument('--data', metavar='SPEC', help='tfds:NAME, folder:PATH, digits; for --model')
    data.add_argument('--data-dir', metavar='DIR', help="of TFDS; default: the run's data.dir")
    data.add_argument('--split', metavar='NAME', help="default: the run's, else test or validation")
    data.add_argument('--batch-size', type=int, metavar='N', help="default: the run's, else 100")
    parser.add_argument(
        '--per-class',
        action='store_true',
        help='accuracy of each class, and the confusion matrix as a PNG in the workdir (without a '
        'run in the current folder)',
    )
    parser.add_argument('--json', action='store_true', help='one JSON object on standard output')


def run(options: argparse.Namespace) -> None:
    """Evaluates and prints the figures."""
    from resnet_jax import data
    from resnet_jax.training import compilation, evaluate

    compilation.keep_compiled()
    spec, split, data_dir, batch_size, workers = _data(options)
    source = data.open_source(spec, split, data_dir)
    trained = model_options.load_model(options, source.class_names)
    classes = trained.model.num_classes
    if len(source.class_names) != classes:
        raise InputError(
            f'the model has {classes} classes and {spec} has {len(source.class_names)}; evaluate '
            'it on the data that it was trained for'
        )
    with compilation.matmul_precision(trained.matmul_precision):
        figures, sums = evaluate.evaluate(
            evaluate.make_eval_step(trained.model, trained.preprocessing),
            trained.variables,
            data.eval_batches(source, trained.preprocessing, batch_size, workers),
        )
    result: dict[str, Any] = {**trained.origin, 'data': spec, 'split': split, **figures}
    if options.per_class:
        result |= _per_class(options.workdir or Path('.'), split, trained, sums['confusion'])
    if options.json:
        print(json.dumps(result))
        return
    print(f'{trained.title}, on {spec} {split}: {figures["n"]} images')
    tables.print_pairs(
        [
            ('loss', f'{figures["loss"]:.4f} nats'),
            ('top-1', f'{100 * figures["top1"]:.2f} %'),
            ('top-5', f'{100 * figures["top5"]:.2f} %'),
            ('calibration error', f'{100 * figures["ece"]:.2f} % (15 bins)'),
        ]
    )
    if options.per_class:
        print('\naccuracy by class')
        rows = result['per_class'].items()
        tables.print_pairs(
            [(name, 'none' if a is None else f'{100 * a:.2f} %') for name, a in rows]
        )
        print(f'\nconfusion matrix: {result["confusion_png"]}')


def _data(options: argparse.Namespace) -> tuple[str, str, str | None, int, int]:
    """Data set, split, folder, batch size and reading processes: as given, else as the run's."""
    from resnet_jax import data
    from resnet_jax.training import inputs, workdir

    if options.batch_size is not None and options.batch_size < 1:
        raise InputError(f'--batch-size must be at least 1, got {options.batch_size}')
    if options.workdir is not None:
        config = workdir.read_config(options.workdir)
        return (
            options.data or config.data.name,
            options.split or config.data.eval_split,
            options.data_dir or config.data.dir,
            options.batch_size or config.train.eval_batch_size,
            inputs.workers(config),
        )
    if options.data is None:
        raise InputError('say what to evaluate on: --data SPEC, or --workdir DIR of a run')
    sizes = data.split_sizes(options.data, options.data_dir)
    usual = [name for name in ('test', 'validation', 'val') if name in sizes]
    split = options.split or next(iter([*usual, *sizes]))
    size = options.batch_size or 100
    return options.data, split, options.data_dir, size, data.default_workers()


def _per_class(folder: Path, split: str, trained: Any, confusion: Any) -> dict[str, Any]:
    """Accuracy by class name (None for a class without examples), and the matrix's PNG."""
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
