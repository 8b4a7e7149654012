"""`resnet-jax report`."""

import argparse
from pathlib import Path

from resnet_jax import text
from resnet_jax.json_files import json_text

TEXT = 'Write the report of a run, a sweep or a reproduction, finished or not.'
EPILOG = (
    'Writes report.md, report.html, report.json and figures into the workdir, replacing an '
    'earlier report; for a sweep also report.csv and runs.csv.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        '--workdir', required=True, type=Path, metavar='DIR', help='workdir of the run or sweep'
    )
    parser.add_argument('--json', action='store_true', help='one JSON object on standard output')


def run(options: argparse.Namespace) -> None:
    """Writes the report and prints its gist."""
    from resnet_jax.experiments.reports.run_report import write_run_report
    from resnet_jax.experiments.reproduce.reproduction import write_sweep_or_reproduction
    from resnet_jax.records.writers import signs_of_life
    from resnet_jax.training import compilation
    from resnet_jax.training.workdir import is_run

    if is_run(options.workdir):
        compilation.keep_compiled()
        with signs_of_life('evaluating the run'):
            report = write_run_report(options.workdir)
    else:
        report = write_sweep_or_reproduction(options.workdir)
    if options.json:
        print(json_text({**report.json, 'files': [str(path) for path in report.files]}))
        return
    document, width = report.document, text.terminal_width()
    print(f'{text.paragraph(document.title, width)}\n')
    print(text.bullets(document.statement, width))
    for table in document.tables[:2]:
        columns = (
            text.pairs(((name, value) for name, value in table.rows), width)
            if len(table.header) == 2
            else text.aligned(table.header, table.rows, width)
        )
        print(f'\n{table.title}\n{columns}')
    print()
    for path in report.files:
        print(path)
