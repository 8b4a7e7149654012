"""Axes of the pictures of analyses."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plain_log(axes: 'Axes') -> None:
    """A logarithmic y axis of what is drawn, with plain numbers; within a decade, more of them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale('log')
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    if decades < 2:
        subs = (1, 2, 5) if decades > 0.8 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8)
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
    if decades < 5:
        axes.yaxis.set_major_formatter('{x:g}')
    axes.yaxis.set_minor_formatter(NullFormatter())
