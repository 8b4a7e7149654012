"""Residual networks: a stem, stages of blocks, and a head.

A model is a pure function of (variables, images); see `ResNet`. Sources: he2015 is arXiv
1512.03385, he2016 is arXiv 1603.05027.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.errors import InputError
from resnet_jax.models import layers
from resnet_jax.models.block import (
    Context,
    Operation,
    Operations,
    apply_operations,
    pair_up,
    spell_out,
)
from resnet_jax.models.convolution import (
    MakeConv,
    convolution,
    initialiser,
)
from resnet_jax.models.design import BASIC, BlockDesign
from resnet_jax.models.feature_info import Feature, check_images, feature_sizes
from resnet_jax.models.network_checks import check_network
from resnet_jax.models.norms import MakeNorm, make_norm
from resnet_jax.models.quantized import INPUT, QuantizedInput, quantized_dot
from resnet_jax.models.single_layers import SingleLayers, all_equal
from resnet_jax.models.stage_designs import stage_designs
from resnet_jax.models.stages import (
    Stage,
    StagePlan,
    fixup_factor,
    plan_layers,
    plan_stages,
)
from resnet_jax.models.stem import STEMS, Stem


class ResNet(nn.Module):
    """A residual network of he2015, he2016 or one of their successors.

    `init(key, images, train=False)` returns the collections `params` and `batch_stats`;
    `apply(variables, images, train=False)` returns logits, with `method='features'` the feature
    maps by name. Parameter paths: `stem/conv1`, `stage1/block1/conv1`, `final_norm`, `head`; those
    inside a block are listed in `ResidualBlock`.

    Attributes:
      stage_sizes: number of blocks in each stage.
      block: the block design.
      num_classes: number of logits.
      stem: a key of `STEMS`.
      stem_width: output channels of the stem; without a stem, those that the images have.
      width: width of the first stage's blocks; each stage doubles it.
      stage_widths: the width of each stage, where they do not double.
      stage_strides: the stride of each stage, where they are not 1, 2, 2, ...
      stage_designs: what differs in the blocks of single stages, see `stage_designs`.
      vocabulary: how many whole numbers, from 0, the stem 'embedding' takes.
      last_width: output channels of a 1x1 convolution between the last stage and the pool, with
        norm and activation (arXiv 1801.04381, table 2); 0: there is none.
      dimensions: number of spatial dimensions: 1 (series), 2 (images) or 3 (video).
      output_stride: upper limit of the reduction of resolution; stages that would exceed it dilate
        their convolutions instead of striding (arXiv 1606.00915). 0: no limit.
      norm: a key of `NORMS`.
      norm_groups: number of channel groups of group norm.
      ghost_batch: number of examples that batch norm normalises together; 0: the whole batch.
      bn_axis_name: name of the mapped axis over which batch norm averages its statistics; None:
        each replica uses its own.
      bn_momentum: Flax's convention, running = momentum * running + (1 - momentum) * batch;
        PyTorch's momentum 0.1 is 0.9 here. Running variances use the biased batch variance.
      bn_epsilon: added to the variance in norms of every kind.
      weight_standardization: whether to standardise the convolutions' weights (arXiv 1903.10520).
      standardized_to: a key of `STANDARDIZATIONS`: the variance that it gives them.
      zero_init_head: whether the head starts at zero, so that all classes begin equally likely
        (arXiv 1912.11370, for fine-tuning); also those of a dense network.
      conv_bias: whether all convolutions add a bias, also those that a norm follows.
      init_scheme: a key of `INITIALISERS`: 'he_fan_out', 'he_fan_in', 'glorot_uniform', or 'fixup'
        (arXiv 1901.09321; with norm='none').
      dropout: rate of dropout before the head.
      stochastic_depth: probability that the last block drops its branch (arXiv 1603.09382).
      stochastic_depth_decay: probability for the earlier blocks: 'linear' (growing from 0 before
        the first block) or 'constant'.
      scan_blocks: whether to run the equal blocks of a stage as a scan: the same function, compiled
        in a fraction of the time; parameters are stacked (see `stages.stack_blocks`).
      remat: whether to keep only each block's input for the backward pass and recompute the rest
        there (arXiv 1604.06174): the same values for less memory and one more forward pass. On a
        CPU, also set scan_blocks or pass `models.cpu.compiler.compiler_options()` to `jax.jit`.
      inner_channels: output channels of single convolutions inside the branches, where they are not
        the design's: texts such as 'stage1/block2=12' and 'stage3/*/conv1=48' (`single_layers`).
      ranks: single convolutions that are products of thinner ones, see `Factored`: texts such as
        'stage3/block1/conv1=16x24', for a 1x1 convolution 'stage3/block1/conv3=16'.
      weight_bits: bits of all convolutions' and the head's weights, which are then quantised in the
        forward pass (`models.quantized`); 0: floats.
      activation_bits: bits of the inputs of quantised layers; 0: floats.
      layer_bits: bits of single layers' weights, where not weight_bits: texts such as 'head=8'; 0
        leaves a layer's weights and input floats.
      dtype: of the computation. Parameters, batch statistics and logits are always float32 (except
        for the float64 logits of a float64 model).
    """

    stage_sizes: tuple[int, ...]
    block: BlockDesign = BASIC
    num_classes: int = 1000
    stem: str = 'imagenet'
    stem_width: int = 64
    width: int = 64
    stage_widths: tuple[int, ...] = ()
    stage_strides: tuple[int, ...] = ()
    stage_designs: tuple[str, ...] = ()
    vocabulary: int = 256
    last_width: int = 0
    dimensions: int = 2
    output_stride: int = 0
    norm: str = 'batch'
    norm_groups: int = 8
    ghost_batch: int = 0
    bn_axis_name: str | None = None
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    weight_standardization: bool = False
    standardized_to: str = 'fan_in'
    zero_init_head: bool = False
    conv_bias: bool = False
    init_scheme: str = 'he_fan_out'
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    stochastic_depth_decay: str = 'linear'
    scan_blocks: bool = False
    remat: bool = False
    inner_channels: tuple[str, ...] = ()
    ranks: tuple[str, ...] = ()
    weight_bits: int = 0
    activation_bits: int = 0
    layer_bits: tuple[str, ...] = ()
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_network(self)

    @property
    def scannable(self) -> bool:
        """Whether the blocks after the first of each stage are equal, as a scan needs them."""
        return all_equal(self.single_layers(), self.stage_sizes)

    @nn.nowrap
    def single_layers(self) -> SingleLayers:
        """The values of single layers, by path."""
        given = self.inner_channels, self.ranks, self.layer_bits
        stem = len(STEMS[self.stem].convolutions)
        return plan_layers(*given, self.plans(), self.stem_width, stem)

    @property
    def fixup(self) -> bool:
        """Whether Fixup initialises the network, which then has no norms."""
        return self.init_scheme == 'fixup'

    @property
    def input_dtype(self) -> Any:
        """Of what it takes: float32, or int32 for the stem 'embedding'."""
        return STEMS[self.stem].input_dtype

    @property
    def output_dtype(self) -> Any:
        """Of the logits."""
        return jnp.float64 if self.dtype == jnp.float64 else jnp.float32

    @nn.nowrap
    def unrolled(self) -> 'ResNet':
        """The same function with every block by its own name: not scanned, nothing recomputed."""
        return self.clone(scan_blocks=False, remat=False)

    def __call__(
        self, images: Float[Array, 'n *space c'], train: bool
    ) -> Float[Array, 'n num_classes']:
        """Logits of images.

        Args:
          images: normalised floats, [N, H, W, C] in two dimensions; [N, L] for an embedding.
          train: whether to use and update batch statistics, and to drop out; dropout and stochastic
            depth need an rng named `dropout`.

        Returns:
          Logits, float32.

        Raises:
          InputError: if the images have another type or number of dimensions.
        """
        return self._run(images, train)['logits']

    def features(
        self, images: Float[Array, 'n *space c'], train: bool
    ) -> dict[str, Float[Array, 'n ...']]:
        """Features by name, for the same arguments.

        Returns:
          'stem', 'stage1', ..., 'stageK': feature maps in the computing dtype, with the sizes of
          `feature_info`. 'pooled': [N, channels], float32, the head's input. The stages of a
          pre-activation net are the sums, before the norm that would follow.
        """
        return self._run(images, train, with_head=False)

    def outputs(
        self, images: Float[Array, 'n *space c'], train: bool
    ) -> dict[str, Float[Array, 'n ...']]:
        """Features and 'logits' by name, for the same arguments, in one pass."""
        return self._run(images, train)

    def feature_info(self, image_size: int | tuple[int, ...]) -> dict[str, Feature]:
        """The size, channels and reduction of each feature map, without running anything.

        Args:
          image_size: spatial sizes, such as (224, 224); one number if they are equal.

        Returns:
          Features by name: 'stem', 'stage1', ..., 'stageK'.

        Raises:
          InputError: for another number of sizes than the model has dimensions.
        """
        size = (image_size,) * self.dimensions if isinstance(image_size, int) else tuple(image_size)
        if len(size) != self.dimensions:
            raise InputError(
                f'image_size needs {self.dimensions} sizes for a model of {self.dimensions} '
                f'dimensions, got {size}'
            )
        return feature_sizes(STEMS[self.stem], self.stem_width, self.plans(), size)

    @nn.nowrap
    def plans(self) -> list[StagePlan]:
        """The layout of each stage."""
        return plan_stages(
            self.stage_sizes,
            width=self.width,
            reduction=STEMS[self.stem].reduction,
            output_stride=self.output_stride,
            drop_rate=self.stochastic_depth,
            constant_rate=self.stochastic_depth_decay == 'constant',
            designs=stage_designs(self.block, self.stage_designs, len(self.stage_sizes)),
            widths=self.stage_widths,
            strides=self.stage_strides,
        )

    def classify(
        self, x: Float[Array, 'n *space c'], train: bool = False
    ) -> Float[Array, 'n num_classes']:
        """Logits from the output of the last stage, for the same `train`: what follows it."""
        return self._run(x, train, from_images=False)['logits']

    @nn.compact
    def _run(
        self, x: Array, train: bool, with_head: bool = True, from_images: bool = True
    ) -> dict[str, Array]:
        conv, norm = self.makers()
        features = {}
        if from_images:
            check_images(x, self.dimensions, self.variables.get('params', {}), self.input_dtype)
            stem, stages = self.body()
            features['stem'] = x = stem(x, train)
            for i, stage in enumerate(stages, 1):
                features[f'stage{i}'] = x = stage(x, train)
        for prefix, operations, convs in self.tail():
            x = apply_operations(
                operations, x, Context(self.block, conv, norm, train, convs, prefix=prefix)
            )
        x = self.pool(x)
        features['pooled'] = x
        # Not a module's output, so capture_intermediates would miss it. Nothing happens without.
        self.sow('intermediates', 'pooled', x)
        if with_head:
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            features['logits'] = self._head(x)
        return features

    def pool(self, x: Float[Array, 'n *space c']) -> Float[Array, 'n c']:
        """The mean over space; a method of its own, so that an analysis can intercept it."""
        return jnp.mean(x.astype(self.output_dtype), axis=tuple(range(1, x.ndim - 1)))

    @nn.nowrap
    def tail(self) -> list[tuple[str, Operations, list[dict[str, Any]]]]:
        """What stands between the last stage and the pool.

        Returns:
          (what precedes the names of parameters, operations, arguments of their convolutions).
        """
        # he2016, appendix: what precedes each branch also follows the last addition.
        before, _, _ = spell_out(self.block, self.fixup)
        found: list[Any] = [('final_', tuple(Operation(op.kind) for op in before), [])]
        if self.last_width:
            operations = pair_up([Operation(kind) for kind in ('conv', 'norm', 'act')])
            found.append(('last_', operations, [{'features': self.last_width, 'kernel_size': 1}]))
        return found

    @nn.nowrap
    def body(self) -> tuple[Stem, list[Stage]]:
        """The stem and the stages, new modules: unbound outside of a call of this one."""
        conv, norm = self.makers()
        layers = self.single_layers()
        before, _, _ = spell_out(self.block, self.fixup)
        after_conv = ('bias', 'act') if self.fixup else ('norm', 'act')
        shared = {op.kind for op in before}
        stem = Stem(
            design=STEMS[self.stem],
            block=self.block,
            width=self.stem_width,
            # The first block begins with the others, before it splits into branch and shortcut.
            ops=tuple(kind for kind in after_conv if kind not in shared),
            inner_ops=after_conv,
            conv=layers.of_part('stem').maker(conv),
            norm=norm,
            vocabulary=self.vocabulary,
            dtype=self.dtype,
            name='stem',
        )
        stages = [
            Stage(
                plan=plan,
                fixup=fixup_factor(self.block, self.stage_sizes) if self.fixup else 0.0,
                scan=self.scan_blocks,
                remat=self.remat,
                conv=conv,
                norm=norm,
                dtype=self.dtype,
                layers=layers.of_blocks(f'stage{i}', len(plan.drop_rates)),
                name=f'stage{i}',
            )
            for i, plan in enumerate(self.plans(), 1)
        ]
        return stem, stages

    @nn.nowrap
    def makers(self) -> tuple[MakeConv, MakeNorm]:
        """The functions that make this network's convolutions and norms."""
        conv = functools.partial(
            convolution,
            dimensions=self.dimensions,
            init=self.init_scheme,
            standardize=self.standardized_to if self.weight_standardization else None,
            folded=self.norm == 'folded',
            use_bias=self.conv_bias,
            bits=self.weight_bits,
            input_bits=self.activation_bits,
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
        return conv, norm

    @nn.nowrap
    def _head(self, x: Array) -> Array:
        init: dict[str, Any] = {}
        if self.init_scheme == 'glorot_uniform':
            init = {'kernel_init': initialiser(self.init_scheme)}
        if self.fixup or self.zero_init_head:
            init = {'kernel_init': nn.initializers.zeros}
        if self.fixup:
            x = layers.Bias(name='head_bias')(x)
        if bits := self.single_layers().bits.get('head', self.weight_bits):
            init['dot_general'] = quantized_dot(bits)
            if self.activation_bits:
                x = QuantizedInput(self.activation_bits, name=f'head{INPUT}')(x)
        return nn.Dense(self.num_classes, dtype=self.output_dtype, name='head', **init)(x)
