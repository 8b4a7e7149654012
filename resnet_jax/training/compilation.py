"""Compilation: compiler options, precision, and the cache on disk."""

import contextlib
import errno
import hashlib
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import jax

from resnet_jax.errors import InputError, check_choice
from resnet_jax.models.cpu import compiler

DTYPES = ('float32', 'bfloat16')  # of the computation
# Of float32 products and convolutions. JAX's other values apply to products alone.
MATMUL_PRECISIONS = ('default', 'high', 'highest', 'bfloat16', 'tensorfloat32', 'float32')


def compiler_options(level: int | None = None) -> dict[str, str]:
    """The `compiler_options` of `jax.jit` for the platform that JAX uses here.

    Args:
      level: XLA's optimisation level, 0 to 3; None leaves XLA's own setting.
    """
    options = compiler.compiler_options()
    return options if level is None else {**options, 'xla_backend_optimization_level': str(level)}


def jit(function: Callable[..., Any], level: int | None = None, **kwargs: Any) -> Any:
    """`jax.jit` with `compiler_options(level)`."""
    return jax.jit(function, compiler_options=compiler_options(level), **kwargs)


def matmul_precision(name: str | None) -> contextlib.AbstractContextManager[Any]:
    """A context in which what is traced computes with this precision; None leaves JAX's setting."""
    return contextlib.nullcontext() if name is None else jax.default_matmul_precision(name)


def check_dtype(name: str, field: str) -> None:
    """Refuses a dtype of the computation that is not one of `DTYPES`.

    Args:
      name: the dtype.
      field: whose value it is, for the message.
    """
    if name == 'float16':
        raise InputError(
            f'{field} float16 is not supported: gradients vanish in its narrow range unless the '
            'loss is scaled; use bfloat16, which has the range of float32'
        )
    check_choice(field, name, DTYPES)


def keep_compiled() -> None:
    """Switches on the compilation cache on disk, which processes share.

    Only for commands, before anything is compiled; it does not start the backend. The folder is
    `cache_folder()`, unless JAX was told one (JAX_COMPILATION_CACHE_DIR).
    JAX_ENABLE_COMPILATION_CACHE=false switches it off. A folder that cannot be written costs a line
    on standard error.
    """
    config: Any = jax.config
    if not config.jax_enable_compilation_cache:
        return
    _silence_false_alarm(config)
    if config.jax_compilation_cache_dir is not None:
        return
    try:
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        print(f'compiled programs are not kept: {error}', file=sys.stderr)
        return
    config.update('jax_compilation_cache_dir', str(folder))


def _silence_false_alarm(config: Any) -> None:
    """Keeps jaxlib from printing 2 kB for each program that it reads from the disk on a CPU.

    Before jax 0.12 it reports that the processor lacks 'prefer-no-gather', a compiler preference
    and not an instruction (jax-ml/jax#38445), and runs the program. Real errors also raise.
    """
    # Asked without starting the backend, which would take the devices.
    platforms = os.environ.get('JAX_PLATFORMS')
    on_cpu = platforms == 'cpu' if platforms else not list(entry_points(group='jax_plugins'))
    usual = os.environ.get('TF_CPP_MIN_LOG_LEVEL') == '1'  # the value that JAX sets
    if on_cpu and usual and jax.__version_info__ < (0, 12) and config.jax_logging_level == 'NOTSET':
        # The first sets the level of jaxlib too, the second only that of Python's loggers.
        config.update('jax_logging_level', 'CRITICAL')
        config.update('jax_logging_level', 'NOTSET')


def cache_folder() -> Path:
    """The folder of the cache: resnet_jax/compiled in the user's folder for caches.

    Each kind of processor has a folder of its own there, because a program for a CPU may hold
    instructions that another lacks, and home directories are shared between machines.
    """
    caches = os.environ.get('XDG_CACHE_HOME', '')
    root = Path(caches) if os.path.isabs(caches) else Path.home() / '.cache'
    return root / 'resnet_jax' / 'compiled' / f'{platform.machine()}-{_processor()}'


def _processor() -> str:
    """A hash of the processor's model and instruction sets."""
    text = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        fields = ('vendor_id', 'model name', 'flags', 'CPU part', 'Features')
        text = '\n'.join(sorted({line for line in lines if line.startswith(fields)}))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
