"""Imagenette (fast.ai): 10 classes of ImageNet at 64x64, a ResNet-18, streamed.

A short run with the common ImageNet augmentation: random resized crop and flip, cosine schedule
after half an epoch of warm-up; evaluation on the centre crop. No paper's recipe.

    resnet-jax train --config imagenette --config.data.dir=DIR --workdir runs/imagenette
    resnet-jax train --config imagenette:128 --config.data.dir=DIR --workdir runs/leaderboard

The variant `:128` is for the 5-epoch row of fast.ai's leaderboard, which is evaluated at 128 pixels
(85.77 %, the mean of 5 runs): a ResNet-18-D, trained at 96 pixels (arXiv 1906.06423), one cycle of
Nesterov SGD, label smoothing, branches that start at zero.

Hardware: any; about two minutes an epoch on a 2-core CPU, ten with `:128`. Result: docs/measured.md
for one epoch, docs/results for `:128`; the 20 epochs are not yet run.
"""

from typing import Any

import default
from ml_collections import ConfigDict

from resnet_jax.errors import choose

# Of ImageNet's pixels, as torchvision's models state them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


VARIANTS: dict[str, dict[str, Any]] = {
    '64': {},
    '128': {
        'model.name': 'resnet18d',
        'model.zero_init_last': True,
        'data.image_size': 128,
        'data.train_image_size': 96,
        'train.epochs': 5.0,
        'optim.nesterov': True,
        'optim.weight_decay': 5e-4,
        'optim.decay_norm_and_bias': False,
        'optim.schedule': 'onecycle',
        'optim.warmup': 0.0,
        'loss.label_smoothing': 0.1,
    },
}


def get_config(pixels: str = '64') -> ConfigDict:
    """The config; the variant is the size at which the model is evaluated, a key of `VARIANTS`."""
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
    config.update_from_flattened_dict(choose('variant of the config imagenette', pixels, VARIANTS))
    return config
