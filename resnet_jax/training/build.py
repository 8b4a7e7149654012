"""What a config makes, before any step is taken."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from resnet_jax import data, models
from resnet_jax.errors import InputError, unknown_name
from resnet_jax.interop import files, hub, weights
from resnet_jax.training import metrics, optim, step, workdir
from resnet_jax.training.compilation import jit
from resnet_jax.training.evaluate import make_eval_step
from resnet_jax.training.inputs import Inputs, transform_settings, transforms
from resnet_jax.training.placement import Placement, make_placement
from resnet_jax.training.step import TrainState


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config makes, before any step is taken.

    Attributes:
      inputs: the examples.
      placement: on which devices, and how.
      start: seed -> TrainState, not yet placed.
      template: the state's shapes, with where each array lives.
      steps: (seed, state, totals, arrays, batches) -> (state, totals), a pure function for the
        share of one device; batches [steps, ...] are taken one after another.
      train_step: the same compiled for the placement; state and totals are donated.
      eval_step: see `make_eval_step`.
      schedule: the learning rate as a function of the step.
      steps_per_dispatch: how many batches `train_step` is given at a time, where they divide.
    """

    inputs: Inputs
    placement: Placement
    start: Callable[[int], TrainState]
    template: TrainState
    steps: Callable[..., Any]
    train_step: Callable[..., Any]
    eval_step: Callable[..., Any]
    schedule: Callable[[int], Any]
    steps_per_dispatch: int

    @property
    def seed(self) -> jax.Array:
        """The config's, on the devices: an argument of the step, so that seeds share a program."""
        return self.placement.put_whole(_as_key(self.inputs.config.seed))

    def init_state(self) -> TrainState:
        """The state that the run starts from, not yet placed."""
        return self.start(self.inputs.config.seed)

    def reseeded(self, config: ConfigDict) -> 'Run':
        """The run of a config that differs in its seed alone; what is compiled serves both."""
        return dataclasses.replace(self, inputs=dataclasses.replace(self.inputs, config=config))


def _as_key(seed: int) -> np.uint32:
    return np.uint32(seed % 2**32)  # as JAX takes a seed


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
    loss = make_loss(config.loss)

    def init_state(seed: Any) -> TrainState:
        return step.create_state(model, optimizer, shape, seed, bool(config.optim.ema))

    template = jax.eval_shape(init_state, config.seed)

    def train_step(seed: Any, state: TrainState, totals: Any, arrays: Any, batch: Any) -> Any:
        if arrays is not None:
            batch = {name: jnp.take(a, batch['index'], axis=0) for name, a in arrays.items()}
        one = step.make_train_step(
            model.clone(**norm_fields),
            optimizer,
            make_prepare(config, preprocessing, seed),
            seed=seed,
            loss=loss,
            ema_decay=config.optim.ema,
            pieces=pieces,
            axis=placement.axis,
        )
        return step.accumulate(one)(state, totals, batch)

    steps = step.repeat(train_step)
    return Run(
        inputs=inputs,
        placement=placement,
        start=functools.partial(start, config, model, jit(init_state)),
        template=placement.template(template),
        steps=steps,
        train_step=placement.compile(steps, template),
        eval_step=make_eval_step(model, preprocessing, placement.everywhere),
        schedule=schedule,
        steps_per_dispatch=steps_per_dispatch(config, inputs),
    )


def steps_per_dispatch(config: ConfigDict, inputs: Inputs) -> int:
    """How many steps the device takes for one call of the host; 1 for data that streams."""
    if inputs.arrays is None:
        return 1
    if config.train.steps_per_dispatch is not None:
        return config.train.steps_per_dispatch
    # A CPU gains nothing: it computes a step far longer than the host takes to ask for it.
    return 1 if jax.default_backend() == 'cpu' else 10


def start(
    config: ConfigDict, model: models.ResNet, init_state: Callable[[Any], TrainState], seed: int
) -> TrainState:
    """The state that a run starts from: at random, or from the weights that config.init names.

    Raises:
      InputError: if the weights cannot be read or do not fit.
    """
    settings = config.init
    state, reset_head = init_state(_as_key(seed)), settings.reset_head
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
    config: ConfigDict, preprocessing: data.Preprocessing, seed: int | jax.Array
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """The device's part of preparing a batch: (uint8 images, step, positions) -> floats."""
    key = step.named_key(seed, 'augment')
    names, settings = transforms(config), transform_settings(config)

    def prepare(images: jax.Array, number: jax.Array, positions: jax.Array) -> jax.Array:
        floats = preprocessing.normalize(images)
        return data.augment(names, settings, key, floats, None, number, positions)[0]

    return prepare
