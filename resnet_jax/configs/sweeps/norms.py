"""What does batch norm give, and what replaces it?

Group norm is arXiv 1803.08494, Fixup 1901.09321, SkipInit 2002.10444.

    resnet-jax sweep --config sweeps/norms --workdir DIR

The variant `:cifar10` trains on CIFAR-10 instead of the digits. Hardware: any. Result: not yet run.
"""

from typing import Any

import budgets


def get_sweep(base: str = 'digits') -> dict[str, Any]:
    """The sweep; the variant is its base config."""
    return {
        'title': 'norms of a net of 20 layers',
        'base': base,
        'fields': {**budgets.fields(base), 'model.name': 'cifar_resnet20'},
        'arms': {
            'batch': {},
            'group': {'model.norm': 'group', 'model.norm_groups': 8},
            'layer': {'model.norm': 'layer'},
            'none, Fixup': {'model.norm': 'none', 'model.init_scheme': 'fixup'},
            'none, SkipInit': {
                'model.norm': 'none',
                'model.learn_branch_scale': True,
                'model.branch_scale': 0.0,
            },
        },
        'seeds': 5,
    }
