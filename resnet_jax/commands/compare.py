"""`resnet-jax compare`."""

import argparse
from pathlib import Path

from resnet_jax import text
from resnet_jax.json_files import json_text

TEXT = 'Compare single runs: settings, errors, sizes and speeds.'
EPILOG = (
    'Runs whose configs differ in the seed alone form a group; the other groups are compared with '
    "the first run's, seed by seed. Use `resnet-jax report` for a sweep."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        'workdirs', nargs='+', type=Path, metavar='WORKDIR', help='workdirs of two or more runs'
    )
    parser.add_argument(
        '--out',
        type=Path,
        metavar='DIR',
        help='write compare.md, compare.png and compare.svg, with the curves, into this folder',
    )
    parser.add_argument('--json', action='store_true', help='one JSON object on standard output')


def run(options: argparse.Namespace) -> None:
    """Reads the runs and prints what differs."""
    from resnet_jax.experiments.reports.comparison import (
        compare_runs,
        comparison_json,
        tables,
        write_comparison,
    )

    comparison = compare_runs(options.workdirs)
    files = [] if options.out is None else write_comparison(comparison, options.out)
    if options.json:
        print(json_text({**comparison_json(comparison), 'files': [str(path) for path in files]}))
        return
    width = text.terminal_width()
    parts = [
        f'{table.title}\n{text.aligned(table.header, table.rows, width)}'
        for table in tables(comparison)
    ]
    if len(comparison.groups) == 1:
        parts.insert(0, 'The configs are the same but for the seed.')
    parts.append(text.bullets(comparison.statement, width))
    parts.append('\n'.join(map(str, files)))
    print('\n\n'.join(filter(None, parts)))
