"""Any value of any field and any argument works, or is refused in one line before anything runs.

The tables are the config and the parsers themselves, so that a new field or option is tried too.
"""

import argparse
import copy
import importlib
import random

import jax
import jax.numpy as jnp
import pytest
from running import DIGITS, TINY, flags

from resnet_jax.cli import main
from resnet_jax.commands.analyze import KINDS
from resnet_jax.commands.compress import KINDS as METHODS
from resnet_jax.commands.data import KINDS as DATA_KINDS
from resnet_jax.commands.parser import COMMANDS as PROGRAM_COMMANDS
from resnet_jax.errors import InputError
from resnet_jax.training import build, checks, effects, loop, start
from resnet_jax.training import config as configs

VALUES = (
    *('', '0', '-1', '0.5', '1', '2', '3', '7', '1e400', 'inf', '-inf', 'nan', '1e-400'),
    *('1000000000000000000', '99999999999999999999', '-99999999999999999999', '9' * 5000),
    *('None', 'True', 'false', 'maybe', '[]', '()', '(0,)', '(-1,)', '("a",)', '[1e400]', '(1, 2)'),
    *('(None,)', '((1,),)', '{}', '{"a": 1}', '{[]: 1}', 'x' * 300, '(' * 300, 'a\x00b', 'a\nb'),
    *('0x10', '1_0', '1+2', "b'a'", '...', '\\d', 'ü', '/', '-'),
)
NATIVE = (
    *(None, True, 0, -1, 1, 0.5, 10**18, 10**400, float('inf'), float('nan'), '', 'x' * 300),
    *([], (), [0], ('a',), (None,), {}, {'a': 1}, {1}, b'a', object(), len, 1j),
)
FIELDS = tuple(configs.flatten(configs.default_config()))
TRIES = [(field, value) for field in FIELDS for value in VALUES]
KNOWN = [  # each was once a traceback, or nonsense that was accepted
    ('model.stage_sizes', '(0,)'),
    ('model.width', '0'),
    ('model.groups', '3'),
    ('seed', '99999999999999999999'),
    ('optim.boundaries', '("a",)'),
    ('optim.boundaries', '(2, 1)'),
    ('optim.learning_rate', '1e400'),
    ('optim.b2', '1'),
    ('model.output_stride', '3'),
    ('model.ghost_batch', '7'),
    ('data.channels', '2'),
    ('model.dimensions', '3'),
    ('model.norm_groups', '0'),
    ('train.batch_size', 'True'),
    ('distill.teacher', '9' * 5000),
]


class Accepted(Exception):
    """The run would have begun."""


@pytest.fixture
def stopped(monkeypatch):
    """Runs end where their workdir would be made; the model has been traced by then."""

    def begin(*args, **kwargs):
        raise Accepted

    monkeypatch.setattr(build.Run, 'init_state', lambda run: None)
    monkeypatch.setattr(loop, 'open_session', begin)


def outcome(capsys, arguments):
    """'accepted', or the one line on standard error of exit code 2."""
    capsys.readouterr()
    try:
        code = main(arguments)
    except Accepted:
        return 'accepted'
    found = capsys.readouterr()
    assert code == 2, (arguments, code, found.err)
    assert found.err.startswith('resnet-jax: '), (arguments, found.err)
    assert found.err.count('\n') == 1 and len(found.err) < 1000, (arguments, found.err)
    return found.err


# Messages that name a field by what it holds.
WORDS = {
    **dict.fromkeys(('data.train_split', 'data.eval_split'), 'split'),
    **{
        'data.memory_mib': 'streamed',
        'data.name': 'data set',
        'augment.transforms': 'transform',
        'model.name': 'model',
    },
    **{'train.epochs': 'train.', 'train.steps': 'train.'},
}


def names(field, message):
    return field.rpartition('.')[2] in message or WORDS.get(field, field) in message


def check_field(capsys, folder, field, value):
    fields = {**TINY, field: value}
    if field in configs.ALTERNATIVES:
        fields.pop(configs.ALTERNATIVES[field], None)
    flags = [f'--config.{name}={text}' for name, text in fields.items()]
    said = outcome(capsys, ['train', f'--config={DIGITS}', f'--workdir={folder}', *flags])
    assert said == 'accepted' or names(field, said), (field, value, said)
    assert not folder.exists(), (field, value)
    return said


@pytest.mark.parametrize(('field', 'value'), KNOWN)
def test_nonsense_is_refused_by_name(stopped, capsys, tmp_path, field, value):
    assert check_field(capsys, tmp_path / 'run', field, value) != 'accepted'


@pytest.mark.parametrize('also', ['mode=shard_map', 'batch_norm=groups:4'])
def test_groups_of_batch_norm_are_said_in_one_place(stopped, capsys, tmp_path, also):
    flags = [f'--config.{name}={text}' for name, text in {**TINY, 'model.ghost_batch': 4}.items()]
    command = ['train', f'--config={DIGITS}', f'--workdir={tmp_path / "run"}', *flags]
    assert outcome(capsys, command) == 'accepted'
    said = outcome(capsys, [*command, f'--config.parallel.{also}'])
    assert 'set parallel.batch_norm=groups:4 instead' in said


def test_some_values_of_every_field(stopped, capsys, tmp_path):
    rng = random.Random(0)
    found = [
        check_field(capsys, tmp_path / 'run', field, value)
        for field in FIELDS
        for value in rng.sample(VALUES, 1)
    ]
    assert 'accepted' in found
    assert sum(said != 'accepted' for said in found) > len(FIELDS) / 2


@pytest.mark.slow
@pytest.mark.parametrize('field', FIELDS)
def test_every_value_of_every_field(stopped, capsys, tmp_path, field):
    said = [check_field(capsys, tmp_path / 'run', field, value) for value in VALUES]
    assert any(one != 'accepted' for one in said)


@pytest.fixture(scope='module')
def digits():
    return configs.read_config_file(str(DIGITS))


@pytest.mark.parametrize('field', FIELDS)
def test_native_values_are_taken_or_refused_by_name(digits, field):
    """What `load_config(spec, [('train.steps', 5)])` does once the file is read."""
    refused = 0
    for value in NATIVE:
        try:
            config = configs.override(copy.deepcopy(digits), [(field, value)])
            effects.refuse_without_effect([checks.resolve(config)], [field])
        except InputError as error:
            assert names(field, str(error)), (field, value, error)
            assert '\n' not in str(error) and len(str(error)) < 1000
            refused += 1
    assert refused >= 5


def test_native_values_are_those_of_their_text():
    native = [('train.steps', 5), ('model.stage_sizes', [1, 2]), ('optim.nesterov', True)]
    native += [
        ('optim.learning_rate', 1),
        ('augment.transforms', ['pad_crop(pad=2)', 'flip']),
        ('data.dir', None),
    ]
    text = [(field, str(value)) for field, value in native]
    one, other = (configs.load_config(str(DIGITS), pairs) for pairs in (native, text))
    assert configs.to_json(one) == configs.to_json(other)
    assert (one.train.steps, one.train.epochs, one.model.stage_sizes) == (5, None, (1, 2))


@pytest.mark.parametrize(
    'fields',
    [
        {'model.groups': 2},
        {'model.kernels': (1, 3, 1), 'model.expansion': 2, 'model.stride_at': 1},
        {'model.ghost_batch': 8},
        {'model.output_stride': 4, 'model.stage_sizes': (1, 1, 1, 1)},
        {'model.norm': 'group', 'model.norm_groups': 4},
        {'model.stem': 'imagenet_deep'},
        {'model.base_width': 16},
    ],
)
def test_models_that_are_accepted_have_shapes(fields):
    config = configs.load_config(str(DIGITS), [*TINY.items(), *fields.items()])
    model = start.build_model(config.model, 10)
    images = jnp.zeros((32, 16, 16, 1))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    logits, _ = jax.eval_shape(
        lambda v: model.apply(v, images, train=True, mutable=['batch_stats']), variables
    )
    assert logits.shape == (32, 10)


def options_of(command):
    """The options of a command that take a value, and its positional arguments."""
    parser = argparse.ArgumentParser()
    name = '.'.join(command.replace('data ', 'data_kinds ').split())
    importlib.import_module(f'resnet_jax.commands.{name}').add_arguments(parser)
    # What tells of several processes starts one, which checks its options itself.
    others = ('coordinator', 'processes', 'process_id')
    return [a for a in parser._actions if a.nargs != 0 and a.dest not in others]


def required(command, without, folder):
    """The arguments that a command cannot do without; they name things that do not exist."""
    found = []
    for action in options_of(command):
        if action is without:
            continue
        if action.option_strings and action.required:
            found.append(f'{action.option_strings[0]}={folder / "nowhere"}')
        elif not action.option_strings and (action.nargs not in ('?', '*') or command == 'models'):
            found.append(str(folder / 'nowhere'))
    return found


def check_argument(capsys, folder, command, action, value):
    """No traceback, exit code 2, and nothing written; whatever else is given does not exist."""
    flag = action.option_strings[-1] if action.option_strings else ''
    if not flag and value.startswith('-'):
        return
    given = f'{flag}={value}' if flag else value
    capsys.readouterr()
    try:
        code = main([*command.split(), *required(command, action, folder), given])
    except SystemExit as stop:  # argparse
        code = stop.code
    said = capsys.readouterr().err.splitlines()
    assert code == 2, (command, given, code, said)
    assert said[-1].startswith('resnet-jax'), (command, given, said)
    assert len(said[-1]) < 6000
    assert not list(folder.iterdir()), (command, given)


COMMANDS = (*PROGRAM_COMMANDS, *(f'data {kind}' for kind in DATA_KINDS))


@pytest.mark.parametrize('command', COMMANDS)
def test_some_values_of_any_argument(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    for action in options_of(command):
        for value in rng.sample(VALUES, 3):
            check_argument(capsys, tmp_path, command, action, value)


@pytest.mark.slow
@pytest.mark.parametrize('command', COMMANDS)
def test_every_value_of_any_argument(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for action in options_of(command):
        for value in VALUES:
            check_argument(capsys, tmp_path, command, action, value)


def test_a_misspelt_command_gets_the_nearest(capsys):
    for word, hint in (('trian', "did you mean 'train'?"), ('zzz', 'such as analyze, compare')):
        with pytest.raises(SystemExit) as stop:
            main([word])
        assert stop.value.code == 2
        assert hint in capsys.readouterr().err


def test_a_misspelt_kind_of_analysis_gets_the_nearest(capsys):
    for word, hint in (('lesoin', "did you mean 'lesion'?"), ('zzz', 'known: attribution')):
        with pytest.raises(SystemExit) as stop:
            main(['analyze', word])
        assert stop.value.code == 2
        assert hint in capsys.readouterr().err


# Numbers below the range of each option of a kind of `analyze`.
BELOW = {
    'lesion': {'--draws': 0, '--seed': -1, '--removed': '0', '--swapped': '1,99'},
    'paths': {'--draws': 0, '--seed': -1, '--lengths': '-1'},
    'landscape': {'--points': 1, '--range': 0, '--chunk': 0, '--curvature': -1, '--seed': -1},
    'signal': {'--seed': -1},
    'similarity': {},
    'attribution': {
        **dict.fromkeys(('--images', '--steps', '--samples', '--stride', '--patch'), 0),
        **dict.fromkeys(('--noise', '--seed'), -1),
    },
    'calibration': {'--bins': 0, '--bootstrap': -1, '--seed': -1},
    'robustness': {'--severities': '0', '--seed': -1, '--examples': -1},
}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'trained'
    assert main(['train', *flags(), '--workdir', str(folder)]) == 0
    return folder


def test_numbers_out_of_range_are_refused_by_every_kind_of_analysis(run, capsys, tmp_path):
    assert set(BELOW) == set(KINDS)
    for kind, options in BELOW.items():
        parser = argparse.ArgumentParser()
        importlib.import_module(f'resnet_jax.commands.analyses.{kind}').add_arguments(parser)
        numeric = {
            a.option_strings[0] for a in parser._actions if a.type in (int, float) and not a.choices
        }
        assert numeric <= set(options), f'give the new options of {kind} a number out of range'
        for option, value in options.items():
            out = tmp_path / 'out'
            given = ['--workdir', str(run), '--limit=4', f'{option}={value}', f'--out={out}']
            assert main(['analyze', kind, *given]) == 2
            said = [x for x in capsys.readouterr().err.splitlines() if not x.startswith('note:')]
            assert option in said[-1], (kind, option, said)
    assert not list(tmp_path.iterdir())


BELOW_OF_METHODS = {
    'fold': {'--latency-batch': 0},
    'prune': {'--sparsity': -0.1, '--blocks': 0, '--multiple': 0, '--fit-images': 0},
    'factorize': {'--energy': 0, '--budget': 0},
    'quantize': {
        **dict.fromkeys(('--bits', '--activations'), 1),
        **{'--mean-bits': 3, '--percentile': 10, '--fit-images': 0},
    },
    'compare': {'--latency-batch': 0},
}
ALSO = {'--blocks': ['--unit=block'], '--multiple': ['--unit=channel', '--sparsity=0.5']}


def test_numbers_out_of_range_are_refused_by_every_method(run, capsys, tmp_path):
    assert set(BELOW_OF_METHODS) == set(METHODS)
    for method, options in BELOW_OF_METHODS.items():
        parser = argparse.ArgumentParser()
        importlib.import_module(f'resnet_jax.commands.compressions.{method}').add_arguments(parser)
        numeric = {a.option_strings[0] for a in parser._actions if a.type in (int, float)}
        assert numeric <= set(options), f'give the new options of {method} a number out of range'
        for option, value in options.items():
            source = [str(run)] if method == 'compare' else ['--workdir', str(run), '--limit=4']
            given = [*source, f'{option}={value}', f'--out={tmp_path / "out"}']
            assert main(['compress', method, *given, *ALSO.get(option, [])]) == 2
            said = [x for x in capsys.readouterr().err.splitlines() if not x.startswith('note:')]
            assert option in said[-1], (method, option, said)
    assert not list(tmp_path.iterdir())


BODIES = {
    'import sys; sys.exit(0)': 'SystemExit',
    'def get_config(:': 'SyntaxError',
    'def get_config(): return get_config()': 'RecursionError',
    'class Odd(BaseException): pass\nraise Odd("no")': 'Odd: no',
    'raise MemoryError': 'MemoryError',
    'def get_config(): return None': 'must return',
    'def get_config(): return [1]': 'must return',
    'def get_config(): return {1: 2}': 'must return',
    'get_config = 3': 'TypeError',
    'x = 1': 'does not define',
    '\x00': 'mine.py',
}


@pytest.mark.parametrize('kind', ['config', 'sweep', 'search'])
@pytest.mark.parametrize('body', BODIES)
def test_any_config_file(kind, body, capsys, tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(body.replace('get_config', f'get_{kind}'))
    command = 'train' if kind == 'config' else kind
    said = outcome(capsys, [command, f'--config={path}', f'--workdir={tmp_path / "run"}'])
    words = BODIES[body]
    if words == 'must return' and kind != 'config':
        words = 'key' if '{' in body else words
    assert words in said
    assert not (tmp_path / 'run').exists()


def test_what_a_config_prints_is_not_on_standard_output(capsys, tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text('print("hello")\ndef get_config(): return None\n')
    assert main(['train', f'--config={path}', f'--workdir={tmp_path / "run"}']) == 2
    found = capsys.readouterr()
    assert found.out == '' and 'hello' in found.err
