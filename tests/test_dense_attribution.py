"""Attribution of what networks for segmentation and detection see."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import cli, create_model
from resnet_jax.analysis.attribution import Settings, explain
from resnet_jax.analysis.examples import Batch
from resnet_jax.analysis.image_scores import ImageScores, main_classes
from resnet_jax.analysis.responses import check_layer, compiled_response, default_layer
from resnet_jax.data.targets import IGNORED, NOTHING
from resnet_jax.errors import InputError

SMALL = {'stage_sizes': (1, 1, 1, 1), 'width': 4, 'stem_width': 4}
NETS = {
    'unet_resnet18': {'activation': 'silu'},
    'fcn_resnet50': {
        'backbone': 'preact_resnet18',
        'scan_blocks': True,
        'stage_sizes': (2, 2, 2, 2),
    },
    'retinanet_resnet50_fpn': {'backbone': 'resnet18', 'pyramid_width': 4},
}


def scored(name):
    """A small network as a classifier, its variables, and images."""
    network = create_model(name, 4, **SMALL | NETS[name])
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 32, 48, 3)), jnp.float32)
    variables = jax.jit(lambda: network.init(jax.random.key(0), images, train=False))()
    return network, ImageScores(network), variables, images


@pytest.mark.slow
@pytest.mark.parametrize('name', ['unet_resnet18', 'retinanet_resnet50_fpn'])
def test_the_score_is_the_mean_of_logits_weighted_by_their_softmax(name):
    network, scores, variables, images = scored(name)
    run = jax.jit(lambda m, x: m.apply(variables, x, train=False), static_argnums=0)
    found, outputs = run(scores, images), run(network, images)
    maps = [outputs['out']] if isinstance(outputs, dict) else [x.logits for x in outputs.levels]
    places = np.concatenate([np.asarray(x, np.float64).reshape(3, -1, 4) for x in maps], 1)
    weights = np.exp(places - places.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    np.testing.assert_allclose(found, (weights * places).sum(1), rtol=1e-4, atol=1e-5)
    assert np.all(found <= places.max(1) + 1e-5) and np.all(found >= places.mean(1) - 1e-5)


@pytest.mark.slow
def test_integrated_gradients_add_up_to_the_difference_of_scores():
    """Of a smooth network: what the method promises of any function."""
    _, scores, variables, images = scored('unet_resnet18')
    baseline = jnp.zeros(images.shape[1:])
    targets = np.array([1, 3, 2])
    batch = Batch(images, targets, np.array([True, True, True]))
    maps = explain(
        *(scores, variables, [batch], targets, ['integrated_gradients']),
        baseline=baseline,
        settings=Settings(steps=24),
    )['integrated_gradients']
    run = jax.jit(lambda x: scores.apply(variables, x, train=False))
    ends = [np.asarray(run(x)) for x in (images, jnp.zeros_like(images))]
    expected = (ends[0] - ends[1])[np.arange(3), targets]
    np.testing.assert_allclose(maps.sum((1, 2)), expected, rtol=0.02, atol=1e-3)
    assert maps.shape == (3, 32, 48)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'layer'),
    [
        ('fcn_resnet50', 'final_norm'),
        ('unet_resnet18', 'stage4'),
        ('retinanet_resnet50_fpn', 'stage3/block1'),
    ],
)
def test_layers_are_those_of_the_backbone(name, layer):
    """By the names that they have in a classifier."""
    network, scores, variables, images = scored(name)
    if layer != 'stage3/block1':
        assert default_layer(scores) == layer
    check_layer(scores, layer)
    targets = jnp.asarray([1, 2, 3])
    unrolled = ImageScores(scores.unrolled().network)
    plain = variables if name != 'fcn_resnet50' else unstacked(variables)
    activation, gradient = compiled_response(unrolled, layer)(plain, images, targets)
    info = network.backbone.feature_info((32, 48))
    part = layer.split('/')[0].replace('final_norm', 'stage4')
    if part in info:
        assert activation.shape == (3, *info[part].size, info[part].channels)
    assert gradient.shape == activation.shape and np.abs(gradient).max() > 0


def unstacked(variables):
    from resnet_jax.models.stages import unstack_blocks

    return unstack_blocks(variables)


@pytest.mark.parametrize('layer', ['head', 'final_map', 'pooled', 'backbone/stage4'])
def test_other_layers_are_refused(layer):
    _, scores, _, _ = scored('unet_resnet18')
    with pytest.raises(InputError, match=r'layer|map'):
        check_layer(scores, layer)


def test_the_class_of_an_image_is_that_of_most_pixels_or_of_the_largest_box():
    masks = np.zeros((3, 4, 4), np.uint8)
    masks[0, 0] = 2
    masks[0, 1, :2] = 3
    masks[1, :2] = IGNORED
    masks[2, 0, 0] = 1
    assert main_classes({'segmentation': masks}).tolist() == [2, 0, 1]
    boxes = np.array([[[0, 0, 2, 2], [0, 0, 3, 3]], [[0, 0, 9, 9], [0, 0, 1, 1]]], np.float32)
    boxes = np.concatenate([boxes, np.zeros_like(boxes[:1])])
    classes = np.array([[5, 6], [NOTHING, 4], [NOTHING, NOTHING]])
    assert main_classes({'boxes': boxes, 'classes': classes}).tolist() == [6, 4, 0]
    assert main_classes({'label': np.array([3, 1])}).tolist() == [3, 1]


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    run, out = tmp_path / 'run', tmp_path / 'out'
    tiny = ['--config.train.steps=1', '--config.model.width=4', '--config.model.stem_width=4']
    tiny += ['--config.data.eval_split=test[:8]', '--config.train.batch_size=4']
    assert cli.main(['train', '--config=digits_segmentation', f'--workdir={run}', *tiny]) == 0
    analyze = ['analyze', 'attribution', '--workdir', str(run), '--out', str(out)]
    analyze += ['--limit', '4', '--method', 'hires_cam', 'occlusion']
    assert cli.main(analyze) == 0
    found = json.loads((out / 'attribution.json').read_text())
    assert found['layer'] == 'stage4' and len(found['maps']) == 4
    assert (out / 'maps.png').stat().st_size > 10_000
    names = {'background', *'0123456789'}
    assert all(each['predicted'] in names - {'background'} for each in found['examples'])
    capsys.readouterr()
    assert cli.main([*analyze, '--sanity']) == 2
    assert 'networks that classify' in capsys.readouterr().err
    assert cli.main([*analyze, '--layer', 'stage9']) == 2
    assert cli.main(['analyze', 'lesion', '--workdir', str(run)]) == 2

    depth = tmp_path / 'depth'
    assert cli.main(['train', '--config=digits_depth', f'--workdir={depth}', *tiny]) == 0
    capsys.readouterr()
    assert cli.main(['analyze', 'attribution', '--workdir', str(depth)]) == 2
    assert 'explains classes' in capsys.readouterr().err
