"""Several runs that differ in their seeds alone, trained in one compiled program.

A small net leaves most of a large device idle; several at once fill it. Each run keeps its own
workdir and is what it would be alone, to rounding: it can be looked at and continued by itself.
"""

import contextlib
import operator
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from resnet_jax.errors import InputError, RunError, unknown_name
from resnet_jax.models.cpu.compiler import compiler_options
from resnet_jax.records.writers import Console
from resnet_jax.training import config as configs
from resnet_jax.training import loop, processes, workdir
from resnet_jax.training.build import Run, build_run
from resnet_jax.training.checkpoint import saved_steps
from resnet_jax.training.compilation import matmul_precision
from resnet_jax.training.inputs import open_inputs
from resnet_jax.training.loop import Stepper
from resnet_jax.training.opening import opened, prepare
from resnet_jax.training.progress import Progress
from resnet_jax.training.summary import read_summary

# How runs are placed:
#   serial   one after another, each on all devices
#   vmapped  in one program on one device
#   devices  in one program, each of several devices with its part of the runs
PLACES = ('serial', 'vmapped', 'devices')
ONE_DEVICE = {'parallel.mode': 'jit', 'parallel.devices': 1, 'parallel.shard_optimizer': False}
_AXIS = 'seeds'
_PROBED = 3  # dispatches that are timed, after the one that compiles


def train_seeds(
    config: ConfigDict,
    seeds: Sequence[int],
    folders: Sequence[Path],
    place: str | None = None,
    console: Console | None = None,
) -> list[dict[str, Any] | RunError]:
    """Trains, or continues, a run for each seed.

    They are trained one after another where they cannot share a program: data that streams, several
    processes, batch norm per replica on several devices, runs at different steps (as after a kill).

    Args:
      config: of the runs; its `seed` is not used.
      seeds: all different.
      folders: a workdir for each.
      place: one of `PLACES`; None: the one that a short probe finds to be the fastest.
      console: where their progress is shown; None: on their own.

    Returns:
      Of each run what summary.json holds, or the error that ended it.

    Raises:
      InputError: for a bad config or data, or a folder of another run.
      Interrupted: after SIGTERM or SIGINT; all is saved.
    """
    if place is not None and place not in PLACES:
        raise unknown_name('place', place, PLACES)
    if not 0 < len(seeds) == len(set(seeds)) == len(folders) == len(set(folders)):
        raise InputError(f'{len(seeds)} seeds and {len(folders)} folders; each run needs its own')
    configs.check_values(config)
    wanted = [configs.changed(config, {'seed': seed}) for seed in seeds]
    for folder, run_config in zip(folders, wanted, strict=True):
        workdir.check_folder(folder, run_config)
    stored = workdir.read_preprocessing(folders[0]) if workdir.is_run(folders[0]) else None
    apart = build_run(wanted[0], open_inputs(wanted[0], stored))
    ended = [read_summary(folder) is not None for folder in folders]
    if place != 'serial' and not any(ended) and _fit_together(apart, folders):
        run = build_run(configs.changed(wanted[0], ONE_DEVICE), apart.inputs)
        steppers = {name: together(run, len(seeds), n) for name, n in _devices(len(seeds)).items()}
        if place is None:
            with matmul_precision(config.train.matmul_precision):
                place = _fastest(apart, run, len(seeds), steppers)
        if place in steppers:
            return _train_together(run, seeds, folders, steppers[place], console)
    return [_alone(*pair, apart, console) for pair in zip(wanted, folders, strict=True)]


def _alone(
    config: ConfigDict, folder: Path, like: Run, console: Console | None
) -> dict[str, Any] | RunError:
    try:
        return loop.train(config, folder, like, console)
    except RunError as error:
        return error


def _fit_together(run: Run, folders: Sequence[Path]) -> bool:
    """Whether runs like this, in these folders, can share a program and stay what they are."""
    if len(folders) == 1 or run.inputs.arrays is None or jax.process_count() > 1:
        return False
    if run.placement.batch_norm == 'per_replica' and run.placement.devices > 1:
        return False
    return len({tuple(saved_steps(folder)[-1:]) for folder in folders}) == 1


def _devices(count: int) -> dict[str, int]:
    """How many devices each place takes for so many runs, in equal parts."""
    several = max(n for n in range(1, jax.device_count() + 1) if count % n == 0)
    return {'vmapped': 1} | ({'devices': several} if several > 1 else {})


def together(run: Run, count: int, devices: int) -> Stepper:
    """The stepper of runs that differ in their seeds.

    Args:
      run: any of them, placed on one device.
      count: how many they are.
      devices: on how many, a divisor of `count`.
    """
    mesh = Mesh(np.asarray(jax.devices()[:devices]), (_AXIS,), axis_types=(AxisType.Auto,))
    each, whole = PartitionSpec(_AXIS), PartitionSpec()
    by_run = NamedSharding(mesh, each)
    many: Any = _only(run.steps) if devices == count else jax.vmap(run.steps, (0, 0, 0, None, 0))
    if devices > 1:
        many = jax.shard_map(
            many,
            mesh=mesh,
            in_specs=(each, each, each, whole, each),
            out_specs=(each, each),
            check_vma=False,
        )

    def pack(values: list[Any]) -> Any:
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(values))
        return jax.device_put(stacked, by_run)

    def unpack(value: Any) -> list[Any]:
        held = jax.device_get(value)
        parts = [jax.tree.map(operator.itemgetter(i), held) for i in range(count)]
        return [run.placement.put_whole(part) for part in parts]

    return Stepper(
        step=jax.jit(many, donate_argnums=(1, 2), compiler_options=compiler_options()),
        pack=pack,
        unpack=unpack,
        put=pack,
        put_whole=lambda tree: jax.device_put(tree, NamedSharding(mesh, whole)),
    )


def _only(steps: Callable[..., Any]) -> Callable[..., Any]:
    """For one run in an array of runs; vmap would make each convolution a grouped one."""

    def only(seed: Any, state: Any, totals: Any, arrays: Any, batches: Any) -> Any:
        mine = jax.tree.map(lambda x: x[0], (seed, state, totals, batches))
        return jax.tree.map(lambda x: x[None], steps(*mine[:3], arrays, mine[3]))

    return only


def _fastest(apart: Run, run: Run, count: int, steppers: dict[str, Stepper]) -> str:
    """The place where a step of all runs takes the least time."""
    times = {'serial': count * seconds_per_step([apart], loop.alone(apart))}
    for name, stepper in steppers.items():
        # One that does not fit in the memory is none to choose.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            times[name] = seconds_per_step([run] * count, stepper)
    found = ', '.join(f'{name} {1000 * t:.1f} ms' for name, t in times.items())
    print(f'a step of {count} seeds: {found}', file=sys.stderr, flush=True)
    return min(times, key=times.__getitem__)


def seconds_per_step(runs: Sequence[Run], stepper: Stepper) -> float:
    """Median over some dispatches of runs at their first steps; nothing is written."""
    count, inputs = runs[0].steps_per_dispatch, runs[0].inputs
    seed = stepper.pack([run.seed for run in runs])
    state = stepper.pack([run.placement.put_state(run.init_state()) for run in runs])
    totals = loop.no_totals(runs, stepper)
    arrays = stepper.put_whole(inputs.arrays)
    batches = list(inputs.train_batches(0, count))
    times = []
    for _ in range(1 + _PROBED):
        began = time.perf_counter()
        placed = stepper.put([loop.stacked(batches)] * len(runs))
        state, totals = stepper.step(seed, state, totals, arrays, placed)
        jax.block_until_ready(totals)
        times.append((time.perf_counter() - began) / count)
    return statistics.median(times[1:])


def _train_together(
    run: Run,
    seeds: Sequence[int],
    folders: Sequence[Path],
    stepper: Stepper,
    console: Console | None,
) -> list[dict[str, Any] | RunError]:
    config = run.inputs.config
    prepared = [
        prepare(configs.changed(config, {'seed': seed}), folder, run)
        for seed, folder in zip(seeds, folders, strict=True)
    ]
    with contextlib.ExitStack() as stack:
        asked = stack.enter_context(processes.stop_signals())
        stack.enter_context(matmul_precision(config.train.matmul_precision))
        runs: list[Progress] = []
        for seed, one in zip(seeds, prepared, strict=True):
            progress = stack.enter_context(opened(one, console))
            assert isinstance(progress, Progress), 'none of them has ended'
            progress.share_console(runs[0].console if runs else progress.console, f'seed {seed}: ')
            runs.append(progress)
        runs[0].console.say(loop.headline(runs[0], len(runs)))
        loop.take_steps(runs, stepper, asked)
        return [progress.error or progress.finish(len(runs)) for progress in runs]
