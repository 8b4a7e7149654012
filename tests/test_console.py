"""What a person sees of a run while it goes on."""

import fcntl
import os
import re
import select
import struct
import sys
import termios
import time

import pytest
from running import tiny

from resnet_jax.records.writers import Console
from resnet_jax.training import loop


@pytest.fixture
def terminal():
    """A terminal of 80 columns: its file, and a function that gives what was written to it."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
    with os.fdopen(theirs, 'w') as stderr:

        def written():
            stderr.flush()
            assert select.select([ours], [], [], 10)[0], 'nothing was written'
            return os.read(ours, 65536).decode()

        yield stderr, written
    os.close(ours)


def test_the_bar_fits_and_keeps_its_speed(terminal, monkeypatch):
    file, written = terminal
    monkeypatch.setattr(sys, 'stderr', file)
    console = Console(0, 64_000)
    console.advance(63_999, 64_000)
    console.figures(63_999, {'loss': 0.1234, 'top1': 1.0, 'images_per_second': 98765.4}, 128)
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
        f'the run in {tmp_path / "run"} has finished: all its 4 steps are taken\n'
    )
