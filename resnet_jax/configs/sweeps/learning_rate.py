"""Which learning rate and weight decay?

All combinations.

    resnet-jax sweep --config sweeps/learning_rate --workdir DIR

The variant `:cifar10` trains on CIFAR-10 instead of the digits. Hardware: any. Result: not yet run.
"""

from typing import Any

import budgets

from resnet_jax.experiments import grid


def get_sweep(base: str = 'digits') -> dict[str, Any]:
    """The sweep; the variant is its base config."""
    return {
        'title': 'learning rates and weight decays of SGD',
        'base': base,
        'fields': {**budgets.fields(base), 'model.name': 'cifar_resnet20'},
        'arms': grid(
            {'optim.learning_rate': [0.01, 0.02, 0.05, 0.1], 'optim.weight_decay': [1e-4, 5e-4]}
        ),
        'seeds': 3,
    }
