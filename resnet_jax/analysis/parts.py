"""A network as a chain of parts: the stem, every block, and what follows the last block.

Each part is a pure function of its own variables and of the previous part's output. Equal blocks
share one module, and so one compiled program: a network of 54 blocks compiles six of them. What
changes one block runs only the parts behind it.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.errors import InputError, unknown_name
from resnet_jax.models import ResNet
from resnet_jax.models.block import ResidualBlock
from resnet_jax.models.design import SHORTCUTS
from resnet_jax.models.inputs import example_input
from resnet_jax.models.stages import unstack_blocks
from resnet_jax.training.compilation import jit

STEM, TAIL = 'stem', 'tail'


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a network.

    Attributes:
      name: 'stem', 'stage1/block1', ..., 'tail'.
      module: unbound; equal blocks share it. Of the tail the whole model.
      method: of the module.
      inputs: shape of the input for one image, without the axis of images.
      outputs: shape of the output.
    """

    name: str
    module: nn.Module
    method: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def has_shortcut(self) -> bool:
        """Whether it is a block with a path around its branch."""
        if not isinstance(self.module, ResidualBlock):
            return False
        design = self.module.design
        kept = self.module.stride == 1 and self.inputs[-1] == self.outputs[-1]
        return SHORTCUTS[design.shortcut][0 if kept else 1] is not None

    @property
    def keeps_shape(self) -> bool:
        """Whether its output has the shape of its input."""
        return self.inputs == self.outputs

    def apply(self, variables: Mapping[str, Any], x: Float[Array, 'n ...']) -> Array:
        """The output in evaluation, to use in other programs: not jitted.

        Args:
          variables: of this part, from `Chain.split`.
          x: the previous part's output; of the stem, normalised images.
        """
        found: Any = self.module.apply(variables, x, train=False, method=self.method)
        return found

    def __call__(self, variables: Mapping[str, Any], x: Float[Array, 'n ...']) -> Array:
        """The output in evaluation, jitted."""
        found: Array = _compiled(self.module, self.method)(variables, x)
        return found


@functools.lru_cache(maxsize=256)
def _compiled(module: nn.Module, method: str) -> Any:
    return jit(lambda variables, x: module.apply(variables, x, train=False, method=method))


@dataclasses.dataclass(frozen=True)
class Chain:
    """A network as a chain.

    Attributes:
      stem: from images.
      blocks: in order.
      tail: from the last block's output to logits.
    """

    stem: Part
    blocks: tuple[Part, ...]
    tail: Part

    def __iter__(self) -> Iterator[Part]:
        """The parts, in order."""
        return iter((self.stem, *self.blocks, self.tail))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the blocks."""
        return tuple(block.name for block in self.blocks)

    def index(self, name: str) -> int:
        """The position of a block.

        Raises:
          InputError: for another name, with the nearest and all.
        """
        if name not in self.names:
            known = f'{self.names[0]} to {self.names[-1]}'
            raise InputError(f'{unknown_name("block", name, self.names)} (the blocks: {known})')
        return self.names.index(name)

    def split(self, variables: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The variables of each part by its name, also from the layout of `scan_blocks`."""
        plain = unstack_blocks(variables)
        stages = {block.name.split('/')[0] for block in self.blocks}
        found: dict[str, dict[str, Any]] = {}
        for part in (self.stem, *self.blocks):
            path = part.name.split('/')
            found[part.name] = {
                kind: functools.reduce(lambda tree, key: tree.get(key, {}), path, tree)
                for kind, tree in plain.items()
            }
        found[self.tail.name] = {
            kind: {key: x for key, x in tree.items() if key not in {*stages, STEM}}
            for kind, tree in plain.items()
        }
        return found


def chain(model: ResNet, image_size: int | tuple[int, ...], channels: int = 3) -> Chain:
    """Takes a network apart.

    Args:
      model: from `create_model`, with or without `scan_blocks`.
      image_size: side of the images, or a size for each dimension; the parts know their shapes.
      channels: of the images.
    """
    return _chain(model.unrolled(), image_size, channels)


@functools.lru_cache(maxsize=16)
def _chain(model: ResNet, image_size: int | tuple[int, ...], channels: int) -> Chain:
    stem, stages = model.body()
    modules: list[tuple[str, nn.Module]] = [(STEM, stem)]
    for i, stage in enumerate(stages, 1):
        kinds: dict[Any, nn.Module] = {}
        for j in range(1, len(stage.plan.drop_rates) + 1):
            # All but the first are equal, and share a module, unless single layers differ.
            key = (j == 1, stage.layers[j - 1] if stage.layers else None)
            modules.append((f'stage{i}/block{j}', kinds.setdefault(key, stage.block(j))))
    parts: list[Part] = []
    first = example_input(model, image_size, channels)
    shape, dtype = tuple(first.shape[1:]), first.dtype
    for name, module in [*modules, (TAIL, model)]:
        method = 'classify' if name == TAIL else '__call__'
        outputs = _output_shape(module, method, shape, dtype)
        dtype = jnp.dtype(jnp.float32)
        parts.append(Part(name, module, method, shape, outputs))
        shape = outputs
    return Chain(parts[0], tuple(parts[1:-1]), parts[-1])


def _output_shape(
    module: nn.Module, method: str, shape: tuple[int, ...], dtype: Any
) -> tuple[int, ...]:
    key = jax.random.key(0)
    x = jax.ShapeDtypeStruct((1, *shape), dtype)

    def run(x: Array) -> Any:
        return module.init_with_output(key, x, train=False, method=method)[0]

    return tuple(jax.eval_shape(run, x).shape[1:])
