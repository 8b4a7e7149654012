"""`resnet-jax features`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands import data_options, model_options
from resnet_jax.errors import InputError
from resnet_jax.json_files import json_text

if TYPE_CHECKING:
    from resnet_jax.inference.trained import TrainedModel

TEXT = 'Write the outputs of layers for a data set.'
EPILOG = (
    'To resume an interrupted extraction, run the same command again; its parts are kept in '
    'FILE.parts. `resnet-jax probe` measures how useful the features are; docs/features.md '
    'describes the files.'
)

_OF_THE_HEAD = ('head', 'logits')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the command."""
    model_options.add_model_options(parser)
    data_options.add_data_options(parser)
    what = parser.add_argument_group('what to write, and where')
    what.add_argument(
        '--layer',
        action='append',
        default=[],
        metavar='NAME',
        help='pooled, logits, stem, stage3, stage3/block2, ..., see --list; or pixels, the '
        'preprocessed image as a vector, to compare with; repeat it for several',
    )
    what.add_argument('--list', action='store_true', help='print the layers of the model')
    what.add_argument(
        '--out',
        type=Path,
        metavar='FILE',
        help='.npz, or .array_record for sets that do not fit into memory',
    )
    what.add_argument(
        '--full', action='store_true', help='keep feature maps whole; default: mean over space'
    )
    what.add_argument(
        '--overwrite', action='store_true', help='replace a file that has other settings'
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object')


def run(options: argparse.Namespace) -> None:
    """Writes the features, or prints the layers."""
    from resnet_jax.inference.extraction import extract
    from resnet_jax.inference.feature_files import check_suffix
    from resnet_jax.records.writers import signs_of_life
    from resnet_jax.training import compilation

    compilation.keep_compiled()
    if options.list:
        _list(options, model_options.load_model(options, headless=True))
        return
    if not options.layer or options.out is None:
        raise InputError('give --layer NAME and --out FILE, or --list to see the layers')
    check_suffix(options.out, f'--out {options.out}')
    chosen = data_options.choose_data(options)
    trained = model_options.load_model(options, headless=True)
    if not trained.has_head and (random := [n for n in options.layer if n in _OF_THE_HEAD]):
        raise InputError(
            f'{options.weights} holds no head, so there is no {random[0]!r}; pooled is the input '
            'of the head'
        )
    for remark in chosen.source.notes:
        text.note(remark)
    with signs_of_life(f'features of {len(chosen.source):,} images'):
        done = extract(
            trained,
            chosen.source,
            options.layer,
            options.out,
            full=options.full,
            batch_size=chosen.batch_size,
            workers=chosen.workers,
            overwrite=options.overwrite,
            progress=True,
        )
    about = done.description
    if options.json:
        where = {'out': str(options.out), 'found': done.found}
        print(json_text({**where, **about}))
        return
    width = text.terminal_width()
    n, split = len(chosen.source), f'{chosen.source.name} {chosen.source.split}'
    title = f'{options.out}: {n:,} images of {split}, {trained.title}'
    if done.found:
        title += f' ({"all" if done.found == n else f"{done.found:,}"} already extracted)'
    print(text.paragraph(title, width, '  '))
    print(_table(about['layers'], width))


def _list(options: argparse.Namespace, trained: 'TrainedModel') -> None:
    from resnet_jax.inference.extraction import layer_shapes

    shapes = layer_shapes(trained)
    if options.json:
        print(json_text({**trained.origin, 'layers': {k: list(v) for k, v in shapes.items()}}))
    else:
        print(_table(shapes, text.terminal_width()))


def _table(shapes: dict[str, Any], width: int | None) -> str:
    """A line for each layer: its name and size."""
    rows = [(name, 'x'.join(map(str, shape))) for name, shape in shapes.items()]
    return text.aligned(['layer', 'size'], rows, width)
