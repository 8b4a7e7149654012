"""Does another activation help?

The block stays as it is: only the function changes.

    resnet-jax sweep --config sweeps/activations --workdir DIR

The variant `:cifar10` trains on CIFAR-10 instead of the digits. Hardware: any. Result: not yet run.
"""

from typing import Any

import budgets

from resnet_jax.experiments import grid


def get_sweep(base: str = 'digits') -> dict[str, Any]:
    """The sweep; the variant is its base config."""
    return {
        'title': 'activations of a net of 20 layers',
        'base': base,
        'fields': {**budgets.fields(base), 'model.name': 'cifar_resnet20'},
        'arms': grid({'model.activation': ['relu', 'leaky_relu', 'gelu', 'silu', 'elu']}),
        'seeds': 5,
    }
