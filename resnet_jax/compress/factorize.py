"""Factorize: convolutions as products of thinner ones, by the decomposition of their kernels.

A 1x1 convolution is a matrix, and its best approximation of a rank is that of the singular value
decomposition. A larger one is decomposed over its input and output channels, Tucker-2 (Kim et al.,
arXiv 1511.06530, section 3.1), by the higher-order singular value decomposition and a few rounds of
alternating least squares behind it (De Lathauwer et al., doi 10.1137/S0895479898346995).
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from resnet_jax.errors import InputError
from resnet_jax.interop.matching import image_kernels
from resnet_jax.models import ResNet
from resnet_jax.models.stages import unstack_blocks

Ranks = dict[str, tuple[int, int]]  # path of a convolution -> as `ResNet.ranks` has them
Kernel = Float[np.ndarray, '*taps c_in c_out']
_ROUNDS = 3  # of alternating least squares; more change little


class Layer(NamedTuple):
    """A convolution that may be factored.

    Attributes:
      taps: positions of its window.
      inputs, outputs: channels.
      positions_in, positions_out: of its input and output, of one image.
    """

    taps: int
    inputs: int
    outputs: int
    positions_in: int
    positions_out: int

    @property
    def multiply_adds(self) -> int:
        """As it is."""
        return self.positions_out * self.taps * self.inputs * self.outputs

    def factored_multiply_adds(self, ranks: tuple[int, int]) -> int:
        """As a product of these ranks: the first 1x1 runs at the input's resolution."""
        first, last = ranks
        if self.taps == 1:
            return self.positions_out * first * (self.inputs + self.outputs)
        core = self.positions_out * self.taps * first * last
        return (
            self.positions_in * self.inputs * first
            + core
            + self.positions_out * last * self.outputs
        )


def layers_of(model: ResNet, image_shape: tuple[int, ...]) -> dict[str, Layer]:
    """The convolutions of the blocks, which can be factored, by path; nothing is computed.

    Without a stem, those that take the images are its part, and stay as they are.

    Args:
      model: with plain convolutions, not grouped.
      image_shape: [H, W, C].

    Raises:
      InputError: for grouped convolutions, standardised weights, and factors already there.
    """
    if not all(plan.design.is_plain for plan in model.plans()):
        raise InputError(
            'grouped, depthwise and space-time convolutions are not factored; their kernels are '
            'thin already'
        )
    if model.weight_standardization:
        raise InputError('standardised weights are not factored: `resnet-jax compress fold` first')
    if model.ranks:
        raise InputError('this model is factored already; factor the one that it was made of')
    found: dict[str, Layer] = {}

    def note(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y, conv = run(*args, **kwargs), context.module
        if isinstance(conv, nn.Conv) and context.method_name == '__call__':
            path = '/'.join(conv.path)
            named = conv.path[-1].startswith('conv') or conv.path[-1] == 'shortcut_conv'
            if path.startswith('stage') and named and len(conv.path) == 3:
                x = args[0]
                found[path] = Layer(
                    math.prod(conv.variables['params']['kernel'].shape[:-2]),
                    x.shape[-1],
                    y.shape[-1],
                    math.prod(x.shape[1:-1]),
                    math.prod(y.shape[1:-1]),
                )
        return y

    unrolled = model.unrolled()
    with nn.intercept_methods(note):
        jax.eval_shape(
            lambda x: unrolled.init(jax.random.key(0), x, train=False),
            jax.ShapeDtypeStruct((1, *image_shape), model.input_dtype),
        )
    first = {'/'.join(path[1:-1]) for path in image_kernels(model)}
    return {path: layer for path, layer in found.items() if path not in first}


class Spectrum(NamedTuple):
    """The singular values of a kernel over its input, and over its output channels."""

    inputs: Float[np.ndarray, ' c_in']
    outputs: Float[np.ndarray, ' c_out']


def spectra(variables: Mapping[str, Any], layers: Mapping[str, Layer]) -> dict[str, Spectrum]:
    """Singular values of the kernels of some convolutions, unrolled."""
    found = {}
    for path in layers:
        kernel = _kernel(variables, path)
        found[path] = Spectrum(
            np.linalg.svd(_unfolded(kernel, -2), compute_uv=False),
            np.linalg.svd(_unfolded(kernel, -1), compute_uv=False),
        )
    return found


def ranks_by_energy(
    layers: Mapping[str, Layer], values: Mapping[str, Spectrum], energy: float
) -> Ranks:
    """The lowest ranks that keep a share of the squares of the singular values.

    Args:
      layers: that may be factored.
      values: of their kernels.
      energy: the share, in (0, 1].

    Returns:
      The ranks of the convolutions that take fewer multiply-adds with them.
    """
    found = {}
    for path, layer in layers.items():
        pair = _rank(values[path].inputs, energy), _rank(values[path].outputs, energy)
        pair = (pair[0], pair[0]) if layer.taps == 1 else pair
        if layer.factored_multiply_adds(pair) < layer.multiply_adds:
            found[path] = pair
    return found


def ranks_for_budget(
    layers: Mapping[str, Layer], values: Mapping[str, Spectrum], others: int, budget: int
) -> Ranks:
    """Ranks of the same share of energy everywhere, the highest that a budget allows.

    Args:
      layers: that may be factored.
      values: of their kernels.
      others: multiply-adds of everything else.
      budget: multiply-adds of the whole network.

    Raises:
      InputError: if the lowest ranks take more.
    """

    def total(ranks: Ranks) -> int:
        return others + sum(
            layer.factored_multiply_adds(ranks[path]) if path in ranks else layer.multiply_adds
            for path, layer in layers.items()
        )

    low, high = 0.0, 1.0
    if (least := total(ranks_by_energy(layers, values, low))) > budget:
        raise InputError(
            f'the lowest ranks take {least:,} multiply-adds, more than the budget of {budget:,}'
        )
    for _ in range(40):
        middle = (low + high) / 2
        fits = total(ranks_by_energy(layers, values, middle)) <= budget
        low, high = (middle, high) if fits else (low, middle)
    return ranks_by_energy(layers, values, low)


def _rank(singular: Float[np.ndarray, ' n'], energy: float) -> int:
    """The lowest rank, from 1, that keeps this share of the squares."""
    squares = np.cumsum(singular**2)
    if squares[-1] == 0:
        return 1
    return int(min(np.searchsorted(squares, energy * squares[-1] * (1 - 1e-12)) + 1, len(squares)))


def singular_value_decomposition(kernel: Kernel, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices [c_in, rank] and [rank, c_out] whose product is nearest to a 1x1 kernel."""
    u, s, v = np.linalg.svd(kernel.reshape(kernel.shape[-2:]), full_matrices=False)
    root = np.sqrt(s[:rank])
    return u[:, :rank] * root, root[:, None] * v[:rank]


def tucker(
    kernel: Kernel, ranks: tuple[int, int]
) -> tuple[Float[np.ndarray, 'c_in r'], Kernel, Float[np.ndarray, 's c_out']]:
    """Tucker-2 over the channels: down [c_in, r], core [*taps, r, s] and up [s, c_out]."""
    first, last = ranks
    inputs = _leading(_unfolded(kernel, -2), first)
    outputs = _leading(_unfolded(kernel, -1), last)
    for _ in range(_ROUNDS):
        inputs = _leading(_unfolded(kernel @ outputs, -2), first)
        outputs = _leading(_unfolded(_into(kernel, inputs), -1), last)
    return inputs, _into(kernel, inputs) @ outputs, outputs.T


def _into(kernel: Kernel, inputs: Float[np.ndarray, 'c_in r']) -> Kernel:
    """The kernel of what the first factor gives."""
    return np.moveaxis(np.moveaxis(kernel, -2, -1) @ inputs, -1, -2)


def _unfolded(kernel: Kernel, axis: int) -> Float[np.ndarray, 'n rest']:
    return np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)


def _leading(matrix: Float[np.ndarray, 'n rest'], count: int) -> Float[np.ndarray, 'n count']:
    """The left singular vectors of the largest singular values."""
    return np.linalg.svd(matrix, full_matrices=False)[0][:, :count]


def _kernel(variables: Mapping[str, Any], path: str) -> Kernel:
    held: Any = variables['params']
    for name in path.split('/'):
        held = held[name]
    return np.asarray(held['kernel'], np.float64)


def factorize(
    model: ResNet, variables: Mapping[str, Any], ranks: Ranks
) -> tuple[ResNet, dict[str, Any], dict[str, float]]:
    """Factors convolutions.

    Args:
      model: with plain convolutions.
      variables: of the model.
      ranks: of the convolutions to factor, by path.

    Returns:
      The model with `ranks`, its variables, and for each convolution the distance of the product
      from the kernel over the kernel's size.
    """
    plain = unstack_blocks(variables) if model.scan_blocks else variables
    flat = dict(flax.traverse_util.flatten_dict(dict(plain)))
    errors = {}
    for path, pair in ranks.items():
        at = ('params', *path.split('/'))
        kernel = _kernel(plain, path)
        old = flat.pop((*at, 'kernel'))
        window = (1,) * (kernel.ndim - 2)
        if kernel.shape[:-2] == window:
            down, up = singular_value_decomposition(kernel, pair[0])
            product = down @ up
        else:
            down, core, up = tucker(kernel, pair)
            flat[(*at, 'core', 'kernel')] = jnp.asarray(core, old.dtype)
            product = np.moveaxis(np.moveaxis(core @ up, -2, -1) @ down.T, -1, -2)
        flat[(*at, 'down', 'kernel')] = jnp.asarray(down.reshape(*window, *down.shape), old.dtype)
        flat[(*at, 'up', 'kernel')] = jnp.asarray(up.reshape(*window, *up.shape), old.dtype)
        if (*at, 'bias') in flat:
            flat[(*at, 'up', 'bias')] = flat.pop((*at, 'bias'))
        apart = np.linalg.norm(product.reshape(kernel.shape) - kernel)
        errors[path] = float(apart) / max(float(np.linalg.norm(kernel)), 1e-30)
    one = {path: layer_entry(pair, path, flat) for path, pair in ranks.items()}
    smaller = model.clone(ranks=tuple(one.values()), scan_blocks=False)
    return smaller, dict(flax.traverse_util.unflatten_dict(flat)), errors


def layer_entry(pair: tuple[int, int], path: str, flat: Mapping[tuple[str, ...], Any]) -> str:
    """The entry of `ResNet.ranks` of a convolution."""
    has_core = ('params', *path.split('/'), 'core', 'kernel') in flat
    return f'{path}={pair[0]}x{pair[1]}' if has_core else f'{path}={pair[0]}'
