"""CIFAR-10 in a few epochs: what the speed runs found, as far as it fits a residual net.

A ResNet-10 of full width at batch 512, after Page ("How to Train Your ResNet", myrtle.ai, 2018) and
Jordan (arXiv 2404.00498): one-cycle schedule, label smoothing, GELU, reflected padding by 2 pixels,
cutout, a decay that spares norms and biases, averaged weights. Evaluate with the mirror image too:

    resnet-jax train --config cifar10_fast --workdir runs/fast
    resnet-jax eval --workdir runs/fast --tta flip

The variant `:muon` takes the orthogonal updates of Muon (kellerjordan.github.io/posts/muon) in
place of SGD. Their nets differ: airbench's has no shortcuts and a fixed first layer, so its 94 %
after 8 epochs is no expectation. Hardware: a GPU. Result: not yet run.
"""

from typing import Any

import cifar10
from ml_collections import ConfigDict

from resnet_jax.errors import choose

VARIANTS: dict[str, dict[str, Any]] = {
    'sgd': {'optim.learning_rate': 0.4, 'optim.nesterov': True},
    'muon': {'optim.name': 'muon', 'optim.learning_rate': 4e-3, 'optim.weight_decay': 0.05},
}


def get_config(optimiser: str = 'sgd') -> ConfigDict:
    """The config; the variant is the optimiser, a key of `VARIANTS`."""
    config = cifar10.get_config('resnet18')
    config.model.stem = 'cifar'
    config.model.stage_sizes = (1, 1, 1, 1)
    config.model.activation = 'gelu'
    config.model.dtype = 'bfloat16'
    config.data.train_split = 'train'
    config.data.normalize = 'channel'
    config.augment.transforms = ('pad_crop(pad=2, mode=reflect)', 'flip', 'cutout(size=8)')
    config.train.batch_size = 512
    config.train.steps = None
    config.train.epochs = 16.0
    config.train.eval_every = 0
    config.optim.schedule = 'onecycle'
    config.optim.weight_decay = 5e-4
    config.optim.decay_norm_and_bias = False
    config.optim.ema = 0.99
    config.loss.label_smoothing = 0.2
    config.update_from_flattened_dict(
        choose('variant of the config cifar10_fast', optimiser, VARIANTS)
    )
    return config
