"""Options of XLA's CPU compiler that the models need."""

import jax

CPU_OPTIONS = {
    # From jax 0.10.2 on, XLA's CPU backend hands some sums to a library that returns wrong numbers
    # or crashes: NaN logits from a finite bfloat16 network with 0.12.0.1; see also jax-ml/jax#39103
    # and #39257. An empty list hands it nothing.
    'xla_cpu_experimental_ynn_fusion_type': '',
    # XLA's CPU backend also removes optimization barriers. Without those around what
    # `jax.checkpoint` recomputes, it finds that it has computed the same before and keeps that:
    # remat without scan_blocks would take more memory instead of less. The one in front of a
    # convolution (convolution.py) would be lost too.
    'xla_disable_hlo_passes': 'cse_barrier_expander',
}


def compiler_options() -> dict[str, str]:
    """The `compiler_options` of `jax.jit` for JAX's default backend; empty unless it is the CPU."""
    return CPU_OPTIONS if jax.default_backend() == 'cpu' else {}
