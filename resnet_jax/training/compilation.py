"""How functions are compiled: the options of a platform, precision, and what is kept on disk."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax

from resnet_jax.models.errors import unknown_name

CPU_OPTIONS = {
    # From jax 0.10.2 on, XLA for CPU hands some sums to a library that returns wrong numbers or
    # dies: NaN logits from a finite bfloat16 network with 0.12.0.1; see also jax-ml/jax#39103 and
    # #39257. An empty list hands it nothing.
    'xla_cpu_experimental_ynn_fusion_type': '',
    # It also drops the barriers around what `jax.checkpoint` computes again, finds it computed
    # already, and keeps that: remat without scan_blocks would take more memory instead of less.
    'xla_disable_hlo_passes': 'cse_barrier_expander',
}
# Of products and convolutions in float32. JAX's other values are of products alone.
MATMUL_PRECISIONS = ('default', 'high', 'highest', 'bfloat16', 'tensorfloat32', 'float32')


def compiler_options() -> dict[str, str]:
    """For the `compiler_options` of `jax.jit`, on the platform that JAX uses here."""
    return CPU_OPTIONS if jax.default_backend() == 'cpu' else {}


def jit(function: Callable[..., Any], **kwargs: Any) -> Any:
    """`jax.jit` with this platform's options."""
    return jax.jit(function, compiler_options=compiler_options(), **kwargs)


def check_matmul_precision(name: str | None) -> None:
    """Refuses what is not one of `MATMUL_PRECISIONS`, or None."""
    if name is not None and name not in MATMUL_PRECISIONS:
        raise unknown_name('train.matmul_precision', name, MATMUL_PRECISIONS)


def matmul_precision(name: str | None) -> contextlib.AbstractContextManager[Any]:
    """A context in which what is traced computes with this precision; None leaves JAX's setting."""
    return contextlib.nullcontext() if name is None else jax.default_matmul_precision(name)
