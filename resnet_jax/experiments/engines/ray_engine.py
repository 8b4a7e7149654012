"""The engine for several machines: a Ray task for each run.

Ray places the tasks, gives each its devices, and restarts a task whose process or machine died; the
run then resumes from its checkpoint. A worker that sees the sweep's workdir trains there; any other
trains in a folder of its own, and the run's folder travels to the workdir.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import logging
import os
import shutil
import socket
import sys
import tarfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError, Interrupted, RunError, first_line
from resnet_jax.experiments.engines.engine import (
    GPU_MEMORY,
    MEMORY_FRACTION,
    Engine,
    RunsConsole,
    SweepConsole,
    check_all_ended,
    received_signals,
    train_runs,
)
from resnet_jax.experiments.results import write_failure
from resnet_jax.experiments.sweep import Sweep, Unit
from resnet_jax.training import compilation
from resnet_jax.training.checkpoint import saved_steps
from resnet_jax.training.config import from_json, to_json

_POLL_SECONDS = 0.5  # between checks for signals
# Variables of this process's environment that workers get too, by their beginnings.
_PASSED_ON = ('JAX_', 'XLA_')
# While Ray starts: without them it would copy the folder of a project that `uv run` started to the
# workers, and report usage.
_RAY_ENVIRONMENT = {'RAY_ENABLE_UV_RUN_RUNTIME_ENV': '0', 'RAY_USAGE_STATS_ENABLED': '0'}
_LOCAL_FILES = ('.lock',)  # in a run's folder; they do not travel


@contextlib.contextmanager
def connected(
    address: str | None, cpus: float, gpus: float | None, retries: int
) -> Iterator[Engine]:
    """Connects to Ray; the connection is closed when the context ends.

    Args:
      address: of a cluster; None starts Ray on all cores and GPUs of this machine.
      cpus: CPUs that each run reserves.
      gpus: GPUs that each run reserves and sees; None: 1 where some machine has one, otherwise 0.
      retries: how often a run is restarted after its process or machine died.

    Raises:
      InputError: if Ray is not installed, the cluster does not answer, or none of its machines is
        large enough.
    """
    with _default_environment(_RAY_ENVIRONMENT):
        try:
            import ray
        except ImportError as error:
            raise InputError(
                '--engine ray needs Ray: pip install "resnet-jax[ray]", here and on all machines'
            ) from error
        _start(ray, address)
    try:
        machines = [node['Resources'] for node in ray.nodes() if node['Alive']]
        if gpus is None:
            gpus = float(any(machine.get('GPU', 0) >= 1 for machine in machines))
        if not any(m.get('CPU', 0) >= cpus and m.get('GPU', 0) >= gpus for m in machines):
            lack = f'no machine of the Ray cluster has {cpus:g} CPUs and {gpus:g} GPUs for a run'
            if address is None:
                raise InputError(f'{lack}; lower --cpus-per-run or --gpus-per-run')
            print(f'{lack}; waiting for one', file=sys.stderr, flush=True)  # a cluster may grow
        resources = {'num_cpus': cpus, 'num_gpus': gpus}
        yield functools.partial(_run, ray, resources, retries)
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _default_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables that are not set, and unsets them afterwards."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


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
    """Refuses an address that does not answer; Ray would retry for minutes."""
    host, _, port = address.removeprefix('ray://').rpartition(':')
    if not host or not port.isdigit():
        raise InputError(f'--ray-address is HOST:PORT or auto, got {address!r}')
    try:
        socket.create_connection((host.strip('[]'), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(f'no Ray cluster at {address}: {first_line(error)}') from error


def _worker_environment(gpus: float) -> dict[str, str]:
    """Environment variables of a worker, which are set before it imports JAX."""
    variables = {} if gpus else {'JAX_PLATFORMS': 'cpu'}
    if 0 < gpus < 1:
        variables[MEMORY_FRACTION] = f'{GPU_MEMORY * gpus:.3f}'
    return variables | {k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON)}


# On the driver


@dataclasses.dataclass(frozen=True)
class _Task:
    """A run, with everything that a worker must know about it.

    Attributes:
      unit: the run; its folder is the driver's.
      config: its config, as JSON.
      token: a file that exists for those who see the driver's files.
      key: the same for all attempts of this run, and different from that of any other.
      current_folder: where relative paths in the config start.
      saved: Ray's reference to the packed folder of the run; None if it has no checkpoint.
      step: the step of the last checkpoint in `saved`.
    """

    unit: Unit
    config: str
    token: Path
    key: str
    current_folder: str
    saved: Any
    step: int


@dataclasses.dataclass(frozen=True)
class _TaskResult:
    """How a task ended.

    Attributes:
      kind: 'ended', 'failed', 'stopped' (saved, to be continued) or 'input' (an `InputError`).
      text: how the run ended, or the error's message.
      folder: the run's folder, packed, if the driver does not see it.
    """

    kind: str
    text: str
    folder: bytes | None = None


def _run(
    ray: Any,
    resources: Mapping[str, float],
    retries: int,
    sweep: Sweep,
    workdir: Path,
    todo: Sequence[Unit],
    display: SweepConsole,
) -> list[Unit]:
    """An `Engine`, from its fourth argument on."""
    remote = ray.remote(train_task).options(
        **resources,
        max_retries=retries,
        runtime_env={'env_vars': _worker_environment(resources['num_gpus'])},
    )
    failed: list[Unit] = []
    errors: list[str] = []
    left = 0
    with received_signals() as stopped, _token(workdir) as token:
        pending = {remote.remote(_task(ray, sweep, unit, token)): unit for unit in todo}
        cancelled = False
        while pending:
            if (stopped or errors) and not cancelled:
                cancelled = True
                for reference in pending:
                    ray.cancel(reference)
            ready, _ = ray.wait(list(pending), timeout=_POLL_SECONDS)
            for reference in ready:
                unit = pending.pop(reference)
                result = _receive(ray, reference, unit, cancelled)
                if result.kind == 'input':
                    errors.append(result.text)
                elif result.kind == 'stopped' and cancelled:
                    left += 1
                elif result.kind == 'stopped':  # by its machine, which is about to leave
                    pending[remote.remote(_task(ray, sweep, unit, token))] = unit
                else:
                    failed += [unit] if result.kind == 'failed' else []
                    display.ended(unit.folder, result.text)
    check_all_ended(errors, stopped, left)
    return failed


@contextlib.contextmanager
def _token(workdir: Path) -> Iterator[Path]:
    """A file by which any machine recognises this workdir if it sees it."""
    path = workdir.absolute() / f'.shared-{uuid.uuid4().hex}'
    path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _task(ray: Any, sweep: Sweep, unit: Unit, token: Path) -> _Task:
    config = to_json(sweep.config(unit.arm, unit.seed))
    folder = unit.folder.absolute()
    steps = saved_steps(folder)
    key = hashlib.sha256(f'{socket.gethostname()} {folder} {config}'.encode()).hexdigest()[:16]
    return _Task(
        unit=Unit(unit.arm, unit.seed, folder),
        config=config,
        token=token,
        key=key,
        current_folder=os.getcwd(),
        saved=ray.put(pack(folder)) if steps else None,
        step=steps[-1] if steps else 0,
    )


def _receive(ray: Any, reference: Any, unit: Unit, cancelled: bool) -> _TaskResult:
    """The result of a task; the run's folder is then in the workdir."""
    try:
        result: _TaskResult = ray.get(reference)
        if result.folder is not None:
            unpack(result.folder, unit.folder)
        return result
    except (ray.exceptions.RayError, RunError) as error:
        if cancelled:  # before it started
            return _TaskResult('stopped', '')
        cause = getattr(error, 'cause', None)  # of an exception in the task
        reason = f'{type(cause or error).__name__}: {first_line(cause or error)}'
        write_failure(unit.folder, reason)
        return _TaskResult('failed', f'failed: {reason}')


# On a worker


class _ResultConsole(RunsConsole):
    """Keeps how the run ended, and shows nothing."""

    def __init__(self) -> None:
        super().__init__(0, 1, quiet=True)
        self.text = ''

    def ended(self, folder: Path, result: str) -> None:
        self.text = result


def train_task(task: _Task) -> _TaskResult:
    """Trains or resumes a run: what a Ray worker does."""
    if os.path.isdir(task.current_folder):
        os.chdir(task.current_folder)
    compilation.keep_compiled()
    if task.token.is_file():
        return _TaskResult(*_train(task.config, task.unit))
    # Not a temporary folder: a run resumes there after a crash of the machine.
    folder = compilation.cache_folder().parents[1] / 'runs' / task.key
    if task.saved is not None and saved_steps(folder)[-1:] < [task.step]:
        import ray

        unpack(ray.get(task.saved), folder)
    kind, text = _train(task.config, dataclasses.replace(task.unit, folder=folder))
    if kind == 'input':  # perhaps because another process is training there
        return _TaskResult(kind, text)
    packed = pack(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return _TaskResult(kind, text, packed)


def _train(config: str, unit: Unit) -> tuple[str, str]:
    """Trains in the run's folder; the result's kind and text."""
    with contextlib.closing(_ResultConsole()) as console:
        try:
            failed = train_runs(from_json(config), [unit], console)
        except InputError as error:
            return 'input', str(error)
        except Interrupted as stop:
            return 'stopped', str(stop)
    return 'failed' if failed else 'ended', console.text


# Between them


def pack(folder: Path) -> bytes:
    """The files of a run's folder as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as archive:
        for path in sorted(folder.iterdir()):
            if path.name not in _LOCAL_FILES:
                archive.add(path, path.name)
    return buffer.getvalue()


def unpack(data: bytes, folder: Path) -> None:
    """Replaces a folder, which need not exist, with what was packed; writes nothing outside it.

    Raises:
      RunError: if `data` is not such an archive; the folder is then unchanged.
    """
    new, old = (folder.with_name(f'.{folder.name}.{part}') for part in ('new', 'old'))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                if not (member.isfile() or member.isdir()):
                    raise tarfile.TarError(f'{member.name} is not a file')
            archive.extractall(new, filter='data')  # refuses paths that lead out of it
    except (tarfile.TarError, OSError, EOFError) as error:
        shutil.rmtree(new, ignore_errors=True)
        raise RunError(f'what came back for {folder} cannot be unpacked: {error}') from error
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
