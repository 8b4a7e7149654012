"""`resnet-jax sweep`."""

import argparse
import re
from pathlib import Path

from resnet_jax.commands.engine_options import add_engine_options, chosen_engine
from resnet_jax.errors import InputError, RunError, shown

TEXT = 'Train several designs with several seeds each, or resume an interrupted sweep.'
EPILOG = (
    'Any field that all runs share can be changed: --config.FIELD=VALUE. A run that fails does '
    'not stop the others. In a job array with n jobs, the i-th takes --shard i/n.'
)
_MOST_SEEDS = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options, except `--config.FIELD=VALUE`."""
    parser.add_argument(
        '--config',
        required=True,
        metavar='FILE|NAME[:VARIANT]',
        help="a sweep file, or the name of one of the package's, such as sweeps/norms",
    )
    parser.add_argument(
        '--workdir', required=True, type=Path, metavar='DIR', help="the sweep's folder"
    )
    parser.add_argument(
        '--seeds',
        metavar='N|A,B,...',
        help='number of seeds, or a list of them (default: as in the file)',
    )
    parser.add_argument(
        '--shard', default='1/1', metavar='I/N', help='train only the I-th of N parts of the runs'
    )
    add_engine_options(parser)


def run(options: argparse.Namespace) -> None:
    """Trains the runs that have not ended; runs that failed are an error at the end."""
    from resnet_jax.experiments.engines.engine import run_sweep
    from resnet_jax.experiments.sweep import load_sweep
    from resnet_jax.training import compilation

    compilation.keep_compiled()
    sweep = load_sweep(options.config, options.overrides, parse_seeds(options.seeds))
    shard = parse_shard(options.shard)
    with chosen_engine(options) as engine:
        failed = run_sweep(sweep, options.workdir, shard, engine)
    if failed:
        names = ', '.join(f'{unit.arm} seed {unit.seed}' for unit in failed)
        raise RunError(
            f'{len(failed)} of {len(sweep.arms) * len(sweep.seeds)} runs failed: {names}; the '
            f'reason is in failed.json of each; the same command tries them again'
        )
    part = 'all' if shard == (1, 1) else f'part {options.shard} of the'
    print(f'{part} {len(sweep.arms) * len(sweep.seeds)} runs: ended')
    print(f'resnet-jax report --workdir {options.workdir}    # compare them')


def parse_seeds(text: str | None) -> list[int] | None:
    """The seeds of --seeds; None stands for the sweep's own."""
    if text is None:
        return None
    if not re.fullmatch(r'[0-9]{1,10}(,[0-9]{1,10})*', text):
        raise InputError(
            f'--seeds is a number of seeds or a list of them, A,B,..., got {shown(text)}'
        )
    found = [int(part) for part in text.split(',')]
    if len(found) == 1 and found[0] > _MOST_SEEDS:
        raise InputError(f'--seeds must be at most {_MOST_SEEDS}, got {text}')
    return list(range(found[0])) if len(found) == 1 else found


def parse_shard(text: str) -> tuple[int, int]:
    """The (i, n) of --shard I/N."""
    match = re.fullmatch(r'([0-9]{1,9})/([0-9]{1,9})', text)
    part = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part[0] <= part[1]:
        raise InputError(f'--shard is I/N with I from 1 to N, got {shown(text)}')
    return part
