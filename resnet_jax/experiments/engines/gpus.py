"""The GPUs of this machine, counted without starting JAX, which would take them."""

import importlib.metadata
import itertools
import os
import re
import subprocess


def visible_gpus() -> list[str]:
    """CUDA's names of the GPUs that JAX would use, as CUDA_VISIBLE_DEVICES takes them."""
    plugins = importlib.metadata.entry_points(group='jax_plugins')
    platforms = {name for name in os.environ.get('JAX_PLATFORMS', '').split(',') if name}
    if not any('cuda' in plugin.name for plugin in plugins):
        return []
    if platforms and not platforms & {'cuda', 'gpu'}:
        return []
    told = os.environ.get('CUDA_VISIBLE_DEVICES')
    if told is not None:
        names = (name.strip() for name in told.split(','))
        return list(itertools.takewhile(lambda name: name not in ('', '-1'), names))
    try:
        found = subprocess.run(
            ['nvidia-smi', '-L'], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    if 'UUID: MIG-' in found:
        return []  # CUDA shows only one part of a divided GPU, unless it is told which
    return re.findall(r'^GPU \d+: .*\(UUID: (GPU-[^)]+)\)', found, re.MULTILINE)
