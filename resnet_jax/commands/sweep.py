"""`resnet-jax sweep`."""

import argparse
import re
from pathlib import Path

from resnet_jax.commands.engine_options import add_engine_options, chosen_engine
from resnet_jax.errors import InputError, RunError

TEXT = 'Train several designs with several seeds each, or continue where the workdir left off.'
EPILOG = (
    'Any field that all runs share can be changed: --config.train.epochs=5. A run that fails does '
    'not stop the others. Of a job array with n jobs, the i-th takes --shard i/n.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes, but for `--config.FIELD=VALUE`."""
    parser.add_argument(
        '--config', required=True, metavar='FILE[:VARIANT]', help='a sweep file: configs/sweeps'
    )
    parser.add_argument('--workdir', required=True, type=Path, metavar='DIR', help='the sweep')
    parser.add_argument(
        '--seeds', metavar='N|A,B,...', help='how many seeds, or which; else as the file says'
    )
    parser.add_argument('--shard', default='1/1', metavar='I/N', help='only this part of the runs')
    add_engine_options(parser)


def run(options: argparse.Namespace) -> None:
    """Runs what is not done and says how it went."""
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
            f'{len(failed)} of {len(sweep.arms) * len(sweep.seeds)} runs failed: {names}; why is '
            f'in failed.json of each; the same command tries them again'
        )


def parse_seeds(text: str | None) -> list[int] | None:
    """The seeds that --seeds names; None: the sweep's own."""
    if text is None:
        return None
    if not re.fullmatch(r'\d+(,\d+)*', text):
        raise InputError(f'--seeds is a number of seeds or a list of them, A,B,..., got {text!r}')
    found = [int(part) for part in text.split(',')]
    return list(range(found[0])) if len(found) == 1 else found


def parse_shard(text: str) -> tuple[int, int]:
    """(i, n) of --shard I/N."""
    match = re.fullmatch(r'(\d+)/(\d+)', text)
    part = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part[0] <= part[1]:
        raise InputError(f'--shard is I/N with I from 1 to N, got {text!r}')
    return part
