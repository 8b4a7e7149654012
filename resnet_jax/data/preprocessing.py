"""Preprocessing: everything between a decoded image and a model's input.

A model is useful only with the preprocessing it was trained with, so it is stored with the model.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Shaped, UInt8

from resnet_jax.data.resizing import (
    INTERPOLATIONS,
    check_sizes,
    convert_channels,
    resize_and_crop,
    resize_and_pad,
)
from resnet_jax.data.spectrograms import read_spectrogram, spectrogram_shape
from resnet_jax.data.targets import fit_targets, is_dense
from resnet_jax.errors import InputError, Range, check_choice, check_number
from resnet_jax.json_files import parse_json

Pixels = tuple[tuple[tuple[float, ...], ...], ...]  # [H, W, C]
MOST_CHANNELS = 1024  # of an image: sensors of several hundred bands are in use
LENGTH = Range(1, 2**28, whole=True)  # of a series, steps; of a text, bytes
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
      dimensions: 2; 3 of videos and volumes; or 1 of series of numbers, [L, C], which are neither
        resized nor scaled to [0, 1], and of texts. `image_size` is then their length.
      standardize: whether each channel of each series first gets mean 0 and deviation 1.
      frames: of a video, or slices of a volume, that the model takes; 0: it takes neither.
      vocabulary: of texts [L]: how many whole numbers there are, 256 of bytes; 0: it takes none.
      sample_rate: of sounds, samples a second; 0: it takes none.
      spectrogram: what the model sees of a sound, such as 'log_mel(bands=64)': a picture [frames,
        bands, 1], which mean, std and `standardize` are of; '': the waveform.
      fit: how an image becomes a square: 'crop', its centre; or 'pad', the whole image, scaled to
        the top left and grey to its right or below, as dense tasks want it.
    """

    image_size: int
    channels: int
    resize: int | None
    mean: tuple[float, ...] | Pixels
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    # Also of files from before these fields existed.
    interpolation: str = 'bilinear'
    dimensions: int = 2
    standardize: bool = False
    frames: int = 0
    vocabulary: int = 0
    sample_rate: int = 0
    spectrogram: str = ''
    fit: str = 'crop'

    def __post_init__(self) -> None:
        if not 1 <= self.channels <= MOST_CHANNELS:
            raise InputError(f'channels must be from 1 to {MOST_CHANNELS}, not {self.channels}')
        if self.dimensions == 1:
            check_number('the length of series', self.image_size, LENGTH)
        else:
            check_sizes(self.image_size, self.resize)
        check_choice('interpolation', self.interpolation, INTERPOLATIONS)
        check_choice('fit', self.fit, ('crop', 'pad'))
        if self.fit == 'pad' and (self.dimensions != 2 or self.resize is not None):
            raise InputError("fit='pad' goes with images only, and without resize")
        with np.errstate(over='ignore'):  # to infinity, which is refused
            mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        if self.frames < 0:
            raise InputError(f'frames must be at least 0, not {self.frames}')
        if self.frames:
            object.__setattr__(self, 'dimensions', 3)
        if self.dimensions not in (1, 2, 3) or (self.dimensions == 3) != bool(self.frames):
            raise InputError('dimensions must be 2, or 1 for series, or 3 with frames')
        if self.standardize and self.dimensions != 1:
            raise InputError('standardize goes with dimensions=1 only')
        self._check_texts_and_sounds()
        if mean.shape not in ((self.channels,), self.input_shape) or (
            mean.ndim > 1 and self.dimensions != 2
        ):
            wanted = f' or {self.input_shape}' if self.dimensions == 2 else ''
            raise InputError(f'mean has shape {mean.shape}; give ({self.channels},){wanted}')
        if not np.isfinite(mean).all():
            raise InputError(f'mean must be finite, not {self.mean}')
        if std.shape != (self.channels,) or not ((std > 0) & np.isfinite(std)).all():
            raise InputError(f'std must be {self.channels} positive numbers, not {self.std}')
        object.__setattr__(self, 'mean', _tuples(mean.tolist()))
        object.__setattr__(self, 'std', _tuples(std.tolist()))
        object.__setattr__(self, 'class_names', tuple(self.class_names))

    def _check_texts_and_sounds(self) -> None:
        for field in ('vocabulary', 'sample_rate'):
            check_number(field, getattr(self, field), Range(0, 2**31 - 1, whole=True))
        if not isinstance(self.spectrogram, str):
            raise InputError(f'spectrogram must be a text, not {self.spectrogram!r}')
        if (self.vocabulary or self.sample_rate) and (self.dimensions, self.channels) != (1, 1):
            raise InputError('texts and sounds have dimensions=1 and channels=1')
        if self.spectrogram and not self.sample_rate:
            raise InputError('spectrogram needs the sample_rate of the sounds')
        assert self.model_shape  # which reads the spectrogram

    @property
    def model_shape(self) -> tuple[int, ...]:
        """Of what `normalize` makes of a prepared example: of the model's input."""
        if not self.spectrogram:
            return self.input_shape
        return *spectrogram_shape(self.spectrogram, self.sample_rate, self.image_size), 1

    @property
    def noun(self) -> str:
        """What it prepares, in words."""
        if self.dimensions > 1:
            return 'videos or volumes' if self.frames else 'images'
        return 'texts' if self.vocabulary else 'sounds' if self.sample_rate else 'series'

    @property
    def model_space(self) -> tuple[int, ...]:
        """The spatial sizes of `model_shape`."""
        return self.model_shape if self.vocabulary else self.model_shape[:-1]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of a prepared image, [H, W, C], video, [T, H, W, C], series, [L, C], or text, [L]."""
        if self.vocabulary:
            return (self.image_size,)
        if self.dimensions == 1:
            return (self.image_size, self.channels)
        frames = (self.frames,) if self.frames else ()
        return (*frames, self.image_size, self.image_size, self.channels)

    @property
    def dtype(self) -> Any:
        """Of what is prepared."""
        if self.vocabulary:
            return np.uint8 if self.vocabulary <= 256 else np.int32
        return np.float32 if self.dimensions == 1 else np.uint8

    def prepare(
        self, image: Shaped[np.ndarray, '*stored c']
    ) -> Shaped[np.ndarray, '*size channels']:
        """Converts channels, resizes and crops an image, on the host; a series stays as it is.

        Of a video, each of its frames; where it has another number of them than `frames`, as many,
        at even distances.

        Raises:
          InputError: for a series of another length or number of channels, or not of finite
            numbers; and for one kind of data in place of another.
        """
        if image.ndim != len(self.input_shape):
            raise InputError(self._misfit(image))
        if self.dimensions == 1:
            return self._checked(image)
        if self.frames:
            places = (np.arange(self.frames) + 0.5) * len(image) / self.frames
            return np.stack([self._prepare(image[int(place)]) for place in places])
        return self._prepare(image)

    def prepare_example(self, image: np.ndarray, label: Any) -> dict[str, Any]:
        """What a batch holds of an example: the prepared image, and its label or targets.

        Raises:
          InputError: as `prepare`, and for targets that do not fit the image.
        """
        prepared = self.prepare(image)
        if not is_dense(label):
            return {'image': prepared, 'label': label}
        size = (image.shape[0], image.shape[1])
        return {'image': prepared, **fit_targets(label, size, self.image_size)}

    def _misfit(self, image: np.ndarray) -> str:
        """Why data of another number of axes are refused."""
        kinds = {
            1: 'texts [L]',
            2: 'series [L, C]',
            3: 'images [H, W, C]',
            4: 'videos or volumes [T, H, W, C]',
        }
        found = kinds.get(image.ndim, f'{image.ndim} axes')
        text = f'the data hold {found}, and the model takes {kinds[len(self.input_shape)]}'
        if image.ndim == 4:
            return f'{text}: set data.frames={image.shape[0]}'
        return f'{text}: leave data.frames out' if self.frames else text

    def _prepare(self, image: UInt8[np.ndarray, 'h w c']) -> UInt8[np.ndarray, 's s channels']:
        image = convert_channels(image, self.channels)
        if self.fit == 'pad':
            return resize_and_pad(image, self.image_size, self.interpolation)
        return resize_and_crop(image, self.image_size, self.resize, self.interpolation)

    def _checked(self, series: np.ndarray) -> Shaped[np.ndarray, 'length *rest c']:
        if series.shape != self.input_shape:
            channels = f' and {series.shape[1]} channels' if series.ndim > 1 else ''
            raise InputError(
                f'a series of {series.shape[0]} steps{channels}, where the model takes '
                f'{self.image_size} and {self.channels}'
            )
        if not np.isfinite(series).all():
            raise InputError('a series holds values that are missing or not finite; fill them in')
        found: np.ndarray = series.astype(self.dtype)
        return found

    def normalize(self, images: Shaped[Array, 'n *size c']) -> Shaped[Array, 'n *seen c']:
        """Computes (pixels / 255 - mean) / std, on the device. To be called inside `jax.jit`.

        Of series, which are not divided by 255, and where `standardize` is set each channel of each
        has mean 0 and deviation 1 before; a constant one becomes zeros. Of texts, it gives the
        whole numbers as they are, int32.
        """
        if self.vocabulary:
            return images.astype(jnp.int32)
        if self.dimensions == 1:
            return self._normalized_series(images.astype(jnp.float32))
        mean = np.asarray(self.mean, np.float32)
        ones = (1,) * (images.ndim - 1)
        mean = mean[None] if mean.ndim == 3 else mean.reshape(*ones, -1)
        scale = 1 / np.asarray(self.std, np.float32).reshape(*ones, -1)
        return (images.astype(jnp.float32) / 255 - mean) * scale

    def _normalized_series(self, series: Array) -> Array:
        if self.spectrogram:
            chosen = read_spectrogram(self.spectrogram)
            series = chosen.apply(self.sample_rate, series[..., 0])[..., None]
        if self.standardize:
            space = tuple(range(1, series.ndim - 1))
            series = series - jnp.mean(series, axis=space, keepdims=True)
            std = jnp.std(series, axis=space, keepdims=True)
            series = series / jnp.where(std == 0, 1, std)
        ones = (1,) * (series.ndim - 1)
        mean = np.asarray(self.mean, np.float32).reshape(*ones, -1)
        scale = 1 / np.asarray(self.std, np.float32).reshape(*ones, -1)
        return (series - mean) * scale

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


def fit_series(
    series: Float32[np.ndarray, 'n length c'],
    seen: Callable[[Array], Array] | None = None,
) -> tuple[Float32[np.ndarray, ' c'], Float32[np.ndarray, ' c']]:
    """Measures mean and standard deviation of a training set of series, for each channel.

    Args:
      series: the training set.
      seen: what a model sees of them, whose figures are wanted: spectrograms; None: themselves.

    Raises:
      InputError: if a channel is constant.
    """
    if seen is not None:
        compute = jax.jit(seen)
        parts = [np.asarray(compute(series[i : i + CHUNK])) for i in range(0, len(series), CHUNK)]
        series = np.concatenate(parts)
    space = tuple(range(series.ndim - 1))
    mean, std = (each(series.astype(np.float64), space) for each in (np.mean, np.std))
    if not (std > 0).all():
        raise InputError('the training series have a constant channel; no std can be fitted')
    return mean.astype(np.float32), std.astype(np.float32)
