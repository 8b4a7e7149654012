"""Transforms that mix each image of a batch, and its target, with that of a partner.

One weight is drawn for a batch, as the papers' code does. The share of the partner in a target is
the share of its pixels that are really in the image.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from resnet_jax.data.transforms.regions import box_mask

Images = Float[Array, 'n h w c']
Distributions = Float[Array, 'n classes']
Partner = Callable[[Array], Array]  # [N, ...] -> the same of each example's partner


def mixup(
    key: Key[Array, ''],
    images: Images,
    targets: Distributions,
    partner: Partner,
    alpha: float,
    probability: float,
) -> tuple[Images, Distributions]:
    """Mixup (Zhang et al., arXiv 1710.09412, section 2): weighted means of images and targets.

    Args:
      key: of the step.
      images: normalised, of any floating dtype, which is kept.
      targets: distributions.
      partner: gives each example's partner.
      alpha: the weight is drawn from Beta(alpha, alpha).
      probability: that the batch is mixed.
    """
    share = _share(key, alpha, probability)
    return _mixed(images, targets, partner, jnp.broadcast_to(share, images.shape[1:3]), share)


def cutmix(
    key: Key[Array, ''],
    images: Images,
    targets: Distributions,
    partner: Partner,
    alpha: float,
    probability: float,
) -> tuple[Images, Distributions]:
    """CutMix (Yun et al., arXiv 1905.04899, section 3.1): a box of the partner is pasted in.

    The box is of the image's shape; its area is a fraction drawn from Beta(alpha, alpha), before
    what reaches over the border is cut off. Arguments as of `mixup`.
    """
    mask = _box(key, images, _share(key, alpha, probability))
    return _mixed(images, targets, partner, mask, jnp.mean(mask))


def mixup_or_cutmix(
    key: Key[Array, ''],
    images: Images,
    targets: Distributions,
    partner: Partner,
    mixup_alpha: float,
    cutmix_alpha: float,
    switch: float,
    probability: float,
) -> tuple[Images, Distributions]:
    """Mixup or CutMix at random, a batch at a time (Wightman et al., arXiv 2110.00476, section 2).

    Args:
      key: of the step.
      images: as of `mixup`.
      targets: distributions.
      partner: gives each example's partner.
      mixup_alpha: `alpha` of mixup.
      cutmix_alpha: `alpha` of CutMix.
      switch: probability of CutMix.
      probability: that the batch is mixed at all.
    """
    cut = jax.random.bernoulli(jax.random.fold_in(key, 3), switch)
    share = _share(key, mixup_alpha, probability)
    mask = _box(key, images, _share(key, cutmix_alpha, probability))
    weights = jnp.where(cut, mask, share)
    return _mixed(images, targets, partner, weights, jnp.where(cut, jnp.mean(mask), share))


def _share(key: jax.Array, alpha: float, probability: float) -> Float[Array, '']:
    """The weight of the partners; 0 in batches that are not mixed."""
    drawn = jax.random.beta(jax.random.fold_in(key, 0), alpha, alpha)
    mixes = jax.random.bernoulli(jax.random.fold_in(key, 1), probability)
    return jnp.where(mixes, drawn, 0.0)


def _box(key: jax.Array, images: Images, share: jax.Array) -> Float[Array, 'h w']:
    """1 in the partner's box, 0 elsewhere; its centre is anywhere in the image."""
    height, width = images.shape[1:3]
    side = jnp.sqrt(share)
    draws = jax.random.randint(jax.random.fold_in(key, 2), (2,), 0, jnp.asarray([height, width]))
    sides = (side * height).astype(jnp.int32), (side * width).astype(jnp.int32)
    return box_mask((height, width), (draws[0], draws[1]), sides).astype(jnp.float32)


def _mixed(
    images: Images,
    targets: Distributions,
    partner: Partner,
    weights: Float[Array, 'h w'],
    share: Float[Array, ''],
) -> tuple[Images, Distributions]:
    """Means in which the partner's pixels have these weights, and its target this one."""
    theirs = weights.astype(images.dtype)[None, :, :, None]
    images = (1 - theirs) * images + theirs * partner(images)
    return images, (1 - share) * targets + share * partner(targets)
