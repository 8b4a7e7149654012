"""`resnet-jax compress factorize`."""

import argparse
from typing import TYPE_CHECKING

from resnet_jax import text
from resnet_jax.commands.compressions.subject import Compressed
from resnet_jax.errors import InputError, Range, check_number

if TYPE_CHECKING:
    from resnet_jax.commands.compressions.subject import Subject

TEXT = 'Convolutions as products of thinner ones, by the decomposition of their kernels.'
EPILOG = (
    'Without training behind it, accuracy falls fast: train the result further. Sources: arXiv '
    '1511.06530, 1405.3866.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this method."""
    group = parser.add_argument_group('the ranks, by one of')
    group.add_argument(
        '--energy',
        type=float,
        metavar='E',
        help='the share of the squared singular values that each convolution keeps, in (0, 1]',
    )
    group.add_argument(
        '--budget',
        type=float,
        metavar='SHARE',
        help='the multiply-adds of the result, as a share of those of the original, in (0, 1]',
    )


def compress(options: argparse.Namespace, subject: 'Subject') -> Compressed:
    """Factors the convolutions that become cheaper."""
    from resnet_jax.compress import factorize
    from resnet_jax.models.counting import count
    from resnet_jax.models.stages import unstack_blocks

    if (options.energy is None) == (options.budget is None):
        raise InputError('give one of --energy and --budget, such as --budget 0.6')
    for name in ('energy', 'budget'):
        value = getattr(options, name)
        if value is not None:
            check_number(f'--{name}', value, Range(0, 1, open='low'))
    model, pre = subject.trained.model.unrolled(), subject.trained.preprocessing
    variables = unstack_blocks(subject.trained.variables)
    shape = pre.model_shape
    layers = factorize.layers_of(model, shape)
    values = factorize.spectra(variables, layers)
    if options.budget is None:
        ranks = factorize.ranks_by_energy(layers, values, options.energy)
    else:
        scanned = model.clone(scan_blocks=model.scannable)
        whole = count(scanned, shape).multiply_adds
        others = whole - sum(layer.multiply_adds for layer in layers.values())
        ranks = factorize.ranks_for_budget(layers, values, others, int(options.budget * whole))
    if not ranks:
        raise InputError('no convolution becomes cheaper at these ranks; keep less')
    smaller, found, errors = factorize.factorize(model, variables, ranks)
    rows = [
        [
            path,
            f'{layers[path].inputs} to {layers[path].outputs}',
            entry.rpartition('=')[2],
            f'{layers[path].factored_multiply_adds(ranks[path]) / layers[path].multiply_adds:.2f}',
            f'{errors[path]:.3f}',
        ]
        for path, entry in zip(ranks, smaller.ranks, strict=True)
    ]
    header = ['convolution', 'channels', 'ranks', 'multiply-adds, ratio', 'relative error']
    printed = '\n' + text.aligned(header, rows, text.terminal_width())
    settings = {'energy': options.energy, 'budget': options.budget}
    return Compressed(smaller, found, settings, {'kernel_errors': errors}, printed)
