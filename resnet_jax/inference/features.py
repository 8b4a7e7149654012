"""Any intermediate result of a model by its path, and nothing else kept.

The layers of a model are the paths of its parts, in the order in which they are computed:

    stem, stage3          outputs of the stem and of a stage
    stage3/block2         output of a block: what the addition, and what follows it, give; of a
                          pre-activation net the sum itself, before the norm that would follow
    stage3/block2/conv1   output of a part of a block, norms before their activation
    pooled                the head's input, the mean over space
    logits                the head's output

A branch's last norm or convolution is therefore before the addition, and `final_norm` of a
pre-activation net before the last activation.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from resnet_jax import models
from resnet_jax.errors import InputError, unknown_name
from resnet_jax.models.inputs import example_input
from resnet_jax.models.stages import unstack_blocks
from resnet_jax.training.compilation import jit

POOLED, LOGITS = 'pooled', 'logits'
_TRACED_SIZE = 32  # of images of which only the shape is traced; any size gives the same names

Extractor = Callable[[Mapping[str, Any], Float[Array, 'n *space c']], dict[str, Array]]


def layers(model: models.ResNet) -> tuple[str, ...]:
    """The names of all layers of a model, in the order in which they are computed.

    Args:
      model: from `create_model`. With `scan_blocks` it has the same layers as without.
    """
    return _layers(model.unrolled())


@functools.lru_cache(maxsize=64)
def _layers(model: models.ResNet) -> tuple[str, ...]:
    found: list[str] = []

    def note(module: nn.Module, method: str) -> bool:
        if method == '__call__' and module.path and not isinstance(module, nn.Dropout):
            found.append('/'.join(module.path))
        return False

    jax.eval_shape(
        lambda x: model.init(jax.random.key(0), x, train=False, capture_intermediates=note),
        example_input(model, _TRACED_SIZE),
    )
    head = next(i for i, name in enumerate(found) if name.startswith('head'))
    return (*found[:head], POOLED, *found[head:], LOGITS)


def outputs_of(model: models.ResNet, layers: Sequence[str]) -> Extractor:
    """A function that computes some intermediate results of a model, to use in other programs.

    It is not jitted, so that it can be part of what is: a loss, an attribution. Arguments, results
    and errors are those of `feature_extractor`.
    """
    unrolled, wanted = model.unrolled(), tuple(layers)
    check_layers(wanted, _layers(unrolled))

    def is_wanted(module: nn.Module, method: str) -> bool:
        return method == '__call__' and '/'.join(module.path) in wanted

    def extract(variables: Mapping[str, Any], images: Array) -> dict[str, Array]:
        if model.scan_blocks:
            variables = unstack_blocks(variables)
        logits, kept = unrolled.apply(
            variables,
            images,
            train=False,
            capture_intermediates=is_wanted,
            mutable=['intermediates'],
        )
        found = {LOGITS: logits, POOLED: kept['intermediates'][POOLED][0]}
        for name in wanted:
            if name not in found:
                part = functools.reduce(lambda t, k: t[k], name.split('/'), kept['intermediates'])
                found[name] = part['__call__'][0]
        return {name: found[name] for name in wanted}

    return extract


def feature_extractor(model: models.ResNet, layers: Sequence[str]) -> Extractor:
    """A jitted function that gives some intermediate results of a model.

    Args:
      model: from `create_model`, with or without `scan_blocks`.
      layers: names out of `layers(model)`.

    Returns:
      (variables, images) -> {name: array}, in evaluation mode. `images` are normalised floats; the
      arrays are feature maps [N, ..., C] in the dtype of the computation, 'pooled' and 'logits'
      float32 [N, C]. The results that are not asked for are not kept, and what only they need is
      not computed.

    Raises:
      InputError: for an unknown layer, with the nearest names.
    """
    return _extractor(model, tuple(layers))


@functools.lru_cache(maxsize=64)
def _extractor(model: models.ResNet, layers: tuple[str, ...]) -> Extractor:
    return jit(outputs_of(model, layers))


def intermediates(
    model: models.ResNet,
    variables: Mapping[str, Any],
    images: Float[Array, 'n *space c'],
    layers: Sequence[str],
) -> dict[str, Array]:
    """Some intermediate results of a model, compiled once for each shape of the images.

    Args:
      model: from `create_model`.
      variables: `params` and `batch_stats`.
      images: normalised floats.
      layers: names out of `layers(model)`, such as ('stage3/block2', 'pooled').

    Returns:
      As the function that `feature_extractor` returns.

    Raises:
      InputError: for an unknown layer, with the nearest names.
    """
    return feature_extractor(model, layers)(variables, images)


def check_layers(wanted: Sequence[str], known: Sequence[str]) -> None:
    """Refuses names that are not among the known ones, and none at all.

    Raises:
      InputError: with the nearest, and where to see all.
    """
    if not wanted:
        raise InputError('no layer is asked for; `resnet-jax features --list` shows them all')
    for name in wanted:
        if name not in known:
            raise InputError(
                f'{unknown_name("layer", name, known)} (all: `resnet-jax features --list`, or '
                'resnet_jax.inference.features.layers(model))'
            )
