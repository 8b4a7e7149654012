"""Do plain nets get worse with depth, and residual ones not?

he2015 (arXiv 1512.03385), figure 6.

    resnet-jax sweep --config sweeps/depth_degradation --workdir DIR

The variant `:cifar10` trains on CIFAR-10 instead of the digits, `:cifar10_slice` on a part of it
that is small enough for a CPU. Hardware: any. Results on the digits and the slice: docs/results; on
CIFAR-10: not yet run.
"""

from typing import Any

import budgets


def get_sweep(base: str = 'digits') -> dict[str, Any]:
    """The sweep; the variant is its base config."""
    return {
        'title': 'plain and residual nets of 20, 32 and 56 layers',
        'base': base,
        'fields': {**budgets.fields(base), 'model.scan_blocks': True},
        'arms': {
            f'{kind}-{depth}': {'model.name': f'cifar_{name}{depth}'}
            for kind, name in (('plain', 'plain'), ('residual', 'resnet'))
            for depth in (20, 32, 56)
        },
        'seeds': 5,
        'baseline': 'residual-20',
    }
