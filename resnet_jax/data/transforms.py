"""Augmentation: a table of named transforms, each a pure function of random numbers and images.

A run applies the transforms that its config names, in that order. Those of the host cut a training
image to the model's size while it is read; those of the device follow inside `jax.jit`, after
normalisation, so that padding with zeros is padding with the mean pixel (He et al. 2015, section
4.2). What is drawn for an example depends on the seed, the step and its position in the batch
alone, so it stays the same however a batch is divided among devices or processes.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, Key, Shaped, UInt8

from resnet_jax.data.pictures import Picture, random_resized_crop
from resnet_jax.errors import InputError, check_choice

PadMode = Literal['zero', 'reflect']
Settings = Mapping[str, Any]  # the section `augment` of a config
Targets = TypeVar('Targets')

PAD_MODES = {'zero': 'constant', 'reflect': 'reflect'}  # our name -> jnp.pad's
# Added to the stream of a batch transform. No batch has so many examples, so the key differs from
# the key of every example.
BATCH_STREAMS = 2**31


@dataclasses.dataclass(frozen=True)
class Transform:
    """A way to augment training images.

    Attributes:
      where: 'host' while an image is read, with numpy; or 'device', inside `jax.jit`.
      level: 'example' sees one image; 'batch' sees the images and targets of a batch, on the
        device only.
      stream: sets its random numbers apart from those of the other transforms.
      apply: by `where` and `level`, with `settings` the section `augment` of the config:
        host, example: (rng, image, size, settings) -> uint8 [size, size, C]; the first of a run's
        gets a `Picture`, which is not decoded yet, the others uint8 [size, size, C]
        device, example: (key, image [H, W, C], settings) -> image
        device, batch: (key, images [N, H, W, C], targets, settings) -> (images, targets)
      settings: the fields of `augment` that it reads.
    """

    where: Literal['host', 'device']
    level: Literal['example', 'batch']
    stream: int
    apply: Callable[..., Any]
    settings: tuple[str, ...] = ()


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


def random_crop(
    key: Key[Array, ''], image: Shaped[Array, 'h w c'], padding: int, mode: PadMode = 'zero'
) -> Shaped[Array, 'h w c']:
    """Pads an image on all sides and cuts the original size out at a random place.

    Args:
      key: of this example.
      image: of any dtype, which is kept.
      padding: pixels on each side.
      mode: fill the border with zeros or with the mirrored image.
    """
    border = ((padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(image, border, mode=PAD_MODES[mode])
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), image.shape)


def random_flip(key: Key[Array, ''], image: Shaped[Array, 'h w c']) -> Shaped[Array, 'h w c']:
    """Mirrors an image left to right with probability one half.

    Args:
      key: of this example.
      image: of any dtype, which is kept.
    """
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def _pad_crop(key: jax.Array, image: jax.Array, settings: Settings) -> jax.Array:
    if settings['pad'] == 0:
        return image
    return random_crop(key, image, settings['pad'], settings['pad_mode'])


def _flip(key: jax.Array, image: jax.Array, settings: Settings) -> jax.Array:
    return random_flip(key, image)


def _random_resized_crop(
    rng: np.random.Generator,
    image: Picture | UInt8[np.ndarray, 'h w c'],
    size: int,
    settings: Settings,
) -> UInt8[np.ndarray, 'size size c']:
    return random_resized_crop(image, size, rng, scale=tuple(settings['crop_scale']))


# A stream's number is used once; changing it changes the random numbers of runs that are resumed.
TRANSFORMS: dict[str, Transform] = {
    'random_resized_crop': Transform('host', 'example', 2, _random_resized_crop, ('crop_scale',)),
    'pad_crop': Transform('device', 'example', 0, _pad_crop, ('pad', 'pad_mode')),
    'flip': Transform('device', 'example', 1, _flip),
}


def check_transforms(names: Sequence[str], settings: Settings, image_size: int) -> None:
    """Checks the names of transforms, their order and their settings.

    Args:
      names: keys of `TRANSFORMS`.
      settings: the section `augment` of a config.
      image_size: side of the model's input, pixels.

    Raises:
      InputError: on an unknown or repeated name, a host transform after a device one, or a setting
        that is missing or out of range.
    """
    for name in names:
        check_choice('transform', name, TRANSFORMS)
    repeated = [name for name, count in collections.Counter(names).items() if count > 1]
    if repeated:
        raise InputError(f'transform {repeated[0]!r} is listed twice; list it once')
    for before, after in itertools.pairwise(names):
        if TRANSFORMS[before].where == 'device' and TRANSFORMS[after].where == 'host':
            raise InputError(
                f'transform {after!r} runs on the host and cannot follow {before!r}, which runs on '
                f'the device; list {after!r} first'
            )
    missing = [s for n in names for s in TRANSFORMS[n].settings if s not in settings]
    if missing:
        raise InputError(f'augment.{missing[0]} is not set; set it, or drop the transform')
    _check_settings(settings)
    if 'pad_crop' in names and settings['pad_mode'] == 'reflect' and settings['pad'] >= image_size:
        raise InputError(
            f'augment.pad {settings["pad"]} cannot reflect an image of {image_size} pixels; '
            f'set augment.pad to at most {image_size - 1}'
        )


def _check_settings(settings: Settings) -> None:
    if 'pad_mode' in settings:
        check_choice('augment.pad_mode', settings['pad_mode'], PAD_MODES)
    if 'crop_scale' in settings:
        scale = settings['crop_scale']
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise InputError(
                f'augment.crop_scale must be two numbers in (0, 1], the smaller first, got {scale}'
            )


def is_streamed(names: Sequence[str]) -> bool:
    """Tells whether a transform runs on the host, so that images are read anew in every epoch."""
    return any(TRANSFORMS[name].where == 'host' for name in names)


def augment(
    names: Sequence[str],
    settings: Settings,
    key: Key[Array, ''],
    images: Shaped[Array, 'n h w c'],
    targets: Targets,
    step: Int[Array, ''] | int,
    positions: Int[Array, ' n'],
) -> tuple[Shaped[Array, 'n h w c'], Targets]:
    """Applies the device transforms to a batch, in their order. To be called inside `jax.jit`.

    Args:
      names: keys of `TRANSFORMS`; host transforms are skipped. Static.
      settings: the section `augment` of a config. Static.
      key: of the run, a typed key from `jax.random.key`.
      images: normalised, of any floating dtype, which is kept.
      targets: of the images, changed by batch transforms only.
      step: the training step.
      positions: the positions of these examples in the whole batch of the step.

    Returns:
      The images and the targets.
    """
    device = [TRANSFORMS[name] for name in names if TRANSFORMS[name].where == 'device']
    for level, transforms in itertools.groupby(device, key=lambda transform: transform.level):
        if level == 'example':
            keys = example_keys(key, step, positions)
            images = _augment_examples(list(transforms), settings, keys, images)
            continue
        step_key = jax.random.fold_in(key, step)
        for transform in transforms:
            batch_key = jax.random.fold_in(step_key, np.uint32(BATCH_STREAMS + transform.stream))
            images, targets = transform.apply(batch_key, images, targets, settings)
    return images, targets


def _augment_examples(
    transforms: Sequence[Transform], settings: Settings, keys: jax.Array, images: jax.Array
) -> jax.Array:
    def augment_one(key: jax.Array, image: jax.Array) -> jax.Array:
        for transform in transforms:
            # Streams 0 and 1 are the two keys of `jax.random.split(key)`, which earlier versions
            # used for crop and flip.
            image = transform.apply(jax.random.fold_in(key, transform.stream), image, settings)
        return image

    # The vmapped slice was the fastest of seven ways measured with jax 0.10.1 on a 2-core CPU, for
    # crop and flip of float32 [128, 32, 32, 3]: 0.14 ms; one gather 0.23, take_along_axis twice
    # 0.25, lax.map over slices 0.39, one-hot matrix products 0.89, a `where` for each shift 9.95.
    return jax.vmap(augment_one)(keys, images)
