"""`resnet-jax completion`."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError

TEXT = 'Print a script with which a shell completes commands, options and names.'
EPILOG = (
    'Keep the script in a file that the shell reads: of bash '
    '~/.local/share/bash-completion/completions/resnet-jax, of zsh _resnet-jax in a folder of '
    'fpath, of fish ~/.config/fish/completions/resnet-jax.fish. It holds the names of this '
    'version: print it again after an upgrade. Needs shtab: pip install "resnet-jax[completion]".'
)
SHELLS = ('bash', 'zsh', 'fish')
_FUNCTION = '_resnet_jax_configs'
# What a config of the package may be called after these commands.
_FOLDERS = {'sweep': ('sweeps/',), 'search': ('searches/', '')}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    parser.add_argument('shell', choices=SHELLS, help='of which shell')


def run(options: argparse.Namespace) -> None:
    """Prints the script."""
    from resnet_jax.commands.parser import PROGRAM, build, words_of

    try:
        import shtab
    except ImportError as error:
        raise InputError('completion needs shtab: pip install "resnet-jax[completion]"') from error
    parser = build()
    for command, sub in words_of(parser).items():
        for action in _actions(sub):
            action.complete = _completer(command, action)  # type: ignore[attr-defined]
            if isinstance(action.metavar, str):  # zsh takes some signs for its own
                action.metavar = re.sub(r'[^\w ]+', '-', action.metavar).strip('-')
    print(shtab.complete(parser, options.shell, root_prefix=PROGRAM.replace('-', '_')))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a command and of its kinds, but for those with choices."""
    from resnet_jax.commands.parser import words_of

    yield from (action for action in parser._actions if action.choices is None)
    for kind in words_of(parser).values():
        yield from _actions(kind)


def _completer(command: str, action: argparse.Action) -> dict[str, Any]:
    """How shells complete the values of an argument; shtab takes {} for none."""
    import shtab

    from resnet_jax.dense import list_models
    from resnet_jax.papers.cifar import TABLES

    shown = str(action.metavar)
    if action.dest == 'config':
        return _configs(command)
    if action.dest in ('model', 'pattern'):
        return dict(shtab.cmd(_printf(list_models())))
    if action.dest == 'table':
        return dict(shtab.cmd(_printf(TABLES)))
    if action.type is Path or shown in ('IMAGE', 'SRC', 'DST', 'FILE', 'OUT'):
        return dict(shtab.DIRECTORY if 'DIR' in shown else shtab.FILE)
    return {}


def _configs(command: str) -> dict[str, Any]:
    """Names of the package's configs that a command takes, and files."""
    from resnet_jax.training.config_files import package_names

    folders = _FOLDERS.get(command, ('',))
    names = [name for name in package_names() if name[: name.rfind('/') + 1] in folders]
    function, words = f'{_FUNCTION}_{command}', ' '.join(names)
    return {
        'bash': function,
        'zsh': function,
        'fish': f'({_printf(names)}; __fish_complete_path (commandline -ct))',
        'preamble': {
            'bash': f'{function}() {{ compgen -W "{words}" -- $1; compgen -f -- $1; }}',
            'zsh': f'{function}() {{ compadd {words}; _files; }}',
        },
    }


def _printf(names: Any) -> str:
    return "printf '%s\\n' " + ' '.join(names)
