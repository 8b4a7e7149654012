"""The picture of a network's paths: arXiv 1605.06431, figure 6."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resnet_jax.analysis.figures.axes import plain_log
from resnet_jax.figures import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(found: Mapping[str, Any], title: str) -> 'dict[str, Figure]':
    """Share of paths, gradient along a path, and their product, by length.

    Args:
      found: as `paths.study` returns it, and 'fresh' likewise where it is there.
      title: of the figure.
    """
    nets = {'trained': found} | ({'fresh': found['fresh']} if 'fresh' in found else {})
    figure = new_figure((13.0, 4.2), title)
    left, middle, right = figure.subplots(1, 3)
    share = found['share']
    left.bar([int(k) for k in share], [100 * x for x in share.values()], color=COLOURS[6])
    left.set(ylabel='share of all paths (%)')
    left.set_title('How many paths', fontsize='medium')
    for (name, net), colour in zip(nets.items(), COLOURS, strict=False):
        _gradient(middle, name, net, colour)
        _contribution(right, name, net, colour)
    if any(x['mean'] > 0 for net in nets.values() for x in net['gradient'].values()):
        plain_log(middle)
    middle.set(ylabel="norm of the gradient at the stem's output")
    middle.set_title('Gradient along one path', fontsize='medium')
    right.set(ylabel='share of the total gradient (%)')
    right.set_title('Both multiplied', fontsize='medium')
    for axes in (left, middle, right):
        axes.set(xlabel='length: branches passed through', xlim=(-0.7, len(share) - 0.3))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_axisbelow(True)
        axes.grid(axis='y', alpha=0.3)
    right.set_ylim(0, 1.3 * right.get_ylim()[1])  # below the legend
    middle.legend(frameon=False, fontsize='small')
    right.legend(frameon=False, fontsize='small')
    return {'paths': figure}


def _gradient(axes: 'Axes', name: str, net: Mapping[str, Any], colour: str) -> None:
    lengths = [int(k) for k in net['gradient']]
    values = list(net['gradient'].values())
    means = [each['mean'] for each in values]
    label = name
    if net['decay'] is not None:
        label += f': log slope {net["decay"]:+.2f} per branch'
    axes.plot(lengths, means, 'o-', color=colour, markersize=3, label=label)
    if all(each['low'] is not None for each in values):
        # A lower end of 0 cannot be drawn on a logarithmic axis.
        low = [each['low'] or mean / 10 for each, mean in zip(values, means, strict=True)]
        high = [each['high'] for each in values]
        axes.fill_between(lengths, low, high, color=colour, alpha=0.18, linewidth=0)


def _contribution(axes: 'Axes', name: str, net: Mapping[str, Any], colour: str) -> None:
    effective = net['effective']
    if effective['low'] is None:
        return
    low, high = effective['low'], effective['high']
    label = f'{name}: 95 % in lengths {low} to {high}'
    lengths = [int(k) for k in effective['contribution']]
    parts = [100 * x for x in effective['contribution'].values()]
    axes.plot(lengths, parts, 'o-', color=colour, markersize=3, label=label)
    inside = [low <= k <= high for k in lengths]
    axes.fill_between(lengths, 0, parts, where=inside, color=colour, alpha=0.15, linewidth=0)
