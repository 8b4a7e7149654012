"""`resnet-jax data`."""

import argparse

from resnet_jax.commands.kinds import add_kinds

TEXT = 'Look at data before training, see it as a model does, and make fast copies of it.'
EPILOG = 'Each kind has its own --help, and a section in docs/data.md.'
# Each is a file of resnet_jax/commands/data_kinds.
KINDS = ('check', 'show', 'prepare', 'bench')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the kinds and their arguments."""
    for kind, sub in add_kinds(parser, 'resnet_jax.commands.data_kinds', KINDS):
        kind.add_arguments(sub)
        sub.set_defaults(run_kind=kind.run)


def run(options: argparse.Namespace) -> None:
    """Runs a kind."""
    options.run_kind(options)
