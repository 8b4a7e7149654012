"""Does the network of series gain from depth, with shortcuts and without?

The question of he2015 (arXiv 1512.03385), figure 6, for the ResNet of arXiv 1611.06455: one to
three blocks in each stage, 9 to 27 convolutions. With its recipe at a fifth of its length.

    resnet-jax sweep --config sweeps/series_depth --workdir DIR

The variant is a set of the package aeon, `:GunPoint`. Hardware: a CPU, two hours of one core.
Result on ItalyPowerDemand, ten seeds: test errors of 3.72 to 4.11 %, and no depth can be told from
nine convolutions, with shortcuts or without (docs/results/series_depth).
"""

from typing import Any

import budgets


def get_sweep(name: str = 'ItalyPowerDemand') -> dict[str, Any]:
    """The sweep; the variant is its data set."""
    return {
        'title': f'depth with and without shortcuts on {name}',
        'base': f'series:{name}',
        'fields': budgets.series_fields(),
        'arms': {
            f'{kind}-{9 * blocks}': {
                'model.shortcut': shortcut,
                'model.stage_sizes': (blocks,) * 3,
            }
            for kind, shortcut in (('residual', 'normed'), ('plain', 'none'))
            for blocks in (1, 2, 3)
        },
        'seeds': 10,
    }
