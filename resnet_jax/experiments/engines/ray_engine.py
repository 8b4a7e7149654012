"""The engine for several machines: a Ray task for each run.

Ray places the tasks, gives each its devices, and begins a task again whose process or machine died;
the run then continues from its checkpoint. See `ray_task` for what a task does.
"""

import contextlib
import functools
import hashlib
import logging
import os
import socket
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError, RunError, first_line
from resnet_jax.experiments.engines import archives, ray_task
from resnet_jax.experiments.engines.display import SweepConsole
from resnet_jax.experiments.engines.engine import Engine, check_all_ended, stop_signals
from resnet_jax.experiments.results import write_failure
from resnet_jax.experiments.sweep import Sweep, Unit
from resnet_jax.training.checkpoint import saved_steps
from resnet_jax.training.config import to_json

_PATIENCE = 0.5  # seconds between looks at signals
_GPU_MEMORY = 0.9  # of a GPU that several runs share
# Of this process's environment, what workers are told too.
_PASSED_ON = ('JAX_', 'XLA_')


@contextlib.contextmanager
def connected(
    address: str | None, cpus: float, gpus: float | None, retries: int
) -> Iterator[Engine]:
    """Connects to Ray for as long as it is used.

    Args:
      address: of a cluster; None: start Ray here, on all cores and GPUs of this machine.
      cpus: that a run reserves.
      gpus: that a run reserves, and sees; None: 1 where some machine has one, else 0.
      retries: how often a run begins again whose process or machine died.

    Raises:
      InputError: without Ray, or a cluster there, or such a machine in it.
    """
    ray = _ray()
    _start(ray, address)
    try:
        machines = [node['Resources'] for node in ray.nodes() if node['Alive']]
        if gpus is None:
            gpus = float(any(machine.get('GPU', 0) >= 1 for machine in machines))
        if not any(m.get('CPU', 0) >= cpus and m.get('GPU', 0) >= gpus for m in machines):
            lack = f'no machine of the Ray cluster has {cpus:g} CPUs and {gpus:g} GPUs for a run'
            if address is None:
                raise InputError(f'{lack}; lower --cpus-per-run or --gpus-per-run')
            print(f'{lack}; waiting for one', file=sys.stderr, flush=True)  # it may grow
        resources = {'num_cpus': cpus, 'num_gpus': gpus}
        yield functools.partial(_train, ray, resources, retries)
    finally:
        ray.shutdown()


def _ray() -> Any:
    # It would otherwise send the folder of a project that `uv run` started, and count its users.
    os.environ.setdefault('RAY_ENABLE_UV_RUN_RUNTIME_ENV', '0')
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    try:
        import ray
    except ImportError as error:
        raise InputError(
            '--engine ray needs Ray: pip install "resnet-jax[ray]", here and on all machines'
        ) from error
    return ray


def _start(ray: Any, address: str | None) -> None:
    """Connects to the cluster at an address, or starts Ray here."""
    options: dict[str, Any] = {'log_to_driver': False, 'logging_level': logging.CRITICAL}
    where = 'Ray cannot be started here'
    if address is None:
        options |= {'address': 'local', 'include_dashboard': False}
    else:
        options |= {'address': address}
        where = f'no Ray cluster at {address} that lets us in (see RAY_AUTH_MODE if it has a token)'
        if address != 'auto':
            _check_listens(address)
    try:
        ray.init(**options)
    except (ConnectionError, ImportError, OSError, RuntimeError, ValueError) as error:
        raise InputError(f'{where}: {first_line(error)}') from error


def _check_listens(address: str) -> None:
    """Refuses an address where nobody listens: Ray would try for minutes."""
    host, _, port = address.removeprefix('ray://').rpartition(':')
    if not host or not port.isdigit():
        raise InputError(f'--ray-address is HOST:PORT or auto, got {address!r}')
    try:
        socket.create_connection((host.strip('[]'), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(f'no Ray cluster at {address}: {first_line(error)}') from error


def _environment(gpus: float) -> dict[str, str]:
    """What a worker's environment gets, before JAX is imported there."""
    told = {} if gpus else {'JAX_PLATFORMS': 'cpu'}
    if 0 < gpus < 1:
        told['XLA_PYTHON_CLIENT_MEM_FRACTION'] = f'{_GPU_MEMORY * gpus:.3f}'
    return told | {k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON)}


@contextlib.contextmanager
def _token(workdir: Path) -> Iterator[Path]:
    """A file that says of a workdir that it is this one, on whichever machine it is seen."""
    path = workdir.absolute() / f'.shared-{uuid.uuid4().hex}'
    path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _task(ray: Any, sweep: Sweep, unit: Unit, token: Path) -> ray_task.Task:
    config = to_json(sweep.config(unit.arm, unit.seed))
    folder = unit.folder.absolute()
    steps = saved_steps(folder)
    key = hashlib.sha256(f'{socket.gethostname()} {folder} {config}'.encode()).hexdigest()[:16]
    return ray_task.Task(
        unit=Unit(unit.arm, unit.seed, folder),
        config=config,
        token=token,
        key=key,
        current=os.getcwd(),
        saved=ray.put(archives.pack(folder)) if steps else None,
        step=steps[-1] if steps else 0,
    )


def _train(
    ray: Any,
    resources: Mapping[str, float],
    retries: int,
    sweep: Sweep,
    workdir: Path,
    todo: Sequence[Unit],
    display: SweepConsole,
) -> list[Unit]:
    remote = ray.remote(ray_task.train).options(
        **resources,
        max_retries=retries,
        runtime_env={'env_vars': _environment(resources['num_gpus'])},
    )
    failed: list[Unit] = []
    errors: list[str] = []
    left = 0
    with stop_signals() as stopped, _token(workdir) as token:
        pending = {remote.remote(_task(ray, sweep, unit, token)): unit for unit in todo}
        cancelled = False
        while pending:
            if (stopped or errors) and not cancelled:
                cancelled = True
                for reference in pending:
                    ray.cancel(reference)
            ready, _ = ray.wait(list(pending), timeout=_PATIENCE)
            for reference in ready:
                unit = pending.pop(reference)
                outcome = _outcome(ray, reference, unit, cancelled)
                if outcome.kind == 'input':
                    errors.append(outcome.text)
                elif outcome.kind == 'stopped' and cancelled:
                    left += 1
                elif outcome.kind == 'stopped':  # by its machine, which is about to leave
                    pending[remote.remote(_task(ray, sweep, unit, token))] = unit
                else:
                    failed += [unit] if outcome.kind == 'failed' else []
                    display.ended(unit.folder, outcome.text)
    check_all_ended(errors, stopped, left)
    return failed


def _outcome(ray: Any, reference: Any, unit: Unit, cancelled: bool) -> ray_task.Outcome:
    """What became of a run; its folder is then where it belongs."""
    try:
        outcome: ray_task.Outcome = ray.get(reference)
        if outcome.folder is not None:
            archives.unpack(outcome.folder, unit.folder)
        return outcome
    except (ray.exceptions.RayError, RunError) as error:
        if cancelled:  # before it had begun
            return ray_task.Outcome('stopped', '', None)
        cause = getattr(error, 'cause', None)  # of an exception in the task
        reason = f'{type(cause or error).__name__}: {first_line(cause or error)}'
        write_failure(unit.folder, reason)
        return ray_task.Outcome('failed', f'failed: {reason}', None)
