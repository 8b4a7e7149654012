"""Which shortcuts does the network of series need?

The ResNet of arXiv 1611.06455 has projections, and a norm alone on the third shortcut (normed);
beside it the kinds of he2015 (arXiv 1512.03385, section 3.3), 1x1 convolutions without a norm, and
none. With its recipe at a fifth of its length.

    resnet-jax sweep --config sweeps/series_shortcuts --workdir DIR

The variant is a set of the package aeon, `:GunPoint`. Hardware: a CPU. Result on ItalyPowerDemand,
ten seeds: test errors of 3.85 to 4.10 %, and nothing can be told from the original, not even a
network without shortcuts (docs/results/series_shortcuts).
"""

from typing import Any

import budgets

SHORTCUTS = ('normed', 'projection', 'projection_all', 'zero_pad', 'conv1x1', 'none')


def get_sweep(name: str = 'ItalyPowerDemand') -> dict[str, Any]:
    """The sweep; the variant is its data set."""
    return {
        'title': f'shortcuts on {name}',
        'base': f'series:{name}',
        'fields': budgets.series_fields(),
        'arms': {shortcut: {'model.shortcut': shortcut} for shortcut in SHORTCUTS},
        'seeds': 10,
    }
