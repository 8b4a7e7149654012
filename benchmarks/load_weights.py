"""Time and memory to load the weights of ResNet-50 (98 MiB), beside plain reading.

Each reading is its own process: seconds from the call to arrays that are ready, imports excluded,
and how much the process's peak memory grew by it. Medians of the repetitions, taken in turn.

    python benchmarks/load_weights.py
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
import jax
import jax.numpy as jnp

from resnet_jax import create_model, load_weights
from resnet_jax.interop import save_weights

MODEL = 'resnet50'


def ours(path):
    return load_weights(path, create_model(MODEL))


def plain_safetensors(path):
    import safetensors.numpy

    return {k: jnp.asarray(v) for k, v in safetensors.numpy.load_file(path).items()}


def plain_torch(path):
    import torch

    return torch.load(path, weights_only=True)


# name -> (file, how it is read)
READERS = {
    'ours, .safetensors of PyTorch': ('torch.safetensors', ours),
    'ours, .pth': ('torch.pth', ours),
    'ours, our .safetensors': ('ours.safetensors', ours),
    'ours, our .npz': ('ours.npz', ours),
    'safetensors + jnp.asarray': ('torch.safetensors', plain_safetensors),
    'torch.load': ('torch.pth', plain_torch),
}


def peak_kib():
    """Of this process since it began (Linux). getrusage's would count its parent's."""
    status = Path('/proc/self/status').read_text()
    return int(re.search(r'VmHWM:\s+(\d+) kB', status)[1])


def measure(name, folder):
    """In this process: {'seconds', 'mib'}."""
    file, read = READERS[name]
    if file.endswith('.pth'):
        import torch  # noqa: F401
    jnp.zeros(1).block_until_ready()  # JAX is up
    before = peak_kib()
    start = time.perf_counter()
    jax.block_until_ready(jax.tree.leaves(read(folder / file)))
    seconds = time.perf_counter() - start
    return {'seconds': seconds, 'mib': (peak_kib() - before) / 1024}


def write_files(folder):
    model = create_model(MODEL)
    variables = jax.jit(model.init, static_argnames='train')(
        jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False
    )
    for file, layout in (
        ('torch.safetensors', 'torchvision'),
        ('torch.pth', 'torchvision'),
        ('ours.safetensors', 'ours'),
        ('ours.npz', 'ours'),
    ):
        save_weights(folder / file, variables, model, layout=layout)
    return (folder / 'torch.safetensors').stat().st_size / 2**20


def main() -> None:
    parser = harness.parser(__doc__, repetitions=5)
    parser.add_argument('--one', nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], Path(options.one[1]))))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in READERS}
    with tempfile.TemporaryDirectory() as folder:
        size = write_files(Path(folder))
        for _ in range(options.repetitions):
            for name, times in found.items():
                command = [sys.executable, __file__, '--one', name, folder]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                times.append(json.loads(out))
    print(f'{MODEL}, {size:.0f} MiB, {jax.devices()[0].device_kind}, jax {jax.__version__}')
    rows = []
    for name, times in found.items():
        seconds, mib = (statistics.median(t[k] for t in times) for k in ('seconds', 'mib'))
        rows.append([name, f'{seconds:.2f}', f'{mib:.0f}'])
    print(harness.table(['reader', 'seconds', 'peak memory, MiB'], rows))
    harness.write_json(options.json, {'file_mib': size, 'readers': found})


if __name__ == '__main__':
    main()
