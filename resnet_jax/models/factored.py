"""A convolution as two or three thinner ones, of which the product is its kernel."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float


class Factored(nn.Module):
    """A convolution of low rank: `down` and `up` are 1x1, and `core` between them has the window.

    Of a 1x1 convolution there is no core: it is a product of two matrices. A larger one is a Tucker
    decomposition over the channels (Kim et al., arXiv 1511.06530, section 3): stride, dilation and
    padding are the core's. Nothing stands between the three, so that the whole is a convolution. A
    bias, which a folded norm leaves, is that of `up`.

    Attributes:
      ranks: output channels of `down` and of `core`; without a core the first holds.
      conv: makes a convolution.
      arguments: of the convolution that this one takes the place of.
    """

    ranks: tuple[int, int]
    conv: Callable[..., Any]
    arguments: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Float[Array, 'n *space c']) -> Float[Array, 'n *out features']:
        """Convolves."""
        thin, last, window = split_arguments(self.arguments)
        x = self.conv(features=self.ranks[0], **thin, name='down')(x)
        if window is not None:
            x = self.conv(features=self.ranks[1], **window, name='core')(x)
        return self.conv(**last, name='up')(x)


def split_arguments(
    arguments: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]:
    """The arguments of `down` (without its features), of `up`, and of `core`, if there is one."""
    given: dict[str, Any] = dict(arguments)
    window: dict[str, Any] = {n: given.pop(n) for n in ('strides', 'dilation') if n in given}
    thin: dict[str, Any] = {n: given[n] for n in ('bits',) if n in given} | {'use_bias': False}
    size = given.pop('kernel_size')
    for name in ('groups', 'kernel_scale'):  # 1, see `stages.check_channels`
        given.pop(name, None)
    thin['kernel_size'] = given['kernel_size'] = 1
    if size == 1:  # without a core, the first convolution leaves out positions
        return {**thin, **window}, given, None
    return thin, given, {**thin, **window, 'kernel_size': size}
