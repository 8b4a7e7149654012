"""`resnet-jax models`."""

import argparse
import json

from resnet_jax.models.errors import unknown_name

TEXT = 'List the models.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    parser.add_argument('pattern', nargs='?', default='*', metavar='GLOB', help='such as "cifar_*"')
    parser.add_argument('--json', action='store_true', help='one JSON object on standard output')


def run(options: argparse.Namespace) -> None:
    """Counts and prints each model."""
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
