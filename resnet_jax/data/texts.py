"""Texts as their bytes: `text:PATH`, a folder of text files in folders of their classes."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from resnet_jax.data.folders import FileKind
from resnet_jax.errors import InputError
from resnet_jax.text import printable

TEXTS = FileKind('text', 'text', ('.txt', '.text', '.md'))
BYTES = 256  # different values of a byte; 0, which no text contains, stands after its end


def read_text(path: str | os.PathLike[str], length: int) -> UInt8[np.ndarray, ' length']:
    """The first bytes of a file, and zeros after its end.

    Args:
      path: of the file, in any encoding; UTF-8 is the usual one.
      length: bytes.

    Raises:
      InputError: if the file cannot be read, or is empty.
    """
    try:
        with Path(path).open('rb') as file:
            found = np.frombuffer(file.read(length), np.uint8)
    except OSError as error:
        where = printable(os.fspath(path))
        raise InputError(f'{where}: cannot be read ({error.strerror})') from error
    if not found.size:
        raise InputError(f'{printable(os.fspath(path))}: the file is empty')
    return np.pad(found, (0, length - len(found)))
