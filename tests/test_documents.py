"""The documents do what they say: their Python runs, their commands exist, their changes apply.

A Python block that begins with an import is a script of its own; one that does not goes on from the
block before it. Each runs in an empty folder beside a link to `configs`. The blocks of
CONTRIBUTING.md run in a copy of the code, to which its `diff` blocks are applied in their order.
The shell blocks of a page run one after another in a folder of their own, but for those under a
comment that begins with `not run:` and gives the reason.
Commands and links in the text of notebooks are held to the same; pytest runs their code (nbmake).
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import nbformat
import pytest

from resnet_jax import cli
from resnet_jax.commands.analyze import KINDS
from resnet_jax.commands.examples import EXAMPLES
from resnet_jax.commands.parser import build
from resnet_jax.commands.parser import words_of as words_of_parser
from resnet_jax.experiments.reproduce.plan import make_plan
from resnet_jax.experiments.search.search import load_search
from resnet_jax.experiments.sweep import load_sweep
from resnet_jax.papers.cifar import find_table
from resnet_jax.training.config import load_config, override, read_config_file

ROOT = pathlib.Path(__file__).parents[1]
GUIDE = ROOT / 'CONTRIBUTING.md'
DOCUMENTS = [
    path for path in (ROOT / 'README.md', GUIDE, *sorted(ROOT.glob('docs/*.md'))) if path.is_file()
]
NOTEBOOKS = sorted(ROOT.glob('notebooks/*.ipynb'))
SHELL = ('bash', 'sh', 'console')


def name(path):
    return str(path.relative_to(ROOT))


def words_of(path):
    """The text of a document; of a notebook that of its Markdown cells."""
    if path.suffix != '.ipynb':
        return path.read_text()
    cells = nbformat.read(path, as_version=4).cells
    return '\n'.join(cell.source for cell in cells if cell.cell_type == 'markdown')


def blocks(path, *languages):
    """(line number, language, text) of a document's fenced code blocks in these languages."""
    found, start = [], None
    lines = words_of(path).splitlines()
    for number, line in enumerate(lines, 1):
        if line.startswith('```'):
            if start is None:
                start, language = number, line[3:].strip()
            else:
                found.append((start + 1, language, '\n'.join(lines[start : number - 1])))
                start = None
    assert start is None, f'{path}:{start}: a code block without end'
    return [block for block in found if block[1] in languages]


def scripts():
    """(path, [(line, text), ...]) of each Python script; one that two documents show comes once."""
    found = {}
    for path in (path for path in DOCUMENTS if path != GUIDE):
        script = []
        for line, _, text in blocks(path, 'python'):
            if text.lstrip().startswith(('import ', 'from ')):
                script = []
                found[path, line] = script
            script.append((line, text))
    distinct = {}
    for (path, _), script in found.items():
        distinct.setdefault(tuple(text for _, text in script), (path, script))
    return list(distinct.values())


SCRIPTS = scripts()
# The first trains three seeds (tests/test_seeds.py is quicker); the next compile large nets; what
# the others call has quicker tests. Training loops are never left to the slow tests.
_SLOW_SCRIPTS = (
    *('docs/devices.md', 'docs/weights.md', 'docs/features.md'),
    *('docs/own_training_loop.md', 'docs/beyond_images.md', 'docs/compress.md', 'docs/export.md'),
    *('docs/analysis.md', 'docs/how_do_i.md'),
)


def is_slow(path, script):
    loop = any('def train_step' in text for _, text in script)
    return name(path) in _SLOW_SCRIPTS and not loop


@pytest.mark.parametrize(
    ('path', 'script'),
    [
        pytest.param(
            path,
            script,
            id=f'{name(path)}:{script[0][0]}',
            marks=[pytest.mark.slow] * is_slow(path, script),
        )
        for path, script in SCRIPTS
    ],
)
def test_python_runs_as_written(path, script, tmp_path, monkeypatch, capsys, standard_promotion):
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    namespace = {'__name__': '__main__'}
    for line, text in script:
        # The empty lines make a traceback show the document's own line numbers.
        exec(compile('\n' * (line - 1) + text, str(path), 'exec'), namespace)
    # What a training loop prints must show that it learns.
    losses = [float(x) for x in re.findall(r'loss ([\d.]+)', capsys.readouterr().out)]
    assert bool(losses) == any('def train_step' in text for _, text in script)
    assert not losses or losses[-1] < losses[0] / 2, losses


def test_own_training_loops_are_shown_twice():
    """In plain JAX and in Flax NNX."""
    (path,) = (path for path in DOCUMENTS if path.name == 'own_training_loop.md')
    assert sum('def train_step' in text for _, _, text in blocks(path, 'python')) == 2


def simple_commands(text):
    """The commands in the text of a shell block, each as a list of words."""
    lines = text.replace('\\\n', ' ').splitlines()
    if any(line.startswith('$ ') for line in lines):  # the rest is output
        lines = [line.removeprefix('$ ') for line in lines if line.startswith('$ ')]
    for line in lines:
        if not re.search('resnet-jax|resnet_jax|make', line):
            continue  # output may be anything, quotes without an end too
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = []
        for word in [*lexer, ';']:
            if set(word) <= set(';|&<>()'):
                yield words
                words = []
            elif words or not re.match(r'\w+=', word):  # NAME=value may precede a command
                words.append(word)


def commands(text):
    """The arguments of each `resnet-jax` or `python -m resnet_jax` in the text of a shell block."""
    for words in simple_commands(text):
        if words and pathlib.PurePath(words[0]).name == 'resnet-jax':
            yield words[1:]
        elif words[1:3] == ['-m', 'resnet_jax']:
            yield words[3:]


def test_commands_are_found_however_they_are_written():
    text = 'git clone https://host/resnet-jax && cd resnet-jax\nmake test\n'
    text += 'A=1 .venv/bin/resnet-jax eval \\\n  --workdir runs/a  # evaluates\n'
    text += "resnet-jax models 'cifar_*' | head\npython -m resnet_jax predict --workdir a b.png > c"
    assert list(commands(text)) == [
        ['eval', '--workdir', 'runs/a'],
        ['models', 'cifar_*'],
        ['predict', '--workdir', 'a', 'b.png'],
    ]
    assert list(commands("$ resnet-jax models\nresnet-jax isn't one\n")) == [['models']]


COMMANDS = [
    pytest.param(path, arguments, id=f'{name(path)}:{line} {shlex.join(arguments)}')
    for path in (*DOCUMENTS, *NOTEBOOKS)
    for line, _, text in blocks(path, *SHELL)
    for arguments in commands(text)
]


@pytest.mark.parametrize(('path', 'arguments'), COMMANDS)
def test_commands_parse(path, arguments, capsys):
    """The sub-command and its options exist, and the config has the fields that are overridden.

    So do sweeps, tables and analyses, but for those that the reader of the guide has added before.
    """
    if path == GUIDE and arguments[0] == 'analyze' and arguments[1] not in KINDS:
        return
    check_command(path, arguments, capsys)


def check_command(path, arguments, capsys):
    """Parses a command of a document, or of the help, and reads the configs that it names."""
    if '--help' in arguments or '--version' in arguments:
        with pytest.raises(SystemExit) as stop:
            cli._parse(arguments)
        assert stop.value.code == 0
        return
    try:
        options = cli._parse(arguments)
    except SystemExit:
        pytest.fail(capsys.readouterr().err)
    config = getattr(options, 'config', None)
    if options.command in ('sweep', 'reproduce'):
        if path == GUIDE:
            return
        if config:
            load_sweep(spec(config), options.overrides)
        elif options.scale:
            make_plan(options.table, options.scale, None, options.overrides)
        elif options.table:
            find_table(options.table)
    elif config and options.command == 'search' and not options.lr_range:
        load_search(spec(config), options.overrides)
    elif config:
        exists = '.py' not in config or (ROOT / f'{config.partition(".py")[0]}.py').is_file()
        # A file that the reader is to write has the fields of the default. The names that the guide
        # adds are known where its walk-throughs run.
        exists = exists and not (path == GUIDE and config == 'mine')
        file = spec(config) if exists else 'default'
        if path == GUIDE:
            override(read_config_file(file), options.overrides)
        else:
            load_config(file, options.overrides)


def parsers(parser=None, words=()):
    """(words, parser) of the program, its commands and their kinds."""
    parser = parser or build()
    yield ' '.join(words), parser
    for word, sub in words_of_parser(parser).items():
        yield from parsers(sub, (*words, word))


PARSERS = dict(parsers())


def test_every_command_is_among_those_whose_help_is_tested():
    assert {'', 'train', 'models', 'analyze lesion', 'compress prune', 'data show'} < set(PARSERS)
    assert set(PARSERS) == set(EXAMPLES)


@pytest.mark.parametrize('words', PARSERS)
def test_help_ends_with_examples_that_parse(words, capsys, monkeypatch):
    """Commands of that kind, which stay whole at 80 columns, each below what it does."""
    monkeypatch.setenv('COLUMNS', '80')
    text = PARSERS[words].format_help()
    assert max(map(len, text.splitlines())) <= 80
    _, heading, examples = text.partition('\nexamples:\n')
    assert heading
    shown = examples.replace('\\\n', '').splitlines()
    assert all(line.startswith('  # ') for line in shown[::2])
    assert all(line.startswith('  resnet-jax ') for line in shown[1::2])
    found = list(commands(examples))
    assert 2 * len(found) == len(shown)
    assert any(arguments[: len(words.split())] == words.split() for arguments in found)
    for arguments in found:
        check_command(None, arguments, capsys)


@pytest.mark.slow
def test_the_commands_of_features_run(tmp_path, monkeypatch, capsys):
    """In a folder of their own, one after another."""
    monkeypatch.chdir(tmp_path)
    ((_, _, text), *_) = blocks(ROOT / 'docs' / 'features.md', 'bash')
    for arguments in commands(text):
        assert cli.main(arguments) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {one['shots'] for one in found['few_shot']} == {1, 2, 5, 10}
    assert (tmp_path / 'runs' / 'probe' / 'few_shot.png').is_file()
    assert not list(tmp_path.glob('*.parts'))


# Pages whose shell blocks have a test of their own, or a file of tests.
_RUN_ELSEWHERE = {
    'CONTRIBUTING.md': 'test_walk_throughs',
    'docs/features.md': 'test_the_commands_of_features_run',
}
_NOT_RUN = re.compile(r'<!-- not run: (.+) -->')


def shell_blocks(path):
    """(text to run, the reason why it is not run or None) of each shell block of a document."""
    lines = words_of(path).splitlines()
    found = []
    for line, _, text in blocks(path, *SHELL):
        reason = _NOT_RUN.fullmatch(lines[line - 3]) if line > 2 else None
        found.append((typed(text), reason and reason[1]))
    return found


def typed(text):
    """What is typed of a shell block: all, or the commands behind `$ ` with continued lines."""
    if not re.search(r'^\$ ', text, re.MULTILINE):
        return text
    return '\n'.join(re.findall(r'^\$ ((?:.*\\\n)*.*)', text, re.MULTILINE))


def test_only_what_is_typed_runs():
    assert typed('$ a \\\n  b\nc 1\n$ d\ne 2') == 'a \\\n  b\nd'
    assert typed('a\nb') == 'a\nb'


RUN = [
    path
    for path in DOCUMENTS
    if name(path) not in _RUN_ELSEWHERE and any(not reason for _, reason in shell_blocks(path))
]


@pytest.fixture(scope='session')
def shell():
    """Runs a shell block in a folder, with `resnet-jax` and `python` being those under test."""
    environment = os.environ | {
        'XLA_FLAGS': '--xla_backend_optimization_level=0',  # compiling takes longer than running
        'PYTHONPATH': str(ROOT),
        'PATH': f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}',
    }

    def run(text, folder):
        result = subprocess.run(
            ['bash', '-euc', text], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, f'{text}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}'

    return run


@pytest.fixture(scope='session')
def digits_run(shell, tmp_path_factory):
    """A folder with the run that pages suppose, `runs/digits`."""
    folder = tmp_path_factory.mktemp('supposed')
    command = 'resnet-jax train --config digits --workdir runs/digits --config.train.epochs=2'
    shell(command, folder)
    return folder / 'runs'


@pytest.mark.slow
@pytest.mark.parametrize('path', RUN, ids=name)
def test_shell_blocks_run(path, shell, digits_run, tmp_path):
    texts = [text for text, reason in shell_blocks(path) if not reason]
    if 'train --config digits --workdir runs/digits' not in '\n'.join(texts):
        shutil.copytree(digits_run, tmp_path / 'runs')
    for text in texts:
        shell(text, tmp_path)


def test_reasons_stand_above_blocks_and_name_tests_that_exist():
    for path in DOCUMENTS:
        reasons = [reason for _, reason in shell_blocks(path) if reason]
        written = [line for line in words_of(path).splitlines() if _NOT_RUN.fullmatch(line)]
        assert len(written) == len(reasons), path
        for reason in reasons:
            for file in re.findall(r'tests/\w+\.py', reason):
                assert (ROOT / file).is_file(), f'{path}: {file}'


def spec(config):
    """A config as the command gets it in the checkout; names are the package's anywhere."""
    return str(ROOT / config) if '.py' in config else config


@pytest.mark.parametrize('path', [*DOCUMENTS, *NOTEBOOKS], ids=name)
def test_make_targets_and_linked_files_exist(path):
    targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), flags=re.MULTILINE))
    for _, _, text in blocks(path, *SHELL):
        used = {words[1] for words in simple_commands(text) if words[:1] == ['make'] and words[1:]}
        assert used <= targets
    for link in re.findall(r'\]\(([^)#\s]+)', words_of(path)):
        assert ':' in link or (path.parent / link).exists(), link


def test_reports_name_no_folder_of_a_machine():
    """Data are called DATA in a published report, and workdirs are relative."""
    reports = [p for p in ROOT.glob('docs/results/**/*') if p.suffix in ('.md', '.html', '.json')]
    absolute = re.compile(r'(?:dir|workdir|weights|teacher)"?\s*[=:]\s*"?/')
    assert len(reports) > 20
    assert [name(path) for path in reports if absolute.search(path.read_text())] == []


# The walk-throughs of CONTRIBUTING.md


def apply(text, root):
    """Applies a `diff` block: for each file, lines to find and lines to put there."""
    for change in re.split(r'^--- ', text, flags=re.MULTILINE)[1:]:
        file, *lines = change.rstrip('\n').split('\n')
        assert all(line[:1] in ('', ' ', '+', '-') for line in lines), lines
        old = '\n'.join(line[1:] for line in lines if line[:1] != '+') + '\n'
        new = '\n'.join(line[1:] for line in lines if line[:1] != '-') + '\n'
        path = root / file
        found = f'\n{path.read_text()}'.count(f'\n{old}')
        assert found == 1, f'{GUIDE.name} changes lines that {file} holds {found} times:\n{old}'
        path.write_text(f'\n{path.read_text()}'.replace(f'\n{old}', f'\n{new}')[1:])


@pytest.mark.slow
def test_walk_throughs(tmp_path):
    for part in ('resnet_jax', 'tests'):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns('__pycache__'))
    (tmp_path / 'configs').symlink_to('resnet_jax/configs')  # as in the checkout
    shutil.copy(ROOT / 'pyproject.toml', tmp_path)
    environment = os.environ | {
        # Compiling takes longer than running here.
        'XLA_FLAGS': '--xla_backend_optimization_level=0',
        'PYTHONPATH': str(tmp_path),
        'PATH': f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}',
    }
    for line, language, text in blocks(GUIDE, 'diff', 'bash', 'python'):
        if language == 'diff':
            apply(text, tmp_path)
            continue
        command = ['bash', '-euc', text] if language == 'bash' else [sys.executable, '-c', text]
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        output = f'{GUIDE.name}:{line}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}'
        assert result.returncode == 0, output
    for file in ('norm_after_act/summary.json', 'label_smoothing/report.html'):
        assert (tmp_path / 'runs' / file).is_file()


# Notebooks


# Stored with their outputs, for readers who do not have the data.
@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_outputs_of_notebooks(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == 'code']
    for cell in cells:
        assert not [o for o in cell.outputs if o.output_type == 'error']
    assert any('image/png' in o.get('data', {}) for cell in cells for o in cell.outputs)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_notebooks_find_the_checkout(path, tmp_path, monkeypatch):
    """Where nbmake starts them, where `jupyter lab` is often started, and elsewhere."""
    cells = nbformat.read(path, as_version=4).cells
    first = next(cell.source for cell in cells if cell.cell_type == 'code')
    for folder in (path.parent, ROOT, tmp_path):
        monkeypatch.chdir(folder)
        namespace = {}
        exec(compile(first, str(path), 'exec'), namespace)
        assert namespace.get('root', ROOT) == ROOT  # not every notebook needs it
