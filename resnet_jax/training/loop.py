"""The training loop: from a config and a folder to a trained model, through any interruption."""

import contextlib
import dataclasses
import itertools
import signal
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from resnet_jax.errors import Interrupted, RunError, Stopped
from resnet_jax.records.writers import Console
from resnet_jax.training import memory, metrics, processes
from resnet_jax.training.build import Run
from resnet_jax.training.compilation import matmul_precision
from resnet_jax.training.opening import opened, prepare
from resnet_jax.training.progress import Progress
from resnet_jax.training.step import TrainState
from resnet_jax.training.summary import Start


def train(
    config: ConfigDict,
    folder: Path,
    like: Run | None = None,
    console: Console | None = None,
    goes_on: Callable[[int, Mapping[str, float]], bool] | None = None,
) -> dict[str, Any]:
    """Trains, or continues, the run in a folder until its last step.

    Args:
      config: of the run; must agree with the folder's, but for `config.FREE_FIELDS`.
      folder: the workdir; made if it does not exist.
      like: see `opening.prepare`.
      console: see `opening.opened`.
      goes_on: (step, figures) -> whether to go on, asked after each evaluation but the last.

    Returns:
      What summary.json holds; of several processes, {} in all but the first.

    Raises:
      InputError: for a bad config or data, or a folder of another run.
      RunError: for a failure on the way; the last good checkpoint is kept.
      Interrupted: after SIGTERM or SIGINT; the step was finished and saved.
      Stopped: if `goes_on` said no; the step is saved.
    """
    prepared = prepare(config, folder, like)
    with (
        processes.stop_signals() as asked,
        matmul_precision(config.train.matmul_precision),
        opened(prepared, console) as progress,
    ):
        if not isinstance(progress, Progress):
            return progress if processes.is_first() else {}
        progress.goes_on = goes_on or progress.goes_on
        progress.say(headline(progress))
        take_steps([progress], alone(progress.run), asked)
        return progress.finish()


@dataclasses.dataclass(frozen=True)
class Stepper:
    """How runs take their steps: one alone, or several in one program.

    Attributes:
      step: (state, totals, arrays, batches) -> (state, totals), compiled; state and totals are
        donated.
      pack, unpack: from each run's arrays to the step's, and back.
      put: each run's batches [steps, share, ...] -> the step's, on the devices.
      put_whole: arrays that all runs share -> the same, on the devices.
    """

    step: Callable[..., Any]
    pack: Callable[[list[Any]], Any]
    unpack: Callable[[Any], list[Any]]
    put: Callable[[list[Any]], Any]
    put_whole: Callable[[Any], Any]


def alone(run: Run) -> Stepper:
    """The stepper of one run."""
    return Stepper(
        step=run.train_step,
        pack=lambda values: values[0],
        unpack=lambda value: [value],
        put=lambda batches: run.placement.put_train_batches(batches[0]),
        put_whole=run.placement.put_whole,
    )


def take_steps(
    runs: Sequence[Progress], stepper: Stepper, asked: Callable[[int], int | None]
) -> None:
    """Takes the steps that are left, of all runs at the same time.

    Args:
      runs: configured alike but for their seeds, all at the same step.
      stepper: for so many runs.
      asked: see `processes.stop_signals`.

    Raises:
      RunError: if the only run diverged; among several it is kept as `error`, and the others go on.
      Stopped: if a run's `goes_on` said no; it is saved.
      Interrupted: when asked; all is saved.
    """
    first, total, config = runs[0].first, runs[0].total, runs[0].config
    if first == total:
        return
    every = config.train.eval_every or total
    states = [run.take_state() for run in runs]
    if first and first % every == 0 and not runs[0].evaluated(first):
        _each(runs, _between, first, states, True, False)  # the signal that stopped it came first
    arrays = stepper.put_whole(runs[0].run.inputs.arrays)  # no arrays, None, stay none
    seed = stepper.pack([run.run.seed for run in runs])
    state = stepper.pack(states)
    del states  # the step gives them away
    totals = no_totals([run.run for run in runs], stepper)
    began = time.perf_counter()
    with contextlib.closing(_dispatches(runs)) as dispatches:
        for number, (done, count, batches) in enumerate(dispatches, 1):
            rest = arrays, stepper.put(batches)
            state, totals = stepper.step(seed, state, totals, *rest)
            runs[0].console.advance(count, total, len(runs))
            if number == 1:
                jax.block_until_ready(totals)
                seconds = time.perf_counter() - began
                taken = memory.jitted_bytes(stepper.step, seed, state, totals, *rest)
                _started(runs, Start(seconds, taken), count)
            last, stop = done == total, asked(number)
            save = last or stop is not None or done % config.checkpoint.every == 0
            evaluate = last or (done % every == 0 and stop is None)
            if save or done % config.train.log_every == 0:
                _each(runs, Progress.log, done, stepper.unpack(totals))
                totals = no_totals([run.run for run in runs], stepper)
            if save or evaluate:
                _each(runs, _between, done, stepper.unpack(state), evaluate, save)
            if all(run.error for run in runs):
                return
            if stop is not None and not last:
                raise _interrupted(runs, stop, done)


def no_totals(runs: Sequence[Run], stepper: Stepper) -> Any:
    """The totals that steps are added to, of no steps."""
    return stepper.pack([run.placement.put_whole(metrics.no_sums()) for run in runs])


def _each(
    runs: Sequence[Progress], action: Callable[..., None], done: int, values: list[Any], *rest: Any
) -> None:
    """Acts on each run that goes on, with its value. Only a run alone may fail here."""
    for run, value in zip(runs, values, strict=True):
        try:
            if run.error is None:
                action(run, done, value, *rest)
        except RunError as error:
            if len(runs) == 1:
                raise
            run.error = error
            run.say(str(error))
    for run in runs:
        run.resume_timing()


def _between(run: Progress, done: int, state: TrainState, evaluate: bool, save: bool) -> None:
    figures = run.evaluate(done, state) if evaluate else None
    ends = figures is not None and done < run.total and not run.goes_on(done, figures)
    if save or (ends and done > run.first):  # the first was saved before
        run.save(done, state, figures)
    if ends:
        run.checkpoints.wait()
        raise Stopped(f'stopped after step {done}')


def _started(runs: Sequence[Progress], start: Start, count: int) -> None:
    runs[0].console.say(f'first step after {start.first_step_seconds:.1f} s')
    for run in runs:
        run.started(start, count * run.config.train.batch_size)


def _interrupted(runs: Sequence[Progress], signum: int, done: int) -> Interrupted:
    for run in runs:
        run.checkpoints.wait()
    return Interrupted(
        signum,
        f'stopped by {signal.Signals(signum).name}; step {done} of {runs[0].total} is saved; run '
        'the same command again to continue',
    )


def _dispatches(runs: Sequence[Progress]) -> Generator[tuple[int, int, list[Any]]]:
    """The batches of one dispatch after another: steps then done, steps in it, each run's batches.

    A dispatch ends where something is due, so that nothing is late for it.
    """
    run, config = runs[0].run, runs[0].config
    done, total = runs[0].first, runs[0].total
    periods = (config.train.log_every, config.train.eval_every or total, config.checkpoint.every)
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(contextlib.closing(r.run.inputs.train_batches(done, total)))
            for r in runs
        ]
        while done < total:
            left = min(total - done, *(period - done % period for period in periods))
            # A smaller rest is taken step by step: two programs to compile, not one for each size.
            count = run.steps_per_dispatch if run.steps_per_dispatch <= left else 1
            done += count
            yield done, count, [stacked(list(itertools.islice(s, count))) for s in streams]


def stacked(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Batches [B, ...], one for each step -> [steps, B, ...]."""
    if len(batches) == 1:
        return {name: x[None] for name, x in batches[0].items()}
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def headline(progress: Progress, together: int = 1) -> str:
    """What is about to be trained, in a line."""
    config, run = progress.config, progress.run
    where = 'on the device' if run.inputs.arrays is not None else 'streamed'
    count = f'{run.placement.devices} x ' if run.placement.devices > 1 else ''
    count = f'{jax.process_count()} processes, {count}' if jax.process_count() > 1 else count
    begin = f'continues after step {progress.first}' if progress.first else 'starts'
    return (
        f'{config.model.name} on {config.data.name} {begin}, {progress.total} steps of '
        f'{config.train.batch_size}; {len(run.inputs.train)} images {where}; '
        f'{count}{jax.devices()[0].device_kind}; '
        + (f'workdir {progress.folder}' if together == 1 else f'{together} seeds together')
    )
