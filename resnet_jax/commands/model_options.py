"""Which model a command is about: that of a run, or a published one."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError

MODEL_HELP = 'see `resnet-jax models`; --model.FIELD=VALUE changes a field of it'
WEIGHTS_HELP = 'a file, a run, hf:OWNER/REPO[/FILE] or torchvision:NAME'


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--workdir, or --model and --weights with their preprocessing."""
    run = parser.add_argument_group('the model of a run')
    run.add_argument('--workdir', type=Path, metavar='DIR', help='the run')
    run.add_argument(
        '--checkpoint', default='latest', metavar='WHICH', help='latest (default), best or a step'
    )
    published = parser.add_argument_group('or a published model')
    published.add_argument('--model', metavar='NAME', help=MODEL_HELP)
    published.add_argument('--weights', metavar='FILE', help=WEIGHTS_HELP)
    add_preprocessing_options(parser)


def add_preprocessing_options(parser: argparse.ArgumentParser) -> None:
    """What published weights were trained with; else what their file says, else the usual."""
    group = parser.add_argument_group(
        'preprocessing of a published model', 'default: what its file says, else the usual'
    )
    group.add_argument('--preprocessing', metavar='NAME', help='torchvision, timm, cifar, ...')
    group.add_argument('--image-size', type=int, metavar='PIXELS', help='side of the input')
    group.add_argument('--resize', type=int, metavar='PIXELS', help='shorter side before the crop')
    group.add_argument('--mean', metavar='R,G,B', help='of pixels in [0, 1]')
    group.add_argument('--std', metavar='R,G,B', help='of pixels in [0, 1]')
    group.add_argument('--interpolation', metavar='NAME', help='bilinear or bicubic')
    group.add_argument('--class-names', type=Path, metavar='FILE', help='a name a line')


_FIELDS = ('image_size', 'resize', 'mean', 'std', 'interpolation')
_OF_PUBLISHED = ('model', 'weights', 'preprocessing', *_FIELDS, 'class_names')


def _numbers(field: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(','))
    except ValueError as error:
        raise InputError(f'--{field} takes numbers like 0.5,0.5,0.5, got {text!r}') from error


def preprocessing_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `published.read_published` that the options give."""
    from resnet_jax.training.config import parse_value

    changes = {f: getattr(options, f) for f in _FIELDS if getattr(options, f) is not None}
    for field in ('mean', 'std'):
        if field in changes:
            changes[field] = _numbers(field, changes[field])
    return {
        'overrides': {field: parse_value(text) for field, text in options.overrides},
        'known': options.preprocessing,
        'changes': changes,
        'class_names': _read_names(options.class_names) if options.class_names else (),
    }


def _read_names(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'cannot read the class names in {path}: {error}') from error


def load_model(options: argparse.Namespace, class_names: Sequence[str] = ()) -> Any:
    """The `TrainedModel` that the options name.

    Args:
      options: with those of `add_model_options`.
      class_names: of the data, for published weights whose file does not name its classes.

    Raises:
      InputError: unless there is either a run or a model with weights.
    """
    from resnet_jax.inference import published
    from resnet_jax.inference.trained import load_trained

    if options.workdir is not None:
        extra = [name for name in _OF_PUBLISHED if getattr(options, name) is not None]
        extra += [f'model.{field}' for field, _ in options.overrides]
        if extra:
            raise InputError(
                f'--{extra[0].replace("_", "-")} does not go with --workdir, whose run has its own '
                'model and preprocessing'
            )
        return load_trained(options.workdir, options.checkpoint)
    if options.model is None or options.weights is None:
        raise InputError('give --workdir DIR, or --model NAME and --weights FILE')
    settings = preprocessing_settings(options)
    trained, assumed = published.load_published(
        options.model, options.weights, data_names=class_names, **settings
    )
    if assumed:
        p = trained.preprocessing
        print(
            f'resnet-jax: nothing says what {options.weights} was trained with; assumed: '
            f'{p.image_size} pixels, shorter side {p.resize or p.image_size}, {p.interpolation}, '
            f'mean {_short(p.mean)}, std {_short(p.std)} (change it by --preprocessing and others)',
            file=sys.stderr,
        )
    return trained


def _short(numbers: Sequence[Any]) -> str:
    return ' '.join(f'{number:.3f}' for number in numbers)
