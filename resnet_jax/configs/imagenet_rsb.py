"""ImageNet with the procedures of "ResNet strikes back" (arXiv 2110.00476, table 2).

    a1    600 epochs at 224 pixels    80.4 % top-1
    a2    300 epochs at 224 pixels    79.8 %
    a3    100 epochs at 160 pixels    78.1 %

of a ResNet-50, tested at 224 pixels. All three take LAMB, a cosine after 5 epochs of warm-up,
binary cross entropy, RandAugment, mixup or CutMix, and no decay of norms and biases; a1 and a2 add
repeated augmentation and stochastic depth, and a1 label smoothing. Whatever the table does not say
is as timm and mmpretrain have it: the threshold of the targets (0.2), the spread of RandAugment's
strength (0.5), three repeats, bicubic crops, and where the warm-up starts (1e-4).

    resnet-jax train --config imagenet_rsb:a3 --config.data.dir=DIR --workdir runs/a3
    resnet-jax train --config imagenet_rsb:a2 --config.model.name=resnetv2_50 --workdir runs/v2

Hardware: GPUs or TPUs; `--config.optim.accumulate` takes the batch of 2,048 in parts. Result: not
yet run.
"""

import imagenet
from ml_collections import ConfigDict

from resnet_jax.errors import choose

STEPS_PER_EPOCH = 626
# Procedure -> epochs, learning rate, weight decay, pixels in training, strength of RandAugment,
# mixup's alpha.
PROCEDURES = {
    'a1': (600.0, 5e-3, 0.01, 224, 7, 0.2),
    'a2': (300.0, 5e-3, 0.02, 224, 7, 0.1),
    'a3': (100.0, 8e-3, 0.02, 160, 6, 0.1),
}


def get_config(procedure: str = 'a3') -> ConfigDict:
    """The config; the variant is the procedure."""
    found = choose('variant of the config imagenet_rsb', procedure, PROCEDURES)
    epochs, learning_rate, weight_decay, pixels, magnitude, alpha = found
    config = imagenet.get_config()
    config.data.resize = 236  # test crop ratio 0.95
    config.data.train_image_size = pixels
    config.augment.transforms = (
        'random_resized_crop(interpolation=bicubic)',
        'flip',
        f'rand_augment(layers=2, magnitude={magnitude}, std=0.5)',
        f'mixup_or_cutmix(mixup_alpha={alpha}, cutmix_alpha=1.0)',
    )
    config.train.batch_size = 2048
    config.train.epochs = epochs
    config.train.eval_every = STEPS_PER_EPOCH
    config.checkpoint.every = STEPS_PER_EPOCH
    config.optim.name = 'lamb'
    config.optim.learning_rate = learning_rate
    config.optim.scale_by_batch = 2048
    config.optim.weight_decay = weight_decay
    config.optim.schedule = 'cosine'
    config.optim.boundaries = ()
    config.optim.warmup_start = 1e-4 / learning_rate
    config.loss.name = 'binary_cross_entropy'
    config.loss.target_threshold = 0.2
    if procedure != 'a3':
        config.augment.repeats = 3
        config.model.stochastic_depth = 0.05
    if procedure == 'a1':
        config.loss.label_smoothing = 0.1
    return config
