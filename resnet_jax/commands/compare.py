"""`resnet-jax compare`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnet_jax.experiments.reports.groups import Group

TEXT = 'Compare runs made by hand: configs, errors, sizes, speeds.'
EPILOG = (
    'Runs whose configs differ in the seed alone are a group; groups are compared with the first '
    "one's, seed by seed. `resnet-jax report` does it for a sweep."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    parser.add_argument(
        'workdirs', nargs='+', type=Path, metavar='WORKDIR', help='of runs, two or more'
    )
    parser.add_argument('--json', action='store_true', help='one JSON object on standard output')


def run(options: argparse.Namespace) -> None:
    """Reads the runs and prints what differs."""
    from resnet_jax.experiments.reports.groups import group, to_json
    from resnet_jax.experiments.reports.statement import verdict

    groups = group(options.workdirs)
    says = [
        verdict(other.name, groups[0].name, other.difference)
        for other in groups[1:]
        if other.error is not None
    ]
    if options.json:
        print(json.dumps({**to_json(groups), 'statement': says}))
        return
    print(_values(groups))
    print(f'\n{_runs(groups)}')
    if any(len(each.runs) > 1 for each in groups):
        print(f'\n{_means(groups)}')
    if says:
        print('\n' + '\n'.join(f'- {sentence}' for sentence in says))


def _values(groups: 'list[Group]') -> str:
    from resnet_jax.experiments.reports.report_text import aligned

    if len(groups) == 1:
        return 'The configs are the same but for the seed.'
    fields = groups[0].values
    rows = [[field, *(str(group.values[field]) for group in groups)] for field in fields]
    return aligned(['field', *(group.name for group in groups)], rows)


def _runs(groups: 'list[Group]') -> str:
    from resnet_jax.experiments.reports.report_text import aligned, number

    header = ['run', 'group', 'seed', 'error %', 'steps', 'parameters', 'images/s', 'wall s']
    rows = []
    for group in groups:
        for run in group.runs:
            row = [str(run.folder), group.name, str(run.seed)]
            if (final := run.final) is None:
                rows.append([*row, 'not ended', '-', '-', '-', '-'])
                continue
            speed = number(final.images_per_second, ',.0f')
            figures = [f'{final.error:.2f}', f'{final.steps:,}', f'{final.parameters:,}', speed]
            rows.append([*row, *figures, f'{final.seconds:,.1f}'])
    return aligned(header, rows)


def _means(groups: 'list[Group]') -> str:
    from resnet_jax.experiments.reports.report_text import aligned, error_cells, number

    header = ['group', 'mean error %', 'sd', 'n', '95 % interval', 'parameters', 'images/s']
    return aligned(
        header,
        [
            [
                group.name,
                *error_cells(group.error),
                number(group.median('parameters'), ',.0f'),
                number(group.median('images_per_second'), ',.0f'),
            ]
            for group in groups
        ],
    )
