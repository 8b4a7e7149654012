"""What a person sees of a run while it goes on."""

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time

import pytest
from running import tiny

from resnet_jax import text
from resnet_jax.cli import main
from resnet_jax.commands import models, predict
from resnet_jax.records.writers import Console, signs_of_life
from resnet_jax.training import loop


@pytest.fixture
def terminal():
    """A terminal of 80 columns: its file, and a function that gives what was written to it."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
    with os.fdopen(theirs, 'w') as stderr:

        def written():
            stderr.flush()
            found = b''
            # A terminal passes on what is written to it a part at a time.
            while select.select([ours], [], [], 0.5 if found else 10)[0]:
                found += os.read(ours, 65536)
            assert found, 'nothing was written'
            return found.decode()

        yield stderr, written
    os.close(ours)


def test_the_bar_fits_and_keeps_its_speed(terminal, monkeypatch):
    file, written = terminal
    monkeypatch.setattr(sys, 'stderr', file)
    console = Console(0, 64_000)
    console.advance(63_999, 64_000)
    shown = 'loss 0.1234  top1 100.00 %'
    console.figures(63_999, shown, {'images_per_second': 98765.4}, 128)
    console.close()
    lines = [line for line in re.split(r'[\r\n]+', written()) if '%|' in line]
    assert lines and max(map(len, lines)) <= 80
    assert '98765 images/s' in lines[-1] and '63999/64000' in lines[-1]


def test_there_is_a_sign_of_life_without_a_terminal(capsys, monkeypatch):
    """The first after five seconds, then rarer and rarer."""
    now = 0.0
    monkeypatch.setattr(time, 'monotonic', lambda: now)
    console = Console(0, 1000)
    seen = []
    for step in range(1, 101):
        now += 1.0
        console.advance(1, 1000)
        if capsys.readouterr().err:
            seen.append(step)
    console.close()
    assert seen == [6, 17, 38, 79]
    console = Console(0, 1000, quiet=True)
    now += 100.0
    console.advance(1, 1000)
    assert capsys.readouterr().err == ''


def test_a_run_says_what_it_does_and_that_it_has_finished(tmp_path, capsys):
    config = tiny({'train.steps': 4, 'train.eval_every': 0})
    first = loop.train(config, tmp_path / 'run')
    lines = capsys.readouterr().err.splitlines()
    assert 'starts, 4 steps of 32' in lines[0]
    assert lines[1].startswith('train: 1,437 images of 10 classes, 139 to 146 of each; eval: 360')
    assert lines[2] == 'compiling the first step ...'
    assert loop.train(config, tmp_path / 'run') == first
    assert capsys.readouterr().err == (
        f'the run in {tmp_path / "run"} has finished: all its 4 steps are taken '
        '(to train it further, give --extend and more of them)\n'
    )


def in_terminal(*arguments):
    """Runs a command at a terminal of 80 columns: what it prints there, line by line, and its code.

    Both its outputs are the terminal. What a line was before it was overwritten is left out.
    """
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, '-m', 'resnet_jax', *map(str, arguments)],
        **dict.fromkeys(('stdin', 'stdout', 'stderr'), theirs),
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    )
    os.close(theirs)
    written, until = b'', time.monotonic() + 120
    try:
        while select.select([ours], [], [], max(0.0, until - time.monotonic()))[0]:
            try:
                written += os.read(ours, 65536)
            except OSError:  # the command has ended
                break
        code = process.wait(timeout=30)
    finally:
        process.kill()
        os.close(ours)
    lines = written.decode().replace('\r\n', '\n').split('\n')
    return [line.rpartition('\r')[2] for line in lines], code


def test_a_table_at_a_terminal_of_80_columns():
    lines, code = in_terminal('reproduce', '--list', 'he2016_table1')
    assert code == 0 and max(map(len, lines)) <= 80
    assert sum('constant scaling (0.5, 0.5)' in line for line in lines) == 2  # columns below others
    assert sum('FLOPs' in line for line in lines) > 10


def test_predictions_fit_a_terminal_and_are_lines_for_programs(capsys, monkeypatch):
    classes = [
        ('n02123045 tabby', 0.5),
        ('a very long name of a class ' * 5, 0.3),
        ('猫' * 20, 0.2),
    ]
    top = [{'class': name, 'probability': p} for name, p in classes]
    results = [{'image': name, 'top': top} for name in ('a.png', 'folder/' * 3 + 'b.png')]
    predict._print_table(results)
    assert len(capsys.readouterr().out.splitlines()) == 2
    for long in (False, True):
        monkeypatch.setattr(text, 'terminal_width', lambda: 80)
        results[1]['image'] = 'folder/' * (20 if long else 3) + 'b.png'
        predict._print_table(results)
        out = capsys.readouterr().out
        assert max(map(text.columns_of, out.splitlines())) <= 80
        assert out.count(' 50.0 % n02123045 tabby') == out.count('20.0 % ') == 2
        assert '…' in out and out.count('b.png') == 1


def test_memory_of_models_below_each_other_on_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setattr(models, '_step_bytes', lambda *_: 2**30)
    assert main(['models', 'cifar_preact_*', '--memory', '8']) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) > 70
    monkeypatch.setattr(text, 'terminal_width', lambda: 70)
    assert main(['models', 'cifar_preact_*', '--memory', '8']) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 70
    assert out.count('1,024 MiB') == 5 and out.count('cifar_preact_resnet110') == 2


def test_what_takes_long_shows_signs_of_life():
    said = []
    with signs_of_life('waiting', said.append, patience=0.05):
        until = time.monotonic() + 10
        while len(said) < 2 and time.monotonic() < until:
            time.sleep(0.01)
    assert len(said) >= 2 and said[0].startswith('waiting ... ')
    count = len(said)
    with signs_of_life('nothing', said.append, patience=5):
        pass
    time.sleep(0.1)
    assert len(said) == count
