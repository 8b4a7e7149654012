"""Options that select a model: that of a run, or a published one."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.errors import InputError

if TYPE_CHECKING:
    from resnet_jax.inference.trained import TrainedModel

MODEL_HELP = 'a name from `resnet-jax models`; change its fields with --model.FIELD=VALUE'
WEIGHTS_HELP = 'a file, the workdir of a run, hf:OWNER/REPO[/FILE] or torchvision:NAME'
KEY_HELP = 'which weights of several in the file, such as state_dict_ema or student'

_FIELDS = ('image_size', 'resize', 'mean', 'std', 'interpolation')
_PUBLISHED_ONLY = ('model', 'weights', 'weights_key', 'preprocessing', *_FIELDS, 'class_names')


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Declares --workdir, or --model and --weights with their preprocessing."""
    run = parser.add_argument_group('the model of a run')
    run.add_argument('--workdir', type=Path, metavar='DIR', help='folder of the run')
    run.add_argument(
        '--checkpoint', default='latest', metavar='WHICH', help='latest (default), best or a step'
    )
    published = parser.add_argument_group('or a published model')
    published.add_argument('--model', metavar='NAME', help=MODEL_HELP)
    published.add_argument('--weights', metavar='FILE', help=WEIGHTS_HELP)
    published.add_argument('--weights-key', metavar='NAME', help=KEY_HELP)
    add_preprocessing_options(parser)


def add_exported_option(parser: argparse.ArgumentParser) -> None:
    """Declares --exported."""
    parser.add_argument(
        '--exported',
        type=Path,
        metavar='FILE',
        help='instead of a model: a file of `resnet-jax export`, run by the runtime of its format',
    )


def add_preprocessing_options(parser: argparse.ArgumentParser) -> None:
    """Declares the options for the preprocessing of published weights."""
    group = parser.add_argument_group(
        'preprocessing of a published model',
        'By default it is read from the file; if the file does not store it, the most common one '
        'for the image size of the model is used.',
    )
    group.add_argument('--preprocessing', metavar='NAME', help='torchvision, timm, cifar, ...')
    group.add_argument('--image-size', type=int, metavar='PIXELS', help='side of the input')
    group.add_argument('--resize', type=int, metavar='PIXELS', help='shorter side before the crop')
    group.add_argument('--mean', metavar='R,G,B', help='mean, for pixels in [0, 1]')
    group.add_argument('--std', metavar='R,G,B', help='standard deviation, for pixels in [0, 1]')
    group.add_argument('--interpolation', metavar='NAME', help='bilinear or bicubic')
    group.add_argument(
        '--class-names', type=Path, metavar='FILE', help='text file with one class name per line'
    )


def _parse_numbers(field: str, given: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in given.split(','))
    except ValueError as error:
        raise InputError(f'--{field} takes numbers like 0.5,0.5,0.5, got {given!r}') from error


def preprocessing_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Collects the keyword arguments of `published.read_published` from the options."""
    from resnet_jax.training.config import parse_value

    changes = {f: getattr(options, f) for f in _FIELDS if getattr(options, f) is not None}
    for field in ('mean', 'std'):
        if field in changes:
            changes[field] = _parse_numbers(field, changes[field])
    return {
        'overrides': {field: parse_value(value) for field, value in options.overrides},
        'weights_key': options.weights_key,
        'known': options.preprocessing,
        'changes': changes,
        'class_names': _read_names(options.class_names) if options.class_names else (),
    }


def load_model_or_exported(options: argparse.Namespace) -> 'TrainedModel':
    """Loads the model, or the exported file, that the options select.

    Args:
      options: includes those of `add_model_options` and `add_exported_option`.

    Raises:
      InputError: unless the options give one of the two, which can be read.
    """
    if options.exported is None:
        return load_model(options, dense=True)
    from resnet_jax.export.exported import load_exported

    given = [name for name in _PUBLISHED_ONLY if getattr(options, name) is not None]
    given += [f'model.{field}' for field, _ in options.overrides]
    if given:
        raise InputError(
            f'--{given[0].replace("_", "-")} does not go with --exported, whose file has its own '
            'model and preprocessing; leave out one of the two'
        )
    return load_exported(options.exported)


def _read_names(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'cannot read the class names in {path}: {error}') from error


def load_model(
    options: argparse.Namespace, headless: bool = False, dense: bool = False
) -> 'TrainedModel':
    """Loads the model that the options select.

    Args:
      options: includes those of `add_model_options`.
      headless: whether a file of weights may lack a head, which is then random.
      dense: whether the command also takes networks for segmentation, detection and depth.

    Raises:
      InputError: unless the options give either a run, or a model and weights; and for a model that
        the command does not take.
    """
    trained = _load_model(options, headless)
    if trained.does.is_dense and not dense:
        raise InputError(
            f'this command takes networks that classify images, and {trained.title} is one '
            f'of {trained.does.noun}; use resnet-jax eval or predict'
        )
    return trained


def _load_model(options: argparse.Namespace, headless: bool) -> 'TrainedModel':
    from resnet_jax.inference import published
    from resnet_jax.inference.trained import load_trained

    if options.workdir is not None:
        extra = [name for name in _PUBLISHED_ONLY if getattr(options, name) is not None]
        extra += [f'model.{field}' for field, _ in options.overrides]
        if extra:
            raise InputError(
                f'--{extra[0].replace("_", "-")} does not go with --workdir, whose run has its own '
                'model and preprocessing; leave out one of the two'
            )
        return load_trained(options.workdir, options.checkpoint)
    if options.model is None or options.weights is None:
        exported = ', or --exported FILE' if hasattr(options, 'exported') else ''
        raise InputError(f'give --workdir DIR, or --model NAME and --weights FILE{exported}')
    settings = preprocessing_settings(options)
    trained, assumed = published.load_published(
        options.model, options.weights, headless=headless, **settings
    )
    if assumed:
        p = trained.preprocessing
        text.note(
            f'{options.weights} does not store its preprocessing; assumed: '
            f'{p.image_size} pixels, shorter side {p.resize or p.image_size}, {p.interpolation}, '
            f'mean {_format_numbers(p.mean)}, std {_format_numbers(p.std)} (to change it, give '
            '--preprocessing or single fields)'
        )
    return trained


def _format_numbers(numbers: Sequence[Any]) -> str:
    return ' '.join(f'{number:.3f}' for number in numbers)
