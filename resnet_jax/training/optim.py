"""Optimisers and learning rate schedules, from a config's `optim` to Optax."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from resnet_jax.errors import LARGEST_INT, InputError, unknown_name

SCHEDULE_UNITS = ('steps', 'epochs')
WARMUP_SHAPES = ('linear', 'constant')


def peak_learning_rate(optim: ConfigDict, batch_size: int) -> float:
    """The learning rate, scaled linearly with the batch where asked (arXiv 1706.02677)."""
    scale = batch_size / optim.scale_by_batch if optim.scale_by_batch else 1.0
    return float(optim.learning_rate) * scale


# The defaults of arXiv 1412.6980, algorithm 1, and 1711.05101, algorithm 2.
USUAL_RATES = {'adam': 1e-3, 'adamw': 1e-3}
_FAR_ABOVE = 10


def rate_note(optim: ConfigDict, batch_size: int) -> str:
    """A remark about a rate far above what its optimiser takes, such as sgd's; else empty."""
    usual, rate = USUAL_RATES.get(optim.name), peak_learning_rate(optim, batch_size)
    if usual is None or rate <= _FAR_ABOVE * usual:
        return ''
    return (
        f'note: optim.learning_rate {rate:g} is high for {optim.name}, which usually takes about '
        f'{usual:g}'
    )


def make_schedule(
    optim: ConfigDict, *, batch_size: int, total_steps: int, steps_per_epoch: float
) -> optax.Schedule:
    """The learning rate as a function of the step.

    Args:
      optim: the config's `optim`.
      batch_size: examples in a step.
      total_steps: length of the run; cosine and onecycle end there.
      steps_per_epoch: not rounded; used where `schedule_unit` is epochs.
    """
    unit = 1.0 if optim.schedule_unit == 'steps' else steps_per_epoch
    peak = peak_learning_rate(optim, batch_size)
    warmup = _steps(optim.warmup, unit)
    if warmup >= total_steps and optim.schedule == 'cosine':
        raise InputError(
            f'the warm-up of {warmup} steps leaves none of the {total_steps} for the cosine; '
            'lower optim.warmup'
        )
    main = SCHEDULES[optim.schedule](optim, peak, unit, warmup, total_steps)
    if not warmup:
        return _standard_promotion(main)
    start = peak * optim.warmup_start
    end = start if optim.warmup_shape == 'constant' else peak
    # The main schedule keeps counting from the run's first step: he2015's boundaries at 32k and 48k
    # iterations do not move with the warm-up.
    before = optax.linear_schedule(start, end, warmup)
    return _standard_promotion(lambda s: jnp.where(s < warmup, before(s), main(s)))


def _steps(length: float, unit: float) -> int:
    """A length in steps, at most as many as the step counter can hold."""
    return min(round(length * unit), LARGEST_INT)


def _standard_promotion(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lets Optax mix integers and floats where JAX is set to strict promotion."""

    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        with jax.numpy_dtype_promotion('standard'):
            return function(*args)

    return wrapped


def _constant(optim: ConfigDict, peak: float, unit: float, warmup: int, steps: int) -> Any:
    return optax.constant_schedule(peak)


def _piecewise(optim: ConfigDict, peak: float, unit: float, warmup: int, steps: int) -> Any:
    factors = {_steps(boundary, unit): optim.decay_factor for boundary in optim.boundaries}
    return optax.piecewise_constant_schedule(peak, factors)


def _cosine(optim: ConfigDict, peak: float, unit: float, warmup: int, steps: int) -> Any:
    decay = optax.cosine_decay_schedule(peak, steps - warmup)
    return lambda step: decay(step - warmup)


def _onecycle(optim: ConfigDict, peak: float, unit: float, warmup: int, steps: int) -> Any:
    return optax.cosine_onecycle_schedule(steps, peak)


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    'constant': _constant,
    'piecewise': _piecewise,
    'cosine': _cosine,
    'onecycle': _onecycle,
}


def decay_mask(params: Any) -> Any:
    """True for the parameters that always decay, kernels; False for biases and norms' scales."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)


def trained_mask(params: PyTree, freeze: Sequence[str]) -> PyTree[bool]:
    """A tree like the parameters: False for those that stay as they are.

    Args:
      params: arrays or their shapes.
      freeze: paths of parameters, or beginnings of paths: 'stem', 'stage1/block1'.

    Raises:
      InputError: for a name that no parameter's path begins with.
    """
    paths = {jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in _leaves(params)}
    sections = {path.rpartition('/')[0] for path in paths} | {p.partition('/')[0] for p in paths}
    for name in freeze:
        if not any(_begins_with(path, name) for path in paths):
            raise unknown_name('parameters in optim.freeze', name, sections)

    def is_trained(path: Any, _: Any) -> bool:
        text = jax.tree_util.keystr(path, simple=True, separator='/')
        return not any(_begins_with(text, name) for name in freeze)

    return jax.tree_util.tree_map_with_path(is_trained, params)


def _leaves(tree: PyTree) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(tree)


def _begins_with(path: str, name: str) -> bool:
    return f'{path}/'.startswith(f'{name.strip("/")}/')


def make_optimizer(
    optim: ConfigDict, schedule: optax.Schedule, trained: PyTree[bool] | None = None
) -> optax.GradientTransformation:
    """The optimiser: clipping, weight decay and the update.

    For sgd and adam the decay is L2 regularisation, added to the (clipped) gradient before the
    momentum, as in he2015; adamw and lamb decouple it (arXiv 1711.05101, 1904.00962).

    Args:
      optim: the config's `optim`.
      schedule: the learning rate as a function of the step.
      trained: from `trained_mask`; the others have no state, no decay and no update. None: all.
    """
    mask = None if optim.decay_norm_and_bias else decay_mask
    steps = [optax.clip_by_global_norm(optim.clip_norm)] if optim.clip_norm else []
    optimizer = optax.chain(*steps, OPTIMIZERS[optim.name](optim, schedule, mask))
    if trained is not None:
        # Where the mask is False, `masked` passes the gradient on as the update: zero it.
        frozen = jax.tree.map(lambda keep: not keep, trained)
        optimizer = optax.chain(
            optax.masked(optimizer, trained), optax.masked(optax.set_to_zero(), frozen)
        )
    return optax.GradientTransformation(optimizer.init, _standard_promotion(optimizer.update))


def _sgd(optim: ConfigDict, schedule: optax.Schedule, mask: Any) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(optim.weight_decay, mask),
        optax.sgd(schedule, momentum=optim.momentum or None, nesterov=optim.nesterov),
    )


def _adam(optim: ConfigDict, schedule: optax.Schedule, mask: Any) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(optim.weight_decay, mask),
        optax.adam(schedule, b1=optim.b1, b2=optim.b2),
    )


def _adamw(optim: ConfigDict, schedule: optax.Schedule, mask: Any) -> optax.GradientTransformation:
    return optax.adamw(
        schedule, b1=optim.b1, b2=optim.b2, weight_decay=optim.weight_decay, mask=mask
    )


def _lamb(optim: ConfigDict, schedule: optax.Schedule, mask: Any) -> optax.GradientTransformation:
    return optax.lamb(
        schedule, b1=optim.b1, b2=optim.b2, weight_decay=optim.weight_decay, mask=mask
    )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    'sgd': _sgd,
    'adam': _adam,
    'adamw': _adamw,
    'lamb': _lamb,
}
