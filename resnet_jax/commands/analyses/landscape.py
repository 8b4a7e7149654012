"""`resnet-jax analyze landscape`."""

import argparse
import math
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands.analyses.subject import Report
from resnet_jax.errors import InputError, Range, check_number

if TYPE_CHECKING:
    from resnet_jax.analysis.directions import Grid
    from resnet_jax.commands.analyses.subject import Subject

TEXT = 'The loss and the error around the weights, or along the path of training.'
EPILOG = (
    'Time grows with points times images: 15 x 15 points of a ResNet-20 on 300 images of 32 '
    'pixels take one to two minutes on two cores. Source: arXiv 1712.09913.'
)
_POINTS = {1: 41, 2: 15}  # by default, of each side


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this kind."""
    group = parser.add_argument_group('the surface')
    group.add_argument(
        '--dimensions', type=int, choices=(1, 2), help='directions: 1 or 2 (default)'
    )
    group.add_argument(
        '--points', type=int, metavar='N', help='of each side (default: 15, along a line 41)'
    )
    group.add_argument(
        '--range',
        type=float,
        metavar='A',
        help='from -A to A (default: 1); at 1 each filter changes by a vector as long as itself',
    )
    group.add_argument('--seed', type=int, default=0, metavar='N', help='of all random directions')
    group.add_argument(
        '--norms', action='store_true', help='also change biases and the parameters of norms'
    )
    group.add_argument(
        '--trajectory',
        action='store_true',
        help="instead of random directions, the plane of the run's checkpoints: of the first two "
        'principal components of their weights',
    )
    group.add_argument(
        '--batch-norm',
        metavar='HOW',
        help='keep: its running statistics stay those of the model (default); recompute: each '
        'point gets those of the examples, in twice the time (default with --trajectory)',
    )
    group.add_argument(
        '--curvature',
        type=int,
        default=0,
        metavar='N',
        help='also compute the N largest eigenvalues and the trace of the Hessian',
    )
    group.add_argument(
        '--chunk',
        type=int,
        metavar='N',
        help='points to compute together (default: on a CPU 1, which is fastest there; else what '
        'fits in about a gigabyte)',
    )
    group.add_argument(
        '--loss-range',
        metavar='LOW,HIGH',
        help='ends of the scale of losses in the pictures, to compare those of several models '
        '(default: those of the surface)',
    )


def analyse(options: argparse.Namespace, subject: 'Subject') -> Report:
    """Measures a loss surface."""
    import numpy as np

    from resnet_jax.analysis import landscape
    from resnet_jax.analysis.directions import random_grid
    from resnet_jax.analysis.figures.landscape import draw, has_plotly, page

    dimensions, points = _check(options)
    ends = _loss_range(options.loss_range)
    model, variables = landscape.unrolled(subject.trained.model, subject.trained.variables)
    how = options.batch_norm or (landscape.RECOMPUTE if options.trajectory else landscape.KEEP)
    way: dict[str, Any] = {}
    if options.trajectory:
        grid, way = _trajectory(options, subject, points)
    else:
        grid = random_grid(
            variables['params'],
            dimensions,
            points,
            1.0 if options.range is None else options.range,
            seed=options.seed,
            norms=options.norms,
        )
    found: dict[str, Any] = {'dimensions': dimensions, 'points': points}
    if not options.trajectory:
        found |= {'seed': options.seed, 'norms': options.norms}
    found |= landscape.study(
        model,
        variables,
        grid,
        subject.examples,
        batch_norm=how,
        chunk=options.chunk or _default_chunk(subject),
        path=np.stack([way['x'], way['y']], axis=1) if way else None,
        progress=True,
    )
    if way:
        found['trajectory'] = {**way, 'loss': found.pop('path')}
    if options.curvature:
        found |= _curvature(options, subject, model, variables)
    files = {}
    if dimensions == 2:
        if has_plotly():
            files['surface.html'] = page(found, subject.title, ends)
        else:
            text.note('no surface.html without plotly: pip install "resnet-jax[analysis]"')
    return Report(found, _printed(found), draw(found, subject.title, ends), files)


def _check(options: argparse.Namespace) -> tuple[int, int]:
    """Refuses options that mean nothing; the dimensions and the points of each side."""
    from resnet_jax.analysis import hessian, landscape
    from resnet_jax.errors import check_choice

    if options.batch_norm is not None:
        check_choice('--batch-norm', options.batch_norm, landscape.BATCH_NORM)
    if options.trajectory:
        if options.workdir is None:
            raise InputError('--trajectory takes the checkpoints of a run: give --workdir DIR')
        for name, given in (
            ('--dimensions 1', options.dimensions == 1),
            ('--range', options.range is not None),
            ('--norms', options.norms),
        ):
            if given:
                raise InputError(f'{name} does not go with --trajectory; leave out one of the two')
    dimensions: int = options.dimensions or 2
    points: int = _POINTS[dimensions] if options.points is None else options.points
    check_number('--points', points, Range(2, whole=True))
    check_number('--curvature', options.curvature, Range(0, whole=True))
    if options.range is not None:
        check_number('--range', options.range, Range(0, open='low'))
    if options.chunk is not None:
        check_number('--chunk', options.chunk, Range(1, whole=True))
    if options.curvature:
        hessian.need_matfree()
    return dimensions, points


def _loss_range(given: str | None) -> tuple[float, float] | None:
    if given is None:
        return None
    try:
        low, high = (float(part) for part in given.split(','))
    except ValueError:
        raise InputError(f'--loss-range takes two numbers like 0.01,10, got {given!r}') from None
    if not 0 < low < high < math.inf:
        raise InputError(f'--loss-range takes two numbers above 0, the lower first, got {given}')
    return low, high


def _default_chunk(subject: 'Subject') -> int:
    from resnet_jax.analysis.landscape import default_chunk

    largest = max(math.prod(part.outputs) for part in subject.chain)
    return default_chunk(subject.examples.batch_size, largest)


def _trajectory(
    options: argparse.Namespace, subject: 'Subject', points: int
) -> 'tuple[Grid, dict[str, Any]]':
    """The grid in the plane of a run's checkpoints, and their way through it."""
    from resnet_jax.analysis import trajectory

    weights = trajectory.read_checkpoints(options.workdir, subject.trained.origin['step'])
    found = trajectory.plane(list(weights.values()))
    way = {
        'steps': list(weights),
        'x': found.path[:, 0].tolist(),
        'y': found.path[:, 1].tolist(),
        'explained': list(found.explained),
    }
    return trajectory.plane_grid(found, points), way


def _curvature(
    options: argparse.Namespace, subject: 'Subject', model: Any, variables: Any
) -> dict[str, Any]:
    import jax
    from tqdm import tqdm

    from resnet_jax.analysis import hessian

    size = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    if options.curvature > size:
        raise InputError(f'--curvature must be at most {size}, the number of parameters')
    total = hessian.lanczos_steps(options.curvature, size) + hessian.PROBES
    with tqdm(total=total, unit='product', delay=1, disable=None) as bar:
        return hessian.curvature(
            model,
            variables,
            subject.examples,
            options.curvature,
            seed=options.seed,
            notice=bar.update,
        )


def _printed(found: dict[str, Any]) -> str:
    import numpy as np

    losses, errors = np.asarray(found['loss']), np.asarray(found['error'])
    rows = [
        ['at the weights', f'{found["centre"]:.4g}', f'{100 * found["centre_error"]:.2f}'],
        ['lowest', f'{losses.min():.4g}', f'{100 * errors.min():.2f}'],
        ['median', f'{np.median(losses):.4g}', f'{100 * np.median(errors):.2f}'],
        ['highest', f'{losses.max():.4g}', f'{100 * errors.max():.2f}'],
    ]
    width = text.terminal_width()
    parts = [text.aligned([f'{losses.size} points', 'loss', 'error %'], rows, width)]
    if 'trajectory' in found:
        first, second = found['trajectory']['explained']
        parts.append(
            f'{len(found["trajectory"]["steps"])} checkpoints; the plane explains '
            f'{100 * first:.1f} % and {100 * second:.1f} % of their variance'
        )
    if 'eigenvalues' in found:
        pairs = zip(found['eigenvalues'], found['residuals'], strict=True)
        rows = [[str(i), f'{v:.5g}', f'{r:.2g}'] for i, (v, r) in enumerate(pairs, 1)]
        rows.append(['smallest', f'{found["smallest_eigenvalue"]:.5g}', text.NOTHING])
        rows.append(['trace', f'{found["trace"]:.5g}', f'{found["trace_error"]:.2g}'])
        parts.append(text.aligned(['eigenvalue', 'value', '+-'], rows, width))
    return '\n\n'.join(parts)
