"""Is full pre-activation better than the original block at depth 56?

he2016 (arXiv 1603.05027), section 4, asks it at depths 110 and 164.

    resnet-jax sweep --config configs/sweeps/preact_vs_original.py --workdir DIR

`.py:cifar10` asks on CIFAR-10 instead of the digits, `.py:cifar10_slice` on a part of it that a CPU
can do. Hardware: any. Results on the digits and the slice: docs/results; on CIFAR-10: not yet run.
"""

from typing import Any

import budgets


def get_sweep(base: str = 'digits') -> dict[str, Any]:
    """The sweep; the variant is a config beside this folder."""
    return {
        'title': 'full pre-activation against the original block, 56 layers',
        'base': f'../{base}.py',
        'fields': {**budgets.fields(base), 'model.scan_blocks': True},
        'arms': {
            'original': {'model.name': 'cifar_resnet56'},
            'full pre-activation': {'model.name': 'cifar_preact_resnet56'},
        },
        'seeds': 5,
    }
