"""The trials of a search: what the journal and their folders hold about them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.experiments.results import RunResult, read_run
from resnet_jax.experiments.search.search import METRICS, Search
from resnet_jax.experiments.search.study import Proposal

STATES = ('complete', 'pruned', 'failed', 'running')


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial, as far as it has come.

    Attributes:
      number: from 0.
      state: one of `STATES`.
      values: searched field -> value.
      value: final value of the search's metric; None unless complete.
      failure: why it failed; empty if it did not.
      run: its run.
    """

    number: int
    state: str
    values: Mapping[str, Any]
    value: float | None
    failure: str
    run: RunResult

    @property
    def step(self) -> int | None:
        """The step of the last evaluation; None without any."""
        return self._last('step')

    @property
    def error(self) -> float | None:
        """Top-1 error of the last evaluation, as a fraction of 1; None without any."""
        top1 = self._last('top1')
        return None if top1 is None else 1 - top1

    @property
    def loss(self) -> float | None:
        """Loss of the last evaluation, in nats; None without any."""
        return self._last('loss')

    @property
    def seconds(self) -> float | None:
        """Wall time in all; None unless complete."""
        return self.run.final.seconds if self.state == 'complete' and self.run.final else None

    def _last(self, figure: str) -> Any:
        lines = self.run.lines('test')
        return lines[-1].get(figure) if lines else None


def trial_folder(workdir: Path, number: int) -> Path:
    """The workdir of a trial."""
    return workdir / 'trials' / f'{number:04d}'


def read_trial(search: Search, workdir: Path, proposal: Proposal) -> Trial:
    """Reads what a trial's folder holds.

    Raises:
      InputError: if the files of its run cannot be understood.
    """
    run = read_run(trial_folder(workdir, proposal.number), search.seed)
    lines, value = run.lines('test'), None
    if proposal.state == 'complete' and run.final and lines and None not in lines[-1].values():
        value = METRICS[search.metric](lines[-1])
    return Trial(
        number=proposal.number,
        state=proposal.state,
        values=proposal.values,
        value=value,
        failure=proposal.failure,
        run=run,
    )


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The complete trials, the best first; of equal ones the earlier first."""
    return sorted(
        (trial for trial in trials if trial.value is not None),
        key=lambda trial: (trial.value, trial.number),
    )
