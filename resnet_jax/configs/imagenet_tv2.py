"""ImageNet with the recipe of torchvision's second weights (IMAGENET1K_V2), ResNet-50.

600 epochs of SGD at batch 1,024, learning rate 0.5, a cosine after 5 epochs of warm-up, weight
decay 2e-5 but not on norms, label smoothing 0.1, TrivialAugment, mixup or CutMix, random erasing,
four repeats, averaged weights; trained at 176 pixels, tested at 224 after resizing to 232. Source:
V. Vryniotis, "How to Train State-Of-The-Art Models Using TorchVision's Latest Primitives",
pytorch.org/blog, 2021, which reports 80.858 % top-1.

    resnet-jax train --config imagenet_tv2 --config.data.dir=DIR --workdir runs/tv2

torchvision averages the weights every 32 steps with a decay of 1 - (1 - 0.99998) * 32 * 1024 / 600;
the decay here, at every step, forgets as fast. Hardware: GPUs or TPUs. Result: not yet run.
"""

import imagenet
from ml_collections import ConfigDict

STEPS_PER_EPOCH = 1251


def get_config(model: str = 'resnet50') -> ConfigDict:
    """The config; the variant is the model's name."""
    config = imagenet.get_config(model)
    config.model.zero_init_last = False
    config.data.resize = 232
    config.data.train_image_size = 176
    config.augment.transforms = (
        'random_resized_crop',
        'flip',
        'trivial_augment(fill=0)',
        'random_erasing(probability=0.1, area=(0.02, 0.33), ratio=(0.3, 3.3), fill=zero)',
        'mixup_or_cutmix(mixup_alpha=0.2, cutmix_alpha=1.0)',
    )
    config.augment.repeats = 4
    config.train.batch_size = 1024
    config.train.epochs = 600.0
    config.train.eval_every = STEPS_PER_EPOCH
    config.checkpoint.every = STEPS_PER_EPOCH
    config.optim.learning_rate = 0.5
    config.optim.scale_by_batch = 1024
    config.optim.weight_decay = 2e-5
    config.optim.schedule = 'cosine'
    config.optim.boundaries = ()
    config.optim.warmup_start = 0.01
    config.optim.ema = 1 - (1 - 0.99998) * 1024 / 600
    config.loss.label_smoothing = 0.1
    return config
