"""Commands that have kinds, such as `resnet-jax data check`: a file of a package for each kind."""

import argparse
import importlib
from collections.abc import Iterable, Iterator
from types import ModuleType

from resnet_jax.commands.parser import PROGRAM, add_parser


def add_kinds(
    parser: argparse.ArgumentParser, package: str, names: Iterable[str]
) -> Iterator[tuple[ModuleType, argparse.ArgumentParser]]:
    """Declares the kinds of a command, with their texts.

    Args:
      parser: of the command.
      package: of the modules, each with a TEXT and, if there is more to say, an EPILOG.
      names: of the modules; `options.kind` holds the one that was chosen.

    Returns:
      The module and the parser of each kind, in turn, to add its arguments to.
    """
    kinds = parser.add_subparsers(title='kinds', metavar='KIND', required=True)
    command = parser.prog.removeprefix(f'{PROGRAM} ')
    for name in names:
        kind = importlib.import_module(f'{package}.{name}')
        sub = add_parser(kinds, name, f'{command} {name}', kind)
        sub.set_defaults(kind=name)
        yield kind, sub
