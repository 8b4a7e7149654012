"""Bring images to the size and channels of a model, on the host.

Arrays are uint8 [height, width, channels]: 1 channel is grey, 3 are RGB, and other numbers are the
bands of an image, which nothing converts.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from resnet_jax.data.targets import fitted_size
from resnet_jax.errors import InputError, check_choice

try:  # has no wheels for some machines; see `resize_box`
    import cykooz_resizer as fast
except ImportError:
    fast = None

# How images are resampled. Pillow antialiases with both when it shrinks.
INTERPOLATIONS = {'bilinear': Image.Resampling.BILINEAR, 'bicubic': Image.Resampling.BICUBIC}
SUPPORTS = {'bilinear': 1, 'bicubic': 2}  # pixels on each side that a result depends on, enlarging
GREY = 128  # what fills the rest of a square
LARGEST_SIDE = 4096  # pixels, of a model's input and of the resize before it
# Largest aspect ratio that is resized whole; a longer image is cut first, to bound the cost.
LONGEST_ASPECT = 8
_FAST_FILTERS = {'bilinear': 'bilinear', 'bicubic': 'catmull_rom'}  # Pillow's bicubic is that one

Box = tuple[float, float, float, float]  # left, top, right, bottom, pixels


def to_array(image: Image.Image, channels: int) -> UInt8[np.ndarray, 'h w channels']:
    """A Pillow image of any 8-bit mode as grey (`channels` 1) or RGB (3)."""
    if image.mode == 'P':
        image = image.convert('RGBA')  # palette entries may carry transparency
    if image.mode == 'LAB':
        image = image.convert('RGB')  # Pillow has no direct way to grey
    image = image.convert('L' if channels == 1 else 'RGB')
    return np.asarray(image).reshape(image.height, image.width, channels)


def _to_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image[:, :, 0] if image.shape[2] == 1 else image))


def _by_band(
    image: np.ndarray, change: Callable[[np.ndarray], np.ndarray]
) -> UInt8[np.ndarray, 'h w c']:
    """An image after a change of grey and RGB images; of other channels, of each by itself."""
    if image.shape[2] in (1, 3):
        return change(image)
    return np.concatenate([change(image[:, :, i, None]) for i in range(image.shape[2])], axis=2)


def _pillow_resize(
    image: np.ndarray, shape: tuple[int, int], box: Box, interpolation: str
) -> UInt8[np.ndarray, 'h w c']:
    """Resizes a box of a grey or RGB image to `shape`, (width, height), by Pillow."""
    resized = _to_pillow(image).resize(shape, INTERPOLATIONS[interpolation], box)
    return np.asarray(resized).reshape(shape[1], shape[0], image.shape[2])


def convert_channels(
    image: UInt8[np.ndarray, 'h w c'], channels: int
) -> UInt8[np.ndarray, 'h w channels']:
    """Converts an image to grey or RGB.

    Args:
      image: the image.
      channels: 1 (luma of ITU-R BT.601) or 3 (a grey is repeated); another number must be the
        image's own.

    Returns:
      The converted image; the same array if it has these channels already.

    Raises:
      InputError: if it has others and is not grey or RGB, or is not to be.
    """
    if image.shape[2] == channels:
        return image
    if not {image.shape[2], channels} <= {1, 3}:
        raise InputError(
            f'an image of {image.shape[2]} channels where {channels} are wanted: only grey and RGB '
            f'are converted; set data.channels={image.shape[2]}'
        )
    return to_array(_to_pillow(image), channels)


def resize_and_crop(
    image: UInt8[np.ndarray, 'h w c'],
    image_size: int,
    resize: int | None = None,
    interpolation: str = 'bilinear',
    start_of: Callable[[int], int] = lambda room: round(room / 2),
) -> UInt8[np.ndarray, 'image_size image_size c']:
    """Scales the shorter side to `resize` and cuts out the centre square, as for evaluation.

    With antialiasing. An image that has the right size already is returned unchanged.

    Args:
      image: the image.
      image_size: side of the result, pixels.
      resize: the shorter side before the crop, pixels; None means `image_size`.
      interpolation: 'bilinear' or 'bicubic'.
      start_of: where the square begins, from 0 to the number of pixels that are left over; called
        for the height, then for the width.

    Raises:
      InputError: on sizes that `check_sizes` refuses, or an unknown interpolation.
    """
    check_choice('interpolation', interpolation, INTERPOLATIONS)
    check_sizes(image_size, resize)
    resize = image_size if resize is None else resize
    shorter = min(image.shape[:2])
    # The longer side is rounded down, as in torchvision.
    size = [side * resize // shorter for side in image.shape[:2]]
    start = [start_of(side - image_size) for side in size]
    if shorter != resize:
        sides = [(0.0, float(side)) for side in image.shape[:2]]
        if max(size) > LONGEST_ASPECT * resize:
            axis = int(size[1] > size[0])
            scale = image.shape[axis] / size[axis]
            first, last = start[axis] * scale, (start[axis] + image_size) * scale
            margin = SUPPORTS[interpolation] * max(scale, 1) + 1
            kept = slice(max(math.floor(first - margin), 0), math.ceil(last + margin))
            image = image[kept] if axis == 0 else image[:, kept]
            sides[axis] = first - kept.start, last - kept.start
            size[axis], start[axis] = image_size, 0
        (top, bottom), (left, right) = sides
        shape, box = (size[1], size[0]), (left, top, right, bottom)
        image = _by_band(image, lambda band: _pillow_resize(band, shape, box, interpolation))
    top, left = start
    return image[top : top + image_size, left : left + image_size]


def resize_and_pad(
    image: UInt8[np.ndarray, 'h w c'], side: int, interpolation: str = 'bilinear'
) -> UInt8[np.ndarray, 'side side c']:
    """Scales the longer side to `side`, the shape kept; grey fills the right or the bottom.

    With antialiasing. An image that has the right size already is returned unchanged.

    Raises:
      InputError: on a side that `check_sizes` refuses, or an unknown interpolation.
    """
    check_choice('interpolation', interpolation, INTERPOLATIONS)
    check_sizes(side, None)
    size = (image.shape[0], image.shape[1])
    height, width = fitted_size(size, side)
    if (height, width) != size:
        box = (0.0, 0.0, float(size[1]), float(size[0]))
        shape = (width, height)
        image = _by_band(image, lambda band: _pillow_resize(band, shape, box, interpolation))
    if height == width:
        return image
    found = np.full((side, side, image.shape[2]), GREY, np.uint8)
    found[:height, :width] = image
    return found


def check_sizes(image_size: int, resize: int | None) -> None:
    """Refuses a side of a model's input, or of the resize before its crop, that cannot be meant.

    Raises:
      InputError: unless they are whole numbers, 1 <= image_size <= resize <= `LARGEST_SIDE`.
    """
    for name, side in (('image_size', image_size), ('resize', resize)):
        if side is None and name == 'resize':
            continue
        if isinstance(side, bool) or not isinstance(side, int | np.integer):
            raise InputError(f'{name} must be a whole number of pixels, not {side!r}')
        if side < 1:
            raise InputError(f'{name} must be positive, not {side}')
        if side > LARGEST_SIDE:
            raise InputError(f'{name} must be at most {LARGEST_SIDE} pixels, not {side}')
    if resize is not None and resize < image_size:
        raise InputError(f'resize {resize} is smaller than image_size {image_size}')


def resize_box(
    image: UInt8[np.ndarray, 'h w c'],
    box: Box,
    size: int,
    interpolation: str = 'bilinear',
    antialias: bool = True,
) -> UInt8[np.ndarray, 'size size c']:
    """Resizes a box of an image to a square, for training.

    The pixels are those of Pillow, up to rounding: where `cykooz_resizer` is installed, it computes
    the same sums three times as fast, and a fifth of the values differs by 1 step of 0 to 255.

    Args:
      image: the image.
      box: inside of the image. What lies within the reach of the filter around it counts too.
      size: side of the result, pixels.
      interpolation: 'bilinear' or 'bicubic'.
      antialias: whether each result is a mean over all pixels that it stands for; if not, over the
        nearest ones alone, as `tf.image.resize` does. Pillow computes that, and takes longer.
    """
    if not antialias:
        return _by_band(image, lambda band: _pillow_sample(band, box, size, interpolation))
    if fast is None:
        return _by_band(image, lambda band: _pillow_resize(band, (size, size), box, interpolation))
    return _by_band(image, lambda band: _fast_resize(band, box, size, interpolation))


def _pillow_sample(image: np.ndarray, box: Box, size: int, interpolation: str) -> np.ndarray:
    method = INTERPOLATIONS[interpolation]
    found = _to_pillow(image).transform((size, size), Image.Transform.EXTENT, box, method)
    return np.asarray(found).reshape(size, size, image.shape[2])


def _fast_resize(image: np.ndarray, box: Box, size: int, interpolation: str) -> np.ndarray:
    height, width, channels = image.shape
    kind = fast.PixelType.U8 if channels == 1 else fast.PixelType.U8x3
    left, top, right, bottom = box
    options = fast.ResizeOptions(
        resize_alg=fast.ResizeAlg.convolution(fast.FilterType[_FAST_FILTERS[interpolation]]),
        crop_box=fast.CropBox(left, top, right - left, bottom - top),
        use_alpha=False,
    )
    result = fast.ImageData(size, size, kind)
    # Of a part of an image, NumPy copies the bytes one by one, which takes longer than decoding it.
    source = fast.ImageData(width, height, kind, np.ascontiguousarray(image).tobytes())
    fast.Resizer().resize(source, result, options)
    return np.frombuffer(result.get_buffer(), np.uint8).reshape(size, size, channels)
