"""Does dropping whole blocks help, and how often?

Stochastic depth (arXiv 1603.09382), figure 8.

    resnet-jax sweep --config configs/sweeps/stochastic_depth.py --workdir DIR

`.py:cifar10` asks on CIFAR-10 instead of the digits. Hardware: any. Result: not yet run.
"""

from typing import Any

import budgets

from resnet_jax.experiments import grid


def get_sweep(base: str = 'digits') -> dict[str, Any]:
    """The sweep; the variant is a config beside this folder."""
    return {
        'title': 'rates of stochastic depth, 56 layers',
        'base': f'../{base}.py',
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
