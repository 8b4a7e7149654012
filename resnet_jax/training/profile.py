"""Where the time of training steps goes: a trace of some of them, read and summed up.

The trace is JAX's own, in WORKDIR/profile; Perfetto (ui.perfetto.dev) shows its .trace.json.gz.
"""

import functools
import re
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from resnet_jax import text
from resnet_jax.errors import InputError
from resnet_jax.json_files import json_text
from resnet_jax.models.counting import FLOPS_PER_MULTIPLY_ADD, count
from resnet_jax.records.writers import write_atomically
from resnet_jax.training.build import Run
from resnet_jax.training.inputs import for_training
from resnet_jax.training.memory import device_peak_bytes, process_peak_bytes
from resnet_jax.training.start import run_model

FOLDER = 'profile'
_LISTED = 10  # kinds of operations
_SIDE = {'cpu': 1024}  # of the matrices whose product is timed; elsewhere _LARGE
_LARGE, _PRODUCTS = 8192, 5


class Event(NamedTuple):
    """An operation that a device ran.

    Attributes:
      device: which one.
      line: of the trace: a thread or a stream. Of one line, an operation may lie inside another.
      name: the operation's kind.
      start, end: in ns.
    """

    device: str
    line: str
    name: str
    start: float
    end: float


class Profile:
    """The trace of some steps of a run, begun after the first dispatch, with the compilation in it.

    Attributes:
      figures: see `figures_of`; {} until the steps are taken.
    """

    def __init__(self, run: Run, folder: Path, first: int, steps: int) -> None:
        """Prepares to trace `steps` steps of a run that has taken `first`; writes to the workdir.

        Raises:
          InputError: if too few steps are left.
        """
        left = run.total_steps - first - run.steps_per_dispatch
        if not 1 <= steps <= left:
            raise InputError(
                f'--profile {steps}: choose 1 to {left} steps; the run has {run.total_steps} and '
                f'the first {first + run.steps_per_dispatch} are not traced'
                if left > 0
                else f'--profile {steps}: no step is left to trace after the first'
            )
        self._run, self._folder, self._left = run, folder / FOLDER, steps
        self._taken, self._began, self._waited = 0, 0.0, 0.0
        self.figures: dict[str, Any] = {}

    def dispatched(self, count: int, totals: Any, waited: float) -> list[str]:
        """Called after every dispatch; starts the trace, and ends it after the last of its steps.

        Args:
          count: steps of the dispatch.
          totals: that they give.
          waited: seconds that the devices have waited for data so far.

        Returns:
          Lines to print, once the trace is read.
        """
        if self.figures:
            return []
        if not self._began:
            jax.block_until_ready(totals)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # Python's own calls would slow it down, and fill it
            jax.profiler.start_trace(str(self._folder), profiler_options=options)
            self._began, self._waited = time.perf_counter(), waited
            return []
        self._taken += count
        if self._taken < self._left:
            return []
        jax.block_until_ready(totals)
        seconds = time.perf_counter() - self._began
        jax.profiler.stop_trace()
        trace = max(self._folder.rglob('*.xplane.pb'), key=lambda path: path.stat().st_mtime)
        events = read_events(trace)
        self.figures = figures_of(events, self._taken, seconds, waited - self._waited)
        self.figures |= _utilisation(self._run, self.figures['seconds_per_step'])
        write_atomically(self._folder / 'profile.json', json_text(self.figures, indent=1) + '\n')
        return [*lines_of(self.figures), f'the trace: {trace.parent}']

    def close(self) -> None:
        """Ends a trace whose steps the run did not come to take."""
        if self._began and not self.figures:
            self._began = 0.0
            jax.profiler.stop_trace()


def read_events(path: Path) -> list[Event]:
    """The operations of devices in a trace, an .xplane.pb file."""
    found = []
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                # A CPU and a GPU name the operation in the statistics, a TPU has a line of them.
                stats: Mapping[str, Any] = dict(event.stats)
                name = stats.get('hlo_op') or (line.name == 'XLA Ops' and event.name)
                if name:
                    device = f'{plane.name} {stats.get("device_ordinal", 0)}'
                    kind = re.sub(r'(\.\d+|\.clone)+$', '', str(name))
                    end = event.start_ns + event.duration_ns
                    found.append(Event(device, line.name, kind, event.start_ns, end))
    return found


def figures_of(
    events: Sequence[Event], steps: int, seconds: float, waited: float
) -> dict[str, Any]:
    """What a trace says.

    Args:
      events: of it.
      steps: that were taken.
      seconds: that they took.
      waited: of these, how long the devices had nothing to do because a batch was not there.

    Returns:
      'steps', 'seconds_per_step'; shares of this time 'device', in which the devices computed (the
      mean of several), 'data', in which they waited for a batch, and 'host', the rest, in which
      they waited for the program; and 'operations', the kinds of operations that took the longest,
      each with 'name', 'calls' in a step, and 'share' of the time of all, without what lies inside.
    """
    devices = sorted({event.device for event in events})
    busy = [_covered(e for e in events if e.device == device) for device in devices]
    device_share = min(statistics.mean(busy) / 1e9 / seconds, 1.0) if busy else 0.0
    data_share = min(waited / seconds, 1 - device_share)
    own, calls = _own_times(events)
    longest = sorted(own, key=own.__getitem__, reverse=True)[:_LISTED]
    total = sum(own.values())
    return {
        'steps': steps,
        'seconds_per_step': seconds / steps,
        'device': device_share,
        'data': data_share,
        'host': 1 - device_share - data_share,
        'operations': [
            {'name': name, 'calls': calls[name] / steps, 'share': own[name] / total}
            for name in longest
        ],
    }


def _covered(events: Iterable[Event]) -> float:
    """The time in which at least one of the events ran, in ns."""
    total, reached = 0.0, float('-inf')
    for event in sorted(events, key=lambda event: event.start):
        total += max(0.0, event.end - max(event.start, reached))
        reached = max(reached, event.end)
    return total


def _own_times(events: Sequence[Event]) -> tuple[dict[str, float], dict[str, int]]:
    """(time, number) of each kind; the time of events inside others of their line counts once."""
    own: dict[str, float] = {}
    calls: dict[str, int] = {}
    open_: list[Event] = []
    # Of two that start together the longer one is around the other.
    for event in sorted(events, key=lambda e: (e.device, e.line, e.start, -e.end)):
        while open_ and (open_[-1][:2] != event[:2] or open_[-1].end <= event.start):
            open_.pop()
        length = event.end - event.start
        own[event.name] = own.get(event.name, 0.0) + length
        calls[event.name] = calls.get(event.name, 0) + 1
        if open_:
            own[open_[-1].name] -= min(length, open_[-1].end - event.start)
        open_.append(event)
    return own, calls


def _utilisation(run: Run, seconds: float) -> dict[str, Any]:
    """FLOP utilisation and peak memory, given the seconds per step.

    The operations are those of the model: 2 for each of the multiply-adds of the convolutions and
    matrix products, which a step does 3 times, forward and for the gradients of both factors.
    Recomputation, norms, the optimiser and the augmentation do not count.
    """
    preprocessing = for_training(run.inputs.preprocessing, run.config)
    model = run_model(run.config, len(preprocessing.class_names))
    one = count(model, preprocessing.model_shape).multiply_adds * FLOPS_PER_MULTIPLY_ADD
    operations = one * run.config.train.batch_size
    peak = peak_flops(run.config.model.dtype) * _places(run)
    return {
        'model_flops': operations,
        'peak_flops': peak,
        'flop_utilisation': operations / seconds / peak,
        'device_peak_bytes': device_peak_bytes(),
        'process_peak_bytes': process_peak_bytes(),
    }


def _places(run: Run) -> int:
    """Devices that compute beside each other; those of a CPU share its cores."""
    return 1 if jax.default_backend() == 'cpu' else run.placement.devices


@functools.cache
def peak_flops(dtype: str) -> float:
    """Operations a second of a large matrix product on one device, the fastest of a few."""
    side = _SIDE.get(jax.default_backend(), _LARGE)
    matrix = jnp.full((side, side), 1 / side, dtype)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(matrix, matrix))
    times = []
    for _ in range(_PRODUCTS):
        began = time.perf_counter()
        jax.block_until_ready(product(matrix, matrix))
        times.append(time.perf_counter() - began)
    return 2 * side**3 / min(times)


def lines_of(figures: Mapping[str, Any]) -> list[str]:
    """The figures for people."""
    shares = ', '.join(f'{100 * figures[name]:.1f} % {words}' for name, words in _SHARES.items())
    lines = [
        f'profile of {figures["steps"]} steps: {1e3 * figures["seconds_per_step"]:.2f} ms each: '
        f'{shares}',
        f'the model: {figures["model_flops"] / 1e9:.3g} GFLOP a step, '
        f'{100 * figures["flop_utilisation"]:.1f} % of the {figures["peak_flops"] / 1e9:,.0f} '
        'GFLOP/s of a matrix product',
    ]
    peaks = {'device': figures['device_peak_bytes'], 'process': figures['process_peak_bytes']}
    known = [f'{name} {size / 2**20:,.0f} MiB' for name, size in peaks.items() if size]
    lines += [f'peak memory: {", ".join(known)}'] * bool(known)
    rows = [
        (each['name'], f'{each["calls"]:,.1f}', f'{100 * each["share"]:.1f}')
        for each in figures['operations']
    ]
    header = ('operations', 'a step', '% of their time')
    return [*lines, *text.aligned(header, rows, text.terminal_width(sys.stderr)).splitlines()]


_SHARES = {'device': 'computing', 'data': 'waiting for data', 'host': 'waiting for the program'}
