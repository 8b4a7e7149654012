"""`resnet-jax analyze paths`."""

import argparse
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands.analyses import networks
from resnet_jax.commands.analyses.numbers import whole_numbers
from resnet_jax.commands.analyses.subject import Report
from resnet_jax.errors import Range, check_number

if TYPE_CHECKING:
    from resnet_jax.commands.analyses.subject import Subject

TEXT = 'How many paths of each length a residual net has, and how much gradient they carry.'
EPILOG = (
    'A path goes through the branch of some blocks, as many as its length, and through the '
    "shortcut of the others; the gradient is that of the cross entropy at the stem's output, "
    'along this path alone. Source: arXiv 1605.06431.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this kind."""
    group = parser.add_argument_group('the paths')
    group.add_argument(
        '--lengths',
        metavar='N,N,...',
        help='lengths to measure (default: up to 25 from 0 to the number of blocks)',
    )
    group.add_argument(
        '--draws',
        type=int,
        default=10,
        metavar='N',
        help='random paths of each length for each batch (default: 10)',
    )
    networks.add_fresh_options(parser, 'of the random paths and of the fresh network')


def analyse(options: argparse.Namespace, subject: 'Subject') -> Report:
    """Measures the paths of the model, and of a fresh one beside it."""
    from resnet_jax.analysis import paths
    from resnet_jax.analysis.figures.paths import draw

    paths.check_residual(subject.chain)
    check_number('--draws', options.draws, Range(1, whole=True))
    lengths, most = None, len(subject.chain.blocks)
    if options.lengths is not None:
        lengths = whole_numbers('--lengths', options.lengths, 0, most, 'the number of blocks')
    found = {
        name: paths.study(
            network, subject.examples, lengths, draws=options.draws, seed=options.seed
        )
        for name, network in networks.open_networks(options, subject).items()
    }
    figures: dict[str, Any] = {**found.pop('trained'), **found}
    return Report(figures, _printed(figures), draw(figures, subject.title))


def _printed(found: dict[str, Any]) -> str:
    nets = {'trained': found} | ({'fresh': found['fresh']} if 'fresh' in found else {})
    rows = [
        [
            length,
            f'{100 * found["share"][length]:.3g}',
            *(f'{net["gradient"][length]["mean"]:.3g}' for net in nets.values()),
            *(
                f'{100 * net["effective"]["contribution"].get(length, 0):.3g}'
                for net in nets.values()
            ),
        ]
        for length in found['gradient']
    ]
    header = [
        'length',
        'paths %',
        *(f'gradient ({n})' for n in nets),
        *(f'total % ({n})' for n in nets),
    ]
    lines = [text.aligned(header, rows, text.terminal_width()), '']
    for name, net in nets.items():
        decay, effective = net['decay'], net['effective']
        if decay is not None and effective['low'] is not None:
            lines.append(
                f'{name}: log gradient {decay:+.3f} per branch; 95 % of the gradient comes from '
                f'paths of length {effective["low"]} to {effective["high"]}, '
                f'{100 * effective["share"]:.3g} % of all'
            )
    return '\n'.join(lines)
