"""Check the image files of a split before it is needed."""

import concurrent.futures

from resnet_jax.data.catalogs import Source
from resnet_jax.data.images import check_header, decode_image
from resnet_jax.data.loader import usable_cores

DECODED_TO_CHECK = 1000  # images of a split that are decoded before it is needed


def check_files(source: Source) -> None:
    """Checks that the files of a split can be read, before it is needed.

    Images that are not files of their own, as in `tfds:`, are not looked at. Up to
    `DECODED_TO_CHECK` files are decoded; of more, each is opened and its header read.

    Raises:
      InputError: naming the first file that cannot be read.
    """
    split, start, _ = source.parts[0]
    if not isinstance(source.read(split, [start])[0][0], str):
        return
    check = decode_image if len(source) <= DECODED_TO_CHECK else check_header
    paths = [
        str(image)
        for split, start, stop in source.parts
        for image, _ in source.read(split, range(start, stop))
    ]
    pool = concurrent.futures.ThreadPoolExecutor(usable_cores())
    try:
        for _ in pool.map(check, paths):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
