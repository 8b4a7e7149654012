"""How much does width bring at the same depth?

Wide residual networks (arXiv 1605.07146), section 3.2.

    resnet-jax sweep --config sweeps/width_wrn --workdir DIR

The variant `:cifar10` trains on CIFAR-10 instead of the digits. Hardware: any. Result: not yet run.
"""

from typing import Any

import budgets

from resnet_jax.experiments import grid


def get_sweep(base: str = 'digits') -> dict[str, Any]:
    """The sweep; the variant is its base config."""
    return {
        'title': 'widths of a pre-activation net of 16 layers',
        'base': base,
        'fields': {**budgets.fields(base), 'model.name': 'wrn16_4'},
        'arms': grid({'model.width': [16, 32, 64, 128]}),
        'seeds': 5,
    }
