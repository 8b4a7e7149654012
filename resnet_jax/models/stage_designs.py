"""What differs in the blocks of single stages, as texts such as 'stage1/kernels=3,1'."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from resnet_jax.errors import InputError, shown
from resnet_jax.models.design import BlockDesign
from resnet_jax.models.patterns import check_patterns, matches

# Fields of a design that concern nothing outside of a block's branch.
FIELDS: dict[str, Callable[[str], Any]] = {
    'kernels': lambda text: tuple(int(size) for size in text.split(',') if size.strip()),
    'convolution': str,
    'groups': int,
    'base_width': int,
    'inner_ratio': float,
    'pointwise_groups': int,
    'linear_depthwise': lambda text: {'True': True, 'False': False}[text],
    'stride_at': int,
    'se_ratio': float,
}


def stage_designs(
    block: BlockDesign, entries: Sequence[str], stages: int
) -> tuple[BlockDesign, ...]:
    """The design of the blocks of each stage.

    Args:
      block: the design where no entry says otherwise.
      entries: 'PATTERN/FIELD=VALUE' with a pattern of stages and a key of `FIELDS`, such as
        'stage[234]/convolution=spatial'; of several for one field the last holds. Those of one
        stage are set together.
      stages: their number.

    Raises:
      InputError: for an entry that cannot be read, or means nothing, and a design that cannot be.
    """
    names = [f'stage{i}' for i in range(1, stages + 1)]
    paths = [f'{name}/{field}' for name in names for field in FIELDS]
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for entry in entries:
        pattern, _, text = (part.strip() for part in entry.partition('='))
        field = pattern.rpartition('/')[2]
        check_patterns([pattern], paths, 'field in stage_designs')
        try:
            value = FIELDS[field](text)
        except (ValueError, KeyError):
            raise InputError(
                f'stage_designs takes entries such as stage1/kernels=3,1, got {shown(entry)}'
            ) from None
        for path in (path for path in paths if matches(path, pattern)):
            found[path.partition('/')[0]][field] = value
    return tuple(dataclasses.replace(block, **found[name]) for name in names)
