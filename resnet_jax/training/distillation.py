"""Distillation: a model learns from the outputs of another one, its teacher.

Sources: Hinton, Vinyals and Dean, arXiv 1503.02531; the teacher sees the very images that the
student sees, after Beyer et al., arXiv 2106.05237; the maps of attention are those of Zagoruyko and
Komodakis, arXiv 1612.03928.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from resnet_jax import data, models
from resnet_jax.data import Preprocessing
from resnet_jax.errors import InputError, shown
from resnet_jax.interop import files, hub, weights
from resnet_jax.models import ResNet
from resnet_jax.training import workdir
from resnet_jax.training.compilation import jit
from resnet_jax.training.inputs import Inputs
from resnet_jax.training.metrics import as_distribution
from resnet_jax.training.start import build_model
from resnet_jax.training.tasks import Loss, Task

# online: of the batch as the student sees it; cached: of each image as it is, computed once.
OUTPUTS = ('online', 'cached')
_CHUNK = 256  # images that the teacher sees at a time where its outputs are kept


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A teacher, and how a student learns from it.

    Attributes:
      model: of the teacher.
      variables: of the teacher.
      preprocessing: that its model was trained with.
      student: the student's preprocessing.
      settings: config.distill.
      probabilities: of each training image [N, classes], at the temperature, where they are kept.
    """

    model: ResNet
    variables: dict[str, Any]
    preprocessing: Preprocessing
    student: Preprocessing
    settings: ConfigDict
    probabilities: np.ndarray | None = None

    def outputs(self, variables: Any, images: Float[Array, 'n h w c']) -> dict[str, Array]:
        """What the student is compared with: 'logits', and with features a map for each stage.

        Args:
          variables: of the teacher.
          images: normalised as the student sees them.
        """
        images = renormalized(images, self.student, self.preprocessing)
        found: Any = self.model.apply(variables, images, train=False, method='outputs')
        return jax.lax.stop_gradient(_compared(found, bool(self.settings.features)))

    def teach(
        self, arrays: Any, prepare: Any, task: Task, loss: Loss
    ) -> tuple[Any, Any, Task, Loss, str | None]:
        """A step's parts, changed so that the student learns from the teacher.

        Args:
          arrays: from `held`, on the device.
          prepare: of the batch.
          task: of the run.
          loss: of the task.

        Returns:
          The examples' arrays, prepare, task, loss, and the method of the model that gives what the
          loss takes. Targets are {'task', 'teacher'}.
        """
        examples, own = arrays['examples'], arrays['teacher']
        features = bool(self.settings.features)
        taught = dataclasses.replace(
            task,
            train_sums=lambda outputs, targets: task.train_sums(
                outputs['logits'] if features else outputs, targets['task']
            ),
        )
        classes = self.model.num_classes
        if self.probabilities is not None:
            examples = {**examples, 'teacher': own}
            taught = dataclasses.replace(
                taught,
                targets=lambda batch: jnp.concatenate(
                    [as_distribution(task.targets(batch), classes, own.dtype), batch['teacher']],
                    axis=-1,
                ),
            )

        def prepared(images: Array, targets: Any, number: Array, places: Array) -> Any:
            images, targets = prepare(images, targets, number, places)
            if self.probabilities is None:
                return images, {'task': targets, 'teacher': self.outputs(own, images)}
            known = targets[:, :classes], targets[:, classes:]
            return images, {'task': known[0], 'teacher': {'probabilities': known[1]}}

        def distilled(outputs: Any, targets: Any) -> Array:
            return loss_of(outputs, targets, loss, self.settings)

        return examples, prepared, taught, distilled, 'outputs' if features else None


def held(arrays: Any, teacher: Teacher | None) -> Any:
    """What a step takes besides its batches: the examples' arrays, and what it needs of a teacher.

    Args:
      arrays: of the examples; None: they are streamed.
      teacher: of the run; without one, `arrays` as they are.
    """
    if teacher is None:
        return arrays
    kept = teacher.probabilities
    return {'examples': arrays, 'teacher': teacher.variables if kept is None else kept}


def loss_of(outputs: Any, targets: Any, loss: Loss, settings: ConfigDict) -> Float[Array, ' n']:
    """The loss of each example: (1 - w) task + w T^2 KL(teacher || student) + f attention.

    KL is that of the probabilities at temperature T, in nats (arXiv 1503.02531, section 2); the
    last term half the squared distance of the normalised maps of attention, summed over the stages.

    Args:
      outputs: of the student: logits, or, with features, those by name.
      targets: {'task': the task's own, 'teacher': from `Teacher.outputs`, or 'probabilities'}.
      loss: of the task.
      settings: config.distill.
    """
    found = _compared(outputs, bool(settings.features)) if settings.features else None
    logits, theirs = outputs if found is None else found['logits'], targets['teacher']
    temperature, weight = settings.temperature, settings.weight
    ours = jax.nn.log_softmax(logits / temperature)
    if 'probabilities' in theirs:
        p = theirs['probabilities']
        log_p = jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))
    else:
        log_p = jax.nn.log_softmax(theirs['logits'] / temperature)
        p = jnp.exp(log_p)
    divergence = temperature**2 * jnp.sum(p * (log_p - ours), axis=-1)
    total = (1 - weight) * loss(logits, targets['task']) + weight * divergence
    if found is not None:
        maps = [name for name in found if name != 'logits']
        apart = sum(0.5 * jnp.sum((found[n] - theirs[n]) ** 2, axis=-1) for n in maps)
        total = total + settings.features * apart
    return total


def _compared(outputs: dict[str, Array], features: bool) -> dict[str, Array]:
    """The logits, and of each stage the map of attention: the mean square over the channels.

    A map is a vector of length 1 for each example (arXiv 1612.03928, section 3.1, p = 2).
    """
    found = {'logits': outputs['logits']}
    if not features:
        return found
    for name, x in outputs.items():
        if name.startswith('stage'):
            flat = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1).reshape(x.shape[0], -1)
            size = jnp.sqrt(jnp.sum(flat**2, axis=-1, keepdims=True))
            found[name] = flat / jnp.maximum(size, 1e-12)
    return found


def renormalized(
    images: Float[Array, 'n h w c'], ours: Preprocessing, theirs: Preprocessing
) -> Float[Array, 'n h w c']:
    """Images that are normalised in one way, normalised in another."""
    if (ours.mean, ours.std) == (theirs.mean, theirs.std):
        return images

    def shaped(values: Any) -> np.ndarray:
        array = np.asarray(values, np.float32)
        return array[None] if array.ndim == 3 else array.reshape(1, 1, 1, -1)

    pixels = images * shaped(ours.std) + shaped(ours.mean)
    return (pixels - shaped(theirs.mean)) / shaped(theirs.std)


def read_teacher(config: ConfigDict, model: ResNet, inputs: Inputs) -> Teacher | None:
    """The teacher that config.distill names; None without one.

    Args:
      config: of the run.
      model: the student.
      inputs: of the run.

    Raises:
      InputError: if it cannot be read, has other classes or images, or with features other stages;
        and for cached outputs of images that are streamed.
    """
    settings = config.distill
    if settings.teacher is None:
        return None
    student = inputs.preprocessing
    found, variables, preprocessing = _load(settings, student)
    if preprocessing.class_names != student.class_names:
        raise InputError(
            f'distill.teacher {settings.teacher} has other classes than the data: '
            f'{data.printable(data.listed(preprocessing.class_names))} and '
            f'{data.printable(data.listed(student.class_names))}'
        )
    if preprocessing.channels != student.channels:
        raise InputError(
            f'distill.teacher {settings.teacher} takes images of {preprocessing.channels} '
            f'channels; data.channels is {student.channels}'
        )
    if np.ndim(preprocessing.mean) == 3 and preprocessing.image_size != student.image_size:
        raise InputError(
            f'distill.teacher {settings.teacher} has a mean for each of its '
            f'{preprocessing.image_size} pixels; set data.image_size to that'
        )
    if settings.features:
        _check_stages(found, model, student.image_size)
    teacher = Teacher(found, variables, preprocessing, student, settings)
    if settings.outputs == 'online':
        return teacher
    if inputs.arrays is None:
        raise InputError(
            'distill.outputs=cached keeps those of images on the device, and these are streamed; '
            'set distill.outputs=online, or raise data.memory_mib'
        )
    return dataclasses.replace(teacher, probabilities=_probabilities(teacher, inputs))


def check_settings(settings: ConfigDict) -> None:
    """Refuses settings of config.distill that contradict each other.

    Raises:
      InputError: naming the field.
    """
    if settings.teacher is not None and settings.outputs == 'cached' and settings.features:
        raise InputError(
            'config field distill.outputs=cached keeps logits alone; set online, or '
            'distill.features=0'
        )


def _load(
    settings: ConfigDict, student: Preprocessing
) -> tuple[ResNet, dict[str, Any], Preprocessing]:
    folder = Path(settings.teacher)
    classes = len(student.class_names)
    if workdir.is_run(folder):
        described, preprocessing = workdir.read_config(folder), workdir.read_preprocessing(folder)
        model = build_model(described.model, len(preprocessing.class_names))
        tensors = files.read_tensors(folder)
    elif settings.model is None:
        raise InputError(
            f'distill.teacher {shown(settings.teacher)} is no folder of a run; of a file of '
            'weights, name its model with distill.model'
        )
    else:
        model = models.create_model(settings.model, classes)
        tensors = files.read_tensors(hub.fetch(hub.completed(settings.teacher, settings.model)))
        stored = tensors.metadata.get('preprocessing')
        preprocessing = Preprocessing.from_json(stored) if stored else student
    variables = weights.variables_from_tensors(
        tensors.arrays, model.unrolled(), where=settings.teacher
    )
    variables = jax.tree.map(lambda x: np.asarray(x, np.float32), variables)
    return model.unrolled(), variables, preprocessing


def _check_stages(teacher: ResNet, student: ResNet, image_size: int) -> None:
    theirs, ours = (
        [feature.size for name, feature in one.feature_info(image_size).items() if name != 'stem']
        for one in (teacher, student)
    )
    if theirs != ours:
        raise InputError(
            f'distill.features compares stages of equal sizes; the teacher has {theirs} and the '
            f'student {ours}'
        )


def _probabilities(teacher: Teacher, inputs: Inputs) -> np.ndarray:
    """Those of each training image, without augmentation."""

    @functools.partial(jit)
    def run(variables: Any, images: Array) -> Array:
        logits = teacher.outputs(variables, teacher.student.normalize(images))['logits']
        return jax.nn.softmax(logits / teacher.settings.temperature)

    assert inputs.arrays is not None
    images = inputs.arrays['image']
    padded = np.concatenate([images, images[: -len(images) % _CHUNK]])
    if len(padded) % _CHUNK:  # fewer than a chunk in all
        return np.asarray(run(teacher.variables, images))
    parts = [
        np.asarray(run(teacher.variables, padded[i : i + _CHUNK]))
        for i in range(0, len(padded), _CHUNK)
    ]
    return np.concatenate(parts)[: len(images)]
