"""The published nets in PyTorch, with the names and shapes of the published weights.

Written from the papers and the conventions of those who publish; only the names are theirs:

  ResNet             torchvision/models/resnet.py; timm/models/resnet.py, squeeze_excite.py and
                     blur_pool.py
  PreactResNet       timm/models/resnetv2.py, the batch-norm variants, and BiT:
                     google-research/big_transfer, bit_pytorch/models.py
  HuggingFaceResNet  transformers/models/resnet/modeling_resnet.py
  CifarResNet        github.com/akamaster/pytorch_resnet_cifar10 (option A) and
                     github.com/kuangliu/pytorch-cifar (projections)

Each takes a block, `blocks` (in each stage), `width` (of the first stage's blocks; each stage
doubles it), `classes` and `stem_width`, so that tiny nets and full ones are the same code.
"""

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import nn

torch.set_num_threads(1)  # tiny nets gain nothing, and threads wait where cores are shared


def conv(c_in, c_out, size, stride=1, groups=1):
    """Without bias, padded by size // 2 on every side."""
    return nn.Conv2d(c_in, c_out, size, stride, size // 2, groups=groups, bias=False)


norm = nn.BatchNorm2d
max_pool = functools.partial(nn.functional.max_pool2d, kernel_size=3, stride=2, padding=1)
group_norm = functools.partial(nn.GroupNorm, 4)  # of the tiny nets
group_norm_32 = functools.partial(nn.GroupNorm, 32)


class StandardizedConv(nn.Conv2d):
    """bit, section 2, and big_transfer: each channel's weights at mean 0 and variance 1."""

    def forward(self, x):
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), unbiased=False, keepdim=True)
        weight = (self.weight - mean) / torch.sqrt(variance + 1e-10)
        return nn.functional.conv2d(x, weight, None, self.stride, self.padding)


def standardized_conv(c_in, c_out, size, stride=1):
    return StandardizedConv(c_in, c_out, size, stride, size // 2, bias=False)


class Blur(nn.Module):
    """Zhang, arXiv 1904.11486: weights 1 2 1 both ways, mirrored edges, every second pixel."""

    def forward(self, x):
        taps = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype)
        window = torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3)
        x = nn.functional.pad(x, (1, 1, 1, 1), mode='reflect')
        return nn.functional.conv2d(x, window, stride=2, groups=x.shape[1])


class Net(nn.Module):
    """What all nets share: their order, with the features on the way.

    Subclasses have `stem_features`, `ordered_stages` and `classify`.
    """

    def last(self, x):
        """What stands between the last stage and the average pool."""
        return x

    def features(self, x):
        """[N, 3, H, W] to {'stem', 'stage1', ..., 'pooled'}."""
        found = {'stem': self.stem_features(x)}
        x = found['stem']
        for i, stage in enumerate(self.ordered_stages(), 1):
            x = found[f'stage{i}'] = stage(x)
        return {**found, 'pooled': self.last(x).mean((2, 3))}

    def forward(self, x):
        """[N, 3, H, W] to [N, classes]."""
        return self.classify(self.features(x)['pooled'])


def make_stages(block, c_in, blocks, width):
    """Stages of blocks; the first block of each but the first strides."""
    stages = []
    for stage, depth in enumerate(blocks):
        members = []
        for number in range(depth):
            stride = 2 if stage > 0 and number == 0 else 1
            members.append(block(c_in, width * 2**stage, stride))
            c_in = members[-1].c_out
        stages.append(nn.Sequential(*members))
    return stages


# torchvision and timm: conv1, bn1, layer1.0.conv1, layer1.0.downsample.0, fc


class SqueezeExcite(nn.Module):
    """senet, equations 2 to 4, as 1x1 convolutions; the hidden width is a multiple of 8."""

    def __init__(self, channels):
        super().__init__()
        hidden = max(8, int(channels / 16 + 4) // 8 * 8)
        self.fc1, self.fc2 = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x):
        squeezed = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(squeezed))))


class EfficientChannelAttention(nn.Module):
    """eca, equations 9 and 12: a convolution over the means of neighbouring channels."""

    def __init__(self, channels):
        super().__init__()
        size = int((math.log2(channels) + 1) / 2)
        size = max(3, size if size % 2 else size + 1)
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x):
        gate = torch.sigmoid(self.conv(x.mean((2, 3))[:, None]))
        return x * gate[:, 0, :, None, None]


class OptionA(nn.Module):
    """he2015, option A: every second pixel, and half of the missing channels on each side."""

    def __init__(self, missing):
        super().__init__()
        self.side = missing // 2

    def forward(self, x):
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.side, self.side))


class Block(nn.Module):
    """relu(branch + shortcut); subclasses fill in the branch."""

    shortcut_name = 'downsample'

    def finish(self, c_in, c_out, stride, shortcut, se=False, norm=norm):
        """What follows the branch. Shortcut: 'projection', 'average' (timm's -D) or 'zero_pad'."""
        self.c_out = c_out
        kinds = {True: SqueezeExcite, False: lambda c: nn.Identity()}
        self.se = {**kinds, 'eca': EfficientChannelAttention}[se](c_out)
        path = nn.Sequential()
        if shortcut == 'zero_pad' and (stride > 1 or c_in != c_out):
            path = OptionA(c_out - c_in)
        elif shortcut == 'average' and (stride > 1 or c_in != c_out):
            # Bag of Tricks, figure 2c. Odd sizes: the last window is cut short.
            pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
            pool = pool if stride > 1 else nn.Identity()
            path = nn.Sequential(pool, conv(c_in, c_out, 1), norm(c_out))
        elif stride > 1 or c_in != c_out:
            path = nn.Sequential(conv(c_in, c_out, 1, stride), norm(c_out))
        setattr(self, self.shortcut_name, path)

    def forward(self, x):
        shortcut = getattr(self, self.shortcut_name)(x)
        return torch.relu(self.se(self.branch(x)) + shortcut)


class Basic(Block):
    """he2015, figure 5 left."""

    def __init__(self, c_in, width, stride, shortcut='projection', se=False):
        super().__init__()
        self.conv1, self.bn1 = conv(c_in, width, 3, stride), norm(width)
        self.conv2, self.bn2 = conv(width, width, 3), norm(width)
        self.finish(c_in, width, stride, shortcut, se)

    def branch(self, x):
        return self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))


class Bottleneck(Block):
    """he2015, figure 5 right, the stride on the 3x3 ("v1.5"); with groups resnext, figure 3c."""

    def __init__(
        self,
        c_in,
        width,
        stride,
        groups=1,
        width_per_group=64,
        shortcut='projection',
        se=False,
        norm=norm,
        pool=None,
    ):
        super().__init__()
        inner = width * width_per_group // 64 * groups
        # timm: a pool takes the place of the stride, behind the activation.
        self.pool = pool() if pool and stride > 1 else nn.Identity()
        inner_stride = 1 if pool else stride
        self.conv1, self.bn1 = conv(c_in, inner, 1), norm(inner)
        self.conv2, self.bn2 = conv(inner, inner, 3, inner_stride, groups), norm(inner)
        self.conv3, self.bn3 = conv(inner, 4 * width, 1), norm(4 * width)
        self.finish(c_in, 4 * width, stride, shortcut, se, norm)

    def branch(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.pool(torch.relu(self.bn2(self.conv2(x))))
        return self.bn3(self.conv3(x))


class ResNet(Net):
    """torchvision's nets; a deep stem (ResNet-C, Bag of Tricks, figure 2b) is timm's, as are its
    tiered one and other norms and pools.
    """

    def __init__(
        self,
        block,
        blocks,
        width=64,
        classes=1000,
        stem_width=64,
        deep_stem=False,
        tiered=False,
        norm=norm,
        stem_pool=max_pool,
    ):
        super().__init__()
        half = stem_width // 2
        first = 3 * (half // 4) if tiered else half
        deep = (
            *(conv(3, first, 3, 2), norm(first), nn.ReLU()),
            *(conv(first, half, 3), norm(half), nn.ReLU()),
            conv(half, stem_width, 3),
        )
        self.stem_pool = stem_pool
        self.conv1 = nn.Sequential(*deep) if deep_stem else conv(3, stem_width, 7, 2)
        self.bn1 = norm(stem_width)
        stages = make_stages(block, stem_width, blocks, width)
        for i, stage in enumerate(stages, 1):
            setattr(self, f'layer{i}', stage)
        self.depth = len(stages)
        self.fc = nn.Linear(stages[-1][-1].c_out, classes)

    def stem_features(self, x):
        return self.stem_pool(torch.relu(self.bn1(self.conv1(x))))

    def ordered_stages(self):
        return [getattr(self, f'layer{i}') for i in range(1, self.depth + 1)]

    def classify(self, pooled):
        return self.fc(pooled)


# The CIFAR ports: conv1, bn1, layer1.0.conv1, layer1.0.shortcut.0, linear


class CifarBasic(Basic):
    shortcut_name = 'shortcut'


class CifarBottleneck(Bottleneck):
    shortcut_name = 'shortcut'


class CifarPreactBasic(nn.Module):
    """he2016, figure 4(e) and appendix: the first unit activates before it splits."""

    activates_first = True

    def __init__(self, c_in, width, stride, first=False):
        super().__init__()
        self.c_out, self.first = width, first
        self.bn1, self.conv1 = norm(c_in), conv(c_in, width, 3, stride)
        self.bn2, self.conv2 = norm(width), conv(width, width, 3)
        if stride > 1 or c_in != width:
            self.shortcut = nn.Sequential(conv(c_in, width, 1, stride))

    def forward(self, x):
        activated = torch.relu(self.bn1(x))
        if hasattr(self, 'shortcut'):
            x = self.shortcut(activated)
        elif self.first:
            x = activated
        return self.conv2(torch.relu(self.bn2(self.conv1(activated)))) + x


class RawPreactBasic(CifarPreactBasic):
    """As the ports have it: the first unit's shortcut takes what it is given."""

    activates_first = False


class CifarResNet(Net):
    """he2015, section 4.2; pre-activated there is `bn` before the pool, not `bn1` in the stem."""

    def __init__(self, block, blocks, width=16, classes=10, stem_width=16):
        super().__init__()
        self.preactivated = isinstance(block, type) and issubclass(block, CifarPreactBasic)
        self.conv1 = conv(3, stem_width, 3)
        stages = make_stages(block, stem_width, blocks, width)
        for i, stage in enumerate(stages, 1):
            setattr(self, f'layer{i}', stage)
        self.depth = len(stages)
        channels = stages[-1][-1].c_out
        if self.preactivated:
            stages[0][0].first = block.activates_first
            self.bn = norm(channels)
        else:
            self.bn1 = norm(stem_width)
        self.linear = nn.Linear(channels, classes)

    def stem_features(self, x):
        x = self.conv1(x)
        return x if self.preactivated else torch.relu(self.bn1(x))

    def ordered_stages(self):
        return [getattr(self, f'layer{i}') for i in range(1, self.depth + 1)]

    def last(self, x):
        return torch.relu(self.bn(x)) if self.preactivated else x

    def classify(self, pooled):
        return self.linear(pooled)


class Wrapped(nn.Module):
    """As nn.DataParallel does, puts `module.` before all names."""

    def __init__(self, net):
        super().__init__()
        self.module = net

    def features(self, x):
        return self.module.features(x)

    def forward(self, x):
        return self.module(x)


# timm's pre-activation: stem.conv, stages.0.blocks.0.norm1, norm, head.fc


class PreactBottleneck(nn.Module):
    """he2016, figure 4(e): a projecting unit activates before it splits."""

    def __init__(self, c_in, width, stride, conv=conv, norm=norm, average=False):
        super().__init__()
        self.c_out = 4 * width
        self.norm1, self.conv1 = norm(c_in), conv(c_in, width, 1)
        self.norm2, self.conv2 = norm(width), conv(width, width, 3, stride)
        self.norm3, self.conv3 = norm(width), conv(width, 4 * width, 1)
        self.finish(c_in, stride, conv, average)

    def finish(self, c_in, stride, conv, average):
        if stride > 1 or c_in != self.c_out:
            pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
            pool = pool if average and stride > 1 else nn.Identity()
            projection = conv(c_in, self.c_out, 1, 1 if average else stride)
            self.downsample = nn.ModuleDict({'pool': pool, 'conv': projection})

    def branch(self, activated):
        h = self.conv2(torch.relu(self.norm2(self.conv1(activated))))
        return self.conv3(torch.relu(self.norm3(h)))

    def forward(self, x):
        activated = torch.relu(self.norm1(x))
        if hasattr(self, 'downsample'):
            x = self.downsample['conv'](self.downsample['pool'](activated))
        return self.branch(activated) + x


class PreactBasic(PreactBottleneck):
    """Two 3x3: only a unit that projects activates its shortcut, unlike in he2016."""

    def __init__(self, c_in, width, stride, average=False):
        nn.Module.__init__(self)
        self.c_out = width
        self.norm1, self.conv1 = norm(c_in), conv(c_in, width, 3, stride)
        self.norm2, self.conv2 = norm(width), conv(width, width, 3)
        self.finish(c_in, stride, conv, average)

    def branch(self, activated):
        return self.conv2(torch.relu(self.norm2(self.conv1(activated))))


def zero_padded_max_pool(x):
    """BiT's, after TensorFlow: where all pixels are negative, the border is the largest."""
    return nn.functional.max_pool2d(nn.functional.pad(x, (1, 1, 1, 1)), 3, 2)


class PreactResNet(Net):
    """A raw 7x7 stem, a last norm, and a head that is a 1x1 convolution."""

    def __init__(
        self,
        block,
        blocks,
        width=64,
        classes=1000,
        stem_width=64,
        deep_stem=False,
        conv=conv,
        norm=norm,
        stem_pool=max_pool,
    ):
        super().__init__()
        half, self.stem_pool = stem_width // 2, stem_pool
        deep = {
            **{'conv1': conv(3, half, 3, 2), 'norm1': norm(half)},
            **{'conv2': conv(half, half, 3), 'norm2': norm(half)},
            'conv3': conv(half, stem_width, 3),
        }
        self.stem = nn.ModuleDict(deep if deep_stem else {'conv': conv(3, stem_width, 7, 2)})
        stages = make_stages(block, stem_width, blocks, width)
        self.stages = nn.ModuleList(nn.ModuleDict({'blocks': stage}) for stage in stages)
        self.norm = norm(stages[-1][-1].c_out)
        self.head = nn.ModuleDict({'fc': nn.Conv2d(stages[-1][-1].c_out, classes, 1)})

    def stem_features(self, x):
        for name, layer in self.stem.items():
            x = torch.relu(layer(x)) if name.startswith('norm') else layer(x)
        return self.stem_pool(x)  # of both signs: the padding is -inf, or BiT's zero

    def ordered_stages(self):
        return [stage['blocks'] for stage in self.stages]

    def last(self, x):
        return torch.relu(self.norm(x))

    def classify(self, pooled):
        return self.head['fc'](pooled[:, :, None, None]).flatten(1)


# Hugging Face: resnet.encoder.stages.0.layers.0.layer.0.convolution, classifier.1


class ConvNorm(nn.Module):
    def __init__(self, c_in, c_out, size, stride=1):
        super().__init__()
        self.convolution = conv(c_in, c_out, size, stride)
        self.normalization = norm(c_out)

    def forward(self, x):
        return self.normalization(self.convolution(x))


class HuggingFaceBasic(nn.Module):
    """he2015, figure 5 left."""

    def __init__(self, c_in, width, stride):
        super().__init__()
        self.finish(c_in, width, stride)
        self.layer = nn.Sequential(ConvNorm(c_in, width, 3, stride), ConvNorm(width, width, 3))

    def finish(self, c_in, c_out, stride):
        self.c_out = c_out
        projects = stride > 1 or c_in != c_out
        self.shortcut = ConvNorm(c_in, c_out, 1, stride) if projects else nn.Identity()

    def forward(self, x):
        branch = x
        for layer in self.layer[:-1]:
            branch = torch.relu(layer(branch))
        return torch.relu(self.layer[-1](branch) + self.shortcut(x))


class HuggingFaceBottleneck(HuggingFaceBasic):
    """he2015, figure 5 right; the stride on the 3x3, or on the first 1x1 as in the paper."""

    def __init__(self, c_in, width, stride, downsample_in_bottleneck=False):
        nn.Module.__init__(self)
        self.finish(c_in, 4 * width, stride)
        on_first, on_second = (stride, 1) if downsample_in_bottleneck else (1, stride)
        self.layer = nn.Sequential(
            ConvNorm(c_in, width, 1, on_first),
            ConvNorm(width, width, 3, on_second),
            ConvNorm(width, 4 * width, 1),
        )


class HuggingFaceResNet(Net):
    """ResNetForImageClassification."""

    def __init__(self, block, blocks, width=64, classes=1000, stem_width=64):
        super().__init__()
        stages = make_stages(block, stem_width, blocks, width)
        layers = nn.ModuleList(nn.ModuleDict({'layers': stage}) for stage in stages)
        self.resnet = nn.ModuleDict(
            {
                'embedder': nn.ModuleDict({'embedder': ConvNorm(3, stem_width, 7, 2)}),
                'encoder': nn.ModuleDict({'stages': layers}),
            }
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(stages[-1][-1].c_out, classes))

    def stem_features(self, x):
        return max_pool(torch.relu(self.resnet['embedder']['embedder'](x)))

    def ordered_stages(self):
        return [stage['layers'] for stage in self.resnet['encoder']['stages']]

    def classify(self, pooled):
        return self.classifier(pooled)


# Nets by name


part = functools.partial
BOTTLENECK_V1 = part(HuggingFaceBottleneck, downsample_in_bottleneck=True)
OPTION_A = part(CifarBasic, shortcut='zero_pad')
AVERAGE = part(Bottleneck, shortcut='average')
AVERAGE_BASIC = part(Basic, shortcut='average')
SE = part(Bottleneck, se=True)
ECA = part(Bottleneck, shortcut='average', se='eca')
BLUR = part(Bottleneck, pool=Blur)
AVERAGE_BOTH = part(Bottleneck, shortcut='average', pool=part(nn.AvgPool2d, 2))
GROUP = part(Bottleneck, norm=group_norm)
PREACT_AVERAGE = part(PreactBottleneck, average=True)
PREACT_AVERAGE_BASIC = part(PreactBasic, average=True)
BIT = part(PreactBottleneck, conv=standardized_conv, norm=group_norm)
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
DEPTHS |= {26: (2, 2, 2, 2), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}


def blurred_max_pool(x):
    """timm's resnetblur50: the blur strides, the max-pool does not."""
    return Blur()(nn.functional.max_pool2d(x, 3, 1, 1))


def bit(block, blocks, factor=1, norm=group_norm_32, **sizes):
    """BiT's net, of factor times the width."""
    wide = {'width': 64 * factor, 'stem_width': 64 * factor} | sizes
    stem = {'conv': standardized_conv, 'norm': norm, 'stem_pool': zero_padded_max_pool}
    return PreactResNet(part(block, norm=norm), blocks, **wide, **stem)


# By our names: makes a full net.
NETS = {
    **{f'resnet{depth}': part(ResNet, Basic, DEPTHS[depth]) for depth in (18, 34)},
    **{f'resnet{depth}': part(ResNet, Bottleneck, DEPTHS[depth]) for depth in (50, 101, 152)},
    'resnet50_v1': part(HuggingFaceResNet, BOTTLENECK_V1, DEPTHS[50]),
    'resnext50_32x4d': part(ResNet, part(Bottleneck, groups=32, width_per_group=4), DEPTHS[50]),
    'wide_resnet50_2': part(ResNet, part(Bottleneck, width_per_group=128), DEPTHS[50]),
    'resnet50d': part(ResNet, AVERAGE, DEPTHS[50], deep_stem=True),
    'resnet26': part(ResNet, Bottleneck, DEPTHS[26]),
    'resnet50c': part(ResNet, Bottleneck, DEPTHS[50], deep_stem=True),
    'resnet50t': part(ResNet, AVERAGE, DEPTHS[50], deep_stem=True, tiered=True),
    **{
        f'resnet{depth}d': part(ResNet, AVERAGE_BASIC, DEPTHS[depth], deep_stem=True)
        for depth in (18, 34)
    },
    **{
        f'resnet{depth}d': part(ResNet, AVERAGE, DEPTHS[depth], deep_stem=True)
        for depth in (26, 152, 200)
    },
    'resnet50_gn': part(
        ResNet, part(Bottleneck, norm=group_norm_32), DEPTHS[50], norm=group_norm_32
    ),
    'resnetblur50': part(ResNet, BLUR, DEPTHS[50], stem_pool=blurred_max_pool),
    'resnetaa50d': part(
        ResNet, AVERAGE_BOTH, DEPTHS[50], deep_stem=True, stem_pool=nn.AvgPool2d(2)
    ),
    'se_resnet50': part(ResNet, SE, DEPTHS[50]),
    'resnetv2_18': part(PreactResNet, PreactBasic, DEPTHS[18]),
    'resnetv2_34': part(PreactResNet, PreactBasic, DEPTHS[34]),
    'resnetv2_50': part(PreactResNet, PreactBottleneck, DEPTHS[50]),
    **{
        f'resnetv2_{depth}d': part(
            PreactResNet, PREACT_AVERAGE_BASIC, DEPTHS[depth], deep_stem=True
        )
        for depth in (18, 34)
    },
    'resnetv2_50d': part(PreactResNet, PREACT_AVERAGE, DEPTHS[50], deep_stem=True),
    'ecaresnet50d': part(ResNet, ECA, DEPTHS[50], deep_stem=True),
    'bit_resnet50x1': part(bit, BIT, DEPTHS[50]),
    'bit_resnet50x3': part(bit, BIT, DEPTHS[50], factor=3),
    'bit_resnet101x1': part(bit, BIT, DEPTHS[101]),
    **{
        f'cifar_resnet{depth}': part(CifarResNet, OPTION_A, (depth // 6,) * 3)
        for depth in (20, 32, 56, 110)
    },
}


def torch_net(name: str) -> nn.Module:
    """The full net that is published under one of our names."""
    return NETS[name]()


class Family(NamedTuple):
    """A tiny net on both sides.

    Attributes:
      build: makes it in PyTorch.
      name, overrides: `create_model(name, CLASSES, dtype, **overrides)` makes it in JAX.
      layout: what we call its names.
      odd_sizes: whether it takes images of odd sizes.
    """

    build: Any
    name: str
    overrides: dict[str, Any]
    layout: str
    odd_sizes: bool = True


CLASSES = 5
TINY = {'blocks': (2, 1), 'width': 8, 'stem_width': 8, 'classes': CLASSES}
OUR_TINY = {'stage_sizes': (2, 1), 'width': 8, 'stem_width': 8}


def family(net, block, name, layout, wrap=lambda net: net, extra=None, odd_sizes=True, **overrides):
    """A row of `FAMILIES`; `extra` are more arguments of the net in PyTorch."""

    def build():
        return wrap(net(block, **TINY, **(extra or {})))

    return Family(build, name, OUR_TINY | overrides, layout, odd_sizes)


DEEP = {'deep_stem': True}


_RESNEXT = part(Bottleneck, groups=4, width_per_group=32)
FAMILIES = {
    'basic': family(ResNet, Basic, 'resnet18', 'torchvision'),
    'bottleneck': family(ResNet, Bottleneck, 'resnet50', 'torchvision'),
    'resnext': family(ResNet, _RESNEXT, 'resnext50_32x4d', 'torchvision', groups=4, base_width=32),
    'wide': family(ResNet, part(Bottleneck, width_per_group=128), 'wide_resnet50_2', 'torchvision'),
    'c': family(ResNet, Bottleneck, 'resnet50c', 'timm', extra=DEEP),
    'd': family(ResNet, AVERAGE, 'resnet50d', 'timm', extra=DEEP),
    'd_basic': family(ResNet, AVERAGE_BASIC, 'resnet18d', 'timm', extra=DEEP),
    't': family(ResNet, AVERAGE, 'resnet50t', 'timm', extra={**DEEP, 'tiered': True}),
    'se': family(ResNet, SE, 'se_resnet50', 'timm'),
    'eca': family(ResNet, ECA, 'ecaresnet50d', 'timm', extra=DEEP),
    'gn': family(
        *(ResNet, GROUP, 'resnet50_gn', 'torchvision'), extra={'norm': group_norm}, norm_groups=4
    ),
    'blur': family(
        *(ResNet, BLUR, 'resnetblur50', 'torchvision'), extra={'stem_pool': blurred_max_pool}
    ),
    # timm's average pools drop what an odd size leaves over, and its shortcut does not.
    'aa': family(
        *(ResNet, AVERAGE_BOTH, 'resnetaa50d', 'timm'),
        extra={**DEEP, 'stem_pool': nn.AvgPool2d(2)},
        odd_sizes=False,
    ),
    'preact': family(PreactResNet, PreactBottleneck, 'resnetv2_50', 'timm_v2'),
    'preact_basic': family(PreactResNet, PreactBasic, 'resnetv2_18', 'timm_v2'),
    'preact_d': family(PreactResNet, PREACT_AVERAGE, 'resnetv2_50d', 'timm_v2', extra=DEEP),
    'preact_d_basic': family(
        *(PreactResNet, PREACT_AVERAGE_BASIC, 'resnetv2_18d', 'timm_v2'), extra=DEEP
    ),
    'bit': family(bit, BIT, 'bit_resnet50x1', 'timm_v2', extra={'norm': group_norm}, norm_groups=4),
    'hf_basic': family(HuggingFaceResNet, HuggingFaceBasic, 'resnet18', 'huggingface'),
    'hf_bottleneck': family(HuggingFaceResNet, HuggingFaceBottleneck, 'resnet50', 'huggingface'),
    'hf_bottleneck_v1': family(HuggingFaceResNet, BOTTLENECK_V1, 'resnet50_v1', 'huggingface'),
    'cifar_option_a': family(CifarResNet, OPTION_A, 'cifar_resnet20', 'cifar', wrap=Wrapped),
    'cifar_basic': family(
        CifarResNet, CifarBasic, 'cifar_resnet20', 'cifar', shortcut='projection'
    ),
    'cifar_bottleneck': family(
        CifarResNet, CifarBottleneck, 'cifar_resnet164', 'cifar', stride_at=1
    ),
    'cifar_preact': family(
        CifarResNet,
        CifarPreactBasic,
        'cifar_preact_resnet20',
        'cifar',
        shortcut='projection',
    ),
    'cifar_preact_raw': family(
        CifarResNet,
        RawPreactBasic,
        'cifar_preact_resnet20',
        'cifar',
        shortcut='projection',
        raw_first_shortcut=True,
    ),
}


def tiny_torch_net(family_name: str) -> nn.Module:
    """The tiny net of a family, two stages of two blocks and one."""
    return FAMILIES[family_name].build()


@torch.no_grad()
def randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, biases, scales and statistics, with activations of order 1 at any depth.

    Running statistics are those of random images, moved at random, so that no norm is an identity.
    The net is returned in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        return torch.empty_like(tensor).uniform_(low, high, generator=generator)

    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            module.weight.copy_(uniform(module.weight, 0.5, 1.5))
            module.bias.copy_(uniform(module.bias, -0.5, 0.5))
            module.momentum = 1.0
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            bound = (6 / module.weight[0].numel()) ** 0.5  # he2015b: the variance is 2 / fan_in
            module.weight.copy_(uniform(module.weight, -bound, bound))
            if module.bias is not None:
                module.bias.copy_(uniform(module.bias, -0.5, 0.5))
    dtype = next(net.parameters()).dtype
    net.train()(torch.randn(8, 3, 64, 64, generator=generator, dtype=dtype))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
            module.num_batches_tracked.zero_()
            deviation = module.running_var.sqrt()
            module.running_mean.add_(deviation * uniform(deviation, -0.3, 0.3))
            module.running_var.mul_(uniform(deviation, 0.7, 1.5))
    return net.eval()
