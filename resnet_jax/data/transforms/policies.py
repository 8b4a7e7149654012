"""Transforms that choose operations: RandAugment, TrivialAugment, AutoAugment, AugMix."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from resnet_jax.data.transforms.auto_augment import POLICIES
from resnet_jax.data.transforms.operations import OPERATIONS, Image, operate

STRONGEST = 10.0  # of RandAugment's and AugMix's scale
STRONGEST_BIN = 9  # of AutoAugment's policies
TRIVIAL_BINS = 31  # strengths of TrivialAugment, from nothing to the strongest
AUGMIX_CHAINS, AUGMIX_DEPTH = 3, 3  # of operations; arXiv 1912.02781, section 3


def _as_it_is(x: Array) -> Array:
    return x


@dataclasses.dataclass(frozen=True)
class Strength:
    """How an operation's amount grows with its strength, from 0 to 1.

    Attributes:
      neutral: the amount at strength 0, at which the image does not change (of most operations).
      change: what strength 1 adds to it; of `per_side` operations a fraction of the image's side.
      signed: whether the change is also taken away, as often as added.
      rounded: applied to the change.
      per_side: whether the change is measured in sides of the image.
    """

    neutral: float = 0.0
    change: float = 0.0
    signed: bool = False
    rounded: Callable[[Array], Array] = _as_it_is
    per_side: bool = False

    def amount(self, levels: Array, signs: Array, side: int) -> Array:
        """The amounts at some strengths; signs are 1 or -1, `side` the image's side in pixels."""
        change = self.rounded(levels * self.change * (side if self.per_side else 1))
        return self.neutral + (signs * change if self.signed else change)


_FACTOR = Strength(1.0, 0.9, signed=True)
_SHEAR = Strength(0.0, 0.3, signed=True)
_TRANSLATE = Strength(0.0, 150 / 331, signed=True, rounded=jnp.trunc, per_side=True)
# AutoAugment's ranges (arXiv 1805.09501, table 6), each growing with the strength as in
# torchvision; in the paper's code some operations grow weaker.
USUAL: dict[str, Strength] = {
    'identity': Strength(),
    **dict.fromkeys(('shear_x', 'shear_y'), _SHEAR),
    **dict.fromkeys(('translate_x', 'translate_y'), _TRANSLATE),
    'rotate': Strength(0.0, 30.0, signed=True),
    **dict.fromkeys(('brightness', 'color', 'contrast', 'sharpness'), _FACTOR),
    'posterize': Strength(8.0, -4.0, rounded=jnp.round),
    'solarize': Strength(255.0, -255.0),
    'autocontrast': Strength(),
    'equalize': Strength(),
}
AUTO = {**USUAL, 'invert': Strength()}
# TrivialAugment's "wide" ranges (arXiv 2103.10158, table 5).
WIDE: dict[str, Strength] = {
    **USUAL,
    **dict.fromkeys(('shear_x', 'shear_y'), Strength(0.0, 0.99, signed=True)),
    **dict.fromkeys(
        ('translate_x', 'translate_y'), Strength(0.0, 32.0, signed=True, rounded=jnp.trunc)
    ),
    'rotate': Strength(0.0, 135.0, signed=True),
    **dict.fromkeys(
        ('brightness', 'color', 'contrast', 'sharpness'), Strength(1.0, 0.99, signed=True)
    ),
    'posterize': Strength(8.0, -6.0, rounded=jnp.round),
}
# AugMix leaves out what the corruptions of ImageNet-C are made of (arXiv 1912.02781, section 3);
# amounts of its code, github.com/google-research/augmix.
MIX: dict[str, Strength] = {
    'autocontrast': Strength(),
    'equalize': Strength(),
    'posterize': Strength(4.0, -4.0, rounded=jnp.trunc),
    'rotate': Strength(0.0, 30.0, signed=True, rounded=jnp.trunc),
    'solarize': Strength(256.0, -256.0, rounded=jnp.trunc),
    **dict.fromkeys(('shear_x', 'shear_y'), _SHEAR),
    **dict.fromkeys(
        ('translate_x', 'translate_y'),
        Strength(0.0, 1 / 3, signed=True, rounded=jnp.trunc, per_side=True),
    ),
}


def _operate(
    space: Mapping[str, Strength],
    image: Image,
    which: Int[Array, ' n'],
    levels: Float[Array, ' n'],
    positive: Bool[Array, ' n'],
    used: Bool[Array, ' n'],
    fill: int,
    interpolation: str,
) -> Image:
    """Applies operations of a space, one after another.

    Args:
      space: name of an operation -> its strengths.
      image: of 1 or 3 channels.
      which: the operations' places in `space`.
      levels: their strengths, from 0 to 1.
      positive: whether they add their change or, where they are signed, take it away.
      used: False for those that are left out.
      fill: the value of pixels from outside.
      interpolation: one of `SAMPLINGS`.
    """
    numbers = jnp.asarray([OPERATIONS.index(name) for name in space])
    signs = jnp.where(positive, 1.0, -1.0)
    side = image.shape[0]
    # [operations, n]
    amounts = jnp.stack([one.amount(levels, signs, side) for one in space.values()])
    chosen = jnp.take_along_axis(amounts, which[None], axis=0)[0]

    def one(image: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return operate(image, *step, fill, interpolation), None

    # A loop, so that the operations are compiled once.
    identity = OPERATIONS.index('identity')
    steps = jnp.where(used, numbers[which], identity), chosen
    return lax.scan(one, image, steps)[0]


def rand_augment(
    key: Key[Array, ''],
    image: Image,
    layers: int,
    magnitude: float,
    std: float,
    fill: int,
    interpolation: str,
) -> Image:
    """RandAugment (Cubuk et al., arXiv 1909.13719, section 3): some operations at one strength.

    Args:
      key: of this example.
      image: of 1 or 3 channels.
      layers: number of operations, the paper's N; all are as likely, also twice the same.
      magnitude: their strength, the paper's M, from 0 to 10.
      std: of the normal distribution around `magnitude` that each strength is drawn from (timm's
        mstd); 0: it is `magnitude`.
      fill: the value of pixels from outside.
      interpolation: one of `SAMPLINGS`.
    """
    keys, shape = jax.random.split(key, 3), (layers,)
    which = jax.random.randint(keys[0], shape, 0, len(USUAL))
    levels = (magnitude + std * jax.random.normal(keys[1], shape)) / STRONGEST
    positive, used = jax.random.bernoulli(keys[2], shape=shape), jnp.ones(shape, bool)
    levels = jnp.clip(levels, 0, 1)
    return _operate(USUAL, image, which, levels, positive, used, fill, interpolation)


def trivial_augment(key: Key[Array, ''], image: Image, fill: int, interpolation: str) -> Image:
    """TrivialAugment (Müller & Hutter, arXiv 2103.10158, section 3): one operation at any strength.

    Arguments as of `rand_augment`. The ranges are the paper's wide ones.
    """
    keys, shape = jax.random.split(key, 3), (1,)
    which = jax.random.randint(keys[0], shape, 0, len(WIDE))
    levels = jax.random.randint(keys[1], shape, 0, TRIVIAL_BINS) / (TRIVIAL_BINS - 1)
    positive, used = jax.random.bernoulli(keys[2], shape=shape), jnp.ones(shape, bool)
    return _operate(WIDE, image, which, levels, positive, used, fill, interpolation)


def auto_augment(
    key: Key[Array, ''], image: Image, policy: str, fill: int, interpolation: str
) -> Image:
    """AutoAugment (Cubuk et al., arXiv 1805.09501, appendix): a pair of operations of a policy.

    Args:
      key: of this example.
      image: of 1 or 3 channels.
      policy: a key of `POLICIES`.
      fill: the value of pixels from outside.
      interpolation: one of `SAMPLINGS`.
    """
    rows = POLICIES[policy]
    names = tuple(AUTO)
    which = jnp.asarray([[names.index(name) for name, _, _ in row] for row in rows])
    probabilities = jnp.asarray([[probability for _, probability, _ in row] for row in rows])
    levels = jnp.asarray([[level / STRONGEST_BIN for _, _, level in row] for row in rows])
    keys = jax.random.split(key, 3)
    pair = jax.random.randint(keys[0], (), 0, len(rows))
    positive = jax.random.bernoulli(keys[1], shape=(2,))
    used = jax.random.bernoulli(keys[2], probabilities[pair])
    return _operate(AUTO, image, which[pair], levels[pair], positive, used, fill, interpolation)


def aug_mix(
    key: Key[Array, ''], image: Image, severity: float, alpha: float, fill: int, interpolation: str
) -> Image:
    """AugMix (Hendrycks et al., arXiv 1912.02781, section 3): a mean of chains of operations.

    The images only: the paper's consistency loss is not part of it.

    Args:
      key: of this example.
      image: of 1 or 3 channels.
      severity: the strongest operation, from 0.1 to 10.
      alpha: of the Dirichlet distribution of the chains' weights, and of the Beta distribution of
        the image's own.
      fill: the value of pixels from outside.
      interpolation: one of `SAMPLINGS`.
    """
    keys, shape = jax.random.split(key, 6), (AUGMIX_CHAINS, AUGMIX_DEPTH)
    weights = jax.random.dirichlet(keys[0], jnp.full(AUGMIX_CHAINS, alpha))
    own = jax.random.beta(keys[1], alpha, alpha)
    depth = jax.random.randint(keys[2], (AUGMIX_CHAINS, 1), 1, AUGMIX_DEPTH + 1)
    which = jax.random.randint(keys[3], shape, 0, len(MIX))
    levels = jax.random.uniform(keys[4], shape, minval=0.1, maxval=severity) / STRONGEST
    positive = jax.random.bernoulli(keys[5], shape=shape)
    used = jnp.arange(AUGMIX_DEPTH)[None] < depth

    def chain(
        which: jax.Array, levels: jax.Array, positive: jax.Array, used: jax.Array
    ) -> jax.Array:
        found = _operate(MIX, image, which, levels, positive, used, fill, interpolation)
        return found.astype(jnp.float32)

    chains = jax.vmap(chain)(which, levels, positive, used)
    mean = jnp.tensordot(weights, chains, axes=1)
    return jnp.round(own * image.astype(jnp.float32) + (1 - own) * mean).astype(jnp.uint8)
