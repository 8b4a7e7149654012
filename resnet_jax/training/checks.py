"""Every check of every field of a config, made once, before anything is read or built.

What depends on the data or on the devices, such as a batch that divides over them, is checked where
these are known.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from resnet_jax import data, dense
from resnet_jax.data.resizing import LARGEST_SIDE
from resnet_jax.errors import InputError, Range, check_choice, check_number, shown
from resnet_jax.models import registry
from resnet_jax.records.trackers import check_trackers
from resnet_jax.training import detection, distillation, optim, placement, pruning
from resnet_jax.training.checkpoint import LOWEST_LOSS
from resnet_jax.training.compilation import MATMUL_PRECISIONS, check_dtype
from resnet_jax.training.groups import at_rate, at_step
from resnet_jax.training.inputs import train_image_size
from resnet_jax.training.start import build_model, model_dimensions, takes_texts
from resnet_jax.training.tasks import TASKS, Task

NORMALIZATIONS = ('channel', 'pixel', 'series')
_COUNT, _LENGTH = Range(1, whole=True), Range(0, 2**31 - 1)
_FRACTION, _ZERO_OR_MORE = Range(0, 1, open='high'), Range(0)
_PIXELS = Range(1, LARGEST_SIDE, whole=True)
# The numbers that a field takes; of a tuple, each of its items. A field that is not set takes part
# in no check.
RANGES: dict[str, Range] = {
    'seed': Range(0, 2**32 - 1, whole=True),  # as JAX takes a seed
    **{f'model.{field}': allowed for field, allowed in registry.RANGES.items()},
    **{f'model.{field}': allowed for field, allowed in dense.RANGES.items()},
    **dict.fromkeys(('data.image_size', 'data.train_image_size', 'data.resize'), _PIXELS),
    'data.frames': Range(1, 4096, whole=True),
    'data.channels': Range(1, data.MOST_CHANNELS, whole=True),
    'data.length': data.LENGTH,
    'data.sample_rate': Range(1, 2**24, whole=True),
    'data.mean': Range(),
    'data.std': Range(0, open='low'),
    'data.validation': _FRACTION,
    'data.memory_mib': Range(0, whole=True),
    'data.bad_images_share': Range(0, 1),
    'data.workers': Range(0, 1024, whole=True),
    'augment.repeats': Range(1, 1024, whole=True),
    **dict.fromkeys(
        ('train.batch_size', 'train.steps', 'train.log_every', 'train.steps_per_dispatch'), _COUNT
    ),
    'train.epochs': Range(0, 2**31 - 1, open='low'),
    'train.xla_optimization_level': Range(0, 3, whole=True),
    'train.eval_every': Range(0, whole=True),
    'train.patience': Range(0, whole=True),
    'log.signal_every': Range(0, whole=True),
    'train.eval_batch_size': Range(1, 2**20, whole=True),
    'optim.scale_by_batch': Range(0, whole=True),
    'optim.layer_decay': Range(0, 1, open='low'),
    'optim.accumulate': _COUNT,
    **dict.fromkeys(('optim.learning_rate', 'optim.weight_decay', 'optim.clip_norm'), Range(0)),
    **dict.fromkeys(('optim.decay_factor', 'optim.warmup_start'), _ZERO_OR_MORE),
    **dict.fromkeys(('optim.momentum', 'optim.b1', 'optim.b2', 'optim.ema'), _FRACTION),
    'optim.epsilon': Range(0, open='low'),
    'optim.plateau_patience': _COUNT,
    **dict.fromkeys(('optim.plateau_threshold', 'optim.plateau_floor'), Range(0)),
    **dict.fromkeys(('optim.boundaries', 'optim.warmup'), _LENGTH),
    'parallel.devices': _COUNT,
    **dict.fromkeys(('loss.label_smoothing', 'loss.target_threshold'), _FRACTION),
    **dict.fromkeys(
        ('loss.gamma', 'loss.alpha', 'loss.aux_weight', 'loss.box_weight'), _ZERO_OR_MORE
    ),
    'loss.scale_invariance': Range(0, 1),
    'distill.temperature': Range(0, open='low'),
    'distill.features': _ZERO_OR_MORE,
    'prune.sparsity': _FRACTION,
    **dict.fromkeys(('distill.weight', 'prune.begin', 'prune.end'), Range(0, 1)),
    'prune.every': _COUNT,
    **dict.fromkeys(('checkpoint.every', 'checkpoint.keep', 'checkpoint.keep_best'), _COUNT),
}
# Fields that hold one of some names, or nothing.
CHOICES: dict[str, Callable[[ConfigDict], Any]] = {
    'task': lambda config: TASKS,
    'data.normalize': lambda config: NORMALIZATIONS,
    'data.slice_order': lambda config: data.SLICE_ORDERS,
    'data.bad_images': lambda config: data.BAD_IMAGES,
    'train.matmul_precision': lambda config: MATMUL_PRECISIONS,
    'optim.name': lambda config: optim.OPTIMIZERS,
    'optim.schedule': lambda config: optim.SCHEDULES,
    'optim.schedule_unit': lambda config: optim.SCHEDULE_UNITS,
    'optim.warmup_shape': lambda config: optim.WARMUP_SHAPES,
    'optim.decay_towards': lambda config: optim.DECAY_TARGETS,
    'loss.name': lambda config: TASKS[config.task].losses,
    'distill.outputs': lambda config: distillation.OUTPUTS,
    'prune.schedule': lambda config: pruning.SCHEDULES,
    'parallel.mode': lambda config: placement.MODES,
    'checkpoint.best': lambda config: [*TASKS[config.task].best, LOWEST_LOSS],
}

# Fields that hold names; an override may separate them by commas.
NAME_LISTS = (
    *('log.trackers', 'augment.transforms', 'optim.rates'),
    *('train.freeze', 'train.unfreeze', 'train.freeze_batch_norm'),
    'model.features',
    *('model.inner_channels', 'model.ranks', 'model.layer_bits', 'model.stage_designs'),
)

# Fields of which an override may separate the items by commas.
LISTS = (*NAME_LISTS, 'loss.class_weights')


def resolve(config: ConfigDict) -> ConfigDict:
    """Checks every field of a config and returns it.

    Raises:
      InputError: naming the field, its value and what it takes.
    """
    fields = flatten_dict(config.to_dict(), sep='.')
    check_values(fields)
    if (config.train.steps is None) == (config.train.epochs is None):
        raise InputError(
            f'set exactly one of train.steps and train.epochs; they are '
            f'{config.train.steps} and {config.train.epochs}'
        )
    check_choices(config)
    check_trackers(config.log.trackers)
    size, frames = train_image_size(config), config.data.frames or 0
    _check_dimensions(config, model_dimensions(config.model))
    of_pixels = not config.data.spectrogram
    task = TASKS[config.task]
    data.check_transforms(
        config.augment.transforms,
        _model_shape(config),
        of_pixels=of_pixels,
        dense=task.is_dense,
    )
    data.check_sizes(config.data.image_size, config.data.resize)
    per_pixel = config.data.normalize == 'pixel'
    if per_pixel and (config.data.mean is not None or config.data.std is not None):
        raise InputError('data.normalize=pixel measures its mean; unset data.mean and data.std')
    if per_pixel and frames:
        raise InputError('data.normalize=pixel goes with images only; unset data.frames')
    if per_pixel and size != config.data.image_size:
        raise InputError('data.train_image_size goes with data.normalize=channel only')
    placement.check_batch_norm(config.parallel.batch_norm)
    if config.parallel.shard_optimizer and config.parallel.mode != 'jit':
        raise InputError('parallel.shard_optimizer goes with parallel.mode=jit only')
    for entries, read in ((config.train.unfreeze, at_step), (config.optim.rates, at_rate)):
        for entry in entries:
            read(entry)
    if config.loss.class_weights != ('balanced',):
        for weight in config.loss.class_weights:
            check_number('config field loss.class_weights: a weight', weight, Range(0))
    _check_together(config)
    _check_task(config, task)
    build_model(config.model, 10)
    return config


def _check_task(config: ConfigDict, task: Task) -> None:
    """Refuses a model of another task, and what a dense task does not take."""
    wanted = dense.task_of(config.model.name)
    if wanted != task.network:
        known = dense.models_of(task.network)
        raise InputError(
            f'config field task {config.task} takes another model than {config.model.name}, such '
            f'as {known[0]}; or set task={wanted}'
        )
    if not task.is_dense:
        return
    settings = {
        'data.resize': config.data.resize is not None,
        'data.train_image_size': config.data.train_image_size is not None,
        'data.normalize=pixel': config.data.normalize == 'pixel',
        'data.frames': config.data.frames is not None,
        'distill.teacher': config.distill.teacher is not None,
        'log.signal_every': bool(config.log.signal_every),
        'loss.class_weights=balanced': config.loss.class_weights == ('balanced',),
    }
    for field in (field for field, given in settings.items() if given):
        raise InputError(f'config field {field} does not go with task={config.task}; unset it')
    if config.task == 'detection':
        detection.check_evaluator()


def _model_shape(config: ConfigDict) -> tuple[int, ...]:
    """Of the model's input, but for the length of series and texts, which the data say."""
    settings, size = config.data, train_image_size(config)
    if settings.spectrogram:
        about = settings.spectrogram, settings.sample_rate, settings.length
        if None in about:
            raise InputError(
                'config field data.spectrogram needs data.sample_rate and data.length, which are '
                'not set'
            )
        return *data.spectrogram_shape(*about), 1
    if takes_texts(config.model):
        return (size,)
    dimensions = model_dimensions(config.model)
    frames = (settings.frames,) if dimensions == 3 else ()
    return *frames, *(size,) * (dimensions - len(frames)), settings.channels


def _check_dimensions(config: ConfigDict, dimensions: int) -> None:
    """Refuses a model of other dimensions than the data."""
    frames = config.data.frames
    if config.data.spectrogram and dimensions != 2:
        raise InputError(
            'config field model.dimensions must be 2 for data.spectrogram, whose pictures are of '
            f'time and frequency, got {dimensions}'
        )
    if frames is None and dimensions == 3:
        raise InputError(
            f'{config.model.name} takes videos or volumes: set config field data.frames to their '
            'number of frames; for images, model.dimensions must be 2, got 3'
        )
    if frames is not None and dimensions != 3:
        raise InputError(
            f'config field model.dimensions must be 3 for data.frames, got {dimensions}'
        )


def check_choices(config: ConfigDict) -> None:
    """Refuses names that are none of those that a field takes.

    Raises:
      InputError: with the nearest.
    """
    fields = flatten_dict(config.to_dict(), sep='.')
    for field, known in CHOICES.items():
        if fields[field] is not None:
            check_choice(field, fields[field], known(config))


def check_values(fields: Mapping[str, Any]) -> None:
    """Checks each of a config's flattened fields by itself; no name is looked up.

    Raises:
      InputError: for a number out of its range, and for text that can be no name.
    """
    for field, allowed in RANGES.items():
        value = fields[field]
        for number in value if isinstance(value, tuple | list) else (value,):
            if value is not None:
                check_number(f'config field {field}', number, allowed)
    _check_texts(fields)
    check_dtype(fields['model.dtype'], 'model.dtype')


def _check_texts(fields: Mapping[str, Any]) -> None:
    """Refuses text that no name or path can hold, and anything else in a tuple of names."""
    for field, value in fields.items():
        for text in (value or ()) if field in NAME_LISTS else (value,):
            if field in NAME_LISTS and not isinstance(text, str):
                raise InputError(f'config field {field} takes names, got {shown(text)}')
            if isinstance(text, str) and not (text and text.isprintable()):
                raise InputError(f'config field {field} is no name or path: {shown(text)}')


def _check_together(config: ConfigDict) -> None:
    """Checks fields that depend on each other."""
    settings, boundaries = config.data, config.optim.boundaries
    if any(a >= b for a, b in itertools.pairwise(boundaries)):
        raise InputError(f'config field optim.boundaries must ascend, got {shown(boundaries)}')
    for field in ('mean', 'std'):
        value = settings[field]
        if value is not None and len(value) != settings.channels:
            raise InputError(
                f'config field data.{field} takes one number for each of '
                f'data.channels, got {shown(value)}'
            )
    if settings.resize is not None and settings.resize < settings.image_size:
        raise InputError(
            f'config field data.resize must be at least data.image_size={settings.image_size}, '
            f'got {settings.resize}'
        )
    _check_series(config)
    _check_schedule_free(config)
    if config.optim.ema and config.checkpoint.best == LOWEST_LOSS:
        raise InputError(
            'config field optim.ema does not go with checkpoint.best=train_loss, whose parameters '
            'are evaluated instead of averaged ones; set optim.ema=0'
        )
    if config.optim.schedule == 'plateau' and not (
        0 < config.optim.decay_factor < 1
        and config.optim.plateau_threshold
        and config.optim.learning_rate
    ):
        raise InputError(
            'optim.schedule=plateau takes an optim.decay_factor between 0 and 1, and an '
            'optim.plateau_threshold and optim.learning_rate above 0'
        )
    pruning.check_settings(config.prune, bool(config.optim.ema))
    distillation.check_settings(config.distill)
    views = data.views_of(config.augment.transforms)
    if views and config.distill.teacher is not None:
        raise InputError(
            f'transform {views!r} does not go with distill.teacher, whose outputs are those of '
            'whole images; leave it out'
        )
    ghost, batch = config.model.ghost_batch, config.train.batch_size // config.optim.accumulate
    if ghost and batch % ghost:
        raise InputError(
            f'config field model.ghost_batch must divide the {batch} examples that the model takes '
            f'together (train.batch_size over optim.accumulate), got {ghost}'
        )
    if ghost and (config.parallel.mode, config.parallel.batch_norm) != ('jit', 'synced'):
        raise InputError(
            'config field model.ghost_batch goes with parallel.mode=jit and '
            f'parallel.batch_norm=synced only; set parallel.batch_norm=groups:{ghost} instead'
        )


def _check_series(config: ConfigDict) -> None:
    """Refuses what images alone take where the model takes series, and the other way round."""
    dimensions, settings = model_dimensions(config.model), config.data
    of_series = dimensions == 1 or bool(settings.spectrogram)
    if settings.normalize != 'channel' and (settings.normalize == 'series') != of_series:
        other = 'channel or series' if of_series else 'channel or pixel'
        raise InputError(
            f'config field data.normalize takes {other} for a model of {dimensions} dimensions, '
            f'got {settings.normalize}'
        )
    if settings.normalize == 'series' and (settings.mean is not None or settings.std is not None):
        raise InputError('data.normalize=series measures each series; unset data.mean and data.std')


def _check_schedule_free(config: ConfigDict) -> None:
    """Refuses what changes the updates of a schedule-free optimiser, whose state follows them."""
    name, settings = config.optim.name, config.optim
    if name not in optim.SCHEDULE_FREE:
        return
    others = {
        'optim.ema': settings.ema,
        'optim.schedule=plateau': settings.schedule == 'plateau',
        'checkpoint.best=train_loss': config.checkpoint.best == LOWEST_LOSS,
        'optim.rates': settings.rates,
        'optim.layer_decay': settings.layer_decay != 1,
        'train.freeze': config.train.freeze,
        'prune.schedule': config.prune.schedule != 'none',
    }
    for field in (field for field, given in others.items() if given):
        raise InputError(
            f'config field {field} does not go with optim.name={name}; unset it, or choose another '
            'optimiser'
        )
    if not settings.b1:
        raise InputError(f'config field optim.b1 must be above 0 for optim.name={name}, got 0')
