"""Time series classification: the ResNet of Wang et al., with the recipe of Fawaz et al.

Papers: arXiv 1611.06455, section 2.3; arXiv 1809.04356, table 9, and its code hfawaz/dl-4-tsc,
classifiers/resnet.py. Variants are sets of the package aeon:

    pip install 'resnet-jax[series]'
    resnet-jax train --config series:ItalyPowerDemand --workdir runs/italy

Expected, accuracy in %, mean (standard deviation) of their ten runs: ArrowHead 84.5 (1.2), GunPoint
99.1 (0.7), ItalyPowerDemand 96.3 (0.4), OSULeaf 97.9 (0.8).

Where this differs from their code:
- Keras cuts an epoch's last batch short; here a batch straddles two epochs. Only of
  ItalyPowerDemand does the batch not divide the examples: 67 in batches of 6.
- Keras adds Adam's epsilon before the correction of the bias, Optax after it.
"""

import default
from ml_collections import ConfigDict

# Examples for training, in the sets of the package aeon with series of one length.
TRAINING_EXAMPLES = {
    'ACSF1': 100,
    'ArrowHead': 36,
    'BasicMotions': 40,
    'GunPoint': 50,
    'ItalyPowerDemand': 67,
    'OSULeaf': 200,
}
EPOCHS = 1500


def get_config(variant: str = 'ArrowHead') -> ConfigDict:
    """The recipe on a set of the package aeon."""
    config = default.get_config()
    config.model.name = 'tsc_resnet'
    config.data.name = f'aeon:{variant}'
    config.data.normalize = 'series'
    config.augment.transforms = ()

    examples = TRAINING_EXAMPLES.get(variant, 160)
    config.train.batch_size = max(1, min(examples // 10, 64))
    config.train.steps = None
    config.train.epochs = float(EPOCHS)
    per_epoch = examples / config.train.batch_size
    config.train.log_every = round(50 * per_epoch)
    config.train.eval_every = round(250 * per_epoch)
    config.checkpoint.every = round(250 * per_epoch)

    config.optim.name = 'adam'
    config.optim.learning_rate = 1e-3
    config.optim.epsilon = 1e-7
    config.optim.weight_decay = 0.0
    config.optim.schedule = 'plateau'
    config.optim.decay_factor = 0.5
    config.optim.plateau_patience = 50
    config.optim.plateau_floor = 1e-4
    config.checkpoint.best = 'train_loss'
    return config
