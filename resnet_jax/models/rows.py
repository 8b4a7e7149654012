"""The registered models: a row of plain values for each, with its source.

Papers: he2015 is arXiv 1512.03385, he2016 1603.05027, wrn 1605.07146, resnext 1611.05431, senet
1709.01507, groupnorm 1803.08494, bagoftricks 1812.01187, eca 1910.03151, antialias 1904.11486,
bit 1912.11370, tsc 1611.06455, r2plus1d 1711.11248, mobilenetv2 1801.04381, shufflenet 1707.01083,
vdcnn 1606.01781.
"""

import dataclasses
from typing import Any

from resnet_jax.models.design import (
    BASIC,
    BOTTLENECK,
    BOTTLENECK_V1,
    INVERTED,
    R2PLUS1D,
    SHUFFLED,
    BlockDesign,
)


@dataclasses.dataclass(frozen=True)
class ModelRow:
    """A registered model.

    Attributes:
      settings: arguments of `ResNet`.
      paper: its source.
      image_size: height and width, in pixels, of the images for which it was published; the length
        of series and texts.
      channels: of the images.
      frames: of the videos, or slices of the volumes; 0: it takes images or series.
    """

    settings: dict[str, Any]
    paper: str
    image_size: int
    channels: int = 3
    frames: int = 0

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of one image: [H, W, C]; [L, C] of a series; [T, H, W, C] of video; [L] of a text."""
        if self.settings.get('stem') == 'embedding':
            return (self.image_size,)
        dimensions = self.settings.get('dimensions', 2)
        depth = (self.frames,) if self.frames else ()
        return (*depth, *(self.image_size,) * (dimensions - len(depth)), self.channels)


def _imagenet(
    depth: int,
    paper: str,
    block: BlockDesign | None = None,
    stem: str = 'imagenet',
    **others: Any,
) -> ModelRow:
    stage_sizes, usual = _STAGES[depth]
    settings = {
        'stage_sizes': stage_sizes,
        'block': block or usual,
        'num_classes': 1000,
        'stem': stem,
        **others,
    }
    return ModelRow(settings, paper, 224)


def _cifar(
    depth: int,
    block: BlockDesign,
    paper: str,
    *,
    width: int = 16,
    stem_width: int = 16,
    outside: int = 2,
) -> ModelRow:
    # he2015, section 4.2: three stages of n blocks of two convolutions, depth 6n + 2, with 16, 32
    # and 64 channels; 9n + 2 with bottlenecks (he2016). wrn adds a projection per stage: 6n + 4.
    blocks, rest = divmod(depth - outside, 3 * len(block.kernels))
    assert rest == 0, depth
    settings = {
        'stage_sizes': (blocks,) * 3,
        'block': block,
        'num_classes': 10,
        'stem': 'cifar',
        'stem_width': stem_width,
        'width': width,
    }
    return ModelRow(settings, paper, 32)


# he2015, table 1; 200 from he2016, section 4; 26 is timm's.
_STAGES = {
    18: ((2, 2, 2, 2), BASIC),
    26: ((2, 2, 2, 2), BOTTLENECK),
    34: ((3, 4, 6, 3), BASIC),
    50: ((3, 4, 6, 3), BOTTLENECK),
    101: ((3, 4, 23, 3), BOTTLENECK),
    152: ((3, 8, 36, 3), BOTTLENECK),
    200: ((3, 24, 36, 3), BOTTLENECK),
}
_PLAIN = dataclasses.replace(BASIC, shortcut='none')
_OPTION_A = dataclasses.replace(BASIC, shortcut='zero_pad')


def _preact(block: BlockDesign, **fields: Any) -> BlockDesign:
    return dataclasses.replace(block, placement='full_preact', **fields)


def _pooled(depth: int, downsample: str = 'average') -> BlockDesign:
    return dataclasses.replace(_STAGES[depth][1], downsample=downsample)


def _bit(depth: int, factor: int) -> ModelRow:
    # google-research/big_transfer, bit_pytorch/models.py.
    settings = {'norm': 'group', 'norm_groups': 32, 'weight_standardization': True}
    settings |= {'standardized_to': 'one', 'zero_init_head': True}
    settings |= {'width': 64 * factor, 'stem_width': 64 * factor}
    return _imagenet(depth, 'bit', _preact(BOTTLENECK), 'bit', **settings)


def _se(block: BlockDesign) -> BlockDesign:
    return dataclasses.replace(block, se_ratio=1 / 16)


def _resnext(groups: int, base_width: int) -> BlockDesign:
    return dataclasses.replace(BOTTLENECK, groups=groups, base_width=base_width)


def _video(stem: str, block: BlockDesign = BASIC, stage_designs: tuple[str, ...] = ()) -> ModelRow:
    # torchvision/models/video/resnet.py, of 400 classes: Kinetics-400.
    row = _imagenet(18, 'r2plus1d', block, stem, dimensions=3, stage_designs=stage_designs)
    return dataclasses.replace(
        row, settings=row.settings | {'num_classes': 400}, image_size=112, frames=16
    )


# mobilenetv2, table 2: (expansion t, channels c, blocks n, stride s) of each stage. The first does
# not expand, and has no convolution for it.
_MOBILE = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)
_MOBILENET_V2 = {
    'stage_sizes': tuple(n for _, _, n, _ in _MOBILE),
    'block': INVERTED,
    'num_classes': 1000,
    'stem': 'mobile',
    'stem_width': 32,
    'stage_widths': tuple(c for _, c, _, _ in _MOBILE),
    'stage_strides': tuple(s for _, _, _, s in _MOBILE),
    'stage_designs': ('stage1/kernels=3,1', 'stage1/stride_at=0', 'stage1/inner_ratio=1'),
    'last_width': 1280,
    'dropout': 0.2,
}


def _shuffle(groups: int, width: int) -> ModelRow:
    # The unit of shufflenet, figure 2b, with the widths of its table 1, in the stages of ResNet-50.
    # Where the shape changes it has a projection; the paper's figure 2c concatenates a pool.
    block = dataclasses.replace(SHUFFLED, pointwise_groups=groups)
    return _imagenet(50, 'shufflenet', block, width=width, stem_width=width)


MODELS: dict[str, ModelRow] = {
    # The stride of a bottleneck on its 3x3, as in torchvision ("v1.5") ...
    **{f'resnet{d}': _imagenet(d, 'he2015') for d in (18, 26, 34, 50, 101, 152)},
    'resnet200': _imagenet(200, 'he2016'),
    # ... and on the first 1x1, as in the paper.
    **{f'resnet{d}_v1': _imagenet(d, 'he2015', BOTTLENECK_V1) for d in (50, 101, 152)},
    **{f'plain{d}': _imagenet(d, 'he2015', _PLAIN) for d in (18, 34)},
    **{
        f'preact_resnet{d}': _imagenet(d, 'he2016', _preact(_STAGES[d][1]))
        for d in (18, 34, 50, 101, 152, 200)
    },
    # timm's: of basic blocks with another first shortcut, else the same nets as preact_resnet.
    **{
        f'resnetv2_{d}': _imagenet(d, 'he2016', _preact(BASIC, raw_first_shortcut=True))
        for d in (18, 34)
    },
    **{f'resnetv2_{d}': _imagenet(d, 'he2016', _preact(BOTTLENECK)) for d in (50, 101)},
    # timm's letters: c has the stem of ResNet-C, d averages in the shortcut too, and t has fewer
    # channels in the stem.
    'resnet50c': _imagenet(50, 'bagoftricks', stem='imagenet_deep'),
    **{
        f'resnet{d}d': _imagenet(d, 'bagoftricks', _pooled(d), 'imagenet_deep')
        for d in (18, 26, 34, 50, 101, 152, 200)
    },
    'resnet50t': _imagenet(50, 'bagoftricks', _pooled(50), 'imagenet_tiered'),
    **{
        f'resnetv2_{d}d': _imagenet(
            *(d, 'bagoftricks', _preact(_pooled(d), raw_first_shortcut=d < 50), 'imagenet_deep')
        )
        for d in (18, 34, 50)
    },
    'resnet50_gn': _imagenet(50, 'groupnorm', norm='group', norm_groups=32),
    'resnetblur50': _imagenet(50, 'antialias', _pooled(50, 'blur_branch'), 'imagenet_blur'),
    'resnetaa50d': _imagenet(50, 'antialias', _pooled(50, 'average_both'), 'imagenet_deep_average'),
    'ecaresnet50d': _imagenet(
        50, 'eca', dataclasses.replace(_pooled(50), eca=True), 'imagenet_deep'
    ),
    **{f'bit_resnet{d}x{k}': _bit(d, k) for d, k in ((50, 1), (50, 3), (101, 1))},
    'resnext50_32x4d': _imagenet(50, 'resnext', _resnext(32, 4)),
    'resnext101_32x4d': _imagenet(101, 'resnext', _resnext(32, 4)),
    'resnext101_32x8d': _imagenet(101, 'resnext', _resnext(32, 8)),
    'resnext101_64x4d': _imagenet(101, 'resnext', _resnext(64, 4)),
    # Twice the width inside the bottleneck: torchvision's wide nets, after wrn.
    **{f'wide_resnet{d}_2': _imagenet(d, 'wrn', _resnext(1, 128)) for d in (50, 101)},
    **{f'se_resnet{d}': _imagenet(d, 'senet', _se(_STAGES[d][1])) for d in (18, 34, 50, 101, 152)},
    'se_resnext50_32x4d': _imagenet(50, 'senet', _se(_resnext(32, 4))),
    'mobilenet_v2': ModelRow(_MOBILENET_V2, 'mobilenetv2', 224),
    'shuffle_resnet50_g3': _shuffle(3, 60),
    # Clips of 16 frames of 112x112.
    'r3d_18': _video('video'),
    'mc3_18': _video('video', stage_designs=('stage[234]/convolution=spatial',)),
    'r2plus1d_18': _video('video_space_time', R2PLUS1D),
    # Volumes of 28x28x28, as MedMNIST3D's: r3d_18 with the stem of he2015's nets for CIFAR.
    'resnet18_3d': dataclasses.replace(
        _imagenet(18, 'he2015', stem='cifar', dimensions=3), image_size=28, frames=28
    ),
    # he2015, section 4.2: option A on CIFAR.
    **{
        f'cifar_resnet{d}': _cifar(d, _OPTION_A, 'he2015')
        for d in (8, 14, 20, 32, 44, 56, 110, 1202)
    },
    # he2016's bottleneck nets project, with the stride on the first 1x1 (the authors' release).
    **{f'cifar_resnet{d}': _cifar(d, BOTTLENECK_V1, 'he2016') for d in (164, 1001)},
    **{f'cifar_plain{d}': _cifar(d, _PLAIN, 'he2015') for d in (20, 32, 44, 56, 110)},
    **{f'cifar_preact_resnet{d}': _cifar(d, _preact(_OPTION_A), 'he2016') for d in (20, 56, 110)},
    **{f'cifar_preact_resnet{d}': _cifar(d, _preact(BOTTLENECK_V1), 'he2016') for d in (164, 1001)},
    # Depth 6n + 4, k times as wide; dropout is an override: branch_dropout=0.3.
    **{
        f'wrn{d}_{k}': _cifar(d, _preact(BASIC), 'wrn', width=16 * k, outside=4)
        for d, k in ((16, 4), (16, 8), (22, 8), (28, 10), (40, 2), (40, 4))
    },
    **{
        f'cifar_resnext29_{groups}x64d': _cifar(
            29, _resnext(groups, 64), 'resnext', width=64, stem_width=64
        )
        for groups in (8, 16)
    },
    **{f'cifar_se_resnet{d}': _cifar(d, _se(_OPTION_A), 'senet') for d in (20, 56, 110)},
}

# arXiv 1611.06455, section 2.3, as hfawaz/dl-4-tsc, classifiers/resnet.py, has it in Keras, whose
# defaults are part of it. No stem, no stride; the images are series [N, L, C].
_TSC: dict[str, Any] = {
    'stage_sizes': (1, 1, 1),
    'block': BlockDesign(kernels=(8, 5, 3), shortcut='normed'),
}
_TSC |= {'num_classes': 2, 'stem': 'none', 'stem_width': 1, 'stage_widths': (64, 128, 128)}
_TSC |= {'stage_strides': (1, 1, 1), 'dimensions': 1, 'conv_bias': True}
_TSC |= {'bn_momentum': 0.99, 'bn_epsilon': 1e-3, 'init_scheme': 'glorot_uniform'}
MODELS['tsc_resnet'] = ModelRow(_TSC, 'tsc', 150, channels=1)

# vdcnn, tables 1 and 2: a convolution and stages of 64 to 512 channels for the bytes of texts. It
# pools between the stages; here their first convolution has stride 2, as in one of its variants.
# Its head is k-max pooling and three dense layers; here global average pooling and one.
MODELS |= {
    f'vdcnn{d}': ModelRow(
        {
            **{'stage_sizes': stages, 'block': BASIC, 'num_classes': 4},
            **{'stem': 'embedding', 'dimensions': 1},
        },
        *('vdcnn', 1024, 1),
    )
    for d, stages in ((9, (1, 1, 1, 1)), (17, (2, 2, 2, 2)), (29, (5, 5, 2, 2)), (49, (8, 8, 5, 3)))
}
