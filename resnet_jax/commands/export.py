"""`resnet-jax export`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands import data_options, model_options
from resnet_jax.errors import InputError
from resnet_jax.json_files import json_text

if TYPE_CHECKING:
    import numpy as np

    from resnet_jax.data import Source
    from resnet_jax.inference.trained import TrainedModel

TEXT = 'Write a model as a file for other programs, and check it.'
EPILOG = (
    'The file is run by its own runtime, on the images of the data if there are any, and compared '
    'with the model; if it differs by more than is allowed, nothing is left and the exit code is '
    '1. OUT.json beside it describes it. `resnet-jax predict --exported OUT` and `eval --exported '
    'OUT` run it; docs/export.md describes the formats.'
)
CHECKED = 32  # images that the file is compared on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument('out', type=Path, metavar='OUT', help='the file or folder to write')
    parser.add_argument(
        '--format',
        metavar='NAME',
        help='stablehlo, onnx, litert or savedmodel; default: by the end of OUT',
    )
    parser.add_argument(
        '--preprocess',
        action='store_true',
        help='take uint8 pixels of the size of the training, and normalise them inside',
    )
    parser.add_argument(
        '--dtype',
        default='float32',
        metavar='NAME',
        help='of the computation: float32 (default), bfloat16 (stablehlo, savedmodel) or int8 '
        '(onnx, litert), with ranges of activations from the images of --fit-split',
    )
    parser.add_argument(
        '--layout',
        choices=('NCHW', 'NHWC'),
        help='of the images; NCHW for onnx alone, where it is the default',
    )
    parser.add_argument(
        '--batch',
        type=int,
        metavar='N',
        help='take N images at a time; default: any number, 1 for litert',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace OUT if it exists')
    model_options.add_model_options(parser)
    data_options.add_data_options(parser)
    data_options.add_fit_options(parser, usual=128)
    parser.add_argument('--json', action='store_true', help='print one JSON object')


def run(options: argparse.Namespace) -> None:
    """Writes the file and prints how far it is from the model."""
    from resnet_jax.export import formats
    from resnet_jax.export.program import make_program
    from resnet_jax.export.writing import write_exported
    from resnet_jax.training import compilation

    compilation.keep_compiled()
    name = options.format or formats.format_of(options.out)
    formats.check_settings(name, options.out, options.dtype, options.layout)
    if options.out.exists() and not options.overwrite:
        raise InputError(f'{options.out} exists; give --overwrite to replace it')
    trained = model_options.load_model(options, dense=True)
    pixels, where = _images(options, trained)
    batch = options.batch
    if batch is None and formats.FORMATS[name].fixed_batch:
        batch = 1
    program = make_program(
        trained,
        dtype=options.dtype,
        takes_pixels=options.preprocess,
        channels_last=(options.layout or formats.FORMATS[name].layouts[0]) == 'NHWC',
        batch=batch,
        calibration=_calibration(options, trained) if options.dtype == 'int8' else None,
    )
    about = write_exported(program, name, options.out, pixels, where)
    if options.json:
        print(json_text({'out': str(options.out), **about}))
    else:
        _print(options.out, about)


def _images(options: argparse.Namespace, trained: 'TrainedModel') -> 'tuple[np.ndarray, str]':
    """The images to compare on, uint8, and what they are."""
    import numpy as np

    if options.workdir is not None or options.data is not None:
        try:
            source = data_options.choose_data(options, dense=True).source
            found = _pixels(source, trained, CHECKED)
            return found, f'{source.name} {source.split}'
        except InputError as error:
            if options.data is not None:
                raise
            text.note(f'compared on random images, as those of the run cannot be read: {error}')
    p = trained.preprocessing
    shape = (CHECKED, *p.input_shape)
    random = np.random.default_rng(0).integers(0, 256, shape)
    return random.astype(np.uint8), 'random numbers'


def _calibration(options: argparse.Namespace, trained: 'TrainedModel') -> 'np.ndarray':
    """The images that set the ranges of activations, uint8."""
    if options.workdir is None and options.data is None:
        raise InputError('--dtype int8 needs images to calibrate with: give --data SPEC')
    chosen = data_options.choose_data(options, dense=True)
    source = data_options.choose_fitting(options, chosen).source
    return _pixels(source, trained, len(source))


def _pixels(source: 'Source', trained: 'TrainedModel', count: int) -> 'np.ndarray':
    """The first images of a split, prepared for the model, uint8."""
    import numpy as np

    from resnet_jax import data

    first = source.select(np.arange(min(count, len(source))), source.split)
    batches = data.eval_batches(first, trained.preprocessing, min(64, len(first)))
    return np.concatenate([batch['image'][batch['mask']] for batch in batches])


def _print(out: Path, about: dict[str, Any]) -> None:
    difference, width = about['difference'], text.terminal_width()
    title = f'{out}: {about["format"]}, {about["dtype"]}, {about["bytes"] / 2**20:.1f} MiB'
    print(text.paragraph(f'{title}, {about["title"]}', width, '  '))
    rows = [
        ('input', _described(about['input'], about['input']['meaning'])),
        *(('output', _described(each, each['name'])) for each in about['outputs']),
        ('compared on', f'{difference["images"]} images: {difference["data"]}'),
        (
            'largest difference',
            f'{difference["relative"]:.1e} of the largest value (allowed: {difference["bound"]:g})',
        ),
    ]
    if difference['agreement'] is not None:
        rows.append(('same class', f'{100 * difference["agreement"]:.1f} %'))
    print(text.pairs(rows, width))


def _described(array: dict[str, Any], words: str) -> str:
    return f'{"x".join(map(str, array["shape"]))} {array["dtype"]}: {words}'
