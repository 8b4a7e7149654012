"""The command line: parses, calls, prints. See `resnet-jax --help`."""

import argparse
import importlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Sequence

from resnet_jax.commands import supervisor
from resnet_jax.errors import InputError, Interrupted, RunError

EXIT_FAILED, EXIT_USAGE, EXIT_SIGNAL = 1, 2, 128
# Each is a file of resnet_jax/commands. Those that take a config take --config.FIELD=VALUE, those
# that take a model by name --model.FIELD=VALUE.
COMMANDS = (
    *('train', 'sweep', 'search', 'report', 'compare', 'reproduce'),
    *('eval', 'predict', 'models', 'convert'),
)
PREFIXES = {
    **dict.fromkeys(('train', 'sweep', 'search', 'reproduce'), '--config.'),
    **dict.fromkeys(('eval', 'predict', 'convert'), '--model.'),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      arguments: without the program's name; `sys.argv[1:]` by default.

    Returns:
      The exit code: 0, 1 (failed), 2 (bad usage or input), 128 + n (stopped by signal n).
    """
    warnings.filterwarnings('ignore', 'Image size .* decompression bomb')  # refused in our words
    _quiet_background()
    try:
        options = _parse(sys.argv[1:] if arguments is None else list(arguments))
        options.run(options)
        sys.stdout.flush()  # here, so that a closed pipe is noticed before the interpreter exits
        return 0
    except InputError as error:
        return supervisor.leave(_complain(error, EXIT_USAGE))
    except RunError as error:
        return supervisor.leave(_complain(error, EXIT_FAILED))
    except Interrupted as stop:
        return _complain(stop, EXIT_SIGNAL + stop.signum)
    except KeyboardInterrupt:
        return _complain('interrupted', EXIT_SIGNAL + 2)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor flush into it at exit
        return 0


def _quiet_background() -> None:
    """Keeps Orbax and Grain from printing warnings, and tracebacks beside our one line.

    A failed checkpoint reaches the main thread as an exception; what its other threads and
    coroutines meet after that is of no use to anyone.
    """
    for name in ('absl', 'asyncio'):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if threading.excepthook is threading.__excepthook__:  # else somebody, such as pytest, listens
        threading.excepthook = lambda report: None
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = lambda report: None


def _complain(error: BaseException | str, code: int) -> int:
    print(f'resnet-jax: {" ".join(str(error).split())}', file=sys.stderr)
    return code


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='resnet-jax',
        description='Residual networks in JAX: train, evaluate, predict.',
        epilog='Each command has its own --help.',
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    for name in COMMANDS:
        command = importlib.import_module(f'resnet_jax.commands.{name}')
        sub = commands.add_parser(
            name,
            help=command.TEXT,
            description=command.TEXT,
            epilog=getattr(command, 'EPILOG', None),
            allow_abbrev=False,
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run, command=name)
    options, rest = parser.parse_known_args(arguments)
    prefix = PREFIXES.get(options.command)
    unknown = [r for r in rest if prefix is None or not r.startswith(prefix)]
    if unknown:
        parser.error(f'unrecognized arguments: {" ".join(unknown)}')
    options.overrides = [_override(argument, prefix) for argument in rest if prefix]
    return options


def _override(argument: str, prefix: str) -> tuple[str, str]:
    """Field and value from `--config.FIELD=VALUE`."""
    field, separator, value = argument.removeprefix(prefix).partition('=')
    if not separator:
        raise InputError(f'write {argument}=VALUE, with the equals sign')
    return field, value
