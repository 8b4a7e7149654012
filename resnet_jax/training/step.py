"""The training state and one step, as pure functions."""

import functools
import zlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from resnet_jax.training import metrics

Array = jax.Array
Batch = dict[str, Array]


class TrainState(flax.struct.PyTreeNode):
    """All that changes in training, as one pytree.

    Attributes:
      step: number of steps taken, int32.
      params, batch_stats: the model's collections.
      opt_state: of the Optax optimiser.
      ema: averaged {'params', 'batch_stats'}, or None.
    """

    step: Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any = None


def named_key(seed: int | Array, name: str) -> Array:
    """The random key of one purpose: a function of the run's seed and the purpose's name alone."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    seed: int | Array,
    ema: bool,
) -> TrainState:
    """A freshly initialised state for images of [H, W, C]."""
    images = jnp.zeros((1, *image_shape))
    variables = model.init(named_key(seed, 'params'), images, train=False)
    params, batch_stats = variables['params'], variables.get('batch_stats', {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        # Copies, because the step donates its state and a buffer can be given away only once.
        ema=jax.tree.map(jnp.copy, {'params': params, 'batch_stats': batch_stats}) if ema else None,
    )


def eval_variables(state: TrainState) -> dict[str, Any]:
    """The variables to evaluate and predict with: the averaged ones where they are kept."""
    if state.ema is not None:
        return state.ema
    return {'params': state.params, 'batch_stats': state.batch_stats}


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    prepare: Callable[[Array, Array, Array], Array],
    *,
    seed: int | Array,
    loss: Callable[[Array, Array], Array],
    ema_decay: float,
    pieces: int = 1,
    axis: str | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """One step of training: (state, batch) -> (state, sums).

    Args:
      model: the module.
      optimizer: its state is `state.opt_state`.
      prepare: (uint8 images [N, H, W, C], step, positions in the whole batch [N]) -> floats:
        normalises and augments.
      seed: of the run; may be a traced value.
      loss: (logits, labels) -> [N], whose mean is minimised; the sums hold the cross entropy.
      ema_decay: of the averaged variables; unused where `state.ema` is None.
      pieces: number of equal parts of the batch whose gradients are computed one after another and
        averaged. Batch norm sees a piece at a time; without it the result is that of the whole.
      axis: name of the mapped axis over which the whole batch is divided; None: it is here.

    Returns:
      A pure function. `batch` holds 'image' (uint8) and 'label' (int32); the sums are those of
      `metrics.batch_sums`, of the model in training mode, before the update. State and sums are the
      same on all devices of `axis`; so are batch statistics, averaged if they were each one's own.
    """
    dropout = named_key(seed, 'dropout')
    gradients = _make_gradients(model, prepare, loss)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        size = batch['label'].shape[0]
        share = jax.lax.axis_index(axis) if axis else 0
        batch = {**batch, 'position': share * size + jnp.arange(size)}
        key = jax.random.fold_in(dropout, state.step)
        key = jax.random.fold_in(key, share) if axis else key
        one = functools.partial(gradients, state)
        grads, batch_stats, sums = (
            one(state.batch_stats, batch, key)
            if pieces == 1
            else _piecewise(one, state, batch, key, pieces)
        )
        if axis:
            grads, batch_stats = jax.lax.pmean((grads, batch_stats), axis)
            sums = jax.lax.psum(sums, axis)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            new = {'params': params, 'batch_stats': batch_stats}
            ema = optax.incremental_update(new, ema, 1.0 - ema_decay)
        state = TrainState(state.step + 1, params, batch_stats, opt_state, ema)
        return state, sums

    return train_step


def _make_gradients(
    model: nn.Module, prepare: Callable[..., Array], loss: Callable[[Array, Array], Array]
) -> Callable[..., Any]:
    """(state, batch_stats, batch, key) -> gradients, new batch_stats, sums of figures."""

    def gradients(state: TrainState, batch_stats: Any, batch: Batch, key: Array) -> Any:
        images = prepare(batch['image'], state.step, batch['position'])

        def loss_fn(params: Any) -> tuple[Array, tuple[Array, Any]]:
            logits, updates = model.apply(
                {'params': params, 'batch_stats': batch_stats},
                images,
                train=True,
                mutable=['batch_stats'],
                rngs={'dropout': key},
            )
            return jnp.mean(loss(logits, batch['label'])), (logits, updates.get('batch_stats', {}))

        (_, (logits, new)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        return grads, new, metrics.batch_sums(logits, batch['label'])

    return gradients


def _piecewise(
    gradients: Callable[..., Any], state: TrainState, batch: Batch, key: Array, pieces: int
) -> Any:
    """The mean gradient of the pieces, the statistics after the last, and all their sums."""
    # Piece j holds examples j, j + pieces, ...: so every device's share has its part in each.
    parts = {k: x.reshape(-1, pieces, *x.shape[1:]).swapaxes(0, 1) for k, x in batch.items()}

    def body(carry: Any, part: Any) -> Any:
        grads, batch_stats, sums = carry
        more, batch_stats, others = gradients(batch_stats, *part)
        total = functools.partial(jax.tree.map, jnp.add)
        return (total(grads, more), batch_stats, total(sums, others)), None

    zeros = {name: jnp.zeros((), jnp.float32) for name in metrics.SUMS}
    start = (jax.tree.map(jnp.zeros_like, state.params), state.batch_stats, zeros)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(pieces))
    (grads, batch_stats, sums), _ = _scan(body, start, (parts, keys))
    return jax.tree.map(lambda g: g / pieces, grads), batch_stats, sums


def accumulate(
    train_step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]],
) -> Callable[[TrainState, dict[str, Array], Batch], tuple[TrainState, dict[str, Array]]]:
    """Adds the step's sums to running totals on the device, so that the host need not wait."""

    def accumulating_step(
        state: TrainState, totals: dict[str, Array], batch: Batch
    ) -> tuple[TrainState, dict[str, Array]]:
        state, sums = train_step(state, batch)
        return state, jax.tree.map(jnp.add, totals, sums)

    return accumulating_step


def repeat(step: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Some steps in one call.

    Args:
      step: (seed, state, totals, arrays, batch) -> (state, totals).

    Returns:
      The same, but for batches [steps, ...] that are taken one after another.
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
    """`lax.scan`, but unrolled on a CPU: gradients of convolutions are slow in a loop there, see
    convolution.py.
    """
    count = len(jax.tree.leaves(xs)[0])
    return jax.lax.scan(body, carry, xs, unroll=count if jax.default_backend() == 'cpu' else 1)
