"""A process that measures what a device can do at most; gpu.py asks it by `harness.ask`."""

from typing import Any

import harness

ROOFLINE = __file__


def measure(question: dict[str, Any]) -> dict[str, Any]:
    """Rates of the device, and counts of models.

    Args:
      question: 'products', rows of the square matrices; 'copied', bytes; 'models', (name, image
        size) pairs.
    """
    import jax
    import jax.numpy as jnp

    from resnet_jax import create_model
    from resnet_jax.models.counting import count

    n = question['products']
    rates = {}
    for name, dtype, precision in (
        ('bfloat16', jnp.bfloat16, None),
        ('float32', jnp.float32, None),
        ('float32, highest precision', jnp.float32, 'highest'),
    ):
        a, b = (jax.random.normal(jax.random.key(i), (n, n)).astype(dtype) for i in range(2))
        product = jax.jit(lambda a, b, precision=precision: jnp.matmul(a, b, precision=precision))
        rates[name] = 2 * n**3 / fastest(product, a, b)
    x = jnp.ones(question['copied'] // 4, jnp.float32)
    copied = 2 * x.nbytes / fastest(jax.jit(lambda x: x + 1), x)  # read once, written once
    models = {
        f'{name} {size}': count(create_model(name), (size, size, 3)).multiply_adds
        for name, size in question['models']
    }
    return {
        'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
        'product_flops_per_second': rates,
        'copied_bytes_per_second': copied,
        'multiply_adds': models,
    }


def fastest(function: Any, *arguments: Any, calls: int = 10, repetitions: int = 5) -> float:
    """Seconds of a call: the best repetition, because this is what the device can do at most."""
    import jax

    def run() -> None:
        for _ in range(calls):
            result = function(*arguments)
        jax.block_until_ready(result)

    run()
    return min(harness.interleaved({'': run}, repetitions)['']) / calls


if __name__ == '__main__':
    harness.serve(measure)
