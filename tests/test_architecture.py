"""The package keeps its shape: imports go one way, files and functions stay small."""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'resnet_jax'
# configs/ is data: the package reads its files by name and imports none of them.
FILES = sorted(p for p in PACKAGE.rglob('*.py') if 'configs' not in p.relative_to(PACKAGE).parts)
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]

# A part of the package -> the other parts that it may import: those above it.
LAYERS = (
    ('errors.py', 'text.py', 'versions.py'),
    ('json_files.py', 'figures.py', 'statistics.py'),
    ('models',),
    ('dense',),
    ('data', 'interop', 'records'),
    ('training',),
    ('inference',),
    ('papers', 'analysis'),
    ('compress',),
    ('export',),
    ('experiments',),
    ('commands',),
    ('cli.py',),
    ('__main__.py',),
)
MAY_IMPORT = {
    name: {part for layer in LAYERS[:i] for part in layer}
    for i, layer in enumerate(LAYERS)
    for name in layer
} | {'__init__.py': {'models', 'dense', 'data', 'interop', 'training', 'inference', 'errors.py'}}
MODELS_THIRD_PARTIES = {'jax', 'flax', 'numpy', 'jaxtyping'}
LONGEST_FILE, LONGEST_FUNCTION = 400, 60


@functools.cache
def tree(path):
    return ast.parse(path.read_text(), filename=str(path))


def imports(path):
    """The absolute names of the modules that a file imports, those inside functions too.

    `from a import b` may import the module a.b or a name in the module a: it gives 'a.b'.
    """
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: imports are absolute here'
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return found


def part(path):
    """The folder in the package, or the file that stands in no folder."""
    return path.relative_to(PACKAGE).parts[0]


def parts_imported(path):
    """The parts of the package that a file imports, its own left out."""
    known = {part(file).removesuffix('.py'): part(file) for file in FILES}
    found = set()
    for name in imports(path):
        top, *rest = name.split('.')
        if top == 'resnet_jax':
            # `from resnet_jax import create_model` imports the package's __init__.
            found.add(known.get(rest[0], '__init__.py') if rest else '__init__.py')
    return found - {part(path)}


def test_every_part_of_the_package_has_its_place():
    assert {part(path) for path in FILES} <= set(MAY_IMPORT), 'give the new part a row above'


@pytest.mark.parametrize('path', FILES, ids=NAMES)
def test_imports_go_one_way(path):
    wrong = parts_imported(path) - MAY_IMPORT[part(path)]
    assert not wrong, f'{path} must not import {sorted(wrong)}'


@pytest.mark.parametrize('path', FILES, ids=NAMES)
def test_no_file_imports_configs_or_tests(path):
    assert {name.split('.')[0] for name in imports(path)}.isdisjoint({'configs', 'tests'})


def test_models_need_only_jax_and_flax():
    wrong = {
        f'{path.name}: {name}'
        for path in FILES
        for name in imports(path)
        if part(path) == 'models'
        and (top := name.split('.')[0]) != 'resnet_jax'
        and top not in MODELS_THIRD_PARTIES | sys.stdlib_module_names
    }
    assert not wrong


@pytest.mark.parametrize(
    ('source', 'parts'),
    [
        ('import resnet_jax.training.loop', {'training'}),
        ('from resnet_jax import data', {'data'}),
        ('from resnet_jax import create_model', {'__init__.py'}),
        ('def f():\n    from resnet_jax.training import config', {'training'}),
        ('from resnet_jax.models.design import BlockDesign', set()),
    ],
)
def test_the_reader_of_imports_sees_every_way_of_writing_them(tmp_path, monkeypatch, source, parts):
    path = tmp_path / 'models' / 'new.py'
    path.parent.mkdir()
    path.write_text(source)
    monkeypatch.setitem(globals(), 'PACKAGE', tmp_path)
    monkeypatch.setitem(
        globals(), 'FILES', [tmp_path / name / 'x.py' for name in ('models', 'data', 'training')]
    )
    assert parts_imported(path) == parts


def test_importing_the_package_imports_no_other_framework():
    code = (
        'import sys, resnet_jax, resnet_jax.data, resnet_jax.training.loop\n'
        "print([m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'torch', 'datasets')])"
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == '[]'


def test_files_are_short():
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in FILES}
    long = {name: length for name, length in lengths.items() if length > LONGEST_FILE}
    assert not long, f'over {LONGEST_FILE} lines: {long}'


def functions(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree(path)) if isinstance(node, kinds)]


def test_functions_are_short():
    long = {}
    for path in FILES:
        for node in functions(path):
            length = node.end_lineno - node.lineno + 1
            if length > LONGEST_FUNCTION:
                long[f'{path.relative_to(ROOT)}:{node.lineno} {node.name}'] = length
    assert not long, f'over {LONGEST_FUNCTION} lines: {long}'


def public_definitions(node, prefix=''):
    """(name, node) of the public functions and classes of a module or class, and their methods."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith('_'):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public_definitions(child, f'{prefix}{child.name}.')


@pytest.mark.parametrize('path', FILES, ids=NAMES)
def test_public_things_have_docstrings(path):
    things = [('the module', tree(path)), *public_definitions(tree(path))]
    bare = [name for name, node in things if not ast.get_docstring(node)]
    assert not bare, f'{path} lacks docstrings: {bare}'


def test_no_drawer_for_everything():
    drawers = {'utils', 'util', 'helpers', 'misc', 'common'}
    assert not [path for path in PACKAGE.rglob('*') if path.stem in drawers]


def test_nothing_is_left_undone():
    """`except NotImplementedError` is allowed: others raise it."""
    left = []
    for path in FILES:
        lines = path.read_text().splitlines()
        undone = [i for i, line in enumerate(lines, 1) if 'TODO' in line or 'FIXME' in line]
        undone += [
            node.lineno
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Raise) and node.exc and 'NotImplemented' in ast.dump(node.exc)
        ]
        left += [f'{path.relative_to(ROOT)}:{line}' for line in undone]
    assert not left
