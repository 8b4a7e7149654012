"""What a sweep found, as far as it has come: the numbers behind every form of its report."""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.experiments.results import (
    SPLITS,
    Curve,
    RunResult,
    counts_of_run,
    provenance,
    read_member,
    takes_series,
)
from resnet_jax.experiments.sweep import Sweep, read_sweep, units
from resnet_jax.statistics import (
    LEVEL,
    POWER,
    Difference,
    Estimate,
    compare,
    difference_json,
    estimate,
)
from resnet_jax.training.tasks import error_kind

MOST_POINTS = 400  # of a curve; a longer one is thinned evenly
_SETTINGS = (
    *('data.name', 'data.train_split', 'data.eval_split', 'data.image_size'),
    *('train.batch_size', 'train.epochs', 'train.steps'),
)


@dataclasses.dataclass(frozen=True)
class Arm:
    """Runs that differ in their seeds alone: an arm of a sweep, or a group of compared runs.

    Attributes:
      name: of the arm.
      runs: all of them, in order.
      error: final test error in %, over the seeds that have ended; None if none has.
      difference: to the baseline, in percentage points; None for the baseline, and if no seed has
        ended in both.
      published: error in % that a paper reports, if it does.
      multiply_adds: of one image; None if the runs' files do not say.
    """

    name: str
    runs: tuple[RunResult, ...]
    error: Estimate | None
    difference: Difference | None
    published: float | None = None
    multiply_adds: int | None = None

    def count(self, state: str) -> int:
        """How many runs are in a state of `RunResult.state`."""
        return sum(run.state == state for run in self.runs)

    def median(self, figure: str) -> float | None:
        """The median of an attribute of `FinalFigures`, over the runs that have it."""
        found = [getattr(run.final, figure) for run in self.runs if run.final is not None]
        found = [value for value in found if value is not None]
        return statistics.median(found) if found else None


def make_arms(runs: Mapping[str, Sequence[RunResult]], baseline: str) -> list[Arm]:
    """Compares runs arm by arm.

    Args:
      runs: arm -> its runs. Runs of an arm with the same seed count once, with their mean.
      baseline: the arm that the others are compared with.
    """
    errors = {name: _errors(of_arm) for name, of_arm in runs.items()}
    differences = compare(errors, baseline)
    return [
        Arm(
            name=name,
            runs=tuple(of_arm),
            error=estimate(list(errors[name].values()), (0.0, 100.0)) if errors[name] else None,
            difference=differences.get(name),
        )
        for name, of_arm in runs.items()
    ]


def _errors(runs: Iterable[RunResult]) -> dict[int, float]:
    """Seed -> final error in %."""
    by_seed: dict[int, list[float]] = {}
    for run in runs:
        if run.final is not None:
            by_seed.setdefault(run.seed, []).append(run.final.error)
    return {seed: statistics.fmean(errors) for seed, errors in by_seed.items()}


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a sweep found.

    Attributes:
      sweep: the sweep.
      workdir: its folder.
      arms: in the sweep's order.
      settings: the fields of the first run's config that describe its budget; empty without one.
    """

    sweep: Sweep
    workdir: Path
    arms: tuple[Arm, ...]
    settings: dict[str, Any]

    @property
    def comparable(self) -> bool:
        """Whether all arms are of the same data; errors on different data are not compared."""
        usual = self.sweep.fields.get('data.name')
        arms = self.sweep.arms.values()
        return len({fields.get('data.name', usual) for fields in arms}) == 1

    @property
    def baseline(self) -> Arm:
        """The arm that the others are compared with."""
        return next(arm for arm in self.arms if arm.name == self.sweep.baseline)

    @property
    def others(self) -> list[Arm]:
        """All arms but the baseline."""
        return [arm for arm in self.arms if arm.name != self.sweep.baseline]

    @property
    def tests(self) -> int:
        """Number of tests made, for which p-values are corrected."""
        return sum(arm.difference is not None and arm.difference.p is not None for arm in self.arms)

    @property
    def error_kind(self) -> str:
        """What kind of error the arms have, in words."""
        return next((run.error_kind for run in self.runs() if run.config), error_kind(None))

    def runs(self, *states: str) -> list[RunResult]:
        """The runs in these states; all runs if no state is given."""
        every = [run for arm in self.arms for run in arm.runs]
        return [run for run in every if not states or run.state in states]


def read_findings(workdir: Path) -> Findings:
    """Reads a sweep's workdir and compares its arms, where they are of the same data.

    Raises:
      InputError: if it holds no sweep, or files cannot be understood.
    """
    sweep = read_sweep(workdir)
    by_arm: dict[str, list[RunResult]] = {arm: [] for arm in sweep.arms}
    for unit in units(sweep, workdir):
        by_arm[unit.arm].append(read_member(unit.folder, unit.seed))
    arms = []
    for arm in make_arms(by_arm, sweep.baseline):
        begun = [run.folder for run in arm.runs if run.config]
        counts = counts_of_run(begun[0]) if begun else None
        arms.append(
            dataclasses.replace(
                arm,
                published=sweep.published.get(arm.name),
                multiply_adds=counts and counts.multiply_adds,
            )
        )
    found = Findings(sweep, workdir, tuple(arms), _settings(sweep, by_arm))
    if found.comparable:
        return found
    alone = tuple(dataclasses.replace(arm, difference=None) for arm in arms)
    return dataclasses.replace(found, arms=alone)


def _settings(sweep: Sweep, by_arm: Mapping[str, Sequence[RunResult]]) -> dict[str, Any]:
    """What the first run says of its budget, but for what arms set themselves."""
    begun = [run for runs in by_arm.values() for run in runs if run.config]
    if not begun:
        return {}
    own = {field for fields in sweep.arms.values() for field in fields}
    if takes_series(begun[0].folder):
        own.add('data.image_size')  # of which they have none
    first = begun[0].config
    return {f: first[f] for f in _SETTINGS if f not in own and first.get(f) is not None}


def curves(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Errors in % over the steps, for JSON.

    Returns:
      For each arm and split with any: its seeds with points [step, error], and mean points
      [step, mean, least, greatest] over the runs that have ended (over all, if none has), at the
      steps that each of them has.
    """
    found = []
    for arm in arms:
        for split in SPLITS:
            shown = [(run, curve) for run in arm.runs if (curve := run.curve(split))]
            whole = [curve for run, curve in shown if run.final] or [curve for _, curve in shown]
            if shown:
                found.append(
                    {
                        'arm': arm.name,
                        'split': split,
                        'seeds': [
                            {'seed': run.seed, 'points': thinned(curve)} for run, curve in shown
                        ],
                        'mean': thinned(_mean(whole)),
                    }
                )
    return found


def _mean(several: Iterable[Curve]) -> list[tuple[float, ...]]:
    at = [dict(curve) for curve in several]
    steps = sorted(set.intersection(*(set(points) for points in at)))
    values = [[points[step] for points in at] for step in steps]
    return [(s, statistics.fmean(v), min(v), max(v)) for s, v in zip(steps, values, strict=True)]


def thinned(points: Sequence[Sequence[float]], digits: int = 4) -> list[list[float]]:
    """At most `MOST_POINTS` points, evenly spaced, the last one included; values are rounded."""
    stride = -(-len(points) // MOST_POINTS)
    kept = list(points[:: max(stride, 1)])
    if points and kept[-1] != points[-1]:
        kept[-1] = points[-1]
    return [[step, *(round(value, digits) for value in values)] for step, *values in kept]


def findings_json(findings: Findings, statement: Sequence[str], written: str) -> dict[str, Any]:
    """All findings but the curves, for JSON; errors in %, differences in percentage points.

    Args:
      findings: of the sweep.
      statement: its sentences.
      written: when the report was written.
    """
    sweep = findings.sweep
    return {
        'title': sweep.title,
        'workdir': str(findings.workdir),
        'written': written,
        **provenance(findings.runs()),
        'base': sweep.base,
        'fields': dict(sweep.fields),
        'settings': findings.settings,
        'seeds': list(sweep.seeds),
        'baseline': sweep.baseline,
        'complete': not findings.runs('unfinished', 'not begun', 'failed'),
        'level': LEVEL,
        'power': POWER,
        'tests': findings.tests,
        'statement': list(statement),
        'arms': [arm_json(arm) | {'fields': dict(sweep.arms[arm.name])} for arm in findings.arms],
        'runs': [{'arm': arm.name, **run.to_json()} for arm in findings.arms for run in arm.runs],
    }


def arm_json(arm: Arm) -> dict[str, Any]:
    """An arm for JSON, without its runs."""
    return {
        'name': arm.name,
        'error': arm.error and dataclasses.asdict(arm.error),
        'difference': arm.difference and difference_json(arm.difference),
        'ended': arm.count('ended'),
        'failed': arm.count('failed'),
        'unfinished': arm.count('unfinished') + arm.count('not begun'),
        'steps': arm.median('steps'),
        'parameters': arm.median('parameters'),
        'multiply_adds': arm.multiply_adds,
        'images_per_second': arm.median('images_per_second'),
        'seconds': arm.median('seconds'),
        'first_step_seconds': arm.median('first_step_seconds'),
        'training_seconds': arm.median('training_seconds'),
        'published': arm.published,
    }
