"""What a sweep's workdir holds: of each run its state, its final figures and its curves."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from resnet_jax.errors import InputError
from resnet_jax.experiments.failures import read_failure
from resnet_jax.experiments.sweep import Sweep, Unit, units
from resnet_jax.models.counting import count
from resnet_jax.records.writers import read_metrics
from resnet_jax.training import workdir as runs
from resnet_jax.training.build import build_model
from resnet_jax.training.workdir import read_summary

SPLITS = {'test': 'eval', 'train': 'train'}  # as people say -> in metrics.jsonl
Curve = list[tuple[int, float]]  # (step, error in %)


@dataclasses.dataclass(frozen=True)
class Final:
    """The figures that a run ended with.

    Attributes:
      error: top-1 error of the evaluation split after the last step, in %.
      images: how many were evaluated.
      steps: trained.
      parameters: of the model.
      images_per_second: of training; None where nothing was timed.
      seconds: trained in all.
      together: how many runs shared each step.
      device: its kind.
    """

    error: float
    images: int | None
    steps: int
    parameters: int
    images_per_second: float | None
    seconds: float
    together: int
    device: str


@dataclasses.dataclass(frozen=True)
class Result:
    """One run of a sweep.

    Attributes:
      unit: its arm, seed and folder.
      final: None unless it has ended.
      failure: why it failed, where it did.
      curves: 'test' and 'train' -> errors on the way.
    """

    unit: Unit
    final: Final | None
    failure: str | None
    curves: Mapping[str, Curve]

    @property
    def state(self) -> str:
        """'ended', 'failed', 'unfinished' or 'not begun'."""
        if self.final is not None:
            return 'ended'
        if self.failure is not None:
            return 'failed'
        return 'unfinished' if self.unit.folder.is_dir() else 'not begun'

    @property
    def last_step(self) -> int:
        """The last one that anything is known of; 0 before that."""
        return max((curve[-1][0] for curve in self.curves.values() if curve), default=0)


def read_results(sweep: Sweep, workdir: Path) -> list[Result]:
    """All runs of a sweep, as far as they are; arm by arm.

    Raises:
      InputError: for a run whose files cannot be understood.
    """
    return [
        Result(unit, read_final(unit.folder), _why_failed(unit.folder), read_curves(unit.folder))
        for unit in units(sweep, workdir)
    ]


def read_final(folder: Path) -> Final | None:
    """What a run ended with; None if it has not.

    Raises:
      InputError: if its summary.json is not a summary.
    """
    try:
        summary = read_summary(folder)
        if summary is None:
            return None
        top1 = float(summary['eval']['top1'])
        if not 0 <= top1 <= 1:
            raise ValueError(f'eval.top1 is {top1}')
        return Final(
            error=100 * (1 - top1),
            images=summary['eval'].get('n'),
            steps=int(summary['steps']),
            parameters=int(summary['parameters']),
            images_per_second=summary.get('images_per_second'),
            seconds=float(summary['seconds']),
            together=int(summary.get('trained_together', 1)),
            device=str(summary.get('device', 'unknown')),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        what = f'lacks {error}' if isinstance(error, KeyError) else str(error)
        raise InputError(f'{folder / "summary.json"} is no summary of a run: {what}') from error


def _why_failed(folder: Path) -> str | None:
    failure = read_failure(folder)
    return failure and failure.error


def read_curves(folder: Path) -> dict[str, Curve]:
    """Top-1 errors in % over a run's steps, of 'test' and 'train'.

    Training errors are means since the line before, over augmented images.
    """
    curves: dict[str, Curve] = {name: [] for name in SPLITS}
    names = {split: name for name, split in SPLITS.items()}
    for line in read_metrics(folder):
        if not isinstance(line, dict) or not isinstance(line.get('step'), int):
            continue
        name, top1 = names.get(line.get('split', '')), line.get('top1')
        if name is not None and isinstance(top1, int | float):
            curves[name].append((line['step'], 100 * (1 - top1)))
    return curves


def multiply_adds(folder: Path) -> int | None:
    """Of one image's forward pass in the model of a run; None where its files do not say.

    The model is traced, not computed: under a second for most, ten for a thousand layers.
    """
    try:
        config, preprocessing = runs.read_config(folder), runs.read_preprocessing(folder)
        model = build_model(config.model, len(preprocessing.class_names))
    except (InputError, AttributeError, TypeError):
        return None
    size = preprocessing.image_size
    # A scanned block is traced once, and would be counted once.
    plain = model.clone(scan_blocks=False, remat=False)
    return count(plain, (size, size, preprocessing.channels)).multiply_adds
