"""How batches reach the devices, one ahead of the step that runs; how long steps wait for them."""

import concurrent.futures
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from resnet_jax.training.build import Run
from resnet_jax.training.inputs import Batch, bad_images


class Fed(NamedTuple):
    """The batches of a dispatch.

    Attributes:
      done: number of steps taken once they are.
      steps: number of them.
      batches: [steps, ...], on the host.
      placed: the same on the devices.
    """

    done: int
    steps: int
    batches: Batch
    placed: Any


class Feed(Iterator[Fed]):
    """The batches of a run, in the order of its steps.

    Call `dispatched` after each step: while it runs, the next batch is read and sent. The host is
    at most two steps ahead of streamed data, so that no more than these batches take memory.

    Attributes:
      waited: seconds that the devices have had nothing to do because a batch was not there.
    """

    def __init__(self, run: Run, first: int) -> None:
        streamed = run.inputs.arrays is None
        self._bad = bad_images(run.config) if streamed else None
        self._dispatches = run.dispatches(first, self._bad)
        self._put = run.placement.put_train_batches
        # Notes when a step is done; of data on the device, which no step waits for, it has no use.
        self._watch = concurrent.futures.ThreadPoolExecutor(1) if streamed else None
        self._running: concurrent.futures.Future[float] | None = None
        self._next: tuple[Fed, int] | None = None
        self._error: Exception | None = None
        self.waited = 0.0
        self._waited, self._replaced, self._reported = 0.0, 0, 0
        self._reading, self._sending = 0.0, 0.0

    def __next__(self) -> Fed:
        if self._next is None and self._error is None:
            self._read()
        if self._error is not None:
            raise self._error
        assert self._next is not None
        (fed, self._replaced), self._next = self._next, None
        return fed

    def dispatched(self, totals: Any) -> None:
        """Reads and sends the next batch, while the step runs that gives `totals`."""
        before, self._running = self._running, self._when_done(totals)
        if before is not None:
            before.result()
        asked = time.perf_counter()
        self._read()
        got = time.perf_counter()
        if self._running is not None and self._running.done():
            waited = max(0.0, got - max(asked, self._running.result()))
            self._waited += waited
            self.waited += waited

    def _when_done(self, totals: Any) -> 'concurrent.futures.Future[float] | None':
        if self._watch is None:
            return None
        # A copy: the next step donates the totals themselves.
        return self._watch.submit(_wait, jnp.copy(jax.tree.leaves(totals)[0]))

    def _read(self) -> None:
        """Reads a batch ahead. An error is kept until that batch is asked for: steps are saved."""
        try:
            began = time.perf_counter()
            done, count, batches = next(self._dispatches)
            read = time.perf_counter()
            fed = Fed(done, count, batches, self._put(batches))
            self._reading += read - began
            self._sending += time.perf_counter() - read
            self._next = fed, self._bad.count if self._bad else 0
        except Exception as error:
            self._error = error

    def restart(self) -> None:
        """Leaves the waits until now out of `figures`."""
        self._waited = self._reading = self._sending = 0.0

    def figures(self, seconds: float) -> dict[str, float]:
        """What happened since the last call, or `restart`.

        Args:
          seconds: that have passed since.

        Returns:
          Of streamed data fractions of the time: 'data_wait', that the devices had nothing to do
          because the next batch was not there; 'data_read', that the host waited for the reading
          threads or processes; 'data_send', that it handed batches to the devices. And
          'bad_images', the number of images that were replaced, where config.data.bad_images wants
          it.
        """
        if self._watch is None:
            return {}
        spent = {'wait': self._waited, 'read': self._reading, 'send': self._sending}
        found = {
            f'data_{stage}': min(passed / seconds, 1.0) if seconds > 0 else 0.0
            for stage, passed in spent.items()
        }
        if self._bad is not None:
            found['bad_images'] = self._replaced - self._reported
        self.restart()
        self._reported = self._replaced
        return found

    @property
    def first_fault(self) -> str:
        """What was wrong with the first image that was replaced; empty if there was none."""
        return self._bad.first if self._bad else ''

    def close(self) -> None:
        """Ends the reading."""
        self._dispatches.close()
        if self._watch is not None:
            self._watch.shutdown()


def _wait(marker: jax.Array) -> float:
    """When an array was ready, by time.perf_counter."""
    jax.block_until_ready(marker)
    return time.perf_counter()
