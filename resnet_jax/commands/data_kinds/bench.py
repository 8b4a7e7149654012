"""`resnet-jax data bench`."""

import argparse
from typing import Any

from resnet_jax import text
from resnet_jax.errors import Range, check_number
from resnet_jax.json_files import json_text

TEXT = 'Measure how fast the training images of a config come, without a model that takes them.'
EPILOG = (
    'Images are decoded, then prepared in batches as training does it, then sent to the devices '
    'too. A model that trains faster than the last waits for data.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this kind."""
    parser.add_argument(
        '--config', required=True, metavar='FILE|NAME', help='as of `resnet-jax train`'
    )
    parser.add_argument(
        '--seconds',
        type=float,
        default=5.0,
        metavar='S',
        help='how long each of the three is measured (default: 5)',
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object')


def run(options: argparse.Namespace) -> None:
    """Measures and prints."""
    check_number('--seconds', options.seconds, Range(0, 86_400, open='low'))
    from resnet_jax.records.writers import signs_of_life
    from resnet_jax.training import config
    from resnet_jax.training.throughput import measure

    settings = config.load_config(options.config, options.overrides)
    with signs_of_life('measuring'):
        figures = measure(settings, options.seconds)
    about = {'data': settings.data.name, 'split': settings.data.train_split}
    if options.json:
        print(json_text({**about, **figures}))
        return
    print(_printed({**about, **figures}))


def _printed(found: dict[str, Any]) -> str:
    width = text.terminal_width()
    readers = (
        f'{found["workers"]} worker processes'
        if found['workers']
        else f'{found["threads"]} threads'
    )
    rows = [
        ['decoded whole, a thread for each core', f'{found["decoded"]:.0f}'],
        [f'prepared in batches, {readers}', f'{found["prepared"]:.0f}'],
        ['prepared and sent to the devices', f'{found["delivered"]:.0f}'],
    ]
    title = (
        f'{found["data"]} {found["split"]}, {found["n"]:,} images, batches of '
        f'{found["batch_size"]} at {found["image_size"]} px'
    )
    feeds = (
        f'This feeds models that train up to {found["delivered"]:.0f} images/s, a step every '
        f'{1000 * found["seconds_per_batch"]:.3g} ms; an epoch takes at least '
        f'{found["seconds_per_epoch"]:.3g} s.'
    )
    if found['resident']:
        feeds += ' A run keeps these images on the device, where no step waits for them.'
    lines = [text.paragraph(title, width, '  '), text.aligned(['', 'images/s'], rows, width)]
    return '\n'.join([*lines, text.paragraph(feeds, width, '')])
