"""Every check of every field of a config, made once, before anything is read or built.

What depends on the data or on the devices, such as a batch that divides over them, is checked where
these are known.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from resnet_jax import data
from resnet_jax.errors import InputError, check_choice
from resnet_jax.models import create_model
from resnet_jax.records.trackers import check_trackers
from resnet_jax.training import optim, placement
from resnet_jax.training.build import build_model
from resnet_jax.training.checkpoint import BEST_MODES
from resnet_jax.training.compilation import MATMUL_PRECISIONS
from resnet_jax.training.tasks import TASKS

DTYPES = ('float32', 'bfloat16')
NORMALIZATIONS = ('channel', 'pixel')
# The smallest value of numeric fields.
AT_LEAST = {
    'seed': 0,
    'data.image_size': 1,
    'data.memory_mib': 0,
    'data.workers': 0,
    'augment.pad': 0,
    'train.batch_size': 1,
    'train.steps': 1,
    'train.log_every': 1,
    'train.steps_per_dispatch': 1,
    'train.xla_optimization_level': 0,
    'train.eval_every': 0,
    'train.eval_batch_size': 1,
    'optim.scale_by_batch': 0,
    'optim.accumulate': 1,
    'optim.weight_decay': 0,
    'optim.warmup': 0,
    'optim.clip_norm': 0,
    'checkpoint.every': 1,
    'checkpoint.keep': 1,
}
# Fields in [0, 1).
FRACTIONS = ('model.dropout', 'optim.momentum', 'optim.ema', 'loss.label_smoothing')
# Fields that hold one of some names, or nothing.
CHOICES: dict[str, Callable[[ConfigDict], Any]] = {
    'task': lambda config: TASKS,
    'data.normalize': lambda config: NORMALIZATIONS,
    'train.matmul_precision': lambda config: MATMUL_PRECISIONS,
    'optim.name': lambda config: optim.OPTIMIZERS,
    'optim.schedule': lambda config: optim.SCHEDULES,
    'optim.schedule_unit': lambda config: optim.SCHEDULE_UNITS,
    'optim.warmup_shape': lambda config: optim.WARMUP_SHAPES,
    'loss.name': lambda config: TASKS[config.task].losses,
    'parallel.mode': lambda config: placement.MODES,
    'checkpoint.best': lambda config: BEST_MODES,
}

# `data.dir` is not among them: the command of a table at scale full, which names it, is also run at
# scale smoke, on synthetic images.
# A field that only has an effect with some settings -> (what it needs, in words; whether `fields`,
# the flattened config with the model's own values in it, has that).
_Needs = tuple[str, Callable[[Mapping[str, Any]], bool]]


def _one_of(field: str, *values: str) -> _Needs:
    return f'{field}={" or ".join(values)}', lambda fields: fields[field] in values


def _set(field: str, example: str) -> _Needs:
    return f'{field}={example}', lambda fields: bool(fields[field])


def _transform(name: str) -> _Needs:
    return f'{name} in augment.transforms', lambda fields: name in fields['augment.transforms']


_SHORTCUT: _Needs = (
    'a model.shortcut other than none',
    lambda fields: fields['model.shortcut'] != 'none',
)

NEEDS: dict[str, _Needs] = {
    **{
        f'model.{field}': _SHORTCUT
        for field in (
            *('gate', 'shortcut_scale', 'branch_scale', 'learn_shortcut_scale'),
            *('learn_branch_scale', 'shortcut_dropout', 'stochastic_depth'),
        )
    },
    'model.raw_first_shortcut': _one_of('model.placement', 'full_preact', 'relu_only_preact'),
    'model.norm_groups': _one_of('model.norm', 'group'),
    'model.ghost_batch': _one_of('model.norm', 'batch'),
    'model.bn_momentum': _one_of('model.norm', 'batch'),
    'model.bn_epsilon': _one_of('model.norm', 'batch', 'group', 'layer'),
    'model.gate_bias': _one_of('model.gate', 'exclusive', 'shortcut_only'),
    'model.se_place': _set('model.se_ratio', '0.0625'),
    'model.stochastic_depth_decay': _set('model.stochastic_depth', '0.1'),
    'init.reset_head': _set('init.weights', 'FILE'),
    **{
        f'augment.{field}': _transform(name)
        for name, transform in data.TRANSFORMS.items()
        for field in transform.settings
    },
    'log.project': _set('log.trackers', 'wandb'),
    'optim.momentum': _one_of('optim.name', 'sgd'),
    'optim.nesterov': (
        'optim.name=sgd and optim.momentum',
        lambda fields: fields['optim.name'] == 'sgd' and fields['optim.momentum'] > 0,
    ),
    'optim.b1': _one_of('optim.name', 'adam', 'adamw', 'lamb'),
    'optim.b2': _one_of('optim.name', 'adam', 'adamw', 'lamb'),
    'optim.boundaries': _one_of('optim.schedule', 'piecewise'),
    'optim.decay_factor': _one_of('optim.schedule', 'piecewise'),
    'optim.schedule_unit': (
        'optim.schedule=piecewise or optim.warmup',
        lambda fields: fields['optim.schedule'] == 'piecewise' or fields['optim.warmup'] > 0,
    ),
    'optim.warmup_start': _set('optim.warmup', '400'),
    'optim.warmup_shape': _set('optim.warmup', '400'),
    'parallel.batch_norm': (
        'model.norm=batch',
        lambda fields: fields['model.norm'] == 'batch' or fields['parallel.batch_norm'] == 'synced',
    ),
    'loss.label_smoothing': _one_of('loss.name', 'cross_entropy', 'binary_cross_entropy'),
    'loss.gamma': _one_of('loss.name', 'focal'),
    'loss.alpha': _one_of('loss.name', 'focal'),
}


def resolve(config: ConfigDict) -> ConfigDict:
    """Checks every field of a config and returns it.

    Raises:
      InputError: naming the field, its value and what it takes.
    """
    fields = flatten_dict(config.to_dict(), sep='.')
    for field, least in AT_LEAST.items():
        if fields[field] is not None and not fields[field] >= least:
            raise InputError(f'config field {field} must be at least {least}, got {fields[field]}')
    for field in FRACTIONS:
        if fields[field] is not None and not 0 <= fields[field] < 1:
            raise InputError(f'config field {field} must be in [0, 1), got {fields[field]}')
    if (config.train.steps is None) == (config.train.epochs is None):
        raise InputError(
            f'set exactly one of train.steps and train.epochs; they are '
            f'{config.train.steps} and {config.train.epochs}'
        )
    if config.train.epochs is not None and not 0 < config.train.epochs < math.inf:
        raise InputError(f'config field train.epochs must be above 0, got {config.train.epochs}')
    check_dtype(config.model.dtype, 'model.dtype')
    for field, known in CHOICES.items():
        if fields[field] is not None:
            check_choice(field, fields[field], known(config))
    check_trackers(config.log.trackers)
    data.check_transforms(config.augment.transforms, config.augment, config.data.image_size)
    data.check_sizes(config.data.image_size, config.data.resize)
    per_pixel = config.data.normalize == 'pixel'
    if per_pixel and (config.data.mean is not None or config.data.std is not None):
        raise InputError('data.normalize=pixel measures its mean; unset data.mean and data.std')
    placement.check_batch_norm(config.parallel.batch_norm)
    if config.parallel.shard_optimizer and config.parallel.mode != 'jit':
        raise InputError('parallel.shard_optimizer goes with parallel.mode=jit only')
    build_model(config.model, 10)
    return config


def check_dtype(name: str, field: str) -> None:
    """Refuses a dtype of the computation that is not one of `DTYPES`.

    Args:
      name: the dtype.
      field: whose value it is, for the message.
    """
    if name == 'float16':
        raise InputError(
            f'{field} float16 is not supported: gradients vanish in its narrow range unless the '
            'loss is scaled; use bfloat16, which has the range of float32'
        )
    check_choice(field, name, DTYPES)


def refuse_without_effect(configs: Sequence[ConfigDict], given: Iterable[str]) -> None:
    """Refuses fields that the user set and that change nothing with the other settings.

    A value that means "off", such as 0 or False, is never refused.

    Args:
      configs: of the runs that the fields were set for, at least one; an effect in one is enough.
      given: dotted fields.

    Raises:
      InputError: naming the first such field and what it needs.
    """
    flat = [flatten_dict(config.to_dict(), sep='.') for config in configs]
    for field in given:
        if all(fields[field] for fields in flat):
            needed = [lacking(config, field) for config in configs]
            if all(needed):
                raise InputError(f'config field {field} has no effect without {needed[0]}')


def lacking(config: ConfigDict, field: str) -> str:
    """What a field needs to have an effect and the config lacks; '' if the field has an effect."""
    if field not in NEEDS:
        return ''
    needed, has_effect = NEEDS[field]
    return '' if has_effect(effective_fields(flatten_dict(config.to_dict(), sep='.'))) else needed


def effective_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Flattened fields of a config, in which model fields that are not set hold their row's value.

    Raises:
      InputError: if there is no such model.
    """
    model = create_model(fields['model.name'])
    found = dict(fields)
    for field, value in fields.items():
        section, _, name = field.partition('.')
        if section == 'model' and value is None:
            owner = model if hasattr(model, name) else model.block
            found[field] = getattr(owner, name, None)
    return found
