"""`resnet-jax compress prune`."""

import argparse
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands.compressions.subject import Compressed
from resnet_jax.commands.data_options import add_fit_options
from resnet_jax.errors import InputError, Range, check_choice, check_number

if TYPE_CHECKING:
    from resnet_jax.commands.compressions.subject import Subject

TEXT = 'Weights to zero, or whole channels and blocks out of the network.'
EPILOG = (
    'With --unit channel the network becomes smaller and faster, with --unit block shallower. '
    'Sources: arXiv 1506.02626, 2104.08378, 1608.08710, 1906.10771, 1605.06431.'
)
UNITS = ('weight', 'channel', 'block', 'stream')
CRITERIA = ('magnitude', 'taylor')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this method."""
    group = parser.add_argument_group('what to prune')
    group.add_argument(
        '--unit',
        default='weight',
        metavar='NAME',
        help='weight (default): the smallest become zero; channel: inside the branches, those that '
        'matter least are taken out; block: whole ones; stream: the channels that blocks pass on',
    )
    group.add_argument(
        '--sparsity', type=float, metavar='S', help='the share of weights or channels, in (0, 1)'
    )
    group.add_argument(
        '--pattern', metavar='N:M', help='of weights: keep N of each M input channels, such as 2:4'
    )
    group.add_argument('--blocks', type=int, metavar='N', help='how many blocks')
    group.add_argument(
        '--criterion',
        default='magnitude',
        metavar='NAME',
        help='of channels: magnitude (default), the size of filters; taylor, what the loss would '
        'lose, measured on images',
    )
    group.add_argument(
        '--multiple',
        type=int,
        default=1,
        metavar='N',
        help='of channels: each convolution keeps a multiple of N, which some devices compute '
        'faster (default: 1)',
    )
    add_fit_options(parser, usual=512)


def compress(options: argparse.Namespace, subject: 'Subject') -> Compressed:
    """Prunes."""
    check_choice('--unit', options.unit, UNITS)
    check_choice('--criterion', options.criterion, CRITERIA)
    _check_options(options)
    run = {'weight': _weights, 'channel': _channels, 'block': _blocks, 'stream': _channels}
    return run[options.unit](options, subject)


def _check_options(options: argparse.Namespace) -> None:
    """Refuses options that the unit does not have, and numbers out of range."""
    takes = {
        'weight': ('sparsity', 'pattern'),
        'channel': ('sparsity', 'criterion', 'multiple'),
        'block': ('blocks',),
        'stream': ('sparsity', 'criterion', 'multiple'),
    }
    usual = {'criterion': 'magnitude', 'multiple': 1}
    for name in ('sparsity', 'pattern', 'blocks', 'criterion', 'multiple'):
        if getattr(options, name) != usual.get(name) and name not in takes[options.unit]:
            raise InputError(f'--{name} does not go with --unit {options.unit}; leave it out')
    if options.pattern is not None:
        if options.sparsity is not None:
            raise InputError('--pattern says how many weights stay; leave --sparsity out')
        return
    needed = 'blocks' if options.unit == 'block' else 'sparsity'
    if getattr(options, needed) is None:
        raise InputError(
            f'--unit {options.unit} needs --{needed}, such as --{needed} '
            + ('2' if needed == 'blocks' else '0.5')
        )
    if needed == 'sparsity':
        check_number('--sparsity', options.sparsity, Range(0, 1, open='high'))
    else:
        check_number('--blocks', options.blocks, Range(1, whole=True))
    check_number('--multiple', options.multiple, Range(1, 2**16, whole=True))


def _weights(options: argparse.Namespace, subject: 'Subject') -> Compressed:
    from resnet_jax.compress.prune import prune_weights

    trained = subject.trained
    variables = prune_weights(trained.variables, options.sparsity or 0.0, options.pattern)
    settings = {'unit': 'weight', 'sparsity': options.sparsity, 'pattern': options.pattern}
    return Compressed(trained.model, variables, settings)


def _channels(options: argparse.Namespace, subject: 'Subject') -> Compressed:
    from resnet_jax.compress import prune, stream
    from resnet_jax.models.stages import unstack_blocks

    model = subject.trained.model.unrolled()
    variables = unstack_blocks(subject.trained.variables)
    unit: Any = stream if options.unit == 'stream' else prune
    if options.criterion == 'taylor':
        fitting = subject.fitting_examples('--criterion taylor')
        scores = unit.taylor_scores(model, variables, fitting)
    else:
        scores = unit.magnitude_scores(model, variables)
    if options.unit == 'stream':
        kept = stream.choose_channels(model, scores, options.sparsity, options.multiple)
    else:
        kept = prune.choose_channels(scores, options.sparsity, options.multiple)
    smaller, found = unit.keep_channels(model, variables, kept)
    rows = [[path, f'{len(kept[path])} of {len(scores[path])}'] for path in scores]
    header = ['part' if options.unit == 'stream' else 'convolution', 'channels']
    printed = '\n' + text.aligned(header, rows, text.terminal_width())
    settings = {
        'unit': options.unit,
        'sparsity': options.sparsity,
        'criterion': options.criterion,
        'multiple': options.multiple,
    }
    notes: dict[str, Any] = {'channels': {path: len(kept[path]) for path in kept}}
    return Compressed(smaller, found, settings, notes, printed)


def _blocks(options: argparse.Namespace, subject: 'Subject') -> Compressed:
    from resnet_jax.analysis.parts import chain
    from resnet_jax.compress import prune

    trained, pre = subject.trained, subject.trained.preprocessing
    parts = chain(trained.model, pre.model_space, pre.channels)
    chosen: dict[str, float] = {}
    names = prune.choose_blocks(
        trained.model,
        parts,
        trained.variables,
        subject.fitting_examples('--unit block'),
        options.blocks,
        chosen.__setitem__,
    )
    model, variables = prune.remove_blocks(trained.model, trained.variables, names)
    rows = [[name, f'{100 * error:.2f}'] for name, error in chosen.items()]
    header = ['removed, in this order', 'error % on the images looked at']
    printed = '\n' + text.aligned(header, rows, text.terminal_width())
    settings = {'unit': 'block', 'blocks': options.blocks}
    return Compressed(model, variables, settings, {'removed': chosen}, printed)
