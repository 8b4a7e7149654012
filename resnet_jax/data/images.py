"""Find image files, decode them, and bring them to the size and channels of a model (on the host).

Arrays are [height, width, channels] with 1 (grey) or 3 (RGB) channels, values 0 to 255.
"""

import dataclasses
import glob
import io
import math
import os
import struct
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from resnet_jax.errors import InputError, check_choice

# How `resize_and_crop` resamples. Pillow antialiases with both when it shrinks.
INTERPOLATIONS = {'bilinear': Image.Resampling.BILINEAR, 'bicubic': Image.Resampling.BICUBIC}
ORIENTATION_TAG = 0x0112  # EXIF 2.32, section 4.6.4
CROP_TRIES = 10  # as torchvision's RandomResizedCrop, before it falls back to a centre crop
SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')  # that `find_images` looks for

# What Pillow raises on damaged files, besides OSError.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)


def decode_image(
    image: str | os.PathLike[str] | bytes, channels: int = 3, where: str = ''
) -> UInt8[np.ndarray, 'h w channels']:
    """Decodes a JPEG, PNG or other image that Pillow reads.

    The EXIF orientation is applied, CMYK and palettes become RGB, 16-bit greys are scaled to 8 bits
    and an alpha channel is dropped (not blended), as torchvision's ImageFolder does.

    Args:
      image: a path, or the bytes of a file.
      channels: 1 for grey, 3 for RGB.
      where: the image's name in messages; by default its path.

    Raises:
      InputError: if the file is missing, not an image, damaged or larger than
        `PIL.Image.MAX_IMAGE_PIXELS` pixels.
    """
    where = where or ('image' if isinstance(image, bytes) else os.fspath(image))
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            _check_pixels(opened, where)
            opened.load()
            if opened.getexif().get(ORIENTATION_TAG, 1) == 1:
                return _to_array(opened, channels)
            return _to_array(ImageOps.exif_transpose(opened), channels)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f'{where}: no such image file') from None
    except UnidentifiedImageError:
        raise InputError(f'{where}: not an image that can be read; give a JPEG or PNG') from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(_too_large(where)) from None
    except _DAMAGED as error:
        reason = getattr(error, 'strerror', None) or error
        raise InputError(f'{where}: cannot read this image ({reason})') from None


def _too_large(where: str, size: str = '') -> str:
    limit = f'{Image.MAX_IMAGE_PIXELS:,}'
    return f'{where}: image too large{size}; the limit is {limit} pixels, make it smaller'


def _check_pixels(opened: Image.Image, where: str) -> None:
    # Pillow itself only warns up to twice this limit.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and opened.width * opened.height > limit:
        raise InputError(_too_large(where, f' ({opened.width} x {opened.height})'))


def _to_array(image: Image.Image, channels: int) -> np.ndarray:
    """Pillow image of any mode to uint8 [H, W, channels]."""
    if image.mode.startswith('I'):
        # Pillow's own conversion of 16-bit greys clips at 255. 65535 / 257 = 255.
        wide = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((np.clip(wide, 0, 65535) + 128) // 257).astype(np.uint8))
    if image.mode == 'P':
        image = image.convert('RGBA')  # palette entries may carry transparency
    image = image.convert('L' if channels == 1 else 'RGB')
    return np.asarray(image).reshape(image.height, image.width, channels)


def _to_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def convert_channels(
    image: UInt8[np.ndarray, 'h w c'], channels: int
) -> UInt8[np.ndarray, 'h w channels']:
    """Converts an image to grey or RGB.

    Args:
      image: of 1 or 3 channels.
      channels: 1 (luma of ITU-R BT.601) or 3 (a grey is repeated).

    Returns:
      The converted image; the same array if it has these channels already.
    """
    if image.shape[2] == channels:
        return image
    return _to_array(_to_pillow(image), channels)


def resize_and_crop(
    image: UInt8[np.ndarray, 'h w c'],
    image_size: int,
    resize: int | None = None,
    interpolation: str = 'bilinear',
) -> UInt8[np.ndarray, 'image_size image_size c']:
    """Scales the shorter side to `resize` and cuts out the centre square, as for evaluation.

    With antialiasing. An image that has the right size already is returned unchanged.

    Args:
      image: the image.
      image_size: side of the result, pixels.
      resize: the shorter side before the crop, pixels; None means `image_size`.
      interpolation: 'bilinear' or 'bicubic'.

    Raises:
      InputError: if `resize` is smaller than `image_size` or the interpolation unknown.
    """
    check_choice('interpolation', interpolation, INTERPOLATIONS)
    resize = image_size if resize is None else resize
    if resize < image_size:
        raise InputError(f'resize {resize} is smaller than image_size {image_size}')
    height, width, channels = image.shape
    if min(height, width) != resize:
        shorter = min(height, width)
        # The longer side is rounded down, as in torchvision.
        height, width = height * resize // shorter, width * resize // shorter
        scaled = _to_pillow(image).resize((width, height), INTERPOLATIONS[interpolation])
        image = np.asarray(scaled).reshape(height, width, channels)
    top, left = round((height - image_size) / 2), round((width - image_size) / 2)
    return image[top : top + image_size, left : left + image_size]


def random_resized_crop(
    image: UInt8[np.ndarray, 'h w c'],
    image_size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> UInt8[np.ndarray, 'image_size image_size c']:
    """Cuts a random box out of an image and resizes it to a square, as for training.

    Szegedy et al. 2015 (Going deeper with convolutions), section 6.

    Args:
      image: the image.
      image_size: side of the result, pixels.
      rng: draws the box.
      scale: smallest and largest area of the box, as a fraction of the image.
      ratio: smallest and largest width / height of the box.
    """
    left, top, width, height = _random_box(image.shape[1], image.shape[0], rng, scale, ratio)
    resized = _to_pillow(image).resize(
        (image_size, image_size),
        Image.Resampling.BILINEAR,
        box=(left, top, left + width, top + height),
    )
    return np.asarray(resized).reshape(image_size, image_size, image.shape[2])


def _random_box(
    width: int,
    height: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Left, top, width, height of a box inside an image of this width and height."""
    for _ in range(CROP_TRIES):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    # No box fitted: the largest centre box of an allowed ratio, as torchvision does.
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    return (width - w) // 2, (height - h) // 2, w, h


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """A file to be read as an image.

    Attributes:
      path: of the file, as given or found.
      named: whether the caller named the file itself, not a folder or pattern.
    """

    path: Path
    named: bool


def find_images(arguments: Sequence[str | os.PathLike[str]]) -> list[ImageFile]:
    """Finds image files, in the order of the arguments.

    Args:
      arguments: each of them one of
        a file: taken whatever its suffix, without a check that it exists;
        a folder: the files with one of `SUFFIXES` in it and its subfolders;
        a pattern of `*`, `?`, `[...]` and `**` (any number of folders): the matching files, if the
        pattern has no suffix only those with one of `SUFFIXES`.

    Returns:
      The files; those of a folder or pattern sorted by path, without hidden ones. Links to folders
      are followed, but each folder is entered once.

    Raises:
      InputError: if a folder or pattern yields no files, or a folder cannot be read.
    """
    found = []
    for argument in (os.fspath(a) for a in arguments):
        if os.path.isdir(argument):
            paths = [path for path in _files_below(argument) if _is_image(path)]
            nothing = f'no images in this folder (looked for {", ".join(SUFFIXES)})'
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            suffix = Path(argument).suffix
            any_suffix = bool(suffix) and not glob.has_magic(suffix)
            paths = [path for path in _matches(argument) if any_suffix or _is_image(path)]
            nothing = 'no image files match this pattern'
        else:
            found.append(ImageFile(Path(argument), named=True))
            continue
        if not paths:
            raise InputError(f'{argument}: {nothing}')
        paths = sorted(set(paths), key=lambda path: path.parts)
        found += [ImageFile(path, named=False) for path in paths]
    return found


def printable(name: str) -> str:
    """Escapes a file's name for one line of text: it may hold line breaks and any bytes."""
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _files_below(folder: str) -> Iterator[Path]:
    """The files in a folder and its subfolders, without hidden ones, in any order."""
    entered: set[str] = set()
    waiting = [folder]  # links come last, so that a folder inside is found under its own path
    while waiting:
        for where, folders, files in os.walk(waiting.pop(0), onerror=_raise_input_error):
            real = os.path.realpath(where)
            if real in entered:
                folders.clear()
                continue
            entered.add(real)
            folders[:] = sorted(name for name in folders if name[0] != '.')
            below = [os.path.join(where, name) for name in folders]
            # os.walk does not follow links.
            waiting += [path for path in below if os.path.islink(path)]
            yield from (path for name in files if _is_visible_file(path := Path(where, name)))


def _raise_input_error(error: OSError) -> None:
    raise InputError(f'{error.filename}: cannot read this folder ({error.strerror})')


def _is_visible_file(path: Path) -> bool:
    """Leaves out pipes and devices, not broken links: reading them reports the error."""
    return path.name[0] != '.' and (os.path.isfile(path) or os.path.islink(path))


def _matches(pattern: str) -> Iterator[Path]:
    """The files that a pattern matches, in any order."""
    parts = Path(pattern).parts
    if '**' not in parts:
        yield from (path for path in map(Path, glob.glob(pattern)) if os.path.isfile(path))
        return
    # Not glob's own `**`, which follows links in circles.
    start = parts.index('**')
    head = os.path.join(*parts[:start]) if start else '.'
    for folder in glob.glob(head):
        for path in _files_below(folder) if os.path.isdir(folder) else ():
            if _parts_match(path.relative_to(folder).parts, parts[start:]):
                yield path


def _parts_match(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether the parts of a path match those of a pattern; `**` matches any number of parts."""
    if not pattern:
        return not parts
    first, *rest = pattern
    if first == '**':
        return any(_parts_match(parts[i:], tuple(rest)) for i in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], first) and _parts_match(parts[1:], tuple(rest))
