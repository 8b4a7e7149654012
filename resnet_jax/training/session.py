"""A run while this process trains it: its workdir, figures, evaluations and checkpoints."""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.errors import Diverged, InputError, Interrupted, RunError, fault_of_jax
from resnet_jax.models.counting import count_parameters
from resnet_jax.records import trackers
from resnet_jax.records.writers import Console, MetricWriter, read_metrics, signs_of_life
from resnet_jax.training import config as configs
from resnet_jax.training import optim, processes, step, workdir
from resnet_jax.training.build import Run
from resnet_jax.training.checkpoint import BEST_MODES, Checkpoints, one_line
from resnet_jax.training.evaluate import evaluate_each
from resnet_jax.training.feeding import Feed
from resnet_jax.training.inputs import fits_in_memory, replaced_text
from resnet_jax.training.profile import Profile
from resnet_jax.training.step import TrainState


class Session:
    """What happens between the steps of a run: figures, evaluations and checkpoints.

    Attributes:
      run, folder, checkpoints, console: as given.
      first_step: number of steps that the run had taken when it was opened.
      step_bytes: memory of a step, where the compiler gives an account of it.
      profile: of its first steps, where one is wanted.
      error: what ended the run, where others trained beside it go on.
    """

    def __init__(
        self,
        run: Run,
        folder: Path,
        checkpoints: Checkpoints,
        initial: TrainState | None,
        console: Console | None = None,
        name: str = '',
    ) -> None:
        self.run, self.folder, self.checkpoints = run, folder, checkpoints
        saved, seconds_before = checkpoints.steps(), 0.0
        if saved:
            state, seconds_before = checkpoints.restore(run.template, saved[-1])
        else:
            state = run.placement.put_state(initial or run.init_state())
        self._state: TrainState | None = state
        self.first_step = int(state.step)
        quiet = not processes.is_first()
        self.console = console or Console(self.first_step, run.total_steps, quiet)
        self._own_console, self._name = console is None, name
        self.error: RunError | None = None
        self.step_bytes: int | None = None
        self.profile: Profile | None = None
        self._said_fault, self._rate_factor = False, 1.0
        self._first_step_seconds: float | None = None
        self._writer: MetricWriter | None = None
        self._mirrors = trackers.Mirrors([])
        if processes.is_first():
            self._writer = MetricWriter(folder, self.first_step)
            log, fields = run.config.log, configs.flatten(run.config)
            self._mirrors = trackers.follow(log.trackers, log.project, folder, fields, self.say)
        self._summary: dict[str, Any] = {}
        self._evaluated: dict[int, float] = {}
        self._eval_batches: Any = None  # kept after the first evaluation, where they fit
        now = time.perf_counter()
        self._began = now - seconds_before
        self._clock, self._untimed_images = now, 0

    def take_state(self) -> TrainState:
        """The state to go on from. Once: a step donates the arrays it is given."""
        state, self._state = self._state, None
        assert state is not None
        return state

    def say(self, line: str) -> None:
        """Prints a line."""
        self.console.say(self._name + line)

    def first_dispatch_done(self, steps: int) -> None:
        """Leaves the first dispatch, with the compilation in it, out of the speed."""
        self._first_step_seconds = time.perf_counter() - self._clock
        self.say(f'first step after {self._first_step_seconds:.1f} s')
        self.restart_clock(steps * self.run.config.train.batch_size)

    def restart_clock(self, untimed_images: int = 0) -> None:
        """Leaves the time until now out of the speed, and so many images that it took."""
        self._clock, self._untimed_images = time.perf_counter(), untimed_images

    @contextlib.contextmanager
    def paused_clock(self, totals: Any) -> Iterator[None]:
        """Waits for the steps that give `totals`, and leaves what follows out of the speed."""
        jax.block_until_ready(totals)
        paused = time.perf_counter()
        yield
        self._clock += time.perf_counter() - paused

    def log(self, done: int, totals: Any, state: TrainState, feed: Feed | None = None) -> None:
        """Writes the figures of the steps since the last call. Waits for the device.

        Args:
          done: number of steps taken.
          totals: of these steps.
          state: after them.
          feed: where their batches came from, for its figures.

        Raises:
          Diverged: if the loss is not finite.
        """
        sums = jax.device_get(totals)
        figures = self.run.task.train_figures(sums)
        if not np.isfinite(figures['loss']):
            raise self._diverged(done)
        self._rate_factor = float(optim.rate_factor(state.opt_state))
        figures['learning_rate'] = float(self.run.schedule(done - 1)) * self._rate_factor
        timed, seconds = float(sums['n']) - self._untimed_images, time.perf_counter() - self._clock
        if timed:
            figures['images_per_second'] = timed / seconds
            figures |= feed.figures(seconds) if feed else {}
        if figures.get('bad_images') and feed and not self._said_fault:
            self._said_fault = True
            self.say(f'data: {replaced_text(int(figures["bad_images"]), feed.first_fault)}')
        self._write(done, 'train', figures)
        images_left = (self.run.total_steps - done) * self.run.config.train.batch_size
        text = self.run.task.text(figures)
        self.console.figures(done, text, figures, images_left, self._name)
        self.restart_clock()

    def dispatched(self, count: int, totals: Any, feed: Feed) -> None:
        """Lets the feed read ahead after a dispatch of `count` steps, and profiles it if wanted."""
        feed.dispatched(totals)
        if self.profile:
            with self.paused_clock(None):
                for line in self.profile.dispatched(count, totals, feed.waited):
                    self.say(line)

    def measure(self, done: int, count: int, state: TrainState, arrays: Any, batches: Any) -> None:
        """Writes the signal by block, where config.log.signal_every wants it. Waits for the device.

        Where several steps are taken at a time it is measured after the last of them, so that the
        steps are those of a run that does not measure.

        Args:
          done: number of steps taken.
          count: of them, since the last call.
          state: after them.
          arrays: the examples, where they are on the device.
          batches: of these steps, as `Run.dispatches` gives them.
        """
        every = self.run.config.log.signal_every
        if self.run.signal is None or done // every == (done - count) // every:
            return
        with self.paused_clock(state.step):
            last = {name: x[-1] for name, x in batches.items()}
            self._write(done, 'signal', self.run.signal(self.run.seed, state, arrays, last))

    def evaluate(self, done: int, state: TrainState) -> dict[str, float]:
        """Evaluates on the evaluation split and writes the figures.

        Of a run with `optim.ema` they are those of the averaged variables, and with checkpoint.best
        train_loss those of the lowest 'train_loss'; 'raw_loss' and 'raw_top1', or another score of
        the task, are those of the others. Where the evaluation fails, the state is saved first, so
        that no training step is lost.
        """
        try:
            return self._evaluate(done, state)
        except Exception:
            # With several processes, the others might not come to save.
            if jax.process_count() == 1 and done not in self.checkpoints.steps():
                with contextlib.suppress(RunError):  # the error of the evaluation says enough
                    self.save(done, state, None)
            raise

    def _evaluate(self, done: int, state: TrainState) -> dict[str, float]:
        run = self.run
        batches = self._eval_batches or run.inputs.eval_batches(run.placement.devices)
        if self._eval_batches is None and fits_in_memory(run.inputs.eval, run.config):
            self._eval_batches = batches = list(batches)
        variables = [step.eval_variables(state)]
        if state.ema is not None:
            variables.append({'params': state.params, 'batch_stats': state.batch_stats})
        placed = map(run.placement.put_batch, batches)
        with signs_of_life(f'step {done}  evaluating', self.say):
            found = evaluate_each(run.eval_step, variables, placed, run.task)
        figures, other = found[0][0], 'not averaged'
        if (lowest := step.lowest_loss(state)) is not None:
            figures['train_loss'], other = lowest, 'of this step'
        text = run.task.text(figures)
        if state.ema is not None:
            raw, score = found[1][0], run.task.score
            figures |= {f'raw_{name}': raw[name] for name in ('loss', score)}
            text += f' ({other}: {raw["loss"]:.4f}, {100 * raw[score]:.2f} %)'
        self._evaluated[done] = figures[self.checkpoints.best_metric]
        self._write(done, 'eval', figures)
        self.say(f'step {done}  eval: {text}')
        return figures

    def is_evaluated(self, done: int) -> bool:
        """Whether metrics.jsonl holds an evaluation at this step."""
        lines = read_metrics(self.folder)
        return any(line['step'] == done and line['split'] == 'eval' for line in lines)

    def is_out_of_patience(self, done: int) -> bool:
        """Whether the last `train.patience` evaluations up to this step were no better."""
        patience, figure = self.run.config.train.patience, self.checkpoints.best_metric
        if not patience:
            return False
        found = {
            line['step']: line[figure]
            for line in read_metrics(self.folder)
            if line['split'] == 'eval' and line['step'] <= done and figure in line
        }
        # The last writes may not be seen by all of several processes; each has its own figures.
        found |= self._evaluated
        sign = 1 if BEST_MODES[figure] == 'max' else -1
        values = [sign * found[step] for step in sorted(found)]
        return len(values) > patience and max(values[-patience:]) <= max(values[:-patience])

    def save(self, done: int, state: TrainState, figures: dict[str, float] | None) -> None:
        """Starts to write a checkpoint.

        Raises:
          Diverged: if the state is not finite.
          RunError: if a checkpoint cannot be written.
        """
        if not step.is_finite(state):
            raise self._diverged(done)
        self.checkpoints.save(state, time.perf_counter() - self._began, figures)

    def finish(self, trained_together: int = 1) -> dict[str, Any]:
        """Waits for the last checkpoint and writes summary.json.

        Returns:
          Its content; {} in a process that is not the first.
        """
        self.checkpoints.wait()
        if not processes.is_first():
            return {}
        self._summary = workdir.write_summary(
            self.folder,
            self.run.config,
            total_steps=self.run.total_steps,
            parameters=count_parameters(self.run.template.params),
            seconds=time.perf_counter() - self._began,
            first_step_seconds=self._first_step_seconds,
            step_bytes=self.step_bytes,
            trained_together=trained_together,
            replaced=self.run.inputs.bad.count if self.run.inputs.bad else 0,
            profile=self.profile.figures if self.profile else None,
        )
        self.console.finished(self.folder, self._summary)
        return self._summary

    def close(self, error: BaseException | None) -> None:
        """Closes the metric files and ends the trackers' records; `error` is what ended the run."""
        if self.profile:
            self.profile.close()
        if self._own_console:
            self.console.close()
        if self._writer:
            self._writer.close()
        self._mirrors.close(self.error or error, configs.flatten(self._summary))

    def kept(self) -> str:
        """What is left of the run, in words."""
        if jax.process_count() == 1:  # other processes may never come to wait
            with contextlib.suppress(RunError):
                self.checkpoints.wait()
        saved = self.checkpoints.steps()
        if saved:
            return f'the last good checkpoint is of step {saved[-1]}'
        return 'nothing was saved yet'

    def interrupted(self, signum: int, done: int) -> Interrupted:
        """The exception that ends a run after a signal, once the checkpoint is written."""
        self.checkpoints.wait()
        return Interrupted(
            signum,
            f'stopped by {signal.Signals(signum).name}; step {done} of {self.run.total_steps} is '
            'saved; run the same command again to continue',
        )

    def _write(self, done: int, split: str, figures: dict[str, float]) -> None:
        if self._writer:
            self._writer.write(done, split, figures)
            self._mirrors.notify()

    def _diverged(self, done: int) -> Diverged:
        rate = float(self.run.schedule(done - 1)) * self._rate_factor
        return Diverged(
            f'training diverged: the loss or the state is not finite at step {done} (learning rate '
            f'{rate:.3g}); {self.kept()}; the same config would diverge again: start a new '
            'workdir with a lower optim.learning_rate, a warm-up, or optim.clip_norm'
        )


@contextlib.contextmanager
def open_session(
    run: Run,
    folder: Path,
    initial: TrainState | None,
    console: Console | None = None,
    name: str = '',
    extend: bool = False,
) -> Iterator[Session]:
    """Locks the workdir and opens its files, for this process to train the run.

    Args:
      run: the run.
      folder: its workdir; created if it does not exist.
      initial: the state of a run that is new; None: the workdir holds one.
      console: where progress is shown; None: on its own console.
      name: printed before each line.
      extend: whether the workdir's config has another length than the run now has.

    Raises:
      InputError: if another process is training there.
      RunError: for what fails inside, saying what is kept and how to resume.
    """
    processes.require_same(configs.to_json(run.config), 'configs')  # all have read by now
    with contextlib.ExitStack() as stack:
        if processes.is_first():
            stack.enter_context(workdir.locked(folder))
            if initial is not None and workdir.is_run(folder):
                raise InputError(f'another process started a run in workdir {folder} meanwhile')
            workdir.write_fingerprint(folder, run.inputs.fingerprint)
            if initial is not None or extend:
                workdir.write_run(folder, run.config, run.inputs.preprocessing)
        processes.barrier('workdir created')
        checkpoints = Checkpoints(folder, run.config.checkpoint)
        if jax.process_count() == 1:  # with several, an error here would wait for the others
            stack.callback(_close, checkpoints)
        session = Session(run, folder, checkpoints, initial, console, name)
        stack.push(lambda kind, error, trace: session.close(error))
        with _explained(session):
            yield session


def _close(checkpoints: Checkpoints) -> None:
    with contextlib.suppress(RunError):  # the error that got us here says enough
        checkpoints.close()


@contextlib.contextmanager
def _explained(session: Session) -> Iterator[None]:
    """Adds to an error what is kept of the run, and how to resume."""
    again = 'run the same command again to continue'
    try:
        yield
    except InputError as error:  # such as an image that cannot be read
        raise InputError(
            f'{one_line(error, 1000)}; {session.kept()}; correct the data and {again} '
            f'(with {workdir.ACCEPT} if an image was replaced or removed)'
        ) from error
    except OSError as error:  # writing the metrics failed; `Checkpoints` reports its own failures
        raise RunError(
            f'the run in {session.folder} failed: {one_line(error)}; {session.kept()}; '
            f'{again} from there'
        ) from error
    except jax.errors.JaxRuntimeError as error:
        if fault := fault_of_jax(error):
            raise RunError(
                f'the run in {session.folder} failed: {fault}; {session.kept()}'
            ) from error
        if jax.process_count() == 1:
            raise
        raise RunError(
            f'another process of the run ended or cannot be reached: {one_line(error)}; '
            f'{session.kept()}; start all processes again with the same command to continue'
        ) from error
