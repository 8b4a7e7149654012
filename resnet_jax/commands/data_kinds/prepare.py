"""`resnet-jax data prepare`."""

import argparse
import re
from pathlib import Path
from typing import Any

from resnet_jax import text
from resnet_jax.commands import data_options
from resnet_jax.errors import InputError, Range, check_number
from resnet_jax.json_files import json_text

TEXT = 'Write a copy with smaller images that is read fast.'
EPILOG = (
    'The shorter side of each image becomes S pixels; images that are smaller are copied as they '
    'are. The names of the classes, the splits and the order stay. The copy is a data set of '
    'TensorFlow Datasets, as array_record, which needs no TensorFlow; it appears when it is '
    'finished.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this kind."""
    parser.add_argument('dst', type=Path, metavar='DST', help='folder of data sets, made if absent')
    data_options.add_split_options(parser)
    copy = parser.add_argument_group('the copy')
    copy.add_argument(
        '--size', type=int, required=True, metavar='S', help='shorter side of the images, pixels'
    )
    form = copy.add_mutually_exclusive_group()
    form.add_argument(
        '--quality', type=int, default=95, metavar='Q', help='of JPEG, 1 to 100 (default: 95)'
    )
    form.add_argument(
        '--raw', action='store_true', help='pixels instead of JPEG: large, and needs no decoder'
    )
    copy.add_argument(
        '--channels', type=int, metavar='N', help='the bands of TIFFs; with --raw only'
    )
    copy.add_argument(
        '--name', metavar='NAME', help='of the copy (default: the name of the data and the size)'
    )
    copy.add_argument('--json', action='store_true', help='print one JSON object')


def run(options: argparse.Namespace) -> None:
    """Writes the copy and says how to use it."""
    from resnet_jax import data
    from resnet_jax.data import prepared
    from resnet_jax.data.resizing import LARGEST_SIDE
    from resnet_jax.records.writers import check_folder

    check_number('--size', options.size, Range(1, LARGEST_SIDE, whole=True))
    check_number('--quality', options.quality, Range(1, 100, whole=True))
    if options.channels is not None:
        check_number('--channels', options.channels, Range(1, data.MOST_CHANNELS, whole=True))
    name = options.name or _default_name(options.data, options.size)
    prepared.check_name(name)
    check_folder(options.dst, 'give another folder DST')
    channels = options.channels or 3
    sources = {
        source.split: source.with_bands(channels) for source in data_options.open_splits(options)
    }
    channels = next(iter(sources.values())).channels
    if channels not in (1, 3) and not options.raw:
        raise InputError(f'images of {channels} bands cannot be JPEGs; give --raw')
    quality = None if options.raw else options.quality
    found = prepared.write_copy(sources, options.dst, name, options.size, quality)
    for path in prepared.unfinished(options.dst, name):
        text.note(f'{path} is left of a copy that was stopped, and can be removed')
    result = {**found._asdict(), 'path': str(found.path), 'data': f'tfds:{name}'}
    if options.json:
        print(json_text(result))
        return
    print(_printed(result, str(options.dst)))


def _default_name(spec: str, size: int) -> str:
    """The last word of a data set's name that is one, and the size of the images."""
    last = re.split(r'[/:]', spec.rstrip('/'))[-1]
    words = re.findall(r'[a-z0-9]+', re.sub(r'\{[^{}]*\}', ' ', last).lower())
    plain = '_'.join(words).removesuffix('_npz').removesuffix('_tar') or 'copy'
    return f'{plain if plain[0].isalpha() else f"copy_{plain}"}_{size}px'


def _printed(result: dict[str, Any], folder: str) -> str:
    def mib(size: int) -> str:
        return f'{size / 2**20:,.1f} MiB'

    rows = [
        ('images', f'{result["n"]:,}'),
        ('copied as they were', f'{result["kept"]:,}'),
        ('before', mib(result['before'])),
        ('after', mib(result['after'])),
        ('written', result['path']),
    ]
    use = f'--config.data.name={result["data"]} --config.data.dir={folder}'
    width = text.terminal_width()
    return f'{text.pairs(rows, width)}\n\ntrain on it with:\n    {text.shell_command(use, width)}'
