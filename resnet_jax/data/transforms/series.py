"""Transforms of time series, [L, C], after their normalisation.

Names and definitions as Iwana and Uchida 2021, arXiv 2007.15951, section III, have them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Series = Float[Array, 'length channels']


def jitter(key: Key[Array, ''], series: Series, std: float) -> Series:
    """Adds independent normal noise to every value."""
    return series + std * jax.random.normal(key, series.shape, series.dtype)


def scaling(key: Key[Array, ''], series: Series, std: float) -> Series:
    """Multiplies each channel by a random number, normal around 1."""
    factors = 1 + std * jax.random.normal(key, series.shape[1:], series.dtype)
    return series * factors[None]


def window_slice(key: Key[Array, ''], series: Series, share: float) -> Series:
    """Cuts out a window at a random place and stretches it to the whole length.

    Source: Le Guennec et al. 2016, "window slicing".

    Args:
      key: of this example.
      series: the series.
      share: length of the window, from its first to its last step, over that of the series.
    """
    last = series.shape[0] - 1
    start = jax.random.uniform(key) * (1 - share) * last
    steps = jnp.arange(series.shape[0], dtype=jnp.float32)
    return at_times(series, start + share * steps)


def window_warp(
    key: Key[Array, ''], series: Series, share: float, factors: tuple[float, float]
) -> Series:
    """Makes a window at a random place longer or shorter, and the whole as long as it was.

    Source: Le Guennec et al. 2016, "window warping".

    Args:
      key: of this example.
      series: the series.
      share: length of the window over that of the series.
      factors: of the window's length, the one or the other.
    """
    place, which = jax.random.split(key)
    factor = jnp.where(jax.random.bernoulli(which), factors[0], factors[1])
    last = series.shape[0] - 1
    start = jax.random.uniform(place) * (1 - share) * last
    return at_times(series, warped_times(series.shape[0], start, share * last, factor))


def warped_times(
    length: int, start: Float[Array, ''], window: float, factor: Float[Array, '']
) -> Float[Array, ' length']:
    """The times in a series that the steps of its warped version show.

    Args:
      length: of the series, steps.
      start: of the window, in steps.
      window: its length, in steps.
      factor: by which it is stretched.
    """
    last = length - 1
    grown = window * factor
    # The whole, longer by (factor - 1) window, is sampled at equal distances.
    place = jnp.arange(length, dtype=jnp.float32) * ((last - window + grown) / last)
    inside = start + (place - start) / factor
    after = place - grown + window
    return jnp.where(place < start, place, jnp.where(place < start + grown, inside, after))


def at_times(series: Series, times: Float[Array, ' length']) -> Series:
    """The values at times between the steps, on the straight lines that join these."""
    steps = jnp.arange(series.shape[0], dtype=jnp.float32)
    return jax.vmap(lambda channel: jnp.interp(times, steps, channel), 1, 1)(series)
