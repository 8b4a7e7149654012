"""Sounds as waveforms: `audio:PATH`, a folder of sound files in folders of their classes."""

import math
import os
from typing import Any

import numpy as np
from jaxtyping import Float32

from resnet_jax.data.folders import FileKind
from resnet_jax.errors import InputError, first_line
from resnet_jax.text import printable

SOUNDS = FileKind('audio', 'sound', ('.wav', '.flac', '.ogg', '.mp3', '.aiff', '.au'))


def read_sound(
    path: str | os.PathLike[str], length: int, sample_rate: int
) -> Float32[np.ndarray, 'length 1']:
    """The beginning of a sound, in one channel, and silence after its end.

    Args:
      path: of the file; its channels are averaged, and another rate is converted with a polyphase
        filter (`scipy.signal.resample_poly`).
      length: samples.
      sample_rate: samples a second.

    Returns:
      The waveform, from -1 to 1.

    Raises:
      InputError: without the extra, and if the file cannot be read or holds no finite sound.
    """
    soundfile, where = _soundfile(), printable(os.fspath(path))
    if not os.path.isfile(path):
        raise InputError(f'{where}: no such file')
    try:
        with soundfile.SoundFile(os.fspath(path)) as file:
            rate = int(file.samplerate)
            # Some more than needed, so that the filter does not see an end that is not there.
            most = math.ceil(length * rate / sample_rate) + rate // 10
            samples = file.read(most, dtype='float32', always_2d=True)
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise InputError(f'{where}: not a sound that can be read ({first_line(error)})') from error
    if not len(samples) or not np.isfinite(samples).all():
        fault = 'holds numbers that are not finite' if len(samples) else 'holds no sound'
        raise InputError(f'{where}: {fault}')
    mono = samples.mean(axis=1)
    if rate != sample_rate:
        import scipy.signal

        both = math.gcd(rate, sample_rate)
        mono = scipy.signal.resample_poly(mono, sample_rate // both, rate // both)
    mono = mono[:length].astype(np.float32)
    return np.pad(mono, (0, length - len(mono)))[:, None]


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise InputError(
            "sounds are read with the package soundfile: pip install 'resnet-jax[audio]'"
        ) from error
    return soundfile
