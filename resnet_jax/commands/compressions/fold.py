"""`resnet-jax compress fold`."""

import argparse
from typing import TYPE_CHECKING

from resnet_jax import text
from resnet_jax.commands.compressions.subject import Compressed

if TYPE_CHECKING:
    from resnet_jax.commands.compressions.subject import Subject

TEXT = 'Batch norm into convolutions: the same function, without statistics.'
EPILOG = (
    'XLA fuses a norm with its convolution, so that this gains no speed here; export and '
    'quantisation need it.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are no options of its own."""


def compress(options: argparse.Namespace, subject: 'Subject') -> Compressed:
    """Folds, and says which norms are left."""
    from resnet_jax.compress.fold import fold, unfolded

    model, variables = fold(subject.trained.model, subject.trained.variables)
    left = unfolded(model, variables)
    printed = ''
    if left:
        width = text.terminal_width()
        table = text.aligned(['norm', 'why it is left'], [list(row) for row in left.items()], width)
        printed = f'\n{table}'
    return Compressed(model, variables, {}, {'unfolded': left}, printed)
