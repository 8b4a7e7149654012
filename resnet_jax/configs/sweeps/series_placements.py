"""Where should norm and activation stand in the network of series?

The five columns of he2016 (arXiv 1603.05027), figure 4, in the ResNet of arXiv 1611.06455, with its
recipe at a fifth of its length; the norm on the third shortcut stays.

    resnet-jax sweep --config sweeps/series_placements --workdir DIR

The variant is a set of the package aeon, `:GunPoint`. Hardware: a CPU. Result on ItalyPowerDemand,
ten seeds: test errors of 3.78 to 3.94 %, no placement can be told from the original one
(docs/results/series_placements).
"""

from typing import Any

import budgets

PLACEMENTS = 'original', 'bn_after_add', 'relu_before_add', 'relu_only_preact', 'full_preact'


def get_sweep(name: str = 'ItalyPowerDemand') -> dict[str, Any]:
    """The sweep; the variant is its data set."""
    return {
        'title': f'placements of norm and activation on {name}',
        'base': f'series:{name}',
        'fields': budgets.series_fields(),
        'arms': {placement: {'model.placement': placement} for placement in PLACEMENTS},
        'seeds': 10,
    }
