"""Running a search on this machine, trial by trial; an interrupted search resumes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_jax.errors import Diverged, InputError, Stopped, Unreadable
from resnet_jax.experiments.engines.engine import SweepConsole
from resnet_jax.experiments.results import write_failure
from resnet_jax.experiments.search import search_report, study
from resnet_jax.experiments.search.search import METRICS, Search
from resnet_jax.experiments.search.search_report import SEARCH_FILE
from resnet_jax.experiments.search.study import Proposal, Trial, read_trial, trial_folder
from resnet_jax.json_files import read_json, unreadable
from resnet_jax.records.writers import write_atomically
from resnet_jax.training import config_files, loop
from resnet_jax.training import workdir as workdirs
from resnet_jax.training.checkpoint import saved_steps
from resnet_jax.training.inputs import open_splits

PRUNED_FILE = 'pruned.json'  # in a trial's folder: the step at which it was pruned
# What may change when a search is continued.
_FREE = ('title', 'trials')


class SearchConsole(SweepConsole):
    """One bar for all trials on a terminal, otherwise a line for each that ends."""

    def finished(self, folder: Path, summary: Mapping[str, Any]) -> None:
        """Shows nothing: `run_search` does, with the trial's values."""


def run_search(search: Search, workdir: Path) -> list[Trial]:
    """Trains the trials that have not ended; one that diverges does not stop the others.

    The results so far are written to the workdir, also when the search is interrupted.

    Args:
      search: the search.
      workdir: the search's workdir; created if it does not exist.

    Returns:
      All trials, by number.

    Raises:
      InputError: for a workdir that holds something else, data that cannot be read, or if Optuna
        is not installed.
      RunError: for a failure that is not the trial's, such as a full disk.
      Interrupted: after SIGTERM or SIGINT; the running trial has been saved.
    """
    study.need_optuna()
    _check_folder(search, workdir)
    _check_data(search)
    with workdirs.locked(workdir):
        trials = {trial.number: trial for trial in trials_so_far(search, workdir)}
        search_report.write_tables(search, workdir, list(trials.values()))
        ended = sum(trial.state != 'running' for trial in trials.values())
        display = SearchConsole(max(search.trials, ended), ended)
        try:
            while ended < search.trials:
                proposal = study.propose(search, workdir)
                trial = trials[proposal.number] = _run(search, workdir, proposal, display)
                ended += 1
                display.ended(trial.run.folder, search_report.in_words(search, trial))
                search_report.write_tables(search, workdir, list(trials.values()))
        finally:
            display.close()
            found = trials_so_far(search, workdir)
            search_report.write_search_report(search, workdir, found)
    return found


def trials_so_far(search: Search, workdir: Path) -> list[Trial]:
    """All trials proposed so far, by number."""
    return [read_trial(search, workdir, one) for one in study.proposals(workdir)]


def _check_folder(search: Search, workdir: Path) -> None:
    """Refuses a workdir that holds another search, or something else."""
    path = workdir / SEARCH_FILE
    if path.is_file():
        try:
            old = dict(read_json(path, 'use another --workdir')['search'])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise unreadable(path, error, 'use another --workdir') from error
        new = search.described()
        # Earlier versions wrote the path of a base config of the package.
        old |= {'base': config_files.canonical(str(old.get('base')))}
        changed = [key for key in new if key not in _FREE and old.get(key) != new[key]]
        if changed:
            raise InputError(
                f'workdir {workdir} holds another search (it differs in {", ".join(changed)}); use '
                'another --workdir, or the same search to continue; --trials may change'
            )
        return
    ours = (workdirs.LOCK, f'{SEARCH_FILE}.tmp')
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f'workdir {workdir} is a file')
    if workdir.exists() and any(path.name not in ours for path in workdir.iterdir()):
        raise InputError(f'workdir {workdir} is not empty and no search; use another --workdir')


def _check_data(search: Search) -> None:
    """Opens the data before anything is written."""
    open_splits(search.config({field: v.ends[0] for field, v in search.space.items()}))


def _run(search: Search, workdir: Path, proposal: Proposal, display: SearchConsole) -> Trial:
    """Trains a trial until it is complete, pruned or failed, and records that."""
    number, folder = proposal.number, trial_folder(workdir, proposal.number)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        config = search.config(proposal.values)
    except InputError as error:  # the ends of each range are valid, but this combination is not
        return _failed(search, workdir, number, error)
    every = config.train.eval_every

    def should_continue(step: int, figures: Mapping[str, float]) -> bool:
        value = METRICS[search.metric](figures)
        return study.report(search, workdir, number, step, step // every, value)

    try:
        if proposal.end is not None and saved_steps(folder)[-1:] >= [proposal.end]:
            raise Stopped  # before the process was killed
        summary = loop.train(config, folder, console=display, on_evaluation=should_continue)
        value = METRICS[search.metric](summary['eval'])
        evaluations = -(-summary['steps'] // every) if every else 1
        study.complete(workdir, number, evaluations, value)
    except Stopped:
        pruned = {'step': saved_steps(folder)[-1], 'by': search.pruner}
        write_atomically(folder / PRUNED_FILE, json.dumps(pruned, indent=2) + '\n')
        study.prune(workdir, number)
    except (Diverged, Unreadable) as error:
        return _failed(search, workdir, number, error)
    return _ended(search, workdir, number)


def _failed(search: Search, workdir: Path, number: int, error: Exception) -> Trial:
    write_failure(trial_folder(workdir, number), error)
    study.fail(workdir, number, str(error))
    return _ended(search, workdir, number)


def _ended(search: Search, workdir: Path, number: int) -> Trial:
    return read_trial(search, workdir, study.proposals(workdir)[number])
