"""`resnet-jax models`."""

import argparse
import fnmatch
import sys
from collections.abc import Iterable
from typing import Any

from resnet_jax import text
from resnet_jax.errors import InputError, shown, unknown_name
from resnet_jax.json_files import json_text

TEXT = 'List the models.'
EPILOG = (
    'Multiply-adds are those of one image of the input size. The memory of a training step is '
    'what the compiler reports for this platform: the peak of parameters, gradients, momentum, '
    'batch statistics, the batch of images in bytes and all intermediate results; without the '
    'program itself, a training set kept on the device and what JAX preallocates. Other platforms '
    'compile to other programs, which take other amounts.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument('pattern', nargs='?', default='*', metavar='GLOB', help='such as "cifar_*"')
    parser.add_argument(
        '--memory',
        type=int,
        metavar='BATCH',
        help='also the peak memory of a training step at this batch size; compiling it takes '
        'seconds per model',
    )
    parser.add_argument('--dtype', metavar='NAME', help='for --memory: float32 (default), bfloat16')
    parser.add_argument(
        '--remat',
        action='store_true',
        help='for --memory: with model.remat, less memory for more time',
    )
    parser.add_argument('--json', action='store_true', help='one JSON object on standard output')


def run(options: argparse.Namespace) -> None:
    """Prints the counts of each model, and the memory that it needs if asked."""
    from resnet_jax.dense import list_models, task_of

    names = list_models(options.pattern)
    if not names:
        raise _unknown(options.pattern, list_models())
    _check(options)
    if options.memory is not None:
        classifiers = [name for name in names if task_of(name) == 'classification']
        if not classifiers:
            raise InputError(
                f'--memory is for networks that classify images, and {names[0]} is one of '
                f'{task_of(names[0])}; leave it out'
            )
        names = classifiers
    found = (_facts(name, i, len(names), options) for i, name in enumerate(names, 1))
    if options.json:
        print(json_text({'models': list(found)}))
    else:
        _print_table(found, options.memory is not None)


def _unknown(pattern: str, known: list[str]) -> InputError:
    wider = f'*{pattern.strip("*")}*'
    if found := fnmatch.filter(known, wider):
        return InputError(
            f'no model is called {shown(pattern)}; "{wider}" lists {len(found)}, such as {found[0]}'
        )
    return unknown_name('model', pattern, known)


def _facts(name: str, number: int, of: int, options: argparse.Namespace) -> dict[str, Any]:
    """What is listed of a model, as in JSON."""
    from resnet_jax.dense.counts import COUNTS
    from resnet_jax.dense.registry import DENSE_MODELS
    from resnet_jax.models.counting import Counts, model_counts
    from resnet_jax.models.registry import model_row

    if name in DENSE_MODELS:
        side, paper = DENSE_MODELS[name].image_size, DENSE_MODELS[name].paper
        about = {'input': [side, side, 3], 'paper': paper}
        return {'name': name, **Counts(*COUNTS[name])._asdict(), **about}
    row = model_row(name)
    shape = row.image_shape
    found: dict[str, Any] = {'name': name, **model_counts(name)._asdict()}
    if options.memory is not None:
        print(f'compiling {name} ({number} of {of})', file=sys.stderr, flush=True)
        found['train_step_bytes'] = _step_bytes(name, shape, options)
    return {**found, 'input': list(shape), 'paper': row.paper}


def _print_table(models: Iterable[dict[str, Any]], memory: bool) -> None:
    """Prints the models; where it is interrupted, those whose memory is known by then."""
    step = ['step'] if memory else []
    header = ('model', 'parameters', 'multiply-adds', *step, 'input', 'paper')
    rows: list[tuple[str, ...]] = []
    try:
        rows.extend(map(_cells, models))
    finally:
        if rows:
            print(text.aligned(header, rows, text.terminal_width()))


def _cells(model: dict[str, Any]) -> tuple[str, ...]:
    step = model.get('train_step_bytes')
    return (
        model['name'],
        f'{model["parameters"]:,}',
        f'{model["multiply_adds"] / 1e6:,.0f} M',
        *([] if step is None else [f'{step / 2**20:,.0f} MiB']),
        'x'.join(map(str, model['input'][:-1] or model['input'])),  # of texts the length alone
        model['paper'],
    )


def _check(options: argparse.Namespace) -> None:
    if options.memory is None:
        if options.dtype or options.remat:
            raise InputError('--dtype and --remat go with --memory BATCH: give that too')
        return
    from resnet_jax.training.compilation import check_dtype

    if options.memory < 1:
        raise InputError(f'--memory must be at least 1, got {options.memory}')
    check_dtype(options.dtype or 'float32', '--dtype')


def _step_bytes(name: str, shape: tuple[int, ...], options: argparse.Namespace) -> int:
    from resnet_jax import models
    from resnet_jax.training import memory

    model = models.create_model(name, dtype=options.dtype or 'float32', remat=options.remat)
    return memory.train_step_bytes(model, shape, options.memory)
