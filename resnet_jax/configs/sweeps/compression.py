"""What does a compressed net lose, once it has been trained further?

    resnet-jax sweep --config sweeps/compression:cifar_resnet20 --workdir DIR --config.data.dir=DATA

The variants are nets. The folder `compressed/VARIANT` holds the trained net as `original` (a file
of weights or a run) and what `resnet-jax compress` made of it: sparse30, channels50, and so on;
docs/results has the commands. DATA is a folder of TFDS's data sets. Every arm trains one epoch, of
a tenth of CIFAR-10 or of all of Imagenette, with the same rate: `trained on` is the net itself,
which says what the epoch alone is worth.

Hardware: any; half a minute to a minute for each run on a 2-core CPU. Result: docs/results.
"""

from typing import Any

from resnet_jax.errors import choose

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CIFAR = {
    'data.train_split': 'train[:10%]',
    'data.normalize': 'channel',
    'data.mean': _MEAN,
    'data.std': _STD,
    'train.batch_size': 128,
}
_LEFT_OUT = (  # where a run takes longer
    *('sparse 30 %', 'sparse 50 %', 'sparse 90 %, gradual', 'channels 30 %', 'channels 70 %'),
    'taught by ResNet-32',
)
# Variant -> (base config, fields of its own, the arms it leaves out).
VARIANTS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    'cifar_resnet20': ('cifar10_jpeg:cifar_resnet20', _CIFAR, ()),
    'cifar_resnet32': (
        'cifar10_jpeg:cifar_resnet32',
        _CIFAR,
        (*_LEFT_OUT, 'int8', 'sparse 70 %'),
    ),
    'imagenette': (
        'imagenette',
        {'model.width': 32, 'model.stem_width': 32},
        (*_LEFT_OUT, 'sparse 70 %'),
    ),
}


def get_sweep(variant: str = 'cifar_resnet20') -> dict[str, Any]:
    """The sweep; the variant is a key of `VARIANTS`."""
    base, fields, without = choose('variant of the sweep compression', variant, VARIANTS)
    folder = f'compressed/{variant}'

    def made(name: str, **others: Any) -> dict[str, Any]:
        return {'init.weights': f'{folder}/{name}', **others}

    keep = {'prune.schedule': 'keep'}
    arms = {
        'trained on': made('original'),
        'int8': made('original', **{'model.weight_bits': 8, 'model.activation_bits': 8}),
        'int4': made('original', **{'model.weight_bits': 4, 'model.activation_bits': 8}),
        **{f'sparse {n} %': made(f'sparse{n}', **keep) for n in (30, 50, 70, 90)},
        'sparse 90 %, gradual': made(
            'original', **{'prune.schedule': 'gradual', 'prune.sparsity': 0.9, 'prune.every': 5}
        ),
        **{f'channels {n} %': made(f'channels{n}') for n in (30, 50, 70)},
        'factors, 60 %': made('factors60'),
        'taught by ResNet-32': made(
            'original',
            **{
                'distill.teacher': f'{folder}/teacher',
                'distill.model': 'cifar_resnet32',
                'distill.weight': 0.5,
            },
        ),
    }
    return {
        'title': f'{variant}, compressed and trained for one more epoch',
        'base': base,
        'fields': {
            **fields,
            'train.epochs': 1.0,
            'train.eval_every': 0,
            'train.eval_batch_size': 500,
            'train.log_every': 20,
            'checkpoint.every': 1000,
            'optim.learning_rate': 0.02,
            'optim.schedule': 'cosine',
            'optim.warmup': 0.0,
        },
        'arms': {name: fields for name, fields in arms.items() if name not in without},
        'seeds': 5,
    }
