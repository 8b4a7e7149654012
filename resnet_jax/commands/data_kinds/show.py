"""`resnet-jax data show`."""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_jax.commands import data_options
from resnet_jax.errors import InputError, Range, check_number
from resnet_jax.text import printable, shortened

if TYPE_CHECKING:
    from resnet_jax.training.preview import Preview

TEXT = 'Draw training examples as they are stored, as they are read, and as the model sees them.'
EPILOG = (
    'The examples are the first of the first batch, read and augmented as the run would, with its '
    'seed; --config.seed=N shows others.'
)
MOST = 128  # examples in a picture
_ACROSS = 8  # examples in a row
_SIDE, _TEXT = 1.3, 0.55  # inches, of a picture and of the words of a row
_LONGEST = 16  # of a class name, in characters
_PARTS = 3  # of a mixed label that are named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this kind."""
    parser.add_argument(
        '--config',
        metavar='FILE|NAME',
        help='of the run (default with --data: default, with a batch of --count examples)',
    )
    data = parser.add_argument_group('the data')
    data.add_argument('--data', metavar='SPEC', help=f"{data_options.SPECS}; default: the config's")
    data.add_argument('--data-dir', metavar='DIR', help='of tfds:NAME: where it lies')
    data.add_argument('--split', metavar='NAME', help="default: the config's train_split")
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('examples.png'),
        metavar='FILE.png',
        help='the picture (default: examples.png)',
    )
    parser.add_argument(
        '--count', type=int, default=8, metavar='N', help='examples, at most the batch (default: 8)'
    )


def run(options: argparse.Namespace) -> None:
    """Prepares the first batch and draws it."""
    from resnet_jax.records.writers import check_file
    from resnet_jax.training import compilation, config
    from resnet_jax.training.preview import preview

    check_number('--count', options.count, Range(1, MOST, whole=True))
    if options.out.suffix.lower() != '.png':
        raise InputError(f'--out {options.out}: the picture is a PNG; give FILE.png')
    spec, fields = _config(options)
    settings = config.load_config(spec, [*fields, *options.overrides])
    if options.config is None and settings.data.normalize == 'channel':
        # No run, so no statistics either: those of a streamed set would have to be given.
        for name in ('mean', 'std'):
            if settings.data[name] is None:
                settings.data[name] = (0.5,) * settings.data.channels
    check_file(options.out, f'--out {options.out}', 'give another file')
    compilation.keep_compiled()
    found = preview(settings, options.count)
    transforms = ', '.join(map(str, settings.augment.transforms)) or 'none'
    title = f'{settings.data.name}, seed {settings.seed}; transforms: {transforms}'
    options.out.write_bytes(draw(found, title))
    print(f'written: {options.out}')


def _config(options: argparse.Namespace) -> tuple[str, list[tuple[str, Any]]]:
    """The config, and the fields that the options change."""
    from resnet_jax.training.config import read_config_file

    if options.config is None and options.data is None:
        raise InputError('choose what to show: give --data SPEC, or --config FILE|NAME of a run')
    spec = options.config or 'default'
    given = {'name': options.data, 'dir': options.data_dir, 'train_split': options.split}
    fields = {f'data.{name}': value for name, value in given.items() if value is not None}
    if options.config is None:
        fields['train.batch_size'] = options.count
    base = read_config_file(spec).data
    if fields and not base.validation:
        # Nothing is evaluated here, so the data need no split for that.
        fields['data.eval_split'] = options.split or base.train_split
    return spec, list(fields.items())


def draw(found: 'Preview', title: str) -> bytes:
    """A PNG of the examples of a preview, each in three pictures one below the other."""
    from resnet_jax.figures import figure_text, new_figure

    count, side = len(found.stored), found.read.shape[1]
    across = min(count, _ACROSS)
    blocks = -(-count // across)
    size = (_SIDE * across + 1.0, (3 * _SIDE + _TEXT) * blocks + 0.6)
    figure = new_figure(size, shortened(printable(title), 40 + 16 * across))
    axes = figure.subplots(3 * blocks, across, squeeze=False)
    for each in axes.flat:
        each.axis('off')
    rows: list[tuple[str, Sequence[np.ndarray]]] = [
        ('as stored', found.stored),
        (f'read at {side} px', list(found.read)),
        ('seen in training', list(found.seen)),
    ]
    for i in range(count):
        block, column = divmod(i, across)
        for row, (name, images) in enumerate(rows):
            panel = axes[3 * block + row, column]
            _picture(panel, images[i])
            if column == 0:
                panel.set_ylabel(name, fontsize='x-small')
        label = figure_text(shortened(printable(found.classes[i]), _LONGEST))
        axes[3 * block, column].set_title(label, fontsize='small')
        if found.targets[i] != (found.classes[i],):
            words = [shortened(printable(part), _LONGEST + 2) for part in found.targets[i][:_PARTS]]
            below = '\n'.join(map(figure_text, words))
            axes[3 * block + 2, column].set_xlabel(below, fontsize='xx-small')
    out = io.BytesIO()
    figure.savefig(out, format='png', dpi=120)
    return out.getvalue()


def _picture(axes: Any, image: np.ndarray) -> None:
    """Draws an image; of more bands the first three as RGB, of two the first."""
    shown = image[:, :, : 3 if image.shape[2] >= 3 else 1]
    axes.axis('on')
    axes.imshow(np.broadcast_to(shown, (*shown.shape[:2], 3)), interpolation='nearest')
    axes.set(xticks=[], yticks=[])
