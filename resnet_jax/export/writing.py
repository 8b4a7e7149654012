"""Write an exported file, run it by its own runtime and compare it with the original."""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from resnet_jax.compress import measure
from resnet_jax.dense.registry import with_net_fields
from resnet_jax.errors import InputError, RunError
from resnet_jax.export.exported import (
    description_file,
    net_of,
    seen_preprocessing,
    with_last_channels,
    write_description,
)
from resnet_jax.export.formats import check_settings
from resnet_jax.export.program import BOUNDS, Program
from resnet_jax.training.compilation import jit, matmul_precision


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far the outputs of a file are from those of the original.

    Attributes:
      images: number of images.
      largest: the largest difference of a value.
      relative: the same, divided by the largest value of that output.
      rms: the root of the mean squared difference, divided by the output's standard deviation.
      agreement: the fraction of images, or places, for which both find the same class most
        probable; None where there are no classes.
      bound: the largest relative difference that is accepted.
    """

    images: int
    largest: float
    relative: float
    rms: float
    agreement: float | None
    bound: float

    @property
    def accepted(self) -> bool:
        """Whether it is within its bound."""
        return self.relative <= self.bound  # not so for NaN


def compare(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], bound: float
) -> Difference:
    """Compares outputs; each figure is that of the output that differs most.

    Args:
      found: of the file, by name.
      expected: of the original.
      bound: see `Difference`.
    """
    figures = {name: measure.difference(x, np.asarray(found[name])) for name, x in expected.items()}
    worst = {
        key: float(np.max([each[key] for each in figures.values()]))  # NaN if one is
        for key in ('largest', 'relative', 'rms')
    }
    agreement = figures['logits']['agreement'] if 'logits' in figures else None
    images = len(next(iter(expected.values())))
    return Difference(images=images, bound=bound, agreement=agreement, **worst)


def original_outputs(
    program: Program, pixels: UInt8[np.ndarray, 'n *space c'], batch_size: int = 16
) -> dict[str, np.ndarray]:
    """What the original, as it was trained and in float32, says of images, by name."""
    trained, outputs = program.trained, program.outputs
    model = with_net_fields(trained.model, dtype=np.float32)

    @jit
    def compute(variables: Any, images: Any) -> Any:
        images = trained.preprocessing.normalize(images)
        return outputs.of_model(model.apply(variables, images, train=False))

    size = min(batch_size, len(pixels))
    padded = np.concatenate([pixels, np.zeros((-len(pixels) % size, *pixels.shape[1:]), np.uint8)])
    with matmul_precision(trained.matmul_precision):
        parts = [
            compute(trained.variables, padded[i : i + size]) for i in range(0, len(padded), size)
        ]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: x[: len(pixels)] for name, x in found.items()}


def write_exported(
    program: Program,
    name: str,
    path: Path,
    pixels: UInt8[np.ndarray, 'n *space c'],
    data: str = 'random numbers',
) -> dict[str, Any]:
    """Writes a program, runs the file and compares it; leaves nothing if that fails.

    Args:
      program: what to write.
      name: a key of `FORMATS`.
      path: the file, replaced if it exists; its description is written beside it.
      pixels: images to compare on.
      data: what the images are.

    Returns:
      The description, with the size of the file and its 'difference' from the original.

    Raises:
      InputError: for settings that the format cannot hold, and a folder that cannot be written.
      RunError: if the file cannot be written or run, or differs by more than the bound.
    """
    layout = 'NHWC' if program.channels_last else 'NCHW'
    row = check_settings(name, path, program.dtype, layout)
    about = {'format': name, **program.describe()}
    with _draft(path) as draft:
        try:
            about |= row.write(program, draft, about)
        except OSError as error:
            raise RunError(
                f'cannot write {path}: {error.strerror}; make room, or write elsewhere'
            ) from error
        net = net_of(about, row.open(draft), str(path))
        images = np.asarray(jax.jit(seen_preprocessing(about).normalize)(pixels))
        # Two numbers of images, where the file takes any.
        parts = [net.outputs(part) for part in (images[:1], images[1:]) if len(part)]
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        found = with_last_channels(found, about)
        difference = compare(found, original_outputs(program, pixels), BOUNDS[program.dtype])
        if not difference.accepted:
            raise RunError(
                f'no file is left at {path}: run by its own runtime, its outputs differ from the '
                f'original by {difference.relative:.2g} of the largest, which is more than '
                f'{difference.bound:g}'
            )
        about |= {
            'bytes': _size(draft),
            'difference': {**dataclasses.asdict(difference), 'data': data},
        }
        _replace(draft, path)
        write_description(path, about)
    return about


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """A name for the file in a folder beside it, which is removed in the end."""
    if not path.parent.is_dir():
        raise InputError(f'cannot write {path}: there is no folder {path.parent}; create it first')
    try:
        folder = Path(tempfile.mkdtemp(prefix=f'.{path.name[:40]}.', dir=path.parent))
    except OSError as error:
        raise InputError(f'cannot write {path}: {error.strerror}; write elsewhere') from error
    try:
        yield folder / path.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(draft: Path, path: Path) -> None:
    """Puts a file or folder in the place of another, whose description goes first."""
    description_file(path).unlink(missing_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    os.replace(draft, path)


def _size(path: Path) -> int:
    """Bytes of a file, or of a folder's files."""
    files = [path] if path.is_file() else [p for p in path.rglob('*') if p.is_file()]
    return sum(p.stat().st_size for p in files)
