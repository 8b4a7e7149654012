"""Prune: weights that become zero, and channels and blocks that are taken out of the network.

Sources: of weights by magnitude, Han et al., arXiv 1506.02626; N:M, Mishra et al., arXiv
2104.08378; of channels by the size of their filters, Li et al., arXiv 1608.08710; by what the loss
would lose, Molchanov et al., arXiv 1906.10771; of blocks, Veit et al., arXiv 1605.06431.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from resnet_jax.analysis import lesion
from resnet_jax.analysis.examples import Batch
from resnet_jax.analysis.parts import Chain
from resnet_jax.errors import InputError
from resnet_jax.models import ResNet
from resnet_jax.models.block import spell_out
from resnet_jax.models.stages import stack_blocks, unstack_blocks
from resnet_jax.training import metrics, pruning
from resnet_jax.training.compilation import jit

# Path of a convolution inside a branch -> a score for each of its output channels.
Scores = dict[str, Float[np.ndarray, ' channels']]
_Arrays = dict[tuple[str, ...], Any]


def prune_weights(
    variables: Mapping[str, Any], sparsity: float, pattern: str | None = None
) -> dict[str, Any]:
    """Sets the smallest weights to zero; the model stays the same.

    Args:
      variables: of any model.
      sparsity: the share of all convolutions' and fully connected layers' weights together.
      pattern: 'N:M' to keep the N largest of each M input channels instead, and ignore `sparsity`.

    Returns:
      The variables with zeros.
    """
    params = variables['params']
    if pattern is None:
        masks = pruning.magnitude_masks(params, sparsity)
    else:
        masks = pruning.n_of_m_masks(params, *pruning.read_pattern(pattern))
    return {**variables, 'params': pruning.masked(params, masks)}


@dataclasses.dataclass(frozen=True)
class Inner:
    """A convolution inside a branch, whose output channels concern its own block alone.

    Attributes:
      path: 'stage1/block2/conv1'.
      following: path of the convolution that takes its output.
      norms: paths of the norms between the two.
    """

    path: str
    following: str
    norms: tuple[str, ...]


def inner_convolutions(model: ResNet) -> list[Inner]:
    """The convolutions whose channels can be pruned without a change outside of their block.

    Raises:
      InputError: if its convolutions are grouped.
    """
    if not all(plan.design.is_plain for plan in model.plans()):
        raise InputError(
            'channels of grouped, depthwise and space-time convolutions are not pruned; prune '
            'weights or blocks'
        )
    before, branch, _ = spell_out(model.block, model.fixup)
    between: list[tuple[str, str, list[str]]] = []
    for op in (*before, *branch):
        if op.kind == 'conv':
            if between:
                between[-1] = (between[-1][0], op.name, between[-1][2])
            between.append((op.name, '', []))
        elif op.kind == 'norm' and between:
            between[-1][2].append(op.name)
    parts = [
        f'stage{i}/block{j}' for i, n in enumerate(model.stage_sizes, 1) for j in range(1, n + 1)
    ]
    return [
        Inner(f'{part}/{name}', f'{part}/{then}', tuple(f'{part}/{norm}' for norm in norms))
        for part in parts
        for name, then, norms in between[:-1]
    ]


def magnitude_scores(model: ResNet, variables: Mapping[str, Any]) -> Scores:
    """The size of each inner channel's filter, as a folded norm would leave it.

    A norm behind a convolution makes the size of its weights arbitrary, so the root of the sum of
    their squares is multiplied by what the norm multiplies with. Each convolution's scores have
    mean 1, so that those of layers of other sizes can be compared.

    Args:
      model: with unscanned blocks.
      variables: of the model.
    """
    found = {}
    for inner in inner_convolutions(model):
        scores = filter_sizes(variables, inner.path, inner.norms, model.bn_epsilon)
        found[inner.path] = scores / max(scores.mean(), 1e-30)
    return found


def filter_sizes(
    variables: Mapping[str, Any], layer: str, norms: Sequence[str], epsilon: float
) -> Float[np.ndarray, ' channels']:
    """The size of each filter of a convolution, times what the norms behind it multiply with."""
    flat = _flat(variables)
    kernel = np.asarray(flat[_kernel('params', layer, flat)], np.float64)
    sizes = np.sqrt((kernel**2).sum(axis=tuple(range(kernel.ndim - 1))))
    for norm in norms:
        path = tuple(norm.split('/'))
        scale = np.abs(np.asarray(flat.get(('params', *path, 'scale'), 1.0), np.float64))
        var = np.asarray(flat.get(('batch_stats', *path, 'var'), 1.0), np.float64)
        sizes = sizes * scale / np.sqrt(var + epsilon)
    return sizes


def taylor_scores(model: ResNet, variables: Mapping[str, Any], batches: Iterable[Batch]) -> Scores:
    """How much the loss would change without each inner channel, to first order, squared.

    The derivative of the loss by a factor of a channel is the sum of weight times gradient over the
    weights of the next convolution that take the channel (arXiv 1906.10771, equation 9, with such a
    gate). Its square is averaged over batches, in evaluation mode.

    Args:
      model: with unscanned blocks.
      variables: of the model.
      batches: of training examples.
    """
    following = {inner.path: [inner.following] for inner in inner_convolutions(model)}
    return taylor_of(model, variables, batches, following)


def taylor_of(
    model: ResNet,
    variables: Mapping[str, Any],
    batches: Iterable[Batch],
    consumers: Mapping[str, Sequence[str]],
) -> Scores:
    """`taylor_scores` of channels that some layers take, by the paths of these layers."""

    @jit
    def gradients(params: Any, images: Any, labels: Any, mask: Any) -> Any:
        def loss(params: Any) -> Any:
            logits: Any = model.apply({**variables, 'params': params}, images, train=False)
            each = metrics.cross_entropy(logits, labels)
            return jnp.mean(each, where=mask)

        return jax.grad(loss)(params)

    totals: Scores = {}
    flat, count = _flat(variables), 0
    for batch in batches:
        found = gradients(variables['params'], batch.images, batch.labels, batch.mask)
        grads, count = _flat({'params': found}), count + 1
        for name, layers in consumers.items():
            gate: Any = 0.0
            for layer in layers:
                path = _kernel('params', layer, flat, first=True)
                product = np.asarray(flat[path], np.float64) * np.asarray(grads[path], np.float64)
                gate = gate + product.sum(axis=(*range(product.ndim - 2), product.ndim - 1))
            totals[name] = totals.get(name, 0.0) + gate**2
    if not count:
        raise InputError('no examples to score channels on')
    return {path: total / count for path, total in totals.items()}


def choose_channels(scores: Scores, fraction: float, multiple: int = 1) -> dict[str, np.ndarray]:
    """The channels to keep, by the scores of all convolutions together.

    Args:
      scores: of each convolution's channels.
      fraction: the share of all channels to take out, in [0, 1).
      multiple: each convolution keeps a multiple of this many, at least one, rounded to the
        nearest; or all that it has, if those are fewer.

    Returns:
      Ascending numbers of channels for each convolution.
    """
    everything = np.sort(np.concatenate(list(scores.values())))
    limit = everything[min(round(fraction * len(everything)), len(everything) - 1)]
    kept = {}
    for path, each in scores.items():
        count = int((each >= limit).sum())
        count = min(max(round(count / multiple), 1) * multiple, len(each))
        order = np.argsort(-each, kind='stable')
        kept[path] = np.sort(order[:count])
    return kept


def keep_channels(
    model: ResNet, variables: Mapping[str, Any], kept: Mapping[str, np.ndarray]
) -> tuple[ResNet, dict[str, Any]]:
    """Takes inner channels out of a network.

    Args:
      model: any that `inner_convolutions` takes.
      variables: of the model.
      kept: path of an inner convolution -> numbers of its channels that stay.

    Returns:
      The smaller model, its `inner_channels` set, and its variables.
    """
    flat = _flat(unstack_blocks(variables) if model.scan_blocks else variables)
    for inner in inner_convolutions(model):
        own = _kernel('params', inner.path, flat)
        numbers = np.asarray(kept.get(inner.path, np.arange(flat[own].shape[-1])))
        flat[own] = flat[own][..., numbers]
        bias = (*own[:-1], 'bias')
        if bias in flat:
            flat[bias] = flat[bias][numbers]
        then = _kernel('params', inner.following, flat, first=True)
        flat[then] = flat[then][..., numbers, :]
        for norm in inner.norms:
            for path in [p for p in flat if '/'.join(p[1:-1]) == norm]:
                flat[path] = flat[path][numbers]
    smaller = model.clone(inner_channels=inner_entries(model, flat), scan_blocks=False)
    return smaller, dict(flax.traverse_util.unflatten_dict(flat))


def inner_entries(model: ResNet, flat: _Arrays) -> tuple[str, ...]:
    """Entries of `inner_channels`, of the convolutions that differ from the design.

    Args:
      model: of these stages.
      flat: all arrays by their path.
    """
    found = []
    for inner in inner_convolutions(model):
        plan = model.plans()[int(inner.path.partition('/')[0].removeprefix('stage')) - 1]
        channels = flat[_kernel('params', inner.path, flat)].shape[-1]
        # Of a plain design the block's input does not matter.
        if channels != plan.design.inner_channels(plan.width, plan.channels):
            found.append(f'{inner.path}={channels}')
    return tuple(found)


def _flat(variables: Mapping[str, Any]) -> _Arrays:
    return dict(flax.traverse_util.flatten_dict(dict(variables)))


def _kernel(kind: str, layer: str, flat: _Arrays, first: bool = False) -> tuple[str, ...]:
    """Path of a convolution's kernel; of one of low rank, that with its outputs, or inputs."""
    path = (kind, *layer.split('/'))
    plain = (*path, 'kernel')
    return plain if plain in flat else (*path, 'down' if first else 'up', 'kernel')


def removable_blocks(model: ResNet, chain: Chain) -> tuple[str, ...]:
    """The blocks whose removal leaves a network of the same design.

    They have an identity shortcut, and are not the first of their stage, unless it is equal to the
    second and nothing depends on being the network's first.
    """
    before, _, _ = spell_out(model.block, model.fixup)
    found = []
    for part in chain.blocks:
        stage, _, number = part.name.partition('/block')
        several = model.stage_sizes[int(stage.removeprefix('stage')) - 1] > 1
        same = number != '1' or not before
        plain = model.block.shortcut not in ('projection_all', 'conv1x1', 'none')
        if part.keeps_shape and several and same and plain:
            found.append(part.name)
    return tuple(found)


def choose_blocks(
    model: ResNet,
    chain: Chain,
    variables: Mapping[str, Any],
    batches: Iterable[Batch],
    count: int,
    say: Callable[[str, float], None] = lambda name, error: None,
) -> list[str]:
    """The blocks to remove: one after another, each time that without which the error is lowest.

    Args:
      model: the model.
      chain: of the model.
      variables: of the model.
      batches: of examples; iterated once for each block.
      count: number of blocks to remove.
      say: called with each block that is chosen, and the error without it.

    Raises:
      InputError: if fewer than `count` blocks can be removed.
    """
    chosen: list[str] = []
    for _ in range(count):
        left = _still_removable(model, chain, chosen)
        if not left:
            raise InputError(
                f'{len(chosen)} blocks can be removed at most, and {count} are asked for; lower it'
            )
        lesions = [lesion.Lesion(removed=(*chosen, name)) for name in left]
        errors = lesion.errors(chain, variables, batches, lesions)
        best = int(np.argmin(errors))
        chosen.append(left[best])
        say(left[best], errors[best])
    return chosen


def _still_removable(model: ResNet, chain: Chain, chosen: Sequence[str]) -> list[str]:
    """Those that leave every stage a block."""
    left = {f'stage{i}': n for i, n in enumerate(model.stage_sizes, 1)}
    for name in chosen:
        left[name.partition('/')[0]] -= 1
    candidates = removable_blocks(model, chain)
    return [n for n in candidates if n not in chosen and left[n.partition('/')[0]] > 1]


def remove_blocks(
    model: ResNet, variables: Mapping[str, Any], names: Sequence[str]
) -> tuple[ResNet, dict[str, Any]]:
    """Takes blocks out of a network; those behind them in their stage move up.

    Args:
      model: any.
      variables: of the model.
      names: of blocks, out of `removable_blocks`.

    Returns:
      The model with other `stage_sizes`, and its variables.

    Raises:
      InputError: if its blocks differ, which would need other entries.
    """
    if model.inner_channels or model.ranks or model.layer_bits:
        raise InputError(
            'blocks are removed from networks of equal blocks; prune blocks first, then channels'
        )
    plain = unstack_blocks(variables) if model.scan_blocks else dict(variables)
    moved, sizes = {}, []
    for i, size in enumerate(model.stage_sizes, 1):
        kept = [f'block{j}' for j in range(1, size + 1) if f'stage{i}/block{j}' not in names]
        moved[f'stage{i}'] = {old: f'block{k}' for k, old in enumerate(kept, 1)}
        sizes.append(len(kept))
    if min(sizes) < 1:
        raise InputError('every stage keeps a block; remove fewer')
    found = {
        kind: {
            part: {moved[part][old]: x for old, x in held.items() if old in moved[part]}
            if part in moved
            else held
            for part, held in tree.items()
        }
        for kind, tree in plain.items()
    }
    smaller = model.clone(stage_sizes=tuple(sizes))
    return smaller, stack_blocks(found) if model.scan_blocks else found
