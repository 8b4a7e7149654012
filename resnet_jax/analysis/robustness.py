"""Robustness: the error under common corruptions, by kind and severity.

Source: Hendrycks and Dietterich 2019, arXiv 1903.12261, section 4. The corruptions, and what sets
them apart from the published sets, are in `corruptions`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np
from tqdm import tqdm

from resnet_jax import data
from resnet_jax.analysis.corruptions import corrupt, table_of
from resnet_jax.analysis.examples import Examples
from resnet_jax.data import Preprocessing, Source
from resnet_jax.errors import InputError
from resnet_jax.training.evaluate import make_eval_step

CLEAN = ('', 0)
FROST_NOTES = {
    'procedural': (
        'frost is a computed texture, not the photographs of the published sets; its error, and '
        'means over it, compare with those of this program only'
    ),
    'photographs': (
        'frost uses the photographs that the package imagecorruptions-imaug distributes'
    ),
}
# What a baseline must share with a study, so that their errors differ by the model alone.
SHARED = ('data', 'split', 'n', 'seed', 'parameters', 'frost')


@dataclasses.dataclass(frozen=True)
class Corrupted:
    """Reads batches under one corruption after the other; picklable, for processes that read ahead.

    Attributes:
      source: the examples.
      preprocessing: images are corrupted after its `prepare`.
      size: examples a batch.
      plan: (corruption, severity) that each batch gets in turn; `CLEAN` leaves it as it is.
      seed: of the corruptions.
      frost: as in `corrupt`.
    """

    source: Source
    preprocessing: Preprocessing
    size: int
    plan: tuple[tuple[str, int], ...]
    seed: int
    frost: str
    # The batch that was read last, for its next corruption.
    _kept: dict[int, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict, repr=False)

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        """Batch number // len(plan), corrupted as plan[number % len(plan)] says."""
        which, step = divmod(number, len(self.plan))
        batch = self._kept.get(which)
        if batch is None:
            batch = data.eval_batch(self.source, self.preprocessing, self.size, which)
            self._kept.clear()
            self._kept[which] = batch
        name, severity = self.plan[step]
        if not severity:
            return batch
        images = batch['image'].copy()
        for i in np.flatnonzero(batch['mask']):
            index = which * self.size + int(i)
            images[i] = corrupt(images[i], name, severity, self.seed, index, self.frost)
        return {**batch, 'image': images}


def study(
    model: nn.Module,
    variables: Mapping[str, Any],
    examples: Examples,
    names: Sequence[str],
    severities: Sequence[int],
    *,
    seed: int = 0,
    frost: str = 'procedural',
    progress: bool = False,
) -> dict[str, Any]:
    """The error under each corruption and severity, in one pass over the data.

    Each batch is read once, corrupted in every way ahead of the model, and forgotten. The same seed
    gives the same corrupted images, whatever the batch size and the number of workers.

    Args:
      model: the module.
      variables: `params` and `batch_stats`.
      examples: grey or RGB.
      names: keys of `CORRUPTIONS`.
      severities: from 1 to 5.
      seed: of the corruptions.
      frost: as in `corrupt`.
      progress: show a bar if standard error is a terminal and it takes over a second.

    Returns:
      'clean': the error without a corruption; 'error': name -> severity -> error; 'mean': name ->
      mean over the severities; 'mean_error': mean of these; 'seed', 'frost', 'parameters' (whose
      table) and 'notes'. Errors are fractions of 1.
    """
    plan = (CLEAN, *((name, severity) for name in names for severity in severities))
    size = min(examples.batch_size, examples.count)
    read = Corrupted(examples.source, examples.preprocessing, size, plan, seed, frost)
    step = make_eval_step(model, examples.preprocessing)
    numbers = np.asarray(examples.classes, np.int32)
    right, n = np.zeros(len(plan)), 0.0
    total = len(examples) * len(plan)
    batches = data.read_ahead(read, 0, total, examples.workers)
    bar = tqdm(batches, total=total, unit='batch', delay=1, disable=None if progress else True)
    for i, batch in enumerate(bar):
        sums = step(variables, {**batch, 'label': numbers[batch['label']]})
        right[i % len(plan)] += float(sums['top1'])
        n += float(sums['n']) / len(plan)
    errors = dict(zip(plan, (1 - right / round(n)).tolist(), strict=True))
    by_name = {name: {str(s): errors[name, s] for s in severities} for name in names}
    mean = {name: float(np.mean(list(of.values()))) for name, of in by_name.items()}
    return {
        'clean': errors[CLEAN],
        'error': by_name,
        'mean': mean,
        'mean_error': float(np.mean(list(mean.values()))),
        'seed': seed,
        'frost': frost,
        'parameters': table_of(examples.preprocessing.image_size),
        'notes': [FROST_NOTES[frost]] if 'frost' in names else [],
    }


def compare(found: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> dict[str, Any]:
    """The corruption errors relative to another model's (arXiv 1903.12261, section 4.1).

    Of a corruption, CE is the model's sum of errors over the severities by the baseline's, and the
    relative CE the same of the increase over the clean error; mCE and relative mCE are their means.

    Args:
      found: as `study` returns it.
      baseline: the same of the other model, as `check_baseline` accepts it; None: there is none.

    Returns:
      'ce' and 'relative_ce': name -> ratio, 1 being the baseline's; 'mce' and 'relative_mce': their
      means. None without a baseline, and where the baseline's sum is not above 0.
    """
    if baseline is None:
        return {'ce': None, 'relative_ce': None, 'mce': None, 'relative_mce': None}
    ce, relative = {}, {}
    for name, errors in found['error'].items():
        ours = np.array(list(errors.values()))
        theirs = np.array([baseline['error'][name][severity] for severity in errors])
        ce[name] = _ratio(ours.sum(), theirs.sum())
        more = (ours - found['clean']).sum()
        relative[name] = _ratio(more, (theirs - baseline['clean']).sum())
    return {
        'ce': ce,
        'relative_ce': relative,
        'mce': _mean(ce),
        'relative_mce': _mean(relative),
    }


def _ratio(ours: float, theirs: float) -> float | None:
    return float(ours / theirs) if theirs > 0 else None


def _mean(values: Mapping[str, float | None]) -> float | None:
    known = [value for value in values.values() if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def check_baseline(
    baseline: Mapping[str, Any],
    names: Sequence[str],
    severities: Sequence[int],
    shared: Mapping[str, Any],
    where: str,
) -> None:
    """Refuses a baseline that a study cannot be compared with.

    Args:
      baseline: the JSON of another study; fields of `SHARED` that it lacks are not compared.
      names: the corruptions of the study.
      severities: of the study.
      shared: the study's values of the fields in `SHARED`.
      where: the file, for messages.

    Raises:
      InputError: naming what is missing or different.
    """
    if not _is_error(baseline.get('clean')) or not isinstance(baseline.get('error'), dict):
        raise InputError(
            f'{where} is no baseline: it lacks the fields clean and error; give the '
            'robustness.json of another model'
        )
    for name in names:
        errors = baseline['error'].get(name)
        for severity in severities:
            if not isinstance(errors, dict) or not _is_error(errors.get(str(severity))):
                raise InputError(
                    f'{where} has no error of {name} at severity {severity}; choose fewer with '
                    '--corruptions and --severities, or make the baseline again with them'
                )
    for field in SHARED:
        theirs, mine = baseline.get(field, shared[field]), shared[field]
        # Without frost it does not matter which.
        if theirs != mine and (field != 'frost' or 'frost' in names):
            raise InputError(
                f'{where} has {field} {theirs!r}, and this analysis {mine!r}: the errors would not '
                'compare; give both the same options'
            )


def _is_error(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1
