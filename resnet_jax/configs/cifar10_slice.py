"""A slice of CIFAR-10 that a CPU can compare nets on: half the size, a fifth of the images.

10,000 training and 2,000 test images of the TFDS data set `cifar10_jpeg`, shrunk to 16x16 pixels,
with one-cycle SGD (arXiv 1708.07120). No paper's recipe: compare runs with runs.

    resnet-jax train --config cifar10_slice --config.data.dir=DIR --workdir runs/slice

Hardware: any. Results: docs/results.
"""

import default
from ml_collections import ConfigDict


def get_config(model: str = 'cifar_resnet20') -> ConfigDict:
    """The config; the variant is the model's name."""
    config = default.get_config()
    config.model.name = model
    config.data.name = 'tfds:cifar10_jpeg'
    config.data.train_split = 'train[:10000]'
    config.data.eval_split = 'test[:2000]'
    config.data.image_size = 16
    config.augment.transforms = ('pad_crop(pad=2)', 'flip')
    config.train.batch_size = 64
    config.train.steps = None
    config.train.epochs = 4.0
    config.train.log_every = 50
    config.train.eval_every = 250
    config.optim.schedule = 'onecycle'
    config.optim.learning_rate = 0.05
    config.optim.weight_decay = 5e-4
    config.checkpoint.every = 250
    return config
