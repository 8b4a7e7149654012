"""Figures of a sweep's report, as PNG and SVG."""

from pathlib import Path
from typing import Any

from resnet_jax.experiments.reports.findings import Arm, Findings

# Told apart on white and on black, and by most of those who see colours otherwise.
COLOURS = (
    *('#3b7dd8', '#e07b22', '#2f9e55', '#c94f7c', '#8a63d2', '#b8860b', '#1b9aaa', '#8c7565'),
)
# Of further rounds through the colours: lengths of strokes and gaps, in line widths.
DASHES: tuple[tuple[int, ...], ...] = ((), (5, 2), (1, 2), (6, 2, 1, 2))
_INCHES = (9.0, 4.2)


def styles(count: int) -> list[tuple[str, tuple[int, ...]]]:
    """Colour and dashes of so many arms."""
    rounds = len(COLOURS)
    return [(COLOURS[i % rounds], DASHES[i // rounds % len(DASHES)]) for i in range(count)]


def write_figures(findings: Findings, curves: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Draws the curves and the final errors.

    Args:
      findings: of the sweep.
      curves: as `findings.curves` gives them.
      folder: for curves.png, curves.svg, final_error.png and final_error.svg.

    Returns:
      The PNGs and then the SVGs.
    """
    drawn = {'curves': _curves(findings, curves), 'final_error': _final(findings)}
    return [
        _save(figure, folder / f'{n}.{kind}')
        for kind in ('png', 'svg')
        for n, figure in drawn.items()
    ]


def _save(figure: Any, path: Path) -> Path:
    import matplotlib

    # The same findings give the same file.
    fixed: Any = {'svg.hashsalt': 'resnet_jax', 'svg.fonttype': 'none'}
    with matplotlib.rc_context(fixed):
        figure.savefig(path, dpi=150, metadata={'Date': None} if path.suffix == '.svg' else None)
    return path


def _figure(size: tuple[float, float], title: str) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout='constrained')
    FigureCanvasAgg(figure)
    figure.suptitle(_plain(title), wrap=True)
    return figure


def _plain(text: str) -> str:
    """Dollar signs as they are, not as the beginning of a formula."""
    return text.replace('$', r'\$')


def _curves(findings: Findings, curves: list[dict[str, Any]]) -> Any:
    arms = [arm.name for arm in findings.arms]
    looks = dict(zip(arms, styles(len(arms)), strict=True))
    legend_rows = -(-len(arms) // 3)
    figure = _figure((_INCHES[0], _INCHES[1] + 0.25 * legend_rows), findings.sweep.title)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, split in zip(panels, ('train', 'test'), strict=True):
        for curve in (curve for curve in curves if curve['split'] == split and curve['mean']):
            steps, mean, low, high = zip(*curve['mean'], strict=True)
            colour, dashes = looks[curve['arm']]
            marker = '.' if len(steps) < 30 else ''
            axes.plot(steps, mean, color=colour, dashes=dashes, marker=marker, linewidth=1.5)
            if len(curve['seeds']) > 1:
                axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.set_xlabel('training step')
        axes.xaxis.get_major_locator().set_params(integer=True)
        name = 'training' if split == 'train' else 'test'
        axes.set_ylabel(f'{name} error, top-1 (%)')
        axes.set_title('training, augmented images' if split == 'train' else 'test', fontsize=10)
        axes.grid(alpha=0.3)
    _legend(figure, looks)
    return figure


def _legend(figure: Any, looks: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Below the panels, for all arms; the drawn ones may be fewer."""
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=colour, dashes=dashes, label=_plain(_short(arm)))
        for arm, (colour, dashes) in looks.items()
    ]
    figure.legend(
        handles=lines,
        loc='outside lower center',
        ncols=min(3, len(lines)),
        fontsize=8,
        title='line: mean over seeds; band: from the lowest to the highest seed',
        title_fontsize=8,
        handlelength=3.5,
    )


def _short(text: str, limit: int = 44) -> str:
    return text if len(text) <= limit else f'{text[: limit - 1]}…'


def _final(findings: Findings) -> Any:
    """Arms from above to below: a dot for each seed, mean and interval."""
    looks = styles(len(findings.arms))
    figure = _figure((_INCHES[0], 1.6 + 0.42 * len(findings.arms)), findings.sweep.title)
    axes = figure.subplots()
    for place, (arm, (colour, _)) in enumerate(zip(findings.arms, looks, strict=True)):
        _final_row(axes, place, arm, colour)
    names = [_plain(_short(arm.name)) for arm in findings.arms]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, 0), min(high, 100))  # an interval of two seeds may go far beyond
    axes.set_ylabel('arm')
    published = any(arm.published is not None for arm in findings.arms)
    axes.set_xlabel(
        'final test error, top-1 (%)\n'
        'dots: seeds; diamond and bar: mean and its 95 % interval'
        + ('; cross: published' if published else ''),
        fontsize=9,
    )
    axes.grid(axis='x', alpha=0.3)
    return figure


def _final_row(axes: Any, place: int, arm: Arm, colour: str) -> None:
    if arm.published is not None:
        axes.plot(arm.published, place - 0.22, 'x', color='black', markersize=7)
    if arm.error is None:
        axes.text(
            0.01, place, 'no run has ended', transform=axes.get_yaxis_transform(), va='center'
        )
        return
    errors = [run.final.error for run in arm.runs if run.final is not None]
    axes.plot(errors, [place + 0.22] * len(errors), 'o', color=colour, alpha=0.55, markersize=4)
    if arm.error.low is not None and arm.error.high is not None:
        axes.plot([arm.error.low, arm.error.high], [place, place], color=colour, linewidth=2)
    axes.plot(arm.error.mean, place, 'D', color=colour, markersize=6)
