"""Versions of this package, of Python, and of what a run's figures depend on."""

import platform
from importlib import metadata

PACKAGES = ('resnet-jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def installed() -> dict[str, str]:
    """Name -> version, of Python and of PACKAGES; nothing is imported."""
    return {
        'python': platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
    }
