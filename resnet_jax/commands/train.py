"""`resnet-jax train`."""

import argparse
from pathlib import Path

TEXT = 'Train a model, or continue where the workdir left off.'
EPILOG = (
    'Any field of the config can be changed: --config.optim.learning_rate=0.05. '
    'configs/default.py explains them all.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes, but for `--config.FIELD=VALUE`."""
    parser.add_argument('--config', required=True, metavar='FILE[:VARIANT]', help='a config file')
    parser.add_argument('--workdir', required=True, type=Path, metavar='DIR', help='the run')


def run(options: argparse.Namespace) -> None:
    """Trains and says how it went."""
    from resnet_jax.training import compilation, config, loop

    compilation.keep_compiled()
    settings = config.load_config(options.config, options.overrides)
    summary = loop.train(settings, options.workdir)
    figures = summary['eval']
    speed = summary['images_per_second']
    print(
        f'{summary["steps"]} steps in {summary["seconds"]:.0f} s'
        f'{"" if speed is None else f", {speed:.0f} images/s"}; {figures["n"]} images evaluated: '
        f'top1 {100 * figures["top1"]:.2f} %, loss {figures["loss"]:.4f}'
    )
    print(f'resnet-jax eval --workdir {options.workdir}    # evaluates it again')
    print(f'resnet-jax predict --workdir {options.workdir} IMAGE ...')
