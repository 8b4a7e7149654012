"""Do plain nets get worse with depth, and residual ones not?

he2015 (arXiv 1512.03385), figure 6.

    resnet-jax sweep --config configs/sweeps/depth_degradation.py --workdir DIR

`.py:cifar10` asks on CIFAR-10 instead of the digits, `.py:cifar10_slice` on a part of it that a CPU
can do. Hardware: any. Results on the digits and the slice: docs/results; on CIFAR-10: not yet run.
"""

from typing import Any

import budgets


def get_sweep(base: str = 'digits') -> dict[str, Any]:
    """The sweep; the variant is a config beside this folder."""
    return {
        'title': 'plain and residual nets of 20, 32 and 56 layers',
        'base': f'../{base}.py',
        'fields': {**budgets.fields(base), 'model.scan_blocks': True},
        'arms': {
            f'{kind}-{depth}': {'model.name': f'cifar_{name}{depth}'}
            for kind, name in (('plain', 'plain'), ('residual', 'resnet'))
            for depth in (20, 32, 56)
        },
        'seeds': 5,
        'baseline': 'residual-20',
    }
