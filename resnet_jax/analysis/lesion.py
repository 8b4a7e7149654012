"""Lesion studies: the error of a network with parts removed or swapped.

Source: Veit, Wilber and Belongie 2016, "Residual networks behave like ensembles of relatively
shallow networks", arXiv 1605.06431, sections 4.1 to 4.3.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from resnet_jax.analysis.examples import Batch
from resnet_jax.analysis.parts import Chain, Part
from resnet_jax.models.block import ResidualBlock
from resnet_jax.statistics import estimate
from resnet_jax.training.compilation import jit

WHOLE = ''  # of a block: what is removed is the block and not one of its layers


@dataclasses.dataclass(frozen=True)
class Lesion:
    """A damage to a network.

    Attributes:
      removed: names of blocks ('stage2/block3'), or of layers of a plain net's blocks
        ('stage2/block3/conv1').
      swapped: pairs of blocks that exchange their weights.
    """

    removed: tuple[str, ...] = ()
    swapped: tuple[tuple[str, str], ...] = ()


def removable(chain: Chain) -> tuple[str, ...]:
    """What can be removed, one by one: the blocks, and the layers of a plain net.

    A residual block can be removed wherever it stands: its output is then what follows the
    addition, applied to the shortcut alone. A plain net's block, or layer (a convolution with its
    norm), can be removed where it keeps the shape: its output is then its input.
    """
    found = []
    for block in chain.blocks:
        if block.has_shortcut or block.keeps_shape:
            found.append(block.name)
        if not block.has_shortcut:
            found += [f'{block.name}/{layer}' for layer in _removable_layers(block)]
    return tuple(found)


def swappable(chain: Chain) -> tuple[tuple[str, ...], ...]:
    """The groups of blocks whose weights have equal shapes, and that can be swapped."""
    groups: dict[int, list[str]] = {}
    for block in chain.blocks:
        if block.keeps_shape:
            key = next(i for i, b in enumerate(chain.blocks) if _alike(b, block))
            groups.setdefault(key, []).append(block.name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _alike(a: Part, b: Part) -> bool:
    """Whether two blocks have weights of the same shapes, and the same strides and dilations."""
    assert isinstance(a.module, ResidualBlock) and isinstance(b.module, ResidualBlock)
    same = a.inputs == b.inputs and a.outputs == b.outputs
    if not same or (a.module.dilation, a.module.stride) != (b.module.dilation, b.module.stride):
        return False
    # Pruned and factored blocks differ inside.
    return a.module == b.module or _weight_shapes(a) == _weight_shapes(b)


def _weight_shapes(block: Part) -> Any:
    key, x = jax.random.key(0), jax.ShapeDtypeStruct((1, *block.inputs), jnp.float32)
    found = jax.eval_shape(lambda x: block.module.init(key, x, train=False), x)
    return jax.tree.map(lambda leaf: leaf.shape, found)


def random_removals(chain: Chain, count: int, draws: int, rng: np.random.Generator) -> list[Lesion]:
    """Lesions that remove `count` different blocks, out of those that keep the shape.

    The blocks that change the resolution or the width are left alone: veit2016 finds that they
    matter more than all others, and few draws would hit them.
    """
    names = [block.name for block in chain.blocks if block.keeps_shape]
    chosen = [sorted(rng.choice(len(names), count, replace=False)) for _ in range(draws)]
    return [Lesion(removed=tuple(names[i] for i in each)) for each in chosen]


def random_swaps(chain: Chain, count: int, draws: int, rng: np.random.Generator) -> list[Lesion]:
    """Lesions that swap `count` pairs of blocks of equal shapes, no block twice."""
    found = []
    for _ in range(draws):
        pairs = []
        for group in swappable(chain):
            order = rng.permutation(len(group))
            pairs += [(group[a], group[b]) for a, b in zip(order[::2], order[1::2], strict=False)]
        chosen = rng.choice(len(pairs), count, replace=False)
        found.append(Lesion(swapped=tuple(pairs[i] for i in chosen)))
    return found


def most_removals(chain: Chain) -> int:
    """The number of blocks that `random_removals` can remove at most."""
    return sum(block.keeps_shape for block in chain.blocks)


def most_swaps(chain: Chain) -> int:
    """The number of pairs that `random_swaps` can swap at most."""
    return sum(len(group) // 2 for group in swappable(chain))


def errors(
    chain: Chain,
    variables: Mapping[str, Any],
    batches: Iterable[Batch],
    lesions: Sequence[Lesion],
) -> list[float]:
    """The error of a network under each lesion, as a fraction of the examples.

    Of each batch, the inputs of all blocks are kept, and each lesion runs what follows its first
    change. Memory does not grow with the number of examples.

    Args:
      chain: of the model.
      variables: `params` and `batch_stats`.
      batches: the examples.
      lesions: `Lesion()` is the undamaged network.

    Raises:
      InputError: for a block that the network does not have.
    """
    split = chain.split(variables)
    plans = [_plan(chain, lesion) for lesion in lesions]
    wrong, n = np.zeros(len(lesions), np.int64), 0
    for batch in batches:
        inputs = _inputs(chain, split, batch.images)
        # Without waiting for a result, so that the device always has work.
        counts = [
            _mistakes(_logits(chain, split, inputs, plan), batch.labels, batch.mask)
            for plan in plans
        ]
        wrong += np.asarray(jax.device_get(counts), np.int64)
        n += int(batch.mask.sum())
    return [float(count) / n for count in wrong]


def logits(
    chain: Chain, variables: Mapping[str, Any], images: Float[Array, 'n *space c'], lesion: Lesion
) -> Float[Array, 'n classes']:
    """The logits of a damaged network, for normalised images."""
    split, plan = chain.split(variables), _plan(chain, lesion)
    return _logits(chain, split, _inputs(chain, split, images), plan)


def _inputs(chain: Chain, split: Mapping[str, Any], images: Array) -> list[Array]:
    """The inputs of all blocks of the undamaged network, and the last block's output."""
    found = [chain.stem(split[chain.stem.name], images)]
    for block in chain.blocks:
        found.append(block(split[block.name], found[-1]))
    return found


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A lesion, block by block: whose weights it takes, what of it is removed, the first change."""

    weights: tuple[str, ...]
    removed: tuple[str | None, ...]
    first: int


def _plan(chain: Chain, lesion: Lesion) -> _Plan:
    weights = list(chain.names)
    removed: list[str | None] = [None] * len(chain.names)
    for a, b in lesion.swapped:
        i, j = chain.index(a), chain.index(b)
        weights[i], weights[j] = weights[j], weights[i]
    for name in lesion.removed:
        stage, block, *layer = name.split('/')
        removed[chain.index(f'{stage}/{block}')] = '/'.join(layer) or WHOLE
    changed = [weights[i] != name or removed[i] is not None for i, name in enumerate(chain.names)]
    first = changed.index(True) if any(changed) else len(chain.names)
    return _Plan(tuple(weights), tuple(removed), first)


def _logits(chain: Chain, split: Mapping[str, Any], inputs: Sequence[Array], plan: _Plan) -> Array:
    x = inputs[plan.first]
    for i in range(plan.first, len(chain.blocks)):
        block, weights, removed = chain.blocks[i], plan.weights[i], plan.removed[i]
        if removed is None:
            x = block(split[weights], x)
        elif removed or block.has_shortcut:
            x = _without(block.module, removed)(split[weights], x)
        # else the block of a plain net, whose output is its input
    return chain.tail(split[chain.tail.name], x)


@jit
def _mistakes(logits: Array, labels: Array, mask: Array) -> Array:
    return jnp.sum((jnp.argmax(logits, axis=-1) != labels) & mask)


def without(module: nn.Module, layer: str, variables: Mapping[str, Any], x: Array) -> Array:
    """A block's output without its branch, or without one layer of it: not jitted.

    Args:
      module: of the block.
      layer: such as 'conv1', which goes with its norm; '' for the whole branch.
      variables: of the block.
      x: its input.
    """
    gone = (layer, layer.replace('conv', 'norm'))

    def intercept(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if not layer and context.method_name == 'add':
            return args[0]  # the shortcut
        if layer and context.method_name == '__call__' and context.module.name in gone:
            return args[0]  # the input
        return run(*args, **kwargs)

    with nn.intercept_methods(intercept):
        found: Any = module.apply(variables, x, train=False)
    return found


@functools.lru_cache(maxsize=256)
def _without(module: nn.Module, layer: str) -> Any:
    return jit(functools.partial(without, module, layer))


def _removable_layers(block: Part) -> list[str]:
    """The convolutions of a plain block whose output has the shape of their input."""
    found: list[str] = []
    key, x = jax.random.key(0), jax.ShapeDtypeStruct((1, *block.inputs), jnp.float32)

    def note(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y = run(*args, **kwargs)
        if isinstance(context.module, nn.Conv) and y.shape == args[0].shape:
            found.append(str(context.module.name))
        return y

    with nn.intercept_methods(note):
        jax.eval_shape(lambda x: block.module.init_with_output(key, x, train=False)[0], x)
    return found


def study(
    chain: Chain,
    variables: Mapping[str, Any],
    batches: Iterable[Batch],
    names: Sequence[str],
    removed: Sequence[int],
    swapped: Sequence[int],
    *,
    draws: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """A whole lesion study, in one pass over the examples.

    Args:
      chain: of the model.
      variables: `params` and `batch_stats`.
      batches: the examples.
      names: to be removed one by one, out of `removable(chain)`.
      removed: how many blocks to remove together, at random.
      swapped: how many pairs of blocks to swap, at random.
      draws: choices for each of these numbers.
      seed: of the choices.

    Returns:
      'error' of the undamaged network; 'removed': name -> error; 'random' and 'swapped': number ->
      {'mean', 'low', 'high', 'errors'}, with the 95 % interval of the mean over the draws, of
      'swapped' also 'kendall_tau', the mean rank correlation of the order with the original one.
      Errors are fractions of 1.
    """
    rng = np.random.default_rng(seed)
    singles = [Lesion(removed=(name,)) for name in names]
    random = {n: random_removals(chain, n, draws, rng) for n in removed}
    swaps = {n: random_swaps(chain, n, draws, rng) for n in swapped}
    several = [*random.values(), *swaps.values()]
    lesions = [Lesion(), *singles, *(each for group in several for each in group)]
    found = iter(errors(chain, variables, batches, lesions))
    result: dict[str, Any] = {'error': next(found)}
    result['removed'] = {name: next(found) for name in names}
    result['random'] = {str(n): _summary([next(found) for _ in random[n]]) for n in random}
    result['swapped'] = {
        str(n): {
            **_summary([next(found) for _ in swaps[n]]),
            'kendall_tau': float(np.mean([_kendall_tau(chain, each) for each in swaps[n]])),
        }
        for n in swaps
    }
    return result


def _summary(found: list[float]) -> dict[str, Any]:
    mean = estimate(found, (0.0, 1.0))
    return {'mean': mean.mean, 'low': mean.low, 'high': mean.high, 'errors': found}


def _kendall_tau(chain: Chain, lesion: Lesion) -> float:
    from scipy import stats

    order = [chain.index(name) for name in _plan(chain, lesion).weights]
    return float(stats.kendalltau(range(len(order)), order).statistic)
