"""Does a small net learn more from the outputs of a large one?

    resnet-jax sweep --config sweeps/distillation:resnet32_to_8 --workdir DIR --config.data.dir=DATA

The variants name teacher and student. Of `resnet32_to_8` the teacher is a net trained on all of
CIFAR-10, in the file `compressed/cifar_resnet20/teacher`, and the student sees 10,000 images. Of
`resnet56_to_20` it is a run on the same 10,000 images at 16x16, in `runs/resnet56`:

    resnet-jax train --config cifar10_slice:cifar_resnet56 --workdir runs/resnet56
        --config.train.epochs=15 --config.data.dir=DATA

Hardware: any; a minute or two for each run on a 2-core CPU. Result: docs/results.
"""

from typing import Any

from resnet_jax.errors import choose

_STUDENT_32 = {
    'model.name': 'cifar_resnet8',
    'data.image_size': 32,
    'data.normalize': 'channel',
    'data.mean': (0.485, 0.456, 0.406),
    'data.std': (0.229, 0.224, 0.225),
    'train.epochs': 5.0,
}
# Variant -> (fields of all arms, fields that make the teacher).
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    'resnet32_to_8': (
        _STUDENT_32,
        {'distill.teacher': 'compressed/cifar_resnet20/teacher', 'distill.model': 'cifar_resnet32'},
    ),
    'resnet56_to_20': (
        {'model.name': 'cifar_resnet20', 'train.epochs': 5.0},
        {'distill.teacher': 'runs/resnet56'},
    ),
}


def get_sweep(variant: str = 'resnet32_to_8') -> dict[str, Any]:
    """The sweep; the variant is a key of `VARIANTS`."""
    fields, teacher = choose('variant of the sweep distillation', variant, VARIANTS)
    others = {
        'taught, outputs computed once': {**teacher, 'distill.outputs': 'cached'},
        'taught, and maps of attention': {**teacher, 'distill.features': 1.0},
    }
    if variant == 'resnet56_to_20':  # whose runs take longer
        others = {}
    return {
        'title': f'distillation, {variant.replace("_", " ")}',
        'base': 'cifar10_slice',
        'fields': {**fields, 'train.eval_every': 0, 'checkpoint.every': 1000},
        'arms': {'alone': {}, 'taught': teacher, **others},
        'seeds': 5,
    }
