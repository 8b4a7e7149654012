"""Does pre-activation, or the output stride, matter for dense prediction?

A small FCN (arXiv 1411.4038) on scenes of digits: the two placements of he2016 under it, and
backbones that stop striding at 4, 8 or 16 and dilate from there (arXiv 1606.00915). AdamW with one
cycle, no paper's recipe.

    resnet-jax sweep --config sweeps/dense_output_stride --workdir DIR

The variant is the base config, `:digits_depth`. Hardware: any; 80 minutes on one CPU core. Result,
five seeds: mean IoU of 35.4, 14.2 and 8.5 % at strides 4, 8 and 16, and the two placements cannot
be told apart at 4 (docs/results/dense_output_stride).
"""

from typing import Any


def get_sweep(base: str = 'digits_segmentation') -> dict[str, Any]:
    """The sweep; the variant is its base config."""
    return {
        'title': f'placement and output stride, {base}',
        'base': base,
        'fields': {
            'model.name': 'fcn_resnet50',
            'model.backbone': 'resnet18',
            'model.width': 16,
            'train.epochs': 10.0,
            'train.eval_every': 625,
            'checkpoint.every': 625,
        },
        'arms': {
            f'{placement}-{stride}': {
                'model.placement': placement,
                'model.output_stride': stride,
            }
            for placement in ('original', 'full_preact')
            for stride in (4, 8, 16)
        },
        'seeds': 5,
    }
