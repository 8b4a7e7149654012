"""Channels of the residual stream: smaller networks against whole ones with edited weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from members import members
from random_models import assert_close, fast_jit, random_images, random_variables

from resnet_jax import create_model
from resnet_jax.analysis.examples import Batch
from resnet_jax.compress import stream
from resnet_jax.errors import InputError
from resnet_jax.models.stages import unstack_blocks

SIZE = 8
SMALL = {'num_classes': 5, 'stage_sizes': (2, 2, 1), 'width': 8, 'stem_width': 8}
NETS = {
    'option A': ('cifar_resnet20', {}),
    'preact': ('cifar_preact_resnet20', {}),
    'projection': ('wrn16_4', {}),
    'bottleneck': ('cifar_resnet164', {'stem_width': 32, 'stage_sizes': (1, 2)}),
    'bn_after_add': ('cifar_resnet20', {'placement': 'bn_after_add', 'shortcut': 'projection_all'}),
    'deep stem': ('resnet18d', {}),
    'normed': ('cifar_resnet20', {'shortcut': 'normed', 'conv_bias': True}),
    'plain': ('cifar_plain20', {}),
    'folded, scanned': ('cifar_resnet20', {'norm': 'folded', 'scan_blocks': True}),
    'equal stages': (
        'cifar_resnet20',
        {'shortcut': 'projection', 'stage_widths': (8, 8, 16), 'stage_strides': (1, 1, 2)},
    ),
}


def network(name, **overrides):
    model = create_model(name, **{**SMALL, **overrides})
    return model, random_variables(model, (1, SIZE, SIZE, 3))


def logits_of(model, variables, images):
    return fast_jit(lambda v, x: model.apply(v, x, train=False))(variables, images)


def without(model, variables, kept):
    """The whole network, its channels that are not kept zero wherever they are made."""
    flat = flatten_dict(variables)
    for name, one in stream.streams(model).items():
        dropped = np.setdiff1d(np.arange(one.channels), kept[name])
        for path in (*one.producers, *one.norms):
            for leaf in ('kernel', 'bias', 'scale'):
                key = ('params', *path.split('/'), leaf)
                if key in flat:
                    flat[key] = jnp.asarray(flat[key]).at[..., dropped].set(0.0)
    return unflatten_dict(flat)


@pytest.mark.parametrize(
    'name',
    members(
        NETS,
        (
            *('deep stem', 'bn_after_add', 'equal stages', 'plain', 'bottleneck', 'preact'),
            *('option A', 'projection'),
        ),
    ),
)
def test_the_smaller_network_is_the_whole_one_without_these_channels(name):
    registered, overrides = NETS[name]
    model, variables = network(registered, **overrides)
    plain, spread = model.unrolled(), unstack_blocks(variables)
    scores = stream.magnitude_scores(plain, spread)
    kept = stream.choose_channels(plain, scores, 0.4)
    smaller, found = stream.keep_channels(plain, spread, kept)
    shapes = jax.eval_shape(
        lambda: smaller.init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)), train=False)
    )
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, shapes)
    count = sum(x.size for x in jax.tree.leaves(found['params']))
    assert count < 0.75 * sum(x.size for x in jax.tree.leaves(variables['params']))
    images = random_images((3, SIZE, SIZE, 3))
    expected = logits_of(plain, without(plain, spread, kept), images)
    assert_close(logits_of(smaller, found, images), expected)


def test_streams_of_the_papers_nets():
    """Option A keeps three streams, the first from the stem; a bottleneck's stem is projected."""
    found = stream.streams(create_model('cifar_resnet20'))
    assert {name: one.channels for name, one in found.items()} == {
        'stem': 16, 'stage2': 32, 'stage3': 64
    }  # fmt: skip
    assert found['stem'].stages == [1] and found['stage3'].before == 'stage2'
    assert len(found['stem'].producers) == 1 + 3 and 'head' in found['stage3'].consumers
    found = stream.streams(create_model('resnet50'))
    sizes = {'stem': 64, 'stage1': 256, 'stage2': 512, 'stage3': 1024, 'stage4': 2048}
    assert {name: one.channels for name, one in found.items()} == sizes
    assert found['stem'].stages == []


def test_channels_that_a_shortcut_fills_stay():
    model, variables = network('cifar_resnet20')
    scores = stream.magnitude_scores(model, variables)
    kept = stream.choose_channels(model, scores, 0.25, multiple=2)
    assert [len(kept[name]) for name in ('stem', 'stage2', 'stage3')] == [6, 12, 24]
    # Stage 2 has 16 channels; the 8 of the stem lie in its middle, from 4.
    np.testing.assert_array_equal(kept['stage2'][3:9], kept['stem'] + 4)
    best = np.argsort(-scores['stem'])[:6]
    np.testing.assert_array_equal(kept['stem'], np.sort(best))


def test_a_projection_does_not_become_an_identity():
    """A bottleneck of as many channels as the stem would lose its first projection."""
    model, variables = network('cifar_resnet164', stem_width=16, stage_sizes=(1, 1))
    kept = stream.choose_channels(model, stream.magnitude_scores(model, variables), 0.5)
    assert len(kept['stage1']) == 20 and len(kept['stem']) == 16
    smaller, found = stream.keep_channels(model, variables, kept)
    assert 'shortcut_conv' in found['params']['stage1']['block1']
    logits_of(smaller, found, random_images((1, SIZE, SIZE, 3)))


def test_derivatives_tell_what_the_loss_would_lose():
    """The gate's derivative, by the difference of losses with channels scaled a little."""
    model, variables = network('cifar_preact_resnet20', stage_sizes=(1, 1))
    images, labels = random_images((4, SIZE, SIZE, 3)), jnp.asarray([0, 1, 2, 3])
    batch = Batch(images, labels, jnp.ones(4, bool))
    found = stream.taylor_scores(model, variables, [batch])['stage2']
    flat = flatten_dict(variables)

    def loss(channel, factor):
        key = ('params', 'head', 'kernel')
        scaled = {**flat, key: flat[key].at[channel].multiply(factor)}
        logits = logits_of(model, unflatten_dict(scaled), images)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(4), labels])

    for channel in (0, 3):  # of the last stage, which the head alone takes
        slope = (loss(channel, 1.01) - loss(channel, 0.99)) / 0.02
        assert float(found[channel]) == pytest.approx(float(slope) ** 2, rel=0.02, abs=1e-7)


@pytest.mark.parametrize(
    ('name', 'overrides', 'field'),
    [
        ('cifar_resnext29_8x64d', {}, 'groups'),
        ('cifar_se_resnet20', {}, 'se_ratio'),
        ('resnet50_gn', {'norm_groups': 4}, 'norm'),
        ('cifar_resnet20', {'gate': 'exclusive'}, 'gate'),
    ],
)
def test_channels_that_depend_on_others_are_refused(name, overrides, field):
    with pytest.raises(InputError, match=field):
        stream.streams(create_model(name, **overrides))
