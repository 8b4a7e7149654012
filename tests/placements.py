"""The runs of placement_runs.py, made once for all tests; states equal up to rounding."""

import fcntl
import os
import subprocess
import sys

import jax
import numpy as np
from running import ROOT

# Two devices' sums are rounded otherwise than one's; 5 steps make more of it.
TOLERANCE = 5e-5


def made(tmp_path_factory, name, arguments):
    """The folder in which placement_runs.py wrote, started once for each list of arguments.

    It is one folder for all of pytest's worker processes: the first makes the runs, others wait.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    with (folder / 'lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / 'held.json').exists():
            script = [sys.executable, str(ROOT / 'tests' / 'placement_runs.py'), str(folder)]
            env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
            started = [subprocess.Popen([*script, *rest], env=env) for rest in arguments]
            assert [process.wait(timeout=300) for process in started] == [0] * len(started)
    return folder


def assert_same(state, expected):
    """Relative to each array's largest entry."""

    def same(a, b):
        scale = max(float(np.abs(b).max()), 1e-3)
        np.testing.assert_allclose(np.asarray(a) / scale, np.asarray(b) / scale, atol=TOLERANCE)

    parts = ('params', 'batch_stats', 'opt_state', 'step')
    jax.tree.map(same, *([getattr(s, part) for part in parts] for s in (state, expected)))
