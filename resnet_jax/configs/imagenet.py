"""ImageNet with the common recipe (arXiv 1706.02677, section 5.1).

90 epochs at batch 256, learning rate 0.1 scaled linearly with the batch, 5 epochs of linear
warm-up, divided by 10 at epochs 30, 60 and 80, weight decay 1e-4 but not on norms and biases, last
scale of each branch from zero, random resized crop and flip; evaluation on the 224 centre crop
after resizing to 256. torchvision's ResNet-50, trained similarly, has 76.13 % top-1.

    resnet-jax train --config imagenet --config.data.dir=DIR --workdir runs/imagenet
    resnet-jax train --config imagenet:preact_resnet50 --workdir runs/preact50

Hardware: GPUs or TPUs. Result: not yet run. TFDS prepares the data once, from the archives that
image-net.org gives to registered users.
"""

import default
from imagenette import MEAN, STD
from ml_collections import ConfigDict


def get_config(model: str = 'resnet50') -> ConfigDict:
    """The config; the variant is the model's name."""
    config = default.get_config()
    config.model.name = model
    config.model.dtype = 'bfloat16'
    config.model.zero_init_last = True
    config.data.name = 'tfds:imagenet2012'
    config.data.eval_split = 'validation'
    config.data.image_size = 224
    config.data.resize = 256
    config.data.mean = MEAN
    config.data.std = STD
    config.augment.transforms = ('random_resized_crop', 'flip')
    config.train.batch_size = 256
    config.train.steps = None
    config.train.epochs = 90.0
    config.train.eval_every = 5004  # one epoch
    config.train.eval_batch_size = 250
    config.optim.scale_by_batch = 256
    config.optim.decay_norm_and_bias = False
    config.optim.schedule_unit = 'epochs'
    config.optim.boundaries = (30.0, 60.0, 80.0)
    config.optim.warmup = 5.0
    config.checkpoint.every = 5004
    return config
