"""`resnet-jax analyze`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_jax import text
from resnet_jax.commands import data_options, model_options
from resnet_jax.commands.kinds import add_kinds
from resnet_jax.errors import Range, check_number
from resnet_jax.json_files import json_text

if TYPE_CHECKING:
    from resnet_jax.commands.analyses.subject import Report

TEXT = 'Look inside a model: what its blocks do, what it looks at, how sure and how robust it is.'
EPILOG = 'Each kind has its own --help, and a section in docs/analysis.md.'
# Each is a file of resnet_jax/commands/analyses.
KINDS = (
    *('lesion', 'paths', 'landscape', 'signal', 'similarity'),
    *('attribution', 'calibration', 'robustness'),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the kinds and their arguments."""
    for kind, sub in add_kinds(parser, 'resnet_jax.commands.analyses', KINDS):
        model_options.add_model_options(sub)
        data_options.add_data_options(sub)
        kind.add_arguments(sub)
        sub.add_argument(
            '--out',
            type=Path,
            metavar='DIR',
            help='for KIND.json and the pictures (default: analysis/KIND in the workdir, or in the '
            'current folder without a run)',
        )
        sub.add_argument('--json', action='store_true', help='print one JSON object')
        sub.set_defaults(analyse=kind.analyse)


def run(options: argparse.Namespace) -> None:
    """Runs an analysis, writes its files and prints its figures."""
    from resnet_jax.commands.analyses.subject import open_subject
    from resnet_jax.records.writers import check_folder, signs_of_life
    from resnet_jax.training import compilation

    compilation.keep_compiled()
    if 'seed' in options:
        check_number('--seed', options.seed, Range(0, 2**32 - 1, whole=True))
    subject = open_subject(options)
    folder = options.out or (options.workdir or Path('.')) / 'analysis' / options.kind
    check_folder(folder, 'give another --out DIR')
    source = subject.examples.source
    with (
        signs_of_life(f'{options.kind} on {len(source):,} images'),
        compilation.matmul_precision(subject.trained.matmul_precision),
    ):
        report: Report = options.analyse(options, subject)
    about = {
        'kind': options.kind,
        **subject.trained.origin,
        'data': source.name,
        'split': source.split,
        'n': len(source),
    }
    result = {**about, **report.figures}
    written = _write(folder, options.kind, result, report)
    if options.json:
        print(json_text(result))
        return
    width = text.terminal_width()
    print(text.paragraph(subject.title, width, '  '))
    print(report.printed)
    print('\nwritten: ' + ', '.join(str(path) for path in written))


def _write(folder: Path, kind: str, result: dict[str, object], report: 'Report') -> list[Path]:
    """Writes the JSON, the pictures and the further files of an analysis."""
    from resnet_jax.figures import write_figures
    from resnet_jax.records.writers import write_atomically

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{kind}.json'
    write_atomically(path, json_text(result, indent=1) + '\n')
    written = [path, *write_figures(report.pictures, folder)]
    for name, write in report.files.items():
        write(folder / name)
        written.append(folder / name)
    return written
