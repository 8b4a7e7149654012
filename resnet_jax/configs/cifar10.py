"""CIFAR-10 with the recipe of he2015 (arXiv 1512.03385, section 4.2), table 6.

64k iterations at batch 128, learning rate 0.1 divided by 10 at 32k and 48k, momentum 0.9, weight
decay 1e-4 on all parameters: these numbers are the defaults, in default.py. "4 pixels are padded on
each side, and a 32x32 crop is randomly sampled from the padded image or its horizontal flip", with
"the per-pixel mean subtracted", on "a 45k/5k train/val split". The paper reports test error of
8.75 % for ResNet-20, 6.97 % for 56, 6.61 +- 0.16 % for 110.

    resnet-jax train --config cifar10 --workdir runs/cifar10
    resnet-jax train --config cifar10:cifar_resnet110 --workdir runs/cifar10_110

Hardware: any; hours on a CPU, minutes on a GPU. Result: not yet run. TFDS prepares the data once,
which takes TensorFlow: pip install tensorflow && tfds build cifar10
"""

import default
from ml_collections import ConfigDict


def get_config(model: str = 'cifar_resnet20') -> ConfigDict:
    """The config; the variant is the model's name."""
    config = default.get_config()
    config.model.name = model
    config.data.train_split = 'train[:45000]'
    config.data.normalize = 'pixel'
    if '110' in model or '1202' in model:
        # "we use 0.01 to warm up the training until the training error is below 80 % (about 400
        # iterations), and then go back to 0.1" (section 4.2)
        config.optim.warmup = 400.0
        config.optim.warmup_shape = 'constant'
        config.optim.warmup_start = 0.1
    return config
