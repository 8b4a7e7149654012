"""How long the first minute takes: the command's help, imports, a model, the first training step.

Each program is a process of its own, timed from its start to its end, or, of training, to the line
that says that the first step was taken. The programs take turns, once each before they are timed,
so that files lie in memory. A busy machine makes all of them slower, so compare what was measured
in one run; the seconds of CPU, which the process used in all its threads, depend on that less.
Others' packages are measured with a Python that has them:

    python benchmarks/startup.py --repetitions 9
    python benchmarks/startup.py --peers .venv-peers/bin/python    # which has timm, keras and jax
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness

COMMAND = [sys.executable, '-m', 'resnet_jax']
INIT = (
    'import jax\n'
    'import jax.numpy as jnp\n'
    'from resnet_jax import create_model\n'
    "model = create_model('resnet18')\n"
    'images = jnp.zeros((1, 224, 224, 3))\n'
    'init = jax.jit(lambda: model.init(jax.random.key(0), images, train=False))\n'
    'jax.block_until_ready(init())'
)
# Name -> (the command, the seconds that it should take at most, if any).
OURS: dict[str, tuple[list[str], float | None]] = {
    'Python alone': ([sys.executable, '-c', 'pass'], None),
    'resnet-jax --help': ([*COMMAND, '--help'], 0.5),
    'resnet-jax --version': ([*COMMAND, '--version'], None),
    'resnet-jax models': ([*COMMAND, 'models'], 2.0),
    'import resnet_jax': ([sys.executable, '-c', 'import resnet_jax'], None),
    "create_model('resnet18')": (
        [sys.executable, '-c', "import resnet_jax; resnet_jax.create_model('resnet18')"],
        None,
    ),
    'the same, with parameters': ([sys.executable, '-c', INIT], None),
    'import jax': ([sys.executable, '-c', 'import jax'], None),
}
# PyPI's torchvision, which timm imports, fails beside a PyTorch for CPUs when it declares operators
# that it lacks there; see tests/torchvision_cpu.py.
_TIMM = 'import torch.library as l; l.register_fake = lambda *a, **k: lambda f: f; import timm'
PEERS = {
    'import timm': _TIMM,
    "timm.create_model('resnet18')": f"{_TIMM}; timm.create_model('resnet18')",
    'keras: import ResNet50': 'from keras.applications import ResNet50',
    'keras: ResNet50(weights=None)': (
        'from keras.applications import ResNet50; ResNet50(weights=None)'
    ),
}
FIRST_STEP = 'first step after'


def used(program: Callable[[], None]) -> Callable[[], tuple[float, float]]:
    """A program that returns the seconds until its process ended, and those of CPU."""

    def run() -> tuple[float, float]:
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        program()
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return run


def process(command: list[str]) -> Callable[[], None]:
    """A command, run to its end."""
    environment = {**os.environ, 'KERAS_BACKEND': 'jax'}
    quiet = subprocess.DEVNULL
    return lambda: subprocess.run(
        command, check=True, stdout=quiet, stderr=quiet, cwd=harness.ROOT, env=environment
    )


def first_step(cache: Path | None) -> Callable[[], None]:
    """`train --config digits` until it has taken a step; with an empty cache if None."""

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(cache or f'{folder}/c')}
            command = [*COMMAND, 'train', '--config', 'digits', '--workdir', f'{folder}/run']
            training = subprocess.Popen(
                command, stderr=subprocess.PIPE, text=True, cwd=harness.ROOT, env=environment
            )
            assert training.stderr is not None
            found = any(line.startswith(FIRST_STEP) for line in training.stderr)
            training.kill()
            training.wait()
            training.stderr.close()
            if not found:
                raise RuntimeError('the run ended before its first step')

    return run


def main() -> None:
    parser = harness.parser(__doc__, repetitions=9)
    parser.add_argument('--peers', metavar='PYTHON', help='a Python with timm, keras and jax')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        programs = {name: process(of) for name, (of, _) in OURS.items()}
        programs |= {
            'first step of train --config digits': first_step(None),
            'the same, compiled before': first_step(Path(cache)),
        }
        if options.peers:
            programs |= {name: process([options.peers, '-c', code]) for name, code in PEERS.items()}
        harness.in_turn(programs, 1)
        timed = {name: used(program) for name, program in programs.items()}
        found = harness.in_turn(timed, options.repetitions)
    figures: dict[str, Any] = {}
    for name, times in found.items():
        seconds, cpu = zip(*times, strict=True)
        figures[name] = {'seconds': harness.spread(seconds), 'cpu': harness.spread(cpu)}
    rows = []
    for name, of in figures.items():
        target = OURS[name][1] if name in OURS else None
        cells = [of['seconds'][key] for key in ('median', 'min', 'max')] + [of['cpu']['median']]
        words = '' if target is None else f'under {target}'
        rows.append([name, *(f'{seconds:.2f}' for seconds in cells), words])
    print(harness.table(['program', 'median, s', 'min', 'max', 'CPU, s', 'target'], rows))
    peers = None
    if options.peers:
        code = (
            'import importlib.metadata as m; '
            "print(*(f'{n} {m.version(n)}' for n in ('timm', 'torch', 'keras', 'jax')), sep=', ')"
        )
        peers = harness.output_of(['-c', code], options.peers).strip()
        print(peers)
    harness.write_json(options.json, {'peers': peers, 'programs': figures})


if __name__ == '__main__':
    main()
