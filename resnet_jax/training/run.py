"""What a config makes, before any step is taken."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from resnet_jax import data, models
from resnet_jax.interop import files, hub, weights
from resnet_jax.models.errors import InputError, unknown_name
from resnet_jax.training import metrics, optim, step, workdir
from resnet_jax.training.compilation import jit
from resnet_jax.training.evaluate import make_eval_step
from resnet_jax.training.inputs import Inputs
from resnet_jax.training.placement import Placement, make_placement
from resnet_jax.training.step import TrainState


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config makes, before any step is taken.

    Attributes:
      inputs: the examples.
      placement: on which devices, and how.
      init_state: () -> TrainState, not yet placed.
      template: the state's shapes, with where each array lives.
      train_step: (state, totals, arrays, batch) -> (state, totals), jitted; state and totals are
        donated.
      eval_step: see `make_eval_step`.
      schedule: the learning rate as a function of the step.
    """

    inputs: Inputs
    placement: Placement
    init_state: Callable[[], TrainState]
    template: TrainState
    train_step: Callable[..., Any]
    eval_step: Callable[..., Any]
    schedule: Callable[[int], Any]


def build_run(config: ConfigDict, inputs: Inputs) -> Run:
    """Builds model, optimiser and steps."""
    preprocessing = inputs.preprocessing
    pieces = config.optim.accumulate
    placement = make_placement(config.parallel, config.train.batch_size, pieces)
    model = workdir.build_model(config.model, len(preprocessing.class_names))
    norm_fields = placement.norm_fields(config.train.batch_size // pieces)
    schedule = optim.make_schedule(
        config.optim,
        batch_size=config.train.batch_size,
        total_steps=inputs.total_steps,
        steps_per_epoch=inputs.steps_per_epoch,
    )
    optimizer = optim.make_optimizer(config.optim, schedule)
    shape = (preprocessing.image_size, preprocessing.image_size, preprocessing.channels)
    init_state = functools.partial(
        step.create_state, model, optimizer, shape, config.seed, bool(config.optim.ema)
    )
    train_step = step.make_train_step(
        model.clone(**norm_fields),
        optimizer,
        make_prepare(config, preprocessing),
        seed=config.seed,
        loss=make_loss(config.loss),
        ema_decay=config.optim.ema,
        pieces=pieces,
        axis=placement.axis,
    )
    template = jax.eval_shape(init_state)

    def step_on_arrays(state: TrainState, totals: Any, arrays: Any, batch: Any) -> Any:
        if arrays is not None:
            batch = {name: jnp.take(a, batch['index'], axis=0) for name, a in arrays.items()}
        return step.accumulate(train_step)(state, totals, batch)

    return Run(
        inputs=inputs,
        placement=placement,
        init_state=functools.partial(start, config.init, model, jit(init_state)),
        template=placement.template(template),
        train_step=placement.compile(step_on_arrays, template),
        eval_step=make_eval_step(model, preprocessing),
        schedule=schedule,
    )


def start(
    settings: ConfigDict, model: models.ResNet, init_state: Callable[[], TrainState]
) -> TrainState:
    """The state that a run starts from: at random, or from the weights that config.init names.

    Raises:
      InputError: if the weights cannot be read or do not fit.
    """
    state, reset_head = init_state(), settings.reset_head
    if settings.weights is None:
        return state
    tensors = files.read_tensors(hub.fetch(settings.weights))
    loaded = weights.variables_from_tensors(
        tensors.arrays, model, reset_head=reset_head, where=settings.weights
    )
    theirs, ours = (
        params['stem']['conv1']['kernel'].shape[-2] for params in (loaded['params'], state.params)
    )
    if theirs != ours:
        raise InputError(
            f'{settings.weights} takes images of {theirs} channels and the run has {ours}; set '
            f'data.channels={theirs}'
        )
    loaded = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), loaded)
    state = state.replace(
        params={**state.params, **loaded['params']}, batch_stats=loaded['batch_stats']
    )
    if state.ema is not None:
        ema = {'params': state.params, 'batch_stats': state.batch_stats}
        state = state.replace(ema=jax.tree.map(jnp.copy, ema))
    return state


def make_loss(settings: ConfigDict) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The loss that config.loss names: (logits, labels) -> [N]."""
    if settings.name not in metrics.LOSSES:
        raise unknown_name('loss.name', settings.name, metrics.LOSSES)
    if settings.name == 'focal' and settings.label_smoothing:
        raise InputError('loss.label_smoothing does not go with loss.name=focal; set it to 0')
    loss = metrics.LOSSES[settings.name]
    return lambda logits, labels: loss(logits, labels, settings)


def make_prepare(
    config: ConfigDict, preprocessing: data.Preprocessing
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """The device's part of preparing a batch: (uint8 images, step, positions) -> floats."""
    key = step.named_key(config.seed, 'augment')
    settings = config.augment

    def prepare(images: jax.Array, number: jax.Array, positions: jax.Array) -> jax.Array:
        keys = data.example_keys(key, number, positions)
        return data.augment(
            preprocessing.normalize(images),
            keys,
            pad=settings.pad,
            pad_mode=settings.pad_mode,
            flip=settings.flip,
        )

    return prepare
