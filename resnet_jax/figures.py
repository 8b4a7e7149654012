"""What every figure needs: text that Matplotlib draws, colours, and files."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax.errors import InputError
from resnet_jax.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Look = tuple[str, tuple[int, ...]]  # colour and dashes of a line
# Distinguishable on white and on black, and with most kinds of colour blindness.
COLOURS = (
    *('#3b7dd8', '#e07b22', '#2f9e55', '#c94f7c', '#8a63d2', '#b8860b', '#1b9aaa', '#8c7565'),
)
# Dashes of further rounds through the colours: lengths of strokes and gaps, in line widths.
DASHES: tuple[tuple[int, ...], ...] = ((), (5, 2), (1, 2), (6, 2, 1, 2))


@functools.cache
def _characters() -> frozenset[int]:
    """Those that Matplotlib's own font has."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont('DejaVu Sans')).get_charmap())


def figure_text(text: str, instead: str | None = None) -> str:
    """A text as Matplotlib draws it without complaint: dollar signs begin no formula.

    Args:
      text: the text, such as the name of a class.
      instead: drawn where the font lacks characters of the text; by default they become '?'.
    """
    plain = printable(text)
    missing = {c for c in plain if ord(c) not in _characters()}
    if missing and instead is not None:
        return instead
    return ''.join('?' if c in missing else c for c in plain).replace('$', r'\$')


def new_figure(size: tuple[float, float], title: str) -> 'Figure':
    """An empty figure of a size in inches, with a title."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout='constrained')
    FigureCanvasAgg(figure)
    figure.suptitle(figure_text(title), wrap=True)
    return figure


def styles(names: Sequence[str]) -> dict[str, Look]:
    """Name of a line -> its colour and dashes."""
    rounds = len(COLOURS)
    return {
        name: (COLOURS[i % rounds], DASHES[i // rounds % len(DASHES)])
        for i, name in enumerate(names)
    }


def write_figures(figures: 'Mapping[str, Figure]', folder: Path) -> list[Path]:
    """Writes Matplotlib figures as PNG and SVG.

    Args:
      figures: name of a file, without its extension -> figure.
      folder: for the files.

    Returns:
      The PNGs and then the SVGs.

    Raises:
      InputError: if they cannot be written.
    """
    import matplotlib

    paths = [folder / f'{name}.{kind}' for kind in ('png', 'svg') for name in figures]
    # The same figures give the same files.
    fixed: Any = {'svg.hashsalt': 'resnet_jax', 'svg.fonttype': 'none'}
    try:
        with matplotlib.rc_context(fixed):
            for path in paths:
                metadata = {'Date': None} if path.suffix == '.svg' else None
                figures[path.stem].savefig(path, dpi=150, metadata=metadata)
    except OSError as error:
        raise InputError(f'cannot write figures in {folder}: {error.strerror}') from error
    return paths
