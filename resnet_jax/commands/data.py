"""`resnet-jax data`."""

import argparse
import importlib

TEXT = 'Look at data before training, see it as a model does, and make fast copies of it.'
EPILOG = (
    'Each kind has its own --help, and a section in docs/data.md. Example: resnet-jax data check '
    '--data folder:photos'
)
# Each is a file of resnet_jax/commands/data_kinds.
KINDS = ('check', 'show', 'prepare', 'bench')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the kinds and their arguments."""
    kinds = parser.add_subparsers(title='kinds', metavar='KIND', required=True)
    for name in KINDS:
        kind = importlib.import_module(f'resnet_jax.commands.data_kinds.{name}')
        sub = kinds.add_parser(
            name, help=kind.TEXT, description=kind.TEXT, epilog=kind.EPILOG, allow_abbrev=False
        )
        kind.add_arguments(sub)
        sub.set_defaults(kind=name, run_kind=kind.run)


def run(options: argparse.Namespace) -> None:
    """Runs a kind."""
    options.run_kind(options)
