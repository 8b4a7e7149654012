"""Which fields of a config have an effect with which other settings."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from resnet_jax import data, dense
from resnet_jax.dense.registry import DENSE_MODELS, dense_fields
from resnet_jax.errors import InputError

# `data.dir` is not among them: the command of a table at scale full, which names it, is also run at
# scale smoke, on synthetic images.
# A field that only has an effect with some settings -> (what it needs, in words; whether `fields`,
# the flattened config with the model's own values in it, has that).
_Needs = tuple[str, Callable[[Mapping[str, Any]], bool]]


def _one_of(field: str, *values: str) -> _Needs:
    return f'{field}={" or ".join(values)}', lambda fields: fields[field] in values


def _set(field: str, example: str) -> _Needs:
    return f'{field}={example}', lambda fields: bool(fields[field])


_SHORTCUT: _Needs = (
    'a model.shortcut other than none',
    lambda fields: fields['model.shortcut'] != 'none',
)


def _of_kind(field: str) -> _Needs:
    return (
        f'data.name={" or ".join(data.kinds_that_take(field))}',
        lambda fields: data.has_effect(fields['data.name'], field),
    )


def _of_dense(field: str) -> _Needs:
    names = [name for name in DENSE_MODELS if field in dense_fields(name)]
    return (
        f'a model.name that takes it, such as {names[-1]}',
        lambda fields: fields['model.name'] in names,
    )


NEEDS: dict[str, _Needs] = {
    **{f'model.{field}': _of_dense(field) for field in sorted(dense.ALL_DENSE_FIELDS)},
    'loss.aux_weight': (
        'a model.name with a second head, such as fcn_resnet50, or model.aux',
        lambda fields: bool(fields['model.aux']),
    ),
    'loss.class_weights': (
        'a task and loss.name that take them: those of classification, and cross_entropy, focal '
        'and cross_entropy_dice of segmentation',
        lambda fields: (
            fields['task'] == 'classification'
            or (fields['task'] == 'segmentation' and fields['loss.name'] != 'dice')
        ),
    ),
    'loss.box_weight': _one_of('task', 'detection'),
    'loss.scale_invariance': _one_of('loss.name', 'scale_invariant'),
    **{
        f'model.{field}': _SHORTCUT
        for field in (
            *('gate', 'shortcut_scale', 'branch_scale', 'learn_shortcut_scale'),
            *('learn_branch_scale', 'shortcut_dropout', 'stochastic_depth'),
        )
    },
    'model.raw_first_shortcut': _one_of('model.placement', 'full_preact', 'relu_only_preact'),
    'model.width': (
        'model.stage_widths=(), which takes its place',
        lambda fields: not fields['model.stage_widths'],
    ),
    'model.base_width': (
        'model.inner_ratio=0, which takes its place',
        lambda fields: not fields['model.inner_ratio'],
    ),
    'model.linear_depthwise': (
        'model.convolution=depthwise or separable, or model.stage_designs',
        lambda fields: (
            fields['model.convolution'] in ('depthwise', 'separable')
            or bool(fields['model.stage_designs'])
        ),
    ),
    'model.pointwise_groups': (
        'a 1 in model.kernels, model.convolution=separable or model.stage_designs',
        lambda fields: (
            1 in fields['model.kernels']
            or fields['model.convolution'] == 'separable'
            or bool(fields['model.stage_designs'])
        ),
    ),
    'model.convolution': (
        'model.kernels larger than 1',
        lambda fields: max(fields['model.kernels']) > 1 or bool(fields['model.stage_designs']),
    ),
    'model.vocabulary': _one_of('model.stem', 'embedding'),
    'model.norm_groups': _one_of('model.norm', 'group'),
    'model.ghost_batch': _one_of('model.norm', 'batch'),
    'model.bn_momentum': _one_of('model.norm', 'batch'),
    'model.bn_epsilon': _one_of('model.norm', 'batch', 'group', 'layer'),
    'model.standardized_to': _set('model.weight_standardization', 'True'),
    'model.gate_bias': _one_of('model.gate', 'exclusive', 'shortcut_only'),
    'model.activation_bits': (
        'model.weight_bits=8 or model.layer_bits',
        lambda fields: bool(fields['model.weight_bits'] or fields['model.layer_bits']),
    ),
    'model.se_place': _set('model.se_ratio', '0.0625'),
    'model.stochastic_depth_decay': _set('model.stochastic_depth', '0.1'),
    **{
        f'init.{field}': _set('init.weights', 'FILE')
        for field in ('reset_head', 'weights_key', 'adapt_stem')
    },
    **{
        f'data.{field}': _of_kind(field)
        for field in (
            *('labels', 'image_key', 'label_key', 'label_names'),
            *('length', 'sample_rate', 'spectrogram'),
        )
    },
    'data.slice_order': (
        f'a slice, such as train[:75%], of {_of_kind("slice_order")[0]}',
        lambda fields: (
            _of_kind('slice_order')[1](fields)
            and '[' in f'{fields["data.train_split"]}{fields["data.eval_split"]}'
        ),
    ),
    'data.bad_images_share': _one_of('data.bad_images', 'skip'),
    'data.eval_split': (
        'data.validation=0, which takes the evaluation examples from data.train_split',
        lambda fields: not fields['data.validation'],
    ),
    'log.project': _set('log.trackers', 'wandb'),
    'optim.momentum': _one_of('optim.name', 'sgd', 'muon'),
    'optim.nesterov': (
        'optim.name=sgd and optim.momentum',
        lambda fields: fields['optim.name'] == 'sgd' and fields['optim.momentum'] > 0,
    ),
    'optim.b1': (
        'another optim.name than sgd',
        lambda fields: fields['optim.name'] != 'sgd',
    ),
    'optim.b2': (
        'another optim.name than sgd and schedule_free_sgd',
        lambda fields: fields['optim.name'] not in ('sgd', 'schedule_free_sgd'),
    ),
    'optim.boundaries': _one_of('optim.schedule', 'piecewise'),
    'optim.decay_factor': _one_of('optim.schedule', 'piecewise', 'plateau'),
    **{
        f'optim.{field}': _one_of('optim.schedule', 'plateau')
        for field in ('plateau_patience', 'plateau_threshold', 'plateau_floor')
    },
    'optim.epsilon': _one_of('optim.name', 'adam', 'adamw', 'nadam', 'nadamw'),
    'optim.schedule_unit': (
        'optim.schedule=piecewise, optim.warmup or train.unfreeze',
        lambda fields: (
            fields['optim.schedule'] == 'piecewise'
            or fields['optim.warmup'] > 0
            or bool(fields['train.unfreeze'])
        ),
    ),
    'train.patience': _set('train.eval_every', '100'),
    'train.unfreeze': _set('train.freeze', '"all but head"'),
    'train.freeze_batch_norm': _one_of('model.norm', 'batch'),
    'optim.decay_towards': (
        'init.weights=FILE, where it starts, and optim.weight_decay',
        lambda fields: (
            fields['optim.decay_towards'] == 'zero'
            or (fields['init.weights'] is not None and fields['optim.weight_decay'] > 0)
        ),
    ),
    'optim.warmup_start': _set('optim.warmup', '400'),
    'optim.warmup_shape': _set('optim.warmup', '400'),
    'parallel.batch_norm': (
        'model.norm=batch',
        lambda fields: fields['model.norm'] == 'batch' or fields['parallel.batch_norm'] == 'synced',
    ),
    'loss.label_smoothing': _one_of(
        'loss.name', 'cross_entropy', 'binary_cross_entropy', 'cross_entropy_dice'
    ),
    'loss.target_threshold': _one_of('loss.name', 'binary_cross_entropy'),
    **{
        f'distill.{field}': _set('distill.teacher', 'DIR')
        for field in ('model', 'temperature', 'weight', 'features', 'outputs')
    },
    **{
        f'prune.{field}': _one_of('prune.schedule', 'gradual')
        for field in ('sparsity', 'begin', 'end', 'every')
    },
    'loss.gamma': _one_of('loss.name', 'focal'),
    'loss.alpha': _one_of('loss.name', 'focal'),
}


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
    model = dense.create_model(fields['model.name'])
    net = dense.net_of(model)
    owners = [net, net.block, *([] if model is net else [model, model.backbone])]
    found = dict(fields)
    for field, value in fields.items():
        section, _, name = field.partition('.')
        if section == 'model' and value is None:
            holders = [owner for owner in owners if name in owner.__dataclass_fields__]
            found[field] = getattr(holders[0], name) if holders else None
    return found
