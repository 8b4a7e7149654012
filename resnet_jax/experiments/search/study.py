"""What Optuna keeps of a search: proposals, reports, results, in a journal in the workdir.

A change, such as a proposal, is several lines of the journal. It is made in a copy that then takes
the journal's place, so that a kill leaves all of it or nothing. A proposal depends on the journal,
the search's seed and the trial's number alone: a search that was killed and continued proposes what
it would have proposed.
"""

import contextlib
import dataclasses
import importlib.util
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.errors import InputError, RunError
from resnet_jax.experiments.search.search import Range, Search

JOURNAL = 'trials.journal'
_NAME = 'search'
# What is noted of a trial besides Optuna's own: why it failed, after which step it is to end.
_FAILURE, _END = 'failure', 'pruned_after_step'


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A trial as the journal has it.

    Attributes:
      number: of the trial, from 0.
      values: field -> value.
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
    """Complains if Optuna is not installed.

    Raises:
      InputError: naming the extra.
    """
    if importlib.util.find_spec('optuna') is None:
        raise InputError('searching needs Optuna: pip install "resnet-jax[search]"')


def proposals(workdir: Path) -> list[Proposal]:
    """All trials so far, by number."""
    if not (workdir / JOURNAL).is_file():
        return []
    with _quiet():
        return [_proposal(trial) for trial in _study(workdir / JOURNAL).get_trials()]


def propose(search: Search, workdir: Path) -> Proposal:
    """The trial that runs, or else a new one."""
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
    """Notes an evaluation of a running trial.

    Args:
      search: the search.
      workdir: of the search.
      number: of the trial.
      step: of training.
      evaluation: how manieth of the trial, from 1; trials are compared at the same one.
      value: of the metric.

    Returns:
      Whether the trial goes on. What was noted once, before a kill, is answered as then.
    """
    with _quiet():
        before = _study(workdir / JOURNAL).get_trials()[number]
    if evaluation in before.intermediate_values:
        end = before.user_attrs.get(_END)
        return end is None or step < end
    with _change(workdir) as copy:
        trial = _trial(_study(copy, pruner=_pruner(search)), number)
        trial.report(value, evaluation)
        ends = trial.should_prune()
        if ends:
            trial.set_user_attr(_END, step)
    return not ends


def complete(workdir: Path, number: int, evaluation: int, value: float) -> None:
    """Notes the last evaluation of a running trial, and so its end; arguments as in `report`."""
    with _change(workdir) as copy:
        study = _study(copy)
        _trial(study, number).report(value, evaluation)
        study.tell(number, value if math.isfinite(value) else math.inf)


def prune(workdir: Path, number: int) -> None:
    """Notes that a running trial has been ended early."""
    import optuna

    with _change(workdir) as copy:
        _study(copy).tell(number, state=optuna.trial.TrialState.PRUNED)


def fail(workdir: Path, number: int, why: str) -> None:
    """Notes that a running trial failed; to the sampler that is the worst value there is."""
    with _change(workdir) as copy:
        study = _study(copy)
        _trial(study, number).set_user_attr(_FAILURE, why)
        study.tell(number, math.inf)


def _trial(study: Any, number: int) -> Any:
    """A running trial, which may be another process's."""
    import optuna

    return optuna.trial.Trial(study, study.get_trials()[number]._trial_id)


def _proposal(trial: Any) -> Proposal:
    failure = trial.user_attrs.get(_FAILURE, '')
    state = 'failed' if failure and trial.state.is_finished() else trial.state.name.lower()
    return Proposal(trial.number, trial.params, state, trial.user_attrs.get(_END), failure)


@contextlib.contextmanager
def _change(workdir: Path) -> Iterator[Path]:
    """A copy of the journal, made if there is none, that replaces it in the end."""
    journal, copy = workdir / JOURNAL, workdir / f'{JOURNAL}.tmp'
    for left in (copy, copy.with_name(f'{copy.name}.lock')):  # by a kill
        left.unlink(missing_ok=True)
    try:
        with _quiet():
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
def _quiet() -> Iterator[None]:
    """Keeps what Optuna logs, and that a sampler of its is experimental, to itself."""
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
    """The study in a journal; without a sampler it is not for asking."""
    import optuna

    try:
        return optuna.load_study(
            study_name=_NAME,
            storage=_storage(path),
            sampler=sampler or optuna.samplers.RandomSampler(0),
            pruner=pruner or optuna.pruners.NopPruner(),
        )
    except (KeyError, ValueError, json.JSONDecodeError) as error:
        raise InputError(f'{path} is no journal of a search: {error}') from error


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
    """A fresh sampler for one trial: nothing that it draws depends on those before in a process."""
    from optuna import samplers

    if search.sampler == 'qmc':  # the trials are points of one sequence, which has one seed
        return samplers.QMCSampler(scramble=True, seed=search.seed, warn_independent_sampling=False)
    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    return {'tpe': samplers.TPESampler, 'random': samplers.RandomSampler}[search.sampler](seed=seed)


def _pruner(search: Search) -> Any:
    """The resource that a pruner shares out is counted in evaluations."""
    from optuna import pruners

    makers: dict[str, Callable[[], Any]] = {
        'none': pruners.NopPruner,
        'median': pruners.MedianPruner,
        'halving': lambda: pruners.SuccessiveHalvingPruner(min_resource=1),
        'hyperband': pruners.HyperbandPruner,
    }
    return makers[search.pruner]()
