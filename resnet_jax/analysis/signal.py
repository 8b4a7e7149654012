"""Signal propagation: how large responses, branches and gradients are, layer by layer.

Sources: he2015 is arXiv 1512.03385 (section 4.2, "Analysis of Layer Responses", and figure 7); the
signal propagation plots are those of Brock, De and Smith 2021, arXiv 2101.08692, section 3.
"""

import functools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from resnet_jax.analysis.examples import Batch
from resnet_jax.analysis.networks import Network, run_module
from resnet_jax.analysis.parts import Part
from resnet_jax.training.compilation import jit
from resnet_jax.training.metrics import cross_entropy

OUTPUT, BRANCH, SHORTCUT = 'output', 'branch', 'shortcut'


class Moments(NamedTuple):
    """Moments of each channel over examples and positions.

    Attributes:
      n: examples times positions.
      mean: of each channel.
      squares: sums of squared deviations from it.
    """

    n: float
    mean: Float[np.ndarray, ' c']
    squares: Float[np.ndarray, ' c']

    @property
    def std(self) -> float:
        """Standard deviation over examples, positions and channels."""
        return math.sqrt(self.variance + float(np.var(self.mean)))

    @property
    def variance(self) -> float:
        """The average channel variance (arXiv 2101.08692, section 3)."""
        return float(np.mean(self.squares)) / self.n

    @property
    def squared_mean(self) -> float:
        """The average squared channel mean (arXiv 2101.08692, section 3)."""
        return float(np.mean(self.mean**2))


def merged(a: Moments, b: Moments) -> Moments:
    """The moments of the examples of both (Chan et al. 1979)."""
    n, step = a.n + b.n, b.mean - a.mean
    squares = a.squares + b.squares + step**2 * (a.n * b.n / n)
    return Moments(n, a.mean + step * (b.n / n), squares)


def moments(x: Float[Array, 'n ... c'], mask: Bool[Array, ' n']) -> tuple[Array, Array, Array]:
    """The `Moments` of the examples that count, on the device, to use in other programs."""
    exact = x.astype(jnp.float32)
    weight = mask.astype(jnp.float32).reshape(-1, *(1,) * (x.ndim - 1))
    axes = tuple(range(x.ndim - 1))
    count = jnp.sum(weight) * math.prod(x.shape[1:-1])
    mean = jnp.sum(exact * weight, axes) / count
    deviations = exact - mean.reshape(*(1,) * (x.ndim - 1), -1)
    return count, mean, jnp.sum(weight * deviations**2, axes)


def probed(
    module: nn.Module,
    variables: Mapping[str, Any],
    x: Float[Array, 'n ...'],
    own_statistics: bool = False,
) -> tuple[Array, dict[str, Array]]:
    """A part's output, and what its signal is measured on, to use in other programs: not jitted.

    Args:
      module: of the stem or a block.
      variables: of the part.
      x: its input.
      own_statistics: as in `Network`.

    Returns:
      The output, and by name: 'output'; 'conv1', ...: the response of each convolution, which is
      the output of its own norm where that follows at once, else its own output, as in
      pre-activation nets, whose norms belong to the next convolution; 'branch' and 'shortcut': what
      the addition adds, where there is one. Convolutions of shortcuts and gates are left out.
    """
    found: dict[str, Array] = {}

    def intercept(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y = run(*args, **kwargs)
        name = str(context.module.name)
        if context.method_name == 'add':
            found[SHORTCUT], found[BRANCH] = args
        elif context.method_name == '__call__' and re.fullmatch(r'conv\d+', name):
            found[name] = y
        elif context.method_name == '__call__' and re.fullmatch(r'norm\d+', name):
            conv = name.replace('norm', 'conv')
            if found.get(conv) is args[0]:
                found[conv] = y
        return y

    with nn.intercept_methods(intercept):
        output = run_module(module, variables, x, own_statistics)
    return output, {**found, OUTPUT: output}


@functools.lru_cache(maxsize=256)
def _forward(module: nn.Module, own: bool) -> Any:
    """(variables, x, mask) -> output, moments by name."""

    def forward(variables: Any, x: Array, mask: Array) -> Any:
        output, found = probed(module, variables, x, own)
        return output, {name: moments(each, mask) for name, each in found.items()}

    return jit(forward)


@functools.lru_cache(maxsize=256)
def _backward(module: nn.Module, own: bool) -> Any:
    """(variables, x, gradient at the output) -> its sums over examples, at parameters and at x."""

    def backward(variables: Any, x: Array, gradient: Array) -> Any:
        def run(params: Any, x: Array) -> Array:
            return run_module(module, {**variables, 'params': params}, x, own)

        _, pull = jax.vjp(run, variables['params'], x)
        at_params, at_x = pull(gradient)
        return at_params, at_x, jnp.sum(jnp.square(at_x.astype(jnp.float32)))

    return jit(backward)


@functools.lru_cache(maxsize=16)
def loss_gradient(tail: Part, own_statistics: bool) -> Any:
    """The jitted (variables, x, labels, mask) -> summed cross entropy, its gradient at x.

    Args:
      tail: of a chain; x is the last block's output.
      own_statistics: as in `Network`.
    """

    def loss(x: Array, variables: Any, labels: Array, mask: Array) -> Array:
        logits = run_module(tail.module, variables, x, own_statistics, tail.method)
        return jnp.sum(jnp.where(mask, cross_entropy(logits, labels), 0))

    run = jax.value_and_grad(loss)
    return jit(lambda variables, x, labels, mask: run(x, variables, labels, mask))


def study(network: Network, batches: Iterable[Batch]) -> dict[str, Any]:
    """Measures the signal of a network, in one pass over the examples and constant memory.

    Args:
      network: the network.
      batches: the examples.

    Returns:
      'statistics': those of batch norm, 'running' or 'batch'.
      'loss': mean cross entropy, in nats.
      'responses': 'stage1/block1/conv1' -> standard deviation of the responses, see `probed`.
      'ratio': block -> standard deviation of the branch over that of the shortcut; without blocks
        that have no shortcut.
      'gradient': block -> root mean square over the examples of the norm of the gradient of an
        example's cross entropy with respect to the block's input. Where batch norm takes the
        batch's own statistics, of the batch's summed cross entropy.
      'parameter_gradient': block -> norm of the gradient of the mean cross entropy with respect to
        the block's parameters.
      'output', 'branch', 'shortcut': block -> {'std', 'squared_mean', 'variance'}: over everything;
        the average squared channel mean and the average channel variance.
    """
    chain = network.chain
    split = chain.split(network.variables)
    measured: dict[str, Moments] = {}
    sums: dict[str, Any] = {}
    loss, n = 0.0, 0
    for each in batches:
        batch = network.batch(each)
        found, value, gradients = _measure(network, split, batch)
        # As a list, because JAX sorts the keys of a dict.
        for name, more in zip(found, jax.device_get(list(found.values())), strict=True):
            count, mean, squares = (np.asarray(x, np.float64) for x in more)
            new = Moments(float(count), mean, squares)
            measured[name] = merged(measured[name], new) if name in measured else new
        exact = jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(gradients))
        sums = jax.tree.map(np.add, sums, exact) if sums else exact
        loss += float(value)
        n += int(batch.mask.sum())
    return {
        'statistics': network.statistics,
        'loss': loss / n,
        **_by_block(chain.names, measured),
        'gradient': {name: math.sqrt(sums[name][1] / n) for name in chain.names},
        'parameter_gradient': {
            name: math.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(sums[name][0]))) / n
            for name in chain.names
        },
    }


def _measure(
    network: Network, split: Mapping[str, Any], batch: Batch
) -> tuple[dict[str, Any], Array, dict[str, Any]]:
    """Of a batch: moments by path, summed loss, block -> (gradient sums of parameters, squares)."""
    chain, own = network.chain, network.own_statistics
    x, inputs = batch.images, []
    found: dict[str, Any] = {}
    for part in (chain.stem, *chain.blocks):
        inputs.append(x)
        x, moments = _forward(part.module, own)(split[part.name], x, batch.mask)
        found |= {f'{part.name}/{name}': each for name, each in moments.items()}
    tail = split[chain.tail.name]
    loss, gradient = loss_gradient(chain.tail, own)(tail, x, batch.labels, batch.mask)
    gradients = {}
    for part, x in zip(reversed(chain.blocks), reversed(inputs), strict=False):
        run = _backward(part.module, own)
        at_params, gradient, squares = run(split[part.name], x, gradient)
        gradients[part.name] = at_params, squares
    return found, loss, gradients


def _by_block(names: Iterable[str], measured: Mapping[str, Moments]) -> dict[str, Any]:
    found: dict[str, Any] = {
        'responses': {
            path: each.std
            for path, each in measured.items()
            if path.rpartition('/')[2].startswith('conv')
        }
    }
    for kind in (OUTPUT, BRANCH, SHORTCUT):
        of_kind = {name: measured.get(f'{name}/{kind}') for name in names}
        found[kind] = {
            name: {'std': x.std, 'squared_mean': x.squared_mean, 'variance': x.variance}
            for name, x in of_kind.items()
            if x is not None
        }
    found['ratio'] = {
        name: ratio(each['std'], found[SHORTCUT][name]['std'])
        for name, each in found[BRANCH].items()
    }
    return found


def ratio(branch: float, shortcut: float) -> float:
    """Of two deviations; NaN, which JSON has as null, where the shortcut is constant."""
    return branch / shortcut if shortcut else math.nan


def over_training(lines: Iterable[Mapping[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """What a run with `log.signal_every` has measured while it trained.

    Args:
      lines: of its metrics.jsonl.

    Returns:
      (step, figures by name, such as 'ratio/stage1/block1') of each measurement, in order.
    """
    return [
        (line['step'], {key: x for key, x in line.items() if key not in ('step', 'split')})
        for line in lines
        if line['split'] == 'signal'
    ]
