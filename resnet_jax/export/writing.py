"""Write an exported file, run it by its own runtime and compare it with the original."""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from resnet_jax.compress import measure
from resnet_jax.errors import InputError, RunError
from resnet_jax.export.exported import (
    description_file,
    net_of,
    seen_preprocessing,
    write_description,
)
from resnet_jax.export.formats import check_settings
from resnet_jax.export.program import BOUNDS, Program
from resnet_jax.training.compilation import jit, matmul_precision


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far the logits of a file are from those of the original.

    Attributes:
      images: number of images.
      largest: the largest difference of a logit.
      relative: the same, divided by the largest logit.
      rms: the root of the mean squared difference, divided by the logits' standard deviation.
      agreement: the fraction of images for which both find the same class most probable.
      bound: the largest relative difference that is accepted.
    """

    images: int
    largest: float
    relative: float
    rms: float
    agreement: float
    bound: float

    @property
    def accepted(self) -> bool:
        """Whether it is within its bound."""
        return self.relative <= self.bound  # not so for NaN


def compare(
    found: Float[np.ndarray, 'n classes'], expected: Float[np.ndarray, 'n classes'], bound: float
) -> Difference:
    """Compares logits.

    Args:
      found: of the file.
      expected: of the original.
      bound: see `Difference`.
    """
    figures = measure.difference(expected, np.asarray(found))
    return Difference(images=len(expected), bound=bound, **figures)


def original_logits(
    program: Program, pixels: UInt8[np.ndarray, 'n *space c'], batch_size: int = 16
) -> Float[np.ndarray, 'n classes']:
    """What the original, as it was trained and in float32, says of images."""
    trained = program.trained
    model = trained.model.clone(dtype=np.float32)

    @jit
    def logits(variables: Any, images: Any) -> Any:
        return model.apply(variables, trained.preprocessing.normalize(images), train=False)

    size = min(batch_size, len(pixels))
    padded = np.concatenate([pixels, np.zeros((-len(pixels) % size, *pixels.shape[1:]), np.uint8)])
    with matmul_precision(trained.matmul_precision):
        parts = [
            logits(trained.variables, padded[i : i + size]) for i in range(0, len(padded), size)
        ]
    return np.concatenate(parts)[: len(pixels)]


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
        found = np.concatenate([net.logits(images[:1]), net.logits(images[1:])])
        difference = compare(found, original_logits(program, pixels), BOUNDS[program.dtype])
        if not difference.accepted:
            raise RunError(
                f'no file is left at {path}: run by its own runtime, its logits differ from the '
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
