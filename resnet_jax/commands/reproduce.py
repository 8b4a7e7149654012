"""`resnet-jax reproduce`."""

import argparse
import textwrap
from collections.abc import Collection
from pathlib import Path
from typing import Any

from resnet_jax import text
from resnet_jax.commands.engine_options import add_engine_options, chosen_engine
from resnet_jax.commands.sweep import parse_seeds, parse_shard
from resnet_jax.errors import InputError, RunError, check_choice
from resnet_jax.json_files import json_text

TEXT = "Run a paper's table and compare the results with the published ones."
EPILOG = (
    "Scales: full is the paper's recipe; short is a sixteenth of it with 3 seeds, to compare the "
    'order of the rows; smoke is two steps of each row on synthetic images, to check that it '
    'runs. Any field that all rows share can be changed: --config.data.dir=DIR. The same command '
    'resumes what was interrupted. In a job array of n jobs, job i takes --shard i/n. Writes '
    'reproduce.md, reproduce.json and, except at scale smoke, the report of a sweep (see '
    '`resnet-jax report`) into the workdir.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments, except `--config.FIELD=VALUE`."""
    parser.add_argument(
        'table', nargs='?', metavar='TABLE', help='a published table; --list shows them'
    )
    parser.add_argument('--scale', metavar='NAME', help='smoke, short or full')
    parser.add_argument('--workdir', type=Path, metavar='DIR', help='folder for the runs')
    parser.add_argument(
        '--seeds',
        metavar='N|A,B,...',
        help='number of seeds of each row, or a list; default: that of the paper and scale',
    )
    parser.add_argument(
        '--rows',
        metavar='NAME,...',
        help='train these rows now, and leave the others for later; default: all',
    )
    parser.add_argument('--shard', default='1/1', metavar='I/N', help='run only this part')
    parser.add_argument(
        '--configs',
        type=Path,
        metavar='DIR',
        help="folder of configs; default: the package's",
    )
    parser.add_argument(
        '--list', action='store_true', help='show the tables and their cost; run nothing'
    )
    parser.add_argument(
        '--probe', action='store_true', help='with --list: estimate the hours on this machine'
    )
    parser.add_argument('--json', action='store_true', help='one JSON object on standard output')
    add_engine_options(parser)


def run(options: argparse.Namespace) -> None:
    """Lists the tables, or runs what is left of one and prints how it compares."""
    from resnet_jax.training import compilation

    compilation.keep_compiled()
    if options.list:
        _list(options)
        return
    if options.probe:
        raise InputError('--probe goes with --list')
    needed = {
        'TABLE (--list shows them)': options.table,
        '--scale (smoke, short or full)': options.scale,
        '--workdir DIR': options.workdir,
    }
    for name, value in needed.items():
        if value is None:
            raise InputError(f'reproduce needs {name}')
    _reproduce(options)


def _reproduce(options: argparse.Namespace) -> None:
    from resnet_jax.experiments.engines.engine import run_sweep
    from resnet_jax.experiments.reproduce import reproduction
    from resnet_jax.experiments.reproduce.plan import find_configs, make_plan
    from resnet_jax.experiments.results import read_failure

    plan = make_plan(
        options.table,
        options.scale,
        find_configs(options.configs),
        options.overrides,
        parse_seeds(options.seeds),
    )
    shard, rows = parse_shard(options.shard), _rows(options.rows, plan.sweep.arms)
    with chosen_engine(options) as engine:
        failed = run_sweep(plan.sweep, options.workdir, shard, engine, rows)
    found = reproduction.collect(plan, options.workdir)
    reproduction.write_reproduction(found, options.workdir)
    if options.json:
        print(json_text(found))
    else:
        print(reproduction.reproduction_text(found, text.terminal_width()), end='')
    # Divergence is a result, except after two steps.
    broken = [
        unit
        for unit in failed
        if plan.scale == 'smoke' or not ((why := read_failure(unit.folder)) and why.diverged)
    ]
    if broken:
        names = ', '.join(f'{unit.arm} seed {unit.seed}' for unit in broken)
        raise RunError(
            f'{len(broken)} runs failed: {names}; see failed.json in their folders; run the same '
            'command again to retry them'
        )


def _rows(text: str | None, known: Collection[str]) -> tuple[str, ...] | None:
    """The rows of --rows; None for all. A name may hold commas itself."""
    if text is None or text in known:
        return None if text is None else (text,)
    names = tuple(name.strip() for name in text.split(','))
    for name in names:
        check_choice('row', name, known)
    return names


def _list(options: argparse.Namespace) -> None:
    from resnet_jax.experiments.reproduce import costs
    from resnet_jax.experiments.reproduce.plan import find_configs
    from resnet_jax.papers.cifar import TABLES, find_table

    if options.table is not None:
        find_table(options.table)
    keys = list(TABLES) if options.table is None else [options.table]
    speeds = costs.probe(find_configs(options.configs)) if options.probe else ()
    tables = []
    for key in keys:
        cost = costs.cost_of(key, speeds)
        tables.append(cost)
        if not options.json:
            print(_text(cost), flush=True)
    probe = [speed._asdict() for speed in speeds]
    if options.json:
        print(json_text({'tables': tables, 'probe': probe}))
    elif probe:
        found = '; '.join(f'{s["model"]} {s["flops_per_second"] / 1e9:,.1f} GFLOP/s' for s in probe)
        about = f'hours are estimates from training steps timed on this machine: {found}'
        print(text.paragraph(about, text.terminal_width()))


def _text(cost: dict[str, Any]) -> str:
    width = text.terminal_width()
    title = f'{cost["table"]}: {cost["title"]} ({cost["paper"]}, {cost["data"]})'
    rows = [
        (
            row['name'],
            f'{row["parameters"]:,} parameters',
            f'{row["multiply_adds"] / 1e6:,.0f} M multiply-adds',
            f'{row["runs"]} x {row["flops"] / row["runs"]:.2g} FLOPs{_hours(row)}',
        )
        for row in cost['rows']
    ]
    table = text.aligned(rows[0], rows[1:], width and width - 2)
    total = f'full, all runs: {cost["flops"]:.2g} FLOPs of training{_hours(cost)}'
    below = text.paragraph(total, width and width - 2)
    lines = textwrap.indent('\n'.join([table, below]), '  ')
    return f'{text.paragraph(title, width, "  ")}\n{lines}'


def _hours(cost: dict[str, Any]) -> str:
    """The hours of all runs, in words; empty if they were not estimated."""
    if 'hours' not in cost:
        return ''
    return f'  about {cost["hours"]:,.{0 if cost["hours"] >= 10 else 1}f} hours in all'
