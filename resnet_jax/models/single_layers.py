"""Values of single layers: channels, ranks and bits, as texts such as 'stage1/block2/conv1=12'.

They describe what `resnet_jax.compress` makes of a regular network, and every model takes them.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from resnet_jax.errors import LARGEST_INT, InputError, shown
from resnet_jax.models.factored import Factored
from resnet_jax.models.patterns import check_patterns, matches

Value = TypeVar('Value')
Ranks = tuple[int, int]
MOST_BITS = 8


@dataclasses.dataclass(frozen=True)
class SingleLayers:
    """Values of the convolutions of a network, or of one part of it.

    Attributes:
      channels: path of a convolution -> output channels, where they are not the design's.
      ranks: path -> (channels that the first thin convolution gives, those that the core gives).
      bits: path -> bits of its weights and its input, where they are not the network's; 0: floats.
    """

    channels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    ranks: Mapping[str, Ranks] = dataclasses.field(default_factory=dict)
    bits: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __hash__(self) -> int:
        held = self.channels, self.ranks, self.bits
        return hash(tuple(tuple(sorted(each.items())) for each in held))

    def of_part(self, part: str) -> 'SingleLayers':
        """Those of a block or the stem, 'stage1/block2', by the names inside it."""

        def inside(held: Mapping[str, Value]) -> dict[str, Value]:
            parts = {path: path.rpartition('/') for path in held}
            return {name: held[path] for path, (begin, _, name) in parts.items() if begin == part}

        return SingleLayers(inside(self.channels), inside(self.ranks), inside(self.bits))

    def of_blocks(self, stage: str, count: int) -> tuple['SingleLayers', ...]:
        """Those of each block of a stage, 'stage1'; () if no layer has a value of its own."""
        if self == PLAIN:
            return ()
        return tuple(self.of_part(f'{stage}/block{i}') for i in range(1, count + 1))

    def maker(self, conv: Callable[..., Any]) -> Callable[..., Any]:
        """What makes the convolutions of a part: `conv`, with these values.

        Args:
          conv: makes a convolution, see `convolution.convolution`.
        """
        if not self.ranks and not self.bits:
            return conv

        def make(*, name: str, **arguments: Any) -> Any:
            if name in self.bits:
                arguments['bits'] = self.bits[name]
            if name in self.ranks:
                return Factored(self.ranks[name], conv, arguments, name=name)
            return conv(**arguments, name=name)

        return make


PLAIN = SingleLayers()


def all_equal(layers: SingleLayers, stage_sizes: Sequence[int]) -> bool:
    """Whether the blocks after the first of each stage have the same values."""
    stages = [layers.of_blocks(f'stage{i}', size) for i, size in enumerate(stage_sizes, 1)]
    return all(len(set(blocks[1:])) <= 1 for blocks in stages)


def check_bits(field: str, value: int) -> None:
    """Refuses a number of bits that no integer has here.

    Raises:
      InputError: naming the field.
    """
    if bits_of(str(value)) is None:
        raise InputError(f'{field} must be 0 or from 2 to {MOST_BITS}, got {shown(value)}')


def read_entries(
    field: str,
    entries: Sequence[str],
    paths: Iterable[str],
    value_of: Callable[[str], Value | None],
    example: str,
) -> dict[str, Value]:
    """The values of some paths; of several entries that mean one, the last holds.

    Args:
      field: of the model, for messages.
      entries: 'PATTERN=VALUE', with a pattern as of `patterns.matches`.
      paths: that the patterns may mean.
      value_of: the value of a text; None if it is none.
      example: an entry, for messages.

    Raises:
      InputError: for an entry that cannot be read, or means none of the paths.
    """
    found: dict[str, Value] = {}
    paths = list(paths)
    for entry in entries:
        pattern, mark, text = entry.rpartition('=')
        value = value_of(text.strip()) if mark and pattern.strip() else None
        if value is None:
            raise InputError(f'{field} takes entries such as {example}, got {shown(entry)}')
        check_patterns([pattern], paths, f'convolution in {field}')
        found |= {path: value for path in paths if matches(path, pattern)}
    return found


def channels_of(text: str) -> int | None:
    """A number of channels, from 1."""
    number = _whole(text)
    return number or None


def ranks_of(text: str) -> Ranks | None:
    """Ranks: '8' for both, or '8x12'."""
    match = re.fullmatch(r'(\d+)(?:x(\d+))?', text)
    if not match:
        return None
    pair = _whole(match[1]), _whole(match[2] or match[1])
    return (pair[0], pair[1]) if pair[0] and pair[1] else None


def bits_of(text: str) -> int | None:
    """Bits of an integer: 0 for a float, or 2 to 8."""
    number = _whole(text)
    return number if number in (0, *range(2, MOST_BITS + 1)) else None


def _whole(text: str) -> int | None:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
    return number if number is not None and number < LARGEST_INT else None
