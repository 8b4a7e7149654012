"""Imagenette (fast.ai): 10 classes of ImageNet at 64x64, a ResNet-18, streamed.

A short run with the common ImageNet augmentation: random resized crop and flip, cosine schedule
after half an epoch of warm-up; evaluation on the centre crop. No paper's recipe.

    resnet-jax train --config imagenette --config.data.dir=DIR --workdir runs/imagenette

Hardware: any; about two minutes an epoch on a 2-core CPU. Result: see README.md for one epoch; the
20 epochs are not yet run.
"""

import default
from ml_collections import ConfigDict

# Of ImageNet's pixels, as torchvision's models state them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def get_config() -> ConfigDict:
    """The config."""
    config = default.get_config()
    config.model.name = 'resnet18'
    config.data.name = 'tfds:imagenette224'
    config.data.eval_split = 'validation'
    config.data.image_size = 64
    config.data.mean = MEAN
    config.data.std = STD
    config.augment.transforms = ('random_resized_crop(scale=(0.35, 1.0))', 'flip')
    config.train.batch_size = 64
    config.train.steps = None
    config.train.epochs = 20.0
    config.train.log_every = 20
    config.train.eval_every = 150
    config.train.eval_batch_size = 125
    config.optim.learning_rate = 0.05
    config.optim.schedule = 'cosine'
    config.optim.schedule_unit = 'epochs'
    config.optim.warmup = 0.5
    config.checkpoint.every = 150
    return config
