"""CIFAR-100 with the recipe of he2016 (arXiv 1603.05027), tables 3 and 4.

he2015's recipe for CIFAR-10, with 0.01 for the first 400 iterations of every run. The paper reports
test error of 25.16 % for ResNet-164, 24.33 % for pre-activation ResNet-164, and 22.71 % for
pre-activation ResNet-1001.

    resnet-jax train --config cifar100 --workdir runs/cifar100
    resnet-jax train --config cifar100:cifar_resnet164 --workdir runs/original

Hardware: a GPU or TPU for 164 layers; `cifar100:cifar_resnet20` takes hours on a CPU. Result: not
yet run. TFDS prepares the data once, as for CIFAR-10: tfds build cifar100
"""

import cifar10
from ml_collections import ConfigDict


def get_config(model: str = 'cifar_preact_resnet164') -> ConfigDict:
    """The config; the variant is the model's name."""
    config = cifar10.get_config('cifar_resnet110')  # for its warm-up
    config.model.name = model
    config.data.name = 'tfds:cifar100'
    return config
