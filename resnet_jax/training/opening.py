"""Opening a run: look first, then take hold of its folder."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from resnet_jax.errors import InputError, RunError
from resnet_jax.records import trackers
from resnet_jax.records.writers import Console
from resnet_jax.training import config as configs
from resnet_jax.training import processes, workdir
from resnet_jax.training.build import Run, build_run
from resnet_jax.training.checkpoint import Checkpoints, one_line
from resnet_jax.training.inputs import open_inputs
from resnet_jax.training.progress import Progress
from resnet_jax.training.step import TrainState
from resnet_jax.training.summary import read_summary


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run of which nothing is written yet.

    Attributes:
      run: what the config makes.
      folder: its workdir.
      initial: the state that it starts from; None: its folder holds it already.
    """

    run: Run
    folder: Path
    initial: TrainState | None


def prepare(config: ConfigDict, folder: Path, like: Run | None = None) -> Prepared:
    """Reads and checks what a run needs, and writes nothing.

    Args:
      config: of the run; must agree with the folder's, but for `config.FREE_FIELDS`.
      folder: the workdir.
      like: a run that differs in its seed alone, whose data and compiled programs then serve this.

    Raises:
      InputError: for a bad config or data, or a folder of another run.
    """
    configs.check_values(config)
    workdir.check_folder(folder, config)
    if processes.is_first():
        trackers.check_login(config)
    stored = workdir.read_preprocessing(folder) if workdir.is_run(folder) else None
    run = like.reseeded(config) if like else build_run(config, open_inputs(config, stored))
    # Here, so that weights that do not fit are refused before anything is written.
    return Prepared(run, folder, run.init_state() if stored is None else None)


@contextlib.contextmanager
def opened(
    prepared: Prepared, console: Console | None = None
) -> Iterator[Progress | dict[str, Any]]:
    """A run for this process to train; its folder is made if it does not exist.

    Args:
      prepared: the run.
      console: where its progress is shown; None: its own.

    Yields:
      The run, or what summary.json holds if it has ended.

    Raises:
      InputError: if another process is training there.
      RunError: what goes wrong inside is said with what is left and how to continue.
    """
    run, folder, initial = prepared.run, prepared.folder, prepared.initial
    config = run.inputs.config
    processes.agree(configs.to_json(config), 'configs')  # and all have looked before one writes
    with contextlib.ExitStack() as stack:
        if processes.is_first():
            stack.enter_context(workdir.locked(folder))
            if initial is not None and workdir.is_run(folder):
                raise InputError(f'another process began a run in workdir {folder} meanwhile')
            if initial is not None:
                workdir.write_run(folder, config, run.inputs.preprocessing)
        processes.meet('the folder is there')
        checkpoints = Checkpoints(folder, config.checkpoint)
        if jax.process_count() == 1:  # else an error here would wait for the others in vain
            stack.callback(_close, checkpoints)
        ended = checkpoints.steps()[-1:] == [run.inputs.total_steps]
        summary = read_summary(folder) if ended else None
        if summary is not None:
            yield summary  # leave it as it is
            return
        progress = Progress(run, folder, checkpoints, initial, console)
        stack.push(lambda kind, error, trace: progress.close(error))
        with _explained(progress):
            yield progress


def _close(checkpoints: Checkpoints) -> None:
    with contextlib.suppress(RunError):  # an error on the way out says enough
        checkpoints.close()


@contextlib.contextmanager
def _explained(progress: Progress) -> Iterator[None]:
    """Says of an error what is left of the run, and how to go on."""
    again = 'run the same command again to continue'
    try:
        yield
    except InputError as error:  # an image that cannot be read, met on the way
        raise InputError(
            f'{one_line(error, 1000)}; {progress.kept()}; mend the data and {again}'
        ) from error
    except OSError as error:  # writing the metrics failed; a checkpoint says so itself
        raise RunError(
            f'the run in {progress.folder} failed: {one_line(error)}; {progress.kept()}; '
            f'{again} from there'
        ) from error
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise RunError(
            f'another process of the run ended or cannot be reached: {one_line(error)}; '
            f'{progress.kept()}; start all processes again with the same command to continue'
        ) from error
