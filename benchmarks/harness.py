"""What all benchmarks share: arguments, repetitions in turn, tables, JSON with circumstances.

Figures are medians with their least and largest value. Compared programs take turns, a repetition
each, so that what else the machine does meets all of them alike.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / 'results'
WORKER = str(Path(__file__).parent / 'worker.py')  # see `start_worker`
PACKAGES = (
    *('jax', 'jaxlib', 'flax', 'dm-haiku', 'torch', 'torchvision', 'grain', 'pillow'),
    *('simplejpeg', 'cykooz-resizer', 'opencv-python', 'onnx', 'onnxruntime'),
)


def parser(doc: str, repetitions: int | None = None) -> argparse.ArgumentParser:
    """The command line of a benchmark: --json, and --repetitions where it repeats."""
    found = argparse.ArgumentParser(description=doc.splitlines()[0])
    if repetitions is not None:
        found.add_argument('--repetitions', type=int, default=repetitions)
    found.add_argument('--json', type=Path, metavar='FILE', help='also write the figures there')
    return found


def command() -> str:
    """What was typed, from the checkout's root."""
    return shlex.join(['python', f'benchmarks/{Path(sys.argv[0]).name}', *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Of Python and of those PACKAGES that are installed."""
    found = {'python': platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The name of the CPU, where the system tells."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor()


def cpus() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def circumstances(device: str | None = None) -> dict[str, Any]:
    """Under which figures were measured: command, commit, date, machine, versions.

    Args:
      device: what it was measured on; asks JAX, which then takes hold of the device, if None.
    """
    if device is None:
        import jax

        device = f'{jax.device_count()} x {jax.devices()[0].device_kind}'
    variables = ('XLA_FLAGS', 'GLIBC_TUNABLES', 'JAX_PLATFORMS')
    return {
        'command': command(),
        'environment': {name: os.environ[name] for name in variables if name in os.environ},
        'commit': commit(),
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'device': device,
        'machine': platform.machine(),
        'processor': processor(),
        'cpus': cpus(),
        'load_average': list(os.getloadavg()),
        'versions': versions(),
    }


def commit() -> str | None:
    """Of the checkout; None outside of one."""
    git = ['git', '-C', str(ROOT), 'rev-parse', '--short', 'HEAD']
    try:
        return subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_json(path: Path | None, figures: Mapping[str, Any], device: str | None = None) -> None:
    """Writes figures and circumstances, where a file was asked for."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + '.tmp')  # whoever reads meanwhile finds a whole file
    draft.write_text(json.dumps({**circumstances(device), **figures}, indent=2) + '\n')
    draft.replace(path)


def in_turn(programs: Mapping[str, Callable[[], Any]], repetitions: int) -> dict[str, list[Any]]:
    """What each program returns in each repetition; they take turns."""
    results: dict[str, list[Any]] = {name: [] for name in programs}
    for _ in range(repetitions):
        for name, program in programs.items():
            results[name].append(program())
    return results


def timed(program: Callable[[], Any]) -> Callable[[], float]:
    """A program that returns the seconds it took; it must wait for its results."""

    def run() -> float:
        start = time.perf_counter()
        program()
        return time.perf_counter() - start

    return run


def interleaved(
    programs: Mapping[str, Callable[[], Any]], repetitions: int
) -> dict[str, list[float]]:
    """Seconds of each program in each repetition, in turn."""
    return in_turn({name: timed(program) for name, program in programs.items()}, repetitions)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """{'median', 'min', 'max', 'all'}."""
    return {
        'median': statistics.median(values),
        'min': min(values),
        'max': max(values),
        'all': list(values),
    }


def line(cells: Sequence[Any], widths: Sequence[int]) -> str:
    """A row of a table that is printed while it grows: the first cell to the left, others right."""
    first, *rest = zip(map(str, cells), widths, strict=True)
    return ''.join([f'{first[0]:<{first[1]}}', *(f'{cell:>{width}}' for cell, width in rest)])


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """An aligned table whose columns are as wide as they need to be."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) + 2 for column in zip(*lines, strict=True)]
    return '\n'.join(line(cells, widths).rstrip() for cells in lines)


def start_worker(
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> subprocess.Popen[str]:
    """A process that is asked by `ask`: a Python, by default this one, with these arguments."""
    return subprocess.Popen(
        [python, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )


def ask(worker: subprocess.Popen[str], question: Any, timeout: float | None = None) -> Any:
    """Sends a line of JSON and waits for the answer, another one.

    Args:
      worker: of `start_worker`, a program that calls `serve`.
      question: what it is asked.
      timeout: seconds after which it is killed; None waits as long as it takes.

    Raises:
      RuntimeError: if the worker ended instead.
    """
    assert worker.stdin is not None and worker.stdout is not None
    timer = threading.Timer(timeout, worker.kill) if timeout is not None else None
    if timer:
        timer.start()
    try:
        print(json.dumps(question), file=worker.stdin, flush=True)
        for text in worker.stdout:
            if text.startswith(ANSWER):  # libraries may print other things
                return json.loads(text.removeprefix(ANSWER))
    except BrokenPipeError:
        pass
    finally:
        if timer:
            timer.cancel()
    name = Path(worker.args[1]).name
    raise RuntimeError(f'{name} ended with code {worker.wait()} when asked {question}')


def output_of(arguments: Sequence[str], python: str = sys.executable) -> str:
    """What a Python, by default this one, prints with these arguments in the checkout's root.

    Raises:
      subprocess.CalledProcessError: if it fails.
    """
    done = subprocess.run(
        [python, *arguments], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    return done.stdout


ANSWER = 'answer: '


def serve(answer: Callable[[Any], Any]) -> None:
    """The worker's side: answers questions until the other side closes."""
    for text in sys.stdin:
        print(ANSWER + json.dumps(answer(json.loads(text))), flush=True)


def stop_worker(worker: subprocess.Popen[str]) -> None:
    """Lets it end by itself, and ends it if it does not."""
    assert worker.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        worker.stdin.close()
    try:
        worker.wait(timeout=30)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
