"""Quantize: weights, and inputs of layers, as integers of a few bits.

The model is folded first. Its result computes in floats on exactly the values of the integers, so
that its accuracy is that of integer arithmetic; files hold the integers. Sources: Jacob et al.,
arXiv 1712.05877; Nagel et al., arXiv 2106.08295, sections 2 and 3.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from resnet_jax.analysis.examples import Batch
from resnet_jax.compress import measure
from resnet_jax.compress.fold import fold
from resnet_jax.compress.folder import weight_bits
from resnet_jax.dense.registry import Network, net_of
from resnet_jax.interop import integers
from resnet_jax.models import ResNet
from resnet_jax.models.inputs import example_input
from resnet_jax.models.quantized import INPUT, RANGE, QuantizedInput, quantize_activations
from resnet_jax.models.stages import unstack_blocks
from resnet_jax.training import metrics
from resnet_jax.training.compilation import jit

# How the range of a layer's inputs is chosen: the lowest and highest value; such that a share of
# the values lies inside; or with the smallest squared error.
CALIBRATIONS = ('minmax', 'percentile', 'mse')
Limits = dict[str, Float[np.ndarray, ' 2']]  # path of a layer -> lowest and highest value
_BINS = 2048  # of the histograms of inputs
_CANDIDATES = np.linspace(0.2, 1.0, 81)  # shares of the widest range that 'mse' tries


def quantize(
    model: ResNet,
    variables: Mapping[str, Any],
    *,
    bits: int = 8,
    activation_bits: int = 0,
    layer_bits: Sequence[str] = (),
    limits: Limits | None = None,
) -> tuple[ResNet, dict[str, Any]]:
    """Quantises a model.

    Args:
      model: any; batch norm is folded.
      variables: of the model.
      bits: of the weights of all convolutions and the head, from 2 to 8.
      activation_bits: of their inputs; 0: floats.
      layer_bits: of single layers, as `ResNet.layer_bits`.
      limits: of the inputs, from `calibrate`; needed with activation_bits.

    Returns:
      The model, its fields of bits set, and variables whose quantised weights lie on their grids.
    """
    model, held = floating(model, variables)
    quantised = model.clone(
        weight_bits=bits, activation_bits=activation_bits, layer_bits=tuple(layer_bits)
    )
    held['params'] = rounded(quantised, held['params'])
    flat = flax.traverse_util.flatten_dict(held, sep='/')
    for path in inputs_of(quantised) if activation_bits else ():
        assert limits is not None, 'activations are quantised in the limits of a calibration'
        flat[f'batch_stats/{path}{INPUT}/{RANGE}'] = jnp.asarray(limits[path], jnp.float32)
    tree = flax.traverse_util.unflatten_dict(flat, sep='/')
    return quantised, {'params': tree['params'], 'batch_stats': tree.get('batch_stats', {})}


def rounded(model: Network, params: Mapping[str, Any]) -> dict[str, Any]:
    """Rounds the weights that a model quantises, as the model itself does when it computes.

    Args:
      model: a classifier or dense network; its weight_bits and layer_bits, or those of its
        backbone, say which weights, and to how many bits. Heads of dense networks have weight_bits.
      params: of the model, with blocks that are not scanned; nested dicts.
    """
    net = net_of(model)
    body = params if net is model else params['backbone']
    flat = flax.traverse_util.flatten_dict({'params': dict(body)}, sep='/')
    for name, bits in weight_bits(net, list(flat)).items():
        flat[name] = on_grid(flat[name], bits)
    found: dict[str, Any] = flax.traverse_util.unflatten_dict(flat, sep='/')['params']
    if net is model:
        return found
    heads = flax.traverse_util.flatten_dict({k: v for k, v in params.items() if k != 'backbone'})
    for path in heads:  # all kernels are those of convolutions
        if net.weight_bits and path[-1] == 'kernel':
            heads[path] = on_grid(heads[path], net.weight_bits)
    return flax.traverse_util.unflatten_dict(heads) | {'backbone': found}


def floating(model: ResNet, variables: Mapping[str, Any]) -> tuple[ResNet, dict[str, Any]]:
    """The folded model with unscanned blocks and without quantisation, and its variables."""
    plain = unstack_blocks(variables) if model.scan_blocks else dict(variables)
    bare = model.unrolled().clone(weight_bits=0, activation_bits=0, layer_bits=())
    stats = flax.traverse_util.flatten_dict(plain.get('batch_stats', {}))
    kept = {path: x for path, x in stats.items() if path[-1] != RANGE}
    return fold(bare, {**plain, 'batch_stats': flax.traverse_util.unflatten_dict(kept)})


def on_grid(kernel: Any, bits: int) -> Float[np.ndarray, '*fan out']:
    """A kernel rounded to integers of `bits` bits, with a scale for each output channel."""
    whole, scales = integers.grid(np.asarray(kernel), bits)
    return whole.astype(np.float32) * scales


def inputs_of(model: ResNet) -> list[str]:
    """Paths of the layers whose inputs a model quantises."""
    found: list[str] = []

    def note(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, QuantizedInput):
            found.append('/'.join(context.module.path).removesuffix(INPUT))
        return run(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(
            lambda x: model.init(jax.random.key(0), x, train=False), example_input(model)
        )
    return list(dict.fromkeys(found))


def calibrate(
    model: ResNet,
    variables: Mapping[str, Any],
    batches: Iterable[Batch],
    method: str = 'minmax',
    *,
    bits: int = 8,
    percentile: float = 99.99,
) -> Limits:
    """The limits of each layer's inputs, from examples.

    Args:
      model: from `floating`.
      variables: of the model.
      batches: of examples; iterated twice, but for minmax.
      method: one of `CALIBRATIONS`.
      bits: of the inputs, for mse.
      percentile: of the values, for percentile: what lies beyond it on each side is cut off.
    """
    lowest: Limits = {}
    for values in _inputs(model, variables, batches):
        for path, x in values.items():
            pair = np.asarray([x.min(), x.max()], np.float64)
            old = lowest.get(path, pair)
            lowest[path] = np.asarray([min(old[0], pair[0]), max(old[1], pair[1])])
    if method == 'minmax':
        return lowest
    counts = {path: np.zeros(_BINS, np.int64) for path in lowest}
    for values in _inputs(model, variables, batches):
        for path, x in values.items():
            low, high = lowest[path]
            counts[path] += np.histogram(x, _BINS, (low, max(high, low + 1e-12)))[0]
    if method == 'percentile':
        return {p: _inside(counts[p], lowest[p], percentile / 100) for p in lowest}
    return {p: _least_error(counts[p], lowest[p], bits) for p in lowest}


def _inputs(
    model: ResNet, variables: Mapping[str, Any], batches: Iterable[Batch]
) -> Iterator[dict[str, np.ndarray]]:
    """The inputs of each convolution and of the head, a batch at a time."""

    @jit
    def run(variables: Any, images: Any) -> Any:
        found: dict[str, Any] = {}

        def note(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if _is_layer(context):
                found['/'.join(context.module.path)] = args[0]
            return run(*args, **kwargs)

        with nn.intercept_methods(note):
            model.apply(variables, images, train=False)
        return found

    for batch in batches:
        values = jax.device_get(run(dict(variables), batch.images))
        yield {path: np.asarray(x, np.float32)[batch.mask] for path, x in values.items()}


def _is_layer(context: Any) -> bool:
    """Whether a call is that of a layer that is quantised."""
    module = context.module
    if not isinstance(module, nn.Conv | nn.Dense) or context.method_name != '__call__':
        return False
    name = f'params/{"/".join(module.path)}/kernel'
    return bool(weight_bits(_ANY, [name]))


_ANY = ResNet((1,), weight_bits=8)  # stands for a model in which every layer is quantised


def _inside(counts: np.ndarray, limits: Float[np.ndarray, ' 2'], share: float) -> np.ndarray:
    """Limits beyond which at most 1 - share of the values lie on each side."""
    edges = np.linspace(limits[0], limits[1], _BINS + 1)
    below = np.cumsum(counts) / max(counts.sum(), 1)
    high = edges[1 + int(np.searchsorted(below, share))] if share < 1 else limits[1]
    low = edges[int(np.searchsorted(below, 1 - share, side='right'))]
    return np.asarray([low, high])


def _least_error(counts: np.ndarray, limits: Float[np.ndarray, ' 2'], bits: int) -> np.ndarray:
    """The limits, of some shares of the widest ones, with the least squared error."""
    edges = np.linspace(limits[0], limits[1], _BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2

    def error(share: float) -> float:
        top = 2**bits - 1
        low, high = min(limits[0] * share, 0.0), max(limits[1] * share, 0.0)
        scale = (high - low) / top if high > low else 1.0
        zero = np.round(-low / scale)
        whole = np.clip(np.round(centres / scale) + zero, 0, top)
        return float((counts * (centres - (whole - zero) * scale) ** 2).sum())

    best = min(_CANDIDATES, key=error)
    return np.asarray(limits) * best


@dataclasses.dataclass(frozen=True)
class Cost:
    """What quantising one layer alone costs.

    Attributes:
      layer: its path.
      weights: number of them.
      bits: of them.
      rms: root mean square of the change of the logits over their standard deviation.
      loss: how much the loss grows, in nats.
    """

    layer: str
    weights: int
    bits: int
    rms: float
    loss: float


def layer_costs(
    model: ResNet,
    variables: Mapping[str, Any],
    batches: Iterable[Batch],
    bits: Sequence[int],
    limits: Limits | None = None,
    activation_bits: int = 0,
) -> list[Cost]:
    """The cost of quantising each layer by itself, for each number of bits.

    Args:
      model: from `floating`.
      variables: of the model.
      batches: of examples; kept in memory.
      bits: of the weights, one or more.
      limits: of the inputs; None: they stay floats.
      activation_bits: of the inputs.
    """

    @jit
    def run(variables: Any, images: Any, labels: Any, mask: Any, chosen: Any) -> Any:
        def switch(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if limits is None or not _is_layer(context):
                return run(*args, **kwargs)
            path = '/'.join(context.module.path)
            pair = jnp.asarray(limits[path], jnp.float32)
            rounded = quantize_activations(args[0], pair, activation_bits)
            x = jnp.where(chosen == order.index(path), rounded, args[0])
            return run(x, *args[1:], **kwargs)

        with nn.intercept_methods(switch):
            logits: Any = model.apply(variables, images, train=False)
        each = metrics.cross_entropy(logits, labels)
        return logits, jnp.sum(jnp.where(mask, each, 0))

    flat = {'/'.join(p): x for p, x in flax.traverse_util.flatten_dict(dict(variables)).items()}
    kernels = list(weight_bits(_ANY, list(flat)))
    order = [name.removeprefix('params/').removesuffix('/kernel') for name in kernels]
    examples = list(batches)
    count = sum(int(batch.mask.sum()) for batch in examples)

    def logits_of(flat: Mapping[str, Any], chosen: int) -> tuple[np.ndarray, float]:
        tree, found, loss = flax.traverse_util.unflatten_dict(dict(flat), sep='/'), [], 0.0
        for batch in examples:
            out = run(tree, batch.images, batch.labels, batch.mask, jnp.asarray(chosen))
            found.append(np.asarray(out[0], np.float64)[batch.mask])
            loss += float(out[1])
        return np.concatenate(found), loss / count

    exact, least = logits_of(flat, -1)
    costs = []
    for number, (name, path) in enumerate(zip(kernels, order, strict=True)):
        for each in bits:
            rounded = {**flat, name: jnp.asarray(on_grid(flat[name], each))}
            found, loss = logits_of(rounded, number)
            rms = measure.difference(exact, found)['rms']
            costs.append(Cost(path, int(np.size(flat[name])), each, rms, loss - least))
    return costs


def mixed_bits(costs: Sequence[Cost], mean_bits: float) -> dict[str, int]:
    """Bits of each layer: the fewest, and more where they save the most error for their size.

    The squares of the relative changes of single layers are taken to add up, as those of
    independent errors do.

    Args:
      costs: of every layer with the same few numbers of bits.
      mean_bits: over all weights; at most reached.

    Returns:
      The bits of each layer.
    """
    of_layer: dict[str, dict[int, Cost]] = {}
    for cost in costs:
        of_layer.setdefault(cost.layer, {})[cost.bits] = cost
    chosen = {layer: min(each) for layer, each in of_layer.items()}
    weights = {layer: next(iter(each.values())).weights for layer, each in of_layer.items()}
    left = mean_bits * sum(weights.values()) - sum(chosen[k] * n for k, n in weights.items())

    def steps() -> Iterator[tuple[float, int, str, int]]:
        for layer, each in of_layer.items():
            for more in (b for b in each if b > chosen[layer]):
                saved = each[chosen[layer]].rms ** 2 - each[more].rms ** 2
                price = (more - chosen[layer]) * weights[layer]
                if 0 < price <= left:
                    yield saved / price, price, layer, more

    while found := max(steps(), default=None):
        _, price, layer, more = found
        chosen[layer], left = more, left - price
    return chosen
