"""What a compressed model costs and keeps, measured beside the original on the spot."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Float, Int

from resnet_jax.analysis.examples import Examples, predictions
from resnet_jax.compress.folder import arrays_of
from resnet_jax.data import Preprocessing
from resnet_jax.models import ResNet
from resnet_jax.models.counting import count, count_parameters
from resnet_jax.training.compilation import jit

_RANDOM_IMAGES = 64  # to compare outputs on, where there are no examples
_SECONDS = 1.0  # of timing, for each model
_FEWEST, _MOST = 5, 200  # runs that are timed


class Net(NamedTuple):
    """A model and its variables."""

    model: ResNet
    variables: Mapping[str, Any]


def sizes(net: Net, preprocessing: Preprocessing) -> dict[str, int]:
    """What a model takes, without running it.

    Returns:
      'parameters'; 'nonzero', those that are not zero; 'multiply_adds' of one image, those with
      zeros included; 'bytes' of the arrays in a file.
    """
    shape = preprocessing.model_shape
    scanned = net.model.clone(scan_blocks=net.model.scannable, remat=False)
    leaves = jax.tree.leaves(net.variables['params'])
    arrays, _ = arrays_of(net.model, net.variables)
    return {
        'parameters': count_parameters(net.variables['params']),
        'nonzero': sum(int(np.count_nonzero(np.asarray(x))) for x in leaves),
        'multiply_adds': count(scanned, shape).multiply_adds,
        'bytes': sum(array.nbytes for array in arrays.values()),
    }


def program_of(net: Net, preprocessing: Preprocessing, batch: int) -> Callable[[], Any]:
    """Runs a model on a batch of random images, by XLA.

    Args:
      net: the model; a quantised one computes in floats, on the values of its integers.
      preprocessing: of the images.
      batch: images at a time.
    """
    images = _random_inputs(net.model, (batch, *preprocessing.model_shape))
    run = jit(lambda variables, x: net.model.apply(variables, x, train=False))
    held = jax.device_put(dict(net.variables))
    return lambda: jax.block_until_ready(run(held, images))


def latencies(programs: Sequence[Callable[[], Any]]) -> list[float]:
    """The time that each program takes, in milliseconds: medians, measured by turns.

    Args:
      programs: each returns when its work is done.
    """
    for run in (*programs, *programs):  # compiled, and once more
        run()
    times: list[list[float]] = [[] for _ in programs]
    began = time.perf_counter()
    while len(times[0]) < _MOST and (
        len(times[0]) < _FEWEST or time.perf_counter() - began < _SECONDS * len(programs)
    ):
        for run, mine in zip(programs, times, strict=True):
            start = time.perf_counter()
            run()
            mine.append(1000 * (time.perf_counter() - start))
    return [statistics.median(mine) for mine in times]


def logits_of(
    net: Net, preprocessing: Preprocessing, examples: Examples | None
) -> tuple[Float[np.ndarray, 'n classes'], Int[np.ndarray, ' n'] | None]:
    """The logits of a model on examples, and their labels; without examples on random images."""
    if examples is not None:
        return predictions(net.model, net.variables, examples)
    images = _random_inputs(net.model, (_RANDOM_IMAGES, *preprocessing.model_shape))
    run = jit(lambda variables, x: net.model.apply(variables, x, train=False))
    return np.asarray(run(dict(net.variables), images), np.float32), None


def _random_inputs(model: ResNet, shape: tuple[int, ...]) -> jax.Array:
    """Normal numbers, or whole ones for an embedding."""
    key = jax.random.key(0)
    if jnp.issubdtype(model.input_dtype, jnp.integer):
        return jax.random.randint(key, shape, 0, model.vocabulary)
    return jax.random.normal(key, shape)


def accuracy(
    logits: Float[np.ndarray, 'n classes'], labels: Int[np.ndarray, ' n'] | None
) -> dict[str, float | None]:
    """'error', a fraction of 1, and 'loss', in nats; None without labels."""
    if labels is None:
        return {'error': None, 'loss': None}
    log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=1)
    wrong = np.argmax(logits, axis=1) != labels
    return {
        'error': float(wrong.mean()),
        'loss': float(-log_p[np.arange(len(labels)), labels].mean()),
    }


def difference(
    before: Float[np.ndarray, '*places classes'], after: Float[np.ndarray, '*places classes']
) -> dict[str, float]:
    """How two models' logits differ on the same images, [N, classes] or of every place of them.

    Returns:
      'largest': of all logits; 'relative': the same over the largest logit of `before`; 'rms': the
      root mean square over the standard deviation of `before`; 'agreement': the share of images,
      or places, that get the same class.
    """
    exact = before.astype(np.float64)
    apart = after.astype(np.float64) - exact
    largest, scale, spread = np.abs(apart).max(), np.abs(exact).max(), exact.std()
    return {
        'largest': float(largest),
        'relative': float(largest / (scale or 1.0)),
        'rms': float(np.sqrt((apart**2).mean()) / (spread or 1.0)),
        'agreement': float((before.argmax(axis=-1) == after.argmax(axis=-1)).mean()),
    }


def compare(
    nets: Sequence[Net], preprocessing: Preprocessing, examples: Examples | None, batch: int
) -> list[dict[str, Any]]:
    """All figures of some models side by side, the original first.

    Returns:
      For each: those of `accuracy`, `sizes` and 'latency_ms', and of all but the first also
      'difference' from it.
    """
    outputs = [logits_of(net, preprocessing, examples) for net in nets]
    times = latencies([program_of(net, preprocessing, batch) for net in nets])
    found: list[dict[str, Any]] = []
    for net, (logits, labels), milliseconds in zip(nets, outputs, times, strict=True):
        figures: dict[str, Any] = {**accuracy(logits, labels), **sizes(net, preprocessing)}
        figures['latency_ms'] = milliseconds
        if found:
            figures['difference'] = difference(outputs[0][0], logits)
        found.append(figures)
    return found


def as_arrays(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables as float32 arrays of JAX."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), dict(variables))
