"""Augmentation on the device: pure functions of a key and images, for use inside `jax.jit`.

Normalise first, augment then: padding with zeros is then padding with the mean pixel, as He et al.
2015 (section 4.2) do. What is drawn for an example depends on its own key alone, so it stays the
same however a batch is spread over devices.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

PadMode = Literal['zero', 'reflect']
_PAD_MODES = {'zero': 'constant', 'reflect': 'reflect'}  # our name -> jnp.pad's


def example_keys(key: jax.Array, step: jax.Array | int, positions: jax.Array) -> jax.Array:
    """A key for each example of a batch.

    Args:
      key: of the run, a typed key from `jax.random.key`.
      step: the training step.
      positions: int32 [N], the positions of these examples in the whole batch of the step.

    Returns:
      Keys [N].
    """
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.fold_in(key, step)))(positions)


def random_crop(
    key: jax.Array, image: jax.Array, padding: int, mode: PadMode = 'zero'
) -> jax.Array:
    """Pads an image on all sides and cuts the original size out at a random place.

    Args:
      key: of this example.
      image: [H, W, C].
      padding: pixels on each side.
      mode: fill the border with zeros or with the mirrored image.

    Returns:
      [H, W, C], same dtype.
    """
    border = ((padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(image, border, mode=_PAD_MODES[mode])
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), image.shape)


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors an image left to right with probability one half.

    Args:
      key: of this example.
      image: [H, W, C].

    Returns:
      [H, W, C], same dtype.
    """
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def augment(
    images: jax.Array, keys: jax.Array, *, pad: int, pad_mode: PadMode = 'zero', flip: bool
) -> jax.Array:
    """Random crop and flip of a batch; what is switched off costs nothing.

    Args:
      images: [N, H, W, C].
      keys: [N], from `example_keys`.
      pad: pixels of padding on each side before the crop; 0 for no crop. Static.
      pad_mode: see `random_crop`. Static.
      flip: whether to mirror half of the images. Static.

    Returns:
      [N, H, W, C], same dtype.
    """

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        crop_key, flip_key = jax.random.split(key)
        if pad:
            image = random_crop(crop_key, image, pad, pad_mode)
        return random_flip(flip_key, image) if flip else image

    # The vmapped slice was the fastest of seven ways measured with jax 0.10.1 on a 2-core CPU, for
    # crop and flip of float32 [128, 32, 32, 3]: 0.14 ms; one gather 0.23, take_along_axis twice
    # 0.25, lax.map over slices 0.39, one-hot matrix products 0.89, a `where` for each shift 9.95.
    return jax.vmap(one)(images, keys) if pad or flip else images
