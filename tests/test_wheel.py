"""The built wheel works alone: in an environment of its own, far from any checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest
from running import ROOT, TINY

pytestmark = pytest.mark.slow
DATA_FILES = ('py.typed', 'experiments/reports/report.html.template')
SHORT = {**TINY, 'train.steps': '2', 'train.log_every': '1', 'train.eval_every': '0'}
FLAGS = [f'--config.{name}={value}' for name, value in SHORT.items()]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Built from a copy of the sources, so that nothing is written into the checkout."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    source.mkdir()
    for name in ('pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns('__pycache__')
    shutil.copytree(ROOT / 'resnet_jax', source / 'resnet_jax', ignore=ignored)
    build = ['wheel', '--no-deps', '--no-build-isolation', '--wheel-dir', folder, source]
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--quiet']
    done = subprocess.run([*pip, *build], capture_output=True, text=True)
    if done.returncode and 'BackendUnavailable' in done.stderr:
        pytest.skip('building needs setuptools in this environment')
    assert done.returncode == 0, done.stderr
    return next(folder.glob('*.whl'))


@pytest.fixture(scope='module')
def resnet_jax(wheel, tmp_path_factory):
    """Runs the installed command in an empty folder, with the packages of this environment."""
    folder = tmp_path_factory.mktemp('installed')
    environment = folder / 'environment'
    venv.create(environment, with_pip=False)
    paths = {'base': str(environment), 'platbase': str(environment)}
    site = sysconfig.get_path('purelib', 'venv', paths)
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--quiet']
    install = ['--python', environment / 'bin' / 'python', 'install', '--no-deps', wheel]
    subprocess.run([*pip, *install], check=True)
    # What it depends on; the checkout itself, an editable installation here, stays out.
    (folder / 'packages').mkdir()
    for path in os.scandir(sysconfig.get_path('purelib')):
        if not path.name.startswith(('resnet_jax', '__editable__')):
            os.symlink(path.path, folder / 'packages' / path.name)
    with open(f'{site}/packages.pth', 'w') as file:
        file.write(f'{folder / "packages"}\n')
    variables = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    empty = folder / 'empty'
    empty.mkdir()

    def run(*arguments):
        done = subprocess.run(
            [environment / 'bin' / 'resnet-jax', *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=empty,
            env={**variables, 'JAX_PLATFORMS': 'cpu'},
        )
        assert done.returncode == 0, done.stderr
        return done

    where = [environment / 'bin' / 'python', '-c', 'import resnet_jax; print(resnet_jax.__file__)']
    found = subprocess.run(where, capture_output=True, text=True, cwd=empty, env=variables)
    assert found.stdout.startswith(str(environment)), found
    run.folder = empty
    return run


def test_it_holds_every_file_of_the_package(wheel):
    ours = {
        str(path.relative_to(ROOT))
        for path in (ROOT / 'resnet_jax').rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }
    assert {f'resnet_jax/{name}' for name in DATA_FILES} <= ours
    assert 'resnet_jax/configs/sweeps/norms.py' in ours
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if '.dist-info/' not in name}
        text = archive.read(next(n for n in archive.namelist() if n.endswith('entry_points.txt')))
    assert names == ours
    assert b'resnet-jax = resnet_jax.cli:main' in text


def test_models_and_tables_are_listed(resnet_jax):
    assert '269,722' in resnet_jax('models', 'cifar_resnet20').stdout
    listed = resnet_jax('reproduce', '--list').stdout
    assert 'he2015_table6' in listed and 'rsb_imagenet' in listed


def test_a_run(resnet_jax):
    resnet_jax('train', '--config', 'digits', '--workdir', 'run', *FLAGS)
    assert '"top1"' in resnet_jax('eval', '--workdir', 'run', '--json').stdout


def test_a_sweep_and_its_report(resnet_jax):
    sweep = ['sweep', '--config', 'sweeps/preact_vs_original', '--workdir', 'sweep', '--seeds', '2']
    resnet_jax(*sweep, *FLAGS)
    resnet_jax('report', '--workdir', 'sweep')
    assert (resnet_jax.folder / 'sweep' / 'report.html').is_file()


def test_a_sweep_in_two_processes(resnet_jax):
    sweep = ['sweep', '--config', 'sweeps/preact_vs_original', '--workdir', 'two', '--seeds', '1']
    resnet_jax(*sweep, '--workers', '2', *FLAGS)
    assert len(list(resnet_jax.folder.glob('two/runs/*/*/summary.json'))) == 2


def test_a_search(resnet_jax):
    pytest.importorskip('optuna', reason='needs the extra "search"')
    search = ['search', '--config', 'searches/learning_rate_weight_decay', '--workdir', 'search']
    flags = [*FLAGS, '--config.train.eval_every=1']
    assert '1 of 1 trials' in resnet_jax(*search, '--trials', '1', *flags).stdout


def test_a_reproduction(resnet_jax):
    arguments = ['he2015_plain', '--scale', 'smoke', '--workdir', 'smoke', '--shard', '1/5']
    assert 'ran' in resnet_jax('reproduce', *arguments).stdout
