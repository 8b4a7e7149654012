"""What a network may be made of, checked once when it is created."""

from typing import TYPE_CHECKING

from resnet_jax.errors import InputError, check_choice
from resnet_jax.models.convolution import INITIALISERS, STANDARDIZATIONS
from resnet_jax.models.norms import NORMS
from resnet_jax.models.single_layers import check_bits
from resnet_jax.models.stages import check_channels
from resnet_jax.models.stem import check_stem

if TYPE_CHECKING:
    from resnet_jax.models.resnet import ResNet


def check_network(model: 'ResNet') -> None:
    """Refuses fields that no network has, and those that do not go together.

    Raises:
      InputError: naming the field.
    """
    decays = ('linear', 'constant')
    check_choice('stochastic_depth_decay', model.stochastic_depth_decay, decays)
    if model.dimensions not in (1, 2, 3):
        raise InputError(f'dimensions must be 1, 2 or 3, got {model.dimensions}')
    for field in ('dropout', 'stochastic_depth'):
        if not 0 <= getattr(model, field) < 1:
            raise InputError(f'{field} must be in [0, 1), got {getattr(model, field)}')
    check_choice('norm', model.norm, NORMS)
    check_choice('init_scheme', model.init_scheme, INITIALISERS)
    check_choice('standardized_to', model.standardized_to, STANDARDIZATIONS)
    if not model.stage_sizes or min(model.stage_sizes) < 1:
        raise InputError(f'stage_sizes must be numbers from 1, got {model.stage_sizes}')
    if model.fixup and model.norm != 'none':
        raise InputError(f"init_scheme='fixup' replaces norms: set norm='none', not {model.norm!r}")
    for field in ('weight_bits', 'activation_bits'):
        check_bits(field, getattr(model, field))
    check_stem(model.stem, model.stem_width, model.dimensions)
    if model.last_width and model.fixup:
        raise InputError('last_width has a norm, and init_scheme=fixup none; leave one out')
    check_channels(model.plans(), model.stem_width, model.dimensions, model.single_layers())
    if model.ranks and (model.weight_standardization or model.fixup):
        raise InputError(
            'ranks go with plain weights only; set weight_standardization=False (fold does), '
            "and no init_scheme='fixup'"
        )
    if model.scan_blocks and not model.scannable:
        raise InputError(
            'scan_blocks needs equal blocks; inner_channels, ranks and layer_bits make them '
            'differ: set scan_blocks=False'
        )
