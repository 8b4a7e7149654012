"""The learning-rate range test."""

import json

import numpy as np
import pytest
from running import DIGITS, TINY

from resnet_jax.cli import main
from resnet_jax.errors import InputError
from resnet_jax.experiments.search.rate_range import find_rate

RATES = 10.0 ** np.linspace(-6, 1, 351)


def falling(middle, high=2.3, low=0.3):
    """A loss that falls by a logistic curve in log(rate), steepest at `middle`, then explodes."""
    curve = low + (high - low) / (1 + (RATES / middle) ** 2)
    return curve + (RATES / (100 * middle)) ** 4


@pytest.mark.parametrize('middle', [1e-3, 1e-2, 3e-2])
def test_the_rate_is_that_of_the_steepest_descent(middle):
    """The average over some ten steps lags by as many: half a decade in 50 steps a decade."""
    found = find_rate(RATES, falling(middle))
    assert middle <= found.steepest <= 2 * middle
    assert 10 * middle < found.lowest < 100 * middle


def test_an_exploded_loss_ends_the_curve():
    found = find_rate(RATES, falling(1e-3))
    assert found.rates[-1] < 1 and max(found.smoothed) < 10
    with pytest.raises(InputError, match='too few to tell a rate'):
        find_rate(RATES, 1.5 ** np.arange(351.0))


def test_a_loss_that_never_falls_gives_no_rate():
    assert find_rate(RATES, 2.3 + RATES).steepest is None


@pytest.mark.slow
def test_a_range_test_of_a_config(tmp_path, capsys):
    fields = [f'--config.{k}={v}' for k, v in TINY.items() if k.startswith('model')]
    arguments = ['search', '--lr-range', '--config', str(DIGITS), '--workdir', str(tmp_path)]
    assert main([*arguments, *fields]) == 0
    out = capsys.readouterr().out
    found = json.loads((tmp_path / 'lr_range.json').read_text())
    assert 1e-3 < found['steepest'] < 5
    assert f'--config.optim.learning_rate={found["steepest"]:.2g}' in out
    ratio = np.divide(found['rates'][1:], found['rates'][:-1])
    np.testing.assert_allclose(ratio, 1e7 ** (1 / 199), rtol=1e-4)
    assert (tmp_path / 'lr_range.png').stat().st_size > 5000
    assert main([*arguments, '--trials', '3']) == 2
