"""Everything between an image file and what a model was trained on.

A model is of use only with the preprocessing it was trained with, so this is stored beside it.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.images import check_interpolation, convert_channels, resize_and_crop
from resnet_jax.errors import InputError

Pixels = tuple[tuple[tuple[float, ...], ...], ...]
CHUNK = 1024  # images summed at a time, to bound memory


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a model's input. Hashable, and equal when its numbers are.

    Attributes:
      image_size: side of the input, pixels.
      channels: 1 (grey) or 3 (RGB).
      resize: the shorter side before the centre crop, pixels; None means `image_size`.
      mean: what is subtracted from pixels scaled to [0, 1]: one number a channel, or one a pixel
        and channel ([H, W, C], the per-pixel mean of He et al. 2015, section 4.2). Arrays are
        taken; stored as tuples of float32 values.
      std: what the difference is divided by, one number a channel.
      class_names: the name of each label.
      interpolation: how the resize resamples, 'bilinear' or 'bicubic', both with antialiasing.
    """

    image_size: int
    channels: int
    resize: int | None
    mean: tuple[float, ...] | Pixels
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    interpolation: str = 'bilinear'  # what is stored without it was made before there was a choice

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise InputError(f'channels must be 1 or 3, not {self.channels}')
        if self.image_size < 1:
            raise InputError(f'image_size must be positive, not {self.image_size}')
        if self.resize is not None and self.resize < self.image_size:
            raise InputError(f'resize {self.resize} is smaller than image_size {self.image_size}')
        check_interpolation(self.interpolation)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        pixels = (self.image_size, self.image_size, self.channels)
        if mean.shape not in ((self.channels,), pixels):
            raise InputError(f'mean has shape {mean.shape}; give ({self.channels},) or {pixels}')
        if std.shape != (self.channels,) or not (std > 0).all():
            raise InputError(f'std must be {self.channels} positive numbers, not {self.std}')
        object.__setattr__(self, 'mean', _tuples(mean.tolist()))
        object.__setattr__(self, 'std', _tuples(std.tolist()))
        object.__setattr__(self, 'class_names', tuple(self.class_names))

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """The host's part: channels, size and centre crop.

        Args:
          image: uint8 [H, W, 1 or 3].

        Returns:
          uint8 [image_size, image_size, channels].
        """
        image = convert_channels(image, self.channels)
        return resize_and_crop(image, self.image_size, self.resize, self.interpolation)

    def normalize(self, images: jax.Array) -> jax.Array:
        """The device's part: pixels / 255, minus mean, over std. To be called inside `jax.jit`.

        Args:
          images: uint8 [N, image_size, image_size, channels].

        Returns:
          float32 of the same shape.
        """
        mean = np.asarray(self.mean, np.float32)
        mean = mean.reshape(mean.shape if mean.ndim == 3 else (1, 1, -1))[None]
        scale = 1 / np.asarray(self.std, np.float32).reshape(1, 1, 1, -1)
        return (images.astype(jnp.float32) / 255 - mean) * scale

    def to_json(self) -> str:
        """One JSON object; `from_json` gives back exactly the same."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> 'Preprocessing':
        """Reads what `to_json` wrote.

        Raises:
          InputError: if it is not JSON or its fields are not these; `interpolation` may be absent.
        """
        try:
            return cls(**json.loads(text))
        except (TypeError, json.JSONDecodeError) as error:
            raise InputError(f'cannot read the stored preprocessing: {error}') from None


def _tuples(value: float | list) -> float | tuple:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def fit_mean(images: np.ndarray, per_pixel: bool = False) -> np.ndarray:
    """The mean of a training set, for `Preprocessing.mean`.

    Args:
      images: uint8 [N, H, W, C].
      per_pixel: a mean for each pixel and channel, not only for each channel.

    Returns:
      float32 [H, W, C] or [C], in units of pixels scaled to [0, 1].
    """
    total = sum(
        images[i : i + CHUNK].sum(axis=0, dtype=np.int64) for i in range(0, len(images), CHUNK)
    )
    mean = np.asarray(total) / (len(images) * 255)
    return (mean if per_pixel else mean.mean(axis=(0, 1))).astype(np.float32)


def fit_std(images: np.ndarray) -> np.ndarray:
    """The standard deviation of a training set over all pixels, for `Preprocessing.std`.

    Args:
      images: uint8 [N, H, W, C].

    Returns:
      float32 [C], in units of pixels scaled to [0, 1].

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
