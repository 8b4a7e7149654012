"""Files for runtimes with extras of their own, LiteRT and TensorFlow; skipped without these."""

import importlib.util
import os

import numpy as np
import pytest
import test_dense_export as dense
from small_nets import net
from test_export import basic_net, compare, trained_net

from resnet_jax.errors import InputError
from resnet_jax.export import litert, litert_worker
from resnet_jax.export.exported import load_exported
from resnet_jax.export.formats import FORMATS, check_settings
from resnet_jax.export.program import make_program
from resnet_jax.export.writing import write_exported

needs_litert = pytest.mark.skipif(
    litert.PYTHON not in os.environ or importlib.util.find_spec('ai_edge_litert') is None,
    reason=f'needs the extra litert, and {litert.PYTHON}',
)
needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec('tensorflow') is None, reason='needs the extra savedmodel'
)
FAMILIES = (
    'basic',
    'bottleneck',
    'full_preact',
    'se',
    'eca',
    'groups',
    'group norm',
    'gelu',
    'blur',
)


def check(name, tmp_path, batch=None):
    """The file agrees with the logits in float64, before and after it is loaded."""
    trained, pixels, expected = basic_net()
    path = tmp_path / f'net{FORMATS[name].suffix}'
    for takes_pixels in (False, True):
        program = make_program(trained, takes_pixels=takes_pixels, batch=batch)
        about = write_exported(program, name, path, pixels)
        assert about['difference']['relative'] < 1e-5 and about['bytes'] > 1000
        found = load_exported(path)
        images = found.preprocessing.normalize(pixels)
        assert compare(found.model.apply({}, images, train=False), expected, 1e-5).accepted
    return path


@needs_litert
@pytest.mark.parametrize('batch', [1, 2])
def test_litert(tmp_path, batch):
    path = check('litert', tmp_path, batch)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(InputError, match='is not the file that'):
        load_exported(path)
    path.write_bytes(b'nothing')
    with pytest.raises(InputError, match='cannot be read as LiteRT'):
        FORMATS['litert'].open(path)


@needs_litert
@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_litert_of_each_family(name, tmp_path):
    *_, images, expected = net(name)
    path = tmp_path / 'net.tflite'
    litert.write(make_program(trained_net(name), batch=len(images)), path, {})
    found = FORMATS['litert'].open(path)(images.astype(np.float32))['logits']
    assert compare(found, expected, 2e-5).accepted


@needs_litert
@pytest.mark.slow
@pytest.mark.parametrize('name', dense.NETS)
def test_litert_of_dense_networks(name, tmp_path):
    pixels = np.random.default_rng(2).integers(0, 256, (2, 45, 45, 3)).astype(np.uint8)
    program = make_program(dense.trained_net(name), batch=1)
    about = write_exported(program, 'litert', tmp_path / 'net.tflite', pixels)
    assert about['difference']['relative'] < 1e-5


@needs_tensorflow
def test_savedmodel(tmp_path):
    """Needs no Orbax or JAX to run: the signature is TensorFlow's."""
    import tensorflow as tf

    path = check('savedmodel', tmp_path)
    signature = tf.saved_model.load(str(path)).signatures['serving_default']
    assert signature.structured_input_signature[1]['images'].shape.as_list() == [None, 9, 9, 3]
    (path / 'saved_model.pb').write_bytes(b'nothing')
    with pytest.raises(InputError, match='is not the file that'):
        load_exported(path)
    with pytest.raises(InputError, match='cannot be read as SavedModel'):
        FORMATS['savedmodel'].open(path)


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_savedmodel_of_each_family(name, tmp_path):
    *_, images, expected = net(name)
    path = tmp_path / 'net.savedmodel'
    FORMATS['savedmodel'].write(make_program(trained_net(name)), path, {})
    found = FORMATS['savedmodel'].open(path)(images.astype(np.float32))['logits']
    assert compare(found, expected, 2e-5).accepted


def test_a_python_that_cannot_convert(tmp_path, monkeypatch):
    """The message says how to make one; the converter is asked for in another process."""
    program = make_program(trained_net(), batch=1)

    def refused(python, match):
        monkeypatch.setenv(litert.PYTHON, str(python))
        with pytest.raises(InputError, match=match) as error:
            litert.write(program, tmp_path / 'net.tflite', {})
        assert '\n' not in str(error.value)

    refused(tmp_path / 'python', 'cannot be run: No such file')
    script = tmp_path / 'none'
    script.write_text('#!/bin/sh\necho "ModuleNotFoundError: No module named \'x\'" >&2\nexit 1\n')
    script.chmod(0o755)
    refused(script, r'python -m venv litert && litert/bin/pip install litert-converter')
    script.write_text('#!/bin/sh\necho "Value" >&2\necho "ValueError: no form" >&2\nexit 1\n')
    refused(script, 'cannot convert the network: ValueError: no form; export to ONNX')
    assert litert_worker.SIGNATURE == 'serving_default'  # the script imports with NumPy alone
    with pytest.raises(InputError, match='no --format coreml: coremltools makes'):
        check_settings('coreml', tmp_path / 'net.mlpackage', 'float32', None)
