"""`resnet-jax report`."""

import argparse
import json
from pathlib import Path

TEXT = 'Say what a sweep found, with its uncertainty, and write its report.'
EPILOG = (
    'Writes report.md, report.html, report.json, report.csv, runs.csv and figures into the '
    "sweep's workdir, of the runs that have ended so far. Other files of these names are replaced."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    parser.add_argument('--workdir', required=True, type=Path, metavar='DIR', help='of a sweep')
    parser.add_argument('--json', action='store_true', help='one JSON object on standard output')


def run(options: argparse.Namespace) -> None:
    """Writes the report and prints the gist of it."""
    from resnet_jax.experiments.reports.report import write_report
    from resnet_jax.experiments.reports.report_text import (
        aligned,
        arms_listing,
        differences_listing,
    )

    report = write_report(options.workdir)
    if options.json:
        print(json.dumps({**report.json, 'files': [str(path) for path in report.files]}))
        return
    print(f'{report.findings.sweep.title}\n')
    for sentence in report.statement:
        print(f'- {sentence}')
    for table in (arms_listing(report.findings), differences_listing(report.findings)):
        if table.rows:
            print(f'\n{table.title}\n{aligned(table.header, table.rows)}')
    print()
    for path in report.files:
        print(path)
