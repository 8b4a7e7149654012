"""What a config describes, built: devices, model, optimiser, and the compiled step."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from resnet_jax import data
from resnet_jax.data import Preprocessing
from resnet_jax.dense import Network, net_of, with_net_fields
from resnet_jax.errors import InputError
from resnet_jax.training import distillation, optim, pruning, signal, step
from resnet_jax.training.checkpoint import LOWEST_LOSS
from resnet_jax.training.compilation import jit
from resnet_jax.training.evaluate import make_eval_step
from resnet_jax.training.groups import EVERYTHING, Groups, read_groups
from resnet_jax.training.inputs import Batch, Inputs, open_inputs
from resnet_jax.training.placement import Placement, make_placement
from resnet_jax.training.start import as_key, run_model, start
from resnet_jax.training.step import TrainState
from resnet_jax.training.tasks import TASKS, Task


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config describes, before any step is taken.

    Attributes:
      inputs: the examples.
      placement: on which devices, and how.
      task: what is learnt.
      start: seed -> initial TrainState, not yet placed.
      template: the state's shapes, with where each array lives.
      steps: (seed, state, totals, arrays, batches) -> (state, totals), a pure function for the
        share of one device; batches [steps, ...] are taken one after another.
      train_step: the same compiled for the placement; state and totals are donated.
      eval_step: see `make_eval_step`.
      schedule: the learning rate as a function of the step.
      signal: (seed, state, arrays, batch that was taken last) -> figures of the state's blocks by
        name, see `signal.make_signal`; None without config.log.signal_every.
      steps_per_dispatch: number of batches that `train_step` takes at a time, where they divide.
      teacher: that the model learns from; None without config.distill.teacher.
    """

    inputs: Inputs
    placement: Placement
    task: Task
    start: Callable[[int], TrainState]
    template: TrainState
    steps: Callable[..., Any]
    train_step: Callable[..., Any]
    eval_step: Callable[..., Any]
    schedule: Callable[[int], Any]
    signal: Callable[..., dict[str, float]] | None
    steps_per_dispatch: int
    teacher: distillation.Teacher | None = None

    @property
    def arrays(self) -> Any:
        """What the step takes besides the batches: `inputs.arrays`, and the teacher's."""
        return distillation.held(self.inputs.arrays, self.teacher)

    @property
    def config(self) -> ConfigDict:
        """Of the run."""
        return self.inputs.config

    @property
    def total_steps(self) -> int:
        """Length of the run."""
        return self.inputs.total_steps

    @property
    def seed(self) -> Array:
        """The config's, on the devices: an argument of the step, so that seeds share a program."""
        return self.placement.put_whole(as_key(self.config.seed))

    def init_state(self) -> TrainState:
        """The state that the run starts from, not yet placed."""
        return self.start(self.config.seed)

    def no_totals(self) -> Any:
        """The totals that a step adds to, of no steps, on the devices."""
        return self.placement.put_whole(self.task.no_sums())

    def dispatches(
        self, first: int, bad: data.BadImages | None = None
    ) -> Generator[tuple[int, int, Batch]]:
        """From a step to the last: (steps then taken, steps in the dispatch, batches [steps, ...]).

        A dispatch ends where the config wants figures, an evaluation or a checkpoint. `bad` counts
        the images that are replaced, where config.data.bad_images wants it.
        """
        config, total = self.config, self.total_steps
        periods = (
            config.train.log_every,
            config.train.eval_every or total,
            config.checkpoint.every,
        )
        batches = self.inputs.train_batches(first, total, bad)
        done = first
        try:
            while done < total:
                left = min(total - done, *(period - done % period for period in periods))
                # A shorter rest is taken step by step: two programs to compile, not one per length.
                count = self.steps_per_dispatch if self.steps_per_dispatch <= left else 1
                done += count
                yield done, count, stack(list(itertools.islice(batches, count)))
        finally:
            batches.close()

    def reseeded(self, config: ConfigDict) -> 'Run':
        """The run of a config that differs in its seed alone; compiled programs serve both."""
        return dataclasses.replace(self, inputs=dataclasses.replace(self.inputs, config=config))


def stack(batches: list[Batch]) -> Batch:
    """Batches [B, ...], one for each step -> [steps, B, ...]."""
    if len(batches) == 1:
        return {name: x[None] for name, x in batches[0].items()}
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def build_run(config: ConfigDict, inputs: Inputs | None = None) -> Run:
    """Builds data, model, optimiser and steps of a resolved config.

    Args:
      config: checked by `checks.resolve`.
      inputs: opened before; None: open them here.

    Raises:
      InputError: for what only the data and the devices can show to be wrong.
    """
    inputs = inputs or open_inputs(config)
    preprocessing, task = inputs.preprocessing, TASKS[config.task]
    placement = make_placement(config.parallel, config.train.batch_size, config.optim.accumulate)
    classes = len(preprocessing.class_names)
    if config.checkpoint.best == 'top5' and classes <= 5:
        raise InputError(
            f'config field checkpoint.best top5 is always 1 of {classes} classes; set top1'
        )
    model = run_model(config, classes)
    schedule = optim.make_schedule(
        config.optim,
        batch_size=config.train.batch_size,
        total_steps=inputs.total_steps,
        steps_per_epoch=inputs.steps_per_epoch,
    )
    groups = _groups(config, model, preprocessing, inputs)
    optimizer = optim.make_optimizer(config.optim, schedule, groups, inputs.steps_per_epoch)
    optimizer = pruning.with_zeros(optimizer, config.prune, inputs.total_steps)
    teacher = distillation.read_teacher(config, model, inputs)

    def init_state(seed: Any) -> TrainState:
        return _create_state(config, model, optimizer, preprocessing, seed)

    template = jax.eval_shape(init_state, as_key(config.seed))
    level = config.train.xla_optimization_level
    steps = _make_steps(config, inputs, placement, model, optimizer, groups, teacher)
    return Run(
        inputs=inputs,
        placement=placement,
        task=task,
        start=functools.partial(start, config, model, optimizer, jit(init_state, level)),
        template=placement.template(template),
        steps=steps,
        train_step=placement.compile(steps, template, level),
        eval_step=make_eval_step(model, preprocessing, placement.everywhere, task, level),
        schedule=schedule,
        signal=_make_signal(config, inputs, placement, model, groups),
        steps_per_dispatch=_steps_per_dispatch(config, inputs),
        teacher=teacher,
    )


def _groups(
    config: ConfigDict,
    model: Network,
    preprocessing: Preprocessing,
    inputs: Inputs | None = None,
) -> Groups:
    """How the parts of the model are trained; without inputs, no matter from which step."""
    train, rates = config.train, config.optim
    frozen, factors = train.freeze or train.freeze_batch_norm, rates.rates or rates.layer_decay != 1
    if not (frozen or factors or rates.decay_towards == 'start'):
        return EVERYTHING
    images = jnp.zeros((1, *preprocessing.model_shape), net_of(model).input_dtype)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    if inputs is None:
        return read_groups(config, variables, 1.0)
    return read_groups(config, variables, inputs.steps_per_epoch, inputs.total_steps)


def _create_state(
    config: ConfigDict,
    model: Network,
    optimizer: optax.GradientTransformation,
    preprocessing: Preprocessing,
    seed: Any,
) -> TrainState:
    shape = preprocessing.model_shape
    lowest = config.checkpoint.best == LOWEST_LOSS
    return step.create_state(model, optimizer, shape, seed, optim.averages(config.optim), lowest)


def _make_steps(
    config: ConfigDict,
    inputs: Inputs,
    placement: Placement,
    model: Network,
    optimizer: optax.GradientTransformation,
    groups: Groups,
    teacher: distillation.Teacher | None,
) -> Callable[..., Any]:
    """(seed, state, totals, arrays, batches [steps, ...]) -> (state, totals), for one device."""
    pieces, class_weights = config.optim.accumulate, inputs.class_weights()
    norm_fields = placement.norm_fields(config.train.batch_size // pieces)

    def train_step(seed: Any, state: TrainState, totals: Any, arrays: Any, batch: Any) -> Any:
        task = TASKS[config.task]
        prepare = make_prepare(config, inputs.preprocessing, seed, placement.axis)
        loss, method = task.loss(config.loss, class_weights), None
        if teacher is not None:
            taught = teacher.teach(arrays, prepare, task, loss)
            arrays, prepare, task, loss, method = taught
        one = step.make_train_step(
            with_net_fields(model, **norm_fields),
            optimizer,
            prepare,
            task,
            seed=seed,
            loss=loss,
            method=method,
            ema_decay=config.optim.ema,
            evaluated_params=optim.evaluated_params(config.optim),
            epoch=optim.whole_epoch(inputs.steps_per_epoch),
            groups=groups,
            pieces=pieces,
            axis=placement.axis,
        )
        return step.add_up(one)(state, totals, _examples(arrays, batch))

    return step.repeat(train_step)


def _examples(arrays: Any, batch: Any) -> Any:
    """A batch's examples, of data on the device by their numbers."""
    if arrays is None:
        return batch
    return {name: jnp.take(a, batch['index'], axis=0) for name, a in arrays.items()}


def _make_signal(
    config: ConfigDict,
    inputs: Inputs,
    placement: Placement,
    model: Network,
    groups: Groups,
) -> Callable[..., dict[str, float]] | None:
    """What measures the signal, on the examples that a step gives the model at a time."""
    if not config.log.signal_every:
        return None
    if jax.process_count() > 1:
        raise InputError(
            'config field log.signal_every measures in one process, and here are '
            f'{jax.process_count()}; set it to 0'
        )
    task, pieces = TASKS[config.task], config.optim.accumulate
    # It sees the whole batch in every mode, as under jit.
    seen = dataclasses.replace(placement, mode='jit')
    measure = signal.make_signal(
        net_of(model).clone(**seen.norm_fields(config.train.batch_size // pieces)),
        task.loss(config.loss, inputs.class_weights()),
        groups,
    )

    def run(seed: Any, variables: Any, number: Any, arrays: Any, batch: Any) -> Any:
        arrays = arrays['examples'] if config.distill.teacher is not None else arrays
        batch = _examples(arrays, batch)
        batch['position'] = jnp.arange(batch['image'].shape[0])
        prepare = make_prepare(config, inputs.preprocessing, seed)
        images, targets = prepare(batch['image'], task.targets(batch), number, batch['position'])
        images = images[0] if isinstance(images, tuple) else images  # without smaller views
        return measure(variables, *jax.tree.map(lambda x: x[::pieces], (images, targets)))

    level = config.train.xla_optimization_level
    compiled = jit(run, level, out_shardings=placement.everywhere)

    def signal_of(seed: Any, state: TrainState, arrays: Any, batch: Batch) -> dict[str, float]:
        variables = {'params': state.params, 'batch_stats': state.batch_stats}
        placed = placement.put_batch(batch)
        found = compiled(seed, variables, state.step - 1, arrays, placed)
        return signal.in_order(net_of(model), found)

    return signal_of


def make_prepare(
    config: ConfigDict, preprocessing: Preprocessing, seed: int | Array, axis: str | None = None
) -> step.Prepare:
    """The device's part of preparing a batch: normalises and augments.

    Args:
      config: of the run.
      preprocessing: of its images.
      seed: of the run; may be a traced value.
      axis: name of the mapped axis over which the whole batch is divided; None: it is here.
    """
    key = step.named_key(seed, 'augment')

    def prepare(
        images: Array, targets: PyTree[Array], number: Array, positions: Array
    ) -> tuple[Any, PyTree[Array]]:
        return data.augment(
            config.augment.transforms,
            key,
            images,
            targets,
            number,
            positions,
            normalize=preprocessing.normalize,
            classes=len(preprocessing.class_names),
            axis=axis,
        )

    return prepare


def _steps_per_dispatch(config: ConfigDict, inputs: Inputs) -> int:
    """Steps that the device takes for one call of the host; 1 for data that is streamed."""
    if inputs.arrays is None:
        return 1
    if config.train.steps_per_dispatch is not None:
        return config.train.steps_per_dispatch
    # A CPU gains nothing: computing a step takes it far longer than dispatching one.
    return 1 if jax.default_backend() == 'cpu' else 10


def state_template(config: ConfigDict, model: Network, preprocessing: Preprocessing) -> TrainState:
    """The shapes of a run's training state on one device, without computing it."""
    # The schedule is no part of the state, so any one gives the same structure.
    groups = _groups(config, model, preprocessing)
    optimizer = optim.make_optimizer(config.optim, optax.constant_schedule(0.0), groups)
    optimizer = pruning.with_zeros(optimizer, config.prune, 1)
    state = jax.eval_shape(
        lambda: _create_state(config, model, optimizer, preprocessing, as_key(config.seed))
    )
    # Stated, because a checkpoint remembers devices that may not be here.
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), state)
