"""Videos and volumes to predict: an .npy file, or a folder with a frame in each of its files."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from resnet_jax.data.image_search import ImageFile, find_images
from resnet_jax.data.images import decode_image
from resnet_jax.errors import InputError, first_line


def find_clips(arguments: Sequence[str | os.PathLike[str]]) -> list[ImageFile]:
    """Each argument as one video: the path of an .npy file, or of a folder of frames."""
    return [ImageFile(Path(argument), named=True) for argument in arguments]


def read_clip(path: Path, channels: int) -> UInt8[np.ndarray, 't h w channels']:
    """Reads a video or volume.

    Args:
      path: of an .npy file, uint8 [T, H, W, C], or [T, H, W] of one channel; or of a folder of
        images of one size, one for each frame, in the order of their names.
      channels: what the images of a folder are decoded to.

    Raises:
      InputError: for a file or folder that holds none.
    """
    # os.path says no of a name that no file can have, where a path raises an error.
    if os.path.isdir(path):
        frames = [decode_image(file.path, channels) for file in find_images([path])]
        sizes = {frame.shape for frame in frames}
        if len(sizes) > 1:
            raise InputError(f'{path}: the frames of a video have one size, here {sorted(sizes)}')
        return np.stack(frames)
    if not os.path.exists(path):
        raise InputError(f'{path}: no such file or folder of frames')
    if path.suffix.lower() != '.npy':
        raise InputError(f'{path}: a video is an .npy file or a folder of frames')
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f'{path}: cannot be read as .npy: {first_line(error)}') from None
    if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or found.ndim not in (3, 4):
        what = f'{found.dtype}{list(found.shape)}' if isinstance(found, np.ndarray) else 'archive'
        raise InputError(f'{path}: a video is uint8 [T, H, W, C] or [T, H, W], not {what}')
    if 0 in found.shape:
        raise InputError(f'{path}: there are no frames in an array of shape {list(found.shape)}')
    return found if found.ndim == 4 else found[..., None]
