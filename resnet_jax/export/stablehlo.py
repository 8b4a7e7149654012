"""StableHLO: the program as JAX itself stores it, for every platform, and run by JAX."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.dense.registry import net_of
from resnet_jax.errors import Unreadable, first_line
from resnet_jax.export.program import Program, Run

SIDES = ('d', 'h', 'w')
PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')


def write(program: Program, path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the serialised program; `jax.export.deserialize` reads it.

    Args:
      program: the function.
      path: the file.
      about: ignored, as the file holds no description.

    Returns:
      The 'sizes' of images that it takes.
    """
    exported, sizes = export(program)
    path.write_bytes(exported.serialize())
    return {'sizes': sizes}


def export(program: Program) -> tuple[jax.export.Exported, str]:
    """The program as JAX exports it, for as many sizes of images as it can, and which these are."""
    net = net_of(program.model)
    dims, step = net.dimensions, net.plans()[-1].reduction
    fixed = tuple(map(str, program.space))
    tries = {
        'any': SIDES[-dims:],
        # Where a layer does not cut windows short, or sees more than one pixel.
        f'multiples of {step}': tuple(f'{step}*{side}' for side in SIDES[-dims:]),
    }
    if any(size % step for size in program.space):  # the file must take its own images
        tries = {'any': tries['any']}
    if isinstance(program.preprocessing.mean[0], float) or not program.takes_pixels:
        for sizes, space in tries.items():
            with contextlib.suppress(jax.errors.InconclusiveDimensionOperation, TypeError):
                return _export(program, space), sizes
    return _export(program, fixed), 'x'.join(fixed)


def _export(program: Program, space: Sequence[str]) -> jax.export.Exported:
    channels = str(program.preprocessing.channels)
    axes = [*space, channels] if program.channels_last else [channels, *space]
    axes = list(space) if program.preprocessing.vocabulary else axes
    batch = 'n' if program.batch is None else str(program.batch)
    shape = jax.export.symbolic_shape(', '.join([batch, *axes]))
    images = jax.ShapeDtypeStruct(shape, program.input_dtype)
    return jax.export.export(jax.jit(program), platforms=PLATFORMS)(images)


def open_file(path: Path) -> Run:
    """The function of a file.

    Raises:
      Unreadable: if it is no such file, or one of a newer JAX.
    """
    try:
        found = jax.export.deserialize(bytearray(path.read_bytes()))
        call = jax.jit(found.call)
    except Exception as error:  # flatbuffers and MLIR raise many kinds
        raise Unreadable(
            f'{path} cannot be read as StableHLO: {first_line(error)}; export it again'
        ) from error

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found = call(images)
        named = found if isinstance(found, dict) else {'logits': found}
        return {name: np.asarray(x) for name, x in named.items()}

    return run
