"""Check and apply the transforms that a config names.

A run applies them in the order of the list. Those of the host cut a training image to the model's
size while it is read; those of the device follow inside `jax.jit`: first those that see pixels,
then, after normalisation, those in which 0 is the mean pixel, so that padding with zeros is
padding with the mean (He et al. 2015, section 4.2). What is drawn depends on the seed, the step and
the position in the whole batch alone, so it stays the same however a batch is divided among devices
or processes.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax
from jaxtyping import Array, Int, Key, Shaped

from resnet_jax.data.targets import is_dense
from resnet_jax.data.transforms.specs import Chosen, read_transform
from resnet_jax.data.transforms.table import TRANSFORMS
from resnet_jax.errors import InputError

Targets = TypeVar('Targets')
# Images, or them and smaller views of each, [N, K, S, S, C].
Images = Shaped[Array, 'n h w c'] | tuple[Shaped[Array, 'n h w c'], Shaped[Array, 'n k s s c']]

# Added to the stream of a batch transform. No batch has so many examples, so the key differs from
# the key of every example.
BATCH_STREAMS = 2**31


def read_transforms(texts: Sequence[str]) -> tuple[Chosen, ...]:
    """The transforms that a config names.

    Args:
      texts: such as `flip` or `pad_crop(pad=2)`.

    Raises:
      InputError: as `specs.read_transform`.
    """
    return tuple(read_transform(text, TRANSFORMS) for text in texts)


def canonical_transforms(texts: Sequence[str]) -> tuple[str, ...]:
    """Texts that differ only in what they compute; those that cannot be read stay as they are."""
    try:
        return tuple(map(str, read_transforms(texts)))
    except InputError:
        return tuple(texts)


def with_settings(
    texts: Sequence[str], settings: Mapping[str, Mapping[str, Any]]
) -> tuple[str, ...]:
    """Texts of the same transforms with other settings.

    Args:
      texts: as of `read_transforms`.
      settings: name of a transform -> the settings that change; of others in `texts`, none.

    Raises:
      InputError: as `read_transforms`, also for the new settings.
    """
    changed = [
        dataclasses.replace(one, settings={**one.settings, **settings.get(one.name, {})})
        for one in read_transforms(texts)
    ]
    return tuple(map(str, read_transforms(list(map(str, changed)))))


def check_transforms(
    texts: Sequence[str],
    shape: tuple[int, ...],
    *,
    of_pixels: bool = True,
    dense: bool = False,
) -> None:
    """Checks a list of transforms: each by itself, and their order.

    Args:
      texts: as of `read_transforms`.
      shape: of the model's input: [H, W, C] of images, [L, C] of series, [T, H, W, C] of videos and
        volumes, [L] of texts.
      of_pixels: whether images are made of pixels; False for spectrograms.
      dense: whether the examples have masks, boxes or maps of depth in place of labels.

    Raises:
      InputError: on a text that `read_transforms` refuses, a repeated name, a transform after one
        that it must precede, or images that it cannot take.
    """
    chosen = read_transforms(texts)
    counts = collections.Counter(one.name for one in chosen)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise InputError(f'transform {repeated[0]!r} is listed twice; list it once')
    for before, after in itertools.combinations(chosen, 2):
        reason = _misplaced(before, after)
        if reason:
            raise InputError(
                f'transform {after.name!r} {reason.format(before.name)}; list {after.name!r} first'
            )
    levels = {one.transform.level: one.name for one in chosen}
    if {'views', 'batch'} <= levels.keys():
        raise InputError(
            f'transform {levels["views"]!r} does not go with {levels["batch"]!r}, after which a '
            'crop may show another class than its target says; leave one of them out'
        )
    dimensions = len(shape) - 1
    for one in chosen:
        if dimensions not in one.transform.dimensions:
            kinds = {0: 'texts', 1: 'series', 2: 'images', 3: 'videos or volumes'}
            taken = ' or '.join(kinds[n] for n in one.transform.dimensions)
            raise InputError(
                f'transform {one.name!r} takes {taken}, and the model {kinds[dimensions]}; leave '
                'it out'
            )
        if not of_pixels and one.transform.domain != 'normalised':
            raise InputError(
                f'transform {one.name!r} takes pictures, and the model spectrograms; leave it out'
            )
        if dense and one.transform.follow is None:
            raise InputError(
                f'transform {one.name!r} does not move masks and boxes with the image; leave it '
                f'out, or take one that does: {", ".join(_following())}'
            )
        if dimensions > 1:
            _check_images(one, shape[-2], shape[-1])
        _check_frames(one, shape[0] if dimensions == 3 else 0)


def _following() -> list[str]:
    return [name for name, row in TRANSFORMS.items() if row.follow is not None]


def _misplaced(before: Chosen, after: Chosen) -> str:
    """Why a transform cannot follow another, whose name is left out; '' if it can."""
    first, second = before.transform, after.transform
    if first.where == 'device' and second.where == 'host':
        return 'runs on the host and cannot follow {!r}, which runs on the device'
    if first.level == 'views':
        return 'changes whole images and cannot follow {!r}, which cuts crops out of them'
    if first.domain == 'normalised' and second.domain == 'pixels':
        return 'sees pixels and cannot follow {!r}, which sees normalised images'
    return ''


def _check_images(one: Chosen, image_size: int, channels: int) -> None:
    known, settings = one.transform.channels, one.settings
    if known and channels not in known:
        raise InputError(
            f'transform {one.name!r} takes images of {" or ".join(map(str, known))} channels, not '
            f'of {channels}; leave it out'
        )
    if one.name == 'pad_crop' and settings['mode'] == 'reflect' and settings['pad'] >= image_size:
        raise InputError(
            f'transform pad_crop: pad {settings["pad"]} cannot reflect an image of {image_size} '
            f'pixels; set it to at most {image_size - 1}'
        )
    if one.name == 'random_scale_crop' and settings['sides'][0] < image_size:
        raise InputError(
            f'transform random_scale_crop: sides must be at least the image_size {image_size}, got '
            f'{settings["sides"]}'
        )


def _check_frames(one: Chosen, frames: int) -> None:
    settings = one.settings
    reflects = one.name == 'pad_crop' and settings['mode'] == 'reflect'
    if reflects and frames and settings['pad'] >= frames:
        raise InputError(
            f'transform pad_crop: pad {settings["pad"]} cannot reflect a video of {frames} frames; '
            f'set it to at most {frames - 1}'
        )


def is_streamed(texts: Sequence[str]) -> bool:
    """Tells whether a transform runs on the host, so that images are read anew in every epoch."""
    return any(one.transform.where == 'host' for one in read_transforms(texts))


def views_of(texts: Sequence[str]) -> str:
    """The name of the transform that adds smaller views to each image; '' without one."""
    chosen = read_transforms(texts)
    return next((one.name for one in chosen if one.transform.level == 'views'), '')


def example_keys(
    key: Key[Array, ''], step: Int[Array, ''] | int, positions: Int[Array, ' n']
) -> Key[Array, ' n']:
    """Derives a key for each example of a batch.

    Args:
      key: of the run, a typed key from `jax.random.key`.
      step: the training step.
      positions: the positions of these examples in the whole batch of the step.
    """
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.fold_in(key, step)))(positions)


def augment(
    texts: Sequence[str],
    key: Key[Array, ''],
    images: Shaped[Array, 'n h w c'],
    targets: Targets,
    step: Int[Array, ''] | int,
    positions: Int[Array, ' n'],
    *,
    normalize: Callable[[Array], Array] = lambda images: images,
    classes: int | None = None,
    axis: str | None = None,
) -> tuple[Images, Targets]:
    """Applies the device transforms to a batch, in their order. To be called inside `jax.jit`.

    Args:
      texts: as of `read_transforms`; host transforms are skipped. Static.
      key: of the run, a typed key from `jax.random.key`.
      images: what `normalize` takes, uint8 where a transform sees pixels.
      targets: of the images. Labels [N] become distributions [N, classes] before the first of the
        batch transforms, which change them; masks, boxes and maps follow their images.
      step: the training step.
      positions: the positions of these examples in the whole batch of the step.
      normalize: makes pixels the model's input. It comes as early as the transforms allow.
      classes: number of classes, for batch transforms of labels.
      axis: name of the mapped axis over which the whole batch is divided, in order; None: it is
        here.

    Returns:
      The images, normalised, and the targets. With a transform that adds views, a pair takes the
      place of the images: them, and the smaller ones [N, K, S, S, C].
    """
    every = [one for one in read_transforms(texts) if one.transform.where == 'device']
    device = [one for one in every if one.transform.level != 'views']
    pixels = [i for i, one in enumerate(device) if one.transform.domain == 'pixels']
    after = pixels[-1] + 1 if pixels else 0
    keys, step_key = example_keys(key, step, positions), jax.random.fold_in(key, step)
    mixed: Any = targets
    if any(one.transform.level == 'batch' for one in device):
        mixed = _distributions(targets, classes)
    partner = functools.partial(_partners, axis=axis)
    images, mixed = _apply(device[:after], keys, step_key, images, mixed, partner)
    images, mixed = _apply(device[after:], keys, step_key, normalize(images), mixed, partner)
    for one in every[len(device) :]:
        streams = jax.vmap(functools.partial(jax.random.fold_in, data=one.transform.stream))(keys)
        return (images, jax.vmap(one.apply)(streams, images)), mixed
    return images, mixed


def _distributions(targets: Any, classes: int | None) -> Any:
    if targets.ndim > 1:
        return targets
    assert classes is not None, 'labels are mixed as distributions over a number of classes'
    return jax.nn.one_hot(targets, classes)


def _partners(rows: Array, axis: str | None) -> Array:
    """For each example's row, that of the example as far from the end of the whole batch.

    The order of examples is random, so this pairs them at random; and each device needs the rows of
    one other alone.
    """
    if axis is not None:
        count = lax.axis_size(axis)
        rows = lax.ppermute(rows, axis, [(i, count - 1 - i) for i in range(count)])
    return rows[::-1]


def _apply(
    chosen: Sequence[Chosen],
    keys: jax.Array,
    step_key: jax.Array,
    images: jax.Array,
    targets: Any,
    partner: Callable[[jax.Array], jax.Array],
) -> tuple[jax.Array, Any]:
    for level, group in itertools.groupby(chosen, key=lambda one: one.transform.level):
        if level == 'example':
            images, targets = _augment_examples(list(group), keys, images, targets)
            continue
        for one in group:
            stream = np.uint32(BATCH_STREAMS + one.transform.stream)
            images, targets = one.apply(
                jax.random.fold_in(step_key, stream), images, targets, partner
            )
    return images, targets


def _augment_examples(
    chosen: Sequence[Chosen], keys: jax.Array, images: jax.Array, targets: Any
) -> tuple[jax.Array, Any]:
    def augment_one(key: jax.Array, image: jax.Array, moved: Any) -> tuple[jax.Array, Any]:
        for one in chosen:
            # Streams 0 and 1 are the two keys of `jax.random.split(key)`, which earlier versions
            # used for crop and flip.
            own = jax.random.fold_in(key, one.transform.stream)
            if moved is not None:
                moved = one.follow(own, moved, (image.shape[0], image.shape[1]))
            image = one.apply(own, image)
        return image, moved

    # The vmapped slice was the fastest of seven ways measured with jax 0.10.1 on a 2-core CPU, for
    # crop and flip of float32 [128, 32, 32, 3]: 0.14 ms; one gather 0.23, take_along_axis twice
    # 0.25, lax.map over slices 0.39, one-hot matrix products 0.89, a `where` for each shift 9.95.
    images, moved = jax.vmap(augment_one)(keys, images, targets if is_dense(targets) else None)
    return images, targets if moved is None else moved
