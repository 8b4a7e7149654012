"""The training loop: from a config and a workdir to a trained model, through any interruption."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from resnet_jax.errors import InputError, Stopped
from resnet_jax.records import trackers
from resnet_jax.records.writers import Console, signs_of_life
from resnet_jax.text import print_line
from resnet_jax.training import memory, processes, workdir
from resnet_jax.training.build import Run, build_run
from resnet_jax.training.checkpoint import saved_steps
from resnet_jax.training.checks import resolve
from resnet_jax.training.compilation import matmul_precision
from resnet_jax.training.feeding import Feed
from resnet_jax.training.inputs import describe, open_inputs
from resnet_jax.training.optim import make_schedule, rate_note
from resnet_jax.training.profile import Profile
from resnet_jax.training.session import Session, open_session
from resnet_jax.training.step import TrainState

# (step, figures of an evaluation) -> whether to go on training.
OnEvaluation = Callable[[int, Mapping[str, float]], bool]
_EARLY = 'ends early: checkpoint.best has not improved in the last train.patience evaluations'


def train(
    config: ConfigDict,
    folder: str | os.PathLike[str],
    *,
    like: Run | None = None,
    console: Console | None = None,
    on_evaluation: OnEvaluation | None = None,
    extend: bool = False,
    profile: int = 0,
) -> dict[str, Any]:
    """Trains the run in a workdir until its last step, resuming where the workdir left off.

    Args:
      config: of the run; must agree with that of the workdir, but for `config.FREE_FIELDS`.
      folder: the workdir; created if it does not exist.
      like: a run that differs in its seed alone, whose data and compiled programs serve this one.
      console: where progress is shown; None: on its own console.
      on_evaluation: called after each evaluation but the last; False stops the run.
      extend: whether to train the run in the workdir further, to the length in the config.
      profile: number of steps to trace, after the first; see `profile.Profile`.

    Returns:
      The content of summary.json; of several processes, {} in all but the first.

    Raises:
      InputError: for a bad config or data, or a workdir that holds another run.
      RunError: for a failure while training; the last good checkpoint is kept.
      Interrupted: after SIGTERM or SIGINT; the step was finished and saved.
      Stopped: if `on_evaluation` returned False; the step is saved.
    """
    folder = Path(folder)
    run, initial = prepare(config, folder, like, extend)
    seam = _extension(run, folder) if extend else ''
    if (summary := finished(run, folder)) is not None:
        if summary:
            print(
                f'the run in {folder} has finished: '
                + (
                    f'it ended early, after step {summary["steps"]} of {run.total_steps}'
                    if summary.get('stopped_early')
                    else f'all its {run.total_steps} steps are taken'
                )
                + ' (to train it further, give --extend and more of them)',
                file=sys.stderr,
            )
        return summary
    taken = (saved_steps(folder) or [0])[-1]
    profiled = Profile(run, folder, taken, profile) if profile else None
    with (
        processes.stop_signals() as stop_requested,
        matmul_precision(config.train.matmul_precision),
        open_session(run, folder, initial, console, extend=extend) as session,
    ):
        session.profile = profiled if processes.is_first() else None
        session.say(headline(session))
        notes = seam, rate_note(config.optim, config.train.batch_size)
        for line in filter(None, (*describe(run.inputs), *notes, 'compiling the first step ...')):
            session.say(line)
        _take_steps(session, stop_requested, on_evaluation)
        return session.finish()


def _say_if_first(line: str) -> None:
    if processes.is_first():
        print_line(line)


@signs_of_life('reading the data and building the model', _say_if_first)
def prepare(
    config: ConfigDict, folder: Path, like: Run | None = None, extend: bool = False
) -> tuple[Run, TrainState | None]:
    """Checks and builds what a run needs, and writes nothing; arguments as for `train`.

    Returns:
      The run, and the state that it starts from; None where its workdir holds a state already.

    Raises:
      InputError: for a bad config or data, or a workdir that holds another run.
    """
    resolve(config)
    workdir.check_folder(folder, config, extend)
    if processes.is_first():
        trackers.check_login(config.log.trackers)
    resumed = workdir.is_run(folder)
    if like is not None:
        run = like.reseeded(config)
    else:
        stored = workdir.read_preprocessing(folder) if resumed else None
        run = build_run(config, open_inputs(config, stored))
    if resumed:
        inputs = run.inputs
        workdir.check_data(folder, config, inputs.train.class_names, inputs.fingerprint)
    # Made here, so that weights that do not fit are refused before anything is written.
    return run, None if resumed else run.init_state()


def _extension(run: Run, folder: Path) -> str:
    """What the schedule does where a run is extended, in words; empty if it has its length already.

    Raises:
      InputError: if the run has taken as many steps as it now should, or more, or would end early
        again.
    """
    before = workdir.read_config(folder)
    inputs = dataclasses.replace(run.inputs, config=before)
    if inputs.total_steps == run.total_steps:  # extended before, and not yet at its end
        return ''
    taken = (saved_steps(folder) or [0])[-1]
    if run.total_steps <= taken:
        raise InputError(
            f'the run in {folder} has taken {taken} steps already; --extend needs a train.steps or '
            f'train.epochs that is longer, got {run.total_steps} steps'
        )
    ended = workdir.read_summary(folder) if workdir.is_ended(folder) else None
    if ended and ended.get('stopped_early') and before.train.patience == run.config.train.patience:
        raise InputError(
            f'the run in {folder} ended early and would do so again; give --extend with another '
            f'train.patience than {before.train.patience}, 0 for none'
        )
    schedule = make_schedule(
        before.optim,
        batch_size=before.train.batch_size,
        total_steps=inputs.total_steps,
        steps_per_epoch=inputs.steps_per_epoch,
    )
    old, new = float(schedule(max(taken - 1, 0))), float(run.schedule(taken))
    return (
        f'extended from {inputs.total_steps} to {run.total_steps} steps: the '
        f'{before.optim.schedule} schedule is now that of the whole length, and the learning rate '
        f'goes from {old:.3g} to {new:.3g} at step {taken}'
    )


def finished(run: Run, folder: Path) -> dict[str, Any] | None:
    """The content of summary.json if the run has taken its last step; {} in other processes."""
    steps = saved_steps(folder)
    if not steps or not workdir.is_ended(folder):  # the last thing that is written
        return None
    summary = workdir.read_summary(folder) or {}
    stopped_early = summary.get('stopped_early') and summary['planned_steps'] == run.total_steps
    if steps[-1] != run.total_steps and not stopped_early:
        return None
    return summary if processes.is_first() else {}


def _take_steps(
    session: Session,
    stop_requested: Callable[[int], int | None],
    on_evaluation: OnEvaluation | None,
) -> None:
    """Takes the steps that are left."""
    run, first, total = session.run, session.first_step, session.run.total_steps
    config, state, seed = run.config, session.take_state(), run.seed
    eval_every = config.train.eval_every or total
    arrays, totals = run.placement.put_whole(run.arrays), run.no_totals()

    def should_continue(done: int, figures: Mapping[str, float] | None) -> bool:
        return done == total or not (figures and on_evaluation) or on_evaluation(done, figures)

    # A signal may have stopped the run before the evaluation that was due at this step, or an error
    # in it; or its figures were damaged since.
    due = first == total or first % eval_every == 0
    missed = first > 0 and due and not session.is_evaluated(first)
    if missed and not should_continue(first, session.evaluate(first, state)):
        raise Stopped(f'stopped after step {first}')
    if 0 < first < total and due and session.is_out_of_patience(first):
        session.say(f'step {first}  {_EARLY}')  # killed before it had written its summary
        return
    session.restart_clock()
    with contextlib.closing(Feed(run, first)) as feed:
        for number, (done, count, batches, placed) in enumerate(feed, 1):
            rest = arrays, placed
            with compiling(session.say) if number == 1 else contextlib.nullcontext():
                state, totals = run.train_step(seed, state, totals, *rest)
            session.dispatched(count, totals, feed)
            session.console.advance(count, total)
            if number == 1:
                jax.block_until_ready(totals)
                session.first_dispatch_done(count)
                feed.restart()
                session.step_bytes = memory.jitted_bytes(run.train_step, seed, state, totals, *rest)
            session.measure(done, count, state, arrays, batches)
            last, signum = done == total, stop_requested(number)
            saves = last or signum is not None or done % config.checkpoint.every == 0
            evaluates = last or (signum is None and done % eval_every == 0)
            if saves or done % config.train.log_every == 0:
                session.log(done, totals, state, feed)
                totals = run.no_totals()
            with session.paused_clock(totals if saves or evaluates else None):
                figures = session.evaluate(done, state) if evaluates else None
                stops = not should_continue(done, figures)
                ends_early = not last and evaluates and session.is_out_of_patience(done)
                if saves or stops or ends_early:
                    session.save(done, state, figures)
            if ends_early:
                session.say(f'step {done}  {_EARLY}')
                return
            if stops:
                session.checkpoints.wait()
                raise Stopped(f'stopped after step {done}')
            if signum is not None and not last:
                raise session.interrupted(signum, done)


def compiling(say: Callable[[str], None]) -> contextlib.AbstractContextManager[None]:
    """Says now and then that the first step, which takes long, is being compiled."""
    return signs_of_life('compiling the first step', say)


def headline(session: Session, seeds: int = 1) -> str:
    """What is about to be trained, in a line; `seeds` runs in one program."""
    run, config = session.run, session.run.config
    where = 'on the device' if run.inputs.arrays is not None else 'streamed'
    count = f'{run.placement.devices} x ' if run.placement.devices > 1 else ''
    count = f'{jax.process_count()} processes, {count}' if jax.process_count() > 1 else count
    begin = f'continues after step {session.first_step}' if session.first_step else 'starts'
    return (
        f'{config.model.name} on {config.data.name} {begin}, {run.total_steps} steps of '
        f'{config.train.batch_size}; {len(run.inputs.train)} {run.inputs.train.noun} {where}; '
        f'{count}{jax.devices()[0].device_kind}; '
        + (f'workdir {session.folder}' if seeds == 1 else f'{seeds} seeds together')
    )
