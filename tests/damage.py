"""A finished run, what can happen to a file of it, and what every command must then do."""

import contextlib
import io
import json
import os
import pathlib
import random
import shutil
import types
from collections.abc import Callable

from PIL import Image
from run_folders import write_run, write_sweep
from running import flags

from resnet_jax.cli import main
from resnet_jax.experiments.results import write_failure

FIELDS = {'checkpoint.keep': 3, 'train.steps': 12}
DEEP = '[' * 100_000
# Written again by a report or an evaluation, and read by nothing.
OUTPUTS = ('report.', 'curves.', 'confusion', 'compare.', 'final_error.', 'runs.csv')


def _folder(path: pathlib.Path, data: bytes) -> None:
    path.unlink()
    path.mkdir()
    (path / 'inside').write_text('')


def _flip(path: pathlib.Path, data: bytes) -> None:
    """A bit in the middle. In a text it may be a digit, which nothing tells from another one."""
    middle = len(data) // 2
    if path.suffix not in ('.json', '.jsonl'):
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :])


def _write(text: str) -> Callable[[pathlib.Path, bytes], None]:
    return lambda path, data: path.write_text(text) and None


# What happens to a file, given its path and its contents.
KINDS: dict[str, Callable[[pathlib.Path, bytes], None]] = {
    'emptied': _write(''),
    'halved': lambda path, data: path.write_bytes(data[: len(data) // 2]) and None,
    'zeros': lambda path, data: path.write_bytes(bytes(len(data))) and None,
    'noise': lambda path, data: path.write_bytes(random.Random(0).randbytes(len(data))) and None,
    'flipped': _flip,
    'folder': _folder,
    'nested': _write(DEEP),
    'nested objects': _write('{"a":' * 100_000),
    'a list': _write('[]'),
    'a number': _write('3'),
    'an object': _write('{}'),
    'null': _write('null'),
    'deleted': lambda path, data: path.unlink(),
}


def files(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with its size and when it was written."""
    found = {}
    for parent, _, names in os.walk(folder):
        for path in (os.path.join(parent, name) for name in names):
            stat = os.stat(path)
            found[os.path.relpath(path, folder)] = stat.st_size, stat.st_mtime_ns
    return dict(sorted(found.items()))


def changed(copy: pathlib.Path, source: pathlib.Path) -> list[str]:
    """The files of a folder that a copy of it lacks, or has with other contents."""
    there = files(copy)
    return [
        name
        for name, stat in files(source).items()
        if there.get(name) != stat
        and (name not in there or (copy / name).read_bytes() != (source / name).read_bytes())
    ]


def restore(copy: pathlib.Path, source: pathlib.Path) -> None:
    """Makes a copy of a folder like the folder again."""
    there, wanted = files(copy), files(source)
    for name in there.keys() - wanted.keys():
        (copy / name).unlink()
    for name, stat in wanted.items():
        if there.get(name) != stat:
            path = copy / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, path)
    for parent, _, _ in os.walk(copy, topdown=False):
        if not (source / os.path.relpath(parent, copy)).is_dir():
            os.rmdir(parent)


def call(*arguments: object) -> types.SimpleNamespace:
    """Runs a command in this process: exit code, and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:  # argparse
            code = stop.code
    return types.SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def make_runs(root: pathlib.Path) -> None:
    """`finished`, a run with every output; `stopped`, the same before its last steps; `x.png`."""
    finished, stopped = root / 'finished', root / 'stopped'
    Image.new('L', (8, 8), 90).save(root / 'x.png')
    assert call('train', *flags(FIELDS), '--workdir', finished).returncode == 0
    shutil.copytree(finished, stopped)
    (stopped / 'summary.json').unlink()
    shutil.rmtree(stopped / 'checkpoints' / '12')
    write_failure(stopped, 'of bad luck')
    lines = (stopped / 'metrics.jsonl').read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)['step'] <= 8]
    (stopped / 'metrics.jsonl').write_text(''.join(kept))
    shutil.rmtree(finished / 'checkpoints' / '4')
    write_run(root / 'other', 1, 20.0)
    sweep = write_sweep(root / 'sweep', {'a': [None, 11.0], 'b': [12.0, 13.0]})
    shutil.copytree(finished, sweep / 'runs' / 'a' / 'seed0')


def write_outputs(root: pathlib.Path) -> None:
    """What commands add to a run's workdir: its report and its confusion matrix."""
    for run in (root / 'finished', root / 'sweep' / 'runs' / 'a' / 'seed0'):
        assert call('report', '--workdir', run).returncode == 0
        assert call('eval', '--per-class', '--workdir', run).returncode == 0


# Command -> (folder that it is about, where the run is in it; its arguments; what of its result
# must be as without damage). Below `root`, with a folder for what it writes.
Where = tuple[pathlib.Path, pathlib.Path]
MODEL = [a.replace('config.', '') for a in flags({}) if a.startswith('--config.model.')]


def _ended(runs: list[dict]) -> dict[str, object]:
    return {run.get('workdir', run.get('folder', 'run'))[-9:]: run.get('error') for run in runs}


def _json(result: types.SimpleNamespace, *keys: str) -> dict[str, object]:
    found = json.loads(result.stdout)
    return {key: found.get(key) for key in keys} if keys else found


def _summary(folder: pathlib.Path) -> object:
    return json.loads((folder / 'summary.json').read_text())['eval']


COMMANDS: dict[str, tuple[str, Callable, Callable]] = {
    'eval': (
        'finished',
        lambda run, root: ['eval', '--workdir', run, '--json'],
        lambda result, run: _json(result, 'n', 'loss', 'top1', 'top5', 'ece', 'step'),
    ),
    'predict': (
        'finished',
        lambda run, root: ['predict', '--workdir', run, root / 'x.png', '--json'],
        lambda result, run: _json(result, 'predictions'),
    ),
    'compare': (
        'finished',
        lambda run, root: ['compare', run, root / 'other', '--json'],
        lambda result, run: _ended([r for g in _json(result)['groups'] for r in g['runs']]),
    ),
    'report': (
        'finished',
        lambda run, root: ['report', '--workdir', run, '--json'],
        lambda result, run: {
            **_ended([_json(result)['run']]),
            'top1': _json(result)['evaluation'].get('top1'),
        },
    ),
    'convert': (
        'finished',
        lambda run, root: ['convert', run, root / 'out.npz', '--model=cifar_resnet8', *MODEL,
                           '--overwrite'],
        lambda result, run: hash((run.parent / 'out.npz').read_bytes()),
    ),
    'train': (
        'finished',
        lambda run, root: ['train', *flags(FIELDS), '--workdir', run],
        lambda result, run: _summary(run),
    ),
    'resume': (
        'stopped',
        lambda run, root: ['train', *flags(FIELDS), '--workdir', run],
        lambda result, run: _summary(run),
    ),
    'sweep': (
        'sweep',
        lambda run, root: ['report', '--workdir', run, '--json'],
        lambda result, run: _ended(_json(result)['runs']),
    ),
}  # fmt: skip
