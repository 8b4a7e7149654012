"""Which augmentation helps a small net on few images?

None, crops and flips, and crops and flips with one thing more: cutout (arXiv 1708.04552),
RandAugment (1909.13719), mixup (1710.09412) or CutMix (1905.04899). 5,000 images of CIFAR-10 at
16x16 pixels, so cutout's square and RandAugment's strength are smaller than in the papers.

    resnet-jax sweep --config sweeps/augmentation --workdir DIR --config.data.dir=DATA

The variant `:cifar10` trains on CIFAR-10 for 64,000 steps instead. Hardware: any. Result:
docs/results.
"""

from typing import Any

_SLICE = {
    'data.train_split': 'train[:5000]',
    'data.eval_split': 'test',
    'train.epochs': 20.0,
    'train.eval_every': 0,
}


def get_sweep(base: str = 'cifar10_slice') -> dict[str, Any]:
    """The sweep; the variant is its base config."""
    small = base == 'cifar10_slice'
    crop = 'pad_crop(pad=2)' if small else 'pad_crop'
    size = 8 if small else 16
    more = {
        'cutout': (crop, 'flip', f'cutout(size={size})'),
        'RandAugment': ('rand_augment(layers=1, magnitude=5)', crop, 'flip'),
        'mixup': (crop, 'flip', 'mixup(alpha=0.2)'),
        'CutMix': (crop, 'flip', 'cutmix(probability=0.5)'),
    }
    return {
        'title': 'augmentation of a net of 20 layers',
        'base': base,
        'fields': {'model.name': 'cifar_resnet20', **(_SLICE if small else {})},
        'arms': {
            'none': {'augment.transforms': ()},
            'crops and flips': {'augment.transforms': (crop, 'flip')},
            **{f'+ {name}': {'augment.transforms': found} for name, found in more.items()},
        },
        'seeds': 3,
    }
