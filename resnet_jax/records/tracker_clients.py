"""What a run's record is in Weights & Biases and in MLflow, each through its own library."""

import dataclasses
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# What MLflow's library reads; what the user has set stays.
_MLFLOW_ENVIRONMENT = {
    # Since 3.13 it refuses a folder as its store unless told that this is meant. A folder is what
    # it needs no database for, and what can lie on any disk, in any workdir.
    'MLFLOW_ALLOW_FILE_STORE': 'true',
    'MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT': 'true',
    # Its own are 7 retries of 120 s; it is tried again as a whole, see trackers.py.
    'MLFLOW_HTTP_REQUEST_MAX_RETRIES': '2',
    'MLFLOW_HTTP_REQUEST_TIMEOUT': '20',
}
# What MLflow takes in a call.
_PARAMS_AT_ONCE, _METRICS_AT_ONCE = 100, 1000
_WANDB_TIMEOUT = 30  # seconds, for beginning and for ending
_ID_TAG = 'tracking_id'
Line = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """A run, as a tracker should call it.

    Attributes:
      id: that of the run in its workdir; the same after it was continued.
      project: what runs are filed under.
      name: for people.
      group: of runs that differ in their seeds alone; None: it belongs to none.
      folder: the workdir.
      fields: the flattened config, without what is not set.
    """

    id: str
    project: str
    name: str
    group: str | None
    folder: Path
    fields: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Client:
    """A run's record in a tracker; each call may block, and may fail in any way.

    Attributes:
      where: to find it, for people.
      log: records lines of metrics.jsonl, but for those that are recorded.
      end: (status, summary): records that the run is 'finished', 'failed' or 'killed', and the
        flattened summary.
    """

    where: str
    log: Callable[[Sequence[Line]], None]
    end: Callable[[str, Mapping[str, Any]], None]


def without_password(text: str) -> str:
    """Takes USER:PASSWORD@ out of the addresses in a text."""
    return re.sub(r'//[^/@\s]*@', '//', text)


def _figures(line: Line) -> dict[str, float]:
    """{'train/loss': ...} of a line of metrics.jsonl; what was not finite is left out."""
    return {
        f'{line["split"]}/{key}': value
        for key, value in line.items()
        if key not in ('step', 'split') and value is not None
    }


def _summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {f'summary/{key}': value for key, value in summary.items() if value is not None}


def connect_wandb(run: TrackedRun) -> Client:
    """Begins or resumes the run in Weights & Biases; its files go into the workdir.

    The server keeps what it has of a resumed run, and takes later rows only. Offline nothing can be
    resumed, so each continuation's file holds the run from its first step: it replaces the earlier
    ones when it is sent.
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
    for split in ('train', 'eval'):
        record.define_metric(f'{split}/*', step_metric='step')
    taken = record.step  # the first row that is not there yet

    def log(lines: Sequence[Line]) -> None:
        for line in lines:
            # Its rows are numbered upwards, and a step may have two, perhaps from two processes.
            row = 2 * line['step'] + (line['split'] == 'eval')
            if row >= taken:
                record.log({**_figures(line), 'step': line['step']}, step=row, commit=True)

    def end(status: str, summary: Mapping[str, Any]) -> None:
        record.summary.update({**_summary(summary), 'status': status})
        record.finish(exit_code=0 if status == 'finished' else 1)

    offline = f'{Path(record.dir).parent}, which `wandb sync` sends'
    return Client(record.url or offline, log, end)


def connect_mlflow(run: TrackedRun) -> Client:
    """Begins the run in MLflow, or finds it by its tag; without a server, a folder in the workdir.

    What is recorded stays: a figure of a step that was trained again after a crash is not repeated.
    """
    for name, value in _MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    for name in ('mlflow', 'urllib3.connectionpool'):  # the latter tells of every retry
        logging.getLogger(name).setLevel(logging.ERROR)
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
        values = _summary(summary)
        step = summary.get('steps', 0)
        send([(k, v, step) for k, v in values.items() if isinstance(v, int | float)])
        texts = [RunTag(k, v) for k, v in values.items() if isinstance(v, str)]
        client.log_batch(number, tags=texts)
        client.set_terminated(number, status.upper())

    return Client(f'{without_password(uri)}, experiment {run.project}, run {run.name}', log, end)


def _parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[i : i + size] for i in range(0, len(values), size))


def _experiment(client: Any, project: str) -> str:
    """The number of an experiment, made if there is none of that name."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(project)
    if experiment is None:
        try:
            return client.create_experiment(project)
        except MlflowException:  # another run may have made it meanwhile
            experiment = client.get_experiment_by_name(project)
            if experiment is None:
                raise
    return experiment.experiment_id
