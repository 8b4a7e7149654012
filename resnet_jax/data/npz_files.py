"""Arrays of images in a file of NumPy's: `npz:FILE`, with the names that MedMNIST gives them.

For each split `SPLIT_images`, uint8 [N, H, W] or [N, H, W, C], and `SPLIT_labels`, whole numbers
[N] or [N, 1] (Yang et al. 2023, MedMNIST v2). Videos and volumes are [N, D, H, W, C], or [N, D, H,
W] of three equal sides. An array that `np.savez` stored is mapped into
memory; one that `np.savez_compressed` did is read whole when the first of its images is.
"""

import functools
import math
import os
import threading
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from resnet_jax.data.class_labels import check_labelled, number_classes
from resnet_jax.data.sources import Catalog, Details, Read, Record
from resnet_jax.errors import InputError, first_line

_IMAGES, _LABELS = '_images', '_labels'
_LOCAL_HEADER = 30  # bytes of a zip file's header before a member, without its name
_ERRORS = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, KeyError)
_reading = threading.Lock()


class Member(NamedTuple):
    """An array in an .npz file.

    Attributes:
      name: of the member of the zip file.
      shape, dtype, fortran: of the array.
      start: bytes from the beginning of the file to the array's; None if it is compressed.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    start: int | None


def npz_catalog(file: str, details: Details) -> Catalog:
    """The splits of an .npz file; nothing but the headers and the labels is read.

    Args:
      file: its path.
      details: `label_names`, a file of them; else the numbers are the names.

    Raises:
      InputError: on a file that cannot be read, and arrays of other shapes or dtypes.
    """
    path, spec = Path(file).expanduser(), f'npz:{file}'
    members, version = _read_headers(path, spec)
    images = {
        name.removesuffix(_IMAGES): member
        for name, member in members.items()
        if name.endswith(_IMAGES) and name != _IMAGES
    }
    if not images:
        raise InputError(
            f'{spec}: no arrays SPLIT_images and SPLIT_labels in it, such as train_images; there '
            f'are {", ".join(sorted(members)[:8]) or "none"}'
        )
    series = all(_is_series(member) for member in images.values())
    if series:
        shapes = {member.shape[1:] for member in images.values()}
        if len(shapes) > 1:
            both = ' and '.join(map(str, sorted(map(list, shapes))))
            raise InputError(f'{spec}: series of shapes {both}; a model takes one [L, C]')
        bands = {shape[1] for shape in shapes}
    else:
        bands = {_channels(spec, split, member) for split, member in images.items()}
    if len(bands) > 1:
        raise InputError(f'{spec}: images of {" and ".join(map(str, sorted(bands)))} channels')
    found = {split: _labels(path, spec, split, members, images[split]) for split in images}
    names, labels = number_classes(spec, found, details.label_names)
    return Catalog(
        {split: member.shape[0] for split, member in images.items()},
        names,
        bands.pop(),
        functools.partial(_open, path, spec, images, labels),
        version=version,
        by_class=True,
        labels=labels.__getitem__,
        space=next(iter(images.values())).shape[1:2] if series else (),
        noun='series' if series else 'images',
    )


def _is_series(member: Member) -> bool:
    """Whether an array holds series: floats [N, L, C]."""
    return member.dtype.kind == 'f' and len(member.shape) == 3 and 0 not in member.shape[1:]


def _read_headers(path: Path, spec: str) -> tuple[dict[str, Member], str]:
    """Name of an array -> what its header says; and a number that tells whether they changed."""
    try:
        size = path.stat().st_size
        with path.open('rb') as raw, zipfile.ZipFile(raw) as file:
            stored = [info for info in file.infolist() if info.filename.endswith('.npy')]
            members = {
                info.filename.removesuffix('.npy'): _read_header(raw, file, info, size)
                for info in stored
            }
    except InputError as error:
        raise InputError(f'{spec}: {error}') from None
    except _ERRORS as error:
        raise InputError(f'{spec}: {_reason(error)}') from None
    # The check sums of the arrays' contents, which the zip file keeps.
    sums = ''.join(f'{info.filename} {info.CRC} {info.file_size}\n' for info in stored)
    return members, f'{zlib.crc32(sums.encode()):08x}'


def _read_header(raw: IO[bytes], file: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> Member:
    with file.open(info) as member:
        version = np.lib.format.read_magic(member)
        read: Any = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise InputError(f'{info.filename} is of version {version} of the format, not 1 or 2')
        shape, fortran, dtype = read(member)
        header = member.tell()
    if dtype.hasobject:
        raise InputError(f'{info.filename} holds Python objects; save numbers, without pickle')
    bytes_ = math.prod(shape) * dtype.itemsize
    if info.file_size != header + bytes_:
        raise InputError(
            f'{info.filename} is said to hold {bytes_:,} bytes of numbers, and holds '
            f'{info.file_size - header:,}: the file is damaged'
        )
    start = None
    if info.compress_type == zipfile.ZIP_STORED:
        raw.seek(info.header_offset)
        local = raw.read(_LOCAL_HEADER)
        lengths = int.from_bytes(local[26:28], 'little') + int.from_bytes(local[28:30], 'little')
        start = info.header_offset + _LOCAL_HEADER + lengths + header
        if start + bytes_ > size:
            raise InputError(f'{info.filename} ends before its array does: the file is damaged')
    return Member(info.filename, shape, dtype, fortran, start)


def _channels(spec: str, split: str, member: Member) -> int:
    """Checks the shape of a split's images, and gives their channels."""
    shape = member.shape
    text = f'{spec}: {split}{_IMAGES} has shape {list(shape)} and dtype {member.dtype}'
    if member.dtype != np.uint8 or len(shape) not in (3, 4, 5) or 0 in shape[1:]:
        raise InputError(
            f'{text}; pictures are uint8 [N, H, W] or [N, H, W, C], videos and volumes uint8 '
            '[N, D, H, W, C], or [N, D, H, W] of equal sides, series floats [N, L, C], and that '
            'cannot be read'
        )
    return 1 if len(shape) == 3 or _lacks_channels(shape) else shape[-1]


def _lacks_channels(shape: Sequence[int]) -> bool:
    """Whether images of this shape are volumes of one channel, without an axis for it."""
    return len(shape) == 4 and shape[1] == shape[2] == shape[3] > 4


def _labels(
    path: Path, spec: str, split: str, members: Mapping[str, Member], images: Member
) -> np.ndarray:
    name = f'{split}{_LABELS}'
    if name not in members:
        raise InputError(f'{spec}: {split}{_IMAGES} has no {name} beside it')
    member = members[name]
    text = f'{spec}: {name} has shape {list(member.shape)} and dtype {member.dtype}'
    if member.dtype.kind not in 'iu' or not 1 <= len(member.shape) <= 2:
        raise InputError(f'{text}; labels are whole numbers, [N] or [N, 1]')
    if len(member.shape) == 2 and member.shape[1] != 1:
        raise InputError(f'{text}: several for an image; one class for each is needed')
    if member.shape[0] != images.shape[0]:
        raise InputError(f'{text}, for {images.shape[0]:,} images')
    _check_memory(spec, member)
    return np.array(_array(path, spec, member, _load)).reshape(-1)


def _open(
    path: Path,
    spec: str,
    images: Mapping[str, Member],
    labels: Mapping[str, np.ndarray],
    splits: Sequence[str],
) -> Read:
    check_labelled(spec, labels, splits)
    for split in splits:
        _check_memory(spec, images[split])
    return functools.partial(_read, path, spec, dict(images), dict(labels))


def _check_memory(spec: str, member: Member) -> None:
    """Refuses what would have to be in memory and is larger than that."""
    size = math.prod(member.shape) * member.dtype.itemsize
    try:
        memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (AttributeError, ValueError, OSError):  # not on every system
        return
    if member.start is None and size > memory:
        raise InputError(
            f'{spec}: {member.name} is compressed and takes {size / 2**30:,.1f} GiB, this machine '
            f'has {memory / 2**30:,.1f}; write it again with np.savez, which can be mapped'
        )


def _read(
    path: Path,
    spec: str,
    images: Mapping[str, Member],
    labels: Mapping[str, np.ndarray],
    split: str,
    indices: Sequence[int],
) -> list[Record]:
    found = _array(path, spec, images[split], _kept)
    shape = images[split].shape
    series = _is_series(images[split])
    bare = not series and (len(shape) == 3 or _lacks_channels(shape))
    pictures = [np.array(found[i]) for i in indices]
    return [
        (picture[..., None] if bare else picture, int(labels[split][i]))
        for picture, i in zip(pictures, indices, strict=True)
    ]


def _array(
    path: Path, spec: str, member: Member, load: Callable[[Path, Member, int], np.ndarray]
) -> np.ndarray:
    with _reading:  # one thread reads a compressed array, and the others wait for it
        try:
            return load(path, member, path.stat().st_mtime_ns)
        except _ERRORS as error:
            raise InputError(f'{spec}: {member.name}: {_reason(error)}') from None


def _load(path: Path, member: Member, modified: int) -> np.ndarray:
    """An array, mapped or read, of the file as it was modified last."""
    if member.start is not None and 0 not in member.shape:
        order: Any = 'F' if member.fortran else 'C'
        return np.memmap(path, member.dtype, 'r', member.start, member.shape, order)
    with zipfile.ZipFile(path) as file, file.open(member.name) as stored:
        return np.lib.format.read_array(stored, allow_pickle=False)


_kept = functools.lru_cache(maxsize=4)(_load)  # images of each split, once in each process


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return 'no such file'
    return f'cannot be read as .npz: {getattr(error, "strerror", None) or first_line(error)}'
