"""One run on its way: its state, its folder, and what happens between steps."""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from resnet_jax.errors import Diverged, RunError
from resnet_jax.records import trackers
from resnet_jax.records.writers import Console, MetricWriter, read_metrics
from resnet_jax.training import config as configs
from resnet_jax.training import metrics, processes, step
from resnet_jax.training.build import Run
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.evaluate import evaluate
from resnet_jax.training.inputs import fits_in_memory
from resnet_jax.training.step import TrainState
from resnet_jax.training.summary import Start, write_summary


class Progress:
    """A run, its folder, and what happens between steps: figures, evaluation, checkpoints.

    Attributes:
      run, folder, checkpoints: as given.
      first: steps that it had taken when it was opened.
      console: where lines go.
      name: said before each line; empty for a run alone.
      error: what ended the run, where others go on.
      goes_on: asked after each evaluation but the last; see `loop.train`.
    """

    def __init__(
        self,
        run: Run,
        folder: Path,
        checkpoints: Checkpoints,
        initial: TrainState | None,
        console: Console | None = None,
    ) -> None:
        self.run, self.folder, self.checkpoints = run, folder, checkpoints
        saved, before = checkpoints.steps(), 0.0
        if saved:
            state, before = checkpoints.restore(run.template, saved[-1])
        else:
            state = run.placement.put_state(initial or run.init_state())
        self._state: TrainState | None = state
        self.first = int(state.step)
        quiet = not processes.is_first()
        self.console = console or Console(self.first, self.total, quiet)
        self._own_console = console is None
        self.name = ''
        self.error: RunError | None = None
        self.goes_on: Callable[[int, Mapping[str, float]], bool] = lambda done, figures: True
        self.start = Start()
        self._writer: MetricWriter | None = None
        self._mirrors = trackers.Mirrors([])
        if processes.is_first():
            self._writer = MetricWriter(folder, self.first)
            fields = configs.flatten(self.config)
            self._mirrors = trackers.follow(self.config, folder, fields, self.say)
        self._summary: dict[str, Any] = {}
        self._eval_batches: Any = None  # kept after the first evaluation, where they fit
        self._window = time.perf_counter()  # since when steps are timed ...
        self._untimed = 0  # ... but for so many images before
        self._began = self._window - before

    def take_state(self) -> TrainState:
        """The state that the run goes on from. Once: a step gives away the arrays it is given."""
        state, self._state = self._state, None
        assert state is not None
        return state

    @property
    def config(self) -> ConfigDict:
        """The run's."""
        return self.run.inputs.config

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.run.inputs.total_steps

    @property
    def seconds(self) -> float:
        """Trained in all, over all continuations."""
        return time.perf_counter() - self._began

    def say(self, line: str) -> None:
        """Prints a line."""
        self.console.say(self.name + line)

    def share_console(self, console: Console, name: str) -> None:
        """Says all that comes on another run's console, after a name."""
        if console is not self.console:
            self.close_console()
            self.console, self._own_console = console, False
        self.name = name

    def close_console(self) -> None:
        """Leaves its bar where it is, if it is this run's."""
        if self._own_console:
            self.console.close()

    def started(self, start: Start, untimed: int) -> None:
        """Leaves what was before now, such as compiling, and so many images out of the speed."""
        self.start, self._window, self._untimed = start, time.perf_counter(), untimed

    def resume_timing(self) -> None:
        """Leaves what was since the last figures, such as an evaluation, out of the speed."""
        self._window, self._untimed = time.perf_counter(), 0

    def log(self, done: int, totals: Any) -> None:
        """Writes the figures of the steps since the last call. Waits for the device.

        Raises:
          RunError: if the run diverged.
        """
        sums = jax.device_get(totals)
        figures = metrics.averages(sums)
        if not np.isfinite(figures['loss']):
            raise Diverged(self._diverged(done))
        figures['learning_rate'] = float(self.run.schedule(done - 1))
        timed = float(sums['n']) - self._untimed
        if timed:
            figures['images_per_second'] = timed / (time.perf_counter() - self._window)
        self._write(done, 'train', figures)
        images_left = (self.total - done) * self.config.train.batch_size
        self.console.figures(done, figures, images_left, self.name)

    def evaluate(self, done: int, state: TrainState) -> dict[str, float]:
        """Evaluates and writes the figures."""
        inputs, placement = self.run.inputs, self.run.placement
        batches = self._eval_batches or inputs.eval_batches(placement.devices)
        if self._eval_batches is None and fits_in_memory(inputs.eval, inputs.config):
            self._eval_batches = batches = list(batches)
        placed = map(placement.put_batch, batches)
        figures, _ = evaluate(self.run.eval_step, step.eval_variables(state), placed)
        self._write(done, 'eval', figures)
        self.say(
            f'step {done}  eval: loss {figures["loss"]:.4f}  top1 {100 * figures["top1"]:.2f} %'
        )
        return figures

    def evaluated(self, done: int) -> bool:
        """Whether figures of an evaluation at this step are written."""
        lines = read_metrics(self.folder)
        return any(line['step'] == done and line['split'] == 'eval' for line in lines)

    def save(self, done: int, state: TrainState, figures: dict[str, float] | None) -> None:
        """Starts a checkpoint of a state that is finite.

        Raises:
          RunError: if it is not, or a checkpoint cannot be written.
        """
        if not _all_finite(state):
            raise Diverged(self._diverged(done))
        self.checkpoints.save(state, self.seconds, figures)

    def finish(self, together: int = 1) -> dict[str, Any]:
        """Waits for the last checkpoint and writes summary.json.

        Args:
          together: how many runs shared each step.

        Returns:
          What summary.json holds; {} in a process that is not the first.
        """
        self.checkpoints.wait()
        if not processes.is_first():
            return {}
        template = self.run.template
        summary = self._summary = write_summary(
            self.folder, self.config, template, self.seconds, self.start, together
        )
        self.console.finished(self.folder, summary)
        return summary

    def close(self, error: BaseException | None) -> None:
        """Closes the files and ends the trackers' records; the checkpoints are their owner's.

        Args:
          error: what ended the run, if it is not to its last step.
        """
        self.close_console()
        if self._writer:
            self._writer.close()
        self._mirrors.close(self.error or error, configs.flatten(self._summary))

    def kept(self) -> str:
        """What is left of the run, in words."""
        if jax.process_count() == 1:  # else others may be waited for in vain
            with contextlib.suppress(RunError):
                self.checkpoints.wait()
        saved = self.checkpoints.steps()
        if saved:
            return f'the last good checkpoint is of step {saved[-1]}'
        return 'nothing was saved yet'

    def _write(self, done: int, split: str, figures: dict[str, float]) -> None:
        if self._writer:
            self._writer.write(done, split, figures)
            self._mirrors.notify()

    def _diverged(self, done: int) -> str:
        rate = float(self.run.schedule(done - 1))
        return (
            f'training diverged: the loss or the state is not finite at step {done} (learning rate '
            f'{rate:.3g}); {self.kept()}; the same config would diverge again: start a new '
            'workdir with a lower optim.learning_rate, a warm-up, or optim.clip_norm'
        )


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
