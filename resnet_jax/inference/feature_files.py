"""Files of features: how they are written bit by bit, joined, and read.

    FILE.npz            an array for each layer, [N, C] or [N, ..., C] float32, under the layer's
                        name; labels, int64 [N]; names, text [N]; class_names, text [classes];
                        description, text: a JSON object
    FILE.array_record   for sets larger than memory: record i is example i, in the format of
                        safetensors: an array for each layer, and label and name (UTF-8 as uint8).
                        FILE.array_record.json holds class_names and description

Unfinished files are kept as parts in the folder FILE.parts, each a .npz of consecutive examples.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from resnet_jax.errors import InputError, check_choice
from resnet_jax.json_files import read_json, unreadable
from resnet_jax.records.writers import write_atomically

Rows = dict[str, np.ndarray]  # layer -> values; 'labels' -> int64 [n]; 'names' -> text [n]

LABELS, NAMES, CLASS_NAMES, DESCRIPTION = 'labels', 'names', 'class_names', 'description'
_ABOUT = (LABELS, NAMES, CLASS_NAMES, DESCRIPTION)
_SETTINGS, _LOCK = 'settings.json', '.lock'
_AGAIN = 'write it again with `resnet-jax features`'
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # date of each member: the same features give the same file


@dataclasses.dataclass(frozen=True)
class Features:
    """The contents of a file of features.

    Attributes:
      layers: name of a layer -> its values, [N, C] or [N, ..., C].
      labels: of the examples.
      names: of the examples: paths of files, or numbers.
      class_names: the name of each label.
      description: where the features come from: model, weights, preprocessing, data, layers.
    """

    layers: dict[str, Float32[np.ndarray, 'n ...']]
    labels: Int[np.ndarray, ' n']
    names: tuple[str, ...]
    class_names: tuple[str, ...]
    description: dict[str, Any]


def read_features(path: str | os.PathLike[str], layers: Sequence[str] | None = None) -> Features:
    """Reads a file that `resnet-jax features` wrote.

    Args:
      path: .npz or .array_record.
      layers: the layers to read; None: all.

    Raises:
      InputError: if there is no such file, it holds no features, or lacks a layer.
    """
    path = Path(path)
    check_suffix(path, str(path))
    if not path.is_file():
        raise InputError(f'no file {path}; write it with `resnet-jax features`')
    try:
        description, class_names = _FORMATS[path.suffix].read_about(path)
        stored = list(description['layers'])
        for name in layers or ():
            check_choice(f'layer of {path}', name, stored)
        rows = _FORMATS[path.suffix].read_rows(path, layers or stored)
    except InputError:
        raise
    except Exception as error:  # of many kinds: damaged archives, missing arrays, odd JSON
        raise unreadable(path, error, _AGAIN) from error
    labels, names = rows.pop(LABELS), rows.pop(NAMES)
    wrong = [name for name, x in rows.items() if len(x) != len(labels)]
    if wrong or not np.isin(labels, range(len(class_names))).all():
        raise unreadable(path, 'its arrays do not belong together', _AGAIN)
    return Features(rows, labels, tuple(map(str, names)), class_names, description)


def read_description(path: Path) -> dict[str, Any]:
    """The description in a file of features.

    Raises:
      Unreadable: if it has none.
    """
    try:
        return _FORMATS[path.suffix].read_about(path)[0]
    except Exception as error:
        raise unreadable(path, error, 'move it away') from error


def check_suffix(path: Path, what: str) -> None:
    """Refuses a suffix of no known format.

    Raises:
      InputError: naming the formats.
    """
    if path.suffix not in _FORMATS:
        raise InputError(f'{what}: give a name that ends in {" or ".join(_FORMATS)}')


class Parts:
    """The parts of a file that grows, in a folder beside it, so that an interruption loses little.

    Attributes:
      count: number of complete parts.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._folder = target.with_name(f'{target.name}.parts')
        self.count = 0

    @contextlib.contextmanager
    def opened(
        self, description: Mapping[str, Any], differs: Callable[[Any], list[str]], overwrite: bool
    ) -> Iterator[None]:
        """Holds the folder for this process, with the parts that have this description.

        Args:
          description: of the file.
          differs: (other description) -> the settings that differ.
          overwrite: whether to remove parts of other settings.

        Raises:
          InputError: if the folder holds parts of other settings, cannot be written to, or another
            process writes there.
        """
        import fcntl

        settings = self._folder / _SETTINGS
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / _LOCK).open('w')
        except OSError as error:
            raise InputError(f'cannot write {self._target}: {error.strerror}') from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f'another process is writing {self._target}') from error
            if settings.is_file():
                hint = f'remove {self._folder}'
                changes = differs(read_json(settings, hint))
                if changes and not overwrite:
                    raise InputError(
                        f'{self._folder} holds the beginning of an extraction with other settings '
                        f'({"; ".join(changes[:4])}); give the same settings, or --overwrite to '
                        'start again'
                    )
                if changes:
                    for path in self._folder.glob('*.npz'):
                        path.unlink()
            write_atomically(settings, json.dumps(description))
            while self._path(self.count).is_file():
                self.count += 1
            try:
                yield
            finally:
                if not self.count:
                    self.remove()

    def add(self, rows: Rows) -> None:
        """Writes the next part, whole or not at all."""
        path = self._path(self.count)
        temporary = path.with_name(f'{path.stem}.tmp')
        with temporary.open('wb') as file:
            np.savez(file, allow_pickle=False, **rows)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        self.count += 1

    def join(self, class_names: Sequence[str], description: Mapping[str, Any]) -> None:
        """Writes the file from the parts, a part in memory at a time."""
        temporary = self._target.with_name(f'{self._target.name}.tmp')
        write = _FORMATS[self._target.suffix].write
        try:
            write(temporary, self, class_names, description)
            temporary.replace(self._target)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes the folder, if it is there."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def read(self, names: Sequence[str]) -> Iterator[Rows]:
        """These arrays of each part, in order."""
        for number in range(self.count):
            path = self._path(number)
            try:
                with np.load(path, allow_pickle=False) as part:
                    rows = {name: part[name] for name in names}
            except Exception as error:
                raise unreadable(path, error, f'remove {self._folder} and start again') from error
            yield rows

    def _path(self, number: int) -> Path:
        return self._folder / f'{number:06d}.npz'


# .npz


def _write_npz(
    path: Path, parts: Parts, class_names: Sequence[str], description: Mapping[str, Any]
) -> None:
    n = description['data']['examples']
    longest = max(max(map(len, rows[NAMES])) for rows in parts.read([NAMES]))
    whole = {
        CLASS_NAMES: np.asarray(class_names, np.str_),
        DESCRIPTION: np.asarray(json.dumps(description)),
    }
    growing: dict[str, tuple[Any, tuple[int, ...]]] = {
        name: (np.dtype(np.float32), (n, *shape)) for name, shape in description['layers'].items()
    }
    growing |= {LABELS: (np.dtype(np.int64), (n,)), NAMES: (np.dtype(f'<U{longest}'), (n,))}
    with path.open('wb') as out, zipfile.ZipFile(out, 'w', zipfile.ZIP_STORED) as archive:
        for name, (dtype, shape) in growing.items():
            with _member(archive, name) as member:
                header = {
                    'descr': np.lib.format.dtype_to_descr(dtype),
                    'fortran_order': False,
                    'shape': shape,
                }
                np.lib.format.write_array_header_2_0(member, header)
                for rows in parts.read([name]):
                    member.write(np.ascontiguousarray(rows[name], dtype).tobytes())
        for name, array in whole.items():
            with _member(archive, name) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    _flush(path)


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    return archive.open(zipfile.ZipInfo(f'{name}.npy', _EARLIEST), 'w', force_zip64=True)


def _npz_about(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    with np.load(path, allow_pickle=False) as file:
        lacking = [name for name in _ABOUT if name not in file]
        if lacking:
            raise ValueError(f'it has no array {lacking[0]}, so it is no file of features')
        return json.loads(str(file[DESCRIPTION])), tuple(map(str, file[CLASS_NAMES]))


def _npz_rows(path: Path, layers: Sequence[str]) -> Rows:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in (*layers, LABELS, NAMES)}


# .array_record


def _write_records(
    path: Path, parts: Parts, class_names: Sequence[str], description: Mapping[str, Any]
) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter
    from safetensors.numpy import save

    layers = list(description['layers'])
    writer = ArrayRecordWriter(str(path), 'group_size:1')
    try:
        for rows in parts.read([*layers, LABELS, NAMES]):
            for i, name in enumerate(rows[NAMES]):
                text = str(name).encode(errors='surrogateescape')
                tensors = {layer: np.ascontiguousarray(rows[layer][i]) for layer in layers}
                tensors |= {'label': rows[LABELS][i : i + 1], 'name': np.frombuffer(text, np.uint8)}
                writer.write(save(tensors))
    finally:
        writer.close()
    _flush(path)
    about = {CLASS_NAMES: list(class_names), DESCRIPTION: description}
    target = path.with_suffix('')  # without .tmp
    target.unlink(missing_ok=True)  # an older one, which this description would be wrong about
    write_atomically(_beside(target), json.dumps(about))


def _beside(path: Path) -> Path:
    return path.with_name(f'{path.name}.json')


def _records_about(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    about = read_json(_beside(path), f'it belongs to {path}')
    return dict(about[DESCRIPTION]), tuple(map(str, about[CLASS_NAMES]))


def _records_rows(path: Path, layers: Sequence[str]) -> Rows:
    from array_record.python.array_record_module import ArrayRecordReader
    from safetensors.numpy import load

    reader = ArrayRecordReader(str(path))
    try:
        records = [load(record) for record in reader.read_all()]
    finally:
        reader.close()
    rows = {layer: np.stack([record[layer] for record in records]) for layer in layers}
    names = [bytes(record['name']).decode(errors='surrogateescape') for record in records]
    return rows | {
        LABELS: np.concatenate([record['label'] for record in records]),
        NAMES: np.asarray(names, np.str_),
    }


def _flush(path: Path) -> None:
    with path.open('rb') as file:
        os.fsync(file.fileno())


@dataclasses.dataclass(frozen=True)
class _Format:
    write: Callable[[Path, Parts, Sequence[str], Mapping[str, Any]], None]
    read_about: Callable[[Path], tuple[dict[str, Any], tuple[str, ...]]]
    read_rows: Callable[[Path, Sequence[str]], Rows]


_FORMATS = {
    '.npz': _Format(_write_npz, _npz_about, _npz_rows),
    '.array_record': _Format(_write_records, _records_about, _records_rows),
}
