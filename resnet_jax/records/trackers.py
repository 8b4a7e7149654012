"""Weights & Biases and MLflow as mirrors of a run's metrics.jsonl. See docs/tracking.md.

A thread per tracker sends the lines of that file. A server that is slow or gone delays only its
thread; what it missed is sent when it is back, or when the run is resumed.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from resnet_jax.errors import InputError, Interrupted, Stopped, check_choice, first_line
from resnet_jax.records.writers import run_id

DEFAULT_PROJECT = 'resnet-jax'
_RETRY = 60  # seconds after which a tracker that failed is tried again
_PATIENCE = 30  # seconds that the end of a run waits for a tracker
_PARAMS_AT_ONCE, _METRICS_AT_ONCE = 100, 1000  # the most that MLflow takes in a call
_WANDB_TIMEOUT = 30  # seconds, to begin and to end
_ID_TAG = 'tracking_id'
Line = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker sees it.

    Attributes:
      id: the same after the run is resumed.
      project: that the run is filed under.
      name: to show.
      group: of runs that differ in their seeds alone; None: it belongs to none.
      folder: the workdir.
      fields: the flattened config, without fields that are not set.
    """

    id: str
    project: str
    name: str
    group: str | None
    folder: Path
    fields: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Client:
    """A run's record in a tracker. Each call may block, and may fail in any way.

    Attributes:
      where: where to find the record, to print.
      log: records lines of metrics.jsonl, except those already recorded.
      end: (status, summary): records that the run is 'finished', 'failed' or 'killed', and the
        flattened summary.
    """

    where: str
    log: Callable[[Sequence[Line]], None]
    end: Callable[[str, Mapping[str, Any]], None]


def without_password(text: str) -> str:
    """Removes USER:PASSWORD@ from the addresses in a text."""
    return re.sub(r'//[^/@\s]*@', '//', text)


def _figures(line: Line) -> dict[str, float]:
    """{'train/loss': ...} of a line of metrics.jsonl; what was not finite is omitted."""
    return {
        f'{line["split"]}/{key}': value
        for key, value in line.items()
        if key not in ('step', 'split') and value is not None
    }


def _with_prefix(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {f'summary/{key}': value for key, value in summary.items() if value is not None}


def connect_wandb(run: TrackedRun) -> Client:
    """Starts or resumes the run in Weights & Biases; its files go into the workdir.

    The server keeps what it has of a resumed run, and takes later rows only. Offline, nothing can
    be resumed: each resumption writes a file with the run from its first step, which replaces the
    earlier ones when it is synced.
    """
    import wandb

    record = wandb.init(
        project=run.project,
        id=run.id,
        name=run.name,
        group=run.group,
        dir=str(run.folder),
        resume='allow',
        reinit='create_new',
        settings=wandb.Settings(
            silent=True, console='off', init_timeout=_WANDB_TIMEOUT, finish_timeout=_WANDB_TIMEOUT
        ),
    )
    record.config.update(dict(run.fields), allow_val_change=True)
    for split in ('train', 'eval', 'signal'):
        record.define_metric(f'{split}/*', step_metric='step')
    next_row = record.step  # the first that is not recorded

    def log(lines: Sequence[Line]) -> None:
        for line in lines:
            # Rows must be numbered upwards; a step has up to two, perhaps from two processes. The
            # signal is written before the training figures of its step, and waits for them.
            row = 2 * line['step'] + (line['split'] == 'eval')
            if row >= next_row:
                figures = {**_figures(line), 'step': line['step']}
                record.log(figures, step=row, commit=line['split'] != 'signal')

    def end(status: str, summary: Mapping[str, Any]) -> None:
        record.summary.update({**_with_prefix(summary), 'status': status})
        record.finish(exit_code=0 if status == 'finished' else 1)

    offline = f'{Path(record.dir).parent}, which `wandb sync` sends'
    return Client(record.url or offline, log, end)


def connect_mlflow(run: TrackedRun) -> Client:
    """Starts the run in MLflow, or finds it by its tag; without a server, in the workdir.

    A figure that is recorded stays: that of a step trained again after a crash is not repeated.
    """
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    uri = os.environ.get('MLFLOW_TRACKING_URI') or (run.folder.resolve() / 'mlruns').as_uri()
    client = MlflowClient(uri)
    experiment = _experiment(client, run.project)
    found = client.search_runs([experiment], f"tags.{_ID_TAG} = '{run.id}'", max_results=1)
    tags = {_ID_TAG: run.id} | ({'group': run.group} if run.group else {})
    record = found[0] if found else client.create_run(experiment, tags=tags, run_name=run.name)
    number = record.info.run_id
    client.update_run(number, status='RUNNING')
    params = [Param(k, str(v)) for k, v in run.fields.items() if k not in record.data.params]
    for part in _parts(params, _PARAMS_AT_ONCE):
        client.log_batch(number, params=part)
    recorded = {
        (key, metric.step)
        for key in record.data.metrics
        for metric in client.get_metric_history(number, key)
    }

    def send(figures: Sequence[tuple[str, float, int]]) -> None:
        now = int(1000 * time.time())
        new = [Metric(k, v, now, step) for k, v, step in figures if (k, step) not in recorded]
        for part in _parts(new, _METRICS_AT_ONCE):
            client.log_batch(number, metrics=part)

    def log(lines: Sequence[Line]) -> None:
        send([(k, v, line['step']) for line in lines for k, v in _figures(line).items()])

    def end(status: str, summary: Mapping[str, Any]) -> None:
        values = _with_prefix(summary)
        step = summary.get('steps', 0)
        send([(k, v, step) for k, v in values.items() if isinstance(v, int | float)])
        texts = [RunTag(k, v) for k, v in values.items() if isinstance(v, str)]
        client.log_batch(number, tags=texts)
        client.set_terminated(number, status.upper())

    return Client(f'{without_password(uri)}, experiment {run.project}, run {run.name}', log, end)


def _parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[i : i + size] for i in range(0, len(values), size))


def _experiment(client: Any, project: str) -> str:
    """The id of the experiment of a name; created if it does not exist."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(project)
    if experiment is None:
        try:
            return client.create_experiment(project)
        except MlflowException:  # another run may have created it meanwhile
            experiment = client.get_experiment_by_name(project)
            if experiment is None:
                raise
    return experiment.experiment_id


# Name -> (title, variable that names a project, how to connect).
TRACKERS: dict[str, tuple[str, str, Callable[[TrackedRun], Client]]] = {
    'wandb': ('Weights & Biases', 'WANDB_PROJECT', connect_wandb),
    'mlflow': ('MLflow', 'MLFLOW_EXPERIMENT_NAME', connect_mlflow),
}


def check_trackers(names: Sequence[str]) -> None:
    """Refuses trackers that do not exist or are not installed.

    Raises:
      InputError: naming the nearest, or the extra to install.
    """
    for name in names:
        check_choice('tracker in log.trackers', name, TRACKERS)
        if not _installed(name):
            raise InputError(
                f'log.trackers: {TRACKERS[name][0]} needs the extra: '
                f'pip install "resnet-jax[{name}]"'
            )


def _installed(name: str) -> bool:
    try:
        found = importlib.util.find_spec(name)
    except ValueError:  # a test or program has hidden the module
        return False
    return found is not None and found.origin is not None  # else it is a folder of that name


def check_login(trackers: Sequence[str]) -> None:
    """Refuses Weights & Biases online without a key, for which it would prompt later.

    Raises:
      InputError: with what to do.
    """
    if 'wandb' not in trackers:
        return
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
    """All trackers of a run, possibly none."""

    def __init__(self, mirrors: Sequence['_Mirror']) -> None:
        self._mirrors = mirrors

    def notify(self) -> None:
        """Reports that metrics.jsonl has grown."""
        for mirror in self._mirrors:
            mirror.news.set()

    def close(self, error: BaseException | None, summary: Mapping[str, Any]) -> None:
        """Records how the run ended, and waits for that up to `_PATIENCE` seconds.

        Args:
          error: what ended it; None: it took its last step.
          summary: the flattened summary.json; {} if there is none.
        """
        for mirror in self._mirrors:
            mirror.end(_status(error), summary)
        for mirror in self._mirrors:
            mirror.join()


def follow(
    trackers: Sequence[str],
    project: str | None,
    folder: Path,
    fields: Mapping[str, Any],
    say: Callable[[str], None],
) -> Mirrors:
    """Starts to record a run, or resumes the record of one that is resumed.

    Args:
      trackers: keys of `TRACKERS`.
      project: that the run is filed under; None: as the tracker's own variable says.
      folder: the workdir; its metrics.jsonl must end at the step that the run resumes from.
      fields: the config, flattened.
      say: prints where the run is recorded.
    """
    if not trackers:
        return Mirrors([])
    name, group = _name_and_group(folder)
    mirrors = []
    for tracker in dict.fromkeys(trackers):
        title, variable, connect = TRACKERS[tracker]
        run = TrackedRun(
            id=run_id(folder),
            project=project or os.environ.get(variable) or DEFAULT_PROJECT,
            name=name,
            group=group,
            folder=folder,
            fields={key: value for key, value in fields.items() if value is not None},
        )
        mirrors.append(_Mirror(title, run, connect, say))
    return Mirrors(mirrors)


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
        # A daemon: the program need not wait for a server that does not answer.
        self._thread = threading.Thread(target=self._work, name=f'to {title}', daemon=True)
        self._thread.start()

    def end(self, status: str, summary: Mapping[str, Any]) -> None:
        """Reports that no more lines will come."""
        self._ending = status, summary
        self._ended.set()
        self.news.set()

    def join(self) -> None:
        """Waits until everything is sent, up to `_PATIENCE` seconds."""
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            self._warn(f'did not take everything within {_PATIENCE} s; training goes on without it')

    def _work(self) -> None:
        failed = False
        while True:
            ended = self._ended.is_set()
            try:
                return self._send()
            except Exception as error:  # the libraries raise anything
                if not failed:
                    reason = f'{type(error).__name__}: {without_password(first_line(error))}'
                    self._warn(f'does not record the run ({reason}); training goes on')
            if ended:
                return
            failed = True
            self._ended.wait(_RETRY)

    def _send(self) -> None:
        """Sends the lines that there are and that come, until the end."""
        client = self._connect(self._run)
        self._say(f'recorded by {self._title}: {client.where}')
        with (self._run.folder / 'metrics.jsonl').open() as file:
            while True:
                self.news.clear()
                ended = self._ending  # read first: all lines are written before it is set
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
    """The complete lines after the current position of a growing file, which moves behind them."""
    lines: list[dict[str, Any]] = []
    while True:
        position = file.tell()
        text = file.readline()
        if not text.endswith('\n'):  # the end, or half a line
            file.seek(position)
            return lines
        lines.append(json.loads(text))
