"""Prune channels of the residual stream: those that the blocks of a stage pass on to each other.

All blocks of a stage add to the same channels, so that a channel leaves all of them at once, and
what comes behind them takes fewer. Inner channels (prune.py) are easier to spare; those of the
stream save more of the multiply-adds. Source: Li et al., arXiv 1608.08710, section 3.3.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from resnet_jax.analysis.examples import Batch
from resnet_jax.compress.prune import Scores, filter_sizes, inner_entries, taylor_of
from resnet_jax.errors import InputError
from resnet_jax.models import ResNet
from resnet_jax.models.block import spell_out
from resnet_jax.models.stages import unstack_blocks

Kept = dict[str, np.ndarray]


@dataclasses.dataclass
class Stream:
    """Channels that several layers share.

    Attributes:
      channels: how many there are.
      producers: path of each convolution that makes them -> paths of the norms behind it.
      consumers: paths of the convolutions, and the head, that take them.
      norms: paths of all norms of these channels.
      before: the stream that a zero_pad shortcut puts into the middle of this one; '' for none.
      stages: numbers of the stages that add to it; none for a stem whose channels are projected.
    """

    channels: int
    producers: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    consumers: list[str] = dataclasses.field(default_factory=list)
    norms: list[str] = dataclasses.field(default_factory=list)
    before: str = ''
    stages: list[int] = dataclasses.field(default_factory=list)


def streams(model: ResNet) -> dict[str, Stream]:
    """The streams of a network, by the name of the part that begins each: 'stem', 'stage2', ...

    Raises:
      InputError: for designs in which a channel concerns others too.
    """
    _check(model)
    stem, stages = model.body()
    info = model.feature_info((1,) * model.dimensions)
    own = Stream(info['stem'].channels)
    operations = stem.operations()
    if operations:
        last = f'conv{max(op.index for op in operations if op.kind == "conv")}'
        norms = tuple(f'stem/{op.name}' for op in operations if op.name == f'norm{last[4:]}')
        own.producers[f'stem/{last}'] = norms
        own.norms += norms
    found, name = {'stem': own}, 'stem'
    for i, stage in enumerate(stages, 1):
        channels = info[f'stage{i}'].channels
        for j in range(1, model.stage_sizes[i - 1] + 1):
            path = stage.block(j).shortcut_path(found[name].channels)
            entry = name
            if j == 1 and path not in ('identity', 'norm'):
                name = f'stage{i}'
                found[name] = Stream(channels, before=entry if path == 'zero_pad' else '')
            _add_block(model, f'stage{i}/block{j}', path, found[entry], found[name])
        found[name].stages.append(i)
    for prefix, operations, _ in model.tail():
        found[name].norms += [prefix + op.name for op in operations if op.kind == 'norm']
    found[name].consumers.append('head')
    return found


def _check(model: ResNet) -> None:
    block = model.block
    others = {
        'groups': any(not plan.design.is_plain for plan in model.plans()),
        'stage_designs': model.stage_designs,
        'last_width': model.last_width,
        'se_ratio': block.se_ratio,
        'eca': block.eca,
        'gate': block.gate != 'none',
        'norm': model.norm == 'group',
        'init_scheme': model.fixup,
        'ranks': model.ranks,
    }
    for field in (field for field, given in others.items() if given):
        raise InputError(
            f'the residual stream is not pruned where {field} ties its channels to others; prune '
            'channels inside the branches, weights or blocks'
        )


def _add_block(model: ResNet, part: str, path: str | None, entry: Stream, own: Stream) -> None:
    """Adds the layers of a block that goes from one stream to another, or to the same."""
    before, branch, after = spell_out(model.block, model.fixup)
    last = len(model.block.layers)
    convolutions, behind = 0, []
    for op in (*before, *branch):
        if op.kind == 'conv':
            convolutions += 1
        elif op.kind == 'norm' and convolutions == 0:
            entry.norms.append(f'{part}/{op.name}')
        elif op.kind == 'norm' and convolutions == last:
            behind.append(f'{part}/{op.name}')
    entry.consumers.append(f'{part}/conv1')
    own.producers[f'{part}/conv{last}'] = tuple(behind)
    own.norms += [*behind, *(f'{part}/{op.name}' for op in after if op.kind == 'norm')]
    norm = f'{part}/shortcut_norm'
    if path in ('projection', 'conv'):
        entry.consumers.append(f'{part}/shortcut_conv')
        own.producers[f'{part}/shortcut_conv'] = (norm,) if path == 'projection' else ()
    if path in ('projection', 'norm'):
        own.norms.append(norm)


def magnitude_scores(model: ResNet, variables: Mapping[str, Any]) -> Scores:
    """The size of all filters that make each channel of each stream, as norms would leave them.

    Args:
      model: with unscanned blocks.
      variables: of the model.
    """
    return {
        name: np.sqrt(
            sum(
                filter_sizes(variables, path, norms, model.bn_epsilon) ** 2
                for path, norms in stream.producers.items()
            )
        )
        for name, stream in streams(model).items()
        if stream.stages
    }


def taylor_scores(model: ResNet, variables: Mapping[str, Any], batches: Iterable[Batch]) -> Scores:
    """How much the loss would change without each channel: `prune.taylor_scores`, of streams."""
    found = streams(model)
    consumers = {name: stream.consumers for name, stream in found.items() if stream.stages}
    return taylor_of(model, variables, batches, consumers)


def choose_channels(model: ResNet, scores: Scores, fraction: float, multiple: int = 1) -> Kept:
    """The channels to keep: of each stream the same share, those of the highest scores.

    Args:
      model: the network.
      scores: of each stream's channels.
      fraction: the share to take out, in [0, 1).
      multiple: each stream keeps a multiple of this many, and of the design's expansion.

    Returns:
      Numbers of channels for each stream. Behind a zero_pad shortcut, those that it fills stay, in
      the middle, where it puts them.
    """
    unit = math.lcm(multiple, model.block.expansion)
    found, kept = streams(model), {}
    deep = len([op for op in model.body()[0].operations() if op.kind == 'conv']) != 1
    for name, stream in found.items():
        total = stream.channels
        if name not in scores or (name == 'stem' and deep):
            kept[name] = np.arange(total)
            continue
        count = max(round((1 - fraction) * total / unit), 1) * unit
        needed = np.zeros(0, int)
        if stream.before:
            entering = kept[stream.before]
            needed = entering + (total - found[stream.before].channels) // 2
            count = max(count, -(-len(needed) // unit) * unit)
        elif name == 'stage1' and count == found['stem'].channels != total:
            count += unit  # or the projection behind the stem would become an identity
        rest = np.setdiff1d(np.arange(total), needed)
        order = rest[np.argsort(-scores[name][rest], kind='stable')]
        chosen = np.sort(order[: min(count, total) - len(needed)])
        left = (len(chosen)) // 2 if stream.before else 0
        kept[name] = np.concatenate([chosen[:left], needed, chosen[left:]])
    return kept


def keep_channels(
    model: ResNet, variables: Mapping[str, Any], kept: Mapping[str, np.ndarray]
) -> tuple[ResNet, dict[str, Any]]:
    """Takes channels out of the streams of a network.

    Args:
      model: any that `streams` takes.
      variables: of the model.
      kept: from `choose_channels`.

    Returns:
      The smaller model, with `stage_widths` and what else changes, and its variables.
    """
    found = streams(model)
    plain = unstack_blocks(variables) if model.scan_blocks else variables
    flat: dict[tuple[str, ...], Any] = dict(flax.traverse_util.flatten_dict(dict(plain)))

    def take(path: str, numbers: np.ndarray, axis: int, leaves: tuple[str, ...]) -> None:
        for key in [k for k in flat if '/'.join(k[1:-1]) == path and k[-1] in leaves]:
            flat[key] = jnp.take(flat[key], numbers, axis=axis)

    sizes = {'stem': model.stem_width}
    for name, stream in found.items():
        numbers = np.asarray(kept[name])
        for path in stream.producers:
            take(path, numbers, -1, ('kernel', 'bias'))
        for path in stream.consumers:
            take(path, numbers, -2, ('kernel',))
        for path in stream.norms:
            take(path, numbers, -1, ('scale', 'bias', 'mean', 'var'))
        sizes |= dict.fromkeys((name, *(f'stage{i}' for i in stream.stages)), len(numbers))
    widths = [
        sizes[f'stage{i + 1}'] // model.block.expansion for i in range(len(model.stage_sizes))
    ]
    smaller = model.clone(
        stage_widths=tuple(widths), stem_width=sizes['stem'], inner_channels=(), scan_blocks=False
    )
    inner = inner_entries(smaller, flat)
    return smaller.clone(inner_channels=inner), dict(flax.traverse_util.unflatten_dict(flat))
