"""Residual networks: a stem, stages of blocks, and a head.

A model is a pure function of (variables, images); see `ResNet` for the shapes. Sources: he2015 is
arXiv 1512.03385, he2016 is arXiv 1603.05027.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.models.blocks import (
    ACTIVATIONS,
    BASIC,
    BlockDesign,
    MakeModule,
    ResidualBlock,
    operations,
)
from resnet_jax.models.convolution import convolution
from resnet_jax.models.errors import InputError, unknown_name

Array = jax.Array

# kernel, stride, whether a 3x3/2 max-pool follows.
STEMS = {
    'imagenet': (7, 2, True),  # he2015, table 1
    'cifar': (3, 1, False),  # he2015, section 4.2
}


class Stem(nn.Module):
    """The first convolution, and for ImageNet a max-pool. Paths: `conv1`, `norm1`.

    Attributes:
      kind: a key of `STEMS`.
      width: output channels.
      ops: what follows the convolution.
      activation: a key of `ACTIVATIONS`.
      conv, norm: make a convolution and a norm.
    """

    kind: str
    width: int
    ops: tuple[str, ...]
    activation: str
    conv: MakeModule
    norm: MakeModule

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, H', W', width], H' about H / 4 for ImageNet, H for CIFAR."""
        kernel, stride, pool = STEMS[self.kind]
        x = self.conv(features=self.width, kernel_size=kernel, strides=stride, name='conv1')(x)
        if 'norm' in self.ops:
            x = self.norm(use_running_average=not train, name='norm1')(x)
        if 'act' in self.ops:
            x = ACTIVATIONS[self.activation](x)
        if pool:
            # An explicit pad, because converters drop the padding argument of a pooling; -inf,
            # because x is not activated in pre-activation nets.
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
            x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding='VALID')
        return x


class Stage(nn.Module):
    """Blocks of one width; the first one carries the stride. Paths: `block1`, `block2`, ...

    Attributes:
      design: the block.
      blocks: how many.
      width: channels of the blocks' inner convolutions.
      stride: of the first block.
      first: whether this is the network's first stage.
      conv, norm: make a convolution and a norm.
    """

    design: BlockDesign
    blocks: int
    width: int
    stride: int
    first: bool
    conv: MakeModule
    norm: MakeModule

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps [N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), width * expansion]."""
        for i in range(self.blocks):
            x = ResidualBlock(
                design=self.design,
                width=self.width,
                stride=self.stride if i == 0 else 1,
                first=self.first and i == 0,
                conv=self.conv,
                norm=self.norm,
                name=f'block{i + 1}',
            )(x, train)
        return x


class ResNet(nn.Module):
    """A residual network, he2015 and he2016.

    `init(key, images, train=False)` gives the collections `params` and `batch_stats`;
    `apply(variables, images, train=False)` the logits; `method='features'` the named features.
    Parameter paths: `stem/conv1`, `stage1/block1/conv1`, `final_norm`, `head`, and as
    `ResidualBlock` says.

    Attributes:
      stage_sizes: number of blocks in each stage.
      block: the block design.
      num_classes: number of logits.
      stem: a key of `STEMS`.
      stem_width: channels of the stem.
      width: channels of the first stage's inner convolutions; each stage doubles it.
      dropout: rate of dropout before the head; needs an rng named `dropout` when training.
      bn_momentum: in Flax's convention, running = momentum * running + (1 - momentum) * batch;
        PyTorch's momentum 0.1 is 0.9 here. Running variances take the biased batch variance.
      bn_epsilon: added to the variance.
      dtype: of the computation. Parameters, batch statistics and logits are float32 all the same
        (float64 logits for a float64 model).
    """

    stage_sizes: tuple[int, ...]
    block: BlockDesign = BASIC
    num_classes: int = 1000
    stem: str = 'imagenet'
    stem_width: int = 64
    width: int = 64
    dropout: float = 0.0
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes the parts; the convolution and norm partials are made once, here."""
        if self.stem not in STEMS:
            raise unknown_name('stem', self.stem, STEMS)
        conv = functools.partial(convolution, dtype=self.dtype)
        norm = functools.partial(
            nn.BatchNorm, momentum=self.bn_momentum, epsilon=self.bn_epsilon, dtype=self.dtype
        )
        ops = operations(self.block)
        # The stem leaves out what the first block does before it splits into branch and shortcut.
        stem_ops = tuple(op for op in ('norm', 'act') if op not in ops.before)
        self.stem_part = Stem(
            kind=self.stem,
            width=self.stem_width,
            ops=stem_ops,
            activation=self.block.activation,
            conv=conv,
            norm=norm,
            name='stem',
        )
        self.stages = [
            Stage(
                design=self.block,
                blocks=blocks,
                width=self.width * 2**i,
                stride=1 if i == 0 else 2,
                first=i == 0,
                conv=conv,
                norm=norm,
                name=f'stage{i + 1}',
            )
            for i, blocks in enumerate(self.stage_sizes)
        ]
        if 'norm' in ops.before:
            self.final_norm = norm()
        self.head_dropout = nn.Dropout(self.dropout)
        self.head = nn.Dense(self.num_classes, dtype=self._output_dtype)

    @property
    def _output_dtype(self) -> Any:
        return jnp.float64 if self.dtype == jnp.float64 else jnp.float32

    def __call__(self, images: Array, train: bool) -> Array:
        """Logits.

        Args:
          images: [N, H, W, C], normalised floats.
          train: whether to use and update batch statistics, and to drop out.

        Returns:
          [N, num_classes], float32.
        """
        pooled = self.features(images, train)['pooled']
        return self.head(self.head_dropout(pooled, deterministic=not train))

    def features(self, images: Array, train: bool) -> dict[str, Array]:
        """Named features: 'stem', 'stage1', ..., 'stageK' ([N, h, w, c] in the computing dtype)
        and 'pooled' ([N, c], float32), what the head sees.

        The stages of a pre-activation net are the sums, before the norm that would follow.
        """
        if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
            raise InputError(
                'images must be normalised floats of shape [N, H, W, C], '
                f'got {images.dtype}{list(images.shape)}'
            )
        x = self.stem_part(images, train)
        features = {'stem': x}
        for i, stage in enumerate(self.stages):
            x = stage(x, train)
            features[f'stage{i + 1}'] = x
        for op in operations(self.block).before:  # he2016, appendix: after the last addition
            if op == 'norm':
                x = self.final_norm(x, use_running_average=not train)
            else:
                x = ACTIVATIONS[self.block.activation](x)
        x = x.astype(self._output_dtype)
        features['pooled'] = jnp.mean(x, axis=(1, 2))
        return features
