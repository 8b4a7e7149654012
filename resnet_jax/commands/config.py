"""`resnet-jax config`."""

import argparse
import ast
import io
import itertools
import tokenize
from pathlib import Path

from resnet_jax import text
from resnet_jax.errors import InputError
from resnet_jax.json_files import json_text

TEXT = 'Print the fields of a config and what they mean, or list the configs.'
EPILOG = (
    'The fields are those of the run that `resnet-jax train --config NAME` would start; the same '
    'options --config.FIELD=VALUE change them. * marks a field that differs from the default.'
)
_ROOT = 'config'  # what the config is called in its file
# Function of a file -> what it describes.
_DEFINES = {'get_config': 'run', 'get_sweep': 'sweep', 'get_search': 'search'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes, but for `--config.FIELD=VALUE`."""
    parser.add_argument(
        'config',
        nargs='?',
        metavar='FILE|NAME[:VARIANT]',
        help='a config file, or the name of a config of this package; none lists these',
    )
    parser.add_argument(
        '--diff', action='store_true', help='only the fields that differ from the default'
    )
    parser.add_argument(
        '--json',
        action='store_true',
        help='one JSON object on standard output: what config.json of the run would hold; with '
        '--diff field and value',
    )


def run(options: argparse.Namespace) -> None:
    """Prints a config, or the names of all."""
    from resnet_jax.training import config as configs
    from resnet_jax.training import config_files

    if options.config is None:
        _print_names(options)
        return
    path = _checked(options.config)
    settings = configs.load_config(options.config, options.overrides)
    default = configs.default_config()
    fields, before = configs.flatten(settings), configs.flatten(default)
    differing = {name: value for name, value in fields.items() if value != before[name]}
    if options.json:
        print(json_text(differing) if options.diff else configs.to_json(settings), end='')
        print('\n' * options.diff, end='')
        return
    width = text.terminal_width()
    print(text.paragraph(f'{options.config}: {_contents(path)[0]}', width, '  '))
    comments = field_comments(config_files.package_folder() / 'default.py')
    shown = [name for name in comments if name in (differing if options.diff else fields)]
    for section, names in itertools.groupby(shown, lambda name: name.rpartition('.')[0]):
        rows = []
        for name in names:
            mark, was = ('*', f'(default: {before[name]}) ') if name in differing else (' ', '')
            rows.append((f'{mark} {name}={fields[name]}', was + comments[name]))
        if section:
            heading = f'{section}: {comments[section]}' if comments[section] else section
            print('\n' + text.paragraph(heading, width, '  '))
        print(text.pairs(rows, width))


def field_comments(path: Path) -> dict[str, str]:
    """What a config file says of the fields and sections that it assigns, in its order.

    The comment of one is that on the lines directly above its assignment, and behind it. A comment
    that an empty line divides from the next field belongs to none.
    """
    source = path.read_text(encoding='utf-8')
    above: dict[int, str] = {}
    behind: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            (above if alone else behind)[token.start[0]] = token.string.lstrip('# ')
    found = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign):
            continue
        root, _, field = ast.unparse(node.targets[0]).partition('.')
        if root != _ROOT or not field:
            continue
        first = node.lineno
        while first - 1 in above:
            first -= 1
        lines = range(first, (node.end_lineno or node.lineno) + 1)
        found[field] = ' '.join(c[line] for c in (above, behind) for line in lines if line in c)
    return found


def _checked(spec: str) -> Path:
    """The file of a config.

    Raises:
      InputError: if there is none, or it is that of a sweep or a search.
    """
    from resnet_jax.training import config_files

    path, _ = config_files.find(spec)
    functions = _contents(path)[1]
    what = [_DEFINES[name] for name in functions if name in _DEFINES]
    if what and 'run' not in what:
        raise InputError(
            f'{spec} describes a {what[0]}, not a run: read {path}, and print its base config with '
            '`resnet-jax config BASE`'
        )
    return path


def _contents(path: Path) -> tuple[str, list[str]]:
    """The first line of a file's docstring, and the functions that it defines."""
    try:
        tree = ast.parse(path.read_text(encoding='utf-8'))
    except (SyntaxError, ValueError):  # which reading it as a config reports
        return str(path), []
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return (ast.get_docstring(tree) or str(path)).splitlines()[0], functions


def _print_names(options: argparse.Namespace) -> None:
    """The package's configs, sweeps and searches, with what their files say first."""
    from resnet_jax.training import config_files

    if options.diff or options.overrides:
        raise InputError('choose a config: give its FILE or NAME')
    folder = config_files.package_folder()
    contents = {name: _contents(folder / f'{name}.py') for name in config_files.package_names()}
    found = {
        name: summary
        for name, (summary, functions) in contents.items()
        if not _DEFINES.keys().isdisjoint(functions)
    }
    print(json_text(found) if options.json else text.pairs(found.items(), text.terminal_width()))
