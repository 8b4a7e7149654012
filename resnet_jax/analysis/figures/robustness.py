"""Pictures of a study of robustness."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from resnet_jax.analysis.corruptions import corrupt
from resnet_jax.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE = 0.9  # inches, of an example under one corruption
_LABEL = 1.3  # inches, of the corruption's name


def draw(found: Mapping[str, Any], title: str) -> 'dict[str, Figure]':
    """The error by corruption and severity, as a heat map.

    Args:
      found: as `robustness.study` returns it.
      title: of the figure.
    """
    names = list(found['error'])
    severities = list(found['error'][names[0]])
    table = np.array([[*found['error'][name].values(), found['mean'][name]] for name in names])
    figure = new_figure((3.6 + 0.75 * len(severities), 2.0 + 0.32 * len(names)), title)
    axes = figure.add_subplot()
    image = axes.imshow(100 * table, cmap='YlOrRd', vmin=0, vmax=100, aspect='auto')
    axes.axvline(len(severities) - 0.5, color='white', linewidth=3)
    axes.set_xticks(range(len(severities) + 1), [*severities, 'mean'])
    axes.set_yticks(range(len(names)), [_shown(name, found['frost']) for name in names])
    for i, j in np.ndindex(*table.shape):
        colour = 'white' if table[i, j] > 0.6 else 'black'
        axes.text(
            j, i, f'{100 * table[i, j]:.1f}', ha='center', va='center', color=colour, size='small'
        )
    axes.set_xlabel('severity')
    mean = f'mean over all: {100 * found["mean_error"]:.2f} %'
    axes.set_title(f'undamaged: {100 * found["clean"]:.2f} %, {mean}', size='medium')
    figure.colorbar(image, label='error (%)')
    return {'errors': figure}


def sheet(
    image: UInt8[np.ndarray, 'side side c'],
    index: int,
    names: Sequence[str],
    severities: Sequence[int],
    seed: int,
    frost: str,
    title: str,
) -> 'Figure':
    """One example under all corruptions, a row each, as the model sees it.

    Args:
      image: of the example, after resize and crop.
      index: of the example, as in `corrupt`.
      names: keys of `CORRUPTIONS`.
      severities: a column each, behind the image itself.
      seed: as in `corrupt`.
      frost: as in `corrupt`.
      title: of the figure.
    """
    columns = (0, *severities)
    size = (_LABEL + PICTURE * len(columns), 0.8 + PICTURE * len(names))
    figure = new_figure(size, title)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)  # type: ignore
    panels = figure.subplots(len(names), len(columns), squeeze=False)
    for row, name in zip(panels, names, strict=True):
        for axes, severity in zip(row, columns, strict=True):
            axes.imshow(
                _colours(corrupt(image, name, severity, seed, index, frost)),
                interpolation='nearest',
            )
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if name == names[0]:
                axes.set_title(f'severity {severity}' if severity else 'undamaged', size='small')
        row[0].set_ylabel(_shown(name, frost), rotation=0, ha='right', va='center', size='small')
    return figure


def _shown(name: str, frost: str) -> str:
    plain = name.replace('_', ' ')
    return f'{plain} (computed)' if name == 'frost' and frost == 'procedural' else plain


def _colours(image: np.ndarray) -> np.ndarray:
    return np.broadcast_to(image, (*image.shape[:2], 3))
