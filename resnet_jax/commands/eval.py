"""`resnet-jax eval`."""

import argparse
import json
from pathlib import Path
from typing import Any

from resnet_jax.commands import tables

TEXT = 'Evaluate the model of a run.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    parser.add_argument('--workdir', required=True, type=Path, metavar='DIR', help='the run')
    parser.add_argument('--split', metavar='NAME', help="default: the config's data.eval_split")
    parser.add_argument('--data-dir', metavar='DIR', help="default: the config's data.dir")
    parser.add_argument(
        '--checkpoint', default='latest', metavar='WHICH', help='latest (default), best or a step'
    )
    parser.add_argument(
        '--per-class',
        action='store_true',
        help='accuracy of each class, and the confusion matrix as a PNG in the workdir',
    )
    parser.add_argument('--json', action='store_true', help='one JSON object on standard output')


def run(options: argparse.Namespace) -> None:
    """Evaluates and prints the figures."""
    from resnet_jax import data
    from resnet_jax.training import evaluate, inputs, workdir

    config = workdir.read_config(options.workdir)
    trained = workdir.load_trained(options.workdir, options.checkpoint)
    if options.data_dir is not None:
        with config.unlocked():
            config.data.dir = options.data_dir
    split = options.split or config.data.eval_split
    source = data.open_source(config.data.name, split, config.data.dir)
    figures, confusion = evaluate.evaluate(
        evaluate.make_eval_step(trained.model, trained.preprocessing),
        trained.variables,
        data.eval_batches(
            source, trained.preprocessing, config.train.eval_batch_size, inputs.workers(config)
        ),
    )
    result: dict[str, Any] = {
        'workdir': str(options.workdir),
        'step': trained.step,
        'data': config.data.name,
        'split': split,
        **figures,
    }
    if options.per_class:
        result |= _per_class(options.workdir, split, trained, confusion)
    if options.json:
        print(json.dumps(result))
        return
    print(
        f'{config.model.name}, step {trained.step}, on {config.data.name} {split}: '
        f'{figures["n"]} images'
    )
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


def _per_class(folder: Path, split: str, trained: Any, confusion: Any) -> dict[str, Any]:
    """Accuracy by class name (None for a class without examples), and the matrix's PNG."""
    from resnet_jax.training import plots

    names = trained.preprocessing.class_names
    counts = confusion.sum(axis=1)
    plain = ''.join(c if c.isalnum() else '_' for c in split)
    path = folder / f'confusion_{plain}.png'
    plots.plot_confusion(confusion, names, f'{split}, step {trained.step}', path)
    right = confusion.diagonal()
    return {
        'per_class': {
            name: float(r / n) if n else None
            for name, r, n in zip(names, right, counts, strict=True)
        },
        'confusion': confusion.tolist(),
        'confusion_png': str(path),
    }
