"""A ResNet-8 on scikit-learn's digits: the demo.

1,797 handwritten digits of 8x8 pixels, embedded in scikit-learn (UCI, Alpaydin & Kaynak 1998),
split into 1,437 for training and 360 held out. One-cycle SGD (arXiv 1708.07120), no paper's recipe.

    make demo
    resnet-jax train --config digits --workdir runs/digits
"""

import default
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    config = default.get_config()
    config.model.name = 'cifar_resnet8'
    config.data.name = 'digits'
    config.data.image_size = 8
    config.data.channels = 1
    config.augment.transforms = ('pad_crop(pad=1)',)  # no flip: a mirrored digit is another sign
    config.train.batch_size = 64
    config.train.steps = None
    config.train.epochs = 20.0
    config.train.log_every = 50
    config.train.eval_every = 150
    config.train.eval_batch_size = 360
    config.optim.schedule = 'onecycle'
    config.optim.learning_rate = 0.2
    config.optim.weight_decay = 5e-4
    config.checkpoint.every = 150
    return config
