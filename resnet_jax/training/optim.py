"""Optimisers and learning rate schedules, from a config's `optim` to Optax."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from optax.contrib import MuonDimensionNumbers, ReduceLROnPlateauState, ScheduleFreeState

from resnet_jax.errors import LARGEST_INT, InputError
from resnet_jax.models.patterns import matches
from resnet_jax.training.groups import EVERYTHING, Groups, by_path

SCHEDULE_UNITS = ('steps', 'epochs')
WARMUP_SHAPES = ('linear', 'constant')
DECAY_TARGETS = ('zero', 'start')


def peak_learning_rate(optim: ConfigDict, batch_size: int) -> float:
    """The learning rate, scaled linearly with the batch where asked (arXiv 1706.02677)."""
    scale = batch_size / optim.scale_by_batch if optim.scale_by_batch else 1.0
    return float(optim.learning_rate) * scale


# The defaults of arXiv 1412.6980, algorithm 1, and 1711.05101, algorithm 2. Of those in the manner
# of Adam likewise; of lion a third to a tenth of AdamW's (arXiv 2302.06675, section 5).
USUAL_RATES = {
    **dict.fromkeys(('adam', 'adamw', 'nadam', 'nadamw', 'muon', 'schedule_free_adamw'), 1e-3),
    'lion': 3e-4,
}
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
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_dtype_promotion('standard'):
            return function(*args, **kwargs)

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


def _rising(optim: ConfigDict, peak: float, unit: float, warmup: int, steps: int) -> Any:
    """From a ten-millionth of the rate to all of it, by the same factor from step to step."""
    return optax.exponential_decay(1e-7 * peak, max(steps - 1, 1), 1e7)


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    'constant': _constant,
    'piecewise': _piecewise,
    'cosine': _cosine,
    'onecycle': _onecycle,
    'plateau': _constant,  # `make_optimizer` multiplies it by a factor that depends on the loss
    'rising': _rising,  # of a learning-rate range test: `resnet-jax search --lr-range`
}


def decay_mask(params: Any) -> Any:
    """True for the parameters that always decay, kernels; False for biases and norms' scales."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)


def make_optimizer(
    optim: ConfigDict,
    schedule: optax.Schedule,
    groups: Groups = EVERYTHING,
    steps_per_epoch: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """The optimiser: clipping, weight decay and the update.

    For sgd, adam and nadam the decay is L2 regularisation, added to the (clipped) gradient before
    the momentum, as in he2015; the others decouple it (arXiv 1711.05101, 1904.00962). The factors
    of `groups` scale the update with all that is in it, as a rate of their own would.

    Args:
      optim: the config's `optim`.
      schedule: the learning rate as a function of the step.
      groups: parameters that never train have no state, no decay and no update; those that train
        later keep the state they start with until then.
      steps_per_epoch: not rounded; used by the schedule `plateau`, whose rate depends on the loss,
        which `update` then takes as `value`.
    """
    clip = [optax.clip_by_global_norm(optim.clip_norm)] if optim.clip_norm else []
    if groups.later is None:
        optimizer = optax.chain(*clip, _rule(optim, schedule, groups))
    else:
        # The schedule counts every step, a rule only those from its parameters' first.
        held = [_from_start(optax.identity(), groups), *clip] if clip else []
        rule = _from_start(_rule(optim, 1.0, groups), groups)
        optimizer = optax.chain(*held, rule, optax.scale_by_schedule(schedule))
    if groups.trained is not None:
        # Where the mask is False, `masked` passes the gradient on as the update: zero it.
        frozen = jax.tree.map(lambda keep: not keep, groups.trained)
        optimizer = optax.chain(
            optax.masked(optimizer, groups.trained), optax.masked(optax.set_to_zero(), frozen)
        )
    if groups.factors is not None:
        scale = optax.stateless(lambda updates, _: jax.tree.map(_times, updates, groups.factors))
        optimizer = optax.chain(optimizer, scale)
    if optim.schedule == 'plateau':
        optimizer = optax.chain(optimizer, _on_plateau(optim, whole_epoch(steps_per_epoch)))
    optimizer = optax.with_extra_args_support(optimizer)
    update = _standard_promotion(optimizer.update)
    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def whole_epoch(steps_per_epoch: float) -> int:
    """The steps over which a mean of the training loss is taken as that of an epoch.

    A batch may straddle two epochs, so that an epoch need not be a whole number of steps.
    """
    return max(1, round(steps_per_epoch))


def _on_plateau(optim: ConfigDict, steps: int) -> optax.GradientTransformationExtraArgs:
    """Multiplies the update by a factor that is reduced when the mean loss of an epoch plateaus.

    Args:
      optim: config.optim.
      steps: of an epoch.
    """
    rule = optax.contrib.reduce_on_plateau(
        factor=optim.decay_factor,
        patience=optim.plateau_patience,
        rtol=0.0,
        atol=optim.plateau_threshold,
        accumulation_size=steps,
        min_scale=optim.plateau_floor / optim.learning_rate,
    )

    def init(params: Any) -> Any:
        state = rule.init(params)
        # Not infinite: that in a run's state means that it diverged.
        return state._replace(best_value=jnp.full_like(state.best_value, np.finfo(np.float32).max))

    return optax.GradientTransformationExtraArgs(init, rule.update)


def rate_factor(opt_state: Any) -> Any:
    """What the schedule `plateau` multiplies the rate by, from the optimiser's state; else 1."""
    found = [
        part.scale for part in jax.tree.leaves(opt_state, is_leaf=_is_plateau) if _is_plateau(part)
    ]
    return found[0] if found else 1.0


def _is_plateau(part: Any) -> bool:
    return isinstance(part, ReduceLROnPlateauState)


def _times(update: Any, factor: Any) -> Any:
    return update * jnp.asarray(factor, update.dtype)


def _from_start(rule: optax.GradientTransformation, groups: Groups) -> optax.GradientTransformation:
    """A rule for parameters that do not all begin together; before, the update is zero."""

    def begins(start: int) -> Callable[[Any], Any]:
        return lambda step: step >= start

    rules = {'first': rule}
    for i, start in enumerate(groups.starts):
        rules[f'later{i}'] = optax.conditionally_mask(rule, begins(start))
    labels = jax.tree.map(
        lambda i: optax.MaskedNode() if i is None else f'later{i}' if i >= 0 else 'first',
        groups.later,
        is_leaf=lambda i: i is None,
    )
    return optax.partition(rules, labels)


def _rule(
    optim: ConfigDict, rate: optax.ScalarOrSchedule, groups: Groups
) -> optax.GradientTransformation:
    """The optimiser's own update, with its weight decay."""
    mask = None if optim.decay_norm_and_bias else decay_mask
    if optim.decay_towards == 'zero':
        decay = optax.add_decayed_weights(optim.weight_decay, mask)
    else:
        decay = _decay_towards_start(optim.weight_decay, groups)
        decay = decay if mask is None else optax.masked(decay, mask)
    return OPTIMIZERS[optim.name](optim, rate, decay)


def _decay_towards_start(rate: float, groups: Groups) -> optax.GradientTransformation:
    """L2-SP (arXiv 1802.01483, equation 3): decay towards the first parameters, which it keeps.

    Those of a new head decay towards zero.
    """

    def init(params: Any) -> Any:
        def kept(path: str, start: Any) -> Any:
            fresh = any(matches(path, pattern) for pattern in groups.fresh)
            return jnp.zeros_like(start) if fresh else jnp.copy(start)

        return by_path(params, kept)

    def update(updates: Any, start: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda u, p, s: u + rate * (p - s), updates, params, start), start

    return optax.GradientTransformation(init, update)


def averages(optim: ConfigDict) -> bool:
    """Whether averaged variables are kept beside those that are trained."""
    return bool(optim.ema) or optim.name in SCHEDULE_FREE


def evaluated_params(optim: ConfigDict) -> Callable[[Any, Any], Any] | None:
    """What gives the parameters to evaluate, (state of the optimiser, trained ones) -> parameters.

    None where those that are trained are evaluated. Schedule-free optimisers evaluate an average of
    the sequence (arXiv 2405.15682, equation 5).
    """
    if optim.name not in SCHEDULE_FREE:
        return None

    def average(opt_state: Any, params: Any) -> Any:
        state = next(state for state in opt_state if isinstance(state, ScheduleFreeState))
        return optax.contrib.schedule_free_eval_params(state, params)

    return _standard_promotion(average)


def _sgd(optim: ConfigDict, rate: optax.ScalarOrSchedule, decay: Any) -> Any:
    return optax.chain(
        decay, optax.sgd(rate, momentum=optim.momentum or None, nesterov=optim.nesterov)
    )


def _adam(optim: ConfigDict, rate: optax.ScalarOrSchedule, decay: Any) -> Any:
    return optax.chain(decay, optax.adam(rate, b1=optim.b1, b2=optim.b2, eps=optim.epsilon))


# Optax's adamw and lamb as chains, because those decay towards zero only.
def _adamw(optim: ConfigDict, rate: optax.ScalarOrSchedule, decay: Any) -> Any:
    return optax.chain(
        optax.scale_by_adam(b1=optim.b1, b2=optim.b2, eps=optim.epsilon),
        decay,
        optax.scale_by_learning_rate(rate),
    )


def _lamb(optim: ConfigDict, rate: optax.ScalarOrSchedule, decay: Any) -> Any:
    return optax.chain(
        optax.scale_by_adam(b1=optim.b1, b2=optim.b2, eps=1e-6),
        decay,
        optax.scale_by_trust_ratio(),
        optax.scale_by_learning_rate(rate),
    )


def _nadam(optim: ConfigDict, rate: optax.ScalarOrSchedule, decay: Any) -> Any:
    return optax.chain(decay, optax.nadam(rate, b1=optim.b1, b2=optim.b2, eps=optim.epsilon))


def _nadamw(optim: ConfigDict, rate: optax.ScalarOrSchedule, decay: Any) -> Any:
    return optax.chain(
        optax.scale_by_adam(b1=optim.b1, b2=optim.b2, eps=optim.epsilon, nesterov=True),
        decay,
        optax.scale_by_learning_rate(rate),
    )


def _lion(optim: ConfigDict, rate: optax.ScalarOrSchedule, decay: Any) -> Any:
    return optax.chain(
        optax.scale_by_lion(b1=optim.b1, b2=optim.b2), decay, optax.scale_by_learning_rate(rate)
    )


def _muon(optim: ConfigDict, rate: optax.ScalarOrSchedule, decay: Any) -> Any:
    """Orthogonal updates of the convolutions; the head, norms and biases by NAdam.

    The updates are scaled to the size of Adam's, 0.2 (arXiv 2502.16982, section 2.2), so that one
    rate serves both.
    """
    update = optax.contrib.muon(
        1.0,
        beta=optim.momentum,
        adam_b1=optim.b1,
        adam_b2=optim.b2,
        muon_weight_dimension_numbers=_matrices,
        consistent_rms=0.2,
    )
    return optax.chain(update, optax.scale(-1.0), decay, optax.scale_by_learning_rate(rate))


def _matrices(params: Any) -> Any:
    """Convolutions as matrices [all that is summed over, channels out]; None for the others.

    Those of blocks that are scanned have an axis more, in front: each is a matrix of its own.
    """

    def one(path: Any, param: Any) -> MuonDimensionNumbers | None:
        names = [part.key for part in path]
        if names[-1] != 'kernel' or names[0] == 'head':
            return None
        first = int('blocks' in names)
        return MuonDimensionNumbers(tuple(range(first, param.ndim - 1)), param.ndim - 1)

    return jax.tree_util.tree_map_with_path(one, params)


def _schedule_free_sgd(optim: ConfigDict, rate: optax.ScalarOrSchedule, decay: Any) -> Any:
    base = optax.chain(decay, optax.scale_by_learning_rate(rate))
    return optax.contrib.schedule_free(base, rate, b1=optim.b1)


def _schedule_free_adamw(optim: ConfigDict, rate: optax.ScalarOrSchedule, decay: Any) -> Any:
    adam = optax.scale_by_adam(b1=0.0, b2=optim.b2)  # the average takes the momentum's place
    base = optax.chain(adam, decay, optax.scale_by_learning_rate(rate))
    return optax.contrib.schedule_free(base, rate, b1=optim.b1)


# (config.optim, rate, what adds the decay) -> the update.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    'sgd': _sgd,
    'adam': _adam,
    'adamw': _adamw,
    'lamb': _lamb,
    'nadam': _nadam,
    'nadamw': _nadamw,
    'lion': _lion,
    'muon': _muon,
    'schedule_free_sgd': _schedule_free_sgd,
    'schedule_free_adamw': _schedule_free_adamw,
}
SCHEDULE_FREE = ('schedule_free_sgd', 'schedule_free_adamw')
