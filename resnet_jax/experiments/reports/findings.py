"""What a sweep found, as far as it has come: the numbers behind every form of its report."""

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError
from resnet_jax.experiments import results
from resnet_jax.experiments import statistics as comparison
from resnet_jax.experiments.results import SPLITS, Curve, Result
from resnet_jax.experiments.statistics import Difference, Estimate
from resnet_jax.experiments.sweep import Sweep, read_sweep
from resnet_jax.training import workdir as runs

MOST_POINTS = 400  # of a curve; a longer one is thinned evenly


@dataclasses.dataclass(frozen=True)
class Arm:
    """What became of an arm.

    Attributes:
      name: its name.
      runs: all of them, seed by seed.
      error: final test error in %, over the runs that have ended; None where none has.
      difference: to the baseline, in percentage points; None for the baseline and where no seed of
        both has ended.
      published: error in % that a paper reports.
      multiply_adds: of one image; None where the runs' files do not say.
    """

    name: str
    runs: tuple[Result, ...]
    error: Estimate | None
    difference: Difference | None
    published: float | None
    multiply_adds: int | None

    def count(self, state: str) -> int:
        """How many runs are in a state, as `Result.state` calls it."""
        return sum(run.state == state for run in self.runs)

    def median(self, figure: str) -> float | None:
        """Of a figure of `Final`, over the runs that have ended."""
        found = [getattr(run.final, figure) for run in self.runs if run.final is not None]
        found = [value for value in found if value is not None]
        return statistics.median(found) if found else None


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a sweep found.

    Attributes:
      sweep: the sweep.
      workdir: where it lies.
      arms: in the sweep's order.
      settings: some fields of the first run's config, for the budget; empty where there is none.
    """

    sweep: Sweep
    workdir: Path
    arms: tuple[Arm, ...]
    settings: dict[str, Any]

    @property
    def baseline(self) -> Arm:
        """The arm that others are compared with."""
        return next(arm for arm in self.arms if arm.name == self.sweep.baseline)

    @property
    def others(self) -> list[Arm]:
        """All arms but the baseline."""
        return [arm for arm in self.arms if arm.name != self.sweep.baseline]

    @property
    def tests(self) -> int:
        """How many comparisons were tested, and so corrected for."""
        return sum(arm.difference is not None and arm.difference.p is not None for arm in self.arms)

    def runs(self, *states: str) -> list[Result]:
        """The runs in some states; all where none is named."""
        every = [run for arm in self.arms for run in arm.runs]
        return [run for run in every if not states or run.state in states]


_SETTINGS = (
    *('data.name', 'data.train_split', 'data.eval_split', 'data.image_size'),
    *('train.batch_size', 'train.epochs', 'train.steps'),
)


def find(workdir: Path) -> Findings:
    """Reads a sweep's workdir and compares its arms.

    Raises:
      InputError: if it holds no sweep, if nothing of it has ended, or files cannot be understood.
    """
    sweep = read_sweep(workdir)
    every = results.read_results(sweep, workdir)
    if not any(run.final for run in every):
        raise InputError(_nothing(workdir, every))
    errors = {
        arm: {run.unit.seed: run.final.error for run in every if run.unit.arm == arm and run.final}
        for arm in sweep.arms
    }
    differences = comparison.compare(errors, sweep.baseline)
    arms = []
    for name in sweep.arms:
        of_arm = tuple(run for run in every if run.unit.arm == name)
        begun = [run.unit.folder for run in of_arm if runs.is_run(run.unit.folder)]
        arms.append(
            Arm(
                name=name,
                runs=of_arm,
                error=comparison.estimate(list(errors[name].values())) if errors[name] else None,
                difference=differences.get(name),
                published=sweep.published.get(name),
                multiply_adds=results.multiply_adds(begun[0]) if begun else None,
            )
        )
    return Findings(sweep, workdir, tuple(arms), _settings(every))


def _nothing(workdir: Path, every: Sequence[Result]) -> str:
    failed = [run for run in every if run.state == 'failed']
    begun = sum(run.state == 'unfinished' for run in every)
    text = f'nothing to report: none of the {len(every)} runs in {workdir} has ended'
    if failed:
        unit = failed[0].unit
        text += f'; {len(failed)} failed ({unit.arm} seed {unit.seed}: {failed[0].failure})'
    return f'{text}; {begun} have begun; `resnet-jax sweep` goes on' if begun else text


def _settings(every: Sequence[Result]) -> dict[str, Any]:
    for run in every:
        if runs.is_run(run.unit.folder):
            flat = runs.configs.flatten(runs.read_config(run.unit.folder))
            return {field: flat[field] for field in _SETTINGS if flat.get(field) is not None}
    return {}


def curves(findings: Findings) -> list[dict[str, Any]]:
    """Errors in % over the steps, for JSON.

    Returns:
      For each arm and split that has any: its seeds with points [step, error], and mean points
      [step, mean, least, greatest] over the runs that have ended (over all, where none has), at the
      steps that each of them has.
    """
    found = []
    for arm in findings.arms:
        for split in SPLITS:
            shown = [run for run in arm.runs if run.curves[split]]
            whole = [run for run in shown if run.final is not None] or shown
            if shown:
                found.append(
                    {
                        'arm': arm.name,
                        'split': split,
                        'seeds': [
                            {'seed': run.unit.seed, 'points': _thin(run.curves[split])}
                            for run in shown
                        ],
                        'mean': _thin(_mean(run.curves[split] for run in whole)),
                    }
                )
    return found


def _mean(several: Iterable[Curve]) -> list[tuple[float, ...]]:
    at = [dict(curve) for curve in several]
    steps = sorted(set.intersection(*(set(points) for points in at)))
    values = [[points[step] for points in at] for step in steps]
    return [(s, statistics.fmean(v), min(v), max(v)) for s, v in zip(steps, values, strict=True)]


def _thin(points: Sequence[Sequence[float]]) -> list[list[float]]:
    """At most MOST_POINTS of them, evenly, with the last one; four decimals."""
    stride = -(-len(points) // MOST_POINTS)
    kept = list(points[:: max(stride, 1)])
    if points and kept[-1] != points[-1]:
        kept[-1] = points[-1]
    return [[step, *(round(value, 4) for value in values)] for step, *values in kept]


def to_json(findings: Findings, statement: Sequence[str]) -> dict[str, Any]:
    """All of it but the curves, for JSON; errors in %, differences in percentage points."""
    sweep = findings.sweep
    return {
        'title': sweep.title,
        'workdir': str(findings.workdir),
        'base': sweep.base,
        'fields': dict(sweep.fields),
        'settings': findings.settings,
        'seeds': list(sweep.seeds),
        'baseline': sweep.baseline,
        'complete': not findings.runs('unfinished', 'not begun', 'failed'),
        'level': comparison.LEVEL,
        'power': comparison.POWER,
        'tests': findings.tests,
        'statement': list(statement),
        'arms': [_arm_json(arm, sweep) for arm in findings.arms],
        'runs': [_run_json(run) for run in findings.runs()],
    }


def _arm_json(arm: Arm, sweep: Sweep) -> dict[str, Any]:
    return {
        'name': arm.name,
        'fields': dict(sweep.arms[arm.name]),
        'error': arm.error and dataclasses.asdict(arm.error),
        'difference': arm.difference and comparison.to_json(arm.difference),
        'ended': arm.count('ended'),
        'failed': arm.count('failed'),
        'unfinished': arm.count('unfinished') + arm.count('not begun'),
        'steps': arm.median('steps'),
        'parameters': arm.median('parameters'),
        'multiply_adds': arm.multiply_adds,
        'images_per_second': arm.median('images_per_second'),
        'seconds': arm.median('seconds'),
        'published': arm.published,
    }


def _run_json(run: Result) -> dict[str, Any]:
    return {
        'arm': run.unit.arm,
        'seed': run.unit.seed,
        'folder': str(run.unit.folder),
        'state': run.state,
        'last_step': run.final.steps if run.final else run.last_step,
        'failure': None if run.final else run.failure,
        **({} if run.final is None else dataclasses.asdict(run.final)),
    }
