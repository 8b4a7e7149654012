"""Memory of a training step: as compiled, and as counted by the device."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from resnet_jax import models
from resnet_jax.errors import RunError
from resnet_jax.training import step
from resnet_jax.training.compilation import jit
from resnet_jax.training.tasks import TASKS


def compiled_bytes(compiled: Any) -> int | None:
    """Peak memory of a compiled function on a device, by the compiler's account.

    Args:
      compiled: what `jax.jit(f).lower(...).compile()` gives.

    Returns:
      Bytes of arguments, results and temporaries, those that share memory counted once; None where
      the backend does not say.
    """
    found = compiled.memory_analysis()
    if found is None:
        return None
    return int(
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        + found.temp_size_in_bytes
        - found.alias_size_in_bytes
    )


def jitted_bytes(jitted: Any, *arguments: Any) -> int | None:
    """`compiled_bytes` of a jitted function, which is not compiled again after a call.

    Args:
      jitted: what `jit` gives.
      *arguments: arrays, or their shapes, as in that call; donated ones are not given away.

    Returns:
      None too for a function that only calls a jitted one.
    """
    if not hasattr(jitted, 'lower'):
        return None
    return compiled_bytes(jitted.lower(*arguments).compile())


def device_peak_bytes() -> int | None:
    """The most that any local device has held since the process began; None if it does not count.

    A GPU and a TPU count, a CPU does not. What JAX reserves beforehand is left out, what other
    processes hold too.
    """
    found = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [stats['peak_bytes_in_use'] for stats in found if 'peak_bytes_in_use' in stats]
    return max(peaks, default=None)


def process_peak_bytes() -> int | None:
    """The most memory that this process has held, on Linux; None elsewhere."""
    try:
        status = Path('/proc/self/status').read_text()
    except OSError:
        return None
    found = re.search(r'VmHWM:\s+(\d+) kB', status)
    return None if found is None else int(found[1]) * 1024


def train_step_bytes(model: models.ResNet, image_shape: tuple[int, ...], batch_size: int) -> int:
    """Peak memory of one training step, from compiling it for this platform; nothing is run.

    The step is `step.make_train_step` with momentum as the optimiser's only state, and what it
    holds: parameters, momentum, statistics, the batch as uint8, and everything in between.

    Args:
      model: the module.
      image_shape: [H, W, C], [L, C] of a series, or [L] of a text.
      batch_size: examples.

    Raises:
      RunError: if this platform does not say.
    """
    optimizer = optax.sgd(0.1, momentum=0.9)

    def prepare(images: jax.Array, targets: Any, step: Any, positions: Any) -> tuple[Any, Any]:
        if jnp.issubdtype(model.input_dtype, jnp.integer):
            return images.astype(model.input_dtype), targets
        return images.astype(jnp.float32) / 255, targets

    train_step = step.make_train_step(
        model,
        optimizer,
        prepare,
        TASKS['classification'],
        seed=0,
        loss=optax.softmax_cross_entropy_with_integer_labels,
    )
    state = jax.eval_shape(lambda: step.create_state(model, optimizer, image_shape, 0, False))
    batch = {
        'image': jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.uint8),
        'label': jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    }
    found = jitted_bytes(jit(train_step, donate_argnums=0), state, batch)
    if found is None:
        raise RunError(f'{jax.default_backend()} does not say how much memory a program takes')
    return found
