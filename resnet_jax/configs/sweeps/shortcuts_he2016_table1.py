"""Which shortcuts let 110 layers train?

he2016 (arXiv 1603.05027), table 1; the rows are those of resnet_jax/papers/cifar.py.

    resnet-jax sweep --config sweeps/shortcuts_he2016_table1 --workdir DIR

The variant `:cifar10` trains on CIFAR-10 instead of the digits. Hardware: any. Result: not yet run.
"""

from typing import Any

import budgets

from resnet_jax.experiments import from_table


def get_sweep(base: str = 'digits') -> dict[str, Any]:
    """The sweep; the variant is its base config."""
    return {
        **from_table('he2016_table1'),
        'base': base,
        'fields': {**budgets.fields(base), 'model.scan_blocks': True},
        'seeds': 3,
    }
