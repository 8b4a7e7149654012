"""Training images that cannot be read: they are counted, and replaced by others."""

from collections.abc import Callable
from typing import Any

import numpy as np

from resnet_jax.data.pictures import Picture
from resnet_jax.data.sources import Source
from resnet_jax.errors import InputError

# Whether a training image that cannot be read ends the run, or another takes its place.
POLICIES = ('stop', 'skip')

# Where the random numbers of replacements are seeded with [seed, REPLACEMENT_STREAM, position].
REPLACEMENT_STREAM = 1_000_000
REPLACEMENT_TRIES = 100  # examples that are tried in the place of one that cannot be read
JUDGED_AFTER = 1000  # examples: a share of fewer says little, so it is taken of this many


class BadImages:
    """Counts the examples that were replaced, and stops where they are more than a share.

    Attributes:
      share: the largest share of the examples read, 0 to 1.
      read: number of examples read.
      count: of them, those that were replaced.
      first: what was wrong with the first of them; empty if there was none.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.read = self.count = 0
        self.first = ''

    def add(self, faults: list[str], read: int) -> None:
        """Counts examples.

        Args:
          faults: what was wrong with each that was replaced.
          read: number of all of them.

        Raises:
          InputError: if more than the share of all have been replaced.
        """
        self.read += read
        self.count += len(faults)
        self.first = self.first or next(iter(faults), '')
        if self.count > self.share * max(self.read, JUDGED_AFTER):
            raise InputError(
                f'{self.count} of {self.read} images cannot be read, more than '
                f'data.bad_images_share={self.share:g} allows (of at least {JUDGED_AFTER}); the '
                f'first: {self.first}'
            )


def read_or_replace(
    source: Source,
    picture: Picture,
    label: Any,
    make: Callable[[Picture, Any], dict[str, Any]],
    place: tuple[int, int],
) -> tuple[dict[str, Any], list[str]]:
    """Reads a training image, or another of the source where it cannot be read.

    Args:
      source: where the picture is from.
      picture: the image.
      label: of it, or its targets.
      make: reads and prepares both.
      place: (seed, position): which others are tried is a function of these alone.

    Returns:
      What `make` gives, and what was wrong, in a list that is empty if nothing was.

    Raises:
      InputError: if `REPLACEMENT_TRIES` others cannot be read either.
    """
    try:
        return make(picture, label), []
    except InputError as error:
        fault = str(error)
    rng = np.random.default_rng([place[0], REPLACEMENT_STREAM, place[1]])
    for _ in range(REPLACEMENT_TRIES):
        other = int(rng.integers(len(source)))
        ((picture, label),) = source.pictures([other], picture.shown)
        try:
            return make(picture, label), [fault]
        except InputError:
            continue
    raise InputError(f'{fault}; nor can {REPLACEMENT_TRIES} others in its place be read')
