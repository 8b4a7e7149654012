"""Config files: reading, overriding and comparing them."""

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict, FieldReference

from resnet_jax.errors import InputError, unknown_name
from resnet_jax.records.trackers import check_trackers
from resnet_jax.training import config_files
from resnet_jax.training.compilation import check_matmul_precision

# Fields that may change between a run and its continuation: they say how a run is watched and kept,
# or where its data lies, not what it computes.
FREE_FIELDS = frozenset(
    {
        'data.dir',
        'data.workers',
        'log.project',
        'log.trackers',
        'parallel.devices',
        'parallel.mode',
        'parallel.shard_optimizer',
        'train.log_every',
        'train.steps_per_dispatch',
        'train.eval_batch_size',
        'checkpoint.every',
        'checkpoint.keep',
    }
)
# Setting one of a pair by an override unsets the other.
ALTERNATIVES = {'train.steps': 'train.epochs', 'train.epochs': 'train.steps'}
# Fields that an override may also give as names separated by commas.
_NAMES = ('log.trackers',)


def load_config(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> ConfigDict:
    """Reads a config file and applies overrides.

    Args:
      spec: path of a Python file that defines `get_config()`; `path.py:variant` calls
        `get_config(variant)`. While it is read, its own folder comes first on the import path, as
        when Python runs a script.
      overrides: pairs of a dotted field and its value as text, a Python literal or a bare string.

    Returns:
      The config, locked.

    Raises:
      InputError: for a file that cannot be read, an unknown field (with the nearest names) or a
        value of the wrong type.
    """
    config = _run_config_file(spec)
    set_fields = {field for field, _ in overrides}
    for field, text in overrides:
        _override(config, field, text)
        other = ALTERNATIVES.get(field)
        if other and other not in set_fields and parse_value(text) is not None:
            config.update_from_flattened_dict({other: None})
    if (config.train.steps is None) == (config.train.epochs is None):
        raise InputError(
            f'set exactly one of train.steps and train.epochs; they are '
            f'{config.train.steps} and {config.train.epochs}'
        )
    return config


def _run_config_file(spec: str) -> ConfigDict:
    config = config_files.call(spec, 'get_config')
    if not isinstance(config, ConfigDict):
        raise InputError(
            f'config file {spec}: get_config() must return an ml_collections.ConfigDict'
        )
    _check_fields(config, f'config file {spec}')
    return config.lock()


def _check_fields(config: ConfigDict, where: str) -> None:
    missing = {*_AT_LEAST, *_FRACTIONS, *ALTERNATIVES, *_NAMES} - flatten(config).keys()
    if missing:
        raise InputError(
            f'{where} lacks the fields {", ".join(sorted(missing)[:5])}; start from '
            'default.get_config() in configs/default.py'
        )


def parse_value(text: str) -> Any:
    """The value of an override: a Python literal, true or false in any case, else the text."""
    if text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _override(config: ConfigDict, field: str, text: str) -> None:
    fields = flatten(config)
    if field not in fields:
        raise unknown_name('config field', field, fields)
    value, old = parse_value(text), fields[field]
    if value is None and not _optional(config, field):
        raise InputError(f'config field {field} cannot be unset; it is {old!r}')
    if config_type(config, field) == 'str' and value is not None:
        value = text  # also a name that looks like a number
    if field in _NAMES and isinstance(value, str):
        value = tuple(name.strip() for name in value.split(',') if name.strip())
    try:
        config.update_from_flattened_dict({field: value})
    except (TypeError, ValueError) as error:
        kind = config_type(config, field)
        raise InputError(f'config field {field} takes {kind}, got {text!r}') from error


# Least values of numeric fields.
_AT_LEAST = {
    'seed': 0,
    'data.image_size': 1,
    'data.memory_mib': 0,
    'data.workers': 0,
    'augment.pad': 0,
    'train.batch_size': 1,
    'train.steps': 1,
    'train.log_every': 1,
    'train.steps_per_dispatch': 1,
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
_FRACTIONS = ('model.dropout', 'optim.momentum', 'optim.ema', 'loss.label_smoothing')


def check_values(config: ConfigDict) -> None:
    """Refuses values that make no sense, before anything is read or written.

    Raises:
      InputError: naming the field and its range.
    """
    fields = flatten(config)
    for field, least in _AT_LEAST.items():
        if fields[field] is not None and fields[field] < least:
            raise InputError(f'config field {field} must be at least {least}, got {fields[field]}')
    for field in _FRACTIONS:
        if fields[field] is not None and not 0 <= fields[field] < 1:
            raise InputError(f'config field {field} must be in [0, 1), got {fields[field]}')
    if config.train.epochs is not None and config.train.epochs <= 0:
        raise InputError(f'config field train.epochs must be above 0, got {config.train.epochs}')
    check_matmul_precision(config.train.matmul_precision)
    check_trackers(fields.get('log.trackers', ()))  # runs of earlier versions lack it
    scale = config.augment.crop_scale
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise InputError(f'config field augment.crop_scale must be two in (0, 1], got {scale}')


def changed(config: ConfigDict, fields: Mapping[str, Any]) -> ConfigDict:
    """A copy of a config, locked, in which dotted fields have other values."""
    other = config.copy_and_resolve_references()
    other.update_from_flattened_dict(fields)
    return other.lock()


def config_type(config: ConfigDict, field: str) -> str:
    """Name of the type of a field, also of one that is not set."""
    section, leaf = _locate(config, field)
    return section.get_type(leaf).__name__


def _locate(config: ConfigDict, field: str) -> tuple[ConfigDict, str]:
    """The innermost section of a dotted field, and its name there."""
    *parents, leaf = field.split('.')
    for parent in parents:
        config = config[parent]
    return config, leaf


def _optional(config: ConfigDict, field: str) -> bool:
    """Whether a field may be None: `placeholder`, set or not, or one of a pair."""
    section, leaf = _locate(config, field)
    held = dict(section.items(preserve_field_references=True))[leaf]
    return field in ALTERNATIVES or isinstance(held, FieldReference)


def flatten(config: ConfigDict | Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Dotted names of all fields, with their values."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | Mapping):
            flat.update(flatten(value, f'{prefix}{key}.'))
        else:
            flat[prefix + key] = value
    return flat


def to_json(config: ConfigDict) -> str:
    """The config as indented JSON; tuples become lists."""
    return json.dumps(json.loads(config.to_json()), indent=2) + '\n'


def from_json(text: str) -> ConfigDict:
    """The inverse of `to_json`, locked; lists become tuples.

    Raises:
      ValueError: if it is not the JSON of a config.
    """

    def tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: tuples(item) for key, item in value.items()}
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError('it holds no config')
    return ConfigDict(tuples(fields)).lock()


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """What of a run would change: a line 'field: old -> new' for each field not in FREE_FIELDS."""
    a, b = flatten(json.loads(old.to_json())), flatten(json.loads(new.to_json()))
    missing = '(absent)'
    return [
        f'{field}: {a.get(field, missing)!r} -> {b.get(field, missing)!r}'
        for field in sorted(a.keys() | b.keys())
        if field not in FREE_FIELDS and a.get(field, missing) != b.get(field, missing)
    ]
