"""Fixtures for all tests, and JAX made strict before any test imports it."""

import atexit
import gc
import importlib.util
import json
import os
import pathlib
import shutil
import tempfile

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# What the tests and the commands that they start compile is compiled once, and kept as long as they
# run. Nothing goes into the user's cache.
if 'PYTEST_XDIST_WORKER' not in os.environ:
    _compiled = tempfile.mkdtemp(prefix='compiled')
    atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
    os.environ['JAX_COMPILATION_CACHE_DIR'] = _compiled
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'  # XLA wonders whether what is kept fits the processor

import jax
import pytest

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_numpy_dtype_promotion', 'strict')


BESIDE = pathlib.Path(__file__).parents[2] / 'shared' / 'data'
DATA = pathlib.Path(os.environ.get('RESNET_JAX_DATA', BESIDE))

# Half a minute and more with the kernel's start; .ci/run has most of them.
NOTEBOOKS_OF_REAL_DATA = ('02_pretrained_and_finetune.ipynb', '04_see_inside.ipynb')
# Notebook -> the module that it needs, and the extra that brings it.
NOTEBOOKS_WITH_EXTRAS = {
    '05_smaller_and_elsewhere.ipynb': ('onnxruntime', 'onnx'),
    '06_dense.ipynb': ('onnxruntime', 'onnx'),
    '07_beyond_pictures.ipynb': ('aeon', 'series'),
}
SLOW_NOTEBOOKS = (
    *(*NOTEBOOKS_OF_REAL_DATA, *NOTEBOOKS_WITH_EXTRAS),
    *('01_quickstart.ipynb', '03_preact_vs_original.ipynb'),
)
# Long files come first, so that two workers end together.
LONG = (
    *('test_placement.py', 'test_dense_tasks.py', 'test_dense.py', 'test_seeds.py'),
    *('test_resume.py', 'test_sweep.py', 'test_weights.py', 'test_loader.py'),
    *('test_torch_parity.py', 'test_resnet.py', 'test_texts.py', 'test_reproduce.py'),
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONG)
    for item in items:
        if item.path.name in SLOW_NOTEBOOKS:
            item.add_marker(pytest.mark.slow)
        if item.path.name in NOTEBOOKS_OF_REAL_DATA and not DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason=f'no real data at {DATA}'))
        module, extra = NOTEBOOKS_WITH_EXTRAS.get(item.path.name, ('', ''))
        if module and not importlib.util.find_spec(module):
            item.add_marker(pytest.mark.skip(reason=f'needs the extra {extra}'))


def pytest_collection_finish():
    """What has been imported stays; looking through it again and again takes minutes in all."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture
def standard_promotion():
    """JAX's usual dtype promotion, for models in bfloat16.

    Flax's own BatchNorm subtracts its float32 statistics from bfloat16 activations.
    """
    with jax.numpy_dtype_promotion('standard'):
        yield


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
    """The folder of real data for tests; the test is skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f'no real data at {DATA}; set RESNET_JAX_DATA')
    return DATA


@pytest.fixture
def ask(capsys):
    """Runs a command with --json in this process; gives the one object that it printed."""

    def run_command(*arguments):
        from resnet_jax.cli import main

        capsys.readouterr()
        assert main([*map(str, arguments), '--json']) == 0
        return json.loads(capsys.readouterr().out)  # fails unless it is one object and no more

    return run_command
