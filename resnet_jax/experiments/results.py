"""What became of a run: its state, final figures, curves and failure, read from its folder.

Reports, comparisons, reproductions and searches all read runs with `read_run`.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from resnet_jax.dense import net_of, with_net_fields
from resnet_jax.errors import Diverged, InputError, Unreadable
from resnet_jax.json_files import read_json, unreadable
from resnet_jax.models.counting import FLOPS_PER_MULTIPLY_ADD, Counts, count
from resnet_jax.records.writers import read_metrics, write_atomically
from resnet_jax.training.config import flatten
from resnet_jax.training.inputs import train_image_size
from resnet_jax.training.start import run_model
from resnet_jax.training.tasks import error_kind, score_of
from resnet_jax.training.workdir import is_run, read_config, read_preprocessing, read_summary

FAILED_FILE = 'failed.json'
SPLITS = {'test': 'eval', 'train': 'train'}  # name in reports -> name in metrics.jsonl
Curve = list[tuple[int, float]]  # (step, value)


class Failure(NamedTuple):
    """Why a run failed.

    Attributes:
      error: one line.
      diverged: whether the loss or the state stopped being finite: a result, not a fault.
    """

    error: str
    diverged: bool = False


@dataclasses.dataclass(frozen=True)
class FinalFigures:
    """What a run that ended achieved, from its summary.json.

    Attributes:
      error: top-1 error on the evaluation split after the last step, in %, or what the score of
        another task lacks of 100.
      images: number of evaluated images.
      steps: number of training steps.
      parameters: number of parameters of the model.
      images_per_second: training speed; None if nothing was timed.
      seconds: wall time, over all continuations, compilation included.
      together: number of runs that shared each step.
      device: kind of device.
      loss: on the evaluation split after the last step, in nats.
      first_step_seconds: the part of `seconds` until the last process had done its first step, most
        of which is compilation; None if the summary does not say.
      versions: package -> version.
      git_commit: of the code, with '+' if it had changes; None outside a checkout.
      memory: in bytes: 'step_bytes', the compiler's estimate for a step, and 'device_peak_bytes',
        the peak use of the device; None if unknown.
    """

    error: float
    images: int | None
    steps: int
    parameters: int
    images_per_second: float | None
    seconds: float
    together: int
    device: str
    loss: float | None = None
    first_step_seconds: float | None = None
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    git_commit: str | None = None
    memory: Mapping[str, int | None] = dataclasses.field(default_factory=dict)

    @property
    def training_seconds(self) -> float:
        """Wall time without the first step of the last process, which compiles."""
        return self.seconds - (self.first_step_seconds or 0.0)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """A run, as far as it has come.

    Attributes:
      folder: its workdir.
      seed: its seed.
      config: dotted field -> value; empty if the folder has no config.json.
      metrics: the lines of metrics.jsonl that have a step and a split, in order.
      final: None unless the run has ended.
      failure: why it failed the last time; None if it did not.
    """

    folder: Path
    seed: int
    config: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    final: FinalFigures | None
    failure: Failure | None

    @property
    def state(self) -> str:
        """'ended', 'failed', 'unfinished' or 'not begun'."""
        if self.final is not None:
            return 'ended'
        if self.failure is not None:
            return 'failed'
        return 'unfinished' if self.folder.is_dir() else 'not begun'

    @property
    def error_kind(self) -> str:
        """What kind of error it has, in words, such as 'top-1'."""
        return error_kind(self.config.get('task'))

    @property
    def last_step(self) -> int:
        """The last step with figures; 0 without any."""
        return max((line['step'] for line in self.metrics), default=0)

    def lines(self, split: str) -> list[Mapping[str, Any]]:
        """The lines of metrics.jsonl about a split, one of `SPLITS`."""
        return [line for line in self.metrics if line['split'] == SPLITS[split]]

    def curve(self, split: str, figure: str = 'error') -> Curve:
        """A figure over the steps.

        Training figures are means since the previous line, over augmented images.

        Args:
          split: one of `SPLITS`.
          figure: 'error' (in %, see `FinalFigures`), or a key of metrics.jsonl such as 'loss'.

        Returns:
          (step, value) of each line that has the figure and a finite value of it.
        """
        points = [
            (line['step'], score_of(line) if figure == 'error' else line.get(figure))
            for line in self.lines(split)
        ]
        found = [(step, value) for step, value in points if isinstance(value, int | float)]
        return [(step, 100 * (1 - v)) for step, v in found] if figure == 'error' else found

    def to_json(self) -> dict[str, Any]:
        """The run for JSON, without its curves; the final figures only if it has ended."""
        found = {
            'seed': self.seed,
            'folder': str(self.folder),
            'state': self.state,
            'last_step': self.final.steps if self.final else self.last_step,
            'failure': self.failure.error if self.failure and not self.final else None,
        }
        if self.final is not None:
            found |= dataclasses.asdict(self.final)
            found['training_seconds'] = self.final.training_seconds
        return found


def read_run(folder: Path, seed: int | None = None) -> RunResult:
    """Reads what is known of a run.

    Args:
      folder: its workdir, which need not exist.
      seed: of the run; None: that of its config.

    Raises:
      Unreadable: if the run's files cannot be understood.
    """
    if folder.exists() and not folder.is_dir():
        raise Unreadable(f'{folder} is no folder of a run')
    config = flatten(read_config(folder)) if is_run(folder) else {}
    return RunResult(
        folder=folder,
        seed=config.get('seed', 0) if seed is None else seed,
        config=config,
        metrics=tuple(read_metrics(folder)),
        final=_read_final(folder),
        failure=read_failure(folder),
    )


def read_member(folder: Path, seed: int) -> RunResult:
    """Reads a run as one of many: one that cannot be read is a failed one, and says why."""
    try:
        return read_run(folder, seed)
    except Unreadable as error:
        return RunResult(folder, seed, {}, (), None, Failure(str(error)))


def _read_final(folder: Path) -> FinalFigures | None:
    try:
        summary = read_summary(folder)
        if summary is None:
            return None
        evaluation = summary['eval']
        score = score_of(evaluation)
        if score is None or not 0 <= float(score) <= 1:
            raise ValueError(f'the score of its evaluation is {score}')
        return FinalFigures(
            error=100 * (1 - float(score)),
            images=evaluation.get('n'),
            steps=int(summary['steps']),
            parameters=int(summary['parameters']),
            images_per_second=summary.get('images_per_second'),
            seconds=float(summary['seconds']),
            together=int(summary.get('trained_together', 1)),
            device=str(summary.get('device', 'unknown')),
            loss=evaluation.get('loss'),
            first_step_seconds=summary.get('first_step_seconds'),
            versions=dict(summary.get('versions') or {}),
            git_commit=summary.get('git_commit'),
            memory=dict(summary.get('memory') or {}),
        )
    except Unreadable:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        hint = 'it is no summary of a run; remove it and run the same command again'
        raise unreadable(folder / 'summary.json', error, hint) from error


def write_failure(folder: Path, error: Exception | str) -> None:
    """Writes failed.json, the reason why a run failed, into the run's folder.

    Where that is impossible, as in a folder that is damaged, the reason has been shown at least.
    """
    failure = Failure(str(error), isinstance(error, Diverged))
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FAILED_FILE, json.dumps(failure._asdict(), indent=2) + '\n')


def forget_failure(folder: Path) -> None:
    """Removes failed.json, where there is one."""
    with contextlib.suppress(OSError):
        (folder / FAILED_FILE).unlink()


def read_failure(folder: Path) -> Failure | None:
    """Why the run in a folder failed the last time; None if it did not, or has ended since."""
    path = folder / FAILED_FILE
    if not path.is_file():
        return None
    try:
        found = read_json(path)
        return Failure(str(found['error']), bool(found.get('diverged', False)))
    except (Unreadable, KeyError):
        return Failure(f'{FAILED_FILE} cannot be read')


def provenance(runs: Iterable[RunResult]) -> dict[str, Any]:
    """The hardware and software of the runs that have ended, for JSON.

    Returns:
      'devices', 'versions' (package -> versions) and 'git_commits', each with its distinct values.
    """
    finals = [run.final for run in runs if run.final is not None]
    packages = dict.fromkeys(name for final in finals for name in final.versions)
    return {
        'devices': sorted({final.device for final in finals}),
        'versions': {
            name: sorted({final.versions[name] for final in finals if name in final.versions})
            for name in packages
        },
        'git_commits': sorted({final.git_commit for final in finals if final.git_commit}),
    }


def counts_of_run(folder: Path, training: bool = False) -> Counts | None:
    """Parameters of a run's model and multiply-adds of one image; None if its files do not say.

    The image has the size of evaluation, or that of training. The model is traced, not computed,
    with equal blocks as a scan: in about a second.
    """
    try:
        config, preprocessing = read_config(folder), read_preprocessing(folder)
        model = run_model(config, len(preprocessing.class_names))
    except (InputError, AttributeError, TypeError):
        return None
    if training and preprocessing.dimensions == 2:
        preprocessing = dataclasses.replace(
            preprocessing, image_size=train_image_size(config), resize=None
        )
    scanned = with_net_fields(model, scan_blocks=net_of(model).scannable, remat=False)
    return count(scanned, preprocessing.model_shape)


def takes_series(folder: Path) -> bool:
    """Whether a run's examples are series, texts or sounds; False if its files do not say."""
    try:
        return read_preprocessing(folder).dimensions == 1
    except (InputError, AttributeError, TypeError):
        return False


def training_flops(folder: Path, steps: int) -> float | None:
    """Operations of a run's training so far; None if its files do not say. See `counts_of_run`."""
    counts = counts_of_run(folder, training=True)
    if counts is None:
        return None
    images = float(steps) * read_config(folder).train.batch_size
    return FLOPS_PER_MULTIPLY_ADD * counts.multiply_adds * images
