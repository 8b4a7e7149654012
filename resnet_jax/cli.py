"""The command line: parses, calls, prints. See `resnet-jax --help`."""

import argparse
import contextlib
import inspect
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.commands import supervisor
from resnet_jax.commands.parser import PREFIXES, build, words_of
from resnet_jax.errors import (
    InputError,
    Interrupted,
    Range,
    RunError,
    check_number,
    fault_of_jax,
    near_names,
    shown,
    unknown_name,
)
from resnet_jax.text import printable

EXIT_FAILED, EXIT_USAGE, EXIT_SIGNAL = 1, 2, 128
# Loggers that print what this program reports in one line of its own: Orbax's and asyncio's of a
# failed checkpoint, Pillow's of damaged files, and the retries of trackers.
QUIET_LOGGERS = {
    'PIL': logging.CRITICAL,
    'absl': logging.CRITICAL,
    'asyncio': logging.CRITICAL,
    'mlflow': logging.ERROR,
    'urllib3.connectionpool': logging.ERROR,
}
# Variables of other libraries, set for the command and its workers unless the user has set them.
ENVIRONMENT = {
    'WANDB_SILENT': 'true',
    # MLflow 3.13 and later refuse a folder as the store unless told that it is meant. A folder
    # needs no database, and can lie on any disk, in any workdir.
    'MLFLOW_ALLOW_FILE_STORE': 'true',
    'MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT': 'true',
    # By default 7 retries of 120 s; here the whole connection is retried instead.
    'MLFLOW_HTTP_REQUEST_MAX_RETRIES': '2',
    'MLFLOW_HTTP_REQUEST_TIMEOUT': '20',
}


_UNTIL_EXIT: list[contextlib.ExitStack] = []


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      arguments: without the program's name; `sys.argv[1:]` by default.

    Returns:
      The exit code: 0, 1 (failed), 2 (bad usage or input), 128 + n (stopped by signal n).
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(process_settings())
        if arguments is None:  # the process ends with the command, and the settings with it
            _UNTIL_EXIT.append(stack.pop_all())
        try:
            options = _parse(sys.argv[1:] if arguments is None else list(arguments))
            options.run(options)
            if sys.stdout is not None:  # as it is where the shell has closed it
                sys.stdout.flush()  # here, so that a closed pipe is noticed before the exit
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
            _discard_output()
            return 0
        except OSError as error:  # such as a full disk below standard output
            _discard_output()
            return supervisor.leave(_complain(_reason(error), EXIT_FAILED))
        except Exception as error:
            fault = fault_of_jax(error)
            if fault is None:
                raise
            code = EXIT_USAGE if isinstance(fault, InputError) else EXIT_FAILED
            return supervisor.leave(_complain(fault, code))


def _discard_output() -> None:
    """Lets the flush at the exit go nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # without a file, as in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _reason(error: OSError) -> str:
    where = f'{error.filename}: ' if error.filename else 'cannot write or read: '
    return f'{where}{error.strerror or error}'


@contextlib.contextmanager
def process_settings() -> Iterator[None]:
    """What a command changes in its process beyond itself, all of it here, undone at the end."""
    levels = {name: logging.getLogger(name).level for name in QUIET_LOGGERS}
    added = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    thread_hook, unraisable_hook = threading.excepthook, sys.unraisablehook
    with warnings.catch_warnings():
        # Images that are damaged or too large are refused in words of our own.
        warnings.filterwarnings('ignore', module=r'PIL\.')
        # Orbax's other reads, after one has failed and is reported.
        warnings.filterwarnings('ignore', r"coroutine '\w+' was never awaited")
        for name, level in QUIET_LOGGERS.items():
            logging.getLogger(name).setLevel(level)
        os.environ.update(added)
        # A failed checkpoint reaches the main thread as an exception, which ends the command with
        # one line. What background threads raise besides is reported in a line each.
        if thread_hook is threading.__excepthook__:  # else somebody, such as pytest, listens
            threading.excepthook = _in_one_line(lambda report: report.thread)
        if unraisable_hook is sys.__unraisablehook__:
            sys.unraisablehook = _in_one_line(lambda report: report.object)
        try:
            yield
        finally:
            threading.excepthook, sys.unraisablehook = thread_hook, unraisable_hook
            for name in added:
                os.environ.pop(name, None)
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _in_one_line(where: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A hook that prints an exception outside of the main thread in one line."""

    def report_exception(report: Any) -> None:
        error = ' '.join(str(report.exc_value).split())
        thing = getattr(report, 'object', None)
        orbax = inspect.iscoroutine(thing) and 'orbax' in thing.cr_code.co_filename
        if orbax or error == 'Event loop is closed':
            return  # of Orbax's other reads, after one has failed and was reported
        kind = getattr(report.exc_type, '__name__', report.exc_type)
        print(f'in the background, {where(report)}: {kind}: {error}'[:300], file=sys.stderr)

    return report_exception


def _complain(error: BaseException | str, code: int) -> int:
    line = printable(' '.join(str(error).split()))
    print(f'resnet-jax: {line}', file=sys.stderr)
    return code


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = build(only=next((each for each in arguments if not each.startswith('-')), ''))
    asked = parser
    for kind, words in zip(('command', 'kind'), (arguments[:1], arguments[1:2]), strict=True):
        known = words_of(asked)
        if known:
            _check_word(asked, kind, words, tuple(known))
        if not words or words[0] not in known:  # an option comes first
            break
        asked = known[words[0]]
    # Set aside: argparse takes an argument that holds a space for a file, as one of a tuple may.
    fields = [argument for argument in arguments if argument.startswith(tuple(PREFIXES.values()))]
    options, rest = parser.parse_known_args([a for a in arguments if a not in fields])
    rest += fields
    _check_options(options)
    prefix = PREFIXES.get(options.command)
    prefix = PREFIXES.get(f'{options.command} {getattr(options, "kind", "")}', prefix)
    unknown = [r for r in rest if prefix is None or not r.startswith(prefix)]
    if unknown:
        asked.error(_unrecognized(asked, unknown))
    options.overrides = [_override(argument, prefix) for argument in rest if prefix]
    return options


def _check_word(
    parser: argparse.ArgumentParser, kind: str, word: Sequence[str], known: Sequence[str]
) -> None:
    """Refuses an unknown command, or kind of a command, with the nearest; and none at all."""
    if not word:
        parser.error(f'give a {kind}: {", ".join(known)}; `{parser.prog} --help` explains them')
    if not word[0].startswith('-') and word[0] not in known:
        parser.error(str(unknown_name(kind, word[0], known)))


def _unrecognized(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    """What is said of arguments that a command does not take, with what may have been meant."""
    name = unknown[0].partition('=')[0]
    options = [option for option in parser._option_string_actions if option.startswith('--')]
    if name.startswith('--') and '.' not in name:
        near = near_names(name, options)
        text = f'unknown option {shown(name)}'
    else:
        runs = '--workdir' in options and os.path.isdir(unknown[0])
        near = [f'--workdir {shown(unknown[0])}'] if runs else []
        text = f'unrecognized arguments: {shown(" ".join(unknown), 300)}'
    meant = f'did you mean {" or ".join(near)}? ' if near else ''
    return f'{text}; {meant}`{parser.prog} --help` lists what there is'


def _check_options(options: argparse.Namespace) -> None:
    """Refuses values that no option accepts: empty names, addresses, numbers out of range."""
    for name, value in vars(options).items():
        flag = f'--{name.replace("_", "-")}'
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, float | int) and not isinstance(item, bool):
                check_number(flag, item, Range(whole=isinstance(item, int)))
            text = str(item)
            if isinstance(item, Path) and re.match(r'[A-Za-z][A-Za-z0-9+.-]+:/', text):
                raise InputError(
                    f'{flag} takes a path of a file system, not the address {text}; mount it, or '
                    'copy what you need'
                )
            if isinstance(item, str | Path) and (not text or '\0' in text):
                raise InputError(f'{flag} is no name or path: {text!r}')
            if isinstance(item, str | Path) and any(
                len(os.fsencode(p)) > 255 for p in text.split('/')
            ):
                raise InputError(f'{flag} is longer than a file name can be: {shown(text)}')


def _override(argument: str, prefix: str) -> tuple[str, str]:
    """Field and value from `--config.FIELD=VALUE`."""
    field, separator, value = argument.removeprefix(prefix).partition('=')
    if not separator:
        raise InputError(f'write {argument}=VALUE, with the equals sign')
    return field, value
