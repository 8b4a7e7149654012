"""Config files: every field counts, mistakes are named, and nothing gets lost on the way."""

import dataclasses
import importlib.util
import json
import pathlib
import sys
from typing import ClassVar

import jax.numpy as jnp
import optax
import pytest
from ml_collections import ConfigDict
from running import CONFIGS, DIGITS, TINY, tiny

from resnet_jax.data import Preprocessing
from resnet_jax.dense import Detector, Segmenter
from resnet_jax.models import InputError, create_model
from resnet_jax.models.design import BlockDesign
from resnet_jax.models.resnet import ResNet
from resnet_jax.training import checks, distillation, effects, loop, optim, pruning, start
from resnet_jax.training import config as configs
from resnet_jax.training.checks import resolve
from resnet_jax.training.tasks import TASKS

DEFAULT = CONFIGS / 'default.py'
FILES = sorted(CONFIGS.glob('*.py'))


def write(path: pathlib.Path, *lines: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n')
    return str(path)


def from_default(path: pathlib.Path, *lines: str) -> str:
    """A config file in another folder that starts from a copy of the default."""
    (path.parent / 'default.py').write_text(DEFAULT.read_text())
    body = ['import default', 'def get_config():', '    config = default.get_config()']
    return write(path, *body, *(f'    {line}' for line in lines), '    return config')


class Recording(ConfigDict):
    """A config that notes which of its fields are read by name."""

    seen: ClassVar[set[tuple[int, str]]] = set()

    def __getitem__(self, name):  # also what `config.name` calls
        value = super().__getitem__(name)
        Recording.seen.add((id(self), name))
        return value


def recorded(config: ConfigDict) -> dict[tuple[int, str], str]:
    """Makes a config record; gives the dotted name of each (section, field)."""
    names = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            names.update({(id(value), leaf): f'{name}.{leaf}' for leaf in value})
            object.__setattr__(value, '__class__', Recording)
        else:
            names[(id(config), name)] = name
    object.__setattr__(config, '__class__', Recording)
    return names


def read_distillation(settings):
    """The loss of a student, and the look for a teacher that is not there."""
    logits = jnp.zeros((1, 2))
    outputs = {'logits': logits, 'stage1': jnp.ones((1, 2, 2, 3))}
    with settings.unlocked():
        settings.teacher, settings.features = 'nowhere', 1.0
    teacher = distillation._compared(outputs, True)
    distillation.loss_of(outputs, {'task': None, 'teacher': teacher}, lambda *_: 0.0, settings)
    with pytest.raises(InputError, match=r'distill\.model'):
        distillation._load(settings, Preprocessing(4, 1, None, (0.0,), (1.0,), ('a', 'b')))
    distillation.check_settings(ConfigDict({**settings.to_dict(), 'features': 0.0}))
    assert settings.outputs in distillation.OUTPUTS


def test_every_field_is_read(tmp_path):
    """By a run and by the schedules, optimisers and losses that it does not use."""
    config = tiny({'train.steps': 2, 'optim.warmup': 1})
    names = recorded(config)
    Recording.seen.clear()
    loop.train(config, tmp_path / 'run')
    for schedule in optim.SCHEDULES.values():
        schedule(config.optim, 0.1, 1.0, 0, 10)
    for optimizer in optim.OPTIMIZERS.values():
        optimizer(config.optim, lambda step: 0.1, optax.identity())
    for loss in TASKS['classification'].losses.values():
        loss(jnp.zeros((1, 2)), jnp.zeros(1, jnp.int32), config.loss, None)
    for schedule in pruning.SCHEDULES:
        with config.prune.unlocked():
            config.prune.schedule = schedule
        pruning.with_zeros(optax.identity(), config.prune, 10)
    read_distillation(config.distill)
    read = {names[key] for key in Recording.seen if key in names}
    # The model's overrides are passed on together; the next test is theirs.
    overrides = {f'model.{f}' for f in config.model if f not in ('name', 'dtype')}
    assert set(names.values()) - read - overrides == set()


def test_model_fields_are_those_of_the_model():
    model = configs.load_config(str(DEFAULT)).model
    fields = {f.name for cls in (ResNet, BlockDesign) for f in dataclasses.fields(cls) if f.init}
    # The axis belongs to whoever maps the step over devices.
    dense = {f.name for cls in (Segmenter, Detector) for f in dataclasses.fields(cls) if f.init}
    fields |= dense | {'features', 'frozen'}  # the latter two of the backbone
    fields -= {'parent', 'name', 'block', 'num_classes', 'dtype', 'bn_axis_name'}
    assert set(model) - {'name', 'dtype'} == fields
    assert all(model[field] is None for field in fields)


def test_model_overrides_reach_the_model():
    config = tiny({'model.placement': 'full_preact', 'model.dropout': 0.25, 'model.stem_width': 7})
    model = start.build_model(config.model, 3)
    assert (model.stage_sizes, model.width, model.stem_width) == ((1,), 4, 7)
    assert (model.block.placement, model.dropout, model.num_classes) == ('full_preact', 0.25, 3)
    assert model.bn_momentum == create_model('cifar_resnet8').bn_momentum  # not set: the row's


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.stem)
def test_every_config_loads(path):
    config = configs.load_config(str(path))
    resolve(config)
    assert (
        configs.flatten(config).keys() == configs.flatten(configs.load_config(str(DEFAULT))).keys()
    )
    start.build_model(config.model, 10)
    optim.make_optimizer(
        config.optim,
        optim.make_schedule(config.optim, batch_size=8, total_steps=10**6, steps_per_epoch=100.0),
    )
    assert (config.train.steps is None) != (config.train.epochs is None)


@pytest.mark.parametrize(
    ('spec', 'model'),
    [
        ('cifar10.py:cifar_resnet110', 'cifar_resnet110'),
        ('cifar10_jpeg.py:cifar_preact_resnet20', 'cifar_preact_resnet20'),
        ('imagenet.py:preact_resnet50', 'preact_resnet50'),
        ('imagenet.py', 'resnet50'),
    ],
)
def test_variants(spec, model):
    assert configs.load_config(str(CONFIGS / spec)).model.name == model


def test_variant_changes_what_the_paper_changes():
    deep = configs.load_config(str(CONFIGS / 'cifar10.py:cifar_resnet110')).optim
    assert (deep.warmup, deep.warmup_shape, deep.warmup_start) == (400.0, 'constant', 0.1)
    assert configs.load_config(str(CONFIGS / 'cifar10.py')).optim.warmup == 0.0


@pytest.mark.parametrize(
    ('field', 'text', 'value'),
    [
        ('optim.learning_rate', '1e-2', 0.01),
        ('optim.learning_rate', '1', 1.0),
        ('optim.nesterov', 'true', True),
        ('optim.nesterov', 'False', False),
        ('model.stage_sizes', '(2,3)', (2, 3)),
        ('model.stage_sizes', '[2, 3]', (2, 3)),
        ('model.dropout', 'None', None),
        ('data.dir', '123', '123'),
        ('data.name', 'folder:/a b', 'folder:/a b'),
        ('data.train_split', 'train[:45000]', 'train[:45000]'),
    ],
)
def test_override(field, text, value):
    flat = configs.flatten(configs.load_config(str(DEFAULT), [(field, text)]))
    assert flat[field] == value
    assert type(flat[field]) is type(value)


def test_an_optional_field_that_a_config_sets_can_be_unset():
    assert configs.load_config(str(CONFIGS / 'imagenet.py')).data.resize == 256
    config = configs.load_config(str(CONFIGS / 'imagenet.py'), [('data.resize', 'None')])
    assert config.data.resize is None


@pytest.mark.parametrize(
    ('field', 'text', 'words'),
    [
        ('optim.learnin_rate', '0.1', "did you mean 'optim.learning_rate'?"),
        ('optim.learning_rte', '0.1', "did you mean 'optim.learning_rate'?"),
        ('learning_rate', '0.1', "'optim.learning_rate'"),
        ('model', 'resnet18', "unknown config field 'model'"),
        ('model.widht', '3', "'model.width'"),
        ('train.batch_size', 'many', "train.batch_size takes int, got 'many'"),
        ('train.batch_size', '1.5', 'train.batch_size takes int'),
        ('train.epochs', 'two', 'train.epochs takes float'),
        ('model.stage_sizes', '3', 'model.stage_sizes takes tuple'),
        ('optim.nesterov', 'maybe', 'optim.nesterov takes bool'),
        ('optim.learning_rate', 'None', 'optim.learning_rate cannot be unset; it is 0.1'),
        ('optim.name', 'None', 'optim.name cannot be unset'),
    ],
)
def test_bad_override(field, text, words):
    with pytest.raises(InputError) as error:
        configs.load_config(str(DEFAULT), [(field, text)])
    assert words in str(error.value)


@pytest.mark.parametrize(
    ('field', 'value', 'words'),
    [
        ('train.batch_size', 0, 'train.batch_size must be at least 1, got 0'),
        ('train.steps', 0, 'train.steps must be at least 1'),
        ('train.epochs', 0, 'train.epochs must be above 0'),
        ('seed', -1, 'seed must be at least 0'),
        ('checkpoint.keep', 0, 'checkpoint.keep must be at least 1'),
        ('optim.momentum', 1, 'optim.momentum must be in [0, 1)'),
        ('optim.ema', 1.5, 'optim.ema must be in [0, 1)'),
        ('augment.transforms', 'random_resized_crop(scale=(0.5,))', 'scale must be two numbers'),
        ('augment.transforms', 'random_resized_crop(scale=(0.6, 0.5))', 'the smaller first'),
        ('augment.transforms', 'pad_crop(pad=-1)', 'pad must be at least 0, got -1'),
        ('augment.transforms', 'grey', 'takes images of 3 channels, not of 1'),
        ('augment.pad', 2, "such as --config.augment.transforms='pad_crop(pad=2), flip'"),
        ('augment.crop_scale', (0.5, 1), "'random_resized_crop(scale=(0.5, 1)), flip'"),
        ('augment.repeats', 0, 'augment.repeats must be at least 1'),
    ],
)
def test_values_that_make_no_sense(field, value, words):
    fields = {key: text for key, text in TINY.items() if key != 'train.steps'}
    with pytest.raises(InputError) as error:
        configs.load_config(str(DIGITS), [*fields.items(), (field, str(value))])
    assert words in str(error.value)


def test_steps_and_epochs_exclude_each_other():
    digits = configs.load_config(str(DIGITS))
    assert (digits.train.steps, digits.train.epochs) == (None, 20.0)
    by_steps = configs.load_config(str(DIGITS), [('train.steps', '7')])
    assert (by_steps.train.steps, by_steps.train.epochs) == (7, None)
    by_epochs = configs.load_config(str(DEFAULT), [('train.epochs', '2')])
    assert (by_epochs.train.steps, by_epochs.train.epochs) == (None, 2.0)
    for both in (
        [('train.steps', '7'), ('train.epochs', '2')],
        [('train.epochs', 'None')],
    ):
        with pytest.raises(InputError, match=r'exactly one of train\.steps and train\.epochs'):
            configs.load_config(str(DIGITS), both)
    explicit = configs.load_config(str(DIGITS), [('train.steps', '7'), ('train.epochs', 'None')])
    assert explicit.train.steps == 7


def test_config_is_locked():
    with pytest.raises(AttributeError, match='learning_rate'):
        configs.load_config(str(DEFAULT)).optim.learnin_rate = 0.1


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.stem)
def test_json_round_trip(path):
    config = configs.load_config(str(path))
    again = configs.from_json(configs.to_json(config))
    assert configs.flatten(again) == configs.flatten(config)
    assert {k: type(v) for k, v in configs.flatten(again).items()} == {
        k: type(v) for k, v in configs.flatten(config).items()
    }
    assert configs.differences(config, again) == []
    assert again.is_locked


def test_differences_names_what_matters():
    old = tiny()
    new = tiny({'optim.learning_rate': 0.3, 'seed': 4, 'data.workers': 3, 'train.log_every': 9})
    assert configs.differences(old, new) == ['optim.learning_rate: 0.2 -> 0.3', 'seed: 0 -> 4']
    added = ConfigDict({'seed': 0, 'x': {'y': 1}})
    assert configs.differences(ConfigDict({'seed': 0}), added) == ["x.y: '(absent)' -> 1"]


def test_named_fields_exist():
    fields = set(configs.flatten(configs.load_config(str(DEFAULT))))
    for names in (
        configs.FREE_FIELDS,
        configs.ALTERNATIVES,
        checks.NAME_LISTS,
        checks.RANGES,
        checks.CHOICES,
        effects.NEEDS,
    ):
        assert set(names) <= fields


def test_folders_do_not_mix(tmp_path):
    """Each config's `import default` is that of its own folder, whatever was read before."""
    for folder, seed in (('a', 1), ('b', 2)):
        body = DEFAULT.read_text().replace('config.seed = 0', f'config.seed = {seed}')
        write(tmp_path / folder / 'default.py', body)
        write(
            tmp_path / folder / 'mine.py',
            'import default',
            'def get_config():',
            '    return default.get_config()',
        )
    seeds = [configs.load_config(str(tmp_path / f / 'mine.py')).seed for f in 'abab']
    assert seeds == [1, 2, 1, 2]
    assert configs.load_config(str(DIGITS)).seed == 0


def test_a_neighbour_does_not_give_way_to_a_module_of_the_same_name(tmp_path, monkeypatch):
    other = importlib.util.module_from_spec(importlib.util.spec_from_loader('default', None))
    monkeypatch.setitem(sys.modules, 'default', other)
    before = list(sys.path)
    assert configs.load_config(str(DIGITS)).model.name == 'cifar_resnet8'
    assert sys.modules['default'] is other
    assert sys.path == before


def test_packages_below_the_config_stay_imported(tmp_path, monkeypatch):
    """A virtual environment often lies below the folder of a config."""
    write(tmp_path / 'lib' / 'installed_here.py', 'VALUE = 5')
    monkeypatch.syspath_prepend(str(tmp_path / 'lib'))
    path = from_default(
        tmp_path / 'mine.py', 'import installed_here', 'config.seed = installed_here.VALUE'
    )
    assert configs.load_config(path).seed == 5
    assert 'installed_here' in sys.modules
    monkeypatch.delitem(sys.modules, 'installed_here')


@pytest.mark.parametrize(
    ('lines', 'words'),
    [
        (['def get_config(:'], 'SyntaxError'),
        (['x = 1'], 'does not define get_config()'),
        (['def get_config():', '    return {}'], 'must return an ml_collections.ConfigDict'),
        (['def get_config():', '    return 1 / 0'], 'ZeroDivisionError: division by zero'),
        (['import no_such_module'], "No module named 'no_such_module'"),
        (['def get_config():', '    from ml_collections import ConfigDict as C', '    return C()'],
         'lacks the fields augment.repeats'),
    ],
)  # fmt: skip
def test_bad_config_file(tmp_path, lines, words):
    path = write(tmp_path / 'mine.py', *lines)
    with pytest.raises(InputError) as error:
        configs.load_config(path)
    assert words in str(error.value)
    assert path in str(error.value)
    assert '\n' not in str(error.value)


def test_config_file_that_is_not_there(tmp_path):
    for spec, words in (
        (str(CONFIGS / 'digit.py'), "did you mean 'digits.py'"),
        (str(tmp_path / 'nothing.py'), 'no config file'),
        (str(tmp_path), 'no config file'),
        (str(CONFIGS), 'no config file'),
        (f'{DIGITS}:variant', 'get_config() takes 0 positional arguments'),
        (write(tmp_path / 'config.txt', 'x'), 'not a Python file'),
    ):
        with pytest.raises(InputError) as error:
            configs.load_config(spec)
        assert words in str(error.value)


def test_unreadable_config_file(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_bytes(b'\xff\xfe\x00')
    with pytest.raises(InputError, match=r'mine\.py'):
        configs.load_config(str(path))


@pytest.mark.parametrize(
    ('fields', 'field', 'needed'),
    [
        ({'loss.alpha': 0.5}, 'loss.alpha', 'loss.name=focal'),
        ({'data.bad_images_share': 0.5}, 'data.bad_images_share', 'data.bad_images=skip'),
        ({'loss.name': 'focal', 'loss.label_smoothing': 0.1}, 'loss.label_smoothing',
         'loss.name=cross_entropy or binary_cross_entropy'),
        ({'optim.b1': 0.8}, 'optim.b1', 'another optim.name than sgd'),
        ({'optim.name': 'schedule_free_sgd', 'optim.b2': 0.9}, 'optim.b2',
         'another optim.name than sgd and schedule_free_sgd'),
        ({'optim.name': 'adam', 'optim.momentum': 0.8}, 'optim.momentum', 'optim.name=sgd or muon'),
        ({'optim.name': 'adamw', 'optim.momentum': 0.8}, 'optim.momentum', 'optim.name=sgd'),
        ({'optim.momentum': 0, 'optim.nesterov': True}, 'optim.nesterov', 'optim.momentum'),
        ({'optim.schedule': 'cosine', 'optim.boundaries': '(3.0,)'}, 'optim.boundaries',
         'optim.schedule=piecewise'),
        ({'optim.warmup_start': 0.1}, 'optim.warmup_start', 'optim.warmup=400'),
        ({'loss.target_threshold': 0.2}, 'loss.target_threshold', 'loss.name=binary_cross_entropy'),
        ({'init.reset_head': True}, 'init.reset_head', 'init.weights=FILE'),
        ({'log.project': 'mine'}, 'log.project', 'log.trackers=wandb'),
        ({'model.norm_groups': 4}, 'model.norm_groups', 'model.norm=group'),
        ({'model.norm': 'layer', 'model.bn_momentum': 0.8}, 'model.bn_momentum',
         'model.norm=batch'),
        ({'model.norm': 'group', 'parallel.batch_norm': 'per_replica'}, 'parallel.batch_norm',
         'model.norm=batch'),
        ({'model.gate_bias': -6.0}, 'model.gate_bias', 'model.gate=exclusive or shortcut_only'),
        ({'model.shortcut': 'none', 'model.shortcut_scale': 0.5}, 'model.shortcut_scale',
         'model.shortcut'),
        ({'model.se_place': 'pre'}, 'model.se_place', 'model.se_ratio'),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)  # fmt: skip
def test_a_field_without_effect_is_refused_with_what_it_needs(fields, field, needed):
    overrides = [(name, str(value)) for name, value in fields.items()]
    with pytest.raises(InputError) as error:
        configs.load_config(str(DIGITS), overrides)
    assert f'config field {field} has no effect without' in str(error.value)
    assert needed in str(error.value)


@pytest.mark.parametrize(
    'fields',
    [
        {'loss.name': 'focal', 'loss.alpha': 0.5, 'loss.gamma': 1.0},
        {'loss.name': 'focal', 'loss.label_smoothing': 0},  # switched off, not set in vain
        {'optim.name': 'adamw', 'optim.b1': 0.8, 'optim.momentum': 0},
        {'model.name': 'cifar_se_resnet20', 'model.se_place': 'pre'},  # the row has the ratio
        {'model.name': 'cifar_preact_resnet20', 'model.raw_first_shortcut': True},
        {'model.norm': 'group', 'model.norm_groups': 4},
        {'loss.name': 'binary_cross_entropy', 'loss.target_threshold': 0.2},
    ],
)
def test_a_field_with_effect_is_taken(fields):
    configs.load_config(str(DIGITS), [(name, str(value)) for name, value in fields.items()])


def test_needs_name_fields_that_change_a_run():
    """Each row of NEEDS lets its field through in some config, and refuses it in another."""
    digits = configs.load_config(str(DIGITS))
    every = [
        {'optim.name': 'adamw', 'optim.schedule': 'piecewise', 'loss.name': 'focal'},
        {'optim.warmup': 5.0, 'loss.name': 'binary_cross_entropy'},
        {'model.norm': 'group', 'model.placement': 'full_preact', 'model.gate': 'exclusive'},
        {'model.shortcut': 'none', 'model.norm': 'none'},
        {'model.se_ratio': 0.1, 'model.stochastic_depth': 0.1, 'init.weights': 'x'},
        {'model.weight_standardization': True, 'train.eval_every': 0},
        {'log.trackers': ('wandb',), 'data.name': 'tfds:x', 'parallel.batch_norm': 'per_replica'},
        {'model.norm': 'group', 'parallel.batch_norm': 'per_replica'},
        {'train.freeze': ('stem',), 'optim.decay_towards': 'start', 'data.bad_images': 'skip'},
        {'data.name': 'folder:x', 'data.train_split': 'train[:75%]', 'data.validation': 0.1},
        {'data.name': 'npz:x.npz'},
        {'model.name': 'mobilenet_v2'},
        {'model.name': 'vdcnn9', 'data.name': 'text:x'},
        {'data.name': 'audio:x'},
        {'model.kernels': (1, 1)},
        {'model.inner_ratio': 2.0},
        {'task': 'segmentation', 'model.name': 'fcn_resnet50'},
        {'task': 'detection', 'model.name': 'retinanet_resnet50_fpn', 'loss.name': 'focal'},
        {'task': 'depth', 'model.name': 'unet_resnet18', 'loss.name': 'scale_invariant'},
        {'distill.teacher': 'x', 'prune.schedule': 'gradual', 'model.weight_bits': 8},
        {'optim.schedule': 'plateau', 'optim.name': 'adam', 'model.stage_widths': (4, 4, 4)},
    ]
    settings = [digits, *(configs.changed(digits, fields) for fields in every)]
    for field in effects.NEEDS:
        found = {bool(effects.lacking(config, field)) for config in settings}
        assert found == {True, False}, field


def test_a_config_of_an_earlier_version(tmp_path):
    """Its augmentation was two switches and a padding; it lacks fields that came later."""
    old = json.loads(configs.to_json(configs.load_config(str(DIGITS))))
    for name in ('freeze', 'unfreeze', 'freeze_batch_norm', 'matmul_precision'):
        del old['train'][name]
    for name in ('rates', 'layer_decay'):
        del old['optim'][name]
    old['optim']['freeze'] = ['stem']
    del old['task'], old['log']
    for switches, transforms in (
        ({'pad': 1, 'flip': False, 'random_resized_crop': False}, ('pad_crop(pad=1)',)),
        ({'pad': 4, 'flip': True, 'random_resized_crop': False}, ('pad_crop', 'flip')),
        ({'pad': 0, 'flip': True, 'random_resized_crop': True}, ('random_resized_crop', 'flip')),
        ({'pad': 0, 'flip': False, 'random_resized_crop': False}, ()),
    ):
        old['augment'] = {'pad_mode': 'zero', 'crop_scale': [0.08, 1.0], **switches}
        config = configs.from_json(json.dumps(old))
        assert config.augment.transforms == transforms
        assert set(config.augment) == {'transforms', 'repeats'}
        assert (config.task, config.log.trackers) == ('classification', ())
        assert config.train.freeze == ('stem',) and 'freeze' not in config.optim
        checks.resolve(config)
    for settings, transforms in (
        ({'pad': 2, 'pad_mode': 'reflect'}, ('pad_crop(pad=2, mode=reflect)', 'flip')),
        ({'pad': 4, 'pad_mode': 'zero', 'crop_scale': [0.35, 1.0]}, ('pad_crop', 'flip')),
    ):
        old['augment'] = {'transforms': ['pad_crop', 'flip'], **settings}
        assert configs.from_json(json.dumps(old)).augment.transforms == transforms
    old['augment'] = {'transforms': ['random_resized_crop', 'flip'], 'crop_scale': [0.35, 1.0]}
    config = configs.from_json(json.dumps(old))
    assert config.augment.transforms == ('random_resized_crop(scale=(0.35, 1.0))', 'flip')
    # What is spelled differently is the same run.
    spelled = ('random_resized_crop( scale = [0.35, 1], interpolation="bilinear" )', 'flip')
    same = configs.changed(config, {'augment.transforms': spelled})
    assert configs.differences(config, same) == []
    other = configs.changed(config, {'augment.transforms': ('random_resized_crop', 'flip')})
    assert len(configs.differences(config, other)) == 1


def test_a_config_with_fields_of_its_own_is_kept():
    config = json.loads(configs.to_json(configs.load_config(str(DIGITS))))
    config['mine'] = {'x': [1, 2]}
    again = configs.from_json(json.dumps(config))
    assert again.mine.x == (1, 2)
    assert again.is_locked
