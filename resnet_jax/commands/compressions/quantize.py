"""`resnet-jax compress quantize`."""

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands.compressions.subject import Compressed
from resnet_jax.commands.data_options import add_fit_options
from resnet_jax.errors import InputError, Range, check_choice, check_number

if TYPE_CHECKING:
    from resnet_jax.commands.compressions.subject import Subject

TEXT = 'Weights, and inputs of layers, as integers of a few bits.'
EPILOG = (
    'Batch norm is folded first. Training with quantised weights is `train '
    '--config.model.weight_bits=8 --config.model.activation_bits=8`. Sources: arXiv 1712.05877, '
    '2106.08295.'
)
LOW, HIGH = 4, 8  # bits that --mean-bits chooses from
_BITS = Range(2, 8, whole=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this method."""
    group = parser.add_argument_group('what becomes integers')
    group.add_argument(
        '--bits', type=int, default=8, metavar='N', help='of the weights, 2 to 8 (default: 8)'
    )
    group.add_argument(
        '--activations',
        type=int,
        default=0,
        metavar='N',
        help="bits of the layers' inputs, 2 to 8; 0 (default): they stay floats",
    )
    group.add_argument(
        '--mean-bits',
        type=float,
        metavar='B',
        help=f'{LOW} or {HIGH} bits for each layer, by what they cost, and this mean over all '
        'weights',
    )
    group.add_argument(
        '--keep',
        metavar='LAYER,...',
        help='layers that stay floats, with wildcards, such as stem,head',
    )
    ranges = parser.add_argument_group('the range of the inputs')
    ranges.add_argument(
        '--calibration',
        default='minmax',
        metavar='NAME',
        help='minmax (default): the lowest and highest value; percentile; mse: the least squared '
        'error',
    )
    ranges.add_argument(
        '--percentile', type=float, default=99.99, metavar='P', help='default: 99.99'
    )
    ranges.add_argument(
        '--no-table', action='store_true', help='do not measure what each layer costs'
    )
    add_fit_options(parser, usual=512)


def compress(options: argparse.Namespace, subject: 'Subject') -> Compressed:
    """Folds, calibrates, measures the cost of each layer, and quantises."""
    from resnet_jax.compress import quantize

    _check_options(options)
    check_choice('--calibration', options.calibration, quantize.CALIBRATIONS)
    trained = subject.trained
    model, variables = quantize.floating(trained.model, trained.variables)
    limits = None
    if options.activations:
        limits = quantize.calibrate(
            model,
            variables,
            subject.fitting_examples('--activations'),
            options.calibration,
            bits=options.activations,
            percentile=options.percentile,
        )
    costs: list[Any] = []
    if options.mean_bits is not None or (subject.fitting is not None and not options.no_table):
        costs = quantize.layer_costs(
            model,
            variables,
            subject.fitting_examples('--mean-bits'),
            (LOW, HIGH) if options.mean_bits is not None else (options.bits,),
            limits,
            options.activations,
        )
    kept = [f'{pattern.strip()}=0' for pattern in (options.keep or '').split(',') if pattern]
    entries = []
    if options.mean_bits is not None:
        chosen = quantize.mixed_bits(costs, options.mean_bits)
        entries = [f'{layer}={bits}' for layer, bits in chosen.items() if bits != HIGH]
    smaller, found = quantize.quantize(
        trained.model,
        trained.variables,
        bits=HIGH if options.mean_bits is not None else options.bits,
        activation_bits=options.activations,
        layer_bits=(*entries, *kept),
        limits=limits,
    )
    settings = {
        name: getattr(options, name)
        for name in ('bits', 'activations', 'mean_bits', 'keep', 'calibration', 'percentile')
    }
    notes = {'layers': [dataclasses.asdict(cost) for cost in costs]}
    return Compressed(smaller, found, settings, notes, _printed(costs))


def _check_options(options: argparse.Namespace) -> None:
    check_number('--bits', options.bits, _BITS)
    if options.activations:
        check_number('--activations', options.activations, _BITS)
    elif options.calibration != 'minmax':
        raise InputError('--calibration goes with --activations 8')
    check_number('--percentile', options.percentile, Range(50, 100))
    if options.mean_bits is not None:
        check_number('--mean-bits', options.mean_bits, Range(LOW, HIGH))
        if options.bits != HIGH:
            raise InputError(f'--mean-bits chooses {LOW} or {HIGH} bits; leave --bits out')


def _printed(costs: list[Any]) -> str:
    """The table of the cost of each layer, the most expensive first."""
    if not costs:
        return ''
    rows = [
        [cost.layer, f'{cost.weights:,}', cost.bits, f'{cost.rms:.4f}', f'{cost.loss:+.4f}']
        for cost in sorted(costs, key=lambda cost: -cost.rms)
    ]
    header = ['quantised alone', 'weights', 'bits', 'change of the logits', 'of the loss']
    return '\n' + text.aligned(header, [list(map(str, row)) for row in rows], text.terminal_width())
