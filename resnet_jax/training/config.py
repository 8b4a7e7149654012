"""Configs: reading files, overriding fields, and JSON. What a field may hold is in checks.py."""

import ast
import json
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict, FieldReference

from resnet_jax import data
from resnet_jax.errors import InputError, shown, unknown_name
from resnet_jax.interop.files import is_compressed
from resnet_jax.json_files import parse_json, unreadable
from resnet_jax.training import config_files
from resnet_jax.training.checks import (
    LISTS,
    check_values,
    resolve,
)
from resnet_jax.training.effects import lacking, refuse_without_effect

# Fields that may change when a run is resumed: they say how it is watched and kept, or where its
# data lies, not what it computes.
FREE_FIELDS = frozenset(
    {
        'data.accept_changes',
        'data.dir',
        'data.workers',
        'log.project',
        'log.signal_every',
        'log.trackers',
        'parallel.devices',
        'parallel.mode',
        'parallel.shard_optimizer',
        'train.log_every',
        'train.steps_per_dispatch',
        'train.xla_optimization_level',
        'train.eval_batch_size',
        'checkpoint.every',
        'checkpoint.keep',
    }
)
# Fields of earlier versions -> their names now.
RENAMED = {'optim.freeze': 'train.freeze'}
# Fields of earlier versions -> the transform that has them now, and their name there.
TO_TRANSFORMS = {
    'augment.pad': ('pad_crop', 'pad'),
    'augment.pad_mode': ('pad_crop', 'mode'),
    'augment.crop_scale': ('random_resized_crop', 'scale'),
}
# Setting one of a pair by an override unsets the other.
ALTERNATIVES = {'train.steps': 'train.epochs', 'train.epochs': 'train.steps'}


def load_config(spec: str, overrides: Sequence[tuple[str, Any]] = ()) -> ConfigDict:
    """Reads a config file, applies overrides, and checks the result.

    Args:
      spec: path of a Python file that defines `get_config()`, or the name of a config of this
        package, such as 'digits'; `FILE:VARIANT` calls `get_config(VARIANT)`.
      overrides: pairs of a dotted field and its value: native, or as text, a Python literal or a
        bare string.

    Returns:
      The resolved config, locked. Where init.weights names a compressed model, config.model is that
      model's, but for the fields that are overridden.

    Raises:
      InputError: for a file that cannot be read, an unknown field (with the nearest names), a value
        that the field does not take, or an override that has no effect with the other settings.
    """
    config = override(read_config_file(spec), overrides)
    adopt_model(config, {field for field, _ in overrides})
    resolve(config)
    refuse_without_effect([config], [field for field, _ in overrides])
    return config


def read_config_file(spec: str) -> ConfigDict:
    """What `get_config()` of a config file returns, locked; `spec` as in `load_config`."""
    config = config_files.call(spec, 'get_config')
    if not isinstance(config, ConfigDict):
        raise InputError(
            f'config file {spec}: get_config() must return an ml_collections.ConfigDict'
        )
    missing = sorted(flatten(default_config()).keys() - flatten(config).keys())
    if missing:
        raise InputError(
            f'config file {spec} lacks the fields {", ".join(missing[:5])}; start from '
            'default.get_config() in configs/default.py'
        )
    return config.lock()


def default_config() -> ConfigDict:
    """The package's default config: every field that there is."""
    path = config_files.package_folder() / 'default.py'
    config: ConfigDict = config_files.call(str(path), 'get_config')
    return config


def override(config: ConfigDict, overrides: Sequence[tuple[str, Any]]) -> ConfigDict:
    """Sets fields of a config, in place, from their values, native or as text; returns it."""
    given = {field for field, _ in overrides}
    for field, text in overrides:
        _override(config, field, text)
        other = ALTERNATIVES.get(field)
        if other and other not in given and parse_value(text) is not None:
            config.update_from_flattened_dict({other: None})
    return config


def adopt_model(config: ConfigDict, given: Collection[str]) -> None:
    """Takes over the model of the compressed one that init.weights names, if it names one.

    Args:
      config: changed in place.
      given: fields that stay as they are.

    Raises:
      Unreadable: if that model's description is damaged.
    """
    where = config.init.weights
    if not isinstance(where, str) or not is_compressed(Path(where)):
        return
    path = Path(where) / 'config.json'
    try:
        stored = from_json(path.read_text(encoding='utf-8'))
    except (ValueError, OSError) as error:
        raise unreadable(path, error, 'compress the model again') from error
    for field, value in stored.model.items():
        if f'model.{field}' not in given:
            config.update_from_flattened_dict({f'model.{field}': value})


def parse_value(text: Any) -> Any:
    """The value of an override: a Python literal, true or false in any case, else the text.

    A value that is not text stays as it is.
    """
    if not isinstance(text, str):
        return text
    if text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of text that is almost Python
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _override(config: ConfigDict, field: str, text: Any) -> None:
    fields = flatten(config)
    if field in TO_TRANSFORMS:
        transform, setting = TO_TRANSFORMS[field]
        given = ' '.join(str(text).split())[:40]
        raise InputError(
            f'config field {field} is a setting of a transform now; set augment.transforms, such '
            f"as --config.augment.transforms='{transform}({setting}={given}), flip'"
        )
    if field not in fields:
        near = [RENAMED[field]] if field in RENAMED else []
        raise unknown_name('config field', field, fields, near)
    value, old = parse_value(text), fields[field]
    if value is None and not _optional(config, field):
        raise InputError(f'config field {field} cannot be unset; it is {old!r}')
    kind = config_type(config, field)
    if kind == 'str' and value is not None:
        value = text  # also a name that looks like a number
    if field in LISTS and isinstance(value, str):
        value = data.split_list(value)
    if isinstance(value, list):
        value = tuple(value)
    try:
        # What ConfigDict would take: True as a number, a dict as more fields.
        if isinstance(value, Mapping) or (isinstance(value, bool) and kind != 'bool'):
            raise TypeError(kind)
        config.update_from_flattened_dict({field: value})
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f'config field {field} takes {kind}, got {shown(text)}') from error


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


def flatten(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names of all fields, with their values."""
    fields = config.to_dict() if isinstance(config, ConfigDict) else config
    flat: dict[str, Any] = flatten_dict(fields, sep='.')
    return flat


def to_json(config: ConfigDict) -> str:
    """The config as indented JSON; tuples become lists."""
    return json.dumps(json.loads(config.to_json()), indent=2) + '\n'


def from_json(text: str) -> ConfigDict:
    """The inverse of `to_json`, locked; also of configs that earlier versions wrote.

    Fields that such a config lacks get their default, and renamed fields their new name; a field
    that this version does not know is kept.

    Raises:
      ValueError: if it is not the JSON of a config.
    """

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    fields = parse_json(text)
    config = default_config()
    for name, value in config.items():
        given = fields.get(name, value)
        leaves = [given, *given.values()] if isinstance(given, dict) else []
        if {} in leaves or isinstance(value, ConfigDict) != isinstance(given, dict | ConfigDict):
            raise ValueError(f'it holds no config: {name} is {shown(given)}')
    if 'model' not in fields:
        raise ValueError('it holds no config')
    # Versions without this field took slices in this order.
    found = {'data.slice_order': 'sorted', **upgraded(flatten(fields))}
    found = {field: tuples(value) for field, value in found.items()}
    _check_types(found, config)
    check_values({**flatten(config), **found})
    with config.unlocked(), config.ignore_type():
        for field, value in found.items():
            *sections, leaf = field.split('.')
            section = config
            for name in sections:
                if name not in section:
                    section[name] = ConfigDict()
                section = section[name]
            section[leaf] = value
    return config.lock()


def _check_types(found: Mapping[str, Any], config: ConfigDict) -> None:
    """Refuses flattened fields of a file that no config can have held; others' are let through."""
    kinds = {field: config_type(config, field) for field in flatten(config)}
    for field, value in found.items():
        inside = [known for known in kinds if field.startswith(f'{known}.')]
        if inside:
            raise ValueError(f'its field {inside[0]} is a section')
        kind = kinds.get(field)
        if kind is None or (value is None and _optional(config, field)):
            continue
        if type(value).__name__ not in (kind, 'int' if kind == 'float' else kind):
            raise ValueError(f'its field {field} takes {kind}, got {shown(value)}')


def upgraded(
    fields: Mapping[str, Any], transforms: Callable[[], Sequence[str]] | None = None
) -> dict[str, Any]:
    """Flattened fields of an earlier version under today's names.

    `augment.flip` and `augment.random_resized_crop` are transforms now, and so is a crop after
    padding; the rest of `augment` are settings of theirs.

    Args:
      fields: as they were written.
      transforms: gives `augment.transforms` of the config that the fields change, for fields that
        change settings alone; None: the default's.
    """
    found = {RENAMED.get(field, field): value for field, value in fields.items()}
    switches = {
        name: found.pop(f'augment.{name}', None) for name in ('random_resized_crop', 'flip')
    }
    if any(switch is not None for switch in switches.values()):
        used = {
            'random_resized_crop': switches['random_resized_crop'],
            'pad_crop': found.get('augment.pad'),
            'flip': switches['flip'],
        }
        found['augment.transforms'] = tuple(name for name, on in used.items() if on)
    settings: dict[str, dict[str, Any]] = {}
    for field, (transform, setting) in TO_TRANSFORMS.items():
        if field in found:
            settings.setdefault(transform, {})[setting] = found.pop(field)
    if settings:
        names = found.get('augment.transforms')
        if names is None:
            names = transforms() if transforms else default_config().augment.transforms
        found['augment.transforms'] = data.with_settings(names, settings)
    return found


def differences(
    old: ConfigDict, new: ConfigDict, but_for: Collection[str] = FREE_FIELDS
) -> list[str]:
    """What a run would compute differently, as lines 'field: old -> new'.

    Left out are the fields `but_for`, and those that have no effect in either config. The path of
    data in files may change; whether their contents have is told by `data.fingerprint`.
    """
    a, b = flatten(json.loads(old.to_json())), flatten(json.loads(new.to_json()))
    kinds = {str(fields.get('data.name')).partition(':')[0] for fields in (a, b)}
    if len(kinds) == 1 and kinds <= {'folder', 'tar', 'npz', 'text', 'audio'}:
        a['data.name'] = b['data.name']
        for field in ('data.labels', 'data.label_names'):
            a[field] = b[field] = None
    missing = '(absent)'
    for fields in (a, b):
        if 'augment.transforms' in fields:
            fields['augment.transforms'] = data.canonical_transforms(fields['augment.transforms'])
    return [
        f'{field}: {a.get(field, missing)!r} -> {b.get(field, missing)!r}'
        for field in sorted(a.keys() | b.keys())
        if field not in but_for
        and a.get(field, missing) != b.get(field, missing)
        and not (lacking(old, field) and lacking(new, field))
    ]
