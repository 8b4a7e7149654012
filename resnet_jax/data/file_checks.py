"""Check the image files of a split before it is needed."""

import concurrent.futures
import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

from resnet_jax.data.images import check_header, decode_image
from resnet_jax.data.read_ahead import usable_cores
from resnet_jax.data.sources import Source

DECODED_TO_CHECK = 1000  # images of a split that are decoded before it is needed


def check_files(source: Source, channels: int = 3) -> None:
    """Checks that the files of a split can be read, before it is needed.

    Images that are not files of their own, as in `tfds:`, are not looked at. Up to
    `DECODED_TO_CHECK` images are decoded; of more, each is opened and its header read. Files that
    are no images are read.

    Args:
      source: the split.
      channels: 1 or 3, or the bands that each image must have.

    Raises:
      InputError: naming the first file that cannot be read.
    """
    if not source.root:
        return
    check: Callable[[str], object] = functools.partial(
        decode_image if len(source) <= DECODED_TO_CHECK else check_header, channels=channels
    )
    work: tuple[Callable[[Any], object], Iterable[Any]] = (
        source.decode or check,
        [os.path.join(source.root, file) for file in source.files()],
    )
    if source.is_dense and len(source) <= DECODED_TO_CHECK:
        work = source.__getitem__, range(len(source))  # with their masks or boxes
    pool = concurrent.futures.ThreadPoolExecutor(usable_cores())
    try:
        for _ in pool.map(*work):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
