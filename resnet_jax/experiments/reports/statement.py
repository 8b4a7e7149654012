"""What a comparison of arms shows, in sentences and in tables."""

from collections.abc import Sequence

from resnet_jax.experiments.reports.findings import Arm, Findings
from resnet_jax.statistics import LEVEL, MOST_SEEDS, Difference, Estimate
from resnet_jax.text import NOTHING, Table, number
from resnet_jax.training.tasks import error_kind


def statement(findings: Findings) -> list[str]:
    """A sentence or two about each arm but the baseline, and about what limits them all."""
    return [*_verdicts(findings), *_failures(findings), *_progress(findings)]


def _verdicts(findings: Findings) -> list[str]:
    base, others = findings.baseline, findings.others
    if not findings.comparable:
        return ['The arms are of different data sets, so their errors are not compared.']
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


def arms_table(arms: Sequence[Arm], title: str = 'Arms', budget: str = '') -> Table:
    """The arms: error over seeds, size, speed, and the published error if there is one.

    Args:
      arms: the arms.
      title: of the table.
      budget: data and length of the runs, in words, to set beside what was published.
    """
    published = any(arm.published is not None for arm in arms)
    incomplete = any(run.final is None for arm in arms for run in arm.runs)
    counted = any(arm.multiply_adds is not None for arm in arms)
    header = ['arm', 'mean error %', 'sd', 'n', '95 % interval', 'parameters']
    header += [*['multiply-adds'] * counted, 'images/s', 'training s']
    header += ['published error %'] * published
    header += ['failed', 'unfinished'] * incomplete
    rows = []
    for arm in arms:
        row = [arm.name, *_error_cells(arm.error), number(arm.median('parameters'), ',.0f')]
        row += [_millions(arm.multiply_adds)] * counted
        row += [number(arm.median('images_per_second'), ',.0f')]
        row += [number(arm.median('training_seconds'), ',.1f')]
        row += [number(arm.published, '.2f')] * published
        left = arm.count('unfinished') + arm.count('not begun')
        row += [str(arm.count('failed')), str(left)] * incomplete
        rows.append(tuple(row))
    notes = [*_arm_notes(arms), *([_published_note(budget)] * published)]
    return Table(title, tuple(header), tuple(rows), tuple(notes))


def _error_cells(error: Estimate | None) -> tuple[str, str, str, str]:
    """Mean, sd, n and interval."""
    if error is None:
        return NOTHING, NOTHING, '0', NOTHING
    low, high = error.low, error.high
    between = NOTHING if low is None or high is None else f'{low:.2f} to {high:.2f}'
    return f'{error.mean:.2f}', number(error.sd, '.2f'), str(error.n), between


def _millions(count: int | None) -> str:
    return NOTHING if count is None else f'{count / 1e6:,.1f} M'


def _arm_notes(arms: Sequence[Arm]) -> list[str]:
    finals = [run.final for arm in arms for run in arm.runs if run.final is not None]
    images = sorted({final.images for final in finals if final.images})
    on = f' of {" or ".join(f"{n:,}" for n in images)} images' if images else ''
    devices = ', '.join(sorted({final.device for final in finals}))
    ended = [run.error_kind for arm in arms for run in arm.runs if run.final]
    kinds = ' or '.join(dict.fromkeys(ended)) or error_kind(None)
    notes = [
        f'Error: {kinds}, on the evaluation split{on}, after the last step. sd: over seeds '
        "(n - 1). Interval: of the mean, Student's t over seeds, clipped to 0 and 100 %. "
        "Multiply-adds: of one image's forward pass. images/s and training s: medians over seeds, "
        f'on {devices or "no device yet"}.',
        'training s: wall time of a run, evaluation and saving included; the first step of its '
        'last process, most of which is compilation, is left out.',
    ]
    unknown = sum(final.first_step_seconds is None for final in finals)
    if unknown:
        notes.append(f'For {unknown} of {len(finals)} runs that time is unknown and included.')
    together = max((final.together for final in finals), default=1)
    if together > 1:
        notes.append(
            f'Up to {together} runs shared each training step: images/s is the speed of one run.'
        )
    return notes


def _published_note(budget: str) -> str:
    return (
        "Published errors are the papers', on their data with their recipe and budget; here: "
        f'{budget}. Unless these are the same, compare the order of the arms, not the errors.'
    )


def differences_table(arms: Sequence[Arm], baseline: str) -> Table:
    """The paired difference of each arm to the baseline."""
    header = ('arm', 'points', '95 % interval', 'pairs', 'p', 'corrected p', 'seeds needed')
    rows = []
    for arm in arms:
        if arm.name == baseline:
            continue
        found = arm.difference
        if found is None:
            rows.append((arm.name, NOTHING, NOTHING, '0', NOTHING, NOTHING, NOTHING))
            continue
        needed = number(found.seeds_needed, ',')
        row = (arm.name, f'{found.estimate.mean:+.2f}', interval(found), str(found.estimate.n))
        rows.append((*row, p_value(found.p), p_value(found.corrected), needed))
    tests = sum(arm.difference is not None and arm.difference.p is not None for arm in arms)
    note = (
        f"Points: mean difference in test error, in percentage points, between an arm's run and "
        f"{baseline}'s with the same seed; below 0 the arm is better. Interval and p: Student's "
        'paired t, which assumes that the differences are about normal. Corrected p: after '
        f"Holm's correction for {tests} test{'s' * (tests != 1)}; intervals are not corrected. "
        'Seeds needed: to show this difference, if it is the true one, with a power of 80 % after '
        'correction.'
    )
    return Table(f'Paired differences to {baseline}', header, tuple(rows), (note,))
