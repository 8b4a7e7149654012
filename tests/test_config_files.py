"""Config files by path and by name, also far from a checkout."""

import shutil

import pytest
from running import CONFIGS, ROOT

from resnet_jax.errors import InputError
from resnet_jax.training import config_files
from resnet_jax.training.config import load_config, to_json

FILES = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob('*.py'))
PACKAGE = ROOT / 'resnet_jax' / 'configs'


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder that is no checkout, made the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_config_of_the_package_has_a_name(elsewhere):
    assert {'digits', 'cifar10', 'sweeps/norms'} <= set(config_files.package_names())
    for path in FILES:
        name = str(path.with_suffix(''))
        assert config_files.find(name) == (PACKAGE / path, None)
        assert config_files.find(f'{name}:a') == (PACKAGE / path, 'a')
        assert config_files.canonical(name) == name


def test_a_name_is_the_same_config_as_its_file(elsewhere):
    for name in ('digits', 'cifar10:cifar_resnet110'):
        stem, _, variant = name.partition(':')
        path = str(CONFIGS / f'{stem}.py') + (f':{variant}' if variant else '')
        assert to_json(load_config(name)) == to_json(load_config(path))


def test_a_file_comes_before_a_name(elsewhere):
    """Names have no ending, so only a file without one can hide a config of the package."""
    (elsewhere / 'digits.py').write_text('def get_config():\n    return 3\n')
    assert load_config('digits').data.name == 'digits'
    with pytest.raises(InputError, match='must return'):
        load_config('digits.py')
    (elsewhere / 'digits').write_text('x = 1\n')
    with pytest.raises(InputError, match='not a Python file'):
        load_config('digits')


def test_paths_may_start_elsewhere_and_hold_colons(elsewhere):
    (elsewhere / 'a:b').mkdir()
    for folder in (elsewhere, elsewhere / 'a:b'):
        (folder / 'x.py').write_text('def get_config(v=1):\n    return v\n')
    assert config_files.find('x.py:v', elsewhere / 'a:b') == (elsewhere / 'a:b' / 'x.py', 'v')
    assert config_files.call(f'{elsewhere}/a:b/x.py', 'get_config') == 1
    assert config_files.call(f'{elsewhere}/a:b/x.py:w', 'get_config') == 'w'


@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        ('digit', "unknown config 'digit'; did you mean 'digits'"),
        ('sweeps/norm', "did you mean 'sweeps/norms'"),
        ('mein', "did you mean 'mine.py'"),
        ('mein.py', "unknown config file in ./: 'mein.py'; did you mean 'mine.py'"),
        (
            'configs/digits.py',
            "no config file configs/digits.py; the package has a config 'digits'",
        ),
        ('digits.py:x', "no config file digits.py; the package has a config 'digits'"),
        ('/no/where.py', 'no config file /no/where.py'),
    ],
)
def test_misspelt_names_and_paths(spec, message, elsewhere):
    (elsewhere / 'mine.py').write_text('')
    with pytest.raises(InputError) as error:
        config_files.find(spec)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ('spec', 'written'),
    [
        (str(CONFIGS / 'digits.py'), 'digits'),
        (str(CONFIGS / 'sweeps' / '..' / 'cifar10.py:m'), 'cifar10:m'),
        (str(PACKAGE / 'sweeps' / 'norms.py'), 'sweeps/norms'),
        # As earlier versions wrote them down, in checkouts that are not here.
        ('configs/sweeps/../digits.py', 'digits'),
        ('/no/checkout/configs/cifar10.py', 'cifar10'),
        # Those of users.
        ('mine.py', 'mine.py'),
        ('configs/digits.py', 'configs/digits.py'),
        ('/no/where/digits.py', '/no/where/digits.py'),
    ],
)
def test_how_a_config_is_written_down(spec, written, elsewhere):
    (elsewhere / 'mine.py').write_text('')
    if spec == written == 'configs/digits.py':  # a copy of one's own
        shutil.copytree(CONFIGS, elsewhere / 'configs')
    assert config_files.canonical(spec) == written
    named = written.partition(':')[0] in config_files.package_names()
    anywhere = written if named else str((elsewhere / written).resolve())
    assert config_files.absolute(spec) == anywhere


def test_a_config_anywhere_may_start_from_the_packages(elsewhere):
    """Unless a file of the same name stands beside it."""
    mine = elsewhere / 'mine.py'
    mine.write_text('import digits\n\ndef get_config():\n    return digits.get_config()\n')
    assert load_config('mine.py').data.name == 'digits'
    (elsewhere / 'digits.py').write_text(
        'import default\n\ndef get_config():\n    config = default.get_config()\n'
        '    config.seed = 7\n    return config\n'
    )
    assert load_config('mine.py').seed == 7
    (elsewhere / 'digits.py').unlink()
    assert load_config('mine.py').seed == 0
