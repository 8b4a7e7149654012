"""What the host costs a training step of a small net, by the steps that go in one dispatch.

    python benchmarks/small_steps.py --json benchmarks/results/small_steps.json

The net is the ResNet of time series with a single channel in each stage: it has all the arrays of
the real one and next to nothing to compute, so that the time of a step is nearly the host's. Beside
it stands the real net on series as short as ItalyPowerDemand's, whose step hides some of that.
"""

import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import jax
import numpy as np

from resnet_jax.training.build import Run, build_run
from resnet_jax.training.config import load_config
from resnet_jax.training.feeding import Feed

NETS = {'one channel': (1, 1, 1), 'as published': (64, 128, 128)}


def main() -> None:
    parser = harness.parser(__doc__, repetitions=5)
    parser.add_argument('--dispatches', nargs='+', type=int, default=(1, 4, 10), metavar='STEPS')
    parser.add_argument('--nets', nargs='+', choices=NETS, default=tuple(NETS))
    parser.add_argument('--steps', type=int, default=200, help='timed in a repetition')
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = series_file(Path(folder))
        for net in options.nets:
            loops = {}
            figures[net] = {}
            for count in options.dispatches:
                run = small_run(file, NETS[net], count)
                loop = Loop(run)
                began = time.perf_counter()
                loop.take(count)
                figures[net][str(count)] = {'compile_seconds': time.perf_counter() - began}
                loops[str(count)] = loop
            times = harness.interleaved(
                {name: lambda loop=loop: loop.take(options.steps) for name, loop in loops.items()},
                options.repetitions,
            )
            for name, found in times.items():
                each = [1e6 * seconds / options.steps for seconds in found]
                figures[net][name]['microseconds_per_step'] = harness.spread(each)
            print(f'{net}: a training step\n{report(figures[net])}\n')
            for loop in loops.values():
                loop.close()
    harness.write_json(options.json, {'nets': figures})


def series_file(folder: Path) -> str:
    """Random series of the sizes of ItalyPowerDemand."""
    rng = np.random.default_rng(0)
    file = folder / 'series.npz'
    np.savez(
        file,
        train_images=rng.standard_normal((67, 24, 1)).astype(np.float32),
        train_labels=np.arange(67) % 2,
        test_images=rng.standard_normal((8, 24, 1)).astype(np.float32),
        test_labels=np.arange(8) % 2,
    )
    return f'npz:{file}'


def small_run(file: str, widths: tuple[int, ...], count: int) -> Run:
    """A run of the recipe of series, with these widths and steps in a dispatch."""
    far = str(10**6)
    fields = {
        'data.name': file,
        'train.batch_size': '6',
        'train.steps': far,
        **dict.fromkeys(('train.log_every', 'checkpoint.every'), far),
        'train.eval_every': '0',
        'train.steps_per_dispatch': str(count),
        'model.stage_widths': str(widths),
    }
    return build_run(load_config('series', list(fields.items())))


class Loop:
    """The steps of `training.loop`, without what happens between them."""

    def __init__(self, run: Run) -> None:
        self.run, self.stack = run, contextlib.ExitStack()
        self.feed = self.stack.enter_context(contextlib.closing(Feed(run, 0)))
        self.seed, self.arrays = run.seed, run.placement.put_whole(run.arrays)
        self.carry = run.placement.put_state(run.init_state()), run.no_totals()

    def take(self, steps: int) -> None:
        """Takes at least this many steps, and waits for the last."""
        taken = 0
        while taken < steps:
            _, count, _, placed = next(self.feed)
            self.carry = self.run.train_step(self.seed, *self.carry, self.arrays, placed)
            self.feed.dispatched(self.carry[1])
            taken += count
        jax.block_until_ready(self.carry)

    def close(self) -> None:
        """Ends the reading of batches."""
        self.stack.close()


def report(figures: dict[str, Any]) -> str:
    """The table of a net."""
    rows = []
    base = next(iter(figures.values()))['microseconds_per_step']['all']
    for count, found in figures.items():
        of = found['microseconds_per_step']
        gain = statistics.median(a / b for a, b in zip(base, of['all'], strict=True))
        cells = [f'{of[k]:,.0f}' for k in ('median', 'min', 'max')]
        rows.append([count, *cells, f'{gain:.2f}', f'{found["compile_seconds"]:.1f}'])
    header = ['steps at once', 'us a step, median', 'min', 'max', 'speed', 'compile s']
    return harness.table(header, rows)


if __name__ == '__main__':
    main()
