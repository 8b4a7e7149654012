"""The training loop: from a config and a folder to a trained model, through any interruption."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from resnet_jax.models.errors import InputError, Interrupted, RunError
from resnet_jax.training import config as configs
from resnet_jax.training import memory, metrics, step, workdir
from resnet_jax.training.checkpoint import Checkpoints, one_line
from resnet_jax.training.compilation import matmul_precision
from resnet_jax.training.evaluate import evaluate
from resnet_jax.training.inputs import fits_in_memory, open_inputs
from resnet_jax.training.run import Run, build_run
from resnet_jax.training.step import TrainState
from resnet_jax.training.summary import Start, read_summary, write_summary
from resnet_jax.training.writers import Console, MetricWriter, read_metrics


def train(config: ConfigDict, folder: Path) -> dict[str, Any]:
    """Trains, or continues, the run in a folder until its last step.

    Args:
      config: of the run; must agree with the folder's, but for `config.FREE_FIELDS`.
      folder: the workdir; made if it does not exist.

    Returns:
      What summary.json holds.

    Raises:
      InputError: for a bad config or data, or a folder of another run.
      RunError: for a failure on the way; the last good checkpoint is kept.
      Interrupted: after SIGTERM or SIGINT; the step was finished and saved.
    """
    configs.check_values(config)
    workdir.check_folder(folder, config)
    stored = workdir.read_preprocessing(folder) if workdir.is_run(folder) else None
    inputs = open_inputs(config, stored)
    run = build_run(config, inputs)
    # Here, so that weights that do not fit are refused before anything is written.
    initial = run.init_state() if stored is None else None
    precision = matmul_precision(config.train.matmul_precision)
    with workdir.locked(folder), stop_signals() as signals, precision:
        if stored is None and workdir.is_run(folder):
            raise InputError(f'another process began a run in workdir {folder} meanwhile')
        if stored is None:
            workdir.write_run(folder, config, inputs.preprocessing)
        checkpoints = Checkpoints(folder, config.checkpoint)
        try:
            return _train(run, folder, checkpoints, signals, initial)
        finally:
            with contextlib.suppress(RunError):  # an error on the way out says enough
                checkpoints.close()


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them; a second SIGINT interrupts at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may set handlers
        return

    def handler(signum: int, frame: Any) -> None:
        if received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signum)

    old = {s: signal.signal(s, handler) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for signum, previous in old.items():
            signal.signal(signum, previous)


def _train(
    run: Run,
    folder: Path,
    checkpoints: Checkpoints,
    signals: list[int],
    initial: TrainState | None,
) -> dict[str, Any]:
    total = run.inputs.total_steps
    saved = checkpoints.steps()
    if saved and saved[-1] == total and (summary := read_summary(folder)):
        return summary  # the run has ended; leave it as it is
    if saved:
        state, seconds = checkpoints.restore(run.template, saved[-1])
    else:
        state, seconds = run.placement.put_state(initial or run.init_state()), 0.0
    first = int(state.step)
    writer, console = MetricWriter(folder, first), Console(first, total)
    console.say(_headline(run, folder, first))
    start = Start()
    try:
        if first < total:
            progress = _Progress(run, checkpoints, writer, console, seconds)
            every = run.inputs.config.train.eval_every
            done = any(m['step'] == first and m['split'] == 'eval' for m in read_metrics(folder))
            if first and every and first % every == 0 and not done:
                progress.evaluate(first, state)  # the signal that stopped it came first
            seconds = _take_steps(progress, state, signals)
            start = progress.start
        return write_summary(folder, run.inputs.config, run.template, seconds, start)
    except InputError as error:  # an image that cannot be read, met on the way
        raise InputError(
            f'{one_line(error, 1000)}; {_kept(checkpoints)}; mend the data and run the same '
            'command again to continue'
        ) from error
    except OSError as error:  # writing the metrics failed; a checkpoint says so itself
        raise RunError(
            f'the run in {folder} failed: {one_line(error)}; {_kept(checkpoints)}; '
            'run the same command again to continue from there'
        ) from error
    finally:
        console.close()
        writer.close()


class _Progress:
    """What happens between steps: figures, evaluation, checkpoints; and the time they take."""

    def __init__(
        self,
        run: Run,
        checkpoints: Checkpoints,
        writer: MetricWriter,
        console: Console,
        seconds: float,
    ) -> None:
        self.run, self.checkpoints = run, checkpoints
        self.writer, self.console = writer, console
        self.eval_batches: Any = None  # kept after the first evaluation, where they fit
        self.window = time.perf_counter()  # since when steps are timed ...
        self.untimed = 0  # ... but for so many images before
        self.began = self.window - seconds
        self.start = Start()

    @property
    def seconds(self) -> float:
        """Trained in all, over all continuations."""
        return time.perf_counter() - self.began

    def started(self, state: TrainState, *rest: Any) -> None:
        """Waits for the first step, which compiles, and leaves it out of the speed.

        Args:
          state: the next step's first argument ...
          *rest: ... and the others, for the memory that it takes.
        """
        jax.block_until_ready(state.step)
        seconds = time.perf_counter() - self.window
        self.console.say(f'first step after {seconds:.1f} s')
        self.start = Start(seconds, memory.jitted_bytes(self.run.train_step, state, *rest))
        self.window, self.untimed = time.perf_counter(), self.run.inputs.config.train.batch_size

    def log(self, done: int, totals: Any) -> None:
        """Writes the figures of the steps since the last call. Waits for the device."""
        sums = jax.device_get(totals)
        figures = metrics.averages(sums)
        if not np.isfinite(figures['loss']):
            raise RunError(_diverged(done, self.run, self.checkpoints))
        figures['learning_rate'] = float(self.run.schedule(done - 1))
        timed = float(sums['n']) - self.untimed
        if timed:
            figures['images_per_second'] = timed / (time.perf_counter() - self.window)
        self.writer.write(done, 'train', figures)
        left = self.run.inputs.total_steps - done
        self.console.figures(done, figures, left * self.run.inputs.config.train.batch_size)
        self.window, self.untimed = time.perf_counter(), 0

    def evaluate(self, done: int, state: TrainState) -> dict[str, float]:
        """Evaluates and writes the figures."""
        inputs = self.run.inputs
        placement = self.run.placement
        batches = self.eval_batches or inputs.eval_batches(placement.devices)
        if self.eval_batches is None and fits_in_memory(inputs.eval, inputs.config):
            self.eval_batches = batches = list(batches)
        placed = map(placement.put_batch, batches)
        figures, _ = evaluate(self.run.eval_step, step.eval_variables(state), placed)
        self.writer.write(done, 'eval', figures)
        self.console.say(
            f'step {done}  eval: loss {figures["loss"]:.4f}  top1 {100 * figures["top1"]:.2f} %'
        )
        self.window = time.perf_counter()
        return figures

    def save(self, done: int, state: TrainState, figures: dict[str, float] | None) -> None:
        """Starts a checkpoint of a state that is finite."""
        if not _all_finite(state):
            raise RunError(_diverged(done, self.run, self.checkpoints))
        self.checkpoints.save(state, self.seconds, figures)
        self.window = time.perf_counter()


def _take_steps(progress: _Progress, state: TrainState, signals: list[int]) -> float:
    """Takes the steps that are left, and returns the seconds trained in all."""
    run, config = progress.run, progress.run.inputs.config
    first, total = int(state.step), run.inputs.total_steps
    every = config.train.eval_every or total
    arrays = None if run.inputs.arrays is None else run.placement.put_whole(run.inputs.arrays)
    zeros = {name: np.zeros((), np.float32) for name in metrics.SUMS}
    totals = run.placement.put_whole(zeros)
    with contextlib.closing(run.inputs.train_batches(first, total)) as batches:
        for done, batch in enumerate(batches, first + 1):
            batch = run.placement.put_train_batch(batch)
            state, totals = run.train_step(state, totals, arrays, batch)
            progress.console.advance()
            if done == first + 1:
                progress.started(state, totals, arrays, batch)
            last, stop = done == total, bool(signals)
            save = last or stop or done % config.checkpoint.every == 0
            if save or done % config.train.log_every == 0:
                progress.log(done, totals)
                totals = run.placement.put_whole(zeros)
            figures = None
            if last or (done % every == 0 and not stop):
                figures = progress.evaluate(done, state)
            if save:
                progress.save(done, state, figures)
            if stop and not last:
                progress.checkpoints.wait()
                raise Interrupted(
                    signals[0],
                    f'stopped by {signal.Signals(signals[0]).name}; step {done} of {total} is '
                    'saved; run the same command again to continue',
                )
    progress.checkpoints.wait()
    return progress.seconds


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _headline(run: Run, folder: Path, first: int) -> str:
    config, inputs = run.inputs.config, run.inputs
    where = 'on the device' if inputs.arrays is not None else 'streamed'
    count = f'{run.placement.devices} x ' if run.placement.devices > 1 else ''
    begin = f'continues after step {first}' if first else 'starts'
    return (
        f'{config.model.name} on {config.data.name} {begin}, {inputs.total_steps} steps of '
        f'{config.train.batch_size}; {len(inputs.train)} images {where}; '
        f'{count}{jax.devices()[0].device_kind}; workdir {folder}'
    )


def _kept(checkpoints: Checkpoints) -> str:
    with contextlib.suppress(RunError):
        checkpoints.wait()
    steps = checkpoints.steps()
    return f'the last good checkpoint is of step {steps[-1]}' if steps else 'nothing was saved yet'


def _diverged(done: int, run: Run, checkpoints: Checkpoints) -> str:
    rate = float(run.schedule(done - 1))
    return (
        f'training diverged: the loss or the state is not finite at step {done} (learning rate '
        f'{rate:.3g}); {_kept(checkpoints)}; the same config would diverge again: start a new '
        'workdir with a lower optim.learning_rate, a warm-up, or optim.clip_norm'
    )
