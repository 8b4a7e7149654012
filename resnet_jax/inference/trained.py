"""Load the model of a run, ready to evaluate and predict."""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from resnet_jax import data, models
from resnet_jax.data import Preprocessing, Source
from resnet_jax.errors import InputError
from resnet_jax.interop import files, weights
from resnet_jax.json_files import unreadable
from resnet_jax.training import build, workdir
from resnet_jax.training.checkpoint import LOST, Checkpoints
from resnet_jax.training.checks import check_choices
from resnet_jax.training.compilation import matmul_precision
from resnet_jax.training.evaluate import evaluate, make_eval_step
from resnet_jax.training.start import run_model
from resnet_jax.training.step import eval_variables
from resnet_jax.training.tasks import TASKS, Task


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model with everything that evaluation and prediction need.

    Attributes:
      model: the module.
      variables: `params` and `batch_stats`; the averaged ones if the run keeps them.
      preprocessing: of the training, with the class names.
      origin: the source of the model, for JSON output: {'workdir', 'step'} or {'model', 'weights'}.
      title: the source of the model, for people to read.
      matmul_precision: as in training, see `compilation.matmul_precision`; None: JAX's default.
      has_head: whether the head's weights are loaded; otherwise they are random.
      task: what it does, a key of `TASKS`.
      traceable: whether JAX can compile the model; otherwise `model.apply` runs by itself, on the
        host, as that of an exported file does.
    """

    model: Any
    variables: dict[str, Any]
    preprocessing: Preprocessing
    origin: dict[str, Any]
    title: str
    matmul_precision: str | None = None
    has_head: bool = True
    traceable: bool = True
    task: str = 'classification'

    @property
    def does(self) -> Task:
        """The row of its task."""
        return TASKS[self.task]

    def weights_digest(self) -> str:
        """A hash of the values of the variables."""
        digest = hashlib.blake2b(digest_size=16)
        for path, x in jax.tree_util.tree_leaves_with_path(self.variables):
            array = np.asarray(x)
            digest.update(f'{jax.tree_util.keystr(path)} {array.dtype} {array.shape}'.encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def load_trained(folder: str | os.PathLike[str], checkpoint: str = 'latest') -> TrainedModel:
    """Loads the model of a run, or a compressed one.

    Args:
      folder: the workdir of the run, or what `resnet-jax compress` wrote.
      checkpoint: 'latest', 'best' or a step; a compressed model has one alone.

    Raises:
      InputError: if there is no such run or checkpoint, or it cannot be read.
    """
    folder = Path(folder)
    config, preprocessing = workdir.read_config(folder), workdir.read_preprocessing(folder)
    try:
        check_choices(config)
        model = run_model(config, len(preprocessing.class_names))
        template = build.state_template(config, model, preprocessing)
    except InputError as error:  # a field that says nothing; or a model of another version
        raise unreadable(folder / 'config.json', error, LOST) from error
    if files.is_compressed(folder):
        return _compressed(folder, model, config, preprocessing)
    with contextlib.closing(Checkpoints(folder, config.checkpoint, read_only=True)) as checkpoints:
        step = checkpoints.find(checkpoint)
        state, _ = checkpoints.restore(template, step)
    return TrainedModel(
        model,
        eval_variables(state),
        preprocessing,
        {'workdir': str(folder), 'step': step},
        f'{config.model.name}, step {step}',
        config.train.matmul_precision,
        task=config.task,
    )


def _compressed(
    folder: Path, model: models.ResNet, config: ConfigDict, preprocessing: Preprocessing
) -> TrainedModel:
    tensors = files.read_tensors(folder)
    found = weights.variables_from_tensors(tensors.arrays, model, where=str(folder))
    method = tensors.metadata.get('method', 'compressed')
    return TrainedModel(
        model,
        weights.finished(found, model),
        preprocessing,
        {'workdir': str(folder), 'step': None},
        f'{config.model.name}, {method}',
        config.train.matmul_precision,
    )


def evaluate_trained(
    trained: TrainedModel,
    source: Source,
    batch_size: int,
    workers: int | None = None,
    classes: Sequence[int] | None = None,
    observe: Callable[[dict[str, Any], Any], None] | None = None,
    tta: str | None = None,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Evaluates a model on a split, with the preprocessing and precision of its training.

    Args:
      trained: the model.
      source: the split.
      batch_size: examples per batch.
      workers: number of reading processes; None: what suits the machine.
      classes: the model's classes that count, those of the labels first; None: all, and the labels
        are the model's.
      observe: called with each batch and the logits of the classes that count.
      tta: of the task's `views`, several views of each image; None: one.

    Returns:
      As `evaluate.evaluate`: the figures, and the sums that they come from.

    Raises:
      InputError: for ten crops of images that are not larger than the model's input.
    """
    workers = data.default_workers() if workers is None else workers
    step = make_eval_step(
        trained.model,
        trained.preprocessing,
        task=trained.does,
        classes=classes,
        with_outputs=observe is not None,
        tta=tta,
        compiled=trained.traceable,
    )

    def observed(variables: Any, batch: dict[str, Any]) -> Any:
        if observe is None:
            return step(variables, batch)
        sums, outputs = step(variables, batch)
        observe(batch, outputs)
        return sums

    with matmul_precision(trained.matmul_precision):
        return evaluate(
            observed,
            trained.variables,
            data.eval_batches(source, _as_read(trained.preprocessing, tta), batch_size, workers),
            trained.does,
        )


def _as_read(preprocessing: Preprocessing, tta: str | None) -> Preprocessing:
    """The preprocessing that gives the pixels which the views of an image are cut from."""
    if tta is not None and preprocessing.dimensions != 2:
        noun = preprocessing.noun
        raise InputError(f'--tta {tta} makes views of images, and this model takes {noun}')
    if tta not in ('ten_crop', 'whole'):
        return preprocessing
    if preprocessing.resize in (None, preprocessing.image_size):
        raise InputError(
            f"--tta {tta} needs images larger than the model's input of "
            f'{preprocessing.image_size} pixels, and its preprocessing resizes to the same; give '
            '--tta flip'
        )
    if tta == 'whole' and isinstance(preprocessing.mean[0], tuple):
        raise InputError(
            '--tta whole needs a mean per channel; this model subtracts one per pixel, of '
            f'{preprocessing.image_size} pixels: give --tta flip'
        )
    # The views are normalised; a mean per pixel is one of their size.
    mean = (0.0,) * preprocessing.channels
    return dataclasses.replace(preprocessing, image_size=preprocessing.resize, mean=mean)
