"""`resnet-jax convert`."""

import argparse
from pathlib import Path

from resnet_jax.commands import model_options
from resnet_jax.errors import InputError

TEXT = 'Convert weights between PyTorch and this library.'
EPILOG = (
    'The layout of SRC is recognised by its names. DST is written in the other kind: names of the '
    "model's usual publisher for weights of ours and for .pth, ours for PyTorch's; or as --layout "
    'says. What SRC says of its preprocessing, or the options do, is kept in DST.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    parser.add_argument('source', metavar='SRC', help=model_options.WEIGHTS_HELP)
    parser.add_argument('target', type=Path, metavar='DST', help='.safetensors, .pth or .npz')
    parser.add_argument('--model', required=True, metavar='NAME', help=model_options.MODEL_HELP)
    parser.add_argument(
        '--layout', metavar='NAME', help='ours, torchvision, timm, timm_v2, huggingface, cifar'
    )
    parser.add_argument('--dtype', metavar='NAME', help="float32, bfloat16, ...; default: SRC's")
    parser.add_argument('--overwrite', action='store_true', help='replace DST if it exists')
    model_options.add_preprocessing_options(parser)


def run(options: argparse.Namespace) -> None:
    """Reads, converts, writes."""
    from resnet_jax.inference import published
    from resnet_jax.interop import layouts, weights

    if options.target.exists() and not options.overwrite:
        raise InputError(f'{options.target} exists; give --overwrite to replace it')
    settings = model_options.preprocessing_settings(options)
    found = published.read_published(options.model, options.source, **settings)
    variables = weights.variables_from_tensors(
        found.tensors.arrays, found.model, where=options.source
    )
    theirs = layouts.natural_layout(found.model)
    layout = options.layout or _default_layout(options.target.suffix, found.layout, theirs)
    metadata = {'model': options.model}
    if not found.assumed or options.class_names:
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
        f'{options.target}: {options.model} in the layout {layout}, from {found.layout}, '
        f'{size:.1f} MiB'
    )


def _default_layout(suffix: str, source: str, theirs: str) -> str:
    if suffix == '.npz':
        return 'ours'
    return theirs if source == 'ours' or suffix in ('.pth', '.pt') else 'ours'
