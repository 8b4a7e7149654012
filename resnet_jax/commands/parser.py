"""The parser of the command line: every command, its kinds, their options and examples."""

import argparse
import importlib
from typing import Any

from resnet_jax.commands.examples import EXAMPLES
from resnet_jax.errors import first_line
from resnet_jax.text import shell_command, wrapped

PROGRAM = 'resnet-jax'
_WIDTH = 76  # of examples, so that they stay within 80 columns
# Each is a file of resnet_jax/commands. Those, or kinds of one, that take a config take
# --config.FIELD=VALUE, those that take a model by name --model.FIELD=VALUE.
COMMANDS = (
    *('train', 'config', 'sweep', 'search', 'report', 'compare', 'reproduce'),
    *('eval', 'predict', 'features', 'probe', 'analyze', 'models', 'convert'),
    *('compress', 'export', 'data', 'completion'),
)
PREFIXES = {
    **dict.fromkeys(('train', 'config', 'sweep', 'search', 'reproduce'), '--config.'),
    **dict.fromkeys(('data show', 'data bench'), '--config.'),
    **{f'compress {name}': '--model.' for name in ('fold', 'prune', 'factorize', 'quantize')},
    **dict.fromkeys(('eval', 'predict', 'features', 'analyze', 'convert', 'export'), '--model.'),
}


class Formatter(argparse.HelpFormatter):
    """Wraps the paragraphs of a description or epilog, and keeps their indented lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = []
        for line in text.splitlines():
            keep = line.startswith(' ') or not line
            lines += [line] if keep else wrapped(line.split(), width)
        return '\n'.join(indent + line for line in lines)


class Version(argparse.Action):
    """Prints versions and devices, one per line, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any) -> None:
        """Prints them."""
        import jax

        from resnet_jax import versions

        for name, version in versions.installed().items():
            print(name, version)
        try:
            devices = jax.devices()
        except RuntimeError as error:  # such as a driver that does not answer
            print('devices: none;', first_line(error))
        else:
            kinds = ', '.join(sorted({device.device_kind for device in devices}))
            print(f'devices: {len(devices)}, {jax.default_backend()}: {kinds}')
        parser.exit()


def build(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of the whole program; `options.run(options)` runs what was parsed.

    Args:
      only: the command whose arguments and kinds are declared, which takes a while for all; of the
        others only the name and what they do. None: all.
    """
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description='Residual networks in JAX: train, evaluate, predict, compare.',
        epilog=_epilog('', 'Each command has its own --help.'),
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        '--version',
        action=Version,
        nargs=0,
        help='print the versions of the packages, and the devices, and end',
    )
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    for name in COMMANDS:
        command = importlib.import_module(f'resnet_jax.commands.{name}')
        sub = add_parser(commands, name, name, command)
        if only in (None, name):
            command.add_arguments(sub)
        sub.set_defaults(run=command.run, command=name)
    return parser


def add_parser(commands: Any, name: str, path: str, module: Any) -> argparse.ArgumentParser:
    """Adds a command, or a kind of one.

    Args:
      commands: what `add_subparsers` gave.
      name: the word to add.
      path: all words up to it, such as 'data check', by which its examples are found.
      module: of its TEXT and, if it has one, its EPILOG.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=module.TEXT,
        description=module.TEXT,
        epilog=_epilog(path, getattr(module, 'EPILOG', '')),
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    return parser


def words_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands below a parser, or the kinds of a command, each with its own parser."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found


def _epilog(path: str, prose: str) -> str:
    """Prose, then the examples: what each does, and the command on a line of its own."""
    examples = EXAMPLES.get(path, ())  # the parser may be part of another program
    lines = [prose, ''] * bool(prose) + ['examples:'] * bool(examples)
    for meaning, command in examples:
        shown = shell_command(f'{PROGRAM} {command}', _WIDTH, hang='      ')
        lines += [f'  # {meaning}', f'  {shown}']
    return '\n'.join(lines)
