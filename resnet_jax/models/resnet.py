"""Residual networks: a stem, stages of blocks, and a head.

A model is a pure function of (variables, images); see `ResNet` for the shapes. Sources: he2015 is
arXiv 1512.03385, he2016 is arXiv 1603.05027.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.errors import InputError, unknown_name
from resnet_jax.models import layers
from resnet_jax.models.convolution import convolution
from resnet_jax.models.design import ACTIVATIONS, BASIC, BlockDesign, kind_of, operations
from resnet_jax.models.norms import make_norm
from resnet_jax.models.stages import Stage, plan_stages
from resnet_jax.models.stem import STEMS, Stem

Array = jax.Array


class ResNet(nn.Module):
    """A residual network, he2015 and he2016, and what came after.

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
      width: of the first stage's blocks; each stage doubles it.
      dimensions: of space: 1 (series), 2 (images) or 3 (video).
      output_stride: largest reduction of resolution; later stages dilate their convolutions instead
        of striding (arXiv 1606.00915). 0: no limit.
      norm: a key of `NORMS`.
      norm_groups: of group norm.
      ghost_batch: examples that batch norm takes together; 0: the whole batch.
      bn_axis_name: name of the mapped axis that batch norm averages over; None: each replica alone.
      bn_momentum: in Flax's convention, running = momentum * running + (1 - momentum) * batch;
        PyTorch's momentum 0.1 is 0.9 here. Running variances take the biased batch variance.
      bn_epsilon: added to the variance, of every norm.
      weight_standardization: standardise the weights of the convolutions (arXiv 1903.10520).
      init_scheme: a key of `INITIALISERS`: 'he_fan_out', 'he_fan_in', or 'fixup' (arXiv
        1901.09321; with norm='none').
      dropout: rate of dropout before the head.
      stochastic_depth: rate at which the last block's branch is dropped (arXiv 1603.09382).
      stochastic_depth_decay: 'linear' (from 0 before the first block) or 'constant'.
      scan_blocks: run the equal blocks of a stage as one scanned block: the same function, compiled
        in a fraction of the time; parameters are stacked (see `stages.stack_blocks`).
      remat: keep only each block's input for the backward pass and compute its inside again there
        (arXiv 1604.06174): the same values for less memory and one more forward pass. On a CPU,
        jit with `training.compilation.CPU_OPTIONS`, or use scan_blocks too.
      dtype: of the computation. Parameters, batch statistics and logits are float32 all the same
        (float64 logits for a float64 model).
    """

    stage_sizes: tuple[int, ...]
    block: BlockDesign = BASIC
    num_classes: int = 1000
    stem: str = 'imagenet'
    stem_width: int = 64
    width: int = 64
    dimensions: int = 2
    output_stride: int = 0
    norm: str = 'batch'
    norm_groups: int = 8
    ghost_batch: int = 0
    bn_axis_name: str | None = None
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    weight_standardization: bool = False
    init_scheme: str = 'he_fan_out'
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    stochastic_depth_decay: str = 'linear'
    scan_blocks: bool = False
    remat: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if self.stem not in STEMS:
            raise unknown_name('stem', self.stem, STEMS)
        if self.stochastic_depth_decay not in ('linear', 'constant'):
            known = ('linear', 'constant')
            raise unknown_name('stochastic_depth_decay', self.stochastic_depth_decay, known)
        if self.dimensions not in (1, 2, 3):
            raise InputError(f'dimensions must be 1, 2 or 3, got {self.dimensions}')
        for field in ('dropout', 'stochastic_depth'):
            if not 0 <= getattr(self, field) < 1:
                raise InputError(f'{field} must be in [0, 1), got {getattr(self, field)}')
        if self.fixup and self.norm != 'none':
            raise InputError(
                f"init_scheme='fixup' replaces norms: set norm='none', not {self.norm!r}"
            )
        super().__post_init__()

    @property
    def fixup(self) -> bool:
        """Whether the net is initialised by Fixup."""
        return self.init_scheme == 'fixup'

    @property
    def _output_dtype(self) -> Any:
        return jnp.float64 if self.dtype == jnp.float64 else jnp.float32

    def __call__(self, images: Array, train: bool) -> Array:
        """Logits.

        Args:
          images: [N, H, W, C], normalised floats ([N, L, C] and [N, D, H, W, C] in 1-D and 3-D).
          train: whether to use and update batch statistics, and to drop out; what drops needs an
            rng named `dropout`.

        Returns:
          [N, num_classes], float32.
        """
        return self._run(images, train, True)['logits']

    def features(self, images: Array, train: bool) -> dict[str, Array]:
        """Named features: 'stem', 'stage1', ..., 'stageK' ([N, h, w, c] in the computing dtype)
        and 'pooled' ([N, c], float32), what the head sees.

        The stages of a pre-activation net are the sums, before the norm that would follow.
        """
        return self._run(images, train, False)

    def feature_shapes(self, image_size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The shapes of `features` for one image, without running anything.

        Args:
          image_size: spatial sizes, e.g. (224, 224).

        Returns:
          {'stem': (h, w, c), 'stage1': ..., 'pooled': (c,)}.
        """
        convolutions, pool = STEMS[self.stem]
        sizes = image_size
        for stride in [*(stride for _, stride, _ in convolutions), 2 if pool else 1]:
            sizes = tuple(-(-size // stride) for size in sizes)
        shapes: dict[str, tuple[int, ...]] = {'stem': (*sizes, self.stem_width)}
        channels = self.stem_width
        for i, stage in enumerate(self._plan()):
            sizes = tuple(-(-size // stage.stride) for size in sizes)
            channels = stage.width * self.block.expansion
            shapes[f'stage{i + 1}'] = (*sizes, channels)
        return {**shapes, 'pooled': (channels,)}

    def _plan(self) -> Any:
        convolutions, pool = STEMS[self.stem]
        reduction = 2 if pool else 1
        for _, stride, _ in convolutions:
            reduction *= stride
        rate = self.stochastic_depth
        return plan_stages(
            self.stage_sizes,
            width=self.width,
            reduction=reduction,
            output_stride=self.output_stride,
            drop_rate=rate,
            constant_rate=self.stochastic_depth_decay == 'constant',
        )

    @nn.compact
    def _run(self, images: Array, train: bool, with_head: bool) -> dict[str, Array]:
        self._check(images)
        conv = functools.partial(
            convolution,
            dimensions=self.dimensions,
            init=self.init_scheme,
            standardize=self.weight_standardization,
            dtype=self.dtype,
        )
        norm = make_norm(
            self.norm,
            momentum=self.bn_momentum,
            epsilon=self.bn_epsilon,
            groups=self.norm_groups,
            ghost_batch=self.ghost_batch,
            axis_name=self.bn_axis_name,
            dtype=self.dtype,
        )
        ops = operations(self.block, self.fixup)
        activation = ACTIVATIONS[self.block.activation]
        between = ('bias', 'act') if self.fixup else ('norm', 'act')
        before = [kind_of(name) for name in ops.before]
        x = Stem(
            kind=self.stem,
            width=self.stem_width,
            # Without what the first block does before it splits into branch and shortcut.
            ops=tuple(op for op in between if op not in before),
            inner_ops=between,
            activation=self.block.activation,
            conv=conv,
            norm=norm,
            name='stem',
        )(images, train)
        features = {'stem': x}
        for i, plan in enumerate(self._plan()):
            x = Stage(
                design=self.block,
                plan=plan,
                fixup=self._fixup_factor(),
                scan=self.scan_blocks,
                remat=self.remat,
                conv=conv,
                norm=norm,
                dtype=self.dtype,
                name=f'stage{i + 1}',
            )(x, train)
            features[f'stage{i + 1}'] = x
        for op in before:  # he2016, appendix: once more after the last addition
            if op == 'norm':
                x = norm(train, 'final_norm')(x)
            elif op == 'bias':
                x = layers.Bias(name='final_bias')(x)
            else:
                x = activation(x)
        x = jnp.mean(x.astype(self._output_dtype), axis=tuple(range(1, x.ndim - 1)))
        features['pooled'] = x
        if with_head:
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            features['logits'] = self._head(x)
        return features

    def _check(self, images: Array) -> None:
        if images.ndim != self.dimensions + 2 or not jnp.issubdtype(images.dtype, jnp.floating):
            letters = ('L', 'H, W', 'D, H, W')[self.dimensions - 1]
            raise InputError(
                f'images must be normalised floats of shape [N, {letters}, C], '
                f'got {images.dtype}{list(images.shape)}'
            )

    @nn.nowrap
    def _head(self, x: Array) -> Array:
        init: dict[str, Any] = {}
        if self.fixup:
            x, init = layers.Bias(name='head_bias')(x), {'kernel_init': nn.initializers.zeros}
        return nn.Dense(self.num_classes, dtype=self._output_dtype, name='head', **init)(x)

    def _fixup_factor(self) -> float:
        """Fixup, section 3: L^(-1 / (2m - 2)) scales the inner weights of branches of m layers."""
        layers_in_branch = len(self.block.kernels)
        if not self.fixup or layers_in_branch == 1:
            return float(self.fixup)
        return float(sum(self.stage_sizes) ** (-1 / (2 * layers_in_branch - 2)))
