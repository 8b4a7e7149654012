"""Which shortcuts let 110 layers train?

he2016 (arXiv 1603.05027), table 1; the rows are those of experiments/papers.py.

    resnet-jax sweep --config configs/sweeps/shortcuts_he2016_table1.py --workdir DIR

`.py:cifar10` asks on CIFAR-10 instead of the digits. Hardware: any. Result: not yet run.
"""

from typing import Any

import budgets

from resnet_jax.experiments import from_table


def get_sweep(base: str = 'digits') -> dict[str, Any]:
    """The sweep; the variant is a config beside this folder."""
    return {
        **from_table('he2016_table1'),
        'base': f'../{base}.py',
        'fields': {**budgets.fields(base), 'model.scan_blocks': True},
        'seeds': 3,
    }
