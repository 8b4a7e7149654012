"""Spectrograms, computed on the device from waveforms: pictures of frequency against time.

A config names one as a text, `log_mel(bands=64)`, with the grammar of the transforms.
"""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from resnet_jax.data.transforms.specs import Chosen, Parameter, Transform, read_transform
from resnet_jax.errors import InputError, Range


def log_mel(
    sample_rate: int,
    waveforms: Float[Array, 'n length'],
    bands: int,
    window: float,
    hop: float,
    lowest: float,
    floor: float,
) -> Float[Array, 'n frames bands']:
    """The logarithm of the energy in bands of the mel scale, for each short window of time.

    Windows are Hann's, of the squared magnitudes of their Fourier transform; the bands are
    triangles of height 1, evenly spaced on the mel scale of O'Shaughnessy 1987, m = 2595 log10(1 +
    f / 700), up to half the sample rate.

    Args:
      sample_rate: samples a second.
      waveforms: from -1 to 1.
      bands: their number.
      window: length of a window, seconds.
      hop: from the beginning of a window to that of the next, seconds.
      lowest: frequency where the lowest band begins, hertz.
      floor: added to the energy before the logarithm.
    """
    width, step = samples_of(sample_rate, window), samples_of(sample_rate, hop)
    fft = 2 ** (width - 1).bit_length()
    frames = 1 + (waveforms.shape[1] - width) // step
    starts = step * np.arange(frames)[:, None] + np.arange(width)[None]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)
    pieces = waveforms[:, starts] * jnp.asarray(hann / hann.sum(), jnp.float32)[None, None]
    energy = jnp.square(jnp.abs(jnp.fft.rfft(pieces, fft)))
    return jnp.log(energy @ mel_bands(sample_rate, fft, bands, lowest) + floor)


def samples_of(sample_rate: int, seconds: float) -> int:
    """Samples in a time, at least one."""
    return max(1, round(sample_rate * seconds))


@functools.lru_cache(maxsize=8)
def mel_bands(
    sample_rate: int, fft: int, bands: int, lowest: float
) -> Float32[np.ndarray, 'frequencies bands']:
    """The weight of each frequency of a Fourier transform in each band.

    Args:
      sample_rate: samples a second.
      fft: length of the transform, samples.
      bands: their number.
      lowest: where the lowest begins, hertz.
    """
    low, high = (2595 * math.log10(1 + f / 700) for f in (lowest, sample_rate / 2))
    corners = 700 * (10 ** (np.linspace(low, high, bands + 2) / 2595) - 1)
    frequencies = np.arange(fft // 2 + 1)[:, None] * sample_rate / fft
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising = (frequencies - left) / (centre - left)
    falling = (right - frequencies) / (right - centre)
    return np.clip(np.minimum(rising, falling), 0, None).astype(np.float32)


SPECTROGRAMS: dict[str, Transform] = {
    'log_mel': Transform(
        *('device', 'example', 0),
        log_mel,
        {
            'bands': Parameter(64, Range(1, 1024, whole=True), 'of the mel scale'),
            'window': Parameter(0.025, Range(0, 10, open='low'), 'length of a window, seconds'),
            'hop': Parameter(0.01, Range(0, 10, open='low'), 'from window to window, seconds'),
            'lowest': Parameter(20.0, Range(0, 1e6), 'frequency, hertz'),
            'floor': Parameter(1e-8, Range(0, 1, open='low'), 'added before the logarithm'),
        },
        dimensions=(1,),
    )
}


def read_spectrogram(text: str) -> Chosen:
    """The spectrogram that a text names.

    Raises:
      InputError: as `specs.read_transform`.
    """
    return read_transform(text, SPECTROGRAMS, 'spectrogram')


def spectrogram_shape(text: str, sample_rate: int, length: int) -> tuple[int, int]:
    """Frames and bands of the spectrogram of a waveform.

    Args:
      text: that names it.
      sample_rate: samples a second.
      length: of the waveform, samples.

    Raises:
      InputError: if the waveform is shorter than a window, or has no frequency above the lowest.
    """
    settings = read_spectrogram(text).settings
    width = samples_of(sample_rate, settings['window'])
    if length < width:
        raise InputError(
            f'spectrogram {text}: a window of {width} samples is longer than the sounds of '
            f'{length}; make window shorter or data.length longer'
        )
    if settings['lowest'] >= sample_rate / 2:
        raise InputError(
            f'spectrogram {text}: lowest must be below half the sample rate {sample_rate}'
        )
    step = samples_of(sample_rate, settings['hop'])
    return 1 + (length - width) // step, settings['bands']
