"""What training several seeds in one program gains here, against one after another.

    python benchmarks/seeds.py --json benchmarks/results/seeds_cpu.json

A row is a number of seeds; its time is that of one step of one of them. All rows of a net take
turns in one process. Seeds by devices are not measured here.
"""

import dataclasses
import statistics
from typing import Any

import harness
import programs
from cases import Case

CASES = ('cifar_resnet8:64:8', 'cifar_resnet20:128:32')


def main() -> None:
    parser = harness.parser(__doc__, repetitions=5)
    parser.add_argument('--cases', nargs='+', default=CASES, metavar='MODEL:BATCH:SIZE')
    parser.add_argument('--seeds', nargs='+', type=int, default=(1, 2, 4, 8), metavar='N')
    options = parser.parse_args()
    figures = {}
    for text in options.cases:
        model, batch, size = text.split(':')
        case = Case(model, int(batch), int(size))
        figures[text] = measure(case, options.seeds, options.repetitions)
        print(f'{model}, batch {batch}, {size}x{size}: a training step\n{report(figures[text])}\n')
    harness.write_json(options.json, {'cases': figures})


def measure(case: Case, counts: tuple[int, ...], repetitions: int) -> dict[str, Any]:
    """Seconds of a step of one seed, by the number of seeds that take it together."""
    steppers = {
        count: programs.build('ours', 'train', dataclasses.replace(case, seeds=count))[0].steps
        for count in counts
    }
    times = harness.interleaved(
        {str(count): lambda steps=steps: steps(2) for count, steps in steppers.items()}, repetitions
    )
    return {
        name: harness.spread([seconds / 2 / int(name) for seconds in found])
        for name, found in times.items()
    }


def report(figures: dict[str, Any]) -> str:
    """The table of a net."""
    base = next(iter(figures.values()))['all']
    rows = []
    for count, found in figures.items():
        gain = statistics.median(a / b for a, b in zip(base, found['all'], strict=True))
        cells = [f'{1e3 * found[k]:.1f}' for k in ('median', 'min', 'max')]
        rows.append([count, *cells, f'{gain:.2f}'])
    return harness.table(['seeds', 'ms a seed, median', 'min', 'max', 'speed over first'], rows)


if __name__ == '__main__':
    main()
