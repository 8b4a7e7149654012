"""The command line: parses, calls, prints. See `resnet-jax --help`."""

import argparse
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_jax.models.errors import InputError, RunError, unknown_name

EXIT_FAILED, EXIT_USAGE, EXIT_SIGNAL = 1, 2, 128
CONFIG_PREFIX = '--config.'


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      arguments: without the program's name; `sys.argv[1:]` by default.

    Returns:
      The exit code: 0, 1 (failed), 2 (bad usage or input), 128 + n (stopped by signal n).
    """
    warnings.filterwarnings('ignore', 'Image size .* decompression bomb')  # refused in our words
    _quiet_background()
    try:
        options = _parse(sys.argv[1:] if arguments is None else list(arguments))
        code = options.run(options) or 0
        sys.stdout.flush()  # here, so that a closed pipe is noticed before the interpreter exits
        return code
    except InputError as error:
        return _complain(error, EXIT_USAGE)
    except RunError as error:
        return _complain(error, EXIT_FAILED)
    except KeyboardInterrupt:
        return _complain('interrupted', EXIT_SIGNAL + 2)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor flush into it at exit
        return 0


def _quiet_background() -> None:
    """Keeps Orbax and Grain from printing warnings, and tracebacks beside our one line.

    A failed checkpoint reaches the main thread as an exception; what its other threads and
    coroutines meet after that is of no use to anyone.
    """
    for name in ('absl', 'asyncio'):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if threading.excepthook is threading.__excepthook__:  # else somebody, such as pytest, listens
        threading.excepthook = lambda report: None
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = lambda report: None


def _complain(error: BaseException | str, code: int) -> int:
    print(f'resnet-jax: {" ".join(str(error).split())}', file=sys.stderr)
    return code


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='resnet-jax',
        description='Residual networks in JAX: train, evaluate, predict.',
        epilog='Each command has its own --help.',
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)

    def command(name: str, run: Any, text: str, **kwargs: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False, **kwargs)
        sub.set_defaults(run=run, command=name)
        return sub

    train = command(
        'train',
        _train,
        'Train a model, or continue where the workdir left off.',
        epilog='Any field of the config can be changed: --config.optim.learning_rate=0.05. '
        'configs/default.py explains them all.',
    )
    train.add_argument('--config', required=True, metavar='FILE[:VARIANT]', help='a config file')
    train.add_argument('--workdir', required=True, type=Path, metavar='DIR', help='the run')

    evaluate = command('eval', _eval, 'Evaluate the model of a run.')
    evaluate.add_argument('--workdir', required=True, type=Path, metavar='DIR', help='the run')
    evaluate.add_argument('--split', metavar='NAME', help="default: the config's data.eval_split")
    evaluate.add_argument('--data-dir', metavar='DIR', help="default: the config's data.dir")
    _add_checkpoint(evaluate)
    evaluate.add_argument(
        '--per-class',
        action='store_true',
        help='accuracy of each class, and the confusion matrix as a PNG in the workdir',
    )
    evaluate.add_argument('--json', action='store_true', help='one JSON object on standard output')

    predict = command('predict', _predict, 'Name the classes of image files.')
    predict.add_argument('images', nargs='+', type=Path, metavar='IMAGE', help='JPEG or PNG file')
    predict.add_argument('--workdir', required=True, type=Path, metavar='DIR', help='the run')
    _add_checkpoint(predict)
    predict.add_argument('--topk', type=int, default=5, metavar='K', help='classes (default 5)')
    predict.add_argument('--json', action='store_true', help='one JSON object on standard output')

    models = command('models', _models, 'List the models.')
    models.add_argument('pattern', nargs='?', default='*', metavar='GLOB', help='such as "cifar_*"')
    models.add_argument('--json', action='store_true', help='one JSON object on standard output')

    options, rest = parser.parse_known_args(arguments)
    options.overrides = _overrides(rest) if options.command == 'train' else []
    unknown = [r for r in rest if options.command != 'train' or not r.startswith(CONFIG_PREFIX)]
    if unknown:
        parser.error(f'unrecognized arguments: {" ".join(unknown)}')
    return options


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--checkpoint', default='latest', metavar='WHICH', help='latest (default), best or a step'
    )


def _overrides(rest: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of field and value from `--config.FIELD=VALUE`."""
    pairs = []
    for argument in rest:
        if argument.startswith(CONFIG_PREFIX):
            field, separator, value = argument.removeprefix(CONFIG_PREFIX).partition('=')
            if not separator:
                raise InputError(f'write {argument}=VALUE, with the equals sign')
            pairs.append((field, value))
    return pairs


def _train(options: argparse.Namespace) -> int:
    from resnet_jax.training import config, loop

    settings = config.load_config(options.config, options.overrides)
    try:
        summary = loop.train(settings, options.workdir)
    except loop.Interrupted as stop:
        return _complain(stop, EXIT_SIGNAL + stop.signum)
    figures = summary['eval']
    speed = summary['images_per_second']
    print(
        f'{summary["steps"]} steps in {summary["seconds"]:.0f} s'
        f'{"" if speed is None else f", {speed:.0f} images/s"}; {figures["n"]} images evaluated: '
        f'top1 {100 * figures["top1"]:.2f} %, loss {figures["loss"]:.4f}'
    )
    print(f'resnet-jax eval --workdir {options.workdir}    # evaluates it again')
    print(f'resnet-jax predict --workdir {options.workdir} IMAGE ...')
    return 0


def _eval(options: argparse.Namespace) -> None:
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
    _table(
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
        _table([(name, 'none' if a is None else f'{100 * a:.2f} %') for name, a in rows])
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


def _predict(options: argparse.Namespace) -> None:
    from resnet_jax.training import predict, workdir

    trained = workdir.load_trained(options.workdir, options.checkpoint)
    results = predict.predict(trained, options.images, options.topk)
    if options.json:
        result = {'workdir': str(options.workdir), 'step': trained.step, 'predictions': results}
        print(json.dumps(result))
        return
    rows = [
        (
            item['image'],
            '  '.join(f'{100 * top["probability"]:5.1f} % {top["class"]}' for top in item['top']),
        )
        for item in results
    ]
    _table(rows)


def _table(rows: Sequence[tuple[str, str]]) -> None:
    """Prints two aligned columns."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f'{name:<{width}}  {value}')


def _models(options: argparse.Namespace) -> None:
    from resnet_jax import models
    from resnet_jax.models import counting, registry

    names = models.list_models(options.pattern)
    if not names:
        raise unknown_name('model', options.pattern, registry.MODELS)
    rows = []
    width = max(map(len, names))
    if not options.json:
        print(f'{"model":<{width}}  {"parameters":>11}  {"multiply-adds":>13}  {"input":>9}  paper')
    for name in names:
        row = registry.model_row(name)
        shape = (row.image_size, row.image_size, 3)
        counts = counting.count(models.create_model(name), shape)
        if options.json:
            rows.append(
                {'name': name, **counts._asdict(), 'input': list(shape), 'paper': row.paper}
            )
        else:
            size = f'{row.image_size}x{row.image_size}'
            print(
                f'{name:<{width}}  {counts.parameters:>11,}  {counts.multiply_adds / 1e6:>11,.0f} M'
                f'  {size:>9}  {row.paper}',
                flush=True,
            )
    if options.json:
        print(json.dumps({'models': rows}))
