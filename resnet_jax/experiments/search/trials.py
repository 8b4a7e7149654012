"""The trials of a search: what the journal and their folders say of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.experiments.search.search import METRICS, Search
from resnet_jax.experiments.search.study import Proposal
from resnet_jax.records.writers import read_metrics
from resnet_jax.training.workdir import read_summary

STATES = ('complete', 'pruned', 'failed', 'running')


@dataclasses.dataclass(frozen=True)
class Trial:
    """What became of a trial.

    Attributes:
      number: from 0.
      folder: its workdir.
      state: one of `STATES`.
      values: searched field -> value.
      step: of the last evaluation; None if there was none, as with the next two.
      error: top-1, a fraction of 1.
      loss: of the same evaluation.
      value: of the search's metric, in the end; None unless complete.
      seconds: trained; None unless complete.
      failure: why it failed; empty if it did not.
    """

    number: int
    folder: Path
    state: str
    values: Mapping[str, Any]
    step: int | None
    error: float | None
    loss: float | None
    value: float | None
    seconds: float | None
    failure: str


def trial_folder(workdir: Path, number: int) -> Path:
    """The workdir of one trial."""
    return workdir / 'trials' / f'{number:04d}'


def outcome(search: Search, workdir: Path, proposal: Proposal) -> Trial:
    """What is in a trial's folder."""
    folder = trial_folder(workdir, proposal.number)
    lines = [line for line in read_metrics(folder) if line['split'] == 'eval']
    last = lines[-1] if lines else {'step': None, 'top1': None, 'loss': None}
    finite = None not in last.values()
    summary = read_summary(folder) if proposal.state == 'complete' else None
    return Trial(
        number=proposal.number,
        folder=folder,
        state=proposal.state,
        values=proposal.values,
        step=last['step'],
        error=None if last['top1'] is None else 1 - last['top1'],
        loss=last['loss'],
        value=METRICS[search.metric](last) if summary and finite else None,
        seconds=summary['seconds'] if summary else None,
        failure=proposal.failure,
    )


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The complete ones, the best first; of equals the earlier."""
    return sorted(
        (trial for trial in trials if trial.value is not None),
        key=lambda trial: (trial.value, trial.number),
    )
