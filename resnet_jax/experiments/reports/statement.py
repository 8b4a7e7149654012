"""What a sweep's figures show, as plain sentences; every claim follows from the figures."""

from resnet_jax.experiments.reports.findings import Arm, Findings
from resnet_jax.experiments.statistics import LEVEL, MOST_SEEDS, Difference
from resnet_jax.text import NOTHING


def statement(findings: Findings) -> list[str]:
    """A sentence or two about each arm but the baseline, and about what limits them all."""
    return [*_verdicts(findings), *_failures(findings), *_progress(findings)]


def _verdicts(findings: Findings) -> list[str]:
    base, others = findings.baseline, findings.others
    if not others:
        return [f'There is nothing to compare: {base.name} is the only arm.']
    if base.error is None:
        return [f'The arms cannot be compared: no run of the baseline, {base.name}, has finished.']
    if len(findings.sweep.seeds) == 1:
        return [
            'The arms cannot be compared: there is only one seed, and a difference between single '
            'runs may be chance.'
        ]
    found = [_verdict(arm, base.name) for arm in others]
    if len(others) > 1 and findings.tests > 1:
        found.append(
            f'p-values are corrected for {findings.tests} comparisons (Holm); a difference is '
            f'significant if its corrected p is below {LEVEL:g}.'
        )
    return found


def _verdict(arm: Arm, base: str) -> str:
    if arm.error is None:
        failed = arm.count('failed') == len(arm.runs)
        why = 'all its runs failed' if failed else 'none of its runs has finished'
        return f'{arm.name} cannot be compared with {base}: {why}.'
    return verdict(arm.name, base, arm.difference)


def verdict(name: str, base: str, difference: Difference | None) -> str:
    """What the difference between an arm and the baseline shows.

    Args:
      name: of the arm.
      base: name of the baseline.
      difference: between the two; None if no seed has finished in both.
    """
    if difference is None or difference.estimate.n == 1:
        shared = 'no seed' if difference is None else 'only one seed'
        return f'{name} cannot be compared with {base}: {shared} has finished in both.'
    seeds, mean = difference.estimate.n, difference.estimate.mean
    if difference.corrected is None:
        if abs(mean) < 0.005:
            return f'{name} and {base} have the same error with each of {seeds} seeds.'
        return (
            f'{name} cannot be tested against {base}: its error is {_points(mean)} that of {base} '
            f'with each of {seeds} seeds, and a t test needs differences that vary.'
        )
    figures = f'95 % interval {interval(difference)}, corrected p {p_value(difference.corrected)}'
    if difference.differs:
        better = 'better' if mean < 0 else 'worse'
        return (
            f'{name} is {better} than {base}: its test error is {_points(mean)} that of {base} '
            f'({figures}, {seeds} seeds).'
        )
    return (
        f'{name} and {base} cannot be told apart with {seeds} seeds: the test error of {name} is '
        f'{_points(mean)} that of {base} on average ({figures}). {_needed(difference)}'
    )


def _points(mean: float) -> str:
    return f'{abs(mean):.2f} points {"below" if mean < 0 else "above"}'


def _needed(difference: Difference) -> str:
    if difference.seeds_needed is None:
        return (
            f'The difference is so small that more than {MOST_SEEDS:,} seeds would be needed to '
            'show it.'
        )
    return (
        f'If the true difference and its spread are the observed ones, about '
        f'{difference.seeds_needed} seeds would show it with a power of 80 %.'
    )


def _failures(findings: Findings) -> list[str]:
    found = []
    for arm in findings.arms:
        failed = arm.count('failed')
        if failed and arm.error is not None:
            found.append(
                f'{failed} of {len(arm.runs)} runs of {arm.name} failed; its figures are those of '
                'the other runs.'
            )
        elif 0 < failed < len(arm.runs) or (arm is findings.baseline and failed):
            found.append(f'{failed} of {len(arm.runs)} runs of {arm.name} failed.')
    return found


def _progress(findings: Findings) -> list[str]:
    ended, every = len(findings.runs('ended')), len(findings.runs())
    if not findings.runs('unfinished', 'not begun'):
        return []
    return [
        f'The sweep is not complete: {ended} of {every} runs have finished, and the rest may '
        'change this.'
    ]


def interval(difference: Difference) -> str:
    """The interval of a difference in percentage points; '-' if there is none."""
    low, high = difference.estimate.low, difference.estimate.high
    return NOTHING if low is None or high is None else f'{low:+.2f} to {high:+.2f}'


def p_value(p: float | None) -> str:
    """Two significant digits, three decimals at most; '-' for None."""
    if p is None:
        return NOTHING
    return '< 0.001' if p < 0.001 else f'{p:.3f}' if p < 0.1 else f'{p:.2f}'
