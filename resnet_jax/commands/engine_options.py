"""Options that choose the engine which trains the runs of a sweep."""

import argparse
import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from resnet_jax.errors import InputError, check_choice

if TYPE_CHECKING:
    from resnet_jax.experiments.engines.engine import Engine

# Options that belong to one engine.
_OF_ENGINE = {
    'local': ('workers',),
    'ray': ('ray_address', 'cpus_per_run', 'gpus_per_run'),
}
_AT_LEAST = {'workers': 1, 'cpus_per_run': 0, 'gpus_per_run': 0, 'retries': 0}
_RETRIES = 2


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Declares --engine and the options of each engine."""
    group = parser.add_argument_group('where the runs are trained', 'See docs/sweeps.md.')
    group.add_argument(
        '--engine',
        default='local',
        metavar='NAME',
        help='local (default): this machine; ray: the machines of a Ray cluster',
    )
    group.add_argument(
        '--retries',
        type=int,
        metavar='N',
        help=f'how often a run is resumed after its process or machine died (default: {_RETRIES})',
    )
    group.add_argument(
        '--workers',
        type=int,
        metavar='N',
        help='local: number of processes (default: one per GPU if there are several); 1 trains '
        'in this process, on all devices',
    )
    group.add_argument(
        '--ray-address',
        metavar='ADDRESS',
        help='ray: address of a cluster, HOST:PORT or auto (default: start Ray on this machine)',
    )
    group.add_argument(
        '--cpus-per-run',
        type=float,
        metavar='N',
        help='ray: CPUs that each run reserves (default: 1)',
    )
    group.add_argument(
        '--gpus-per-run',
        type=float,
        metavar='N',
        help='ray: GPUs that each run reserves and sees, possibly a fraction of one (default: 1 if '
        'the cluster has GPUs, otherwise 0)',
    )


@contextlib.contextmanager
def chosen_engine(options: argparse.Namespace) -> Iterator['Engine']:
    """The engine that the options choose; the context connects to it and disconnects.

    Raises:
      InputError: for options that do not go together, or an engine that is not available.
    """
    check_choice('engine', options.engine, _OF_ENGINE)
    for engine, names in _OF_ENGINE.items():
        for name in names:
            if engine != options.engine and getattr(options, name) is not None:
                raise InputError(f'{_flag(name)} goes with --engine {engine}')
    for name, least in _AT_LEAST.items():
        value = getattr(options, name)
        if value is not None and not value >= least:
            raise InputError(f'{_flag(name)} must be at least {least}, got {value:g}')
        if value is not None and value > 1 and not float(value).is_integer():
            raise InputError(f'{_flag(name)} above 1 must be whole, got {value:g}')
    retries = _RETRIES if options.retries is None else options.retries
    if options.engine == 'local':
        from resnet_jax.experiments.engines.local_engine import run_local

        yield functools.partial(run_local, workers=options.workers, retries=retries)
        return
    from resnet_jax.experiments.engines.ray_engine import connected

    cpus = 1.0 if options.cpus_per_run is None else options.cpus_per_run
    with connected(options.ray_address, cpus, options.gpus_per_run, retries) as found:
        yield found


def _flag(name: str) -> str:
    return '--' + name.replace('_', '-')
