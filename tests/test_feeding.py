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


def slow_step(ended):
    """Returns a jitted step that sleeps, adds 1 and appends its end time to `ended`."""

    def wait(x, seconds):
        time.sleep(float(seconds))
        ended.append(time.perf_counter())
        return np.asarray(x) + np.float32(1)

    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return jax.jit(lambda totals, seconds: jax.pure_callback(wait, shape, totals, seconds))


def waited(run, monkeypatch, reading, computing):
    """The figures of a run whose batches and steps take given times, in seconds.

    Returns:
      The feed's figures, and those computed from the measured times of batches and steps.
    """
    reads, ended = [], []

    def batches(self, first, last, bad=None):
        for number in range(first, last):
            asked = time.perf_counter()
            time.sleep(reading)
            reads.append((asked, time.perf_counter()))
            yield {'image': np.full((32, 8, 8, 1), number, np.uint8), 'label': np.zeros(32, int)}

    monkeypatch.setattr(Inputs, 'train_batches', batches)
    slow = slow_step(ended)
    totals, feed, seen = jax.block_until_ready(slow(jnp.float32(0), 0.0)), Feed(run, 0), []
    for number, fed in enumerate(feed):
        if number == 1:
            feed.restart()
            began = time.perf_counter()
        totals = slow(totals, jnp.float32(computing))
        feed.dispatched({'n': totals})
        seen.append(int(fed.placed['image'].ravel()[0]))
        assert (fed.done, fed.steps) == (number + 1, 1)
    jax.block_until_ready(totals)
    seconds = time.perf_counter() - began
    found = feed.figures(seconds)
    feed.close()
    assert seen == list(range(STEPS + 1))
    assert float(totals) == STEPS + 2
    # Two batches are read before the clock starts. Of `ended`, the first is the warm-up's.
    idle = [max(0.0, got - max(asked, ended[n])) for n, (asked, got) in enumerate(reads) if n > 1]
    busy = [got - asked for asked, got in reads[2:]]
    return found, {'data_wait': sum(idle) / seconds, 'data_read': sum(busy) / seconds}


@pytest.mark.parametrize(
    ('reading', 'computing'),
    [
        (0.2, 0.001),  # the device is idle nearly all the time
        (0.002, 0.2),  # reading is hidden behind the step
        (0.3, 0.15),  # half of the reading is
    ],
)
def test_the_wait_is_the_part_that_is_not_hidden(run, monkeypatch, reading, computing):
    """Expected shares come from measured times: on a busy machine a sleep takes longer."""
    found, happened = waited(run, monkeypatch, reading, computing)
    assert found['data_wait'] == pytest.approx(happened['data_wait'], abs=0.15)
    assert happened['data_read'] <= found['data_read'] <= happened['data_read'] + 0.15
    assert found['data_read'] + found['data_send'] <= 1


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
