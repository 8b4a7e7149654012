"""A layer's output, and the gradient of a class's logit with respect to it, by the layer's path."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from resnet_jax.analysis.image_scores import ImageScores, body_of
from resnet_jax.errors import InputError
from resnet_jax.inference.features import LOGITS, POOLED, check_layers, layers
from resnet_jax.models import ResNet
from resnet_jax.models.block import spell_out
from resnet_jax.training.compilation import jit

FINAL_MAP = 'final_map'  # what the head averages, which gives `POOLED`
Variables = Mapping[str, Any]


def default_layer(model: ResNet | ImageScores) -> str:
    """The map that the head averages, by the name that it has; of a dense network the last one.

    That is the last stage's output, but of a pre-activation net what the last norm and activation
    make of it: the stage gives raw sums there, of which no channel has to be positive or of the
    size of the others, so that the activation times a weight says little. With this choice the
    gradient is the head's weight by the number of positions in either net. In a dense network the
    last norm has to do.
    """
    net, prefix = body_of(model)
    before, _, _ = spell_out(net.block, net.fixup)
    if before:
        return 'final_norm' if prefix else FINAL_MAP
    return f'stage{len(net.stage_sizes)}'


def check_layer(model: ResNet | ImageScores, layer: str) -> None:
    """Refuses a layer that the model does not have, or whose output has no positions.

    Args:
      model: the network; of a dense one the layers are those of its backbone.
      layer: a name.

    Raises:
      InputError: with the nearest names.
    """
    net, prefix = body_of(model)
    if net.dimensions != 2:
        raise InputError(f'maps are of images; this model takes {net.dimensions}-D inputs')
    known = [name for name in layers(net) if name not in (POOLED, LOGITS)]
    known = known if not prefix else [name for name in known if not name.startswith('head')]
    check_layers([layer], known if prefix else [*known, FINAL_MAP])
    if not _is_map(model.unrolled(), layer):
        raise InputError(
            f'the output of layer {layer!r} is no map; take a stage, a block, or a convolution or '
            'norm in one'
        )


@functools.lru_cache(maxsize=64)
def _is_map(model: ResNet | ImageScores, layer: str) -> bool:
    """Whether a layer's output for images has positions."""
    _, prefix = body_of(model)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)

    def run(images: Array) -> Array:
        kept: list[Array] = []
        with nn.intercept_methods(_shifted(prefix + layer, None, kept)):
            model.init_with_output(jax.random.key(0), images, train=False)
        return kept[0]

    return len(jax.eval_shape(run, images).shape) == 4


def _shifted(layer: str, shift: Array | None, kept: list[Array]) -> Callable[..., Any]:
    """An interceptor that keeps a layer's output and adds a perturbation to it."""

    def keep(y: Array) -> Array:
        kept.append(y)
        return y if shift is None else y + shift

    def intercept(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if layer == FINAL_MAP:
            if context.method_name == 'pool' and isinstance(context.module, ResNet):
                return run(keep(args[0]), *args[1:], **kwargs)
        elif context.method_name == '__call__' and '/'.join(context.module.path) == layer:
            return keep(run(*args, **kwargs))
        return run(*args, **kwargs)

    return intercept


def response(
    model: ResNet | ImageScores, layer: str
) -> Callable[[Variables, Array, Array], tuple[Array, Array]]:
    """A function that gives a layer's output, and how the logits change with it: not jitted.

    The gradient is taken with respect to a zero that is added to the output, so that any layer has
    one, and only what follows it is differentiated.

    Args:
      model: without `scan_blocks` and `remat`.
      layer: of the model, or `FINAL_MAP`; of a dense network of its backbone.

    Returns:
      (variables, images, classes) -> (activation, gradient), float32 [N, h, w, c].
    """
    _, prefix = body_of(model)

    def compute(variables: Variables, images: Array, targets: Array) -> tuple[Array, Array]:
        def score(shift: Array | None) -> tuple[Array, Array]:
            kept: list[Array] = []
            with nn.intercept_methods(_shifted(prefix + layer, shift, kept)):
                logits: Any = model.apply(variables, images, train=False)
            return of_targets(logits, targets).sum(), kept[0]

        _, shape = jax.eval_shape(lambda: score(None))
        zero = jnp.zeros(shape.shape, shape.dtype)
        gradient, activation = jax.grad(score, has_aux=True)(zero)
        return activation.astype(jnp.float32), gradient.astype(jnp.float32)

    return compute


def of_targets(logits: Float[Array, 'n classes'], targets: Int[Array, ' n']) -> Float[Array, ' n']:
    """The logit of each example's class."""
    return jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]


@functools.lru_cache(maxsize=16)
def compiled_response(model: ResNet | ImageScores, layer: str) -> Any:
    """`response`, jitted once for each model and layer."""
    return jit(response(model, layer))
