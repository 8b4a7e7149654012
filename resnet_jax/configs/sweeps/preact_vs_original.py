"""Is full pre-activation better than the original block at depth 56?

he2016 (arXiv 1603.05027), section 4, asks it at depths 110 and 164.

    resnet-jax sweep --config sweeps/preact_vs_original --workdir DIR

The variant `:cifar10` trains on CIFAR-10 instead of the digits, `:cifar10_slice` on a part of it
that is small enough for a CPU. Hardware: any. Results on the digits and the slice: docs/results; on
CIFAR-10: not yet run.
"""

from typing import Any

import budgets


def get_sweep(base: str = 'digits') -> dict[str, Any]:
    """The sweep; the variant is its base config."""
    return {
        'title': 'full pre-activation against the original block, 56 layers',
        'base': base,
        'fields': {**budgets.fields(base), 'model.scan_blocks': True},
        'arms': {
            'original': {'model.name': 'cifar_resnet56'},
            'full pre-activation': {'model.name': 'cifar_preact_resnet56'},
        },
        'seeds': 5,
    }
