"""What starts quickly: importing the package, --help, --version; and what the latter says."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib

import jax
import pytest
from running import ROOT, command

from resnet_jax import __version__

NO_BACKENDS = 'from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()'


def python(code):
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_imports_no_jax():
    """So that what only asks for help, or for a version, does not wait for it."""
    python("import sys, resnet_jax; assert 'jax' not in sys.modules")
    python('import resnet_jax; assert resnet_jax.models.registry and resnet_jax.create_model')


def test_no_backend_starts_before_it_is_needed():
    """A program may set up several processes or choose devices after its imports."""
    python(
        'import resnet_jax\n'
        'from resnet_jax import *\n'
        'import resnet_jax.training.loop, resnet_jax.inference.predict\n' + NO_BACKENDS
    )
    python(f"import resnet_jax\nassert 'resnet50' in resnet_jax.list_models()\n{NO_BACKENDS}")


def test_a_name_that_is_not_there_is_an_attribute_error():
    import resnet_jax

    with pytest.raises(AttributeError, match='no attribute'):
        _ = resnet_jax.create_modle
    assert set(resnet_jax.__all__) <= set(dir(resnet_jax))


@pytest.mark.parametrize('arguments', [['--help'], ['train', '--help'], ['data', 'show', '-h']])
def test_help_imports_no_jax(arguments):
    python(
        'import sys\n'
        'from resnet_jax.cli import main\n'
        'try:\n'
        f'    main({arguments})\n'
        'except SystemExit:\n'
        "    assert 'jax' not in sys.modules"
    )


def test_version_names_the_packages_and_the_devices():
    done = command('--version')
    assert done.returncode == 0 and done.stderr == ''
    *lines, devices = done.stdout.splitlines()
    found = dict(line.split() for line in lines)
    assert found['resnet-jax'] == importlib.metadata.version('resnet-jax') == __version__
    assert found['python'] == '.'.join(map(str, sys.version_info[:3]))
    assert found['jax'] == jax.__version__
    assert {'jaxlib', 'flax', 'optax', 'orbax-checkpoint'} <= found.keys()
    assert re.fullmatch(r'devices: \d+, cpu: cpu', devices)


def test_without_a_device_the_versions_are_printed_all_the_same():
    done = command('--version', env={'JAX_PLATFORMS': 'nonsense'})
    assert done.returncode == 0
    assert f'jax {jax.__version__}' in done.stdout and 'devices: none; ' in done.stdout


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    assert re.fullmatch(r'\d+\.\d+\.\d+', project['version'])
    literal = re.compile(rf"""['"]{re.escape(project['version'])}['"]""")
    files = [*ROOT.glob('resnet_jax/**/*.py'), ROOT / 'CITATION.cff']
    assert not [path for path in files if path.is_file() and literal.search(path.read_text())]
