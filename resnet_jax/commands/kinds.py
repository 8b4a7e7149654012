"""Commands that have kinds, such as `resnet-jax data check`: a file of a package for each kind."""

import argparse
import importlib
from collections.abc import Iterable, Iterator
from types import ModuleType


def add_kinds(
    parser: argparse.ArgumentParser, package: str, names: Iterable[str]
) -> Iterator[tuple[ModuleType, argparse.ArgumentParser]]:
    """Declares the kinds of a command, with their texts.

    Args:
      parser: of the command.
      package: of the modules, each with a TEXT and an EPILOG.
      names: of the modules; `options.kind` holds the one that was chosen.

    Returns:
      The module and the parser of each kind, in turn, to add its arguments to.
    """
    kinds = parser.add_subparsers(title='kinds', metavar='KIND', required=True)
    for name in names:
        kind = importlib.import_module(f'{package}.{name}')
        sub = kinds.add_parser(
            name, help=kind.TEXT, description=kind.TEXT, epilog=kind.EPILOG, allow_abbrev=False
        )
        sub.set_defaults(kind=name)
        yield kind, sub
