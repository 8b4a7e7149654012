"""The training state and one step, as pure functions."""

import contextlib
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from resnet_jax.models.norms import evaluated
from resnet_jax.training.groups import EVERYTHING, Groups, by_path
from resnet_jax.training.tasks import Loss, Task

# Of no epoch yet. Not infinite: that in a state means that the run diverged.
NO_LOSS = 1e30
Batch = Mapping[str, Array]
Sums = dict[str, Array]
# (state of the optimiser, parameters that are trained) -> parameters to evaluate
EvaluatedParams = Callable[[PyTree[Array], PyTree[Array]], PyTree[Array]]
# (uint8 images [N, H, W, C], targets, step, positions in the whole batch [N]) -> (floats, targets);
# a pair of floats, where smaller views [N, K, S, S, C] of each image come with the images
Prepare = Callable[[Array, PyTree[Array], Array, Array], tuple[Any, PyTree[Array]]]


class TrainState(flax.struct.PyTreeNode):
    """Everything that changes during training, as one pytree.

    Attributes:
      step: number of steps taken, int32.
      params, batch_stats: the model's collections.
      opt_state: of the Optax optimiser.
      ema: {'params', 'batch_stats'} to evaluate with, averaged or those of the lowest training
        loss (then with 'lowest', see `lowest_loss`); None: those that are trained.
    """

    step: Int[Array, '']
    params: PyTree[Array]
    batch_stats: PyTree[Array]
    opt_state: PyTree[Array]
    ema: PyTree[Array] | None = None


def named_key(seed: int | Array, name: str) -> Array:
    """The random key of one purpose: a function of the run's seed and the purpose's name alone."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    seed: int | Array,
    ema: bool,
    lowest: bool = False,
) -> TrainState:
    """A freshly initialised state for images of this shape: [H, W, C], [L, C] or [L] of texts."""
    images = jnp.zeros((1, *image_shape), getattr(model, 'input_dtype', jnp.float32))
    variables = model.init(named_key(seed, 'params'), images, train=False)
    params, batch_stats = variables['params'], variables.get('batch_stats', {})
    kept: dict[str, Any] | None = None
    if ema or lowest:
        # Copies, because the step donates its state and a buffer can be donated only once.
        kept = jax.tree.map(jnp.copy, {'params': params, 'batch_stats': batch_stats})
        if lowest:
            loss = jnp.asarray(NO_LOSS, jnp.float32)
            kept = {**kept, 'lowest': {'loss': loss, 'sum': jnp.zeros_like(loss)}}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        ema=kept,
    )


def eval_variables(state: TrainState) -> dict[str, Any]:
    """The variables to evaluate and predict with: the averaged ones where they are kept."""
    if state.ema is not None and 'lowest' in state.ema:
        return {name: value for name, value in state.ema.items() if name != 'lowest'}
    if state.ema is not None:
        return state.ema
    return {'params': state.params, 'batch_stats': state.batch_stats}


def lowest_loss(state: TrainState) -> float | None:
    """The lowest mean training loss of an epoch so far; None where the run does not keep it."""
    if state.ema is None or 'lowest' not in state.ema:
        return None
    return float(state.ema['lowest']['loss'])


@jax.jit
def is_finite(state: TrainState) -> Array:
    """Whether every number of a state is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state)]))


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    prepare: Prepare,
    task: Task,
    *,
    seed: int | Array,
    loss: Loss,
    ema_decay: float = 0.0,
    evaluated_params: EvaluatedParams | None = None,
    epoch: int = 1,
    groups: Groups = EVERYTHING,
    pieces: int = 1,
    axis: str | None = None,
    method: str | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    """One step of training: (state, batch) -> (state, sums).

    Args:
      model: the module.
      optimizer: its state is `state.opt_state`.
      prepare: normalises and augments.
      task: gives the targets and the sums.
      seed: of the run; may be a traced value.
      loss: (outputs, targets) -> [N], whose mean is minimised.
      ema_decay: of the averaged variables, see `ema_decay_at`; unused where `state.ema` is None.
      evaluated_params: gives them where the optimiser averages, see `optim.evaluated_params`.
      epoch: steps whose mean loss is compared with the lowest, where the state keeps that.
      groups: which parameters and statistics stay as they are.
      pieces: number of equal parts of the batch whose gradients are computed one after another and
        averaged. Batch norm sees a piece at a time; without it the result is that of the whole.
      axis: name of the mapped axis over which the whole batch is divided; None: it is here.
      method: of the model that gives the outputs; None: its logits.

    Returns:
      A pure function. `batch` holds 'image' (uint8) and the task's targets; the sums are the task's
      `train_sums` of the model in training mode, before the update. State and sums are the same on
      all devices of `axis`; so are batch statistics, averaged over the devices.
    """
    dropout = named_key(seed, 'dropout')
    gradients = _make_gradients(model, task, loss, groups, method)
    to_evaluate = functools.partial(_to_evaluate, ema_decay, evaluated_params, epoch)
    update = functools.partial(_updated, optax.with_extra_args_support(optimizer), to_evaluate)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        share = jax.lax.axis_index(axis) if axis else 0
        images = batch['image']
        places = share * len(images) + jnp.arange(len(images))
        # The whole share at a time: an example may be mixed with one of another piece.
        examples = prepare(images, task.targets(batch), state.step, places)
        key = jax.random.fold_in(dropout, state.step)
        key = jax.random.fold_in(key, share) if axis else key
        one = functools.partial(gradients, state)
        grads, batch_stats, sums = _piecewise(one, state, examples, key, pieces, task)
        if axis:
            grads, sums = jax.lax.pmean(grads, axis), jax.lax.psum(sums, axis)
            batch_stats = _kept(state.batch_stats, jax.lax.pmean(batch_stats, axis), groups)
        return update(state, grads, batch_stats, sums['loss'] / sums['n']), sums

    return train_step


def _updated(
    optimizer: optax.GradientTransformationExtraArgs,
    to_evaluate: Callable[..., Any],
    state: TrainState,
    grads: PyTree[Array],
    batch_stats: PyTree[Array],
    loss: Float[Array, ''],
) -> TrainState:
    """The state after a step."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params, value=loss)
    params = optax.apply_updates(state.params, updates)
    ema = to_evaluate(state, {'params': params, 'batch_stats': batch_stats}, opt_state, loss)
    return TrainState(state.step + 1, params, batch_stats, opt_state, ema)


def _kept(old: PyTree[Array], new: PyTree[Array], groups: Groups) -> PyTree[Array]:
    """New batch statistics, those of norms that stay as they are being the old ones.

    The mean over the devices of equal numbers may differ from them in the last bit.
    """
    still = by_path(old, lambda path, _: path.rpartition('/')[0] in groups.still)
    return jax.tree.map(lambda a, b, keep: a if keep else b, old, new, still)


def _to_evaluate(
    decay: float,
    evaluated_params: EvaluatedParams | None,
    epoch: int,
    old: TrainState,
    new: PyTree[Array],
    opt_state: PyTree[Array],
    loss: Float[Array, ''],
) -> PyTree[Array] | None:
    """The variables to evaluate with after a step, where they are not those that are trained."""
    if old.ema is not None and 'lowest' in old.ema:
        return _of_lowest_loss(old, new, loss, epoch)
    if evaluated_params is not None:
        # The statistics are those of the parameters that are trained, nearly the same ones.
        return {**new, 'params': evaluated_params(opt_state, new['params'])}
    return old.ema and _averaged(new, old.ema, ema_decay_at(old.step, decay))


def _of_lowest_loss(
    old: TrainState, new: PyTree[Array], loss: Float[Array, ''], epoch: int
) -> PyTree[Array]:
    """The variables after the epoch of the lowest mean training loss; until one ends, the newest.

    As Keras' ModelCheckpoint(monitor='loss', save_best_only=True): the mean of the losses of the
    epoch's steps, each before its update.
    """
    assert old.ema is not None
    kept = {name: old.ema[name] for name in new}
    least, total = old.ema['lowest']['loss'], old.ema['lowest']['sum'] + loss
    ends = (old.step + 1) % epoch == 0
    better = ends & (total / epoch < least)
    chosen = jax.lax.cond(better | (least >= NO_LOSS), lambda: new, lambda: kept)
    lowest = {
        'loss': jnp.where(better, total / epoch, least),
        'sum': jnp.where(ends, 0.0, total),
    }
    return {**chosen, 'lowest': lowest}


def _averaged(new: PyTree[Array], old: PyTree[Array], decay: Float[Array, '']) -> PyTree[Array]:
    """The moving average; the average of equal numbers is that number, to the last bit."""
    average = optax.incremental_update(new, old, 1.0 - decay)
    return jax.tree.map(lambda a, b, both: jnp.where(a == b, b, both), new, old, average)


def ema_decay_at(step: Int[Array, ''], decay: float) -> Float[Array, '']:
    """Decay of the average after `step` steps: min(decay, (1 + step) / (10 + step)).

    In a short run a constant decay near 1 would leave little but the initial variables. The rule is
    that of TensorFlow's ExponentialMovingAverage with `num_updates`.
    """
    done = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + done) / (10 + done))


def _make_gradients(
    model: nn.Module, task: Task, loss: Loss, groups: Groups, method: str | None
) -> Callable[..., Any]:
    """(state, batch_stats, (images, targets), key) -> gradients, new batch_stats, sums."""

    def run(params: Any, batch_stats: Any, images: Array, key: Array) -> tuple[Array, Any]:
        with evaluated(groups.still) if groups.still else contextlib.nullcontext():
            outputs, updates = model.apply(
                {'params': params, 'batch_stats': batch_stats},
                images,
                train=True,
                mutable=['batch_stats'],
                rngs={'dropout': key},
                method=method,
            )
        return outputs, updates.get('batch_stats', {})

    def gradients(state: TrainState, batch_stats: Any, examples: Any, key: Array) -> Any:
        images, targets = examples

        def loss_fn(params: Any) -> tuple[Float[Array, ''], tuple[Array, Any]]:
            if groups.trained is not None:
                stop = jax.lax.stop_gradient
                params = jax.tree.map(
                    lambda p, keep: p if keep else stop(p), params, groups.trained
                )
            first, *views = images if isinstance(images, tuple) else (images,)
            outputs, new = run(params, batch_stats, first, key)
            losses = loss(outputs, targets)
            for view in views:  # [N, K, ...]: every crop is one more example of its target
                each = jax.tree.map(lambda x, k=view.shape[1]: jnp.repeat(x, k, axis=0), targets)
                flat = view.reshape(-1, *view.shape[2:])
                more, new = run(params, new, flat, jax.random.fold_in(key, 1))
                losses = jnp.concatenate([losses, loss(more, each)])
            return jnp.mean(losses), (outputs, new)

        (_, (outputs, new)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        return grads, new, task.train_sums(outputs, targets)

    return gradients


def _piecewise(
    gradients: Callable[..., Any],
    state: TrainState,
    examples: Any,
    key: Array,
    pieces: int,
    task: Task,
) -> Any:
    """The mean gradient of the pieces, the statistics after the last, and all their sums."""
    if pieces == 1:
        return gradients(state.batch_stats, examples, key)
    # Piece j holds examples j, j + pieces, ...: every device's share has its part in each.
    parts = jax.tree.map(lambda x: x.reshape(-1, pieces, *x.shape[1:]).swapaxes(0, 1), examples)

    def body(carry: Any, part: Any) -> Any:
        grads, batch_stats, sums = carry
        more, batch_stats, others = gradients(batch_stats, *part)
        total = functools.partial(jax.tree.map, jnp.add)
        return (total(grads, more), batch_stats, total(sums, others)), None

    none = jax.tree.map(jnp.zeros_like, (state.params, task.no_sums()))
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(pieces))
    (grads, batch_stats, sums), _ = _scan(
        body, (none[0], state.batch_stats, none[1]), (parts, keys)
    )
    return jax.tree.map(lambda g: g / pieces, grads), batch_stats, sums


def add_up(
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Sums]],
) -> Callable[[TrainState, Sums, Batch], tuple[TrainState, Sums]]:
    """Adds a step's sums to running totals on the device, so that the host need not wait."""

    def adding_step(state: TrainState, totals: Sums, batch: Batch) -> tuple[TrainState, Sums]:
        state, sums = train_step(state, batch)
        return state, jax.tree.map(jnp.add, totals, sums)

    return adding_step


def repeat(step: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Several steps in one call.

    Args:
      step: (seed, state, totals, arrays, batch) -> (state, totals).

    Returns:
      The same function of batches [steps, ...], which are taken one after another.
    """

    def steps(seed: Any, state: Any, totals: Any, arrays: Any, batches: Any) -> tuple[Any, Any]:
        def body(carry: Any, batch: Any) -> Any:
            return step(seed, *carry, arrays, batch), None

        carry = state, totals
        if len(jax.tree.leaves(batches)[0]) == 1:
            return body(carry, jax.tree.map(lambda x: x[0], batches))[0]
        return _scan(body, carry, batches)[0]

    return steps


def _scan(body: Callable[..., Any], carry: Any, xs: Any) -> Any:
    """`lax.scan`, unrolled on a CPU, where gradients of convolutions are slow inside a loop."""
    count = len(jax.tree.leaves(xs)[0])
    return jax.lax.scan(body, carry, xs, unroll=count if jax.default_backend() == 'cpu' else 1)
