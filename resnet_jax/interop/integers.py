"""Quantised weights as the integers that they are: int8, or two of at most 4 bits in a byte.

A kernel `NAME` is stored as integers, and as `NAME/scale` with a float32 for each output channel;
the metadata's 'integers' says which kernels, of how many bits and of which shape.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

KEY = 'integers'  # in the metadata
_SCALE = '/scale'
_NIBBLE = 4


def grid(
    kernel: Float[np.ndarray, '*fan out'], bits: int
) -> tuple[np.ndarray, Float[np.ndarray, ' out']]:
    """The integers and scales that `models.quantized.quantize_weights` takes.

    Args:
      kernel: its last axis is that of the output channels.
      bits: from 2 to 8.

    Returns:
      int8 of the kernel's shape, at most 2^(bits-1) - 1 in size, and float32 scales. Their product
      in float32 is the quantised kernel.
    """
    kernel = np.asarray(kernel, np.float32)
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    scales = np.where(largest > 0, largest / np.float32(2 ** (bits - 1) - 1), np.float32(1))
    return np.round(kernel / scales).astype(np.int8), scales.astype(np.float32)


def packed(
    arrays: Mapping[str, np.ndarray], bits: Mapping[str, int]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Named arrays for a file, and what its metadata says of them.

    Args:
      arrays: float32.
      bits: of those that are quantised, by name; they lie on their grid already, and come back from
        `unpacked` as they were, up to the last bit of the scale.
    """
    found, about = dict(arrays), {}
    for name, count in bits.items():
        if not count:
            continue
        integers, found[name + _SCALE] = grid(arrays[name], count)
        about[name] = {'bits': count, 'shape': list(integers.shape)}
        found[name] = _in_pairs(integers) if count <= _NIBBLE else integers
    return found, {KEY: json.dumps(about)} if about else {}


def unpacked(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """The arrays of a file, quantised ones as float32; without any, as they are.

    Raises:
      ValueError: if the metadata and the arrays do not belong together.
    """
    found = dict(arrays)
    if KEY not in metadata:
        return found
    about: dict[str, Any] = json.loads(metadata[KEY])
    for name, each in about.items():
        try:
            bits, shape = int(each['bits']), tuple(map(int, each['shape']))
            integers, scales = found.pop(name), found.pop(name + _SCALE)
        except (KeyError, TypeError) as error:
            raise ValueError(f'it does not hold the integers of {name}') from error
        if bits <= _NIBBLE:
            integers = _from_pairs(integers, math.prod(shape))
        if integers.size != math.prod(shape) or scales.shape != shape[-1:]:
            raise ValueError(f'the integers of {name} have another size than its shape')
        found[name] = integers.reshape(shape).astype(np.float32) * scales
    return found


def _in_pairs(integers: np.ndarray) -> np.ndarray:
    """Two integers from -8 to 7 in a byte: the first in the lower half."""
    flat = (integers.reshape(-1).astype(np.int16) & 15).astype(np.uint8)
    flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
    return flat[::2] | (flat[1::2] << 4)


def _from_pairs(pairs: np.ndarray, count: int) -> np.ndarray:
    flat = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(-1)[:count].astype(np.int8)
    return np.where(flat > 7, flat - 16, flat).astype(np.int8)
