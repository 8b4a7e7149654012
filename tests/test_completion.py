"""`resnet-jax completion`: its scripts complete in the shells themselves."""

import shlex
import shutil
import subprocess
import sys

import pytest

from resnet_jax.cli import main
from resnet_jax.commands.completion import SHELLS
from resnet_jax.commands.parser import COMMANDS

pytest.importorskip('shtab')


@pytest.fixture(scope='module')
def scripts(tmp_path_factory):
    """Shell -> the file with its script."""
    folder = tmp_path_factory.mktemp('scripts')
    found = {}
    for shell in SHELLS:
        found[shell] = folder / shell
        with found[shell].open('w') as file, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'stdout', file)
            assert main(['completion', shell]) == 0
    return found


def shell_output(shell, *arguments, **options):
    if shutil.which(shell) is None:
        pytest.skip(f'no {shell} here')
    done = subprocess.run([shell, *arguments], capture_output=True, text=True, **options)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize('shell', SHELLS)
def test_the_script_is_valid(scripts, shell):
    shell_output(shell, '-n', scripts[shell])


CASES = [
    ('', set(COMMANDS)),
    ('ana', {'analyze'}),
    ('analyze sim', {'similarity'}),
    ('train --ext', {'--extend'}),
    ('train --config digits_', {'digits_depth', 'digits_detection', 'digits_segmentation'}),
    ('train --config own', {'own.py'}),
    ('config imagenet_', {'imagenet_rsb', 'imagenet_tv2'}),
    ('sweep --config sweeps/width', {'sweeps/width_wrn'}),
    ('eval --model wrn16', {'wrn16_4', 'wrn16_8'}),
    ('models vdcnn1', {'vdcnn17'}),
    ('reproduce fawaz', {'fawaz2019'}),
    ('eval --workdir ru', {'runs'}),
    ('compare ru', {'runs'}),
    ('predict --workdir runs pho', {'photo.png'}),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """One with a folder of runs, a config and an image."""
    (tmp_path / 'runs').mkdir()
    for name in ('own.py', 'photo.png', 'ruler.txt'):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


def test_bash_completes(scripts, folder):
    """As bash calls the function of the script: with the words up to the cursor."""
    lines = [
        f'source {shlex.quote(str(scripts["bash"]))}',
        'eval "$(complete -p resnet-jax | sed "s/.*-F \\([^ ]*\\).*/function=\\1/")"',
    ]
    for line, _ in CASES:
        words = f'resnet-jax {line}'.split(' ')
        lines += [
            f'COMP_WORDS=({" ".join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}',
            '$function; echo "${COMPREPLY[*]}"',
        ]
    found = shell_output('bash', '--norc', '-c', '\n'.join(lines)).splitlines()
    for (line, expected), answer in zip(CASES, found, strict=True):
        assert set(answer.split()) == expected, line


def test_fish_completes(scripts, folder):
    lines = [f'source {shlex.quote(str(scripts["fish"]))}']
    lines += [f'complete -C {shlex.quote(f"resnet-jax {line}")}; echo ----' for line, _ in CASES]
    answers = shell_output('fish', '--no-config', '-c', '\n'.join(lines)).split('----\n')
    for (line, expected), answer in zip(CASES, answers, strict=False):
        found = {row.split('\t')[0].rstrip('/') for row in answer.splitlines()}
        assert expected <= found, line
