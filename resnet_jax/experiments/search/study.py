"""The trials of a search: Optuna's record of them, a journal in the workdir, and their runs.

A change, such as a proposal, takes several lines of the journal. It is made in a copy that then
replaces the journal, so it is atomic. A proposal depends only on the journal, the search's seed and
the trial's number: a search that was killed and resumed proposes what it would have proposed.
"""

import contextlib
import dataclasses
import importlib.util
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.errors import InputError, RunError, first_line
from resnet_jax.experiments.results import RunResult, read_member
from resnet_jax.experiments.search.search import METRICS, Range, Search
from resnet_jax.training.tasks import score_of

JOURNAL = 'trials.journal'
_NAME = 'search'
# Attributes of a trial: why it failed, and the step after which the pruner ended it.
_FAILURE, _END = 'failure', 'pruned_after_step'


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A trial as recorded in the journal.

    Attributes:
      number: the trial's number, from 0.
      values: searched field -> value.
      state: running, complete, pruned or failed.
      end: the step after which the pruner ended it; None if it did not.
      failure: why it failed; empty if it did not.
    """

    number: int
    values: Mapping[str, Any]
    state: str
    end: int | None
    failure: str


def need_optuna() -> None:
    """Checks that Optuna is installed.

    Raises:
      InputError: if it is not; the message names the extra.
    """
    if importlib.util.find_spec('optuna') is None:
        raise InputError('searching needs Optuna: pip install "resnet-jax[search]"')


def proposals(workdir: Path) -> list[Proposal]:
    """All trials so far, by number."""
    if not (workdir / JOURNAL).is_file():
        return []
    with _quiet(), _understood(workdir / JOURNAL):
        return [_proposal(trial) for trial in _study(workdir / JOURNAL).get_trials()]


def propose(search: Search, workdir: Path) -> Proposal:
    """The trial that is running, otherwise a new one."""
    running = [trial for trial in proposals(workdir) if trial.state == 'running']
    if running:
        return running[0]
    with _change(workdir) as copy:
        count = len(_study(copy).get_trials())
        study = _study(copy, sampler=_sampler(search, count))
        trial = study.ask(fixed_distributions=_distributions(search))
        found = study.get_trials()[trial.number]
    return _proposal(found)


def report(
    search: Search, workdir: Path, number: int, step: int, evaluation: int, value: float
) -> bool:
    """Records an evaluation of a running trial.

    Args:
      search: the search.
      workdir: the search's workdir.
      number: the trial's number.
      step: the training step.
      evaluation: index of the evaluation within the trial, from 1; the pruner compares trials at
        the same index.
      value: the metric.

    Returns:
      Whether the trial should continue. An evaluation that was recorded before, because the process
      was killed after it, gets the same answer again.
    """
    with _quiet():
        before = _study(workdir / JOURNAL).get_trials()[number]
    if evaluation in before.intermediate_values:
        end = before.user_attrs.get(_END)
        return end is None or step < end
    with _change(workdir) as copy:
        trial = _trial(_study(copy, pruner=_pruner(search)), number)
        trial.report(value, evaluation)
        pruned = trial.should_prune()
        if pruned:
            trial.set_user_attr(_END, step)
    return not pruned


def complete(workdir: Path, number: int, evaluation: int, value: float) -> None:
    """Records the last evaluation of a running trial, which completes it; see `report`."""
    with _change(workdir) as copy:
        study = _study(copy)
        _trial(study, number).report(value, evaluation)
        study.tell(number, value if math.isfinite(value) else math.inf)


def prune(workdir: Path, number: int) -> None:
    """Records that a running trial has been ended early."""
    import optuna

    with _change(workdir) as copy:
        _study(copy).tell(number, state=optuna.trial.TrialState.PRUNED)


def fail(workdir: Path, number: int, why: str) -> None:
    """Records that a running trial failed; the sampler takes that for the worst possible value."""
    with _change(workdir) as copy:
        study = _study(copy)
        _trial(study, number).set_user_attr(_FAILURE, why)
        study.tell(number, math.inf)


def _trial(study: Any, number: int) -> Any:
    """A running trial, perhaps started by another process."""
    import optuna

    return optuna.trial.Trial(study, study.get_trials()[number]._trial_id)


def _proposal(trial: Any) -> Proposal:
    failure = trial.user_attrs.get(_FAILURE, '')
    state = 'failed' if failure and trial.state.is_finished() else trial.state.name.lower()
    return Proposal(trial.number, trial.params, state, trial.user_attrs.get(_END), failure)


@contextlib.contextmanager
def _change(workdir: Path) -> Iterator[Path]:
    """A copy of the journal, created if there is none, which replaces it at the end."""
    journal, copy = workdir / JOURNAL, workdir / f'{JOURNAL}.tmp'
    for left in (copy, copy.with_name(f'{copy.name}.lock')):  # by a process that was killed
        left.unlink(missing_ok=True)
    try:
        with _quiet(), _understood(journal):
            if journal.is_file():
                shutil.copyfile(journal, copy)
            else:
                import optuna

                optuna.create_study(storage=_storage(copy), study_name=_NAME, direction='minimize')
            yield copy
        copy.replace(journal)
    except OSError as error:
        raise RunError(
            f'cannot write {journal}: {error.strerror}; make room and run the same command again'
        ) from error


@contextlib.contextmanager
def _understood(journal: Path) -> Iterator[None]:
    """Puts what Optuna raises about a journal whose lines are damaged into words."""
    try:
        yield
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise _no_journal(journal, error) from error


def _no_journal(journal: Path, error: Exception) -> InputError:
    return InputError(
        f'{journal} is no journal of a search: {first_line(error)}; restore it from a copy, or use '
        'another --workdir'
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences Optuna's log and its warning that a sampler is experimental, for the context."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _storage(path: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path)))


def _study(path: Path, sampler: Any = None, pruner: Any = None) -> Any:
    """The study in a journal; to propose trials it needs a sampler."""
    import optuna

    try:
        return optuna.load_study(
            study_name=_NAME,
            storage=_storage(path),
            sampler=sampler or optuna.samplers.RandomSampler(0),
            pruner=pruner or optuna.pruners.NopPruner(),
        )
    except Exception as error:  # Optuna expects a sound journal, and fails in many ways
        raise _no_journal(path, error) from error


def _distributions(search: Search) -> dict[str, Any]:
    from optuna import distributions

    def distribution(field: str) -> Any:
        values = search.space[field]
        if not isinstance(values, Range):
            return distributions.CategoricalDistribution(values.choices)
        if values.kind == 'int':
            return distributions.IntDistribution(int(values.low), int(values.high))
        return distributions.FloatDistribution(*values.ends, log=values.kind == 'log')

    return {field: distribution(field) for field in search.space}


def _sampler(search: Search, number: int) -> Any:
    """A new sampler for one trial: its draws do not depend on earlier ones in this process."""
    from optuna import samplers

    if search.sampler == 'qmc':  # the trials are points of one sequence with one seed
        return samplers.QMCSampler(scramble=True, seed=search.seed, warn_independent_sampling=False)
    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    return {'tpe': samplers.TPESampler, 'random': samplers.RandomSampler}[search.sampler](seed=seed)


def _pruner(search: Search) -> Any:
    """The pruner; its resource is the number of evaluations."""
    from optuna import pruners

    makers: dict[str, Callable[[], Any]] = {
        'none': pruners.NopPruner,
        'median': pruners.MedianPruner,
        'halving': lambda: pruners.SuccessiveHalvingPruner(min_resource=1),
        'hyperband': pruners.HyperbandPruner,
    }
    return makers[search.pruner]()


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
        """The error of the last evaluation, as a fraction of 1; None without any."""
        lines = self.run.lines('test')
        score = score_of(lines[-1]) if lines else None
        return None if score is None else 1 - score

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
    """Reads what a trial's folder holds."""
    run = read_member(trial_folder(workdir, proposal.number), search.seed)
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
