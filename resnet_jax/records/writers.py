"""What a run writes while it trains: metrics.jsonl, TensorBoard events and the console."""

import contextlib
import json
import math
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from resnet_jax.errors import InputError, Range
from resnet_jax.json_files import parse_json, unreadable
from resnet_jax.text import paragraph, print_line, terminal_width

ID_FILE = 'tracking_id'
_ANY = Range().holds


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file: a reader, also after a crash, sees the old text or the new."""
    temporary = path.with_name(path.name + '.tmp')
    with temporary.open('w') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def check_file(path: Path, what: str, remedy: str) -> None:
    """Checks that a file can be written, before anything is computed for it.

    Args:
      path: the file; one that exists stays as it is.
      what: the file in the message, such as '--out FILE'.
      remedy: what to do otherwise, for the message.

    Raises:
      InputError: if it cannot be opened for writing.
    """
    existed = path.exists()
    try:
        path.open('ab').close()
    except OSError as error:
        raise InputError(f'cannot write {what}: {error.strerror}; {remedy}') from None
    if not existed:
        path.unlink()


def check_folder(folder: Path, remedy: str) -> None:
    """Checks that files can be written into a folder, which may not exist yet.

    Args:
      folder: the folder; it is not made.
      remedy: what to do otherwise, for the message.

    Raises:
      InputError: if it cannot be made or written.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f'cannot write in {folder}: {there} is no folder; {remedy}')
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f'cannot write in {folder}: no permission for {there}; {remedy}')


def run_id(folder: Path) -> str:
    """What a run's record in a tracker is found by when the run is resumed.

    It is made up the first time, and where its file is damaged: then a new record begins.
    """
    path = folder / ID_FILE
    try:
        found = path.read_text(encoding='ascii').strip()
    except (OSError, UnicodeDecodeError):
        found = ''
    if not re.fullmatch(r'[\w-]{1,64}', found):
        found = secrets.token_hex(8)
        write_atomically(path, found + '\n')
    return found


def read_metrics(workdir: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's metrics.jsonl that hold figures of a step.

    Left out is what does not: a last line that a crash cut short, and lines that were damaged. Each
    line stands for itself, so the good ones after a bad one are read.

    Raises:
      Unreadable: if the file cannot be read at all.
    """
    path = workdir / 'metrics.jsonl'
    if not path.exists():
        return
    try:
        text = path.read_text(encoding='utf-8', errors='replace')
    except OSError as error:
        raise unreadable(path, error, 'move it away; its figures are lost') from error
    for line in text.split('\n'):
        with contextlib.suppress(ValueError):
            figures = parse_json(line)
            if _is_of_a_step(**figures):
                yield figures


def _is_of_a_step(step: Any = None, split: Any = None, **figures: Any) -> bool:
    """Whether a line of metrics.jsonl can have held this; null stands for infinity or NaN."""
    numbers = (value for value in figures.values() if value is not None)
    return Range(0, whole=True).holds(step) and isinstance(split, str) and all(map(_ANY, numbers))


class MetricWriter:
    """Appends figures to metrics.jsonl and to TensorBoard events.

    Attributes:
      step: the step that the run resumes from; what was written beyond it, before a crash, is
        dropped, so that the files are those of an uninterrupted run.
    """

    def __init__(self, workdir: Path, step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        lines = [m for m in read_metrics(workdir) if m['step'] <= step]
        write_atomically(
            workdir / 'metrics.jsonl', ''.join(json.dumps(line) + '\n' for line in lines)
        )
        self._file = (workdir / 'metrics.jsonl').open('a')
        # Not SummaryWriter: on a full disk its thread dies, and waiting for it takes forever.
        self._events = EventsWriter(str(workdir / 'events'))
        if step:
            self._events.write_event(_restart_after(step))

    def write(self, step: int, split: str, figures: Mapping[str, float]) -> None:
        """Appends {'step', 'split', **figures} as a line; infinities and NaN become null."""
        clean = {k: v if math.isfinite(v) else None for k, v in figures.items()}
        self._file.write(json.dumps({'step': step, 'split': split, **clean}) + '\n')
        self._file.flush()
        self._events.write_event(_event(step, {f'{split}/{k}': v for k, v in figures.items()}))
        self._events.flush()

    def close(self) -> None:
        """Closes the files."""
        for file in (self._file, self._events):
            with contextlib.suppress(OSError):  # `write` has reported it; nothing is left to flush
                file.close()


def _event(step: int, scalars: Mapping[str, float]) -> Any:
    """A TensorBoard event of some scalars."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
    return Event(wall_time=time.time(), step=step, summary=Summary(value=values))


def _restart_after(step: int) -> Any:
    """The event that makes TensorBoard hide what earlier files hold of later steps."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    return Event(
        wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START)
    )


# Fits into 80 columns with the figures that follow; the bar takes what is left.
_BAR = '{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]'
_PATIENCE = 5.0  # seconds without a line before the first sign of life, where there is no bar


@contextlib.contextmanager
def signs_of_life(
    doing: str,
    say: Callable[[str], None] = print_line,
    patience: float = _PATIENCE,
    growth: float = 2.0,
) -> Iterator[None]:
    """Reports that an operation is still running, at growing intervals.

    Args:
      doing: the operation, such as 'evaluating'.
      say: takes a line, in a thread of its own.
      patience: seconds before the first line.
      growth: factor from one interval to the next.
    """
    ended, began = threading.Event(), time.monotonic()

    def speak() -> None:
        left = patience
        while not ended.wait(left):
            say(f'{doing} ... {tqdm.format_interval(time.monotonic() - began)}')
            left *= growth

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Console:
    """A progress bar on a terminal, plain lines otherwise, on standard error; or nothing."""

    def __init__(self, first_step: int, last_step: int, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar = tqdm(
            total=last_step,
            initial=first_step,
            unit='step',
            disable=quiet or None,
            dynamic_ncols=True,
            smoothing=0.05,
            bar_format=_BAR,
        )
        self._last_step = last_step
        self._taken = first_step
        self._began = self._spoken = time.monotonic()
        self._patience = _PATIENCE

    def advance(self, steps: int, total: int, runs: int = 1) -> None:
        """Moves the bar by steps that were dispatched, of `total`, for `runs` runs at a time."""
        self._bar.update(steps)
        self._taken += steps
        now = time.monotonic()
        if self._bar.disable and not self._quiet and now - self._spoken > self._patience:
            self._patience *= 2
            self._still_there(now, total)

    def _still_there(self, now: float, total: int) -> None:
        """A line where none has been printed for a while; rarer and rarer."""
        self.say(f'step {self._taken}/{total} after {tqdm.format_interval(now - self._began)}')

    def finished(self, folder: Path, summary: Mapping[str, Any]) -> None:
        """Called when a run has finished and its summary is written."""

    def figures(
        self,
        step: int,
        shown: str,
        figures: Mapping[str, float],
        images_left: int,
        name: str = '',
    ) -> None:
        """Shows the training figures of a run at a step, in words; the speed where it is known."""
        left = ''
        if speed := figures.get('images_per_second'):
            shown += f'  {speed:.0f} images/s'
            if (wait := figures.get('data_wait')) is not None:
                shown += f'  data wait {100 * wait:.0f} %'
            if bad := figures.get('bad_images'):
                shown += f'  {bad:.0f} bad images'
            left = f'  {tqdm.format_interval(images_left / speed)} left'
        if self._bar.disable:
            self.say(f'{name}step {step}/{self._last_step}  {shown}{left}')
        else:
            self._bar.set_postfix_str(name + shown)

    def say(self, line: str) -> None:
        """Prints a line, above the bar where there is one."""
        if self._quiet:
            return
        self._spoken = time.monotonic()
        if self._bar.disable:
            print(line, file=sys.stderr, flush=True)
        else:
            print_line(paragraph(line, terminal_width(sys.stderr), '  '))

    def close(self) -> None:
        """Leaves the bar where it is."""
        self._bar.close()
