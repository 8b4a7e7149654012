"""Which learning rate and weight decay of SGD?

Trials are chosen on images that are kept from training, so that none of the test set chooses.

    resnet-jax search --config searches/learning_rate_weight_decay --workdir DIR

The variant `:cifar10` trains on CIFAR-10 instead of the digits. Hardware: any. Result: not yet run.
"""

from typing import Any

_FIELDS: dict[str, dict[str, Any]] = {
    'digits': {
        'data.train_split': 'train[:80%]',
        'data.eval_split': 'train[80%:]',
        'train.epochs': 10.0,
        'train.eval_every': 36,  # about every second epoch
        'checkpoint.every': 36,
    },
    # he2015's own split of the training set.
    'cifar10': {'data.train_split': 'train[:45000]', 'data.eval_split': 'train[45000:]'},
}


def get_search(base: str = 'digits') -> dict[str, Any]:
    """The search; the variant is its base config."""
    return {
        'title': 'learning rate and weight decay of SGD',
        'base': base,
        'fields': {**_FIELDS.get(base, {}), 'checkpoint.keep': 1},
        'space': {
            'optim.learning_rate': ('log', 0.003, 1.0),
            'optim.weight_decay': ('log', 1e-5, 1e-2),
        },
        'trials': 30,
        'sampler': 'tpe',
        'pruner': 'median',
        'seed': 0,
        'metric': 'error',
    }
