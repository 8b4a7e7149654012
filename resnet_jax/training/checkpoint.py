"""Checkpoints with Orbax: written in the background, complete or not at all."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy

from resnet_jax.errors import InputError, RunError, Unreadable, choose, message, unknown_name
from resnet_jax.interop.checksums import checksums, differing_parts
from resnet_jax.json_files import read_json, unreadable
from resnet_jax.training.step import TrainState
from resnet_jax.training.tasks import TASKS

# Whether a larger figure is better.
LOWEST_LOSS = 'train_loss'  # the lowest mean training loss of an epoch so far
BEST_MODES = {
    **{
        name: 'max' if most else 'min'
        for task in TASKS.values()
        for name, most in task.best.items()
    },
    LOWEST_LOSS: 'min',
}
# Advice about a file without which a run cannot continue.
LOST = 'restore it from a copy, or train again in another --workdir'


def checkpoints_dir(workdir: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return workdir / 'checkpoints'


def saved_steps(workdir: Path) -> list[int]:
    """Steps of the complete checkpoints in a run's folder, ascending, without opening them."""
    names = [path.name for path in checkpoints_dir(workdir).glob('*')]
    return sorted(
        int(name) for name in names if name.isdigit()
    )  # Orbax gives complete ones this name


def _check_descriptions(workdir: Path, best: str) -> None:
    """Refuses damage in what Orbax reads of all checkpoints, whichever is asked for.

    Its own errors about these files do not say which one it is. Without them a state can be read.

    Raises:
      Unreadable: naming the file.
    """
    for step in saved_steps(workdir):
        folder = checkpoints_dir(workdir) / str(step)
        description, evaluation = folder / '_CHECKPOINT_METADATA', folder / 'metrics' / 'metrics'
        if description.exists():
            read_json(description, 'remove it; the checkpoint can be read without')
        if evaluation.exists():
            hint = 'remove it; the checkpoint then counts as one that was not evaluated'
            if not isinstance(read_json(evaluation, hint).get(best), int | float):
                raise unreadable(evaluation, f'it has no {best}', hint)


class Checkpoints:
    """The checkpoints of one run.

    A checkpoint holds the training state, which is all that continuing exactly takes (the data
    order and the random keys are functions of the seed and the step), the seconds trained, and the
    checksums of the state. Those are compared when it is read: a flipped bit would otherwise become
    a wrong figure. Checkpoints of earlier versions have none.

    Attributes:
      best_metric: a key of `BEST_MODES`; the figure that makes a checkpoint the best.
    """

    def __init__(self, workdir: Path, settings: ConfigDict, read_only: bool = False) -> None:
        self.best_metric, mode = settings.best, choose('checkpoint.best', settings.best, BEST_MODES)
        self._dir = checkpoints_dir(workdir).resolve()
        if read_only and not self._dir.is_dir():
            raise InputError(f'{self._dir} does not exist; train the run first')
        _check_descriptions(workdir, self.best_metric)

        def figure(metrics: dict[str, float]) -> float:
            return metrics[self.best_metric]

        keep = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(settings.keep),
                preservation_policy.BestN(
                    get_metric_fn=figure,
                    reverse=mode == 'min',
                    n=settings.keep_best,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self._manager = ocp.CheckpointManager(
            self._dir,
            item_names=('state', 'progress'),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep,
                best_fn=figure,
                best_mode=mode,
                # Not Orbax's read_only, which warns that it is: without the folder's creation and
                # cleaning, opening it writes nothing.
                create=not read_only,
                # Otherwise, on a disk too full for a folder, threads wait for it for minutes.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
                # What a killed run left half-written; a complete checkpoint has been renamed.
                cleanup_tmp_directories=not read_only,
            ),
        )

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def find(self, which: str) -> int:
        """The step of a checkpoint: 'latest', 'best', or a number.

        Raises:
          InputError: if there is none such.
        """
        steps = self.steps()
        if not steps:
            raise InputError(f'{self._dir} holds no complete checkpoint; train the run first')
        if which == 'latest':
            return steps[-1]
        if which == 'best':
            best = self._manager.best_step()
            return steps[-1] if best is None else best
        if which.isdigit() and int(which) in steps:
            return int(which)
        raise unknown_name('checkpoint', which, ['latest', 'best', *map(str, steps)])

    def save(
        self, state: TrainState, seconds: float, figures: dict[str, float] | None = None
    ) -> None:
        """Starts to write a checkpoint of `state`; waits for the one before it.

        Args:
          state: may be donated or changed as soon as this returns.
          seconds: spent training so far.
          figures: of an evaluation at this step; what the best checkpoint is chosen by.

        Raises:
          RunError: if this or the previous checkpoint cannot be written, as on a full disk.
        """
        step = int(state.step)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            progress=ocp.args.JsonSave({'seconds': seconds, 'checksums': checksums(_parts(state))}),
        )
        self._guard(lambda: self._manager.save(step, args=args, metrics=figures, force=True))

    def wait(self) -> None:
        """Waits until the last checkpoint is on disk; errors as `save`."""
        self._guard(self._manager.wait_until_finished)

    def _guard(self, action: Any) -> None:
        try:
            action()
            self._manager.check_for_errors()
        except Exception as error:  # tensorstore raises its own kinds
            several = jax.process_count() > 1
            if several and isinstance(error, jax.errors.JaxRuntimeError):
                raise  # another process is at fault, not the disk
            self._manager.reload()
            steps = self.steps()
            kept = f'the last complete one is of step {steps[-1]}' if steps else 'there is none yet'
            again = 'start all processes again with' if several else 'run'
            raise RunError(
                f'cannot write a checkpoint in {self._dir}: {one_line(error)}; {kept}; make room '
                f'and {again} the same command again to continue from there'
            ) from error

    def restore(self, template: TrainState, step: int) -> tuple[TrainState, float]:
        """Reads a checkpoint.

        Args:
          template: a state of the same structure, for example of `jax.ShapeDtypeStruct`.
          step: of an existing checkpoint.

        Returns:
          The state, and the seconds trained until then.

        Raises:
          Unreadable: if files are missing or damaged, or it is of another model.
        """
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(shapes), progress=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=args)
            state, progress = restored['state'], restored['progress']
            expected, seconds = progress.get('checksums', {}), float(progress['seconds'])
            if wrong := differing_parts(_parts(state), expected):
                raise ValueError(f'it is damaged: the checksum of {", ".join(wrong)} is wrong')
        except Exception as error:  # Orbax and tensorstore raise many kinds
            others = [s for s in self.steps() if s != step]
            hint = (
                f'move that folder away to continue from step {others[-1]}'
                if others
                else f'there is no other checkpoint; {LOST}'
            )
            raise Unreadable(
                f'checkpoint {self._dir / str(step)} cannot be read: {one_line(error)}; {hint}'
            ) from error
        return state, seconds

    def close(self) -> None:
        """Waits and releases the threads."""
        self._guard(self._manager.close)


def _parts(state: TrainState) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def one_line(error: BaseException, limit: int = 200) -> str:
    """The message of an error on one line, cut after `limit` characters."""
    text = ' '.join(message(error).split())
    return text if len(text) <= limit else text[:limit] + ' ...'
