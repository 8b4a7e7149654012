"""Read the files that PyTorch writes: state dicts, and the checkpoints of training scripts.

No code in a file is ever run: PyTorch's restricted unpickler (`weights_only=True`) makes tensors
and containers, and here also the kinds of `INERT`.
"""

import argparse
import datetime
import pathlib
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from resnet_jax.errors import InputError, first_line, shown

if TYPE_CHECKING:
    import torch

_DEEPEST = 8  # mappings inside each other that are searched for tensors
_NAMES_SHOWN = 5


def _numpy_types() -> dict[str, Any]:
    """What NumPy's scalars and arrays are pickled with, but for those of objects.

    Of fields neither: a file could say of a field of objects that it holds none, and have bytes
    taken for addresses.
    """
    scalar, array = np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0]
    kinds = set(np.dtypes.__all__) - {'ObjectDType', 'VoidDType'}
    return {
        # The module before and since NumPy 2.
        **{f'numpy.{core}.multiarray.scalar': scalar for core in ('core', '_core')},
        **{f'numpy.{core}.multiarray._reconstruct': array for core in ('core', '_core')},
        'numpy.ndarray': np.ndarray,
        'numpy.dtype': np.dtype,
        **{f'numpy.dtypes.{kind}': getattr(np.dtypes, kind) for kind in kinds},
    }


def _plain_dict(*_: Any) -> dict[Any, Any]:
    """In place of a defaultdict, which PyTorch's unpickler does not fill."""
    return {}


# What a file may hold beside tensors and containers: its name in the file -> what is made of it.
# A kind stands here if making one from any arguments only stores them, and what training scripts
# save has it. Where there is a simpler kind of the same content, that is made.
INERT: dict[str, Any] = {
    # The options of a script.
    'argparse.Namespace': argparse.Namespace,
    # Lightning's hyper-parameters: a dict whose keys are attributes too.
    **{
        f'{package}.AttributeDict': dict
        for package in (
            'pytorch_lightning.utilities.parsing',
            'lightning.pytorch.utilities.parsing',
            'lightning_fabric.utilities.data',
            'lightning.fabric.utilities.data',
        )
    },
    # Counts and lists of figures; PyTorch itself takes OrderedDict and Counter.
    'collections.defaultdict': _plain_dict,
    **{f'builtins.{kind.__name__}': kind for kind in (list, dict, int, float)},
    # mmengine's figures: two arrays and a number.
    'mmengine.logging.history_buffer.HistoryBuffer': argparse.Namespace,
    # Best accuracies and losses, and the state of NumPy's random numbers.
    **_numpy_types(),
    # Names of folders. The pure kinds cannot reach a file system. Python 3.13 has `_local`.
    **{
        f'{module}.{system}Path': pure
        for module in ('pathlib', 'pathlib._local')
        for system, pure in {
            '': pathlib.PurePath,
            'Posix': pathlib.PurePosixPath,
            'Windows': pathlib.PureWindowsPath,
            'Pure': pathlib.PurePath,
            'PurePosix': pathlib.PurePosixPath,
            'PureWindows': pathlib.PureWindowsPath,
        }.items()
    },
    # When it was saved.
    **{
        f'datetime.{kind}': getattr(datetime, kind)
        for kind in ('date', 'datetime', 'time', 'timedelta', 'timezone')
    },
    # torch.__version__ is a text that can be compared.
    'torch.torch_version.TorchVersion': str,
}


def read_torch(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a file of torch.save, of the zip format or the older one.

    Args:
      path: the file.

    Returns:
      The tensors by name, those in mappings inside each other joined by dots
      ('state_dict.module.conv1.weight'); and the texts of the outermost mapping.

    Raises:
      InputError: if it cannot be read, or holds anything but tensors and inert kinds, which the
        message names.
    """
    require_torch(f'reading {path.name}')
    found = _load(path)
    if not isinstance(found, Mapping):
        raise InputError(f'{path} holds a {type(found).__name__} instead of a state dict')
    tensors = dict(_tensors_in(found, '', str(path)))
    texts = {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, str)}
    return {name: _as_numpy(t, f'{path}: {name}') for name, t in tensors.items()}, texts


def _load(path: Path) -> Any:
    import pickle

    import torch

    zipped = zipfile.is_zipfile(path)
    kinds: list[Any] = [(kind, name) for name, kind in INERT.items()]
    with torch.serialization.safe_globals(kinds), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of tensors and pickles that are refused below
        try:
            # weights_only: never unpickle code. mmap: read a tensor when it is converted.
            return torch.load(path, map_location='cpu', weights_only=True, mmap=zipped)
        except pickle.UnpicklingError as error:
            names = _refused(path, error)
            raise InputError(
                f'{path} holds more than tensors: {names or "a pickled model?"}; it is not opened, '
                'because that could run code from the file; save only the weights where it was '
                'made: torch.save(model.state_dict(), FILE)'
            ) from error
        except Exception as error:  # a damaged file makes the unpickler raise anything
            raise InputError(f'{path} cannot be read by PyTorch: {first_line(error)}') from error


def _refused(path: Path, error: Exception) -> str:
    """The classes and functions in a file that are not allowed, '' if they cannot be told."""
    import torch

    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not of the zip format, or a pickle of another protocol
        names = re.findall(r"(?:GLOBAL |got <class ')([\w.]+)", str(error))[:1]
    more = ', ...' if len(names) > _NAMES_SHOWN else ''
    return ', '.join(name[:80] for name in names[:_NAMES_SHOWN]) + more


def _tensors_in(
    found: Mapping[Any, Any], prefix: str, where: str, depth: int = 0
) -> Iterator[tuple[str, 'torch.Tensor']]:
    """(name, tensor) of a mapping and those inside it; an optimiser's state, by number, is left."""
    import torch

    keys = [key for key, value in found.items() if isinstance(value, torch.Tensor)]
    unnamed = [key for key in keys if not isinstance(key, str)]
    if unnamed and len(unnamed) < len(keys):
        raise InputError(
            f'{where} holds a tensor under {shown(unnamed[0])}, which is no name; save the '
            "state_dict() of a model, whose keys are its tensors' names"
        )
    for key, value in found.items():
        if not isinstance(key, str):
            continue
        if isinstance(value, torch.Tensor):
            yield prefix + key, value
        elif isinstance(value, Mapping) and depth < _DEEPEST:
            yield from _tensors_in(value, f'{prefix}{key}.', where, depth + 1)


def _as_numpy(tensor: 'torch.Tensor', where: str) -> np.ndarray:
    import torch

    special = tensor.is_quantized or tensor.is_nested or tensor.is_meta
    if special or tensor.layout is not torch.strided:
        raise InputError(
            f'{where} is a sparse, quantised, nested or empty tensor; save an ordinary one, as '
            'to_dense() and dequantize() make it'
        )
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:  # NumPy itself has no bfloat16
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    try:
        return tensor.numpy()
    except TypeError as error:
        raise InputError(f'{where} holds {tensor.dtype}; save it as float32') from error


def require_torch(purpose: str) -> None:
    """Refuses what needs PyTorch where it is not installed.

    Args:
      purpose: what needs it, for the message.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise InputError(
            f'{purpose} needs PyTorch: pip install "resnet-jax[torch]", or use .safetensors'
        ) from error
