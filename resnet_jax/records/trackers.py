"""Weights & Biases and MLflow as mirrors of a run's metrics.jsonl. See docs/tracking.md.

A thread of its own sends to each what that file holds. A server that is slow or gone delays nothing
but that thread, and what it missed is sent when it is back, or when the run is continued.
"""

import contextlib
import importlib.util
import json
import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from ml_collections import ConfigDict
from tqdm import tqdm

from resnet_jax.errors import InputError, Interrupted, Stopped, first_line, unknown_name
from resnet_jax.records.tracker_clients import (
    Client,
    TrackedRun,
    connect_mlflow,
    connect_wandb,
    without_password,
)
from resnet_jax.records.writers import write_atomically

# What each is called, where it takes its project from if the config does not say, how to reach it.
TRACKERS: dict[str, tuple[str, str, Callable[[TrackedRun], Client]]] = {
    'wandb': ('Weights & Biases', 'WANDB_PROJECT', connect_wandb),
    'mlflow': ('MLflow', 'MLFLOW_EXPERIMENT_NAME', connect_mlflow),
}
PROJECT = 'resnet-jax'
ID_FILE = 'tracking_id'  # in the workdir: by it a continued run finds its record again
_RETRY = 60  # seconds after which a tracker that failed is tried again
_PATIENCE = 30  # seconds that the end of a run waits for a tracker


def check_trackers(names: Sequence[str]) -> None:
    """Refuses trackers that do not exist or are not installed.

    Raises:
      InputError: naming the nearest, or the extra to install.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown_name('tracker in log.trackers', name, TRACKERS)
        if not _installed(name):
            raise InputError(
                f'log.trackers: {TRACKERS[name][0]} needs the extra: '
                f'pip install "resnet-jax[{name}]"'
            )


def _installed(name: str) -> bool:
    try:
        found = importlib.util.find_spec(name)
    except ValueError:  # somebody has put it out of reach
        return False
    return found is not None and found.origin is not None  # else it is a folder of that name


def check_login(config: ConfigDict) -> None:
    """Refuses Weights & Biases online without a key, for which it would ask on the way.

    Raises:
      InputError: with what to do.
    """
    if 'wandb' not in _settings(config)[0]:
        return
    os.environ.setdefault('WANDB_SILENT', 'true')  # before it reads its settings
    import wandb

    problem = 'you are not logged in'
    try:
        settings = wandb.setup().settings
        if settings.mode in ('offline', 'dryrun', 'disabled'):
            return
        if wandb.login(prompt=False, verify=False):
            return
    except wandb.Error as error:  # such as a key of the wrong form
        problem = first_line(error)
    raise InputError(
        f'log.trackers: Weights & Biases: {problem}; run `wandb login`, set WANDB_API_KEY, or set '
        'WANDB_MODE=offline'
    )


class Mirrors:
    """All trackers of a run; there may be none."""

    def __init__(self, mirrors: Sequence['_Mirror']) -> None:
        self._mirrors = mirrors

    def notify(self) -> None:
        """Says that metrics.jsonl has grown."""
        for mirror in self._mirrors:
            mirror.news.set()

    def close(self, error: BaseException | None, summary: Mapping[str, Any]) -> None:
        """Records how the run ended; waits for that, but not for long.

        Args:
          error: what ended it; None: it came to its last step.
          summary: the flattened summary.json, {} where there is none.
        """
        for mirror in self._mirrors:
            mirror.end(_status(error), summary)
        for mirror in self._mirrors:
            mirror.join()


def follow(
    config: ConfigDict, folder: Path, fields: Mapping[str, Any], say: Callable[[str], None]
) -> Mirrors:
    """Begins to record a run, or goes on with the record of one that is continued.

    Args:
      config: of the run.
      folder: the workdir; its metrics.jsonl must be that of the step that the run goes on from.
      fields: the config, flattened.
      say: told where the run is recorded.
    """
    names, project = _settings(config)
    if not names:
        return Mirrors([])
    path = folder / ID_FILE
    if not path.is_file():
        write_atomically(path, secrets.token_hex(8) + '\n')
    name, group = _name_and_group(folder)
    mirrors = []
    for tracker in dict.fromkeys(names):
        title, variable, connect = TRACKERS[tracker]
        run = TrackedRun(
            id=path.read_text().strip(),
            project=project or os.environ.get(variable) or PROJECT,
            name=name,
            group=group,
            folder=folder,
            fields={key: value for key, value in fields.items() if value is not None},
        )
        mirrors.append(_Mirror(title, run, connect, say))
    return Mirrors(mirrors)


def _settings(config: ConfigDict) -> tuple[Sequence[str], str | None]:
    """The trackers' names and their project."""
    log = config.get('log')  # runs of earlier versions lack it
    return (log.trackers, log.project) if log is not None else ((), None)


def _name_and_group(folder: Path) -> tuple[str, str | None]:
    """Runs of a sweep live in ARM/seedN, and belong to their arm."""
    whole = folder.resolve()
    name, parent = whole.name, whole.parent.name
    return (f'{parent}/{name}', parent) if re.fullmatch(r'seed\d+', name) else (name, None)


def _status(error: BaseException | None) -> str:
    if error is None:
        return 'finished'
    asked = isinstance(error, Interrupted | Stopped | KeyboardInterrupt)
    return 'killed' if asked else 'failed'


class _Mirror:
    """Keeps a tracker's record of a run equal to its metrics.jsonl, from a thread of its own."""

    def __init__(
        self,
        title: str,
        run: TrackedRun,
        connect: Callable[[TrackedRun], Client],
        say: Callable[[str], None],
    ) -> None:
        self._title, self._run, self._connect, self._say = title, run, connect, say
        self._ending: tuple[str, Mapping[str, Any]] | None = None  # status, summary
        self._ended = threading.Event()
        self.news = threading.Event()
        # A daemon: a program need not wait for a server that does not answer.
        self._thread = threading.Thread(target=self._work, name=f'to {title}', daemon=True)
        self._thread.start()

    def end(self, status: str, summary: Mapping[str, Any]) -> None:
        """Says that no more will come."""
        self._ending = status, summary
        self._ended.set()
        self.news.set()

    def join(self) -> None:
        """Waits until all is sent or given up."""
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            self._warn(f'has not taken everything in {_PATIENCE} s, and is left')

    def _work(self) -> None:
        failed = False
        while True:
            ended = self._ended.is_set()
            try:
                return self._send()
            except Exception as error:  # whatever a library of others may raise
                if not failed:
                    reason = f'{type(error).__name__}: {without_password(first_line(error))}'
                    self._warn(f'does not record the run ({reason}); training goes on')
            if ended:
                return
            failed = True
            self._ended.wait(_RETRY)

    def _send(self) -> None:
        """Sends what is there and what comes, until the end."""
        client = self._connect(self._run)
        self._say(f'recorded by {self._title}: {client.where}')
        with (self._run.folder / 'metrics.jsonl').open() as file:
            while True:
                self.news.clear()
                ended = self._ending  # looked at first: all lines are written before it is set
                if lines := _new_lines(file):
                    client.log(lines)
                if ended:
                    return client.end(*ended)
                self.news.wait()

    def _warn(self, text: str) -> None:
        # Not by the run's console, which is silent in a sweep.
        with contextlib.suppress(OSError):
            tqdm.write(f'{self._run.folder}: {self._title} {text}', file=sys.stderr)


def _new_lines(file: TextIO) -> list[dict[str, Any]]:
    """The lines after the position of a file that grows; the position is then behind them."""
    lines: list[dict[str, Any]] = []
    while True:
        position = file.tell()
        text = file.readline()
        if not text.endswith('\n'):  # the end, or half a line
            file.seek(position)
            return lines
        lines.append(json.loads(text))
