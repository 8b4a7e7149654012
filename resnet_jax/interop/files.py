"""Tensors in files: .safetensors, .pth, .npz and our folders. Nothing in a file is run."""

import contextlib
import dataclasses
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from resnet_jax.errors import InputError, first_line
from resnet_jax.interop.checkpoints import read_checkpoint

# What a training script may wrap around its state dict, best first: averaged weights are what its
# own evaluation uses.
WRAPPED_IN = ('state_dict_ema', 'model_ema', 'state_dict', 'model')


@dataclasses.dataclass(frozen=True)
class Tensors:
    """What a file of weights holds.

    Attributes:
      arrays: by name.
      metadata: texts that `convert` writes beside them: 'model', 'preprocessing'.
    """

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]


def read_tensors(path: Path) -> Tensors:
    """Reads a file of weights, a run's folder or a checkpoint's.

    Args:
      path: .safetensors, .pth, .pt, .bin, .npz, or a folder.

    Raises:
      InputError: if it cannot be read, or holds something else than tensors.
    """
    if path.is_dir():
        return Tensors(*read_checkpoint(path))
    if not path.is_file():
        raise InputError(f'no file of weights {path}')
    reader = READERS.get(path.suffix)
    if reader is None:
        raise InputError(f'{path}: weights are read from {", ".join(READERS)} and folders of ours')
    tensors = reader(path)
    if not tensors.arrays:
        raise InputError(f'{path} holds no tensors')
    return tensors


def _read_safetensors(path: Path) -> Tensors:
    import safetensors

    try:
        with safetensors.safe_open(path, framework='np') as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Tensors(arrays, file.metadata() or {})
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        raise InputError(f'{path} cannot be read as safetensors: {error}') from error


def _read_npz(path: Path) -> Tensors:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f'{path} cannot be read as .npz: {error}') from error
    texts = {name: str(arrays.pop(name)) for name in list(arrays) if arrays[name].dtype.kind == 'U'}
    return Tensors(arrays, texts)


def _read_torch(path: Path) -> Tensors:
    torch = _import_torch(f'reading {path.name}')
    try:
        # weights_only: never unpickles code. mmap: a tensor is read when it is converted.
        zipped = zipfile.is_zipfile(path)
        found = torch.load(path, map_location='cpu', weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise InputError(
            f'{path} holds more than tensors (a pickled model?) and is not opened, for that could '
            'run its code; save its state_dict() instead'
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise InputError(f'{path} cannot be read by PyTorch: {first_line(error)}') from error
    texts: dict[str, str] = {}
    if isinstance(found, Mapping):
        texts = {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, str)}
        for key in WRAPPED_IN:
            if isinstance(found.get(key), Mapping):
                found = found[key]
                break
    if not isinstance(found, Mapping):
        raise InputError(f'{path} holds a {type(found).__name__} instead of a state dict')
    tensors = {name: t for name, t in found.items() if isinstance(t, torch.Tensor)}
    return Tensors({name: _numpy(torch, tensor) for name, tensor in tensors.items()}, texts)


def _numpy(torch: Any, tensor: Any) -> np.ndarray:
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:  # which NumPy itself does not know
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _import_torch(purpose: str) -> Any:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f'{purpose} needs PyTorch: pip install "resnet-jax[torch]", or use .safetensors'
        ) from error
    return torch


READERS: dict[str, Callable[[Path], Tensors]] = {
    '.safetensors': _read_safetensors,
    '.pth': _read_torch,
    '.pt': _read_torch,
    '.bin': _read_torch,
    '.npz': _read_npz,
}


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Writes a file of weights, complete or not at all.

    Args:
      path: .safetensors, .pth, .pt or .npz; replaced if it exists.
      tensors: what to write.

    Raises:
      InputError: if that cannot be written there.
    """
    writer = WRITERS.get(path.suffix)
    if writer is None:
        raise InputError(f'{path}: weights are written as {", ".join(WRITERS)}')
    try:
        with _replacing(path) as draft:
            writer(draft, tensors)
    except OSError as error:
        raise InputError(f'cannot write {path}: {error.strerror or error}') from error


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place at the end, and is gone after an error."""
    handle, draft = tempfile.mkstemp(prefix=f'.{path.stem}.', suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        yield Path(draft)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(draft, 0o666 & ~mask)  # mkstemp's is the owner's alone
        os.replace(draft, path)
    finally:
        Path(draft).unlink(missing_ok=True)


def _write_safetensors(path: Path, tensors: Tensors) -> None:
    import safetensors.numpy

    safetensors.numpy.save_file(tensors.arrays, path, tensors.metadata or None)


def _write_npz(path: Path, tensors: Tensors) -> None:
    if any(a.dtype == ml_dtypes.bfloat16 for a in tensors.arrays.values()):
        raise InputError('.npz cannot hold bfloat16; write .safetensors, or widen to float32')
    texts = {name: np.asarray(text) for name, text in tensors.metadata.items()}
    entries: dict[str, Any] = {**tensors.arrays, **texts}
    np.savez(path, **entries)


def _write_torch(path: Path, tensors: Tensors) -> None:
    torch = _import_torch(f'writing {path.name}')

    def tensor(array: np.ndarray) -> Any:
        array = np.array(array)  # PyTorch wants to own what it may write to
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    state_dict = {name: tensor(array) for name, array in tensors.arrays.items()}
    torch.save({**tensors.metadata, 'state_dict': state_dict}, path)


WRITERS: dict[str, Callable[[Path, Tensors], None]] = {
    '.safetensors': _write_safetensors,
    '.pth': _write_torch,
    '.pt': _write_torch,
    '.npz': _write_npz,
}
