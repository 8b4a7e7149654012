"""What others would run instead: plain Flax, dm-haiku's own nets, PyTorch.

The Flax net is he2015's in the manner of flax/examples/imagenet, with PyTorch's padding, so that it
computes exactly what ours does; tests/test_benchmarks.py copies our weights into it and compares.
"""

import functools
import sys
from typing import Any

import flax.linen as nn
import harness
import jax.numpy as jnp

HE_NORMAL = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
# Our names -> blocks in each stage, whether they are bottlenecks, whether it is a CIFAR net.
NETS = {
    'resnet18': ((2, 2, 2, 2), False, False),
    'resnet34': ((3, 4, 6, 3), False, False),
    'resnet50': ((3, 4, 6, 3), True, False),
    'resnet101': ((3, 4, 23, 3), True, False),
    **{
        f'cifar_resnet{depth}': ((depth // 6,) * 3, False, True)
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
}


class Block(nn.Module):
    """he2015, figure 5: two 3x3, or a bottleneck with its stride on the 3x3."""

    width: int
    stride: int
    bottleneck: bool
    option_a: bool
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x):
        """Maps [N, H, W, C] to [N, h, w, width], four times the width for a bottleneck."""
        out = self.width * (4 if self.bottleneck else 1)
        y = x
        if self.bottleneck:
            y = nn.relu(self.norm()(self.conv(self.width, 1)(y)))
        y = nn.relu(self.norm()(self.conv(self.width, 3, self.stride)(y)))
        y = self.norm()(self.conv(out, 1 if self.bottleneck else 3)(y))
        if x.shape != y.shape and self.option_a:
            extra = (out - x.shape[-1]) // 2
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (extra, extra)))
        elif x.shape != y.shape:
            x = self.norm()(self.conv(out, 1, self.stride)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Plain Flax: what a user would write in an afternoon."""

    blocks: tuple[int, ...]
    bottleneck: bool
    cifar: bool
    classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        """[N, H, W, C] to float32 logits [N, classes]."""

        def conv(features, size, stride=1):
            return nn.Conv(
                features,
                (size, size),
                (stride, stride),
                padding=size // 2,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=HE_NORMAL,
            )

        norm = functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
        )
        width = 16 if self.cifar else 64
        x = conv(width, 3)(x) if self.cifar else conv(width, 7, 2)(x)
        x = nn.relu(norm()(x))
        if not self.cifar:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, depth in enumerate(self.blocks):
            for number in range(depth):
                stride = 2 if stage > 0 and number == 0 else 1
                x = Block(width * 2**stage, stride, self.bottleneck, self.cifar, conv, norm)(x)
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return nn.Dense(self.classes)(x)


def flax_net(name: str, classes: int, dtype: Any = jnp.float32) -> ResNet:
    """The plain Flax net of one of our names."""
    return ResNet(*NETS[name], classes=classes, dtype=dtype)


def haiku_net(name: str, classes: int) -> Any:
    """dm-haiku's net as (init, apply): the same layers; its padding is SAME.

    Raises:
      KeyError: for a net that it does not have.
    """
    import haiku as hk

    net = {'resnet18': hk.nets.ResNet18, 'resnet50': hk.nets.ResNet50}[name]
    return hk.transform_with_state(lambda images, train: net(classes)(images, is_training=train))


def torch_net(name: str, classes: int) -> Any:
    """From torchvision where that is installed and has the net, else tests/torch_models.py."""
    import torch

    sys.path.insert(0, str(harness.ROOT / 'tests'))
    import torch_models

    torch.set_num_threads(harness.cpus())  # which torch_models has set to one
    try:
        from torchvision import models
    except (ImportError, RuntimeError):  # absent, or built for another PyTorch than there is
        models = None
    if hasattr(models, name):
        return getattr(models, name)(num_classes=classes)
    if name.startswith('cifar_resnet'):
        return torch_models.CifarResNet(torch_models.OPTION_A, NETS[name][0], classes=classes)
    return torch_models.NETS[name](classes=classes)
