"""Weather: snow, frost on the lens, fog."""

import functools
import importlib.util
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from resnet_jax.analysis.corruptions.pixels import (
    Bytes,
    as_bytes,
    clouds,
    enlarged,
    grey,
    moved_average,
    unit,
)
from resnet_jax.errors import InputError

PHOTOGRAPHS = ('frost1.png', 'frost2.png', 'frost3.png', 'frost4.jpg', 'frost5.jpg')
_SMALL = 5  # the photographs are reduced by this factor for small images
# Of the procedural frost, close to those of the photographs: mean of each channel, deviation.
_FROST_MEAN = np.array([146.0, 167.0, 179.0])
_FROST_DEVIATION = 32.0


def snow(image: Bytes, parameters: tuple[float, ...], rng: np.random.Generator) -> Bytes:
    """Adds two layers of moving flakes, one turned by 180 degrees, and whitens the image."""
    mean, deviation, size, threshold, radius, sigma, kept = parameters
    x = unit(image)
    flakes = enlarged(rng.normal(mean, deviation, (*x.shape[:2], 1)), size)
    flakes[flakes < threshold] = 0
    flakes = unit(as_bytes(flakes))
    flakes = moved_average(flakes, int(radius), sigma, angle=rng.uniform(-135, -45))
    flakes = np.rint(255 * flakes) / 255
    pale = kept * x + (1 - kept) * np.maximum(x, 1.5 * grey(x) + 0.5)
    return as_bytes(pale + flakes + np.rot90(flakes, 2))


def fog(image: Bytes, parameters: tuple[float, float], rng: np.random.Generator) -> Bytes:
    """Adds a bright cloudy pattern, and scales so that the brightest value stays."""
    thickness, decay = parameters
    x = unit(image)
    brightest = x.max()
    x = x + thickness * clouds(len(x), decay, rng)[:, :, None]
    return as_bytes(x * brightest / (brightest + thickness))


def frost(image: Bytes, parameters: tuple[float, float], rng: np.random.Generator) -> Bytes:
    """Adds a texture of frost, which is not one of the authors' photographs."""
    return _covered(image, procedural_frost(len(image), rng), parameters)


def frost_of_photographs(
    image: Bytes, parameters: tuple[float, float], rng: np.random.Generator
) -> Bytes:
    """Adds a random part of one of the authors' photographs of frost, as the published sets do.

    Raises:
      InputError: if the package that has the photographs is not installed.
    """
    side = len(image)
    photograph = _photographs(side <= _SMALL * 13)[rng.integers(len(PHOTOGRAPHS))]
    repeats = [-(-(side + 1) // size) for size in photograph.shape[:2]]
    if max(repeats) > 1:  # of a model whose input is larger than the photographs
        photograph = np.tile(photograph, (*repeats, 1))
    top, left = (rng.integers(size - side) for size in photograph.shape[:2])
    return _covered(image, photograph[top : top + side, left : left + side], parameters)


def _covered(image: Bytes, cover: np.ndarray, parameters: tuple[float, float]) -> Bytes:
    mine, its = parameters
    cover = cover if image.shape[2] == 3 else 255 * grey(cover / 255)
    return np.clip(mine * image + its * cover, 0, 255).astype(np.uint8)


def procedural_frost(side: int, rng: np.random.Generator) -> Float64[np.ndarray, 'side side 3']:
    """A texture of crystals: bright veins and needles of several sizes, of a bluish white.

    It takes the place of photographs, with about their colour and contrast. An error under it can
    be compared with others of this package only, not with those of the published sets.

    Returns:
      Values from 0 to 255.
    """
    haze = clouds(side, 1.9, rng)
    texture = 2 * haze
    for size in (side / 250, side / 90, side / 30):
        texture = texture + _veins(side, size, rng)
    needles = (rng.random((side, side, 1)) < 0.03).astype(float)
    for angle in rng.uniform(-180, 180, 2):
        # They grow where the haze is thick.
        lines = moved_average(needles, max(1, side // 14), side / 16, angle)[:, :, 0]
        texture = texture + 0.15 * haze * lines / max(lines.std(), 1e-6)
    texture = (texture - texture.mean()) / max(texture.std(), 1e-6)
    return np.clip(_FROST_MEAN + _FROST_DEVIATION * texture[:, :, None], 0, 255)


def _veins(side: int, size: float, rng: np.random.Generator) -> np.ndarray:
    """Lines, 1 where smooth noise crosses 0 and falling to 0 on either side."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.normal(size=(side, side)), size, mode='wrap')
    return np.clip(1 - np.abs(noise) / max(noise.std(), 1e-6), 0, None) ** 2


def photographs_folder() -> Path:
    """The folder with the photographs of frost.

    Raises:
      InputError: if the package that has them is not installed.
    """
    # The package itself is not imported: it takes OpenCV and Numba.
    found = importlib.util.find_spec('imagecorruptions')
    folder = Path(found.origin).parent / 'frost' if found and found.origin else None
    if folder is None or not all((folder / name).is_file() for name in PHOTOGRAPHS):
        raise InputError(
            'the photographs of frost need the extra: pip install "resnet-jax[robustness]"; or use '
            'the procedural frost'
        )
    return folder


@functools.lru_cache(maxsize=2)
def _photographs(reduced: bool) -> list[np.ndarray]:
    from PIL import Image

    folder, found = photographs_folder(), []
    for name in PHOTOGRAPHS:
        with Image.open(folder / name) as opened:
            pixels = np.asarray(opened.convert('RGB'))
        # Bilinear sampling at a fifth of the size falls on every fifth pixel exactly.
        found.append(pixels[2::_SMALL, 2::_SMALL] if reduced else pixels)
    return found
