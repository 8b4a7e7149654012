"""The fifteen common corruptions of images, at five severities, as rows of a table.

Source: Hendrycks and Dietterich 2019, "Benchmarking neural network robustness to common
corruptions and perturbations", arXiv 1903.12261, section 3 and appendix B. Parameters and steps are
those of the programs that made the published sets CIFAR-10-C and ImageNet-C
(github.com/hendrycks/robustness, make_cifar_c.py and make_imagenet_c.py); the code is our own, with
NumPy, SciPy and Pillow. What differs from the published sets:

- Random numbers are others, so the images are other samples of the same distributions.
- Frost adds photographs of frost that are not part of this package: by default a texture is
  computed instead, see `weather.procedural_frost`. Its error is not that of the published frost.
- ImageNet-C was stored as JPEG files of quality 85 after its corruption; here nothing is stored.

As in the published sets, images are corrupted after resize and crop, as uint8 at the size of the
model's input; values in between are cut off, not rounded.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8

from resnet_jax.analysis.corruptions import blur, digital, noise, weather
from resnet_jax.errors import InputError, choose

SEVERITIES = (1, 2, 3, 4, 5)
LARGEST_CIFAR = 64  # pixels: larger images are corrupted as those of ImageNet
FROSTS = ('procedural', 'photographs')

# The fractions of the side in the elastic transform of ImageNet-C, whose authors took 244 for 224.
_SIDE = 244 / 224


@dataclasses.dataclass(frozen=True)
class Corruption:
    """A kind of corruption.

    Attributes:
      apply: (image uint8 [side, side, 1 or 3], parameters, rng) -> corrupted image, uint8.
      cifar: its parameters for images of 32 pixels, by severity from 1 to 5.
      imagenet: those for images of 224 pixels.
      stream: number of its random numbers, different in each row and never changed.
    """

    apply: Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]
    cifar: tuple[Any, ...]
    imagenet: tuple[Any, ...]
    stream: int


CORRUPTIONS: dict[str, Corruption] = {
    # Standard deviation, of pixels in [0, 1].
    'gaussian_noise': Corruption(
        noise.gaussian, (0.04, 0.06, 0.08, 0.09, 0.1), (0.08, 0.12, 0.18, 0.26, 0.38), 1
    ),
    # Photons at a pixel of value 1.
    'shot_noise': Corruption(noise.shot, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3), 2),
    # Share of values that become 0 or 1.
    'impulse_noise': Corruption(
        noise.impulse, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27), 3
    ),
    # Radius of a disk, and standard deviation of the smoothing of its edge, pixels.
    'defocus_blur': Corruption(
        blur.defocus,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        4,
    ),
    # Standard deviation of the blur, largest displacement (both pixels), number of rounds.
    'glass_blur': Corruption(
        blur.glass,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        5,
    ),
    # Half the length of the path, and standard deviation along it, pixels.
    'motion_blur': Corruption(
        blur.motion,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        6,
    ),
    # The zooms that are averaged: from 1 to below this, in steps.
    'zoom_blur': Corruption(
        blur.zoom,
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        7,
    ),
    # Mean and deviation of the flakes' noise, its zoom, its threshold; half the length and the
    # deviation of their motion; what is kept of the image's own colours.
    'snow': Corruption(
        weather.snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        8,
    ),
    # Shares of the image and of the frost.
    'frost': Corruption(
        weather.frost,
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        9,
    ),
    # Thickness, and decay of the fog's roughness from one scale to the next.
    'fog': Corruption(
        weather.fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        10,
    ),
    # Added to the largest channel (the V of HSV), of pixels in [0, 1].
    'brightness': Corruption(
        digital.brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5), 11
    ),
    # Factor of the difference from each channel's mean.
    'contrast': Corruption(
        digital.contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05), 12
    ),
    # Amplitude and smoothness of the displacements, and shift of the corners, in sides.
    'elastic_transform': Corruption(
        digital.elastic,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        (
            (2 * _SIDE, 0.7 * _SIDE, 0.1 * _SIDE),
            (2 * _SIDE, 0.08 * _SIDE, 0.2 * _SIDE),
            (0.05 * _SIDE, 0.01 * _SIDE, 0.02 * _SIDE),
            (0.07 * _SIDE, 0.01 * _SIDE, 0.02 * _SIDE),
            (0.12 * _SIDE, 0.01 * _SIDE, 0.02 * _SIDE),
        ),
        13,
    ),
    # Factor of the side.
    'pixelate': Corruption(
        digital.pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25), 14
    ),
    # Quality.
    'jpeg_compression': Corruption(digital.jpeg, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7), 15),
}


def table_of(side: int) -> str:
    """Whose parameters images of this side get: 'cifar' up to `LARGEST_CIFAR`, or 'imagenet'."""
    return 'cifar' if side <= LARGEST_CIFAR else 'imagenet'


def corrupt(
    image: UInt8[np.ndarray, 'side side c'],
    name: str,
    severity: int,
    seed: int = 0,
    index: int = 0,
    frost: str = 'procedural',
) -> UInt8[np.ndarray, 'side side c']:
    """A corrupted image: a function of the arguments alone.

    Args:
      image: square, grey or RGB, after resize and crop.
      name: a key of `CORRUPTIONS`.
      severity: from 1 to 5; 0 returns the image.
      seed: of the random numbers, not negative.
      index: of the example, whose random numbers are its own.
      frost: 'procedural', or 'photographs' of the package imagecorruptions-imaug.

    Raises:
      InputError: for an unknown name, another severity, images of other channels, and photographs
        that are not installed.
    """
    row = choose('corruption', name, CORRUPTIONS)
    if severity == 0:
        return image
    if severity not in SEVERITIES:
        raise InputError(f'severity must be from 1 to 5, got {severity}')
    check_channels(image.shape[2])
    parameters = getattr(row, table_of(image.shape[0]))[severity - 1]
    rng = np.random.default_rng([seed, row.stream, severity, index])
    apply = row.apply
    if name == 'frost' and frost == 'photographs':
        apply = weather.frost_of_photographs
    return apply(image, parameters, rng)


def check_channels(channels: int) -> None:
    """Refuses images that are neither grey nor RGB, for which corruptions are not defined."""
    if channels not in (1, 3):
        raise InputError(
            f'the corruptions are defined for grey and RGB images; these have {channels} channels'
        )
