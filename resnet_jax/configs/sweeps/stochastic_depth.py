"""Does dropping whole blocks help, and how often?

Stochastic depth (arXiv 1603.09382), figure 8.

    resnet-jax sweep --config sweeps/stochastic_depth --workdir DIR

The variant `:cifar10` trains on CIFAR-10 instead of the digits. Hardware: any. Result: not yet run.
"""

from typing import Any

import budgets

from resnet_jax.experiments import grid


def get_sweep(base: str = 'digits') -> dict[str, Any]:
    """The sweep; the variant is its base config."""
    return {
        'title': 'rates of stochastic depth, 56 layers',
        'base': base,
        'fields': {
            **budgets.fields(base),
            'model.name': 'cifar_resnet56',
            'model.scan_blocks': True,
        },
        'arms': {
            'none': {},
            **grid(
                {
                    'model.stochastic_depth': [0.2, 0.5],
                    'model.stochastic_depth_decay': ['linear', 'constant'],
                }
            ),
        },
        'seeds': 5,
    }
