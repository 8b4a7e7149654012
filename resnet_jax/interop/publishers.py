"""Layouts: how other libraries name and store the tensors of a residual network, one row each.

A row holds templates that turn our parameter paths (`stage1/block2/conv1/kernel`) into names, so a
new model needs no change here and a new publisher is a new row.
"""

import dataclasses
from collections.abc import Mapping

# Our names of the arrays of a convolution or fully connected layer, and of a norm -> PyTorch's.
_LEAVES = {'kernel': 'weight', 'bias': 'bias'}
_NORM_LEAVES = {
    'scale': 'weight',
    'bias': 'bias',
    'mean': 'running_mean',
    'var': 'running_var',
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The names of a publisher.

    Templates use {stage}, {block} (in its stage), {number} (of a block in the whole net, from 1),
    {i} and {next} (of a convolution, and one more), and {letter} (a for 1, ...).

    Attributes:
      stem: names of conv1, norm1, conv2, ... by the number of convolutions in the stem. None, here
        and below: such nets of this publisher have no such part.
      block: of a residual block.
      conv, norm: inside a block.
      ending: of the last convolution of a block and its norm, if others.
      convolutions: of each `BlockDesign.convolution` that such nets may have, the names of all
        convolutions and norms that stand for one of the design, numbered as that is; None: `conv`
        and `norm`.
      last: of the convolution behind the last stage and its norm.
      shortcut: of the shortcut's convolution and norm, inside a block.
      pooled_shortcut: the same after an average pool.
      squeeze_excite: of its two layers, inside a block.
      eca: of the convolution of efficient channel attention, inside a block.
      final_norm: of a pre-activation net.
      head: of the classifier.
      stage_from, block_from, conv_from: numbers of the first stage, block, convolution.
      body_prefix: precedes all names except the head's; absent in a file of the body alone.
      raw_first_shortcut: whether the first block of its pre-activation nets activates only its
        branch, see `BlockDesign`.
      as_convolution: our fully connected layers that it stores as 1x1 convolutions.
      leaves: our names of the arrays of a convolution or fully connected layer -> its names.
      norm_leaves: the same for a norm.
      norm_ones: number of axes of length 1 before the channels in the arrays of its norms.
      dimensions: of space, of its nets.
      separator: between the parts of a name.
      outputs_first: whether the axes of kernels are [outputs, inputs, window], as in PyTorch; else
        they are ours, [window, inputs, outputs].
    """

    stem: Mapping[int, tuple[str | None, ...]]
    block: str = 'layer{stage}.{block}'
    conv: str = 'conv{i}'
    norm: str = 'bn{i}'
    ending: tuple[str, str] | None = None
    convolutions: Mapping[str, tuple[str, ...] | None] = dataclasses.field(
        default_factory=lambda: {'full': None}
    )
    last: tuple[str, str] | None = None
    shortcut: tuple[str, str | None] | None = ('downsample.0', 'downsample.1')
    pooled_shortcut: tuple[str, str | None] | None = None
    squeeze_excite: tuple[str, str] | None = None
    eca: str | None = None
    final_norm: str | None = None
    head: str = 'fc'
    stage_from: int = 1
    block_from: int = 0
    conv_from: int = 1
    body_prefix: str = ''
    raw_first_shortcut: bool = False
    as_convolution: tuple[str, ...] = ()
    leaves: Mapping[str, str] = dataclasses.field(default_factory=lambda: _LEAVES)
    norm_leaves: Mapping[str, str] = dataclasses.field(default_factory=lambda: _NORM_LEAVES)
    norm_ones: int = 0
    dimensions: tuple[int, ...] = (1, 2, 3)
    separator: str = '.'
    outputs_first: bool = True


_PLAIN_STEM = {1: ('conv1', 'bn1')}

LAYOUTS = {
    # torchvision/models/resnet.py
    'torchvision': Layout(stem=_PLAIN_STEM),
    # torchvision/models/video/resnet.py
    'torchvision_video': Layout(
        stem={1: ('stem.0', 'stem.1'), 2: ('stem.0', 'stem.1', 'stem.3', 'stem.4')},
        convolutions={
            **dict.fromkeys(('full', 'spatial'), ('conv{i}.0', 'conv{i}.1')),
            'space_time': ('conv{i}.0.0', 'conv{i}.0.1', 'conv{i}.0.3', 'conv{i}.1'),
        },
        dimensions=(3,),
    ),
    # torchvision/models/mobilenetv2.py
    'torchvision_mobile': Layout(
        stem={1: ('features.0.0', 'features.0.1')},
        block='features.{number}',
        conv='conv.{i}.0',
        norm='conv.{i}.1',
        ending=('conv.{i}', 'conv.{next}'),
        conv_from=0,
        convolutions={'full': None, 'depthwise': None},
        shortcut=None,
        last=('features.{number}.0', 'features.{number}.1'),
        head='classifier.1',
    ),
    # timm/models/resnet.py: the same names for the same nets, and deep stems, ResNet-D and SE.
    'timm': Layout(
        stem={**_PLAIN_STEM, 3: ('conv1.0', 'conv1.1', 'conv1.3', 'conv1.4', 'conv1.6', 'bn1')},
        pooled_shortcut=('downsample.1', 'downsample.2'),
        squeeze_excite=('se.fc1', 'se.fc2'),
        eca='se.conv',
        as_convolution=('reduce', 'expand'),
    ),
    # timm/models/resnetv2.py: pre-activation, and BiT
    'timm_v2': Layout(
        stem={
            1: ('stem.conv', None),
            3: ('stem.conv1', 'stem.norm1', 'stem.conv2', 'stem.norm2', 'stem.conv3', None),
        },
        block='stages.{stage}.blocks.{block}',
        norm='norm{i}',
        shortcut=('downsample.conv', None),
        pooled_shortcut=('downsample.conv', None),
        final_norm='norm',
        head='head.fc',
        stage_from=0,
        raw_first_shortcut=True,
        as_convolution=('head',),
    ),
    # google-research/big_transfer, bit_pytorch/models.py: the .npz files of TensorFlow's variables
    'bit': Layout(
        stem={1: ('resnet/root_block/standardized_conv2d', None)},
        block='resnet/block{stage}/unit{block:02}',
        conv='{letter}/standardized_conv2d',
        norm='{letter}/group_norm',
        shortcut=('a/proj/standardized_conv2d', None),
        final_norm='resnet/group_norm',
        head='resnet/head/conv2d',
        block_from=1,
        as_convolution=('head',),
        leaves={'kernel': 'kernel', 'bias': 'bias'},
        norm_leaves={'scale': 'gamma', 'bias': 'beta'},
        separator='/',
        outputs_first=False,
    ),
    # google-research/big_vision, models/bit_paper.py: Flax's variables
    'big_vision': Layout(
        stem={1: ('root_block/conv_root', None)},
        block='block{stage}/unit{block:02}',
        norm='gn{i}',
        shortcut=('conv_proj', None),
        final_norm='norm-pre-head',
        head='head',
        block_from=1,
        leaves={'kernel': 'kernel', 'bias': 'bias'},
        norm_leaves={'scale': 'scale', 'bias': 'bias'},
        norm_ones=3,
        separator='/',
        outputs_first=False,
    ),
    # transformers/models/resnet/modeling_resnet.py
    'huggingface': Layout(
        stem={1: ('embedder.embedder.convolution', 'embedder.embedder.normalization')},
        block='encoder.stages.{stage}.layers.{block}',
        conv='layer.{i}.convolution',
        norm='layer.{i}.normalization',
        shortcut=('shortcut.convolution', 'shortcut.normalization'),
        head='classifier.1',
        stage_from=0,
        conv_from=0,
        body_prefix='resnet.',
    ),
    # The CIFAR nets of many repositories, after github.com/akamaster/pytorch_resnet_cifar10 and
    # github.com/kuangliu/pytorch-cifar.
    'cifar': Layout(
        stem=_PLAIN_STEM,
        shortcut=('shortcut.0', 'shortcut.1'),
        final_norm='bn',
        head='linear',
        raw_first_shortcut=True,
    ),
}
