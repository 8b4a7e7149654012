"""Find and read files to predict, as the kind of data that a model takes."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from resnet_jax.data.clips import find_clips, read_clip
from resnet_jax.data.image_search import ImageFile, find_images
from resnet_jax.data.images import decode_image
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.series_sets import read_series
from resnet_jax.data.sounds import SOUNDS, read_sound
from resnet_jax.data.texts import TEXTS, read_text

SERIES_SUFFIXES = ('.npy', '.csv')


def find_examples(
    arguments: Sequence[str | os.PathLike[str]], preprocessing: Preprocessing
) -> list[ImageFile]:
    """The files that arguments name, see `find_images`; of a model of videos each is one.

    Raises:
      InputError: if a folder or pattern yields no files, or a folder cannot be read.
    """
    if preprocessing.frames:
        return find_clips(arguments)
    if preprocessing.vocabulary or preprocessing.sample_rate:
        kind = TEXTS if preprocessing.vocabulary else SOUNDS
        return find_images(arguments, kind.suffixes, kind.noun)
    if preprocessing.dimensions == 1:
        return find_images(arguments, SERIES_SUFFIXES, 'series')
    return find_images(arguments)


def read_example(path: Path, preprocessing: Preprocessing) -> Shaped[np.ndarray, '*stored']:
    """Reads an image, series, sound, text or video.

    Args:
      path: of the file, or of a video the folder of its frames.
      preprocessing: of the model.

    Raises:
      InputError: naming the path, for what cannot be read as that.
    """
    if preprocessing.vocabulary:
        return read_text(path, preprocessing.image_size)
    if preprocessing.sample_rate:
        return read_sound(path, preprocessing.image_size, preprocessing.sample_rate)
    if preprocessing.dimensions == 1:
        return read_series(path)
    read = read_clip if preprocessing.frames else decode_image
    return read(path, preprocessing.channels)
