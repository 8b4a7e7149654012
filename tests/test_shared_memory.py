"""Values that go from one process to another in memory that both map."""

import gc
import multiprocessing
import os
import pathlib
import threading
import time

import numpy as np
import pytest

from resnet_jax.data import shared_memory

pytestmark = pytest.mark.skipif(not shared_memory.is_available(), reason='Linux only')


def values():
    """Batches, and what else a worker might return."""
    rng = np.random.default_rng(0)
    return [
        {'image': rng.integers(0, 256, (3, 5, 7, 3), np.uint8), 'label': np.arange(3, dtype='i4')},
        ({'mask': np.array([True, False]), 'x': rng.normal(size=(4, 3))[::2]}, ['a fault']),
        [np.empty((0, 8, 8, 1), np.uint8), np.float32(1.5), np.asarray(2.5)],
        'no array at all',
    ]


def assert_equal(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_equal(*pair)
    elif isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


@pytest.fixture
def receiver():
    found = shared_memory.Receiver()
    yield found
    found.close()


def test_values_arrive_as_they_were_in_any_order(receiver):
    sent = [shared_memory.send(receiver.address, value) for value in values()]
    for one, value in reversed(list(zip(sent, values(), strict=True))):
        assert_equal(receiver.take(one), value)


def test_arrays_are_aligned_and_writeable(receiver):
    value = {'odd': np.zeros(3, np.uint8), 'image': np.ones((2, 2), np.float64)}
    found = receiver.take(shared_memory.send(receiver.address, value))
    for name, array in found.items():
        assert array.ctypes.data % 64 == 0, name
        array[...] = 7
        assert array.min() == 7
    assert value['image'].max() == 1


def _work(address, results):
    for value in values():
        results.put(shared_memory.send(address, value))


def test_values_of_a_process_that_has_ended_arrive(receiver):
    context = multiprocessing.get_context('spawn')
    results = context.Queue()
    process = context.Process(target=_work, args=(receiver.address, results))
    process.start()
    sent = [results.get(timeout=60) for _ in values()]
    process.join()
    for one, value in zip(sent, values(), strict=True):
        assert one.key[0] == process.pid
        assert_equal(receiver.take(one), value)


def descriptors():
    return len(list(pathlib.Path('/proc/self/fd').iterdir()))


@pytest.mark.slow
def test_nothing_is_left_open():
    """Neither of values that were taken and dropped, nor of those that nobody took."""
    shared_memory._sender.cache_clear()
    gc.collect()
    before, threads = descriptors(), threading.active_count()
    receiver = shared_memory.Receiver()
    sent = [shared_memory.send(receiver.address, value) for value in values() * 3]
    for one in sent[:7]:
        receiver.take(one)
    receiver.close()
    with pytest.raises(ConnectionError):
        shared_memory.send(receiver.address, np.zeros(9))
    shared_memory._sender.cache_clear()
    gc.collect()
    deadline = time.monotonic() + 10
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == threads
    assert descriptors() == before
    with pytest.raises(ConnectionError):  # nobody listens any more
        shared_memory.send(receiver.address, np.zeros(9))


def test_a_value_whose_memory_never_comes_is_an_error(receiver, monkeypatch):
    monkeypatch.setattr(shared_memory, '_LONGEST_WAIT', 0.05)
    with pytest.raises(ChildProcessError, match='ended before its batch came'):
        receiver.take(shared_memory.Sent((os.getpid(), 99), b'', ()))
