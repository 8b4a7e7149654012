"""CIFAR-10 as re-encoded JPEGs (TFDS data set `cifar10_jpeg`), with the recipe of he2015.

Every image went through JPEG once more, so errors are higher than on the original: compare runs
with runs, not with the paper.

    resnet-jax train --config cifar10_jpeg --config.data.dir=DIR --workdir runs/jpeg

Hardware: any. Result: 64k steps not yet run; docs/measured.md has the first 300.
"""

import cifar10
from ml_collections import ConfigDict


def get_config(model: str = 'cifar_resnet20') -> ConfigDict:
    """The config; the variant is the model's name."""
    config = cifar10.get_config(model)
    config.data.name = 'tfds:cifar10_jpeg'
    return config
