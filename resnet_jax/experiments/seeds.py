"""Several runs that differ in their seeds alone, trained in one compiled program.

A small net leaves most of a large device idle; several nets at once fill it. Each run keeps its own
workdir and is what it would be alone, up to rounding: it can be inspected and resumed by itself.
"""

import contextlib
import dataclasses
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

from resnet_jax.errors import InputError, RunError, Unreadable, check_choice
from resnet_jax.records.writers import Console
from resnet_jax.training import config as configs
from resnet_jax.training import loop, memory, processes, workdir
from resnet_jax.training.build import Run, build_run
from resnet_jax.training.checkpoint import saved_steps
from resnet_jax.training.checks import resolve
from resnet_jax.training.compilation import compiler_options, matmul_precision
from resnet_jax.training.inputs import open_inputs
from resnet_jax.training.session import Session, open_session

# Where runs are trained:
#   serial   one after another, each on all devices
#   vmapped  in one program on one device
#   devices  in one program, each of several devices with its share of the runs
PLACES = ('serial', 'vmapped', 'devices')
ONE_DEVICE = {'parallel.mode': 'jit', 'parallel.devices': 1, 'parallel.shard_optimizer': False}
_AXIS = 'seeds'
# The content of a run's summary.json, or why it has none.
Outcome = dict[str, Any] | RunError | Unreadable
_PROBED = 3  # dispatches that are timed, after the one that compiles


def train_seeds(
    config: ConfigDict,
    seeds: Sequence[int],
    folders: Sequence[Path],
    place: str | None = None,
    console: Console | None = None,
) -> list[Outcome]:
    """Trains, or resumes, a run for each seed.

    The runs are trained one after another where they cannot share a program: data that is streamed,
    several processes, batch norm per replica on several devices, runs at different steps, patience,
    measuring the signal.

    Args:
      config: of the runs; its `seed` is not used.
      seeds: all different.
      folders: a workdir for each.
      place: one of `PLACES`; None: the fastest in a short probe.
      console: where progress is shown; None: on each run's own console.

    Returns:
      For each run the content of its summary.json, or the error that ended it.

    Raises:
      InputError: for a bad config or data, or a workdir that holds another run.
      Interrupted: after SIGTERM or SIGINT; every run is saved.
    """
    if place is not None:
        check_choice('place', place, PLACES)
    if not 0 < len(seeds) == len(set(seeds)) == len(folders) == len(set(folders)):
        raise InputError(f'{len(seeds)} seeds and {len(folders)} folders; each run needs its own')
    resolve(config)
    wanted = [configs.changed(config, {'seed': seed}) for seed in seeds]
    for folder, run_config in zip(folders, wanted, strict=True):
        workdir.check_folder(folder, run_config)
    stored = workdir.read_preprocessing(folders[0]) if workdir.is_run(folders[0]) else None
    apart = build_run(wanted[0], open_inputs(wanted[0], stored))
    ended = [workdir.is_ended(folder) for folder in folders]
    if place != 'serial' and not any(ended) and _can_share_a_program(apart, folders):
        run = build_run(configs.changed(wanted[0], ONE_DEVICE), apart.inputs)
        programs = {name: together(run, len(seeds), n) for name, n in _devices(len(seeds)).items()}
        if place is None:
            with matmul_precision(config.train.matmul_precision):
                place = _fastest(apart, run, len(seeds), programs)
        if place in programs:
            with contextlib.suppress(Unreadable):  # one checkpoint: the others are trained alone
                return _train_together(run, seeds, folders, programs[place], console)
    return [_train_alone(*pair, apart, console) for pair in zip(wanted, folders, strict=True)]


def _train_alone(config: ConfigDict, folder: Path, like: Run, console: Console | None) -> Outcome:
    try:
        return loop.train(config, folder, like=like, console=console)
    except (RunError, Unreadable) as error:
        return error


def _can_share_a_program(run: Run, folders: Sequence[Path]) -> bool:
    """Whether runs like this, in these folders, compute the same in one program as alone."""
    alone = len(folders) == 1 or run.inputs.arrays is None or jax.process_count() > 1
    if alone or run.config.train.patience or run.config.log.signal_every:
        return False
    if run.placement.batch_norm == 'per_replica' and run.placement.devices > 1:
        return False
    return len({tuple(saved_steps(folder)[-1:]) for folder in folders}) == 1


def _devices(count: int) -> dict[str, int]:
    """The number of devices of each place for so many runs, in equal shares."""
    several = max(n for n in range(1, jax.device_count() + 1) if count % n == 0)
    return {'vmapped': 1} | ({'devices': several} if several > 1 else {})


@dataclasses.dataclass(frozen=True)
class Program:
    """A step of several runs.

    Attributes:
      step: (seeds, states, totals, arrays, batches) -> (states, totals), compiled; donates states
        and totals.
      pack, unpack: from each run's arrays to the step's, and back.
      put_whole: arrays that all runs share -> the same, on the devices.
    """

    step: Callable[..., Any]
    pack: Callable[[list[Any]], Any]
    unpack: Callable[[Any], list[Any]]
    put_whole: Callable[[Any], Any]


def together(run: Run, count: int, devices: int) -> Program:
    """The program of runs that differ in their seeds.

    Args:
      run: any of them, placed on one device.
      count: number of runs.
      devices: number of devices, a divisor of `count`.
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

    options = compiler_options(run.inputs.config.train.xla_optimization_level)
    return Program(
        step=jax.jit(many, donate_argnums=(1, 2), compiler_options=options),
        pack=pack,
        unpack=unpack,
        put_whole=lambda tree: jax.device_put(tree, NamedSharding(mesh, whole)),
    )


def _only(steps: Callable[..., Any]) -> Callable[..., Any]:
    """For one run in an array of runs; vmap would make each convolution a grouped one."""

    def only(seed: Any, state: Any, totals: Any, arrays: Any, batches: Any) -> Any:
        mine = jax.tree.map(lambda x: x[0], (seed, state, totals, batches))
        return jax.tree.map(lambda x: x[None], steps(*mine[:3], arrays, mine[3]))

    return only


def _fastest(apart: Run, run: Run, count: int, programs: dict[str, Program]) -> str:
    """The place where a step of all runs takes the least time."""
    times = {'serial': count * seconds_per_step(apart)}
    for name, program in programs.items():
        # A program that does not fit into memory cannot be chosen.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            times[name] = _seconds_per_step_together(run, count, program)
    found = ', '.join(f'{name} {1000 * t:.1f} ms' for name, t in times.items())
    print(f'a step of {count} seeds: {found}', file=sys.stderr, flush=True)
    return min(times, key=times.__getitem__)


def seconds_per_step(run: Run) -> float:
    """Median over some dispatches of a run's first steps; nothing is written."""
    arrays, put = run.placement.put_whole(run.arrays), run.placement.put_train_batches
    _, count, batches = next(run.dispatches(0))
    start = run.placement.put_state(run.init_state()), run.no_totals()
    return _timed(
        lambda carry: run.train_step(run.seed, *carry, arrays, put(batches)), start, count
    )


def _seconds_per_step_together(run: Run, count: int, program: Program) -> float:
    arrays, seed = program.put_whole(run.arrays), program.pack([run.seed] * count)
    _, steps, batches = next(run.dispatches(0))
    start = tuple(
        program.pack([value] * count)
        for value in (run.placement.put_state(run.init_state()), run.no_totals())
    )
    return _timed(
        lambda carry: program.step(seed, *carry, arrays, program.pack([batches] * count)),
        start,
        steps,
    )


def _timed(dispatch: Callable[[Any], Any], carry: Any, steps: int) -> float:
    times = []
    for _ in range(1 + _PROBED):
        began = time.perf_counter()
        carry = jax.block_until_ready(dispatch(carry))
        times.append((time.perf_counter() - began) / steps)
    return statistics.median(times[1:])


def _train_together(
    run: Run,
    seeds: Sequence[int],
    folders: Sequence[Path],
    program: Program,
    console: Console | None,
) -> list[Outcome]:
    prepared = [
        loop.prepare(configs.changed(run.config, {'seed': seed}), folder, run)
        for seed, folder in zip(seeds, folders, strict=True)
    ]
    with contextlib.ExitStack() as stack:
        stop_requested = stack.enter_context(processes.stop_signals())
        stack.enter_context(matmul_precision(run.config.train.matmul_precision))
        if console is None:
            first = (saved_steps(folders[0]) or [0])[-1]
            console = stack.enter_context(contextlib.closing(Console(first, run.total_steps)))
        sessions = [
            stack.enter_context(open_session(one, folder, initial, console, f'seed {seed}: '))
            for seed, folder, (one, initial) in zip(seeds, folders, prepared, strict=True)
        ]
        console.say(loop.headline(sessions[0], len(sessions)))
        _take_steps(sessions, program, stop_requested, console)
        return [session.error or session.finish(len(sessions)) for session in sessions]


def _take_steps(
    sessions: Sequence[Session],
    program: Program,
    stop_requested: Callable[[int], int | None],
    console: Console,
) -> None:
    """`loop.train`'s steps, of several runs that are at the same step.

    A run that diverges is kept as its session's `error`; the others go on.
    """
    one, first, total = sessions[0].run, sessions[0].first_step, sessions[0].run.total_steps
    config, eval_every = one.config, one.config.train.eval_every or one.total_steps
    states = [session.take_state() for session in sessions]
    missed = first > 0 and (first == total or first % eval_every == 0)
    for session, state in zip(sessions, states, strict=True):
        if missed and not session.is_evaluated(first):
            session.evaluate(first, state)
    seed, state = program.pack([s.run.seed for s in sessions]), program.pack(states)
    del states  # the step donates its own copy
    arrays = program.put_whole(one.arrays)
    no_totals = [one.no_totals()] * len(sessions)
    totals = program.pack(no_totals)
    streams = [session.run.dispatches(first) for session in sessions]
    for session in sessions:
        session.restart_clock()
    for number, dispatches in enumerate(zip(*streams, strict=True), 1):
        done, count, _ = dispatches[0]
        rest = arrays, program.pack([batches for _, _, batches in dispatches])
        with loop.compiling(console.say) if number == 1 else contextlib.nullcontext():
            state, totals = program.step(seed, state, totals, *rest)
        console.advance(count, total, len(sessions))
        if number == 1:
            jax.block_until_ready(totals)
            for session in sessions:
                session.first_dispatch_done(count)
            taken = memory.jitted_bytes(program.step, seed, state, totals, *rest)
            for session in sessions:
                session.step_bytes = taken
        last, signum = done == total, stop_requested(number)
        saves = last or signum is not None or done % config.checkpoint.every == 0
        evaluates = last or (signum is None and done % eval_every == 0)
        logs = saves or done % config.train.log_every == 0
        if logs or evaluates:
            parts = program.unpack((state, totals))
            for session, (mine, sums) in zip(sessions, parts, strict=True):
                _between_steps(session, done, mine, sums if logs else None, saves, evaluates)
            if logs:
                totals = program.pack(no_totals)
        if all(session.error for session in sessions):
            return
        if signum is not None and not last:
            stops = [session.interrupted(signum, done) for session in sessions]
            raise stops[0]


def _between_steps(
    session: Session, done: int, state: Any, totals: Any, saves: bool, evaluates: bool
) -> None:
    """Logs, evaluates and saves one of several runs, unless it has failed."""
    if session.error is not None:
        return
    try:
        if totals is not None:
            session.log(done, totals, state)
        with session.paused_clock(None):
            figures = session.evaluate(done, state) if evaluates else None
            if saves:
                session.save(done, state, figures)
    except RunError as error:
        session.error = error
        session.say(str(error))
