"""How functions are compiled: the options that a platform needs."""

from collections.abc import Callable
from typing import Any

import jax

# From jax 0.10.2 on, XLA for CPU hands some sums to a library that returns wrong numbers or dies:
# NaN logits from a finite bfloat16 network with 0.12.0.1; see also jax-ml/jax#39103 and #39257.
# An empty list hands it nothing.
CPU_OPTIONS = {'xla_cpu_experimental_ynn_fusion_type': ''}


def compiler_options() -> dict[str, str]:
    """For the `compiler_options` of `jax.jit`, on the platform that JAX uses here."""
    return CPU_OPTIONS if jax.default_backend() == 'cpu' else {}


def jit(function: Callable[..., Any], **kwargs: Any) -> Any:
    """`jax.jit` with this platform's options."""
    return jax.jit(function, compiler_options=compiler_options(), **kwargs)
