"""Files of weights that declare too much, or hold what is no weight: one line, and no half file."""

import io
import re
import resource
import signal
import zipfile

import numpy as np
import pytest

from resnet_jax.errors import InputError
from resnet_jax.interop.files import Tensors, read_tensors, write_tensors


@pytest.mark.parametrize(
    'shape', [(2**40,), (2**62, 4), (10**30,), (3, 5)], ids=['4 TiB', '2**64', '10**30', '60 B']
)
def test_npz_that_declares_more_than_it_holds(tmp_path, shape):
    """Refused before memory is asked for."""
    header = io.BytesIO()
    about = {'descr': '<f4', 'fortran_order': False, 'shape': shape}
    np.lib.format.write_array_header_1_0(header, about)
    path = tmp_path / 'weights.npz'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('head/kernel.npy', header.getvalue() + b'some')
    if shape == (3, 5):  # as many bytes as it takes with the header, and too few without
        with pytest.raises(InputError, match='cannot be read as'):
            read_tensors(path)
        return
    with pytest.raises(InputError, match=r'head/kernel\.npy declares more than the file holds'):
        read_tensors(path)


def kinds_of_tensors():
    """What PyTorch can save and no layer has as its weights: words of the message -> tensors."""
    torch = pytest.importorskip('torch', reason='needs the extra resnet-jax[torch]')
    weight = torch.ones(4, 3)
    return [
        ('a sparse, quantised', {'a': weight.to_sparse()}),
        ('a sparse, quantised', {'a': weight.to_sparse_csr()}),
        ('a sparse, quantised', {'a': torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)}),
        ('a sparse, quantised', {'a': weight.to('meta')}),
        ('torch.float8_e4m3fn; save it as float32', {'a': weight.to(torch.float8_e4m3fn)}),
        ('a tensor under 3, which is no name', {'a': weight, 3: weight}),
    ]


@pytest.mark.filterwarnings('ignore::UserWarning')  # of PyTorch, about what is made here
def test_tensors_that_are_no_weights(tmp_path):
    torch = pytest.importorskip('torch', reason='needs the extra resnet-jax[torch]')
    path = tmp_path / 'weights.pth'
    for words, tensors in kinds_of_tensors():
        torch.save(tensors, path)
        with pytest.raises(InputError, match=re.escape(words)) as error:
            read_tensors(path)
        assert str(path) in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('suffix', ['npz', 'safetensors', 'pth'])
def test_full_disk(tmp_path, suffix):
    """One line, and neither half a file nor a change of the one that was there."""
    if suffix == 'pth':
        pytest.importorskip('torch', reason='needs the extra resnet-jax[torch]')
    path = tmp_path / f'weights.{suffix}'
    path.write_text('what was there')
    tensors = Tensors({'head/kernel': np.zeros((100, 100), np.float32)}, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(InputError, match=r'cannot write .*; make room') as error:
            write_tensors(path, tensors)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(path) in str(error.value) and '\n' not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == 'what was there'
    write_tensors(path, tensors)
    (array,) = read_tensors(path).arrays.values()
    assert array.shape == (100, 100)
