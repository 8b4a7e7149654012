"""Whether two arms differ: means over seeds, paired differences, Holm's correction and power.

Plain functions on numbers of any unit. The same seed gives the same data order and, where shapes
agree, the same initial values in every arm, so arms are compared seed by seed. Conclusions hold for
other seeds on the same data: the test images are the same in all runs.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

LEVEL = 0.05  # significance level of the tests; intervals have a confidence of 1 - LEVEL
POWER = 0.8
MOST_SEEDS = 10_000  # a difference that needs more seeds is practically none
_EQUAL = 1e-10  # a deviation this small relative to the values is rounding


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
      mean: in the unit of the values.
      sd: standard deviation (n - 1); None for one value.
      n: number of values.
      low: lower end of the 95 % confidence interval of the mean (Student's t); None for one value.
      high: its upper end.
    """

    mean: float
    sd: float | None
    n: int
    low: float | None
    high: float | None

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean; None for one value."""
        return None if self.sd is None else self.sd / math.sqrt(self.n)


@dataclasses.dataclass(frozen=True)
class Difference:
    """An arm minus the baseline, over the seeds that both have.

    Attributes:
      estimate: of the differences; its interval is not corrected for other arms.
      seeds: the common seeds, in order.
      p: two-sided p-value of a paired t test; None if the test is impossible: fewer than two common
        seeds, or differences that are all equal.
      corrected: `p` after Holm's correction for all tests made; None if `p` is.
      seeds_needed: number of pairs that would show this difference with a power of 80 % after
        correction; None if it shows already, if no test was made, or if it is nearly 0.
    """

    estimate: Estimate
    seeds: tuple[int, ...]
    p: float | None
    corrected: float | None = None
    seeds_needed: int | None = None

    @property
    def differs(self) -> bool:
        """Whether the arms differ significantly, after correction."""
        return self.corrected is not None and self.corrected < LEVEL


def difference_json(difference: Difference) -> dict[str, Any]:
    """A difference for JSON; `differs` is None if no test was made."""
    return {
        **dataclasses.asdict(difference.estimate),
        'seeds': list(difference.seeds),
        'p': difference.p,
        'corrected': difference.corrected,
        'differs': None if difference.corrected is None else difference.differs,
        'seeds_needed': difference.seeds_needed,
    }


def estimate(
    values: Sequence[float], limits: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """Mean, standard deviation and confidence interval of at least one value.

    Args:
      values: the values.
      limits: the least and the greatest possible value, such as 0 and 100 for an error in %; the
        interval is clipped to them.
    """
    from scipy import stats

    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return Estimate(mean, None, 1, None, None)
    sd = statistics.stdev(values)
    half = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * sd / math.sqrt(n)
    return Estimate(mean, sd, n, max(mean - half, limits[0]), min(mean + half, limits[1]))


def compare(arms: Mapping[str, Mapping[int, float]], baseline: str) -> dict[str, Difference | None]:
    """Compares each arm with the baseline.

    Args:
      arms: arm -> seed -> value; seeds may be missing.
      baseline: one of the arms.

    Returns:
      Each other arm -> its difference; None without a common seed.
    """
    found = {
        arm: _paired(values, arms[baseline]) for arm, values in arms.items() if arm != baseline
    }
    tested = {arm: d.p for arm, d in found.items() if d is not None and d.p is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {
        arm: difference
        if difference is None or arm not in corrected
        else _with_correction(difference, corrected[arm], len(tested))
        for arm, difference in found.items()
    }


def _paired(values: Mapping[int, float], base: Mapping[int, float]) -> Difference | None:
    from scipy import stats

    seeds = tuple(sorted(values.keys() & base.keys()))
    if not seeds:
        return None
    ours, theirs = [values[seed] for seed in seeds], [base[seed] for seed in seeds]
    found = estimate([a - b for a, b in zip(ours, theirs, strict=True)])
    if found.sd is None or found.sd <= _EQUAL * max(map(abs, [*ours, *theirs])):
        # Without any spread a t test is impossible.
        return Difference(Estimate(found.mean, found.sd and 0.0, found.n, None, None), seeds, None)
    return Difference(found, seeds, float(stats.ttest_rel(ours, theirs).pvalue))


def _with_correction(difference: Difference, corrected: float, tests: int) -> Difference:
    tested = dataclasses.replace(difference, corrected=corrected)
    if tested.differs:
        return tested
    found = difference.estimate
    assert found.sd is not None
    # The level of Holm's first and strictest step: a p-value below it passes at any rank.
    needed = seeds_needed(found.mean, found.sd, LEVEL / tests)
    return dataclasses.replace(tested, seeds_needed=needed)


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the order given."""
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = highest
    return corrected


def power(mean: float, sd: float, n: int, level: float = LEVEL) -> float:
    """Power of a two-sided paired t test: the chance that n pairs show a true mean difference.

    Args:
      mean: the true difference.
      sd: the standard deviation of the differences, above 0.
      n: number of pairs.
      level: significance level of the test.
    """
    from scipy import stats

    limit = stats.t.ppf(1 - level / 2, n - 1)
    # By symmetry the difference is taken as positive; the other tail is negligible.
    return float(stats.nct.sf(limit, n - 1, abs(mean) / sd * math.sqrt(n)))


def seeds_needed(mean: float, sd: float, level: float = LEVEL) -> int | None:
    """The least number of pairs with which a paired t test has a power of 80 %.

    Args:
      mean: the true difference.
      sd: the standard deviation of the differences, above 0.
      level: significance level of the two-sided test.

    Returns:
      At least 2; None if it is above `MOST_SEEDS`, as for a mean near 0.
    """
    if power(mean, sd, MOST_SEEDS, level) < POWER:
        return None
    low, high = 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(mean, sd, middle, level) >= POWER else (middle, high)
    return high


def proportion(successes: int, n: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share: Wilson's (1927), which stays within 0 and 1.

    Args:
      successes: how many of the examples are right.
      n: number of examples, at least 1.
    """
    from scipy import stats

    found = stats.binomtest(successes, n).proportion_ci(1 - LEVEL, method='wilson')
    return float(found.low), float(found.high)
