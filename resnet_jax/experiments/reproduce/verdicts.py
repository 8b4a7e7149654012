"""Ours beside published: what may be said of each row of a table, and why."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from resnet_jax.papers.table import PublishedRow as Row
from resnet_jax.papers.table import PublishedTable as Table

WITHIN = 'within published spread'
SAME_ORDER = 'same order'
NOT = 'not'
FAILED_TOO = 'failed, as published'
FAILED = 'failed, but published {:.2f}'
NOT_RUN = 'not run yet'
NO_FIGURE = 'no published figure'
TOO_FEW = 'nothing to compare with'

# Where a paper says that a net fails: he2016, table 1, "when the error is above 20 %"; he2015,
# section 4.2, says of the plain net of 110 layers "higher than 60 %".
FAILED_ABOVE = {'he2015': 60.0}
FAILED_ABOVE_ELSEWHERE = 20.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a row's runs.

    Attributes:
      values: the table's metric, in %, of each run that ended.
      diverged: how many runs did not stay finite.
      wanted: how many there are to be.
    """

    values: tuple[float, ...] = ()
    diverged: int = 0
    wanted: int = 1

    @property
    def mean(self) -> float | None:
        """Of the values; None without any."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Their standard deviation (n - 1); None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def squared_error(self) -> float:
        """The square of the mean's standard error; 0 where one run tells nothing of it."""
        return (self.sd or 0.0) ** 2 / len(self.values) if self.values else 0.0


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What may be said of a row: one of this module's words, and the numbers behind it."""

    word: str
    why: str


def judge(table: Table, outcomes: Mapping[str, Outcome], figures: bool) -> dict[str, Verdict]:
    """A verdict on each row.

    Args:
      table: the published one.
      outcomes: name of a row -> what became of it; a row that is not there has not been run.
      figures: whether a figure may be held against the published one: the paper's recipe on the
        paper's data. Otherwise only the order of the rows is.

    Returns:
      Name of a row -> verdict, in the table's order.
    """
    found = {row.name: outcomes.get(row.name, Outcome()) for row in table.rows}
    return {row.name: _judge_row(table, row, found, figures) for row in table.rows}


def _judge_row(table: Table, row: Row, outcomes: Mapping[str, Outcome], figures: bool) -> Verdict:
    mine = outcomes[row.name]
    if not _ended(mine):
        return Verdict(NOT_RUN, '')
    reason = why_failed(table, row, mine)
    if row.failed:
        limit = FAILED_ABOVE.get(table.paper, FAILED_ABOVE_ELSEWHERE)
        if reason:
            return Verdict(FAILED_TOO, reason)
        return Verdict(NOT, f'published as failed, above {limit:g} %; ours is {mine.mean:.2f}')
    if row.value is None:
        return Verdict(NO_FIGURE, reason)
    if reason:
        return Verdict(FAILED.format(row.value), reason)
    near, why = _near(row, mine) if figures else (False, '')
    if near:
        return Verdict(WITHIN, why)
    order, rank = _order(table, row, outcomes)
    return Verdict(order, '; '.join(part for part in (why, rank) if part))


def why_failed(table: Table, row: Row, outcome: Outcome) -> str:
    """Why a row counts as failed; empty where it does not.

    It has failed when half of its runs, or more, diverged; one that the paper calls failed also
    above the paper's threshold.
    """
    runs = len(outcome.values) + outcome.diverged
    if outcome.diverged and 2 * outcome.diverged >= runs:
        return f'{outcome.diverged} of {runs} runs diverged'
    limit = FAILED_ABOVE.get(table.paper, FAILED_ABOVE_ELSEWHERE)
    if row.failed and outcome.mean is not None and outcome.mean > limit:
        return f'{outcome.mean:.2f} is above {limit:g} %'
    return ''


def _ended(outcome: Outcome) -> bool:
    return bool(outcome.values or outcome.diverged)


def _near(row: Row, mine: Outcome) -> tuple[bool, str]:
    """Whether a figure is the published one within twice their joint deviation, and the numbers."""
    assert row.value is not None and mine.mean is not None
    if mine.diverged:
        return False, 'a run diverged: the mean of the others is no fair figure'
    if row.spread is None and mine.sd is None:
        return False, 'one run and no published spread: only the order can be compared'
    allowed = 2 * math.sqrt(mine.squared_error + (row.spread or 0.0) ** 2)
    apart = abs(mine.mean - row.value)
    of = 'the published spread and ours' if row.spread is not None else 'ours alone'
    sign = '<=' if apart <= allowed else '>'
    return apart <= allowed, f'{apart:.2f} apart {sign} {allowed:.2f}, twice the error of {of}'


def _order(table: Table, row: Row, outcomes: Mapping[str, Outcome]) -> tuple[str, str]:
    """Whether a row has the paper's rank among the rows that both have, and the ranks."""
    rows = [other for other in table.rows if other.failed or other.value is not None]
    rows = [other for other in rows if _ended(outcomes[other.name])]
    if len(rows) < 2:
        return TOO_FEW, 'no other row has been run'
    others = [other for other in rows if other is not row]
    sign = -1 if 'accuracy' in table.metric else 1
    published = _ranks([_compare(row.value, o.value, 0.0, sign) for o in others])
    ours = _ranks([_compare(*_ours(table, row, o, outcomes), sign) for o in others])
    same = ours[0] <= published[1] and published[0] <= ours[1]
    why = f'rank {_text(ours)}, published {_text(published)}, of {len(rows)}'
    return (SAME_ORDER if same else NOT), why


def _ours(
    table: Table, row: Row, other: Row, outcomes: Mapping[str, Outcome]
) -> tuple[float | None, float | None, float]:
    """Both means, None where a row failed, and the standard error of their difference."""
    pair = [outcomes[row.name], outcomes[other.name]]
    means = [
        None if why_failed(table, r, outcome) else outcome.mean
        for r, outcome in zip((row, other), pair, strict=True)
    ]
    return means[0], means[1], math.sqrt(sum(outcome.squared_error for outcome in pair))


def _compare(mine: float | None, other: float | None, error: float, sign: int) -> int:
    """-1 where the other row is better, 1 where it is worse, 0 within the error.

    A row that failed (None) is worse than any other.
    """
    if mine is None or other is None:
        return (other is None) - (mine is None)
    apart = sign * (other - mine)
    return 0 if abs(apart) <= error else (1 if apart > 0 else -1)


def _ranks(comparisons: Sequence[int]) -> tuple[int, int]:
    """The ranks that a row may have, 1 being the best: several where it ties."""
    better = sum(c < 0 for c in comparisons)
    return 1 + better, 1 + better + sum(c == 0 for c in comparisons)


def _text(ranks: tuple[int, int]) -> str:
    return f'{ranks[0]}' if ranks[0] == ranks[1] else f'{ranks[0]} to {ranks[1]}'
