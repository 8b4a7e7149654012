"""`resnet-jax convert`."""

import argparse
import dataclasses
from pathlib import Path

from resnet_jax.commands import model_options
from resnet_jax.errors import InputError, Range, check_number

TEXT = 'Convert weights between PyTorch and this package.'
EPILOG = (
    'The layout of SRC is recognised by the names of its tensors. DST gets the other layout: the '
    "one of the model's usual publisher if SRC has ours or DST is a .pth, ours otherwise; "
    '--layout overrides this. The preprocessing that SRC stores or the options give is stored in '
    'DST.'
)
CHANNELS = Range(1, 2**16, whole=True)  # of images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument('source', metavar='SRC', help=model_options.WEIGHTS_HELP)
    parser.add_argument('target', type=Path, metavar='DST', help='.safetensors, .pth or .npz')
    parser.add_argument('--model', required=True, metavar='NAME', help=model_options.MODEL_HELP)
    parser.add_argument(
        '--layout',
        metavar='NAME',
        help='ours, torchvision, timm, timm_v2, bit, big_vision, huggingface or cifar',
    )
    parser.add_argument('--dtype', metavar='NAME', help="float32, bfloat16, ...; default: SRC's")
    parser.add_argument('--weights-key', metavar='NAME', help=model_options.KEY_HELP)
    parser.add_argument(
        '--adapt-stem',
        type=int,
        metavar='CHANNELS',
        help='convert the stem to images with this number of channels, by summing or repeating its '
        "weights, like timm's in_chans",
    )
    parser.add_argument('--overwrite', action='store_true', help='replace DST if it exists')
    model_options.add_preprocessing_options(parser)


def run(options: argparse.Namespace) -> None:
    """Converts the weights and prints a summary."""
    from resnet_jax.compress.quantize import rounded
    from resnet_jax.inference import published
    from resnet_jax.interop import layouts, weights

    channels = options.adapt_stem
    if channels is not None:
        check_number('--adapt-stem', channels, CHANNELS)
    if options.target.exists() and not options.overwrite:
        raise InputError(f'{options.target} exists; give --overwrite to replace it')
    settings = model_options.preprocessing_settings(options)
    found = published.read_published(options.model, options.source, **settings)
    found = dataclasses.replace(found, model=found.model.unrolled())  # files name each block
    variables = found.variables(channels=channels, adapt_stem=channels is not None)
    theirs = layouts.natural_layout(found.model)
    layout = options.layout or _default_layout(options.target.suffix, found.layout, theirs)
    if layout != 'ours':  # no other program rounds quantised weights as the model does
        variables |= {'params': rounded(found.model, variables['params'])}
    metadata = {'model': options.model}
    known = not found.assumed or options.class_names
    if known and channels in (None, found.preprocessing.channels):
        metadata['preprocessing'] = found.preprocessing.to_json()
    weights.save_weights(
        options.target,
        variables,
        found.model,
        layout=layout,
        dtype=options.dtype,
        metadata=metadata,
    )
    size = options.target.stat().st_size / 2**20
    print(
        f'{options.target}: {options.model} in layout {layout}, converted from {found.layout}, '
        f'{size:.1f} MiB'
    )


def _default_layout(suffix: str, source: str, theirs: str) -> str:
    if suffix == '.npz':
        return 'ours'
    return theirs if source == 'ours' or suffix in ('.pth', '.pt') else 'ours'
