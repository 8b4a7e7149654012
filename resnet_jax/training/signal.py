"""The signal in a network while it trains: what `log.signal_every` adds to metrics.jsonl."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from resnet_jax.models import ResNet
from resnet_jax.models.block import ResidualBlock
from resnet_jax.models.norms import evaluated
from resnet_jax.models.stages import unstack_blocks
from resnet_jax.training.groups import EVERYTHING, Groups
from resnet_jax.training.tasks import Loss

# What is measured of each block: the deviation of its branch over that of its shortcut, the
# deviation of its output, and the norm of an example's gradient at its input.
KINDS = ('ratio', 'output_std', 'gradient')
Signal = Callable[[Mapping[str, Any], Array, PyTree[Array]], dict[str, Array]]


def blocks(model: ResNet) -> list[str]:
    """The names of a network's blocks, in order: 'stage1/block1', ..."""
    sizes = enumerate(model.stage_sizes, 1)
    return [f'stage{i}/block{j}' for i, count in sizes for j in range(1, count + 1)]


def make_signal(model: ResNet, loss: Loss, groups: Groups = EVERYTHING) -> Signal:
    """What measures the signal of a network in training mode, but that nothing is dropped out.

    Args:
      model: the module. Scanned blocks are run one by one, and nothing is recomputed.
      loss: of the training.
      groups: which norms stay as they are.

    Returns:
      A pure function of (variables, images, targets), not jitted. 'ratio/stage1/block1' (not of
      blocks without a shortcut) is the ratio of standard deviations, over examples, positions and
      channels, of what the block adds; 'output_std/...' the standard deviation of the block's
      output; 'gradient/...' the root mean square over examples of the norm of the gradient of the
      batch's summed loss with respect to the block's input.
    """
    unrolled = model.unrolled()

    def signal(variables: Mapping[str, Any], images: Array, targets: Any) -> dict[str, Array]:
        def run(probes: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
            found: dict[str, Array] = {}
            still = evaluated(groups.still) if groups.still else contextlib.nullcontext()
            with still, nn.intercept_methods(_measuring(probes, found)):
                outputs: Any
                outputs, _ = unrolled.apply(
                    unstack_blocks(variables), images, train=True, mutable=['batch_stats']
                )
            return jnp.sum(loss(outputs, targets)), found

        probes = {name: jnp.zeros(()) for name in blocks(model)}
        squares, found = jax.grad(run, has_aux=True)(probes)
        norms = {f'gradient/{k}': jnp.sqrt(x / images.shape[0]) for k, x in squares.items()}
        return found | norms

    return signal


def in_order(model: ResNet, found: Mapping[str, Array]) -> dict[str, float]:
    """What the jitted function gave, on the host, by kind and in the order of the blocks."""
    held = jax.device_get(dict(found))
    keys = [f'{kind}/{block}' for kind in KINDS for block in blocks(model)]
    return {key: float(held[key]) for key in keys if key in held}


def _measuring(probes: Mapping[str, Array], found: dict[str, Array]) -> Callable[..., Any]:
    """An interceptor that notes in `found` what passes, and switches off what drops out."""

    def intercept(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module, method = context.module, context.method_name
        if isinstance(module, nn.Dropout):
            return args[0]
        if not isinstance(module, ResidualBlock):
            return run(*args, **kwargs)
        name = '/'.join(module.path)
        if method == 'add':
            shortcut, branch = args
            found[f'ratio/{name}'] = _std(branch) / _std(shortcut)
        if method != '__call__':
            return run(*args, **kwargs)
        x, train, *_ = args  # the rest is the rate of stochastic depth
        y = run(_noted(x, probes[name]), train)
        found[f'output_std/{name}'] = _std(y)
        return y

    return intercept


def _std(x: Float[Array, '...']) -> Float[Array, '']:
    return jnp.std(x.astype(jnp.float32))


@jax.custom_vjp
def _noted(x: Array, probe: Array) -> Array:
    """Gives x itself. The gradient of `probe` is the squared norm of that of x."""
    del probe
    return x


def _noted_forward(x: Array, probe: Array) -> tuple[Array, None]:
    del probe
    return x, None


def _noted_backward(_: None, gradient: Array) -> tuple[Array, Array]:
    return gradient, jnp.sum(jnp.square(gradient.astype(jnp.float32)))


_noted.defvjp(_noted_forward, _noted_backward)
