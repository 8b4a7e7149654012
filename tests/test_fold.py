"""Batch norm folded into convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import members
from random_models import random_variables
from small_nets import NETS, logits_of, net

from resnet_jax import create_model
from resnet_jax.compress.fold import fold, unfolded
from resnet_jax.models.registry import fields_of
from resnet_jax.models.stages import stack_blocks

# What differs in the others is not looked at by folding; tests/test_export.py folds those too.
FOLDED = (
    *('basic', 'bottleneck', 'blur', 'blur behind the last convolution', 'relu_only_preact'),
    *('relu_before_add', 'bn_after_add', 'full_preact', 'eca', 'groups', 'standardised', 'gated'),
    *('bit', 'group norm', 'fixup', 'zero at start', 'volume', 'raw first shortcut'),
    *('r2plus1d', 'mobile', 'shuffle', 'separable'),
)


# Exported, all of them are folded and compared: tests/test_export.py.
_QUICK = (
    'basic',
    'bottleneck',
    'full_preact',
    'gated',
    'bit',
    'eca',
    'blur',
    'bn_after_add',
    'volume',
)


@pytest.mark.parametrize('name', members(FOLDED, set(FOLDED) - set(_QUICK)))
def test_the_same_function_in_float64(name):
    model, variables, images, expected = net(name)
    with jax.enable_x64(True):
        small, folded = fold(model, variables)
        found = logits_of(small, folded, images)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)
        assert len(unfolded(small, folded)) == NETS[name][2]
        assert not folded.get('batch_stats') and not small.weight_standardization
        with jax.numpy_dtype_promotion('standard'):
            made = jax.eval_shape(lambda: small.init(jax.random.key(0), images, train=False))
        assert jax.tree.map(jnp.shape, made['params']) == jax.tree.map(jnp.shape, folded['params'])


def test_the_folded_convolution_is_pytorchs():
    """torch.nn.utils.fusion on the stem's convolution and norm."""
    torch = pytest.importorskip('torch')
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    with jax.enable_x64(True):
        model, variables, *_ = net('basic')
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
        model, variables, *_ = net('full_preact')
        small, folded = fold(model, variables)
    left = unfolded(small, folded)
    assert list(left) == ['final_norm', 'stage1/block1/norm1', 'stage2/block1/norm1']
    old = {**variables['params']['final_norm'], **variables['batch_stats']['final_norm']}
    scale = np.asarray(old['scale']) / np.sqrt(np.asarray(old['var']) + 1e-5)
    np.testing.assert_allclose(folded['params']['final_norm']['scale'], scale, rtol=1e-14)


def test_stacked_blocks_stay_stacked():
    model = create_model('cifar_resnet14', 3, stem_width=4, width=4)
    variables = random_variables(model, (1, 9, 9, 3))
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
