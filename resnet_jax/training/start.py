"""What a run starts from: its model, and a state at random or from weights."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from resnet_jax import dense, models, text
from resnet_jax.dense.registry import ALL_DENSE_FIELDS, dense_fields, row_of
from resnet_jax.interop import files, hub, weights
from resnet_jax.models.stem import STEMS
from resnet_jax.training import processes
from resnet_jax.training.step import TrainState
from resnet_jax.training.tasks import TASKS


def as_key(seed: int) -> np.uint32:
    """A seed as JAX takes it."""
    return np.uint32(seed % 2**32)


def build_model(settings: ConfigDict, num_classes: int) -> Any:
    """The model that config.model describes; a field that is not set keeps its row's value.

    Fields of dense networks alone, which others do not have, `effects` sees to.
    """
    strange = {'name', 'dtype', *(ALL_DENSE_FIELDS - dense_fields(settings.name))}
    overrides = {
        field: value
        for field, value in settings.items()
        if field not in strange and value is not None
    }
    return dense.create_model(settings.name, num_classes, settings.dtype, **overrides)


def run_model(config: ConfigDict, classes: int) -> Any:
    """Builds the model of a run whose data has this number of classes."""
    return build_model(config.model, TASKS[config.task].outputs(classes))


def model_dimensions(settings: ConfigDict) -> int:
    """Spatial dimensions of the model that config.model describes."""
    if settings.dimensions is not None:
        return int(settings.dimensions)
    return int(row_of(settings.name, settings.backbone).settings.get('dimensions', 2))


def takes_texts(settings: ConfigDict) -> bool:
    """Whether the model that config.model describes takes whole numbers [N, L]."""
    row = row_of(settings.name, settings.backbone).settings
    stem = STEMS.get(settings.stem or row.get('stem', 'imagenet'))
    return stem is not None and bool(stem.embedding)


def start(
    config: ConfigDict,
    model: models.ResNet,
    optimizer: optax.GradientTransformation,
    init_state: Callable[[Any], TrainState],
    seed: int,
) -> TrainState:
    """The state that a run starts from: at random, or from the weights that config.init names.

    Raises:
      InputError: if the weights cannot be read or do not fit.
    """
    settings = config.init
    state = init_state(as_key(seed))
    if settings.weights is None:
        return state
    source = hub.completed(settings.weights, config.model.name)
    loaded = weights.variables_from_tensors(
        files.read_tensors(hub.fetch(source)).arrays,
        model,
        reset_head=settings.reset_head,
        where=settings.weights,
        weights_key=settings.weights_key,
        channels=weights.image_channels(state.params),
        adapt_stem=settings.adapt_stem,
        say=_note_once,
    )
    loaded = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), loaded)
    params = {**state.params, **loaded['params']}
    # Initialised again, because the optimiser's state may hold the starting parameters.
    state = state.replace(
        params=params, batch_stats=loaded['batch_stats'], opt_state=optimizer.init(params)
    )
    if state.ema is not None:
        ema = {'params': state.params, 'batch_stats': state.batch_stats}
        state = state.replace(ema=jax.tree.map(jnp.copy, ema))
    return state


@functools.cache  # once for all seeds of a sweep
def _note_once(remark: str) -> None:
    if processes.is_first():
        text.note(remark)
