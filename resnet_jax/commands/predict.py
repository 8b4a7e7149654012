"""`resnet-jax predict`."""

import argparse
import json
from pathlib import Path

from resnet_jax.commands import tables

TEXT = 'Name the classes of image files.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    parser.add_argument('images', nargs='+', type=Path, metavar='IMAGE', help='JPEG or PNG file')
    parser.add_argument('--workdir', required=True, type=Path, metavar='DIR', help='the run')
    parser.add_argument(
        '--checkpoint', default='latest', metavar='WHICH', help='latest (default), best or a step'
    )
    parser.add_argument('--topk', type=int, default=5, metavar='K', help='classes (default 5)')
    parser.add_argument('--json', action='store_true', help='one JSON object on standard output')


def run(options: argparse.Namespace) -> None:
    """Predicts and prints the classes."""
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
    tables.print_pairs(rows)
