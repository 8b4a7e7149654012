"""Batch norm folded into convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_models import random_variables

from resnet_jax import create_model
from resnet_jax.compress.fold import fold, unfolded
from resnet_jax.models.registry import fields_of
from resnet_jax.models.stages import stack_blocks

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
    'volume': ('cifar_resnet8', {'dimensions': 3}, 0),
}  # fmt: skip


def net(name, **others):
    """A small net, its variables and images, all in float64."""
    registered, fields, _ = NETS[name]
    model = create_model(registered, 3, jnp.float64, **{**SMALL, **fields, **others})
    images = np.random.default_rng(0).normal(size=(2, *(9,) * model.dimensions, 3))
    variables = random_variables(model.clone(dtype=jnp.float32), images.shape)
    wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), variables)
    return model, wide, jnp.asarray(images, jnp.float64)


@pytest.mark.parametrize('name', NETS)
def test_the_same_function_in_float64(name):
    with jax.enable_x64(True):
        model, variables, images = net(name)
        small, folded = fold(model, variables)
        expected = model.apply(variables, images, train=False)
        found = small.apply(folded, images, train=False)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)
        assert len(unfolded(small, folded)) == NETS[name][2]
        assert not folded['batch_stats'] and not small.weight_standardization
        shapes = jax.eval_shape(lambda: small.init(jax.random.key(0), images, train=False))
        assert jax.tree.map(jnp.shape, shapes['params']) == jax.tree.map(
            jnp.shape, folded['params']
        )


def test_the_folded_convolution_is_pytorchs():
    """torch.nn.utils.fusion on the stem's convolution and norm."""
    torch = pytest.importorskip('torch')
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    with jax.enable_x64(True):
        model, variables, _ = net('basic')
        _, folded = fold(model, variables)
    kernel = np.asarray(variables['params']['stem']['conv1']['kernel']).transpose(3, 2, 0, 1)
    norm = {**variables['params']['stem']['norm1'], **variables['batch_stats']['stem']['norm1']}
    tensors = {name: torch.tensor(np.asarray(x)) for name, x in norm.items()}
    weight, bias = fuse_conv_bn_weights(
        torch.tensor(kernel),
        None,
        tensors['mean'],
        tensors['var'],
        model.bn_epsilon,
        tensors['scale'],
        tensors['bias'],
    )
    found = folded['params']['stem']['conv1']
    np.testing.assert_allclose(found['kernel'].transpose(3, 2, 0, 1), weight, rtol=1e-14)
    np.testing.assert_allclose(found['bias'], bias, rtol=1e-13)


def test_what_is_left_of_a_preactivation_net():
    with jax.enable_x64(True):
        model, variables, _ = net('full_preact')
        small, folded = fold(model, variables)
    left = unfolded(small, folded)
    assert list(left) == ['final_norm', 'stage1/block1/norm1', 'stage2/block1/norm1']
    old = {**variables['params']['final_norm'], **variables['batch_stats']['final_norm']}
    scale = np.asarray(old['scale']) / np.sqrt(np.asarray(old['var']) + 1e-5)
    np.testing.assert_allclose(folded['params']['final_norm']['scale'], scale, rtol=1e-14)


def test_stacked_blocks_stay_stacked():
    sizes = {'stage_sizes': (3, 1)}
    with jax.enable_x64(True):
        model, variables, _ = net('basic', **sizes)
        _, folded = fold(model, variables)
        small, stacked = fold(model.clone(scan_blocks=True), stack_blocks(variables))
        assert small.scan_blocks
        jax.tree.map(np.testing.assert_array_equal, stacked, stack_blocks(folded))


def test_a_folded_net_is_a_row():
    """What a config and create_model need to make it again; float32 arrays stay float32."""
    model = create_model('cifar_preact_resnet20', 5, zero_init_last=True, placement='original')
    variables = random_variables(model, (1, 8, 8, 3))
    small, folded = fold(model, variables)
    fields = fields_of('cifar_resnet20', small)
    assert fields == {'norm': 'folded'}
    assert create_model('cifar_resnet20', 5, **fields) == small
    assert {x.dtype for x in jax.tree.leaves(folded)} == {jnp.dtype('float32')}
    again, same = fold(small, folded)
    assert again == small
    jax.tree.map(np.testing.assert_array_equal, same, folded)
