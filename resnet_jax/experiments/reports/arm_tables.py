"""Tables about arms, in the reports of sweeps and in comparisons of single runs."""

from collections.abc import Sequence

from resnet_jax.experiments.reports.findings import Arm
from resnet_jax.experiments.reports.statement import interval, p_value
from resnet_jax.experiments.statistics import Estimate
from resnet_jax.text import NOTHING, Table, number


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
    notes = [
        f'Error: top-1, on the evaluation split{on}, after the last step. sd: over seeds (n - 1). '
        "Interval: of the mean, Student's t over seeds, clipped to 0 and 100 %. Multiply-adds: of "
        f"one image's forward pass. images/s and training s: medians over seeds, on "
        f'{devices or "no device yet"}.',
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
