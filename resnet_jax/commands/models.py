"""`resnet-jax models`."""

import argparse
import json
import sys
from typing import Any

from resnet_jax.errors import InputError, unknown_name

TEXT = 'List the models.'
EPILOG = (
    "The memory of a training step is the compiler's account of it on this platform: parameters, "
    'gradients, momentum, batch statistics, the batch of images in bytes and what is computed in '
    'between, at their most; not the program itself, a training set kept on the device, nor what '
    'JAX reserves beforehand. Another platform compiles otherwise and takes another amount.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    parser.add_argument('pattern', nargs='?', default='*', metavar='GLOB', help='such as "cifar_*"')
    parser.add_argument(
        '--memory',
        type=int,
        metavar='BATCH',
        help='peak memory of a training step at this batch size too; takes seconds a model, to '
        'compile it',
    )
    parser.add_argument('--dtype', metavar='NAME', help='for --memory: float32 (default), bfloat16')
    parser.add_argument(
        '--remat', action='store_true', help='for --memory: with model.remat, less for more time'
    )
    parser.add_argument('--json', action='store_true', help='one JSON object on standard output')


def run(options: argparse.Namespace) -> None:
    """Counts and prints each model."""
    from resnet_jax import models
    from resnet_jax.models import counting, registry

    names = models.list_models(options.pattern)
    if not names:
        raise unknown_name('model', options.pattern, registry.MODELS)
    _check(options)
    rows = []
    width = max(map(len, names))
    if not options.json:
        memory = '' if options.memory is None else f'  {"step":>10}'
        print(
            f'{"model":<{width}}  {"parameters":>11}  {"multiply-adds":>13}{memory}  {"input":>9}  '
            'paper'
        )
    for number, name in enumerate(names, 1):
        row = registry.model_row(name)
        shape = (row.image_size, row.image_size, 3)
        found: dict[str, Any] = counting.count(models.create_model(name), shape)._asdict()
        if options.memory is not None:
            print(f'compiling {name} ({number} of {len(names)})', file=sys.stderr, flush=True)
            found['train_step_bytes'] = _step_bytes(name, shape, options)
        if options.json:
            rows.append({'name': name, **found, 'input': list(shape), 'paper': row.paper})
        else:
            print(_line(name, width, found, shape, row.paper), flush=True)
    if options.json:
        print(json.dumps({'models': rows}))


def _check(options: argparse.Namespace) -> None:
    if options.memory is None:
        if options.dtype or options.remat:
            raise InputError('--dtype and --remat go with --memory BATCH')
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


def _line(
    name: str, width: int, found: dict[str, Any], shape: tuple[int, int, int], paper: str
) -> str:
    size = f'{shape[0]}x{shape[1]}'
    memory = ''
    if 'train_step_bytes' in found:
        memory = f'  {found["train_step_bytes"] / 2**20:>6,.0f} MiB'
    return (
        f'{name:<{width}}  {found["parameters"]:>11,}  {found["multiply_adds"] / 1e6:>11,.0f} M'
        f'{memory}  {size:>9}  {paper}'
    )
