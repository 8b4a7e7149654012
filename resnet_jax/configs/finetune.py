r"""Fine-tuning: any published weights on other classes, each part at its own learning rate.

    resnet-jax train --config finetune --workdir DIR --config.model.name=resnet50 \
        --config.init.weights=FILE --config.data.name=folder:PATH

A new head at ten times the rate, and less from block to block towards the stem (arXiv 1801.06146,
section 3.2); no paper's recipe. The variants differ in what is trained, see docs/finetuning.md:

- `finetune`: everything.
- `finetune:head`: the head alone, on features in evaluation mode: a linear probe.
- `finetune:lp_ft`: the head alone, then everything (arXiv 2202.10054).
- `finetune:l2_sp`: everything, decaying towards the weights that it starts from (arXiv 1802.01483).

Images as torchvision's models take them. Without weights it trains from scratch, for comparison.
Hardware: a GPU at this resolution. Result: not yet run.
"""

from typing import Any

import imagenette
from ml_collections import ConfigDict

from resnet_jax.errors import choose

_HEAD: dict[str, Any] = {'train.freeze': ('all but head',), 'train.freeze_batch_norm': ('all',)}
VARIANTS: dict[str, dict[str, Any]] = {
    'all': {},
    'head': {**_HEAD, 'optim.rates': (), 'optim.layer_decay': 1.0, 'optim.learning_rate': 0.1},
    'lp_ft': {**_HEAD, 'train.unfreeze': ('all@3',)},
    'l2_sp': {'optim.decay_towards': 'start', 'optim.weight_decay': 1e-3},
}


def get_config(variant: str = 'all') -> ConfigDict:
    """The config; `variant` is a key of `VARIANTS`."""
    config = imagenette.get_config()
    config.init.reset_head = True
    config.data.image_size = 224
    config.data.resize = 256
    config.train.epochs = 10.0
    config.optim.learning_rate = 0.01
    config.optim.layer_decay = 0.9
    config.optim.rates = ('head=10',)
    config.optim.decay_norm_and_bias = False
    config.update_from_flattened_dict(choose('variant of the config finetune', variant, VARIANTS))
    return config
