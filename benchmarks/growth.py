"""How cost grows with depth, width, batch and resolution, as a figure of four panels.

CIFAR nets, one thing changed at a time from a common point; training and inference. The dashed line
is what the multiply-adds alone say: through the common point, as fast as the arithmetic shrinks or
grows. All programs live in one process and take turns.

    python benchmarks/growth.py      # benchmarks/results/growth.png, about 3 minutes on 2 cores
"""

import statistics
from pathlib import Path
from typing import Any

import harness
import jax
from cases import Case
from programs import build

from resnet_jax import create_model
from resnet_jax.models.counting import count

# The common point; then for each axis its values. A depth of 6n + 2 is three stages of n blocks.
BASE = {'depth': 8, 'width': 16, 'batch': 32, 'resolution': 16}
AXES = {
    'depth': (8, 14, 20, 32),
    'width': (8, 16, 32, 64),
    'batch': (2, 8, 32, 128, 512),
    'resolution': (8, 16, 32, 64),
}
LABELS = {
    'depth': 'depth, layers with weights',
    'width': 'width of the first stage, channels',
    'batch': 'batch, images',
    'resolution': 'resolution, pixels a side',
}
TINY = {'depth': (8,), 'width': (8, 16), 'batch': (32,), 'resolution': (8, 16)}
MODES = {'infer': 'inference', 'train': 'training'}


def case_of(point: dict[str, int]) -> Case:
    """The net and batch at a point."""
    fields = {
        'stage_sizes': ((point['depth'] - 2) // 6,) * 3,
        'width': point['width'],
        'stem_width': point['width'],
    }
    return Case('cifar_resnet8', point['batch'], point['resolution'], fields=fields)


def multiply_adds(case: Case) -> int:
    """Of one image's forward pass."""
    model = create_model(case.model, case.classes, case.dtype, **case.fields)
    return count(model, (case.size, case.size, 3)).multiply_adds


def points(axes: dict[str, tuple[int, ...]]) -> dict[tuple[str, int], dict[str, int]]:
    """{(axis, value): point}."""
    return {
        (axis, value): {**BASE, axis: value} for axis, values in axes.items() for value in values
    }


def measure(axes: dict[str, tuple[int, ...]], repetitions: int, steps: int) -> dict[str, Any]:
    """{'axis value': {'multiply_adds', 'train', 'infer'}}, images a second with their spread."""
    cases = {key: case_of(point) for key, point in points(axes).items()}
    programs: dict[tuple[str, str], Any] = {}
    images: dict[str, int] = {}
    for case in cases.values():
        # A small batch takes more steps, so that a repetition is long enough to be timed.
        n = steps * max(1, BASE['batch'] // case.batch)
        images[str(case)] = n * case.batch
        for mode in MODES:
            if (mode, str(case)) not in programs:  # the common point is on every axis
                program = build('bare', mode, case)[0]
                programs[mode, str(case)] = lambda program=program, n=n: program.steps(n)
    seconds = harness.interleaved(programs, repetitions)
    found: dict[str, Any] = {}
    for key, case in cases.items():
        row = found[' '.join(map(str, key))] = {'multiply_adds': multiply_adds(case)}
        for mode in MODES:
            times = seconds[mode, str(case)]
            row[mode] = harness.spread([images[str(case)] / t for t in times])
    return found


def draw(figures: dict[str, Any], axes: dict[str, tuple[int, ...]], path: Path) -> None:
    """The four panels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(10, 7.5), layout='constrained')
    FigureCanvasAgg(figure)
    colours = {'infer': 'tab:blue', 'train': 'tab:orange'}
    panels = figure.subplots(2, 2, sharey=True).flat
    for panel, (axis, values) in zip(panels, axes.items(), strict=True):
        rows = [figures[f'{axis} {value}'] for value in values]
        base = figures.get(f'{axis} {BASE[axis]}')
        for mode, label in MODES.items():
            middle = [row[mode]['median'] for row in rows]
            low = [m - row[mode]['min'] for m, row in zip(middle, rows, strict=True)]
            high = [row[mode]['max'] - m for m, row in zip(middle, rows, strict=True)]
            panel.errorbar(
                values, middle, (low, high), color=colours[mode], marker='o', capsize=3, label=label
            )
            if base:
                ideal = [
                    base[mode]['median'] * base['multiply_adds'] / row['multiply_adds']
                    for row in rows
                ]
                panel.plot(values, ideal, '--', color=colours[mode], alpha=0.5)
        panel.plot([], [], '--', color='gray', label='as the multiply-adds')
        panel.set_xscale('log', base=2)
        panel.set_yscale('log')
        panel.set_xticks(values, [str(value) for value in values])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlabel(LABELS[axis])
        panel.set_ylabel('images/s')
        panel.yaxis.set_tick_params(labelleft=True)
        panel.grid(alpha=0.3, which='both')
    panel.legend()
    figure.suptitle(title())
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def title() -> str:
    """What the figure shows, and on what it was measured."""
    base = ', '.join(f'{name} {value}' for name, value in BASE.items())
    where = jax.devices()[0].device_kind
    if jax.default_backend() == 'cpu':
        where = f'{harness.processor()}, {harness.cpus()} cores'
    return f'CIFAR nets, float32, changed from {base}\n{where}, jax {jax.__version__}'


def main() -> None:
    parser = harness.parser(__doc__, repetitions=5)
    parser.add_argument('--steps', type=int, default=2, help='in a repetition')
    parser.add_argument('--figure', type=Path, default=harness.RESULTS / 'growth.png')
    parser.add_argument('--tiny', action='store_true', help='few points, to try it out')
    options = parser.parse_args()
    axes = TINY if options.tiny else AXES
    figures = measure(axes, options.repetitions, options.steps)
    rows = []
    for name, row in figures.items():
        speeds = [f'{row[mode]["median"]:.0f}' for mode in MODES]
        ranges = [f'{row[mode]["min"]:.0f} to {row[mode]["max"]:.0f}' for mode in MODES]
        ratio = statistics.median(row['infer']['all']) / statistics.median(row['train']['all'])
        millions = f'{row["multiply_adds"] / 1e6:.1f}'
        rows.append([name, millions, speeds[0], ranges[0], speeds[1], ranges[1], f'{ratio:.1f}'])
    header = ['changed', 'M multiply-adds', 'inference, images/s', 'min to max']
    print(title())
    print(harness.table([*header, 'training, images/s', 'min to max', 'ratio'], rows))
    draw(figures, axes, options.figure)
    print(f'drawn: {options.figure}')
    harness.write_json(options.json, {'base': BASE, 'figures': figures})


if __name__ == '__main__':
    main()
