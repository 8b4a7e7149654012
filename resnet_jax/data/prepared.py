"""Write a data set of smaller images that is read fast: array_record, as TFDS keeps it."""

import contextlib
import dataclasses
import functools
import io
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from resnet_jax.data.containers import split_metadata
from resnet_jax.data.images import decode_image, read_file, size_of
from resnet_jax.data.read_ahead import read_ahead
from resnet_jax.data.sources import Record, Source
from resnet_jax.errors import InputError, first_line

VERSION = '1.0.0'
_TOGETHER = 64  # images that a thread prepares in one call
_KEPT = (b'\xff\xd8\xff', b'\x89PNG')  # how files begin that stay as they are if small: JPEG, PNG
_NAME = re.compile(r'[a-z][a-z0-9_]*')


class Written(NamedTuple):
    """What a copy took.

    Attributes:
      path: of its folder.
      n: number of images.
      before, after: bytes of the images as they were stored, and of the copy's files.
      kept: number of images that were small enough to be copied as they were.
    """

    path: Path
    n: int
    before: int
    after: int
    kept: int


def shrink(image: UInt8[np.ndarray, 'h w c'], side: int) -> UInt8[np.ndarray, 'h2 w2 c']:
    """Scales the shorter side to `side` as `resize_and_crop` does, without the crop.

    A smaller image is returned as it is: enlarging it adds nothing but bytes.
    """
    shorter = min(image.shape[:2])
    if shorter <= side:
        return image
    # The longer side is rounded down, as there.
    height, width = (length * side // shorter for length in image.shape[:2])
    bands = [image] if image.shape[2] == 3 else np.split(image, image.shape[2], axis=2)
    pictures = (Image.fromarray(band if band.shape[2] == 3 else band[:, :, 0]) for band in bands)
    small = [np.asarray(p.resize((width, height), Image.Resampling.BILINEAR)) for p in pictures]
    return np.concatenate([np.atleast_3d(each) for each in small], axis=2)


def check_name(name: str) -> None:
    """Refuses a name that TFDS cannot give a data set.

    Raises:
      InputError: saying what it may be.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f'the name of a data set of TFDS has small letters, digits and _, and begins with a '
            f'letter, got {name!r}'
        )


def write_copy(
    sources: Mapping[str, Source],
    folder: Path,
    name: str,
    side: int,
    quality: int | None = 95,
    progress: bool = True,
) -> Written:
    """Writes the splits of a data set with their images scaled down, in their order.

    The data set appears at the end, whole or not at all.

    Args:
      sources: whole split -> its examples; all of one data set.
      folder: of data sets of TFDS; made if it does not exist.
      name: of the copy.
      side: the shorter side of its images; smaller ones are not enlarged.
      quality: of JPEG; None: pixels, which take the most bytes and need no decoder.
      progress: show a bar where standard error is a terminal and it takes over a second.

    Raises:
      InputError: if there is such a data set, an image cannot be read, or the names of its splits
        or classes cannot be those of a data set of TFDS.
    """
    import tensorflow_datasets as tfds

    check_name(name)
    _check_names(sources, folder, name)
    n = sum(map(len, sources.values()))
    tally = _Tally(tqdm(total=n, desc=name, delay=1, disable=None if progress else True))
    examples = functools.partial(_examples, tally, side, quality)
    builder = _builder(sources, name, quality, examples)
    downloads = folder / 'downloads'
    try:
        with tally.bar, contextlib.redirect_stdout(io.StringIO()), _quiet():
            builder(data_dir=str(folder), file_format='array_record').download_and_prepare()
    except Exception as error:
        if tally.fault is not None:
            raise tally.fault from None
        if isinstance(error, OSError):
            raise
        raise InputError(f'cannot write {folder / name}: {first_line(error)}') from error
    finally:
        if not any(path.is_file() for path in downloads.rglob('*')):  # TFDS leaves it empty
            shutil.rmtree(downloads, ignore_errors=True)
    path = Path(tfds.builder(name, data_dir=str(folder)).data_dir)
    after = sum(file.stat().st_size for file in path.rglob('*') if file.is_file())
    return Written(path, n, tally.before, after, tally.kept)


@dataclasses.dataclass
class _Tally:
    """What has been written so far."""

    bar: Any
    before: int = 0
    kept: int = 0
    fault: InputError | None = None


def _examples(
    tally: _Tally, side: int, quality: int | None, source: Source
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The examples of a split for TFDS, numbered, made ahead in threads."""
    make = functools.partial(_prepared, source, side, quality)
    key = 0
    try:
        for batch in read_ahead(make, 0, -(-len(source) // _TOGETHER), 0):
            for image, label, size, kept in batch:
                tally.before += size
                tally.kept += kept
                yield key, {'image': image, 'label': label}
                key += 1
            tally.bar.update(len(batch))
    except InputError as error:
        tally.fault = error  # TFDS makes another error of it
        raise


def _check_names(sources: Mapping[str, Source], folder: Path, name: str) -> None:
    """Refuses names that the copy cannot have, before anything is read."""
    if (folder / name / VERSION).exists():
        raise InputError(
            f'{folder / name} exists: remove it, or give the copy another name with --name'
        )
    for split in sources:
        if not re.fullmatch(r'[A-Za-z]\w*', split) or split == 'all':
            raise InputError(
                f'the split {split!r} cannot be one of TFDS; rename it: letters, digits and _'
            )
    for names in {source.class_names for source in sources.values()}:
        odd = [each for each in names if not each or not each.isprintable() or each != each.strip()]
        if odd:
            raise InputError(f'the class {odd[0]!r} cannot be one of TFDS; rename it')


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without TFDS's own bars."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        yield
    finally:
        tfds.enable_progress_bar()


def _builder(
    sources: Mapping[str, Source], name: str, quality: int | None, examples: Any
) -> type[Any]:
    """A builder of TFDS that takes its examples from here."""
    import tensorflow_datasets as tfds

    first = next(iter(sources.values()))
    shape = (None, None, first.channels)
    image = (
        tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding='bytes')
        if quality is None
        else tfds.features.Image(shape=shape, encoding_format='jpeg')
    )
    features = {'image': image, 'label': tfds.features.ClassLabel(names=list(first.class_names))}

    base: Any = tfds.core.GeneratorBasedBuilder

    class Copy(base, skip_registration=True):  # type: ignore[misc, call-arg]
        """A copy of another data set."""

        VERSION = tfds.core.Version(VERSION)
        code_path = None  # TFDS looks for it with a package that it does not require

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                description=f'A copy of {first.name}',
                disable_shuffling=True,  # the order stays
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterable[Any]]:
            return {split: examples(source) for split, source in sources.items()}

        def _generate_examples(self, source: Source) -> Iterable[Any]:
            return examples(source)

    Copy.name = name
    return Copy


def _prepared(
    source: Source, side: int, quality: int | None, number: int
) -> list[tuple[Any, int, int, bool]]:
    """Images and labels of a stretch, each with its size as stored and whether it was kept."""
    here = range(number * _TOGETHER, min((number + 1) * _TOGETHER, len(source)))
    found: list[tuple[Any, int, int, bool]] = []
    for record, where in source.records(here):
        label = record[1]
        if not 0 <= label < len(source.class_names):
            source.take([here[len(found)]])  # raises, naming it
        image, size, kept = _image(source, record, where, side, quality)
        found.append((image, label, size, kept))
    return found


def _image(
    source: Source, record: Record, where: str, side: int, quality: int | None
) -> tuple[Any, int, bool]:
    image = record[0]
    if isinstance(image, np.ndarray):
        size = image.nbytes
    else:
        name = image if isinstance(image, str) else f'{where} of {source.name}'
        data = image if isinstance(image, bytes) else read_file(image, name)
        size = len(data)
        fits = quality is not None and data.startswith(_KEPT)
        if fits and min(size_of(data, split_metadata(data), source.channels, name)) <= side:
            decode_image(data, source.channels, name)  # a damaged one is not copied
            return io.BytesIO(data), size, True
        image = decode_image(data, source.channels, name)
    small = shrink(image, side)
    if quality is None:
        return small, size, small is image
    out = io.BytesIO()
    picture = Image.fromarray(small[:, :, 0] if small.shape[2] == 1 else small)
    picture.save(out, 'JPEG', quality=quality)
    out.seek(0)
    return out, size, False


def unfinished(folder: Path, name: str) -> Sequence[Path]:
    """Folders that a copy left behind that was killed; the next one does not need them."""
    return sorted((folder / name).glob('*incomplete*')) if os.path.isdir(folder / name) else []
