"""Noise of a camera: in poor light, of the light itself, of broken bits."""

import numpy as np

from resnet_jax.analysis.corruptions.pixels import Bytes, as_bytes, unit


def gaussian(image: Bytes, deviation: float, rng: np.random.Generator) -> Bytes:
    """Adds normal noise to every value."""
    return as_bytes(unit(image) + rng.normal(scale=deviation, size=image.shape))


def shot(image: Bytes, photons: float, rng: np.random.Generator) -> Bytes:
    """Draws every value from a Poisson distribution, with this mean at the value 1."""
    return as_bytes(rng.poisson(unit(image) * photons) / photons)


def impulse(image: Bytes, share: float, rng: np.random.Generator) -> Bytes:
    """Sets a share of the values to 0 or 1, equally often (salt and pepper)."""
    hit = rng.random(image.shape) <= share
    white = rng.random(image.shape) <= 0.5
    return np.where(hit, np.where(white, 255, 0), image).astype(np.uint8)
