"""Pictures of a loss surface."""

import functools
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from resnet_jax.figures import COLOURS, figure_text, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Ends = tuple[float, float]
_COLOURS = 'viridis'
_LEAST = 1e-6  # nats: the logarithmic scale begins no lower
_DIRECTIONS = ('first random direction', 'second random direction')
_STATISTICS = {
    'keep': "batch norm's running statistics kept",
    'recompute': "batch norm's statistics recomputed at each point",
    'none': 'no batch norm',
}


def caption(found: Mapping[str, Any]) -> str:
    """What a reader must know about a surface.

    Args:
      found: as the command `analyze landscape` writes it.
    """
    parts = [_STATISTICS[found['batch_norm']]]
    if 'trajectory' in found:
        parts.append('the plane in which the weights of the checkpoints vary most')
    else:
        others = 'changed' if found['norms'] else 'unchanged'
        parts.append('directions normalised by filter')
        parts.append(f'biases and parameters of norms {others}')
    return '; '.join(parts)


def draw(
    found: Mapping[str, Any], title: str, loss_range: Ends | None = None
) -> 'dict[str, Figure]':
    """Loss and error along a line, or contours and a view of the surface.

    Args:
      found: as the command `analyze landscape` writes it.
      title: of the figures.
      loss_range: ends of the scale of losses; None: those of the surface.
    """
    ends = loss_range or loss_ends(found)
    if found['dimensions'] == 1:
        return {'line': _line(found, title, ends)}
    return {'contour': _contour(found, title, ends), 'surface': _surface(found, title, ends)}


def loss_ends(found: Mapping[str, Any]) -> Ends:
    """The least and the largest finite loss of a surface, for a logarithmic scale."""
    losses = np.asarray(found['loss'], float)
    finite = losses[np.isfinite(losses)]
    if not finite.size:
        return 1.0, 10.0
    low = max(float(finite.min()), _LEAST)
    return low, max(float(finite.max()), 1.05 * low)


def ticks(ends: Ends, about: int = 8) -> list[float]:
    """Round numbers for a logarithmic scale: the fewest digits that give at least four of them.

    Args:
      ends: of the scale.
      about: upper limit of their number.
    """
    low, high = ends
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    found: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), tuple(range(1, 10)), tuple(np.arange(10, 100) / 10)):
        every = [float(f'{d * 10.0**p:.3g}') for p in powers for d in digits]
        found = [value for value in every if low <= value <= high]
        if len(found) >= 4:
            break
    else:
        found = [float(f'{value:.4g}') for value in np.linspace(low, high, 5)]
    return found[:: -(-len(found) // about)]


def _clipped(found: Mapping[str, Any], ends: Ends) -> Float[np.ndarray, 'rows columns']:
    """The losses within the scale; those that are not finite are at its upper end."""
    losses = np.nan_to_num(np.asarray(found['loss'], float), nan=np.inf)
    return np.clip(losses, *ends)


def axis_names(found: Mapping[str, Any], what: str = ' of the variance') -> tuple[str, str]:
    """What stands beside the axes; `what` follows the shares of a trajectory's directions."""
    if 'trajectory' not in found:
        return _DIRECTIONS
    shares = found['trajectory']['explained']
    first, second = (
        f'{which} principal direction ({100 * share:.1f} %{what})'
        for which, share in zip(('first', 'second'), shares, strict=True)
    )
    return first, second


def _line(found: Mapping[str, Any], title: str, ends: Ends) -> 'Figure':
    figure = new_figure((6.5, 5.6), title)
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(found['x'], _clipped(found, ends), color=COLOURS[0], marker='.', markersize=4)
    above.set_yscale('log')
    _log_ticks(above.yaxis, ends)
    above.set_ylim(ends[0] / 1.1, ends[1] * 1.1)
    above.set_ylabel('loss (nats)')
    errors = [100 * error for error in found['error']]
    below.plot(found['x'], errors, color=COLOURS[1], marker='.', markersize=4)
    below.set_ylim(0, 100)
    below.set_ylabel('error (%)')
    below.set_xlabel(_DIRECTIONS[0])
    for axes in (above, below):
        axes.axvline(0, color='#555555', linestyle='--', linewidth=1)
        axes.grid(alpha=0.3)
    figure.supxlabel(caption(found), size='small')
    return figure


def _log_ticks(axis: Any, ends: Ends) -> None:
    from matplotlib.ticker import NullLocator

    marks = ticks(ends)
    axis.set_ticks(marks, [f'{mark:g}' for mark in marks])
    axis.set_minor_locator(NullLocator())


def _contour(found: Mapping[str, Any], title: str, ends: Ends) -> 'Figure':
    from matplotlib.colors import LogNorm

    figure = new_figure((7.2, 6.2), title)
    axes = figure.add_subplot()
    losses, scale = _clipped(found, ends), LogNorm(*ends)
    x, y = found['x'], found['y']
    levels = np.geomspace(*ends, 41)
    filled = axes.contourf(x, y, losses, levels, norm=scale, cmap=_COLOURS, extend='both')
    marks = ticks(ends)
    lines = axes.contour(x, y, losses, marks, colors='white', linewidths=0.8)
    axes.clabel(lines, fmt=lambda value: f'{value:g}', fontsize='x-small')
    bar = figure.colorbar(filled, ax=axes, label='loss (nats)')
    _log_ticks(bar.ax.yaxis, ends)
    if 'trajectory' in found:
        _path(axes, found['trajectory'])
    else:
        axes.plot(0, 0, '+', color='white', markersize=9)
        axes.set_aspect('equal')
    first, second = axis_names(found)
    axes.set_xlabel(first)
    axes.set_ylabel(second)
    figure.supxlabel(figure_text(caption(found)), size='small')
    return figure


def _path(axes: Any, way: Mapping[str, Any]) -> None:
    """The checkpoints, the first and the last with their steps."""
    axes.plot(way['x'], way['y'], 'o-', color='#e8443a', markersize=4, linewidth=1.4)
    for i, shift in ((0, 9), (-1, -9)):
        axes.annotate(
            f'step {way["steps"][i]:,}',
            (way['x'][i], way['y'][i]),
            xytext=(0, shift),
            textcoords='offset points',
            ha='center',
            va='bottom' if shift > 0 else 'top',
            size='small',
            color='white',
            bbox={'boxstyle': 'round,pad=0.15', 'color': '#00000088'},
        )


def _surface(found: Mapping[str, Any], title: str, ends: Ends) -> 'Figure':
    from matplotlib.ticker import MaxNLocator

    figure = new_figure((7.2, 6.2), title)
    axes: Any = figure.add_subplot(projection='3d', computed_zorder=False)
    x, y = np.meshgrid(found['x'], found['y'])
    heights = np.log10(_clipped(found, ends))
    low, high = np.log10(ends)
    floor = low - 0.35 * (high - low)
    shared: dict[str, Any] = {'cmap': _COLOURS, 'vmin': low, 'vmax': high}
    levels = np.linspace(low, high, 25)
    axes.contourf(x, y, heights, levels, zdir='z', offset=floor, alpha=0.8, **shared)
    axes.plot_surface(
        x, y, heights, rstride=1, cstride=1, edgecolor='#00000030', linewidth=0.3, **shared
    )
    if 'trajectory' in found:
        way = found['trajectory']
        losses = np.log10(np.clip(way['loss'], *ends)) + 0.02 * (high - low)
        axes.plot(way['x'], way['y'], losses, 'o-', color='#e8443a', markersize=3, linewidth=1.4)
    axes.set_zlim(floor, high)
    marks = ticks(ends, 6)
    axes.set_zticks(np.log10(marks), [f'{mark:g}' for mark in marks])
    axes.set_zlabel('loss (nats)')
    first, second = axis_names(found, what='')
    for axis, name in ((axes.xaxis, first), (axes.yaxis, second)):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_tick_params(labelsize='small')
        axis.set_label_text(name, size='small')
        axis.labelpad = 8
    axes.view_init(elev=32, azim=-58)
    axes.set_box_aspect((4, 4, 3), zoom=0.95)  # leaves room for the label of the heights
    figure.supxlabel(figure_text(caption(found)), size='small')
    return figure


def has_plotly() -> bool:
    """Whether an interactive page can be written."""
    return importlib.util.find_spec('plotly') is not None


def page(
    found: Mapping[str, Any], title: str, loss_range: Ends | None = None
) -> Callable[[Path], None]:
    """What writes a page with the surface, to turn and to point at, and its contours.

    The page holds all of plotly, about 5 MB, and needs no network.

    Args:
      found: as in `draw`, in two dimensions.
      title: of the page.
      loss_range: as in `draw`.
    """
    return functools.partial(_write_page, found, title, loss_range or loss_ends(found))


def _write_page(found: Mapping[str, Any], title: str, ends: Ends, path: Path) -> None:
    from plotly import graph_objects as go
    from plotly.subplots import make_subplots

    heights = np.log10(_clipped(found, ends)).tolist()
    errors = [[100 * error for error in row] for row in found['error']]
    marks = ticks(ends)
    places = np.log10(marks).tolist()
    names = [f'{mark:g}' for mark in marks]
    low, high = (float(end) for end in np.log10(ends))
    shared: dict[str, Any] = {
        'x': found['x'],
        'y': found['y'],
        'z': heights,
        'customdata': np.dstack([np.asarray(found['loss'], float), errors]).tolist(),
        'colorscale': 'Viridis',
        'hovertemplate': '%{x:.3f}, %{y:.3f}<br>loss %{customdata[0]:.4g} nats'
        '<br>error %{customdata[1]:.1f} %<extra></extra>',
    }
    bar = {'title': {'text': 'loss (nats)'}, 'tickvals': places, 'ticktext': names}
    figure = make_subplots(1, 2, specs=[[{'type': 'surface'}, {'type': 'xy'}]])
    lines = {'show': True, 'project': {'z': True}, 'start': low, 'end': high}
    figure.add_trace(
        go.Surface(
            cmin=low,
            cmax=high,
            contours={'z': {**lines, 'size': (high - low) / 12, 'usecolormap': True}},
            showscale=False,
            **shared,
        ),
        1,
        1,
    )
    figure.add_trace(go.Contour(zmin=low, zmax=high, ncontours=24, colorbar=bar, **shared), 1, 2)
    if 'trajectory' in found:
        _add_path(figure, go, found['trajectory'], ends)
    first, second = axis_names(found)
    figure.update_layout(
        title={'text': f'{_html(title)}<br><sub>{_html(caption(found))}</sub>'},
        showlegend=False,
        scene={
            # A little further away than by default, where the axes' titles are cut off.
            'camera': {'eye': {'x': 1.6, 'y': 1.6, 'z': 1.2}},
            'xaxis': {'title': {'text': first}},
            'yaxis': {'title': {'text': second}},
            'zaxis': {'title': {'text': 'loss (nats)'}, 'tickvals': places, 'ticktext': names},
        },
    )
    figure.update_xaxes(title={'text': first})
    figure.update_yaxes(title={'text': second})
    text = figure.to_html(include_plotlyjs=True, div_id='landscape')
    path.write_text(text, encoding='utf-8')


def _add_path(figure: Any, go: Any, way: Mapping[str, Any], ends: Ends) -> None:
    names = [f'step {step:,}' for step in way['steps']]
    heights = np.log10(np.clip(way['loss'], *ends)).tolist()
    look: dict[str, Any] = {
        'x': way['x'],
        'y': way['y'],
        'mode': 'lines+markers',
        'text': names,
        'hovertemplate': '%{text}<extra></extra>',
    }
    red = '#e8443a'
    marker = {'size': 4, 'color': red}
    line = {'color': red, 'width': 4}
    figure.add_trace(go.Scatter3d(z=heights, marker=marker, line=line, **look), 1, 1)
    figure.add_trace(
        go.Scatter(marker={'size': 6, 'color': red}, line={'color': red}, **look), 1, 2
    )


def _html(text: str) -> str:
    import html

    return html.escape(text)
