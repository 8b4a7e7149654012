"""`resnet-jax models`."""

import argparse
import itertools
import sys
from collections.abc import Iterable
from typing import Any

from resnet_jax import text
from resnet_jax.errors import InputError, unknown_name
from resnet_jax.json_files import json_text

TEXT = 'List the models.'
EPILOG = (
    'Examples: resnet-jax models "cifar_*"; resnet-jax models resnet50 --memory 32 --remat. '
    'Multiply-adds are those of one image of the input size. The memory of a training step is what '
    'the compiler reports for this platform: the peak of parameters, gradients, momentum, batch '
    'statistics, the batch of images in bytes and all intermediate results; without the program '
    'itself, a training set kept on the device and what JAX preallocates. Other platforms compile '
    'to other programs, which take other amounts.'
)


_LONGEST_PAPER = 11  # of the names of papers, in characters


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
    from resnet_jax.models import list_models
    from resnet_jax.models.registry import MODELS

    names = list_models(options.pattern)
    if not names:
        raise unknown_name('model', options.pattern, MODELS)
    _check(options)
    found = (_facts(name, i, len(names), options) for i, name in enumerate(names, 1))
    if options.json:
        print(json_text({'models': list(found)}))
    else:
        _print_table(found, max(map(len, names)), options.memory is not None)


def _facts(name: str, number: int, of: int, options: argparse.Namespace) -> dict[str, Any]:
    """What is listed of a model, as in JSON."""
    from resnet_jax.models.counting import model_counts
    from resnet_jax.models.registry import model_row

    row = model_row(name)
    shape = (row.image_size, row.image_size, 3)
    found: dict[str, Any] = {'name': name, **model_counts(name)._asdict()}
    if options.memory is not None:
        print(f'compiling {name} ({number} of {of})', file=sys.stderr, flush=True)
        found['train_step_bytes'] = _step_bytes(name, shape, options)
    return {**found, 'input': list(shape), 'paper': row.paper}


def _print_table(models: Iterable[dict[str, Any]], longest: int, memory: bool) -> None:
    """Prints each model as it is known: with --memory, each takes seconds.

    Args:
      models: from `_facts`.
      longest: the length of the longest name.
      memory: whether there is a column of it.
    """
    step = [('step', 10)] if memory else []
    columns = dict(
        [('model', longest), ('parameters', 11), ('multiply-adds', 13), *step, ('input', 9)]
    )
    width = text.terminal_width()
    if width is None or sum(columns.values()) + 2 * len(columns) + _LONGEST_PAPER <= width:
        for cells in itertools.chain([(*columns, 'paper')], map(_cells, models)):
            name, *numbers = map(str.rjust, cells, columns.values())
            print('  '.join([name.strip().ljust(longest), *numbers, cells[-1]]), flush=True)
        return
    rows: list[tuple[str, ...]] = []
    try:  # columns below others need all rows, or those that there are when it is interrupted
        rows.extend(map(_cells, models))
    finally:
        if rows:
            print(text.aligned((*columns, 'paper'), rows, width))


def _cells(model: dict[str, Any]) -> tuple[str, ...]:
    step = model.get('train_step_bytes')
    return (
        model['name'],
        f'{model["parameters"]:,}',
        f'{model["multiply_adds"] / 1e6:,.0f} M',
        *([] if step is None else [f'{step / 2**20:,.0f} MiB']),
        '{}x{}'.format(*model['input']),
        model['paper'],
    )


def _check(options: argparse.Namespace) -> None:
    if options.memory is None:
        if options.dtype or options.remat:
            raise InputError('--dtype and --remat go with --memory BATCH: give that too')
        return
    from resnet_jax.training.checks import check_dtype

    if options.memory < 1:
        raise InputError(f'--memory must be at least 1, got {options.memory}')
    check_dtype(options.dtype or 'float32', '--dtype')


def _step_bytes(name: str, shape: tuple[int, int, int], options: argparse.Namespace) -> int:
    from resnet_jax import models
    from resnet_jax.training import memory

    model = models.create_model(name, dtype=options.dtype or 'float32', remat=options.remat)
    return memory.train_step_bytes(model, shape, options.memory)
