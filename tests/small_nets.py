"""Small nets of every kind, for what transforms or exports networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from random_models import fast_jit, random_variables

from resnet_jax import create_model

SMALL = {'stage_sizes': (1, 1), 'stem_width': 4, 'width': 4}
# Name of a small net -> (registered model, overrides, norms that no convolution takes).
NETS = {
    'basic': ('cifar_resnet8', {}, 0),
    'plain': ('cifar_plain20', {}, 0),
    'bottleneck': ('resnet50', {}, 0),
    'deep stem': ('resnet50d', {}, 0),
    'blur': ('resnetblur50', {}, 0),
    'blur behind the last convolution': (
        'cifar_resnet8',
        {'downsample': 'blur', 'stride_at': 1, 'shortcut': 'projection'},
        0,
    ),
    'relu_only_preact': ('cifar_resnet8', {'placement': 'relu_only_preact'}, 0),
    'relu_before_add': ('cifar_resnet8', {'placement': 'relu_before_add'}, 0),
    'bn_after_add': ('cifar_resnet8', {'placement': 'bn_after_add'}, 2),
    'full_preact': ('preact_resnet50', {}, 3),
    'se': ('se_resnet18', {}, 0),
    'eca': ('ecaresnet50d', {}, 0),
    'groups': ('resnext50_32x4d', {'groups': 2, 'base_width': 32}, 0),
    'standardised': ('cifar_resnet8', {'weight_standardization': True}, 0),
    'gated': ('cifar_resnet8', {'weight_standardization': True, 'gate': 'exclusive'}, 0),
    'bit': ('bit_resnet50x1', {'norm_groups': 2}, 7),
    'group norm': ('cifar_resnet8', {'norm': 'group', 'norm_groups': 2}, 5),
    'fixup': ('cifar_resnet8', {'norm': 'none', 'init_scheme': 'fixup'}, 0),
    'zero at start': ('cifar_resnet8', {'zero_init_last': True}, 0),
    'ghost': ('cifar_resnet8', {'ghost_batch': 2}, 0),
    'gated shortcut': ('cifar_resnet8', {'gate': 'shortcut_only', 'shortcut': 'projection'}, 0),
    'constant factors': ('cifar_resnet8', {'shortcut_scale': 0.5, 'branch_scale': 0.3}, 0),
    'learnt factors': (
        'cifar_resnet8', {'learn_shortcut_scale': True, 'learn_branch_scale': True}, 0
    ),
    'conv1x1': ('cifar_resnet8', {'shortcut': 'conv1x1'}, 0),
    'raw first shortcut': ('resnetv2_18', {}, 3),
    'average in both paths': ('resnetaa50d', {}, 0),
    'se before': ('cifar_resnet8', {'se_ratio': 0.25, 'se_place': 'pre'}, 0),
    'se after': ('cifar_resnet8', {'se_ratio': 0.25, 'se_place': 'post'}, 0),
    'se of the shortcut': ('cifar_resnet8', {'se_ratio': 0.25, 'se_place': 'identity'}, 0),
    'layer norm': ('cifar_resnet8', {'norm': 'layer'}, 5),
    'no norm': ('cifar_resnet8', {'norm': 'none'}, 0),
    'preactivated fixup': (
        'cifar_preact_resnet20', {'norm': 'none', 'init_scheme': 'fixup'}, 0
    ),
    'dilated': ('resnet18', {'output_stride': 4}, 0),
    'gelu': ('cifar_resnet8', {'activation': 'gelu'}, 0),
    'silu': ('cifar_resnet8', {'activation': 'silu'}, 0),
    'elu': ('cifar_resnet8', {'activation': 'elu'}, 0),
    'relu6': ('cifar_resnet8', {'activation': 'relu6'}, 0),
    'leaky_relu': ('cifar_resnet8', {'activation': 'leaky_relu'}, 0),
    'series': ('resnet50d', {'dimensions': 1}, 0),
    'volume': ('cifar_resnet8', {'dimensions': 3}, 0),
    'r2plus1d': ('r2plus1d_18', {}, 0),
    'mc3': ('mc3_18', {'stage_designs': ('stage2/convolution=spatial',)}, 0),
    'mobile': (
        'mobilenet_v2',
        {
            'stage_sizes': (1, 2),
            'stage_widths': (4, 6),
            'stage_strides': (1, 2),
            'last_width': 5,
        },
        0,
    ),
    'shuffle': ('shuffle_resnet50_g3', {'pointwise_groups': 2}, 0),
    'separable': ('cifar_resnet8', {'convolution': 'separable', 'shortcut': 'projection'}, 0),
}  # fmt: skip


@functools.cache
def net(name):
    """A small net that computes in float64, its variables, images, and their logits."""
    registered, fields, _ = NETS[name]
    model = create_model(registered, 3, jnp.float64, **{**SMALL, **fields})
    images = np.random.default_rng(0).normal(size=(3, *(9,) * model.dimensions, 3))
    variables = random_variables(model.clone(dtype=jnp.float32), images.shape)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), variables)
        return model, wide, images, logits_of(model, wide, images)


def logits_of(model, variables, images):
    """In float64; Flax's pools and norms mix it with other types."""
    with jax.numpy_dtype_promotion('standard'):
        run = fast_jit(lambda v, x: model.apply(v, x, train=False))
        return np.asarray(run(variables, images))
