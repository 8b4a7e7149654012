"""The published nets in PyTorch, with the names and shapes of the published weights.

Written from the papers and the conventions of those who publish; only the names are theirs:

  ResNet             torchvision/models/resnet.py; timm/models/resnet.py and squeeze_excite.py
  PreactResNet       timm/models/resnetv2.py, the batch-norm variant
  HuggingFaceResNet  transformers/models/resnet/modeling_resnet.py
  CifarResNet        github.com/akamaster/pytorch_resnet_cifar10 (option A) and
                     github.com/kuangliu/pytorch-cifar (projections)

Each takes a block, `blocks` (in each stage), `width` (of the first stage's blocks; each stage
doubles it), `classes` and `stem_width`, so that tiny nets and full ones are the same code.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import nn

torch.set_num_threads(1)  # tiny nets gain nothing, and threads wait where cores are shared


def conv(c_in, c_out, size, stride=1, groups=1):
    """Without bias, padded by size // 2 on every side."""
    return nn.Conv2d(c_in, c_out, size, stride, size // 2, groups=groups, bias=False)


norm = nn.BatchNorm2d
max_pool = functools.partial(nn.functional.max_pool2d, kernel_size=3, stride=2, padding=1)


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

    def finish(self, c_in, c_out, stride, shortcut, se=False):
        """What follows the branch. Shortcut: 'projection', 'average' (timm's -D) or 'zero_pad'."""
        self.c_out = c_out
        self.se = SqueezeExcite(c_out) if se else nn.Identity()
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
        self, c_in, width, stride, groups=1, width_per_group=64, shortcut='projection', se=False
    ):
        super().__init__()
        inner = width * width_per_group // 64 * groups
        self.conv1, self.bn1 = conv(c_in, inner, 1), norm(inner)
        self.conv2, self.bn2 = conv(inner, inner, 3, stride, groups), norm(inner)
        self.conv3, self.bn3 = conv(inner, 4 * width, 1), norm(4 * width)
        self.finish(c_in, 4 * width, stride, shortcut, se)

    def branch(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


class ResNet(Net):
    """torchvision's nets; a deep stem (ResNet-C, Bag of Tricks, figure 2b) is timm's."""

    def __init__(self, block, blocks, width=64, classes=1000, stem_width=64, deep_stem=False):
        super().__init__()
        half = stem_width // 2
        deep = (
            *(conv(3, half, 3, 2), norm(half), nn.ReLU()),
            *(conv(half, half, 3), norm(half), nn.ReLU()),
            conv(half, stem_width, 3),
        )
        self.conv1 = nn.Sequential(*deep) if deep_stem else conv(3, stem_width, 7, 2)
        self.bn1 = norm(stem_width)
        stages = make_stages(block, stem_width, blocks, width)
        for i, stage in enumerate(stages, 1):
            setattr(self, f'layer{i}', stage)
        self.depth = len(stages)
        self.fc = nn.Linear(stages[-1][-1].c_out, classes)

    def stem_features(self, x):
        return max_pool(torch.relu(self.bn1(self.conv1(x))))

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

    def __init__(self, c_in, width, stride):
        super().__init__()
        self.c_out = 4 * width
        self.norm1, self.conv1 = norm(c_in), conv(c_in, width, 1)
        self.norm2, self.conv2 = norm(width), conv(width, width, 3, stride)
        self.norm3, self.conv3 = norm(width), conv(width, 4 * width, 1)
        if stride > 1 or c_in != 4 * width:
            self.downsample = nn.ModuleDict({'conv': conv(c_in, 4 * width, 1, stride)})

    def forward(self, x):
        activated = torch.relu(self.norm1(x))
        if hasattr(self, 'downsample'):
            x = self.downsample['conv'](activated)
        branch = self.conv2(torch.relu(self.norm2(self.conv1(activated))))
        return self.conv3(torch.relu(self.norm3(branch))) + x


class PreactResNet(Net):
    """A raw 7x7 stem, a last norm, and a head that is a 1x1 convolution."""

    def __init__(self, block, blocks, width=64, classes=1000, stem_width=64):
        super().__init__()
        self.stem = nn.ModuleDict({'conv': conv(3, stem_width, 7, 2)})
        stages = make_stages(block, stem_width, blocks, width)
        self.stages = nn.ModuleList(nn.ModuleDict({'blocks': stage}) for stage in stages)
        self.norm = norm(stages[-1][-1].c_out)
        self.head = nn.ModuleDict({'fc': nn.Conv2d(stages[-1][-1].c_out, classes, 1)})

    def stem_features(self, x):
        return max_pool(self.stem['conv'](x))  # of both signs: the padding is -inf

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
SE = part(Bottleneck, se=True)
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
DEPTHS |= {152: (3, 8, 36, 3)}

# By our names: makes a full net.
NETS = {
    **{f'resnet{depth}': part(ResNet, Basic, DEPTHS[depth]) for depth in (18, 34)},
    **{f'resnet{depth}': part(ResNet, Bottleneck, DEPTHS[depth]) for depth in (50, 101, 152)},
    'resnet50_v1': part(HuggingFaceResNet, BOTTLENECK_V1, DEPTHS[50]),
    'resnext50_32x4d': part(ResNet, part(Bottleneck, groups=32, width_per_group=4), DEPTHS[50]),
    'wide_resnet50_2': part(ResNet, part(Bottleneck, width_per_group=128), DEPTHS[50]),
    'resnet50d': part(ResNet, AVERAGE, DEPTHS[50], deep_stem=True),
    'se_resnet50': part(ResNet, SE, DEPTHS[50]),
    'resnetv2_50': part(PreactResNet, PreactBottleneck, DEPTHS[50]),
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
    """

    build: Any
    name: str
    overrides: dict[str, Any]
    layout: str


CLASSES = 5
TINY = {'blocks': (2, 1), 'width': 8, 'stem_width': 8, 'classes': CLASSES}
OUR_TINY = {'stage_sizes': (2, 1), 'width': 8, 'stem_width': 8}


def family(net, block, name, layout, wrap=lambda net: net, deep_stem=False, **overrides):
    """A row of `FAMILIES`."""
    extra = {'deep_stem': True} if deep_stem else {}
    return Family(lambda: wrap(net(block, **TINY, **extra)), name, OUR_TINY | overrides, layout)


_RESNEXT = part(Bottleneck, groups=4, width_per_group=32)
FAMILIES = {
    'basic': family(ResNet, Basic, 'resnet18', 'torchvision'),
    'bottleneck': family(ResNet, Bottleneck, 'resnet50', 'torchvision'),
    'resnext': family(ResNet, _RESNEXT, 'resnext50_32x4d', 'torchvision', groups=4, base_width=32),
    'wide': family(ResNet, part(Bottleneck, width_per_group=128), 'wide_resnet50_2', 'torchvision'),
    'd': family(ResNet, AVERAGE, 'resnet50d', 'timm', deep_stem=True),
    'se': family(ResNet, SE, 'se_resnet50', 'timm'),
    'preact': family(PreactResNet, PreactBottleneck, 'resnetv2_50', 'timm_v2'),
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
        if isinstance(module, nn.BatchNorm2d):
            module.weight.copy_(uniform(module.weight, 0.5, 1.5))
            module.bias.copy_(uniform(module.bias, -0.5, 0.5))
            module.momentum = 1.0
        elif isinstance(module, nn.Conv2d | nn.Linear):
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
