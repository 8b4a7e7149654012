"""What single convolutions of a design want before or behind them, beside what a placement says."""

import itertools

from resnet_jax.models.design import DOWNSAMPLINGS, BlockDesign


def fit_to_layers(kinds: list[str], design: BlockDesign) -> None:
    """Adds pools and shuffles to a block's operations, and removes activations.

    Args:
      kinds: of the operations before the addition, as the placement has them; changed in place.
      design: of the block.
    """
    layers = design.layers
    for number, layer in enumerate(layers):
        following = _behind(kinds, number)
        if design.linear_depthwise and layer.depthwise and 'act' in following:
            del kinds[_position(kinds, number) + 1 + following.index('act')]
    if DOWNSAMPLINGS[design.downsample][1] is not None:
        number = next(i for i, layer in enumerate(layers) if layer.strided)
        conv = _position(kinds, number)
        later = kinds[conv:]
        kinds.insert(conv + 1 + (later.index('act') if 'act' in later else 0), 'pool')
    grouped = [i for i, layer in enumerate(layers) if layer.kernel == 1]
    if design.pointwise_groups > 1 and grouped:
        following = _behind(kinds, grouped[0])
        kinds.insert(_position(kinds, grouped[0]) + 1 + len(following), 'shuffle')


def _position(kinds: list[str], number: int) -> int:
    """Where the convolution of this number, from 0, stands."""
    return [i for i, kind in enumerate(kinds) if kind == 'conv'][number]


def _behind(kinds: list[str], number: int) -> list[str]:
    """What stands between a convolution and the next."""
    return list(itertools.takewhile(lambda k: k != 'conv', kinds[_position(kinds, number) + 1 :]))
