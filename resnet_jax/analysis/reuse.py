"""How much each block of a residual network adds to what it gets.

The branch of a block is F(x), the path around it the shortcut, of which x is the output: what is
added to F(x), behind a projection, gate or scale where the block has one. A ratio ||F(x)|| / ||x||
well below 1 says that the block refines the features that it gets, and most of them are reused
(compare Jastrzebski et al. 2018, arXiv 1710.04773, section 4.2).
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from resnet_jax.analysis.examples import Batch
from resnet_jax.analysis.parts import Chain
from resnet_jax.models.block import ResidualBlock
from resnet_jax.training.compilation import jit


def branch_ratios(
    chain: Chain, variables: Mapping[str, Any], batches: Iterable[Batch]
) -> dict[str, float]:
    """The mean of ||F(x)|| / ||x|| over the examples, for each block that has a shortcut.

    Both norms are those of a whole feature map, right before the addition. Memory does not grow
    with the number of examples.

    Args:
      chain: of the model.
      variables: `params` and `batch_stats`.
      batches: the examples.

    Returns:
      Name of a block -> ratio; NaN where the shortcut is zero for every example. Examples for which
      it is zero do not count. A plain net gives an empty dict.
    """
    split = chain.split(variables)
    with_shortcut = [block.name for block in chain.blocks if block.has_shortcut]
    if not with_shortcut:
        return {}
    sums = dict.fromkeys(with_shortcut, 0.0)
    counts = dict.fromkeys(with_shortcut, 0)
    for batch in batches:
        x = chain.stem(split[chain.stem.name], batch.images)
        for block in chain.blocks:
            if not block.has_shortcut:
                x = block(split[block.name], x)
                continue
            x, branch, shortcut = _compiled(block.module)(split[block.name], x)
            norms = [np.asarray(each, np.float64)[batch.mask] for each in (branch, shortcut)]
            counted = norms[1] > 0
            sums[block.name] += float(np.sum(norms[0][counted] / norms[1][counted]))
            counts[block.name] += int(counted.sum())
    return {name: sums[name] / counts[name] if counts[name] else np.nan for name in with_shortcut}


def output_and_norms(
    module: nn.Module, variables: Mapping[str, Any], x: Float[Array, 'n ...']
) -> tuple[Array, Float[Array, ' n'], Float[Array, ' n']]:
    """A block's output, and the norms of its branch and its shortcut for each example: not jitted.

    Args:
      module: the block, with a shortcut.
      variables: of the block.
      x: its input.
    """
    norms: list[Array] = []

    def intercept(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name == 'add' and isinstance(context.module, ResidualBlock):
            norms[:] = [_norm(args[1]), _norm(args[0])]  # args: shortcut, branch
        return run(*args, **kwargs)

    with nn.intercept_methods(intercept):
        found: Any = module.apply(variables, x, train=False)
    return found, norms[0], norms[1]


def _norm(x: Array) -> Float[Array, ' n']:
    return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=tuple(range(1, x.ndim))))


@functools.lru_cache(maxsize=256)
def _compiled(module: nn.Module) -> Any:
    return jit(functools.partial(output_and_norms, module))
