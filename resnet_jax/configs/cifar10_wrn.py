"""CIFAR-10 with the recipe of Wide Residual Networks (arXiv 1605.07146, section 3).

200 epochs at batch 128, Nesterov momentum 0.9, learning rate 0.1 times 0.2 at epochs 60, 120 and
160, weight decay 5e-4, reflected padding, mean and deviation per channel, all 50,000 images. The
paper reports test error of 4.53 % for WRN-40-4, 4.27 % for WRN-16-8 and 4.00 % for WRN-28-10, or
3.89 % with dropout 0.3 (`--config.model.branch_dropout=0.3`).

    resnet-jax train --config cifar10_wrn --workdir runs/wrn
    resnet-jax train --config cifar10_wrn:wrn40_4 --workdir runs/wrn40_4

Hardware: a GPU or TPU. Result: not yet run.
"""

import cifar10
from ml_collections import ConfigDict


def get_config(model: str = 'wrn28_10') -> ConfigDict:
    """The config; the variant is the model's name."""
    config = cifar10.get_config()
    config.model.name = model
    config.data.train_split = 'train'
    config.data.normalize = 'channel'
    config.augment.transforms = ('pad_crop(mode=reflect)', 'flip')
    config.train.steps = None
    config.train.epochs = 200.0
    config.optim.nesterov = True
    config.optim.weight_decay = 5e-4
    config.optim.schedule_unit = 'epochs'
    config.optim.boundaries = (60.0, 120.0, 160.0)
    config.optim.decay_factor = 0.2
    return config
