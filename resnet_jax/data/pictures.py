"""Images that are decoded when they are needed, and only as much of them as is needed."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from resnet_jax.data import jpeg
from resnet_jax.data.containers import ImageParts, split_metadata
from resnet_jax.data.images import (
    decode_parts,
    image_name,
    plain_jpeg,
    read_file,
    size_of,
    upright,
)
from resnet_jax.data.resizing import SUPPORTS, Box, convert_channels, resize_box

CROP_TRIES = 10  # as torchvision's RandomResizedCrop, before it falls back to a centre crop


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """An image that is not decoded yet. Its file is read once, when it is first needed.

    What is wrong with the file shows in the methods, which raise an `InputError`.

    Attributes:
      image: a path, the bytes of a file, or pixels, uint8 [H, W, C].
      channels: what a file is decoded to, see `images.decode_image`.
      name: what messages call it; by default its path.
      shown: what the decoded image is converted to, see `convert_channels`; None: nothing.
      decode: reads a file that is no image, from its path; None: it is one.
    """

    image: str | os.PathLike[str] | bytes | np.ndarray
    channels: int = 3
    name: str = ''
    shown: int | None = None
    decode: Callable[[str], np.ndarray] | None = None

    def size(self) -> tuple[int, int]:
        """Width and height, upright, in pixels. Nothing is decoded."""
        if isinstance(self.image, np.ndarray):
            return self.image.shape[1], self.image.shape[0]
        return size_of(*self._file, self.channels, self._where, self._header)

    def whole(self) -> UInt8[np.ndarray, 'h w channels']:
        """The image."""
        if isinstance(self.image, np.ndarray):
            return self._converted(self.image)
        if self.decode is not None:
            return self.decode(str(self.image))
        return self._converted(decode_parts(*self._file, self.channels, self._where))

    def crop(
        self, box: Box, size: int, interpolation: str = 'bilinear', antialias: bool = True
    ) -> UInt8[np.ndarray, 'size size channels']:
        """A part of the image, resized to a square; see `resize_box`.

        Of a JPEG nothing below the box is decoded; and a box at least twice as wide and as high as
        the square is decoded at a half, a quarter or an eighth of its size, which gives other
        pixels: of photographs, by 1 to 2 steps of 0 to 255 on average.

        Args:
          box: left, top, right, bottom, in pixels of the upright image, inside of it.
          size: side of the square, pixels.
          interpolation: 'bilinear' or 'bicubic'.
          antialias: as of `resize_box`; without it a JPEG is decoded at its full size.
        """
        scaled = self._scaled(box, size, interpolation, antialias)
        image, scale = scaled or (self.whole(), 1)
        left, top, right, bottom = (side / scale for side in box)
        # What the filter reaches, and no more, is converted and copied.
        reach = [
            math.ceil(SUPPORTS[interpolation] * max((high - low) / size, 1)) + 1
            for low, high in ((left, right), (top, bottom))
        ]
        x, y = max(math.floor(left) - reach[0], 0), max(math.floor(top) - reach[1], 0)
        part = image[y : math.ceil(bottom) + reach[1], x : math.ceil(right) + reach[0]]
        shifted = (left - x, top - y, right - x, bottom - y)
        return resize_box(self._converted(part), shifted, size, interpolation, antialias)

    def _scaled(
        self, box: Box, size: int, interpolation: str, antialias: bool
    ) -> tuple[UInt8[np.ndarray, 'h w c'], int] | None:
        """The upright image, shrunk by a factor, down to where a box ends; only of plain JPEGs."""
        if isinstance(self.image, np.ndarray) or self._header is None:
            return None
        (_, parts), header = self._file, self._header
        left, top, right, bottom = box
        room = min(right - left, bottom - top) / size
        large = min(header.width, header.height) >= jpeg.SMALLEST_SCALED
        shrinks = large and antialias
        scale = next((s for s in jpeg.SCALES if s <= room), 1) if shrinks else 1
        rows = header.height
        if (parts.orientation or 1) == 1:
            reach = SUPPORTS[interpolation] * max((bottom - top) / size / scale, 1) + 2
            rows = min(rows, scale * math.ceil(bottom / scale + reach))
        found = jpeg.decode_rows(parts.pixels, header, self.channels, scale, rows)
        if found is None:
            return None
        if found.shape[2] != self.channels:
            found = convert_channels(found, self.channels)
        return upright(found, parts.orientation), scale

    @functools.cached_property
    def _file(self) -> tuple[bytes, ImageParts]:
        image = self.image
        assert not isinstance(image, np.ndarray)
        data = image if isinstance(image, bytes) else read_file(image, self._where)
        return data, split_metadata(data)

    @functools.cached_property
    def _header(self) -> jpeg.JpegHeader | None:
        return plain_jpeg(self._file[1]) if self.channels in (1, 3) else None

    @property
    def _where(self) -> str:
        assert not isinstance(self.image, np.ndarray)
        return image_name(self.image, self.name)

    def _converted(self, image: np.ndarray) -> np.ndarray:
        return image if self.shown is None else convert_channels(image, self.shown)


def random_resized_crop(
    image: Picture | UInt8[np.ndarray, 'h w c'],
    image_size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: str = 'bilinear',
    antialias: bool = True,
) -> UInt8[np.ndarray, 'image_size image_size c']:
    """Cuts a random box out of an image and resizes it to a square, as for training.

    Szegedy et al. 2015 (Going deeper with convolutions), section 6.

    Args:
      image: the image; of one that is not decoded yet, as much is decoded as `Picture.crop` needs.
      image_size: side of the result, pixels.
      rng: draws the box.
      scale: smallest and largest area of the box, as a fraction of the image.
      ratio: smallest and largest width / height of the box.
      interpolation: 'bilinear' or 'bicubic'.
      antialias: as of `resize_box`.
    """
    picture = image if isinstance(image, Picture) else Picture(image)
    left, top, width, height = random_box(*picture.size(), rng, scale, ratio)
    box = (left, top, left + width, top + height)
    return picture.crop(box, image_size, interpolation, antialias)


def random_box(
    width: int,
    height: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Left, top, width, height of a random box; arguments as for `random_resized_crop`."""
    for _ in range(CROP_TRIES):
        area = width * height * _uniform(rng, *scale)
        aspect = math.exp(_uniform(rng, math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    # No box fitted: the largest centre box of an allowed ratio, as torchvision does.
    w = min(width, max(round(height * ratio[1]), 1))
    h = min(height, max(round(width / ratio[0]), 1))
    return (width - w) // 2, (height - h) // 2, w, h


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """`rng.uniform(low, high)`, to the last bit, in a third of the time."""
    return low + (high - low) * rng.random()
