"""What is worth training of a pretrained net, where there are few images?

A net trained on CIFAR-10 learns Imagenette's ten classes at 32x32 from a tenth of its training
images, some 95 for each class.

    resnet-jax sweep --config sweeps/finetuning:WEIGHTS --workdir DIR --config.data.dir=DATA

WEIGHTS is a file for cifar_resnet20, DATA a folder of TFDS's data sets. The rates were chosen
beforehand, the same for the three arms that train the body from the weights; what trains a random
head alone, or everything from scratch, takes more. Hardware: any; 25 runs of two to five minutes
on a 2-core CPU that other work shares. Result: docs/results.
"""

from typing import Any


def get_sweep(weights: str = 'cifar_resnet20.safetensors') -> dict[str, Any]:
    """The sweep; the variant is the file of weights."""
    return {
        'title': 'fine-tuning on a tenth of Imagenette at 32x32',
        'base': 'imagenette',
        'fields': {
            'model.name': 'cifar_resnet20',
            'init.weights': weights,
            'init.reset_head': True,
            'data.train_split': 'train[:10%]',
            'data.image_size': 32,
            'augment.transforms': ('pad_crop', 'flip'),
            'train.epochs': 20.0,
            'train.eval_every': 0,
            'train.eval_batch_size': 500,
            'checkpoint.every': 1000,
            'optim.learning_rate': 0.02,
            'optim.warmup': 1.0,
        },
        'arms': {
            'everything': {},
            'the head': {
                'train.freeze': ('all but head',),
                'train.freeze_batch_norm': ('all',),
                'optim.learning_rate': 0.1,
            },
            'the last stage and the head': {
                'train.freeze': ('all but head stage3',),
                'train.freeze_batch_norm': ('all but stage3',),
            },
            'everything, layer-wise decay 0.7': {'optim.layer_decay': 0.7},
            'from scratch': {
                'init.weights': None,
                'init.reset_head': False,
                'optim.learning_rate': 0.1,
            },
        },
        'seeds': 5,
    }
