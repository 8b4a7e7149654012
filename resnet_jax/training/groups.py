"""Parts of a model by pattern: which of its parameters train, from which step, at which rate."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from resnet_jax.errors import InputError, Range, check_number, shown
from resnet_jax.models.patterns import check_patterns, matches


@dataclasses.dataclass(frozen=True)
class Groups:
    """How the parts of a model are trained; trees are like the parameters.

    Attributes:
      trained: False for parameters that never change; None: all train.
      later: number of the entry of `starts` that holds for a parameter, -1 for those that train
        from the first step; None: all do.
      starts: steps at which more parameters begin to train.
      factors: of the learning rate, numbers or arrays that broadcast against the parameter; None:
        all are 1.
      still: paths of the batch norms whose parameters and statistics stay as they are.
      fresh: patterns of the parameters that start at random beside loaded ones.
    """

    trained: PyTree[bool] | None = None
    later: PyTree[int] | None = None
    starts: tuple[int, ...] = ()
    factors: PyTree | None = None
    still: frozenset[str] = frozenset()
    fresh: tuple[str, ...] = ()


EVERYTHING = Groups()  # trained from the first step, at one rate


def at_step(entry: str) -> tuple[str, float]:
    """Pattern and time of an entry of train.unfreeze, 'PATTERN@TIME'.

    Raises:
      InputError: for an entry that is no such pair.
    """
    return _pair(entry, '@', 'train.unfreeze', 'stage4@5', Range(0, 2**31 - 1, open='low'))


def at_rate(entry: str) -> tuple[str, float]:
    """Pattern and factor of an entry of optim.rates, 'PATTERN=FACTOR'.

    Raises:
      InputError: for an entry that is no such pair.
    """
    return _pair(entry, '=', 'optim.rates', 'head=10', Range(0, open='low'))


def _pair(entry: str, mark: str, field: str, example: str, allowed: Range) -> tuple[str, float]:
    pattern, found, text = entry.rpartition(mark)
    try:
        number = float(text)
    except ValueError:
        found = ''
    if not found or not pattern.strip():
        raise InputError(
            f'config field {field} takes entries such as {example}, got {shown(entry)}'
        )
    check_number(f'config field {field}: the number of {shown(entry)}', number, allowed)
    return pattern, number


def paths_of(tree: PyTree) -> list[str]:
    """The paths of a tree's leaves: 'stage1/block1/conv1/kernel'."""
    return [_text(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _text(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator='/')


def by_path(tree: PyTree, function: Any) -> PyTree:
    """A tree of function(path, leaf)."""
    return jax.tree_util.tree_map_with_path(lambda path, x: function(_text(path), x), tree)


def read_groups(
    config: ConfigDict,
    variables: PyTree,
    steps_per_epoch: float,
    total_steps: int | None = None,
) -> Groups:
    """What train.freeze, its schedule, and optim.rates and layer_decay mean for a model.

    Args:
      config: checked.
      variables: the model's collections: arrays or their shapes.
      steps_per_epoch: used where optim.schedule_unit is epochs.
      total_steps: length of the run, before which everything must have begun; None: any.

    Raises:
      InputError: for a pattern that means no parameter, or settings that leave none to train.
    """
    params, train = variables['params'], config.train
    paths = paths_of(params)
    still = _still(variables.get('batch_stats', {}), train.freeze_batch_norm)
    check_patterns(train.freeze, paths, 'parameters in train.freeze')
    entries = [at_step(entry) for entry in train.unfreeze]
    check_patterns([p for p, _ in entries], paths, 'parameters in train.unfreeze')
    unit = 1.0 if config.optim.schedule_unit == 'steps' else steps_per_epoch
    starts = tuple(max(round(time * unit), 1) for _, time in entries)

    def entry_of(path: str) -> int | None:
        """The entry of train.unfreeze that holds; -1: from the first step; None: never."""
        if path.rpartition('/')[0] in still:
            return None
        if not any(matches(path, pattern) for pattern in train.freeze):
            return -1
        found = [i for i, (pattern, _) in enumerate(entries) if matches(path, pattern)]
        return min(found, key=starts.__getitem__) if found else None

    number = {path: entry_of(path) for path in paths}
    if all(i is None for i in number.values()):
        raise InputError('config field train.freeze leaves no parameter to train; name fewer')
    for i, (entry, start) in enumerate(zip(train.unfreeze, starts, strict=True)):
        if i not in number.values():
            raise InputError(
                f'config field train.unfreeze: {shown(entry)} names nothing that train.freeze '
                'holds until then'
            )
        if total_steps is not None and start >= total_steps:
            raise InputError(
                f'config field train.unfreeze: {shown(entry)} is step {start}, and the run ends '
                f'after {total_steps}; lower it or train longer'
            )
    return Groups(
        trained=by_path(params, lambda path, _: number[path] is not None)
        if None in number.values()
        else None,
        later=by_path(params, lambda path, _: number[path]) if entries else None,
        starts=starts,
        factors=rate_factors(config.optim, params),
        still=still,
        fresh=('head',) if config.init.reset_head else (),
    )


def _still(batch_stats: PyTree, patterns: Sequence[str]) -> frozenset[str]:
    """Paths of the batch norms that some patterns mean."""
    # Only those: a quantised net keeps the ranges of its activations here too.
    found = [path.rpartition('/') for path in paths_of(batch_stats)]
    norms = dict.fromkeys(module for module, _, leaf in found if leaf == 'mean')
    check_patterns(patterns, norms, 'parameters in train.freeze_batch_norm')
    return frozenset(n for n in norms if any(matches(n, pattern) for pattern in patterns))


def rate_factors(optim: ConfigDict, params: PyTree) -> PyTree | None:
    """The factor of each parameter's learning rate; None if all are 1.

    Of `optim.rates` the last pattern that matches holds. Layer-wise decay multiplies it by
    decay^(L - l) at depth l: the stem is at 0, the blocks at 1, 2, ..., and what follows the last
    block, the head among it, at L (arXiv 1801.06146, section 3.2, by layer; BEiT, arXiv 2106.08254,
    by block).

    Args:
      optim: the config's `optim`.
      params: arrays or their shapes.

    Raises:
      InputError: for a pattern that means no parameter.
    """
    rates = [at_rate(entry) for entry in optim.rates]
    check_patterns([p for p, _ in rates], paths_of(params), 'parameters in optim.rates')
    if not rates and optim.layer_decay == 1:
        return None
    depths, last = block_depths(params)

    def factor(path: str, leaf: Any) -> Any:
        rate = next((r for pattern, r in reversed(rates) if matches(path, pattern)), 1.0)
        depth = depths.get('/'.join(path.split('/')[:2]), 0 if path.startswith('stem/') else last)
        found = np.asarray(rate * optim.layer_decay ** (last - np.asarray(depth)), np.float32)
        return found.reshape(-1, *(1,) * (len(leaf.shape) - 1)) if found.ndim else float(found)

    return by_path(params, factor)


def block_depths(params: PyTree) -> tuple[dict[str, Any], int]:
    """The depth of each block, from 1, and that of what follows the last.

    Returns:
      'stage1/block2' -> 2; of blocks that a scan holds stacked, 'stage1/blocks' -> [2, 3, ...].
    """
    found: dict[str, Any] = {}
    count = 0
    stages = [name for name in params if re.fullmatch(r'stage\d+', name)]
    for stage in sorted(stages, key=lambda name: int(name.removeprefix('stage'))):
        blocks = [name for name in params[stage] if re.fullmatch(r'block\d+', name)]
        for block in sorted(blocks, key=lambda name: int(name.removeprefix('block'))):
            count += 1
            found[f'{stage}/{block}'] = count
        if 'blocks' in params[stage]:
            stacked = jax.tree.leaves(params[stage]['blocks'])[0].shape[0]
            found[f'{stage}/blocks'] = list(range(count + 1, count + 1 + stacked))
            count += stacked
    return found, count + 1
