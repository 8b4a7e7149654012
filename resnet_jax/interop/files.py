"""Read and write files of tensors: safetensors, PyTorch's, .npz and our own folders.

A file is recognised by its content, whatever its name. No code in a file is ever run.
"""

import contextlib
import dataclasses
import json
import math
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.traverse_util
import jax
import ml_dtypes
import numpy as np

from resnet_jax import json_files
from resnet_jax.errors import InputError, Unreadable, first_line
from resnet_jax.interop import checksums, integers
from resnet_jax.interop.torch_files import read_torch, require_torch
from resnet_jax.models.stages import unstack_blocks

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class Tensors:
    """The contents of a file of weights.

    Attributes:
      arrays: by name.
      metadata: texts that `convert` stores with them: 'model', 'preprocessing'.
    """

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of files that weights are read from.

    Attributes:
      name: for messages.
      fits: (first bytes, size of the file, names of its members if it is a zip archive) -> whether
        it is one.
      read: (path) -> its contents.
    """

    name: str
    fits: Callable[[bytes, int, Sequence[str]], bool]
    read: Callable[[Path], Tensors]


WEIGHTS_FILE = 'weights.safetensors'  # in the folder of a compressed model


def read_tensors(path: Path) -> Tensors:
    """Reads a file of weights, or the folder of a run, a checkpoint or a compressed model.

    Args:
      path: a file of one of the `FORMATS`, of any name, or a folder.

    Raises:
      InputError: if it cannot be read, or contains anything but tensors.
    """
    if is_compressed(path):
        path = path / WEIGHTS_FILE
    if path.is_dir():
        return _read_checkpoint(path)
    if not path.is_file():
        raise InputError(f'no file of weights {path}')
    tensors = _format_of(path).read(path)
    if not tensors.arrays:
        raise InputError(f'{path} holds no tensors')
    try:
        return Tensors(integers.unpacked(tensors.arrays, tensors.metadata), tensors.metadata)
    except ValueError as error:
        raise InputError(f'{path} cannot be read: {error}; restore it from a copy') from error


def is_compressed(folder: Path) -> bool:
    """Whether a folder holds a model that `resnet-jax compress` wrote, and no run."""
    # os.path says no of a name that no file can have, where a path raises an error.
    return os.path.isfile(folder / WEIGHTS_FILE) and not os.path.isdir(folder / 'checkpoints')


def _format_of(path: Path) -> Format:
    """The format of a file, by its content."""
    try:
        with path.open('rb') as file:
            head = file.read(_HEAD)
        size = path.stat().st_size
        members: list[str] = []
        if head.startswith(_ZIP):
            with zipfile.ZipFile(path) as archive:
                members = archive.namelist()
    except (*_NOT_NPZ, zipfile.BadZipFile) as error:
        raise InputError(
            f'{path} cannot be read: {first_line(error)}; copy or fetch it again'
        ) from error
    for one in FORMATS:
        if one.fits(head, size, members):
            return one
    is_what = next((words for start, words in _NO_WEIGHTS.items() if head.startswith(start)), '')
    is_what = is_what if size else 'it is empty'
    raise InputError(
        f'{path} cannot be read: {is_what or "its content is none that is known"}; weights are '
        f'read from {", ".join(one.name for one in FORMATS)} and the folder of a run'
    )


_HEAD = 64  # bytes that are looked at
_ZIP = b'PK\x03\x04'
# Common files that are no weights: first bytes -> description.
_NO_WEIGHTS = {
    b'version https://git-lfs': 'it is a pointer of Git LFS, fetch the file itself with git lfs '
    'pull',
    b'<': 'it is a page of the web, fetch the file itself',
    b'\x89HDF': "it is an HDF5 file, such as Keras'",
}


def _is_safetensors(head: bytes, size: int, members: Sequence[str]) -> bool:
    """Eight bytes of the length of a JSON object, and that object."""
    return head[8:9] == b'{' and int.from_bytes(head[:8], 'little') <= size - 8


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
        _check_declared_sizes(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (*_NOT_NPZ, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f'{path} cannot be read as .npz: {first_line(error)}') from error
    texts = {name: str(arrays.pop(name)) for name in list(arrays) if arrays[name].dtype.kind == 'U'}
    return Tensors(arrays, texts)


_DEFLATE = 1032  # the most bytes that one byte of a compressed archive stands for
_NOT_NPZ = (OSError, ValueError, EOFError, OverflowError, NotImplementedError)


def _check_declared_sizes(path: Path) -> None:
    """Refuses an array that declares more than is stored of it, before memory is asked for."""
    readers: dict[tuple[int, int], Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    stored = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            # The archive may declare wrong sizes too.
            most = min(member.file_size, _DEFLATE * min(member.compress_size, stored))
            with archive.open(member) as file:
                read_header = readers.get(np.lib.format.read_magic(file))
                if read_header is None:
                    continue  # that of names outside of Latin-1, of structured arrays
                shape, _, dtype = read_header(file)
            if math.prod(shape) * dtype.itemsize > most:
                raise ValueError(f'{member.filename} declares more than the file holds: {shape}')


def _read_torch(path: Path) -> Tensors:
    return Tensors(*read_torch(path))


FORMATS = (
    Format('safetensors', _is_safetensors, _read_safetensors),
    Format(
        "PyTorch's files",
        # The second is the format before PyTorch 1.6, and any other pickle.
        lambda head, _, members: (
            any(name.endswith('/data.pkl') for name in members) or head[:1] == b'\x80'
        ),
        _read_torch,
    ),
    Format(
        '.npz',
        lambda head, _, members: any(name.endswith('.npy') for name in members),
        _read_npz,
    ),
)


def _read_checkpoint(path: Path) -> Tensors:
    """Reads the model's variables from a checkpoint, without the optimiser's state.

    Args:
      path: the folder of a run (its last checkpoint is read), its folder of checkpoints, or one
        checkpoint in it.

    Returns:
      Arrays by path, 'params/stem/conv1/kernel', of unrolled blocks; the averaged ones if the run
      keeps them. The metadata holds the 'preprocessing' of the run.
    """
    import orbax.checkpoint as ocp

    state = _find_state(path)
    progress = state.parent / 'progress' / 'metadata'
    reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    try:
        metadata: Any = reader.metadata(state).item_metadata
        if not hasattr(metadata, 'tree'):  # Orbax has only logged why
            raise ValueError('its description is missing or damaged')
        averaged = metadata.tree.get('ema')
        wanted: Any = {
            name: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), part)
            for name, part in (averaged or metadata.tree).items()
            if name in ('params', 'batch_stats', *(['lowest'] if averaged else [])) and part
        }
        wanted = {'ema': wanted} if averaged else wanted
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
        found = reader.restore(state, arguments)
        expected = json_files.read_json(progress).get('checksums', {}) if progress.is_file() else {}
        if wrong := checksums.differing_parts(found, expected):
            raise ValueError(f'it is damaged: the checksum of {", ".join(wrong)} is wrong')
    except Exception as error:  # Orbax and tensorstore raise many kinds
        raise Unreadable(
            f'{state} cannot be read as a checkpoint: {first_line(error)}; name another one, or '
            'restore it from a copy'
        ) from error
    variables = unstack_blocks(found['ema'] if averaged else found)
    variables = {name: part for name, part in variables.items() if name != 'lowest'}
    arrays = flax.traverse_util.flatten_dict(variables, sep='/')
    runs = [p for p in (path, *path.resolve().parents[:3]) if _is_run(p)]
    stored = runs[0] / 'preprocessing.json' if runs else None
    texts = {}
    if stored:
        described = json_files.read_json(stored, 'restore it from a copy')
        texts = {'preprocessing': json.dumps(described)}
    return Tensors({name: np.asarray(array) for name, array in arrays.items()}, texts)


def _is_run(path: Path) -> bool:
    return (path / 'checkpoints').is_dir() and (path / 'config.json').is_file()


def _find_state(path: Path) -> Path:
    folder = path / 'checkpoints' if _is_run(path) else path
    steps = [p for p in folder.iterdir() if p.name.isdigit() and (p / 'state').is_dir()]
    if steps:
        folder = max(steps, key=lambda p: int(p.name))
    folder = folder / 'state' if (folder / 'state').is_dir() else folder
    if not (folder / '_METADATA').is_file():
        raise InputError(
            f'{path} holds no run and no complete checkpoint (there is no file '
            f'{folder / "_METADATA"}); name another checkpoint, or restore it from a copy'
        )
    return folder.resolve()


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Writes a file of weights, atomically.

    Args:
      path: .safetensors, .pth, .pt or .npz; replaced if it exists.
      tensors: the contents.

    Raises:
      InputError: if the file cannot be written or cannot hold the tensors.
    """
    writer = WRITERS.get(path.suffix)
    if writer is None:
        raise InputError(f'{path}: weights are written as {", ".join(WRITERS)}')
    if not path.parent.is_dir():
        raise InputError(f'cannot write {path}: there is no folder {path.parent}; create it first')
    try:
        with _replacing(path) as draft:
            writer(draft, tensors)
    except OSError as error:
        why = f'{error.strerror or error}; make room, or write elsewhere'
        raise InputError(f'cannot write {path}: {why}') from error


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which replaces it at the end or is removed on an error."""
    handle, draft = tempfile.mkstemp(prefix=f'.{path.stem}.', suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        yield Path(draft)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(draft, 0o666 & ~mask)  # mkstemp gives access to the owner only
        os.replace(draft, path)
    finally:
        Path(draft).unlink(missing_ok=True)


def _write_safetensors(path: Path, tensors: Tensors) -> None:
    import safetensors.numpy

    try:
        safetensors.numpy.save_file(tensors.arrays, path, tensors.metadata or None)
    except safetensors.SafetensorError as error:  # such as a full disk
        raise OSError(first_line(error)) from error


def _write_npz(path: Path, tensors: Tensors) -> None:
    if any(a.dtype == ml_dtypes.bfloat16 for a in tensors.arrays.values()):
        raise InputError('.npz cannot hold bfloat16; write .safetensors, or widen to float32')
    texts = {name: np.asarray(text) for name, text in tensors.metadata.items()}
    entries: dict[str, Any] = {**tensors.arrays, **texts}
    np.savez(path, **entries)


def _write_torch(path: Path, tensors: Tensors) -> None:
    require_torch(f'writing {path.name}')
    import torch

    def as_tensor(array: np.ndarray) -> 'torch.Tensor':
        array = np.array(array)  # a copy, because PyTorch refuses read-only memory
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    state_dict = {name: as_tensor(array) for name, array in tensors.arrays.items()}
    try:
        torch.save({**tensors.metadata, 'state_dict': state_dict}, path)
    except RuntimeError as error:  # such as a full disk, which PyTorch does not name
        raise OSError(f'PyTorch cannot write it, is the disk full? {first_line(error)}') from error


WRITERS: dict[str, Callable[[Path, Tensors], None]] = {
    '.safetensors': _write_safetensors,
    '.pth': _write_torch,
    '.pt': _write_torch,
    '.npz': _write_npz,
}
