"""SGD or an adaptive optimiser?

Each with a learning rate and weight decay usual for it; AdamW is arXiv 1711.05101.

    resnet-jax sweep --config sweeps/optimisers --workdir DIR

The variant `:cifar10` trains on CIFAR-10 instead of the digits. Hardware: any. Result: not yet run.
"""

from typing import Any

import budgets

FIELDS = ('optim.name', 'optim.learning_rate', 'optim.weight_decay')


def get_sweep(base: str = 'digits') -> dict[str, Any]:
    """The sweep; the variant is its base config."""
    return {
        'title': 'optimisers of a net of 20 layers',
        'base': base,
        'fields': {**budgets.fields(base), 'model.name': 'cifar_resnet20'},
        'arms': {
            name: dict(zip(FIELDS, values, strict=True))
            for name, *values in (
                ('SGD', 'sgd', 0.05, 5e-4),
                ('Adam', 'adam', 2e-3, 0.0),
                ('AdamW', 'adamw', 2e-3, 0.05),
                ('LAMB', 'lamb', 5e-3, 0.05),
            )
        },
        'seeds': 5,
    }
