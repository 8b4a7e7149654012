"""`resnet-jax train`."""

import argparse
from pathlib import Path

from resnet_jax import text
from resnet_jax.commands import supervisor

TEXT = 'Train a model, or resume where the workdir left off.'
EPILOG = (
    'Any field of the config can be set: --config.FIELD=VALUE. `resnet-jax config NAME` prints '
    'them all, with their meanings.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes, but for `--config.FIELD=VALUE`."""
    parser.add_argument(
        '--config',
        required=True,
        metavar='FILE|NAME[:VARIANT]',
        help='a config file, or the name of a config of this package, such as digits or cifar10',
    )
    parser.add_argument(
        '--workdir', required=True, type=Path, metavar='DIR', help='folder of the run'
    )
    parser.add_argument(
        '--extend',
        action='store_true',
        help='train the run in DIR further, to the train.steps or train.epochs that are now given',
    )
    parser.add_argument(
        '--profile',
        type=int,
        default=0,
        metavar='N',
        help='trace N steps after the first into DIR/profile, and say where their time went',
    )
    several = parser.add_argument_group(
        'several processes',
        'Start the same command once per process, on one machine or many, with a workdir that all '
        'of them share. See docs/devices.md.',
    )
    several.add_argument(
        '--distributed',
        action='store_true',
        help='train with several processes, detected under SLURM, Open MPI, Kubernetes or on a TPU '
        'pod',
    )
    several.add_argument(
        '--coordinator',
        metavar='HOST:PORT',
        help='without such a cluster: the address at which process 0 listens',
    )
    several.add_argument('--processes', type=int, metavar='N', help='number of processes')
    several.add_argument(
        '--process-id', type=int, metavar='I', help='number of this process, from 0'
    )


def run(options: argparse.Namespace) -> None:
    """Trains and prints the result."""
    place = options.coordinator, options.processes, options.process_id
    distributed = options.distributed or any(value is not None for value in place)
    if distributed and not supervisor.is_supervised():
        supervisor.supervise(options.workdir)
    from resnet_jax.training import compilation, config, loop, processes
    from resnet_jax.training.tasks import TASKS

    compilation.keep_compiled()
    settings = config.load_config(options.config, options.overrides)
    if distributed:
        supervisor.end_with_parent()
        processes.join(*place)
    summary = loop.train(settings, options.workdir, extend=options.extend, profile=options.profile)
    if not summary:
        return  # the first of several processes prints it
    figures = summary['eval']
    speed = summary['images_per_second']
    result = (
        f'{summary["steps"]} steps in {summary["seconds"]:.0f} s'
        f'{"" if speed is None else f", {speed:.0f} images/s"}; {figures["n"]} images evaluated: '
        f'{", ".join(TASKS[settings.task].shares(figures))}, loss {figures["loss"]:.4f}'
    )
    print(text.paragraph(result, text.terminal_width(), '  '))
    print(f'resnet-jax eval --workdir {options.workdir}    # evaluate it again')
    print(f'resnet-jax predict --workdir {options.workdir} IMAGE ...')
