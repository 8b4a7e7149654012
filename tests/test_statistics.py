"""Statistics over seeds, against numbers worked by hand, published ones and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from resnet_jax.statistics import (
    MOST_SEEDS,
    compare,
    estimate,
    holm,
    power,
    proportion,
    seeds_needed,
)

# Student 1908, extra hours of sleep; R's `t.test(extra ~ group, sleep, paired = TRUE)` prints
# t = -4.0621, df = 9, p = 0.002833, interval -2.4598858 to -0.7001142, mean -1.58.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def by_seed(values, seeds=None):
    return dict(zip(seeds or range(len(values)), values, strict=True))


def against(arm, base):
    return compare({'base': by_seed(base), 'arm': by_seed(arm)}, 'base')['arm']


def test_mean_and_interval_by_hand():
    """Deviation sqrt(2.5); the 97.5 % point of t with 4 degrees of freedom is 2.776445."""
    found = estimate([1, 2, 3, 4, 5])
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert (found.mean, found.n) == (3, 5)
    assert found.sd == pytest.approx(math.sqrt(2.5))
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), rel=1e-6)


def test_one_value_has_no_interval():
    found = estimate([7.5])
    assert (found.mean, found.sd, found.n, found.low, found.high) == (7.5, None, 1, None, None)


def test_interval_of_an_error_is_clipped_and_nothing_else_is():
    """Values 1, 1 and 4: mean 2, deviation sqrt(3), half an interval of 4.302653."""
    free, clipped = estimate([1, 1, 4]), estimate([1, 1, 4], (0, 100))
    assert (free.low, free.high) == pytest.approx((2 - 4.302653, 2 + 4.302653), abs=1e-6)
    assert (clipped.low, clipped.high) == (0, free.high)
    assert (clipped.mean, clipped.sd) == (free.mean, free.sd)
    assert estimate([99, 99, 96], (0, 100)).high == 100
    difference = against([1, 1, 4], [0, 0, 0]).estimate
    assert difference.low == pytest.approx(2 - 4.302653, abs=1e-6)


def test_standard_error():
    assert estimate([1, 2, 3, 4, 5]).standard_error == pytest.approx(math.sqrt(2.5 / 5))
    assert estimate([7.5]).standard_error is None


def test_paired_test_against_a_published_one():
    found = against(FIRST, SECOND)
    assert found.p == pytest.approx(0.002833, abs=5e-7)
    assert found.corrected == found.p  # one test
    assert found.estimate.mean == pytest.approx(-1.58)
    assert (found.estimate.low, found.estimate.high) == pytest.approx(
        (-2.4598858, -0.7001142), abs=1e-7
    )
    assert found.differs and found.seeds_needed is None


def test_two_pairs_by_hand():
    """Differences 1 and 3: t = 2 with one degree of freedom, whose distribution is Cauchy's."""
    found = against([11, 13], [10, 10])
    assert found.p == pytest.approx(1 - 2 * math.atan(2) / math.pi)
    assert found.estimate.high == pytest.approx(2 + 12.7062, abs=1e-4)
    assert not found.differs and found.seeds_needed > 2


@pytest.mark.parametrize(
    ('ps', 'expected'),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # by hand: 4, 3, 2, 1 times
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),
        ([0.6, 0.5, 0.7], [1, 1, 1]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm(ps, expected):
    assert holm(ps) == pytest.approx(expected)


def test_arms_are_corrected_together():
    base, noise = np.zeros(10), np.asarray(SECOND) - FIRST
    arms = {
        'base': by_seed(base),
        'a': by_seed(noise),
        'b': by_seed(-noise),
        'c': by_seed([1.0, -1.0] * 5),
    }
    found = compare(arms, 'base')
    assert list(found) == ['a', 'b', 'c']
    assert found['a'].p == found['b'].p == pytest.approx(0.002833, abs=5e-7)
    assert found['a'].corrected == found['b'].corrected == pytest.approx(3 * found['a'].p)
    assert found['c'].corrected == pytest.approx(1)
    assert found['c'].seeds_needed is None  # the mean is 0


@pytest.mark.parametrize(('effect', 'pairs'), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_seeds_needed_for_small_medium_and_large_effects(effect, pairs):
    """The usual figures for a two-sided paired t test at 0.05 with a power of 0.8 (G*Power)."""
    assert seeds_needed(effect, 1) == seeds_needed(-3 * effect, 3) == pairs


@pytest.mark.parametrize(('effect', 'pairs', 'level'), [(0.8, 15, 0.05), (1.0, 12, 0.0125)])
def test_power_against_simulation(effect, pairs, level):
    """t statistics of 100,000 samples, against the limit that samples without effect give."""
    draw = np.random.default_rng(0).normal(size=(100_000, pairs))

    def t(x):
        return x.mean(axis=1) / (x.std(axis=1, ddof=1) / math.sqrt(pairs))

    limit = np.quantile(abs(t(draw)), 1 - level)
    assert power(effect, 1, pairs, level) == pytest.approx(
        (t(draw + effect) > limit).mean(), abs=0.01
    )


def test_more_arms_need_more_seeds():
    one = against([11, 13], [10, 10]).seeds_needed
    arms = {'base': {0: 10, 1: 10}, 'arm': {0: 11, 1: 13}, 'other': {0: 12, 1: 9}}
    assert compare(arms, 'base')['arm'].seeds_needed > one


def test_a_difference_near_zero_has_no_number_of_seeds():
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(0.001, 1.0) is None
    assert seeds_needed(0.03, 1.0) <= MOST_SEEDS
    assert seeds_needed(0.03, 1.0, level=0.0025) is None  # 16,600 by the normal approximation


@pytest.mark.parametrize('more', [0, 1])
def test_equal_differences_are_not_tested(more):
    """With each seed so many of 360 images more are wrong; last digits differ by rounding."""
    right = (299, 355, 347)
    base, arm = ([100 * (1 - (n - k) / 360) for n in right] for k in (0, more))
    assert len({a - b for a, b in zip(arm, base, strict=True)}) == (3 if more else 1), 'they round'
    found = against(arm, base)
    assert (found.p, found.corrected, found.seeds_needed) == (None, None, None)
    assert (found.estimate.low, found.estimate.high) == (None, None)
    assert found.estimate.mean == pytest.approx(more / 3.6) and found.estimate.sd == 0
    assert not found.differs and found.seeds == (0, 1, 2)


@pytest.mark.parametrize('size', [1e-6, 1e6])
def test_what_counts_as_rounding_depends_on_the_size_of_the_values(size):
    base = [size, 2 * size, 3 * size]
    tested = against([x + size * d for x, d in zip(base, (0.1, 0.1, 0.1001), strict=True)], base)
    assert tested.p is not None
    rounded = against(
        [x + size * d for x, d in zip(base, (0.1, 0.1, 0.1 + 1e-12), strict=True)], base
    )
    assert rounded.p is None


def test_untested_arms_do_not_count_in_the_correction():
    arms = {'base': by_seed(FIRST), 'arm': by_seed(SECOND), 'same': by_seed(FIRST)}
    found = compare(arms, 'base')
    assert found['arm'].corrected == found['arm'].p and found['same'].p is None


def test_missing_seeds():
    """Only common ones are compared."""
    arms = {
        'base': by_seed([*FIRST, 1e6], [*range(10), 77]),
        'arm': by_seed([-1e6, *SECOND[::-1]], [88, *range(9, -1, -1)]),
        'one': {3: 0.5},
        'none': {99: 0.5},
        'empty': {},
    }
    found = compare(arms, 'base')
    assert found['arm'].seeds == tuple(range(10))
    assert found['arm'].p == pytest.approx(0.002833, abs=5e-7)
    assert found['one'].estimate.n == 1 and found['one'].p is None
    assert found['none'] is None and found['empty'] is None
    assert compare({'base': {}, 'arm': {0: 1.0}}, 'base') == {'arm': None}


@pytest.mark.parametrize(('successes', 'n'), [(0, 10), (7, 10), (10, 10), (1941, 2000)])
def test_interval_of_a_share(successes, n):
    """SciPy's interval of Wilson."""
    expected = stats.binomtest(successes, n).proportion_ci(method='wilson')
    assert proportion(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
