"""The examples of a run, as its config describes them."""

import dataclasses
import math
from collections.abc import Generator, Iterable
from typing import Any

import numpy as np
from jaxtyping import Float, Int32
from ml_collections import ConfigDict

from resnet_jax import data
from resnet_jax.data import Preprocessing, Source
from resnet_jax.errors import InputError, UnknownSplit
from resnet_jax.models import ResNet
from resnet_jax.training import processes
from resnet_jax.training.start import model_dimensions, takes_texts
from resnet_jax.training.tasks import TASKS

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The examples of a run.

    Attributes:
      config: of the run.
      train: the training split.
      eval: the split that the run is evaluated on.
      preprocessing: of both; training images may have another size.
      fingerprint: 'train' and 'eval' -> `data.fingerprint` of the split.
      arrays: the whole training set, {'image': uint8 [N, S, S, C], 'label': int32 [N]}, where it is
        small enough to live on the device; None: it is streamed.
      bad: counts the images of `arrays` that others have replaced; None: no image is replaced.
    """

    config: ConfigDict
    train: Source
    eval: Source
    preprocessing: Preprocessing
    fingerprint: dict[str, Any]
    arrays: Batch | None
    bad: data.BadImages | None = None

    @property
    def train_preprocessing(self) -> Preprocessing:
        """The preprocessing at the size of training images."""
        return for_training(self.preprocessing, self.config)

    @property
    def steps_per_epoch(self) -> float:
        """Not rounded: no example is dropped, a batch may straddle two epochs."""
        return len(self.train) / self.config.train.batch_size

    @property
    def total_steps(self) -> int:
        """Length of the run."""
        if self.config.train.steps is not None:
            return self.config.train.steps
        return math.ceil(self.config.train.epochs * self.steps_per_epoch)

    def class_weights(self) -> Float[np.ndarray, ' classes'] | None:
        """The weight of each class in the loss, as config.loss.class_weights has it; None: all 1.

        Balanced ones are n / (k n_c), of the n examples and k classes of the training split: their
        mean over the examples is 1. A class without examples has weight 0.

        Raises:
          InputError: for another number of weights than there are classes.
        """
        given, names = self.config.loss.class_weights, self.train.class_names
        if not given:
            return None
        if given == ('balanced',):
            labels = self.train.labels() if self.arrays is None else self.arrays['label']
            counts = np.bincount(labels, minlength=len(names))
            weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
            return np.where(counts > 0, weights, 0.0).astype(np.float32)
        if len(given) != len(names):
            raise InputError(
                f'config field loss.class_weights must be balanced or {len(names)} numbers, one '
                f'for each class, got {len(given)}'
            )
        return np.asarray(given, np.float32)

    def indices(self, number: int) -> Int32[np.ndarray, ' batch_size']:
        """The training examples that a step takes, of all processes together."""
        config, n = self.config, len(self.train)
        size, repeats = config.train.batch_size, config.augment.repeats
        return data.batch_indices(config.seed, number, size, n, repeats)

    def train_batches(
        self, first_step: int, last_step: int, bad: data.BadImages | None = None
    ) -> Generator[Batch]:
        """Batches for steps first_step to last_step - 1.

        {'index': int32 [B]} into `arrays`, or, streamed, {'image': uint8 [B, S, S, C], 'label':
        int32 [B]}. B is this process's share of the batch. `bad` counts the images of these batches
        that are replaced, where config.data.bad_images wants it.
        """
        config = self.config
        size, seed, repeats = config.train.batch_size, config.seed, config.augment.repeats
        if self.arrays is not None:
            for number in range(first_step, last_step):
                yield {'index': self.indices(number)[data.rows(size, processes.part())]}
            return
        yield from data.train_batches(
            self.train,
            self.train_preprocessing,
            seed=seed,
            batch_size=size,
            first_step=first_step,
            last_step=last_step,
            part=processes.part(),
            workers=workers(config),
            transforms=config.augment.transforms,
            repeats=repeats,
            bad=bad or bad_images(config),
        )

    def eval_batches(self, devices: int = 1) -> Iterable[Batch]:
        """The evaluation split once; call anew for each evaluation.

        The batch size is rounded up to a multiple of the number of devices; this process gets its
        share of each batch.
        """
        size = -(-self.config.train.eval_batch_size // devices) * devices
        return data.eval_batches(
            self.eval, self.preprocessing, size, workers(self.config), processes.part()
        )


def workers(config: ConfigDict) -> int:
    """Number of reading processes: as configured, else what suits the machine."""
    return data.default_workers() if config.data.workers is None else config.data.workers


def bad_images(config: ConfigDict) -> data.BadImages | None:
    """Counts images that are replaced, where the config wants them to be; None: they are errors."""
    settings = config.data
    return data.BadImages(settings.bad_images_share) if settings.bad_images == 'skip' else None


def fits_in_memory(source: Source, config: ConfigDict, image_size: int | None = None) -> bool:
    """Whether a split takes at most config.data.memory_mib; by default at data.image_size."""
    side = image_size or config.data.image_size
    example = side**2 * config.data.channels * (config.data.frames or 1)
    if source.space:
        size = 1 if source.vocabulary else 4  # bytes: of a text's bytes, or float32
        example = size * math.prod(source.space) * source.channels
    if source.is_dense:
        example += sum(x.nbytes for x in data.empty_targets(source.targets, 1, side).values())
    return len(source) * example <= config.data.memory_mib * 2**20


def open_splits(config: ConfigDict) -> tuple[Source, Source]:
    """The training and the evaluation split of a config.

    Raises:
      InputError: for data that does not exist or cannot be read.
    """
    settings, about = config.data, source_details(config)
    takes = TASKS[config.task].takes

    def opened(field: str, instead: str = '') -> Source:
        try:
            return data.open_source(settings.name, settings[field], **about).with_targets(takes)
        except UnknownSplit as error:
            raise InputError(f'data.{field}{instead}: {error}') from None

    train = opened('train_split')
    if settings.validation:
        return data.hold_out(train, settings.validation)
    held_out = ' (or data.validation=0.1, which holds out a tenth of the training examples)'
    return train, opened('eval_split', held_out)


def source_details(config: ConfigDict) -> dict[str, Any]:
    """What a config says of its data set besides name and split, as `data.open_source` takes it."""
    settings = config.data
    same = {field.name for field in dataclasses.fields(data.Details)} - {'data_dir'}
    about = {field: settings[field] for field in ('slice_order', *sorted(same))}
    return {'data_dir': settings.dir, **about}


def describe(inputs: Inputs) -> list[str]:
    """Lines about the examples of a run: how many of each class, and what was left out."""
    resident = None if inputs.arrays is None else inputs.arrays.get('label')
    counts = _counts_text(inputs.train, resident), _counts_text(inputs.eval, None)
    notes = list(dict.fromkeys((*inputs.train.notes, *inputs.eval.notes)))
    if inputs.bad is not None and inputs.bad.count:
        notes.append(replaced_text(inputs.bad.count, inputs.bad.first))
    return [f'train: {counts[0]}; eval: {counts[1]}', *(f'data: {note}' for note in notes)]


def replaced_text(count: int, first: str) -> str:
    """What was done about images that cannot be read; `first` says what is wrong with the first."""
    return f'{count} training images cannot be read and were replaced by others; {first}'


def _counts_text(source: Source, labels: np.ndarray | None) -> str:
    text = f'{len(source):,} {source.noun} of {len(source.class_names)} classes'
    if source.is_dense:
        return text
    if labels is None and source.read_labels is None:
        return text  # of tfds, whose labels are known once all its images are read
    counts = np.bincount(
        source.labels() if labels is None else labels, minlength=len(source.class_names)
    )
    none = [name for name, n in zip(source.class_names, counts, strict=True) if not n]
    low, high = counts[counts > 0].min(), counts.max()
    text += f', {low:,} of each' if low == high else f', {low:,} to {high:,} of each'
    return text + (f', none of {data.printable(data.listed(none))}' if none else '')


def open_inputs(config: ConfigDict, stored: Preprocessing | None = None) -> Inputs:
    """Opens both splits, and reads the training set where it fits into memory.

    Args:
      config: of the run.
      stored: the preprocessing of a run that is being resumed; None: measure it.

    Raises:
      InputError: for data that does not exist, cannot be read, or does not fit the config.
    """
    settings = config.data
    train, evaluation = open_splits(config)
    _check_dimensions(config, train)
    # A bad image would show only after all steps until then.
    data.check_files(evaluation, settings.channels)
    data.batch_indices(config.seed, 0, config.train.batch_size, len(train))  # checks the batch size
    draft, resident = unmeasured(config, train), is_resident(config, train)
    bad = bad_images(config) if resident else None
    sized = for_training(draft, config)
    arrays = data.load_arrays(train, sized, processes.is_first(), bad) if resident else None
    preprocessing = stored or _fit(draft, config, arrays)
    found = {'train': data.fingerprint(train), 'eval': data.fingerprint(evaluation)}
    return Inputs(config, train, evaluation, preprocessing, found, arrays, bad)


def unmeasured(config: ConfigDict, train: Source) -> Preprocessing:
    """The preprocessing of a config, without normalisation."""
    settings = config.data
    size, channels = settings.image_size, settings.channels
    if train.space:
        size, channels = train.space[0], train.channels
    return Preprocessing(
        image_size=size,
        channels=channels,
        resize=settings.resize,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        class_names=train.class_names,
        dimensions=len(train.space) or 2,
        standardize=settings.normalize == 'series',
        frames=settings.frames or 0,
        vocabulary=train.vocabulary,
        sample_rate=settings.sample_rate or 0,
        spectrogram=settings.spectrogram or '',
        fit='pad' if train.is_dense else 'crop',
    )


def _check_dimensions(config: ConfigDict, train: Source) -> None:
    """Refuses images or videos for a model of series, and the other way round.

    Images for a model of videos are refused where the first is prepared.
    """
    wanted = model_dimensions(config.model)
    if bool(train.vocabulary) != takes_texts(config.model):
        advice = (
            'choose a model of texts, such as vdcnn9, or set model.stem=embedding'
            if train.vocabulary
            else 'choose data of texts, text:PATH, or another model.stem'
        )
        raise InputError(
            f'{train.name} holds {train.noun}, and {config.model.name} here takes '
            f'{"whole numbers" if takes_texts(config.model) else "no texts"}; {advice}'
        )
    known = config.model.vocabulary or ResNet.vocabulary
    if train.vocabulary > known:
        raise InputError(
            f'config field model.vocabulary must be at least {train.vocabulary}, the numbers of '
            f'{train.name}, got {known}'
        )
    if config.data.spectrogram:
        return  # a picture, of whose dimensions `checks` has seen to
    if bool(train.space) != (wanted == 1):
        advice = (
            'choose a model of series, such as tsc_resnet, or set model.dimensions=1'
            if train.space
            else 'choose other data, such as aeon:ArrowHead, or model.dimensions=2'
        )
        raise InputError(
            f'{train.name} holds {train.noun}, and {config.model.name} here takes inputs of '
            f'{wanted} spatial dimensions; {advice}'
        )


def train_image_size(config: ConfigDict) -> int:
    """Side of what the model sees in training, pixels."""
    settings = config.data
    return settings.train_image_size or settings.image_size


def for_training(preprocessing: Preprocessing, config: ConfigDict) -> Preprocessing:
    """A preprocessing at the size of training images: their shorter side is cut to that size."""
    if config.data.train_image_size is None:
        return preprocessing
    return dataclasses.replace(preprocessing, image_size=train_image_size(config), resize=None)


def is_resident(config: ConfigDict, train: Source) -> bool:
    """Whether a run keeps its training images on the device; else they are streamed."""
    streamed = data.is_streamed(config.augment.transforms)
    return not streamed and fits_in_memory(train, config, train_image_size(config))


def _fit(draft: Preprocessing, config: ConfigDict, arrays: Batch | None) -> Preprocessing:
    """Fills in mean and deviation: as configured, else measured on the training set."""
    settings = config.data
    if draft.standardize or draft.vocabulary:
        return draft
    per_pixel = settings.normalize == 'pixel'
    fitted: dict[str, Any] = {'mean': settings.mean, 'std': settings.std}
    if arrays is None and (per_pixel or settings.mean is None or settings.std is None):
        raise InputError(
            'a data set that is streamed is not measured: set data.mean and data.std, with '
            'data.normalize=channel'
        )
    if arrays is not None and draft.dimensions == 1:
        seen = draft.normalize if draft.spectrogram else None
        mean, std = data.fit_series(arrays['image'], seen)
        given = {name: value for name, value in fitted.items() if value is not None}
        return dataclasses.replace(draft, **{'mean': mean, 'std': std, **given})
    if arrays is not None and settings.mean is None:
        fitted['mean'] = data.fit_mean(arrays['image'], per_pixel)
    if arrays is not None and settings.std is None:
        # he2015, section 4.2, subtracts the per-pixel mean and does not scale.
        fitted['std'] = draft.std if per_pixel else data.fit_std(arrays['image'])
    return dataclasses.replace(draft, **fitted)
