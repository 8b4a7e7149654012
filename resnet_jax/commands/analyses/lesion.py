"""`resnet-jax analyze lesion`."""

import argparse
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands.analyses.numbers import whole_numbers
from resnet_jax.commands.analyses.subject import Report
from resnet_jax.errors import Range, check_number

if TYPE_CHECKING:
    from resnet_jax.commands.analyses.subject import Subject

TEXT = 'The error with blocks removed, one by one and several at random, and with blocks swapped.'
EPILOG = 'Of a plain net, the layers that keep the shape are removed too. Source: arXiv 1605.06431.'
_AT_MOST = 12  # numbers of blocks removed or swapped together, by default


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this kind."""
    group = parser.add_argument_group('several blocks at random')
    group.add_argument(
        '--removed',
        metavar='N,N,...',
        help='how many to remove together (default: up to 12 numbers from 1 to all that keep the '
        'shape)',
    )
    group.add_argument(
        '--swapped',
        metavar='N,N,...',
        help='how many pairs to swap (default: up to 12 numbers from 1 to as many as there are)',
    )
    group.add_argument(
        '--draws', type=int, default=10, metavar='N', help='choices for each number (default: 10)'
    )
    group.add_argument('--seed', type=int, default=0, metavar='N', help='of the choices')


def analyse(options: argparse.Namespace, subject: 'Subject') -> Report:
    """Runs the lesion study."""
    from resnet_jax.analysis import lesion
    from resnet_jax.analysis.figures.lesion import draw

    chain = subject.chain
    names = lesion.removable(chain)
    check_number('--draws', options.draws, Range(1, whole=True))
    counts = []
    for option, most, what in (
        ('removed', lesion.most_removals(chain), 'the blocks that keep the shape'),
        ('swapped', lesion.most_swaps(chain), 'the pairs of equal shapes'),
    ):
        given = getattr(options, option)
        chosen = None if given is None else whole_numbers(f'--{option}', given, 1, most, what)
        counts.append(_some(most) if chosen is None else chosen)
    found = lesion.study(
        chain,
        subject.trained.variables,
        subject.examples,
        names,
        *counts,
        draws=options.draws,
        seed=options.seed,
    )
    return Report(found, _printed(found), draw(found, subject.title))


def _some(most: int) -> list[int]:
    """Some numbers from 1 to `most`."""
    import numpy as np

    return sorted({int(n) for n in np.linspace(1, most, _AT_MOST)}) if most else []


def _printed(found: dict[str, Any]) -> str:
    def percent(value: float) -> str:
        return f'{100 * value:.2f}'

    width = text.terminal_width()
    rows = [['nothing', percent(found['error'])]]
    rows += [[name, percent(error)] for name, error in found['removed'].items()]
    parts = [text.aligned(['removed', 'error %'], rows, width)]
    for key, title in (('random', 'removed together'), ('swapped', 'pairs swapped')):
        rows = [
            [n, percent(each['mean']), percent(min(each['errors'])), percent(max(each['errors']))]
            for n, each in found[key].items()
        ]
        if rows:
            header = [title, 'mean error %', 'lowest', 'highest']
            parts.append(text.aligned(header, rows, width))
    return '\n\n'.join(parts)
