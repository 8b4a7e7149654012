"""What may be concluded about each row of a published table that was run again, and why."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from resnet_jax.papers.table import PublishedRow, PublishedTable
from resnet_jax.statistics import estimate

WITHIN = 'within published spread'
SAME_ORDER = 'same order'
NOT = 'not'
FAILED_TOO = 'failed, as published'
FAILED = 'failed, but published {:.2f}'
NOT_RUN = 'not run yet'
NO_FIGURE = 'no published figure'
TOO_FEW = 'nothing to compare with'

# The error above which a paper says that a net fails: he2016, table 1, "when the error is above
# 20 %"; he2015, section 4.2, says of the plain net of 110 layers "higher than 60 %".
FAILED_ABOVE = {'he2015': 60.0}
FAILED_ABOVE_ELSEWHERE = 20.0


@dataclasses.dataclass(frozen=True)
class RowResult:
    """The runs of a row.

    Attributes:
      values: the table's metric, in %, of each run that has ended.
      diverged: number of runs that diverged.
      wanted: number of runs planned.
    """

    values: tuple[float, ...] = ()
    diverged: int = 0
    wanted: int = 1

    @property
    def begun(self) -> bool:
        """Whether any run has ended or diverged."""
        return bool(self.values or self.diverged)

    @property
    def mean(self) -> float | None:
        """Mean of the values; None without any."""
        return estimate(self.values).mean if self.values else None

    @property
    def sd(self) -> float | None:
        """Standard deviation of the values (n - 1); None for fewer than two."""
        return estimate(self.values).sd if self.values else None

    @property
    def standard_error(self) -> float:
        """Standard error of the mean; 0 if there are too few runs to estimate it."""
        return (estimate(self.values).standard_error if self.values else None) or 0.0


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What may be concluded about a row: one of this module's verdicts, and its reason."""

    word: str
    why: str


def judge(
    table: PublishedTable, results: Mapping[str, RowResult], figures: bool
) -> dict[str, Verdict]:
    """A verdict on each row.

    Args:
      table: the published one.
      results: name of a row -> its runs; a missing row has not been run.
      figures: whether figures may be compared with the published ones, as with the paper's recipe
        on the paper's data. Otherwise only the order of the rows is compared.

    Returns:
      Name of a row -> verdict, in the table's order.
    """
    found = {row.name: results.get(row.name, RowResult()) for row in table.rows}
    return {row.name: _judge_row(table, row, found, figures) for row in table.rows}


def _judge_row(
    table: PublishedTable, row: PublishedRow, results: Mapping[str, RowResult], figures: bool
) -> Verdict:
    mine = results[row.name]
    if not mine.begun:
        return Verdict(NOT_RUN, '')
    reason = why_failed(table, row, mine)
    if row.failed:
        if reason:
            return Verdict(FAILED_TOO, reason)
        limit = _failed_above(table)
        return Verdict(NOT, f'published as failed, above {limit:g} %; ours is {mine.mean:.2f}')
    if row.value is None:
        return Verdict(NO_FIGURE, reason)
    if reason:
        return Verdict(FAILED.format(row.value), reason)
    near, why = _is_near(row, mine) if figures else (False, '')
    if near:
        return Verdict(WITHIN, why)
    order, rank = _compare_order(table, row, results)
    return Verdict(order, '; '.join(part for part in (why, rank) if part))


def _failed_above(table: PublishedTable) -> float:
    return FAILED_ABOVE.get(table.paper, FAILED_ABOVE_ELSEWHERE)


def why_failed(table: PublishedTable, row: PublishedRow, result: RowResult) -> str:
    """Why a row counts as failed; empty if it does not.

    A row has failed if at least half of its runs diverged. A row that the paper calls failed has
    also failed if its mean error is above the paper's threshold.
    """
    runs = len(result.values) + result.diverged
    if result.diverged and 2 * result.diverged >= runs:
        return f'{result.diverged} of {runs} runs diverged'
    limit = _failed_above(table)
    if row.failed and result.mean is not None and result.mean > limit:
        return f'{result.mean:.2f} is above {limit:g} %'
    return ''


def _is_near(row: PublishedRow, mine: RowResult) -> tuple[bool, str]:
    """Whether ours and the published figure are within twice their joint error, and the numbers."""
    assert row.value is not None and mine.mean is not None
    if mine.diverged:
        return False, 'a run diverged, so the mean of the others is no fair figure'
    if row.spread is None and mine.sd is None:
        return False, 'one run and no published spread: only the order can be compared'
    allowed = 2 * math.hypot(mine.standard_error, row.spread or 0.0)
    apart = abs(mine.mean - row.value)
    of = 'the published spread and ours' if row.spread is not None else 'ours alone'
    sign = '<=' if apart <= allowed else '>'
    return apart <= allowed, f'{apart:.2f} apart {sign} {allowed:.2f}, twice the error of {of}'


def _compare_order(
    table: PublishedTable, row: PublishedRow, results: Mapping[str, RowResult]
) -> tuple[str, str]:
    """Whether a row has the published rank among the rows that both have, and the ranks."""
    rows = [other for other in table.rows if other.failed or other.value is not None]
    rows = [other for other in rows if results[other.name].begun]
    if len(rows) < 2:
        return TOO_FEW, 'no other row has been run'
    others = [other for other in rows if other is not row]
    sign = -1 if is_accuracy(table) else 1
    published = _ranks([_compare(row.value, o.value, 0.0, sign) for o in others])
    ours = _ranks([_compare(*_our_means(table, row, o, results), sign) for o in others])
    same = ours[0] <= published[1] and published[0] <= ours[1]
    why = f'rank {_rank_text(ours)}, published {_rank_text(published)}, of {len(rows)}'
    return (SAME_ORDER if same else NOT), why


def _our_means(
    table: PublishedTable, row: PublishedRow, other: PublishedRow, results: Mapping[str, RowResult]
) -> tuple[float | None, float | None, float]:
    """Both means, None for a row that failed, and the standard error of their difference."""
    pair = [results[row.name], results[other.name]]
    means = [
        None if why_failed(table, r, result) else result.mean
        for r, result in zip((row, other), pair, strict=True)
    ]
    return means[0], means[1], math.hypot(*(result.standard_error for result in pair))


def _compare(mine: float | None, other: float | None, error: float, sign: int) -> int:
    """-1 if the other row is better, 1 if it is worse, 0 if they are within the error.

    A row that failed (None) is worse than any other.
    """
    if mine is None or other is None:
        return (other is None) - (mine is None)
    apart = sign * (other - mine)
    return 0 if abs(apart) <= error else (1 if apart > 0 else -1)


def _ranks(comparisons: Sequence[int]) -> tuple[int, int]:
    """The lowest and the highest rank that a row may have, 1 being the best; ties make a range."""
    better = sum(c < 0 for c in comparisons)
    return 1 + better, 1 + better + sum(c == 0 for c in comparisons)


def _rank_text(ranks: tuple[int, int]) -> str:
    return f'{ranks[0]}' if ranks[0] == ranks[1] else f'{ranks[0]} to {ranks[1]}'


def is_accuracy(table: PublishedTable) -> bool:
    """Whether the table reports accuracies instead of errors."""
    return 'accuracy' in table.metric
