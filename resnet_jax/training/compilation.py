"""How functions are compiled: the options of a platform, precision, and what is kept on disk."""

import contextlib
import errno
import hashlib
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from resnet_jax.errors import unknown_name
from resnet_jax.models.cpu.compiler import compiler_options

# Of products and convolutions in float32. JAX's other values are of products alone.
MATMUL_PRECISIONS = ('default', 'high', 'highest', 'bfloat16', 'tensorfloat32', 'float32')


def _silence_false_alarm() -> None:
    """Keeps jaxlib from printing 2 kB for each program that it takes from the disk on a CPU.

    Before jax 0.12 it finds that the processor lacks 'prefer-no-gather', which is no instruction
    but a preference of the compiler (jax-ml/jax#38445), and goes on. What is an error in earnest
    raises an exception too.
    """
    config: Any = jax.config
    kept = config.jax_compilation_cache_dir and config.jax_enable_compilation_cache
    if jax.__version_info__ >= (0, 12) or not kept or jax.default_backend() != 'cpu':
        return
    usual = os.environ.get('TF_CPP_MIN_LOG_LEVEL') == '1'  # what JAX sets
    if usual and config.jax_logging_level == 'NOTSET':
        # The first sets the level of jaxlib too, the second only that of Python's loggers.
        config.update('jax_logging_level', 'CRITICAL')
        config.update('jax_logging_level', 'NOTSET')


def jit(function: Callable[..., Any], **kwargs: Any) -> Any:
    """`jax.jit` with this platform's options."""
    _silence_false_alarm()
    return jax.jit(function, compiler_options=compiler_options(), **kwargs)


def check_matmul_precision(name: str | None) -> None:
    """Refuses what is not one of `MATMUL_PRECISIONS`, or None."""
    if name is not None and name not in MATMUL_PRECISIONS:
        raise unknown_name('train.matmul_precision', name, MATMUL_PRECISIONS)


def matmul_precision(name: str | None) -> contextlib.AbstractContextManager[Any]:
    """A context in which what is traced computes with this precision; None leaves JAX's setting."""
    return contextlib.nullcontext() if name is None else jax.default_matmul_precision(name)


def keep_compiled() -> None:
    """Lets this process keep what it compiles on disk, and take what others kept there.

    Only for commands, before anything is compiled; it does not start the backend. The folder is
    `cache_folder()`, unless JAX was told one (JAX_COMPILATION_CACHE_DIR).
    JAX_ENABLE_COMPILATION_CACHE=false switches it off. A folder that cannot be written costs a line
    on standard error.
    """
    config: Any = jax.config
    if not config.jax_enable_compilation_cache or config.jax_compilation_cache_dir is not None:
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


def cache_folder() -> Path:
    """Where compiled programs are kept: resnet_jax/compiled in the user's folder for caches.

    Each kind of processor has a folder of its own there, because a program for a CPU may hold
    instructions that another lacks, and home directories are shared between machines.
    """
    caches = os.environ.get('XDG_CACHE_HOME', '')
    root = Path(caches) if os.path.isabs(caches) else Path.home() / '.cache'
    return root / 'resnet_jax' / 'compiled' / f'{platform.machine()}-{_processor()}'


def _processor() -> str:
    """A hash of what this processor says of itself and of its instructions."""
    text = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        fields = ('vendor_id', 'model name', 'flags', 'CPU part', 'Features')
        text = '\n'.join(sorted({line for line in lines if line.startswith(fields)}))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
