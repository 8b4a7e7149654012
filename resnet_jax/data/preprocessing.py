"""Preprocessing: everything between a decoded image and a model's input.

A model is useful only with the preprocessing it was trained with, so it is stored with the model.
"""

import dataclasses
import json
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8

from resnet_jax.data.resizing import (
    INTERPOLATIONS,
    check_sizes,
    convert_channels,
    resize_and_crop,
)
from resnet_jax.errors import InputError, check_choice
from resnet_jax.json_files import parse_json

Pixels = tuple[tuple[tuple[float, ...], ...], ...]  # [H, W, C]
MOST_CHANNELS = 1024  # of an image: sensors of several hundred bands are in use
CHUNK = 1024  # images summed at a time, to bound memory


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a model's input. Hashable; equal if all fields are.

    Attributes:
      image_size: side of the input, pixels.
      channels: 1 (grey), 3 (RGB), or the bands of images of another number.
      resize: the shorter side before the centre crop, pixels; None means `image_size`.
      mean: subtracted from pixels scaled to [0, 1]: a number per channel, or per pixel and channel
        ([H, W, C], the per-pixel mean of He et al. 2015, section 4.2). Arrays are accepted; stored
        as tuples of float32 values.
      std: a number per channel that the difference is divided by.
      class_names: the name of each label.
      interpolation: of the resize, 'bilinear' or 'bicubic', both with antialiasing.
      frames: of a video, or slices of a volume, that the model takes; 0: it takes images.
    """

    image_size: int
    channels: int
    resize: int | None
    mean: tuple[float, ...] | Pixels
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    # Also of files from before these fields existed.
    interpolation: str = 'bilinear'
    frames: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.channels <= MOST_CHANNELS:
            raise InputError(f'channels must be from 1 to {MOST_CHANNELS}, not {self.channels}')
        check_sizes(self.image_size, self.resize)
        check_choice('interpolation', self.interpolation, INTERPOLATIONS)
        with np.errstate(over='ignore'):  # to infinity, which is refused
            mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        if self.frames < 0:
            raise InputError(f'frames must be at least 0, not {self.frames}')
        if mean.shape not in ((self.channels,), self.shape[-3:]) or (mean.ndim > 1 and self.frames):
            wanted = '' if self.frames else f' or {self.shape}'
            raise InputError(f'mean has shape {mean.shape}; give ({self.channels},){wanted}')
        if not np.isfinite(mean).all():
            raise InputError(f'mean must be finite, not {self.mean}')
        if std.shape != (self.channels,) or not ((std > 0) & np.isfinite(std)).all():
            raise InputError(f'std must be {self.channels} positive numbers, not {self.std}')
        object.__setattr__(self, 'mean', _tuples(mean.tolist()))
        object.__setattr__(self, 'std', _tuples(std.tolist()))
        object.__setattr__(self, 'class_names', tuple(self.class_names))

    @property
    def shape(self) -> tuple[int, ...]:
        """[H, W, C] of the input, or [T, H, W, C]."""
        frames = (self.frames,) if self.frames else ()
        return (*frames, self.image_size, self.image_size, self.channels)

    def prepare(
        self, image: UInt8[np.ndarray, '*space c']
    ) -> UInt8[np.ndarray, '*frames size size channels']:
        """Converts channels, resizes and crops an image, on the host.

        Of a video, each of its frames; where it has another number of them than `frames`, as many,
        at even distances.

        Raises:
          InputError: for an image in place of a video, or the other way round.
        """
        if image.ndim != len(self.shape):
            raise InputError(
                f'a video or volume of shape {list(image.shape)} where images are wanted: set '
                f'data.frames={image.shape[0]}'
                if image.ndim > 3
                else f'an image of shape {list(image.shape)} where videos or volumes are wanted: '
                'leave data.frames out'
            )
        if self.frames:
            places = (np.arange(self.frames) + 0.5) * len(image) / self.frames
            return np.stack([self._prepare(image[int(place)]) for place in places])
        return self._prepare(image)

    def _prepare(self, image: UInt8[np.ndarray, 'h w c']) -> UInt8[np.ndarray, 's s channels']:
        image = convert_channels(image, self.channels)
        return resize_and_crop(image, self.image_size, self.resize, self.interpolation)

    def normalize(self, images: UInt8[Array, 'n *space c']) -> Float32[Array, 'n *space c']:
        """Computes (pixels / 255 - mean) / std, on the device. To be called inside `jax.jit`."""
        mean = np.asarray(self.mean, np.float32)
        ones = (1,) * (images.ndim - 1)
        mean = mean[None] if mean.ndim == 3 else mean.reshape(*ones, -1)
        scale = 1 / np.asarray(self.std, np.float32).reshape(*ones, -1)
        return (images.astype(jnp.float32) / 255 - mean) * scale

    def to_json(self) -> str:
        """Writes one JSON object, which `from_json` reads back exactly."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> 'Preprocessing':
        """Reads the output of `to_json`.

        Raises:
          InputError: if it is not JSON or has other fields; `interpolation` may be absent.
        """
        try:
            fields = parse_json(text)
            names = fields.get('class_names')
            if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
                raise ValueError('class_names is no list of texts')
            if type(fields.get('channels')) is not int:
                raise ValueError('channels is no whole number')
            return cls(**fields)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f'cannot read the stored preprocessing: {error}') from None


def _tuples(value: float | list[Any]) -> float | tuple[Any, ...]:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def fit_mean(
    images: UInt8[np.ndarray, 'n *space c'], per_pixel: bool = False
) -> Float32[np.ndarray, '*shape']:
    """Measures the mean of a training set, for `Preprocessing.mean`.

    Args:
      images: the training set.
      per_pixel: a mean per pixel and channel, not only per channel.

    Returns:
      [H, W, C] or [C], in units of pixels scaled to [0, 1].
    """
    total = sum(
        images[i : i + CHUNK].sum(axis=0, dtype=np.int64) for i in range(0, len(images), CHUNK)
    )
    mean = np.asarray(total) / (len(images) * 255)
    space = tuple(range(mean.ndim - 1))
    return (mean if per_pixel else mean.mean(axis=space)).astype(np.float32)


def fit_std(images: UInt8[np.ndarray, 'n *space c']) -> Float32[np.ndarray, ' c']:
    """Measures the standard deviation of a training set over all pixels, for `Preprocessing.std`.

    Returns:
      A number per channel, in units of pixels scaled to [0, 1].

    Raises:
      InputError: if a channel is constant.
    """
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for i in range(0, len(images), CHUNK):
        for c in range(channels):
            counts[c] += np.bincount(images[i : i + CHUNK, ..., c].ravel(), minlength=256)
    values = np.arange(256) / 255
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    std = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))
    if not (std > 0).all():
        raise InputError('the training images have a constant channel; no std can be fitted')
    return std.astype(np.float32)
