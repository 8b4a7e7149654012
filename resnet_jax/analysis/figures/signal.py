"""Pictures of signal propagation."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resnet_jax.analysis.figures.axes import plain_log
from resnet_jax.figures import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Lines = Sequence[tuple[int, Mapping[str, float | None]]]  # (step, figures) of a run
# Kind of a figure in metrics.jsonl -> its title and the label of its axis.
TRAINED_KINDS = {
    'ratio': ('Branch over shortcut', 'ratio of standard deviations'),
    'output_std': ('Output of the block', 'standard deviation'),
    'gradient': ('Gradient at the input', 'norm, per example'),
}


def draw(found: Mapping[str, Any], lines: Lines, title: str) -> 'dict[str, Figure]':
    """The figures of a network, and of a fresh one beside it where they are there.

    Args:
      found: as `signal.study` returns it, and 'fresh' likewise.
      lines: figures of the run's training, see `signal.over_training`.
      title: of the figures.
    """
    nets = {'trained': found} | ({'fresh': found['fresh']} if 'fresh' in found else {})
    figures = {
        'responses': _responses(nets, title),
        'blocks': _panels(nets, _BLOCK_PANELS, title),
        'propagation': _panels(nets, _PROPAGATION_PANELS, title),
    }
    if lines:
        figures['training'] = _training(lines, title)
    return figures


def _responses(nets: Mapping[str, Mapping[str, Any]], title: str) -> 'Figure':
    """he2015, figure 7: in the order of the layers, and in descending order."""
    figure = new_figure((10.0, 4.4), title)
    left, right = figure.subplots(1, 2, sharey=True)
    for (label, net), colour in zip(nets.items(), COLOURS, strict=False):
        stds = list(net['responses'].values())
        numbers = range(1, len(stds) + 1)
        style = {'color': colour, 'label': label, 'markersize': 3, 'linewidth': 1.2}
        left.plot(numbers, stds, 'o-', **style)
        right.plot(numbers, sorted(stds, reverse=True), 'o-', **style)
    _mark_stages(left, list(nets['trained']['responses']), offset=1)
    left.set(xlabel='layer, in order', ylabel='standard deviation of the responses')
    right.set(xlabel='layers, in descending order of magnitude')
    left.set_ylim(bottom=0)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis='y', alpha=0.3)
    right.legend(frameon=False)
    return figure


Values = Callable[[Mapping[str, Any]], Mapping[str, float]]


def _of(kind: str, figure: str) -> Values:
    return lambda net: {block: each[figure] for block, each in net[kind].items()}


# (title, label of the axis, logarithmic, block -> value of a network)
_BLOCK_PANELS: tuple[tuple[str, str, bool, Values], ...] = (
    ('Branch over shortcut', 'ratio of standard deviations', False, lambda net: net['ratio']),
    ("Gradient at the block's input", 'norm, per example', True, lambda net: net['gradient']),
    (
        "Gradient at the block's parameters",
        'norm, of the mean loss',
        True,
        lambda net: net['parameter_gradient'],
    ),
)
_PROPAGATION_PANELS: tuple[tuple[str, str, bool, Values], ...] = (
    ('Output of the block', 'average squared channel mean', True, _of('output', 'squared_mean')),
    ('Output of the block', 'average channel variance', True, _of('output', 'variance')),
    ('Branch, before the addition', 'average channel variance', True, _of('branch', 'variance')),
)


def _panels(
    nets: Mapping[str, Mapping[str, Any]],
    panels: Sequence[tuple[str, str, bool, Values]],
    title: str,
) -> 'Figure':
    """A figure of the blocks in each panel; those that a plain net has not are left out."""
    shown = [panel for panel in panels if panel[-1](nets['trained'])]
    figure = new_figure((1.0 + 4.2 * len(shown), 4.0), title)
    for axes, (heading, label, logarithmic, values) in zip(
        figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True
    ):
        for (name, net), colour in zip(nets.items(), COLOURS, strict=False):
            numbers = list(values(net).values())
            axes.plot(range(1, len(numbers) + 1), numbers, 'o-', color=colour, label=name, ms=3)
        _mark_stages(axes, list(values(nets['trained'])), offset=1)
        if logarithmic and any(x > 0 for net in nets.values() for x in values(net).values()):
            plain_log(axes)
        else:
            axes.set_ylim(bottom=0)
        axes.set_title(heading, fontsize='medium')
        axes.set(xlabel='block, in order', ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis='y', alpha=0.3)
        axes.legend(frameon=False, fontsize='small')
    return figure


def _mark_stages(axes: 'Axes', paths: Sequence[str], offset: int) -> None:
    """A line where each stage begins, and its name above the axes."""
    stages = [path.split('/')[0] for path in paths]
    begins = [i for i, stage in enumerate(stages) if i == 0 or stages[i - 1] != stage]
    for begin, end in zip(begins, [*begins[1:], len(stages)], strict=True):
        if begin:
            axes.axvline(begin + offset - 0.5, color='#999999', linewidth=0.8, linestyle=':')
        if end - begin > len(stages) / 12:
            axes.annotate(
                stages[begin],
                ((begin + end - 1) / 2 + offset, 0.99),
                xycoords=('data', 'axes fraction'),
                ha='center',
                va='top',
                size='x-small',
                color='#777777',
            )


def _training(lines: Lines, title: str) -> 'Figure':
    """Over the steps of a run: a line for each block, from dark (first) to bright (last)."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    kinds = [kind for kind in TRAINED_KINDS if any(_blocks(lines, kind))]
    figure = new_figure((1.6 + 4.2 * len(kinds), 4.0), title)
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    count = max(len(_blocks(lines, kind)) for kind in kinds)
    shades = ScalarMappable(Normalize(1, max(count, 2)), colormaps['viridis'])
    colours = shades.to_rgba(np.arange(1, count + 1))
    steps = [step for step, _ in lines]
    for axes, kind in zip(panels, kinds, strict=True):
        heading, label = TRAINED_KINDS[kind]
        for block, colour in zip(_blocks(lines, kind), colours, strict=False):
            values = [figures.get(f'{kind}/{block}') for _, figures in lines]
            numbers = [float('nan') if x is None else x for x in values]
            axes.plot(steps, numbers, color=colour, linewidth=1.2)
        axes.set_title(heading, fontsize='medium')
        axes.set(xlabel='step', ylabel=label)
        plain_log(axes)
        axes.grid(axis='y', alpha=0.3)
    figure.colorbar(shades, ax=list(panels), label='block, in order')
    return figure


def _blocks(lines: Lines, kind: str) -> list[str]:
    """The blocks that have a figure of this kind, in order."""
    prefix = f'{kind}/'
    return [key.removeprefix(prefix) for key in lines[0][1] if key.startswith(prefix)]
