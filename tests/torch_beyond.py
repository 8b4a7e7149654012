"""Nets for video and for small devices in PyTorch, with the names and shapes of torchvision's.

Written from the papers (arXiv 1711.11248, 1801.04381) and torchvision's conventions; only the names
are theirs: torchvision/models/video/resnet.py and torchvision/models/mobilenetv2.py. Sizes are
arguments, so that tiny nets and full ones are the same code.
"""

import torch
from torch import nn

torch.set_num_threads(1)


def full(c_in, c_out, middle, stride=1):
    return nn.Conv3d(c_in, c_out, 3, stride, 1, bias=False)


def without_time(c_in, c_out, middle, stride=1):
    stride = (1, stride, stride)
    return nn.Conv3d(c_in, c_out, (1, 3, 3), stride, (0, 1, 1), bias=False)


def space_time(c_in, c_out, middle, stride=1):
    """arXiv 1711.11248, section 3.5."""
    return nn.Sequential(
        nn.Conv3d(c_in, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
        *(nn.BatchNorm3d(middle), nn.ReLU()),
        nn.Conv3d(middle, c_out, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
    )


class VideoBlock(nn.Module):
    def __init__(self, c_in, width, make, stride=1):
        super().__init__()
        # The middle channels are those of the block's first convolution, in both.
        middle = c_in * width * 3 * 3 * 3 // (c_in * 3 * 3 + 3 * width)
        self.conv1 = nn.Sequential(
            make(c_in, width, middle, stride), nn.BatchNorm3d(width), nn.ReLU()
        )
        self.conv2 = nn.Sequential(make(width, width, middle), nn.BatchNorm3d(width))
        self.downsample = None
        if stride != 1 or c_in != width:
            strides = (1, stride, stride) if make is without_time else stride
            projection = nn.Conv3d(c_in, width, 1, strides, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm3d(width))

    def forward(self, x):
        skip = x if self.downsample is None else self.downsample(x)
        return torch.relu(self.conv2(self.conv1(x)) + skip)


class VideoResNet(nn.Module):
    """`makers` has the convolution of each stage."""

    def __init__(self, makers, factored_stem=False, blocks=(2, 2, 2, 2), width=64, classes=400):
        super().__init__()
        middle = int(width * 45 / 64)
        if factored_stem:
            self.stem = nn.Sequential(
                nn.Conv3d(3, middle, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
                *(nn.BatchNorm3d(middle), nn.ReLU()),
                nn.Conv3d(middle, width, (3, 1, 1), 1, (1, 0, 0), bias=False),
                *(nn.BatchNorm3d(width), nn.ReLU()),
            )
        else:
            conv = nn.Conv3d(3, width, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
            self.stem = nn.Sequential(conv, nn.BatchNorm3d(width), nn.ReLU())
        self.depth, c_in = len(blocks), width
        for i, (make, depth) in enumerate(zip(makers, blocks, strict=True)):
            stage, c_out = [], width * 2**i
            for number in range(depth):
                stride = 2 if i > 0 and number == 0 else 1
                stage.append(VideoBlock(c_in, c_out, make, stride))
                c_in = c_out
            setattr(self, f'layer{i + 1}', nn.Sequential(*stage))
        self.fc = nn.Linear(c_in, classes)

    def features(self, x):
        found = {'stem': self.stem(x)}
        x = found['stem']
        for i in range(1, self.depth + 1):
            x = found[f'stage{i}'] = getattr(self, f'layer{i}')(x)
        return {**found, 'pooled': x.mean((2, 3, 4))}

    def forward(self, x):
        return self.fc(self.features(x)['pooled'])


def conv_norm(c_in, c_out, size, stride=1, groups=1):
    conv = nn.Conv2d(c_in, c_out, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU6())


class InvertedResidual(nn.Module):
    """arXiv 1801.04381, table 1 and figure 4d."""

    def __init__(self, c_in, c_out, stride, ratio):
        super().__init__()
        hidden = round(c_in * ratio)
        self.adds = stride == 1 and c_in == c_out
        self.conv = nn.Sequential(
            *([] if ratio == 1 else [conv_norm(c_in, hidden, 1)]),
            conv_norm(hidden, hidden, 3, stride, hidden),
            nn.Conv2d(hidden, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


TABLE_2 = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)


class MobileNetV2(nn.Module):
    """`settings` has (expansion, channels, blocks, stride) of each stage."""

    def __init__(self, settings=TABLE_2, stem=32, last=1280, classes=1000):
        super().__init__()
        layers, c_in, self.ends = [conv_norm(3, stem, 3, 2)], stem, []
        for ratio, c_out, depth, stride in settings:
            for number in range(depth):
                layers.append(InvertedResidual(c_in, c_out, stride if number == 0 else 1, ratio))
                c_in = c_out
            self.ends.append(len(layers))
        layers.append(conv_norm(c_in, last, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def maps(self, x):
        x, found, begin = self.features[0](x), {}, 1
        found['stem'] = x
        for i, end in enumerate(self.ends, 1):
            x = found[f'stage{i}'] = self.features[begin:end](x)
            begin = end
        return {**found, 'pooled': self.features[-1](x).mean((2, 3))}

    def forward(self, x):
        return self.classifier(self.maps(x)['pooled'])


FULL = {
    'r3d_18': lambda: VideoResNet([full] * 4),
    'mc3_18': lambda: VideoResNet([full, *[without_time] * 3]),
    'r2plus1d_18': lambda: VideoResNet([space_time] * 4, True),
    'mobilenet_v2': MobileNetV2,
}
_TINY = {'blocks': (2, 1, 1), 'width': 8, 'classes': 5}
_TINY_TABLE = ((1, 4, 1, 1), (6, 6, 2, 2), (3, 6, 2, 1))
TINY = {
    'r3d_18': lambda: VideoResNet([full] * 3, **_TINY),
    'mc3_18': lambda: VideoResNet([full, *[without_time] * 2], **_TINY),
    'r2plus1d_18': lambda: VideoResNet([space_time] * 3, True, **_TINY),
    'mobilenet_v2': lambda: MobileNetV2(_TINY_TABLE, 8, 12, 5),
}
_OURS = {'stage_sizes': (2, 1, 1), 'stem_width': 8, 'width': 8}
# What makes our nets the tiny ones.
OVERRIDES = {
    **dict.fromkeys(('r3d_18', 'r2plus1d_18'), _OURS),
    'mc3_18': {**_OURS, 'stage_designs': ('stage[23]/convolution=spatial',)},
    'mobilenet_v2': {
        'stage_sizes': (1, 2, 2),
        'stem_width': 8,
        'stage_widths': (4, 6, 6),
        'stage_strides': (1, 2, 1),
        'last_width': 12,
        'stage_designs': (
            *('stage1/kernels=3,1', 'stage1/stride_at=0', 'stage1/inner_ratio=1'),
            'stage3/inner_ratio=3',
        ),
    },
}


@torch.no_grad()
def randomise(net, images):
    """Random scales, biases and statistics, so that no norm is an identity."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.weight.uniform_(0.5, 1.5, generator=generator)
            module.bias.uniform_(-0.5, 0.5, generator=generator)
    net.train()
    for _ in range(3):
        net(images + 0.5 * torch.randn(images.shape, generator=generator, dtype=images.dtype))
    return net.eval()
