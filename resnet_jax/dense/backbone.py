"""A residual network without its classifier, as detectors and segmenters take it."""

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from resnet_jax.errors import InputError, Range, check_choice, check_number
from resnet_jax.models import ResNet
from resnet_jax.models.block import Context, Operation, apply_operations, spell_out
from resnet_jax.models.feature_info import Feature

FEATURES = ('stage1', 'stage2', 'stage3', 'stage4')


class Backbone(nn.Module):
    """Feature maps of chosen stages; of `ResNet.features`, by the same names.

    The stages of a pre-activation net are sums without a norm. Each that is chosen gets its own,
    and an activation, as the net itself has behind its last stage: `stage2_norm`, ..., and
    `final_norm` for the last. Other parameters have the paths of the `ResNet`.

    Attributes:
      net: the network; its head is not made.
      features: names of the stages, 'stage1' to 'stageK', or 'stem'.
      frozen: how many parts, the stem first, have no gradient and normalise by their running
        statistics: 1 for the stem, 2 for the stem and stage1, ...
    """

    net: ResNet
    features: tuple[str, ...] = FEATURES
    frozen: int = 0

    def __post_init__(self) -> None:
        known = ['stem', *(f'stage{i}' for i in range(1, len(self.net.stage_sizes) + 1))]
        if not self.features:
            raise InputError(f'features must name some of {", ".join(known)}')
        for name in self.features:
            check_choice('feature', name, known)
        check_number('frozen', self.frozen, Range(0, len(known), whole=True))
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Float[Array, 'n *space c'], train: bool) -> dict[str, Array]:
        """The chosen features of normalised images, in the order of the network."""
        conv, norm = self.net.makers()
        stem, stages = self.net.body()
        found: dict[str, Array] = {}
        x = images
        for i, part in enumerate([stem, *stages]):
            learns = train and i >= self.frozen
            x = part(x, learns)
            if i + 1 == self.frozen:
                x = jax.lax.stop_gradient(x)
            name = f'stage{i}' if i else 'stem'
            if name in self.features:
                last = i == len(stages)
                prefix = 'final_' if last else f'{name}_'
                context = Context(self.net.block, conv, norm, learns, [], prefix=prefix)
                found[name] = apply_operations(self.ending(i), x, context)
        return found

    @nn.nowrap
    def ending(self, part: int) -> list[Operation]:
        """What follows a part before it is used: of a pre-activation net a norm and activation.

        Args:
          part: 0 for the stem, then the stages from 1.
        """
        before, _, _ = spell_out(self.net.block, self.net.fixup)
        return [Operation(op.kind) for op in before] if part else []

    @nn.nowrap
    def feature_info(self, image_size: int | tuple[int, ...]) -> dict[str, Feature]:
        """The size, channels and reduction of each chosen feature map; nothing is run."""
        whole: dict[str, Any] = self.net.feature_info(image_size)
        return {name: info for name, info in whole.items() if name in self.features}
