"""Which positions of an image a network's logit of a class depends on: maps of attribution.

Two kinds of methods. Class activation maps look at a layer: at its output A [h, w, c], the
activation, and at the gradient G of the class's logit (not of its probability) with respect to it.
The others look at pixels. A map is raw: neither scaled nor enlarged.

A positive value speaks for the class. A signed method also has negative values, which speak against
it; its maps of pixels are sums over the image's channels.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from resnet_jax.analysis.examples import Batch
from resnet_jax.analysis.image_scores import ImageScores
from resnet_jax.analysis.responses import (
    check_layer,
    compiled_response,
    default_layer,
    of_targets,
)
from resnet_jax.errors import check_choice
from resnet_jax.models import ResNet
from resnet_jax.models.stages import unstack_blocks
from resnet_jax.training.compilation import jit

Variables = Mapping[str, Any]
Maps = Float[np.ndarray, 'n h w']


@dataclass(frozen=True)
class Settings:
    """The settings of the methods that have any.

    Attributes:
      steps: of integrated gradients, at the midpoints of equal parts of the path.
      samples: of SmoothGrad.
      noise: of SmoothGrad, standard deviation as a share of an image's range of values.
      stride: of occlusion, pixels: the side of a cell of its map; 0: an eighth of the image's side.
      patch: of occlusion, side in pixels, around the cell's middle; 0: twice the stride.
      seed: of the noise.
    """

    steps: int = 32
    samples: int = 25
    noise: float = 0.15
    stride: int = 0
    patch: int = 0
    seed: int = 0

    def occlusion(self, size: int) -> tuple[int, int]:
        """The stride and the patch for images of a size."""
        stride = self.stride or max(1, size // 8)
        return stride, self.patch or 2 * stride


@dataclass(frozen=True)
class Case:
    """What a method explains: a batch of images, of each the logit of a class.

    Attributes:
      model: with every block by its own name.
      layer: of the class activation maps.
      variables: `params` and `batch_stats`, not stacked.
      images: normalised.
      targets: the class of each.
      numbers: of the examples, for their random numbers.
      baseline: a normalised image without information, from which integrated gradients begin, and
        which covers what occlusion hides.
      settings: of the methods.
    """

    model: ResNet | ImageScores
    layer: str
    variables: Variables
    images: Float[Array, 'n h w c']
    targets: Int[Array, ' n']
    numbers: Int[np.ndarray, ' n']
    baseline: Float[Array, 'h w c']
    settings: Settings

    @functools.cached_property
    def response(self) -> tuple[Float[Array, 'n h w c'], Float[Array, 'n h w c']]:
        """The layer's activation, and the gradient of the logits with respect to it."""
        run = compiled_response(self.model, self.layer)
        found: tuple[Array, Array] = run(self.variables, self.images, self.targets)
        return found

    def scores(self, images: Float[Array, 'n h w c']) -> Float[Array, ' n']:
        """The logit of each image's class."""
        found: Array = _compiled_scores(self.model)(self.variables, images, self.targets)
        return found

    def gradient(self, images: Float[Array, 'n h w c']) -> Float[Array, 'n h w c']:
        """The gradient of these logits with respect to the images."""
        found: Array = _compiled_gradient(self.model)(self.variables, images, self.targets)
        return found


@functools.lru_cache(maxsize=16)
def _compiled_scores(model: ResNet | ImageScores) -> Any:
    def scores(variables: Variables, images: Array, targets: Array) -> Array:
        logits: Any = model.apply(variables, images, train=False)
        return of_targets(logits, targets)

    return jit(scores)


@functools.lru_cache(maxsize=16)
def _compiled_gradient(model: ResNet | ImageScores) -> Any:
    def score(images: Array, variables: Variables, targets: Array) -> Array:
        logits: Any = model.apply(variables, images, train=False)
        return of_targets(logits, targets).sum()

    return jit(lambda v, x, targets: jax.grad(score)(x, v, targets).astype(jnp.float32))


# Class activation maps


def grad_cam(activation: Array, gradient: Array) -> Array:
    """relu(sum over channels of the mean of G over positions times A): arXiv 1610.02391, eq. 2."""
    weights = jnp.mean(gradient, axis=(1, 2), keepdims=True)
    return jax.nn.relu(jnp.sum(weights * activation, axis=-1))


def grad_cam_plus_plus(activation: Array, gradient: Array) -> Array:
    """Grad-CAM with the mean of relu(G) weighted by position: arXiv 1710.11063, eq. 19.

    The paper explains exp(logit); its factor exp(logit), equal at all positions, is left out. Where
    G is not positive, its weight plays no role; elsewhere G^2 is cancelled from the fraction.
    """
    total = jnp.sum(activation, axis=(1, 2), keepdims=True)
    below = 2 + gradient * total
    share = jnp.where(below == 0, 0, 1 / jnp.where(below == 0, 1, below))
    weights = jnp.sum(share * jax.nn.relu(gradient), axis=(1, 2), keepdims=True)
    return jax.nn.relu(jnp.sum(weights * activation, axis=-1))


def hires_cam(activation: Array, gradient: Array) -> Array:
    """Sum over channels of G times A, with its sign: arXiv 2011.08891, section 3."""
    return jnp.sum(gradient * activation, axis=-1)


def layer_cam(activation: Array, gradient: Array) -> Array:
    """relu(sum over channels of relu(G) times A): Jiang et al., IEEE TIP 30 (2021), eq. 6 and 7."""
    return jax.nn.relu(jnp.sum(jax.nn.relu(gradient) * activation, axis=-1))


def eigen_cam(activation: Array, gradient: Array) -> Array:
    """The projection on the first right singular vector of A, of no class: arXiv 2008.00299.

    A is not centred, as in the paper. The sign is that which makes the sum positive: of an
    activation without negative values, all of the map.
    """
    del gradient
    n, h, w, c = activation.shape
    left, values, _ = jnp.linalg.svd(activation.reshape(n, h * w, c), full_matrices=False)
    found = left[:, :, 0] * values[:, :1]
    sign = jnp.where(jnp.sum(found, axis=1, keepdims=True) < 0, -1.0, 1.0)
    return (found * sign.astype(found.dtype)).reshape(n, h, w)


def _of_layer(formula: Callable[[Array, Array], Array]) -> Callable[[Case], Array]:
    compiled = jit(formula)
    return lambda case: compiled(*case.response)


# Methods that look at pixels. Their loops are Python's: on a CPU, XLA runs the gradient of a
# convolution inside of its own loops many times slower.


def integrated_gradients(case: Case) -> Array:
    """(x - x0) times the mean gradient on the way from x0 to x: arXiv 1703.01365, eq. 1.

    The sum of a map is the logit of x less that of the baseline x0, up to the error of the
    midpoint rule.
    """
    steps, way = case.settings.steps, case.images - case.baseline[None]
    total = jnp.zeros_like(way)
    for i in range(steps):
        total += case.gradient(case.baseline[None] + (i + 0.5) / steps * way)
    return jnp.sum(way * total / steps, axis=-1)


def smooth_grad(case: Case) -> Array:
    """The mean gradient at images with Gaussian noise: arXiv 1706.03825, section 2.

    With its sign: a positive value means that larger values of this pixel, of all channels, raise
    the logit. The noise of an example depends on its number and on the seed alone.
    """
    settings, total = case.settings, jnp.zeros_like(case.images)
    low, high = (f(case.images, axis=(1, 2, 3), keepdims=True) for f in (jnp.min, jnp.max))
    numbers = jnp.asarray(case.numbers, jnp.uint32)
    for i in range(settings.samples):
        key = jax.random.fold_in(jax.random.key(settings.seed), i)
        noise = _noise(key, numbers, case.images.shape[1:]).astype(case.images.dtype)
        total += case.gradient(case.images + settings.noise * (high - low) * noise)
    return jnp.sum(total / settings.samples, axis=-1)


@functools.partial(jax.jit, static_argnums=2)
def _noise(key: Array, numbers: Array, shape: tuple[int, ...]) -> Array:
    return jax.vmap(lambda n: jax.random.normal(jax.random.fold_in(key, n), shape))(numbers)


def occlusion(case: Case) -> Array:
    """How much the logit falls when a square is hidden: arXiv 1311.2901, section 4.2.

    A cell of the map is a square of `stride` pixels; the hidden square of `patch` pixels lies
    around its middle, and ends at the image's border.
    """
    _, height, width, _ = case.images.shape
    stride, patch = case.settings.occlusion(min(height, width))
    whole, rows = case.scores(case.images), []
    for top in _starts(height, stride, patch):
        row = []
        for left in _starts(width, stride, patch):
            hidden = np.zeros((1, height, width, 1), bool)
            hidden[:, max(top, 0) : top + patch, max(left, 0) : left + patch] = True
            row.append(case.scores(jnp.where(hidden, case.baseline[None], case.images)))
        rows.append(jnp.stack(row, axis=-1))
    return whole[:, None, None] - jnp.stack(rows, axis=1)


def _starts(size: int, stride: int, patch: int) -> list[int]:
    """Where the patches around the middles of the cells begin; may lie outside of the image."""
    return [cell * stride + (stride - patch) // 2 for cell in range(-(-size // stride))]


class Method(NamedTuple):
    """A method.

    Attributes:
      title: for people.
      explain: gives the maps [N, h, w] of a case.
      signed: whether negative values speak against the class.
    """

    title: str
    explain: Callable[[Case], Array]
    signed: bool


METHODS = {
    'grad_cam': Method('Grad-CAM', _of_layer(grad_cam), False),
    'grad_cam++': Method('Grad-CAM++', _of_layer(grad_cam_plus_plus), False),
    'hires_cam': Method('HiResCAM', _of_layer(hires_cam), True),
    'layer_cam': Method('LayerCAM', _of_layer(layer_cam), False),
    'eigen_cam': Method('Eigen-CAM', _of_layer(eigen_cam), False),
    'integrated_gradients': Method('integrated gradients', integrated_gradients, True),
    'smooth_grad': Method('SmoothGrad', smooth_grad, True),
    'occlusion': Method('occlusion', occlusion, True),
}


# Over the examples


def explain(
    model: ResNet | ImageScores,
    variables: Variables,
    batches: Iterable[Batch],
    targets: Int[np.ndarray, ' n'],
    methods: Sequence[str],
    *,
    baseline: Float[Array, 'h w c'],
    layer: str | None = None,
    settings: Settings | None = None,
) -> dict[str, Maps]:
    """The raw maps of all examples, by method.

    Args:
      model: from `create_model`, for images, with or without `scan_blocks`; a network for
        segmentation or detection as `ImageScores`.
      variables: `params` and `batch_stats`.
      batches: the examples.
      targets: the class of each example, padding left out, whose logit is explained.
      methods: keys of `METHODS`.
      baseline: as in `Case`.
      layer: of the class activation maps; None: `default_layer(model)`.
      settings: of the methods.

    Raises:
      InputError: for an unknown method or layer, with the nearest names.
    """
    for name in methods:
        check_choice('method', name, METHODS)
    layer = layer or default_layer(model)
    check_layer(model, layer)
    variables = unstack_blocks(variables) if model.scan_blocks else variables
    found: dict[str, list[Maps]] = {name: [] for name in methods}
    start = 0
    for batch in batches:
        n = int(batch.mask.sum())
        case = Case(
            model.unrolled(),
            layer,
            variables,
            batch.images,
            jnp.asarray(padded(targets[start : start + n], batch.mask), jnp.int32),
            np.arange(start, start + len(batch.mask)),
            baseline,
            settings or Settings(),
        )
        for name in methods:
            maps = METHODS[name].explain(case)
            found[name].append(np.asarray(maps, np.float32)[batch.mask])
        start += n
    return {name: np.concatenate(maps) for name, maps in found.items()}


def padded(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The values of a batch's examples, with zeros for its padding, so that it has one shape."""
    found = np.zeros((len(mask), *values.shape[1:]), values.dtype)
    found[mask] = values
    return found


def enlarged(maps: Float[np.ndarray, 'n h w'], size: int) -> Float[np.ndarray, 'n size size']:
    """Maps at the size of the images: bilinear, the corners of the cells on those of the image."""
    n, h, w = maps.shape
    if (h, w) == (size, size):
        return maps
    return np.asarray(jax.image.resize(maps, (n, size, size), 'bilinear', antialias=False))
