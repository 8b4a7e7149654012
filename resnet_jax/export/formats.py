"""The formats of exported files: a row for each."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError, check_choice, choose
from resnet_jax.export import litert, savedmodel, stablehlo
from resnet_jax.export.onnx import file as onnx_file
from resnet_jax.export.program import BOUNDS, Program, Run


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of exported files.

    Attributes:
      title: for people.
      suffix: of the name of a file.
      write: (program, path, description of the program) writes the file, or folder, and returns
        what it adds to the description.
      open: (path) -> what runs it, by the format's own runtime.
      dtypes: types of the computation that it can hold and its runtime computes.
      layouts: of the images that it can take, the usual one first.
      fixed_batch: whether it holds a number of images.
    """

    title: str
    suffix: str
    write: Callable[[Program, Path, Mapping[str, Any]], dict[str, Any]]
    open: Callable[[Path], Run]
    dtypes: tuple[str, ...] = ('float32',)
    layouts: tuple[str, ...] = ('NHWC',)
    fixed_batch: bool = False


FORMATS: dict[str, Format] = {
    'stablehlo': Format(
        'StableHLO',
        '.stablehlo',
        stablehlo.write,
        stablehlo.open_file,
        dtypes=('float32', 'bfloat16'),
    ),
    'onnx': Format(
        'ONNX',
        '.onnx',
        onnx_file.write,
        onnx_file.open_file,
        dtypes=('float32', 'int8'),
        layouts=('NCHW', 'NHWC'),
    ),
    'litert': Format(
        'LiteRT',
        '.tflite',
        litert.write,
        litert.open_file,
        dtypes=('float32', 'int8'),
        fixed_batch=True,
    ),
    'savedmodel': Format(
        'SavedModel',
        '.savedmodel',
        savedmodel.write,
        savedmodel.open_file,
        dtypes=('float32', 'bfloat16'),
    ),
}


# Formats that other programs make, and how.
ELSEWHERE = {
    'coreml': 'coremltools makes Core ML of PyTorch modules alone, docs/export.md shows how',
}


def format_of(path: Path) -> str:
    """The format of a file, a key of `FORMATS`, by the end of its name.

    Raises:
      InputError: for another ending, with those that are known.
    """
    found = [name for name, row in FORMATS.items() if path.name.endswith(row.suffix)]
    if not found:
        known = ', '.join(f'{row.suffix} ({name})' for name, row in FORMATS.items())
        raise InputError(f'{path} has no ending of an exported file; they are {known}')
    return found[0]


def check_settings(name: str, path: Path, dtype: str, layout: str | None) -> Format:
    """The row of a format, after what it cannot hold is refused.

    Args:
      name: of the format.
      path: of the file.
      dtype: of the computation.
      layout: of the images, 'NCHW' or 'NHWC'; None: the format's own.

    Raises:
      InputError: for an unknown format or type, another ending of the file's name, and what the
        format cannot hold.
    """
    if name in ELSEWHERE:
        raise InputError(f'no --format {name}: {ELSEWHERE[name]}')
    row = choose('format', name, FORMATS)
    check_choice('dtype', dtype, BOUNDS)
    if not path.name.endswith(row.suffix):
        raise InputError(f'{path}: the name of a file of format {name} ends in {row.suffix}')
    if dtype not in row.dtypes:
        able = ' or '.join(key for key, other in FORMATS.items() if dtype in other.dtypes)
        raise InputError(f'--dtype {dtype} does not go with --format {name}, but with {able}')
    if layout not in (None, *row.layouts):
        raise InputError(f'--layout {layout} does not go with --format {name}; leave it out')
    return row
