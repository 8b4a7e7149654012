"""Batches reach the devices ahead of the steps, and the time that steps wait for them is told."""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from running import STREAMED, tiny

from resnet_jax.training.build import build_run
from resnet_jax.training.feeding import Feed
from resnet_jax.training.inputs import Inputs

STEPS = 5


@pytest.fixture(scope='module')
def run():
    return build_run(tiny({**STREAMED, 'train.steps': STEPS + 1, 'train.log_every': 100}))


@jax.jit
def slow_step(totals, seconds):
    """Adds 1 after so many seconds, on the device."""

    def wait(x, seconds):
        time.sleep(float(seconds))
        return np.asarray(x) + np.float32(1)

    return jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32), totals, seconds)


def waited(run, monkeypatch, reading, computing):
    """The figures of a run whose batches and steps take given times, in seconds."""

    def batches(self, first, last, bad=None):
        for number in range(first, last):
            time.sleep(reading)
            yield {'image': np.full((32, 8, 8, 1), number, np.uint8), 'label': np.zeros(32, int)}

    monkeypatch.setattr(Inputs, 'train_batches', batches)
    totals, feed, seen = slow_step(jnp.float32(0), 0.0), Feed(run, 0), []
    for number, fed in enumerate(feed):
        if number == 1:
            feed.restart()
            began = time.perf_counter()
        totals = slow_step(totals, jnp.float32(computing))
        feed.dispatched({'n': totals})
        seen.append(int(fed.placed['image'].ravel()[0]))
        assert (fed.done, fed.steps) == (number + 1, 1)
    jax.block_until_ready(totals)
    found = feed.figures(time.perf_counter() - began)
    feed.close()
    assert seen == list(range(STEPS + 1))
    assert float(totals) == STEPS + 2
    return found


@pytest.mark.parametrize(
    ('reading', 'computing', 'low', 'high', 'read'),
    [
        (0.2, 0.001, 0.6, 1.0, 0.6),  # the device is idle nearly all the time
        (0.002, 0.2, 0.0, 0.25, 0.0),  # reading is hidden behind the step
        (0.3, 0.15, 0.3, 0.7, 0.6),  # half of the reading is
    ],
)
def test_the_wait_is_the_part_that_is_not_hidden(
    run, monkeypatch, reading, computing, low, high, read
):
    found = waited(run, monkeypatch, reading, computing)
    assert low <= found['data_wait'] <= high
    assert read <= found['data_read'] <= (1.0 if read else 0.25)  # the host reads all the time
    assert found['data_send'] < 0.25


def test_an_error_in_reading_comes_with_its_batch(run, monkeypatch):
    """Not with the step before, whose results could then not be saved."""

    def batches(self, first, last, bad=None):
        yield {'image': np.zeros((32, 8, 8, 1), np.uint8), 'label': np.zeros(32, int)}
        raise ValueError('the second')

    monkeypatch.setattr(Inputs, 'train_batches', batches)
    feed = Feed(run, 0)
    assert next(feed).done == 1
    feed.dispatched({'n': jnp.zeros(())})
    for _ in range(2):
        with pytest.raises(ValueError, match='the second'):
            next(feed)
    feed.close()


def test_data_on_the_device_waits_for_nothing():
    resident = build_run(tiny())
    feed = Feed(resident, 0)
    assert resident.inputs.arrays is not None
    assert [fed.done for fed in itertools.islice(feed, 3)] == [1, 2, 3]
    assert feed.figures(1.0) == {}
    feed.close()
