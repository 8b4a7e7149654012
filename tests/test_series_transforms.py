"""Transforms of series against their definitions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from running import tiny

from resnet_jax.data import augment, read_transforms
from resnet_jax.data.transforms.series import warped_times
from resnet_jax.errors import InputError

LENGTH = 61


def drawn(text, series, count=200):
    """Many draws of a transform of one series, [count, length, channels]."""
    many = jnp.broadcast_to(jnp.asarray(series, jnp.float32), (count, *series.shape))
    positions = jnp.arange(count)
    return np.asarray(augment((text,), jax.random.key(0), many, positions, 3, positions)[0])


@pytest.fixture
def series():
    return np.random.default_rng(0).standard_normal((LENGTH, 2)).astype(np.float32)


# Of a series that is its own time the values of a transform are the times that it shows.
RAMP = np.stack([np.arange(LENGTH), np.arange(LENGTH)], 1).astype(np.float32)


def test_jitter_adds_independent_noise(series):
    noise = drawn('jitter(std=0.2)', series) - series
    assert noise.std() == pytest.approx(0.2, rel=0.02)
    assert abs(noise.mean()) < 0.005
    flat = noise.reshape(200, -1)
    neighbours = np.corrcoef(flat[:, :-1].ravel(), flat[:, 1:].ravel())[0, 1]
    examples = np.corrcoef(flat[:-1].ravel(), flat[1:].ravel())[0, 1]
    assert abs(neighbours) < 0.03 and abs(examples) < 0.03
    np.testing.assert_array_equal(drawn('jitter(std=0)', series, 2)[0], series)


def test_scaling_has_a_factor_for_each_channel(series):
    factors = drawn('scaling(std=0.3)', series) / series
    np.testing.assert_allclose(factors, factors[:, :1] + 0 * factors, rtol=1e-5)
    factors = factors[:, 0]
    assert factors.mean() == pytest.approx(1, abs=0.05)
    assert factors.std() == pytest.approx(0.3, rel=0.15)
    assert abs(np.corrcoef(factors.T)[0, 1]) < 0.2  # the channels differ


def test_window_slice_stretches_a_window(series):
    times = drawn('window_slice(share=0.5)', RAMP)[..., 0]
    np.testing.assert_allclose(np.diff(times), 0.5, atol=1e-4)  # twice as slow
    starts = times[:, 0]
    assert starts.min() >= 0 and times.max() <= LENGTH - 1 + 1e-3
    assert starts.min() < 2 and starts.max() > 28  # all places, from 0 to 30
    shown = drawn('window_slice(share=0.5)', series)
    for i in (0, 7, 50):
        for channel in (0, 1):
            expected = np.interp(times[i], np.arange(LENGTH), series[:, channel])
            np.testing.assert_allclose(shown[i, :, channel], expected, atol=1e-4)
    np.testing.assert_allclose(drawn('window_slice(share=1)', series, 2)[0], series, atol=1e-5)


@pytest.mark.parametrize('factor', [0.5, 2.0])
@pytest.mark.parametrize('start', [0.0, 7.3, 42.0])
def test_warped_times_join_the_ends_of_the_window(factor, start):
    """Times are straight lines between the corners of the window before and after."""
    window, last = 18.0, LENGTH - 1
    before = [0, start, start + window, last]
    after = [0, start, start + factor * window, last + (factor - 1) * window]
    places = np.linspace(0, after[-1], LENGTH)
    found = warped_times(LENGTH, jnp.float32(start), window, jnp.float32(factor))
    np.testing.assert_allclose(found, np.interp(places, after, before), atol=1e-4)


@pytest.mark.slow
def test_window_warp_has_windows_of_both_factors_at_all_places(series):
    """Beside the window time runs at the rate r of the whole, inside of it at r over the factor."""
    times = drawn('window_warp(share=0.25, factors=(0.5, 2.0))', RAMP)[..., 0]
    np.testing.assert_allclose(times[:, 0], 0, atol=1e-3)
    np.testing.assert_allclose(times[:, -1], LENGTH - 1, atol=1e-3)
    rates = {0.5: 1 - 0.125, 2.0: 1 + 0.25}  # lengths of the whole, over the old one
    kinds, middles = [], []
    for one in np.diff(times):
        for factor, rate in rates.items():
            inside = np.isclose(one, rate / factor, atol=1e-3)
            beside = np.isclose(one, rate, atol=1e-3)
            if inside.sum() + beside.sum() >= len(one) - 2:  # but for the two corners
                kinds.append(factor)
                middles.append(np.flatnonzero(inside).mean())
                # The window has a quarter of the old times, and share * factor / rate of the new.
                assert abs(inside.sum() - 0.25 * factor / rate * (LENGTH - 1)) <= 2
    assert len(kinds) == 200
    assert 70 < kinds.count(0.5) < 130
    assert min(middles) < 12 and max(middles) > 48
    shown = drawn('window_warp(share=0.25, factors=(0.5, 2.0))', series)
    expected = np.interp(times[5], np.arange(LENGTH), series[:, 1])
    np.testing.assert_allclose(shown[5, :, 1], expected, atol=1e-4)


def test_a_crop_of_a_padded_series(series):
    shown = drawn('pad_crop(pad=3)', series)
    padded = np.pad(series, ((3, 3), (0, 0)))
    windows = [padded[i : i + LENGTH] for i in range(7)]
    which = [next(i for i, w in enumerate(windows) if np.array_equal(w, one)) for one in shown]
    assert set(which) == set(range(7))


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'augment.transforms': 'jitter'}, "'jitter' takes series, and the model images"),
        (
            {'augment.transforms': 'flip', 'model.dimensions': 1},
            "'flip' takes images or videos or volumes, and the model series",
        ),
    ],
)
def test_transforms_of_other_data_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        tiny(fields)


def test_settings_are_read_and_written():
    (one,) = read_transforms(['window_warp(factors=(0.8, 1.25))'])
    assert str(one) == 'window_warp(factors=(0.8, 1.25))'
