"""The learning-rate range test: one short run whose rate rises until the loss does (Smith 2015).

arXiv 1506.01186, section 3.3; the rate rises exponentially from step to step, as in fastai's
lr_find.
"""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from resnet_jax.errors import Diverged, InputError
from resnet_jax.experiments.reports.report_figures import draw_rates
from resnet_jax.figures import write_figures
from resnet_jax.records.writers import read_metrics, write_atomically
from resnet_jax.training import loop
from resnet_jax.training.checks import resolve
from resnet_jax.training.config import override

NAME = 'lr_range'  # of the JSON and the pictures
STEPS, HIGHEST = 200, 10.0
_MEMORY = 0.9  # of the average over steps
_FAR_ABOVE = 4.0  # times the lowest loss: training has diverged
_EDGE = 0.05  # of the steps at the beginning, where the average has seen little


@dataclasses.dataclass(frozen=True)
class RateRange:
    """What a range test found.

    Attributes:
      rates: learning rate of each step.
      losses: training loss of each step.
      smoothed: their exponential average, corrected for its start.
      steepest: the rate at which the smoothed loss falls fastest; None if it never falls.
      lowest: the rate at which it is lowest.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    steepest: float | None
    lowest: float


def range_config(config: ConfigDict) -> ConfigDict:
    """The config of the test: `STEPS` steps up to the rate `HIGHEST`, else as given."""
    found = ConfigDict(config).unlock()
    fields = {
        **{'optim.schedule': 'rising', 'optim.learning_rate': HIGHEST, 'optim.warmup': 0.0},
        **{'optim.scale_by_batch': 0, 'optim.ema': 0.0, 'train.steps': STEPS},
        **{'train.unfreeze': (), 'train.patience': 0, 'train.log_every': 1, 'train.eval_every': 0},
        **{'checkpoint.every': STEPS},
    }
    override(found, [(name, str(value)) for name, value in fields.items()])
    return resolve(found)


def run_range_test(config: ConfigDict, folder: Path) -> RateRange:
    """Trains, or resumes, the run of a range test and writes its JSON and its picture.

    Args:
      config: of the training whose rate is sought; its own rate and schedule play no part.
      folder: the workdir of the run.

    Raises:
      InputError: for a bad config or folder, or losses too few to tell.
    """
    with contextlib.suppress(Diverged):  # this is how a range test may end
        loop.train(range_config(config), folder)
    lines = [line for line in read_metrics(folder) if line['split'] == 'train']
    found = find_rate([x['learning_rate'] for x in lines], [x['loss'] for x in lines])
    content = {'rule': 'steepest descent of the smoothed loss', **dataclasses.asdict(found)}
    write_atomically(folder / f'{NAME}.json', json.dumps(content, indent=1) + '\n')
    title = f'learning-rate range test of {config.model.name} on {config.data.name}'
    curves = found.rates, found.losses, found.smoothed
    write_figures({NAME: draw_rates(title, *curves, found.steepest)}, folder)
    return found


def find_rate(rates: Sequence[float], losses: Sequence[float]) -> RateRange:
    """Reads the curve of a range test.

    Args:
      rates: ascending.
      losses: of the same steps.

    Raises:
      InputError: for fewer than 20 steps before the loss is far above its lowest value.
    """
    smoothed, average = [], 0.0
    for step, loss in enumerate(losses, 1):
        average = _MEMORY * average + (1 - _MEMORY) * loss
        smoothed.append(average / (1 - _MEMORY**step))
        if smoothed[-1] > _FAR_ABOVE * min(smoothed):
            break
    count = len(smoothed)
    if count < 20:
        raise InputError(
            f'the loss rises after {count} steps already, too few to tell a rate; normalise the '
            'images, or lower the initial loss'
        )
    first = int(_EDGE * count) + 1
    low = first + int(np.argmin(smoothed[first:]))
    slopes = np.gradient(smoothed, np.log(rates[:count]))[first : low + 1]
    steepest = rates[first + int(np.argmin(slopes))] if slopes.min() < 0 else None
    return RateRange(list(rates[:count]), list(losses[:count]), smoothed, steepest, rates[low])
