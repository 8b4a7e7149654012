"""Backbones, segmenters and detectors are those of their publishers and papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import members

from resnet_jax import create_backbone, create_model, list_models, load_weights
from resnet_jax import models as classifiers
from resnet_jax.dense import boxes
from resnet_jax.dense.counts import COUNTS
from resnet_jax.dense.detector import Level, Pyramid, anchors_of, detect
from resnet_jax.dense.registry import DENSE_MODELS
from resnet_jax.dense.resizing import pool_adaptively, resize_bilinear, resize_nearest
from resnet_jax.errors import InputError
from resnet_jax.interop import dense_weights
from resnet_jax.models.counting import count, count_parameters

SMALL = {'stage_sizes': (1, 1, 1, 1)}
SIZES = [(64, 96), (65, 97)]


def shapes(model, size=(64, 64)):
    images = jnp.zeros((1, *size, 3))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))


def pictures(size, count=1):
    return np.random.default_rng(0).standard_normal((count, *size, 3))


# Counts

# 53,120 are the scales and biases of ResNet-50's norms, which torchvision freezes.
BATCH_NORMS = 2 * (
    64 + 64 * 6 * 3 + 128 * 6 * 4 + 256 * 6 * 6 + 512 * 6 * 3 + 4 * (64 + 128 + 256 + 512)
)


def psp(classes):
    """PSPNet, section 3.2, on ResNet-50: four 1x1 convolutions to 512, one of 4,096 channels."""
    body = 25_557_032 - 2048 * 1000 - 1000
    head = 4 * (2048 * 512 + 2 * 512) + 9 * 4096 * 512 + 2 * 512 + 512 * classes + classes
    aux = 9 * 1024 * 256 + 2 * 256 + 256 * classes + classes
    return body + head + aux


def unet(classes):
    """ResNet-18's body and three steps upward of two convolutions each."""
    body, total = 11_689_512 - 512 * 1000 - 1000, 0
    for below, skip, width in ((512, 256, 256), (256, 128, 128), (128, 64, 64)):
        total += 9 * (below + skip) * width + 9 * width * width + 4 * width
    return body + total + 64 * classes + classes


# num_params of torchvision's FCN_ResNet50_Weights, and so on.
PARAMETERS = {
    'fcn_resnet50': 35_322_218,
    'fcn_resnet101': 54_314_346,
    'deeplabv3_resnet50': 42_004_074,
    'deeplabv3_resnet101': 60_996_202,
    'retinanet_resnet50_fpn': 34_014_999 + BATCH_NORMS,
    'pspnet_resnet50': psp(21),
    'unet_resnet18': unet(21),
}


@pytest.mark.parametrize('name', members(PARAMETERS, ('fcn_resnet101', 'deeplabv3_resnet101')))
def test_parameters(name):
    assert BATCH_NORMS == 53_120
    assert count_parameters(shapes(create_model(name))['params']) == PARAMETERS[name]


def test_every_network_is_listed_and_others_suggested():
    assert 'unet_resnet18' in list_models() and 'resnet50' in list_models()
    assert list_models('*fpn') == ['retinanet_resnet50_fpn']
    with pytest.raises(InputError, match=r"unknown model 'fcn_resnet5'; did you mean"):
        create_model('fcn_resnet5')
    with pytest.raises(InputError, match="unknown model field 'head_with'"):
        create_model('fcn_resnet50', head_with=3)
    with pytest.raises(InputError, match="unknown head 'fcnn'; did you mean 'fcn'"):
        create_model('fcn_resnet50', head='fcnn')
    assert create_model('resnet18') == classifiers.create_model('resnet18')


# Parity with torchvision


def theirs(name, sizes=(1, 1, 1, 1)):
    """torchvision's network on a shallow ResNet of bottlenecks."""
    from torchvision_cpu import import_torchvision, randomized

    import_torchvision()
    from torchvision.models import detection, resnet, segmentation

    dilated = [False] * 3 if name.startswith('retina') else [False, True, True]
    body = resnet.ResNet(resnet.Bottleneck, sizes, replace_stride_with_dilation=dilated)
    if name.startswith('retina'):
        fpn = detection.backbone_utils._resnet_fpn_extractor(
            *(body, 5, [2, 3, 4]),
            detection.retinanet.LastLevelP6P7(256, 256),
        )
        return randomized(detection.RetinaNet(fpn, 91))
    make = {
        'fcn': segmentation.fcn._fcn_resnet,
        'deeplabv3': segmentation.deeplabv3._deeplabv3_resnet,
    }
    return randomized(make[name.partition('_')[0]](body, 21, True))


def tensors_of(net):
    return {name: x.detach().numpy() for name, x in net.state_dict().items()}


def as_torch(images):
    import torch

    return torch.tensor(images).permute(0, 3, 1, 2)


def close(found, expected):
    """Equal but for 1e-12 of the largest."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
    'name', ['fcn_resnet50', pytest.param('deeplabv3_resnet50', marks=pytest.mark.slow)]
)
def test_segmentation_is_that_of_torchvision(name):
    import torch

    net = theirs(name)
    variables = dense_weights.variables_from_tensors(tensors_of(net), create_model(name, **SMALL))
    with jax.enable_x64(True):
        model = create_model(name, dtype=jnp.float64, **SMALL)
        apply = jax.jit(lambda v, x: model.apply(v, x, train=False))
        for size in SIZES:
            images = pictures(size)
            with torch.no_grad():
                expected = net(as_torch(images))
            found = apply(variables, images)
            assert set(found) == set(expected) == {'out', 'aux'}
            for key, value in expected.items():
                close(found[key], value.permute(0, 2, 3, 1))


@pytest.mark.slow
def test_detection_is_that_of_torchvision():
    import torch

    net = theirs('retinanet')
    from torchvision.models.detection.image_list import ImageList

    single = create_model('retinanet_resnet50_fpn', **SMALL)
    variables = dense_weights.variables_from_tensors(tensors_of(net), single)
    with jax.enable_x64(True):
        model = create_model('retinanet_resnet50_fpn', dtype=jnp.float64, **SMALL)
        apply = jax.jit(lambda v, x: model.apply(v, x, train=False))
        for size in SIZES:
            images = pictures(size)
            x = as_torch(images)
            with torch.no_grad():
                levels = list(net.backbone(x).values())
                expected = net.head(levels)
                anchors = net.anchor_generator(ImageList(x, [size]), levels)[0]
            found = apply(variables, images)
            for key, field in (('cls_logits', 'logits'), ('bbox_regression', 'offsets')):
                parts = [getattr(level, field) for level in found.levels]
                whole = [np.asarray(part).reshape(1, -1, part.shape[-1]) for part in parts]
                close(np.concatenate(whole, 1), expected[key])
            ours = anchors_of(found)
            np.testing.assert_array_equal(np.concatenate([a.reshape(-1, 4) for a in ours]), anchors)


def test_names_that_retinanet_was_published_with_first():
    """torchvision's retinanet_resnet50_fpn_coco file is older than its names of today."""
    model = create_model('retinanet_resnet50_fpn', **SMALL)
    variables = jax.tree.map(lambda x: np.ones(x.shape, np.float32), dict(shapes(model)))
    today = dense_weights.named_tensors(variables, model)
    assert 'head.classification_head.conv.3.0.weight' in today
    old = {}
    for name, x in today.items():
        for kind in ('inner_blocks', 'layer_blocks'):
            for i in range(3):
                name = name.replace(f'{kind}.{i}.0.', f'{kind}.{i}.')
        if '_head.conv.' in name:
            before, _, rest = name.partition('_head.conv.')
            number, _, leaf = rest.split('.')
            name = f'{before}_head.conv.{2 * int(number)}.{leaf}'
        old[name] = x
    assert 'head.regression_head.conv.6.bias' in old and len(old) == len(today)
    found = dense_weights.variables_from_tensors(old, model)
    assert jax.tree.structure(found) == jax.tree.structure(variables)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['fcn_resnet50', 'unet_resnet18', 'retinanet_resnet50_fpn'])
def test_weights_are_written_and_read(name, tmp_path):
    from safetensors.numpy import save_file

    model = create_model(name, **SMALL)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.random(x.shape, np.float32), dict(shapes(model)))
    layout = 'ours' if name.startswith('unet') else 'torchvision'
    named = dense_weights.named_tensors(variables, model, layout)
    save_file(named, tmp_path / 'net.safetensors')
    found = dense_weights.load_dense_weights(tmp_path / 'net.safetensors', model)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, found, variables)))
    same = load_weights(tmp_path / 'net.safetensors', model)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, same, variables)))
    with pytest.raises(InputError, match='adapt_stem go with classifiers only'):
        load_weights(tmp_path / 'net.safetensors', model, channels=1, adapt_stem=True)
    del named[next(iter(named))]
    with pytest.raises(InputError, match=r'does not fit this network: .* is missing'):
        dense_weights.variables_from_tensors(named, model)
    if layout == 'ours':
        with pytest.raises(InputError, match=r"torchvision has no head 'unet'"):
            dense_weights.named_tensors(variables, model)


# Backbones


@pytest.mark.slow
@pytest.mark.parametrize('stride', [8, 16])
def test_a_dilated_backbone_is_that_of_torchvision(stride):
    import torch
    from torchvision_cpu import import_torchvision, randomized

    import_torchvision()
    from torchvision.models import resnet
    from torchvision.models._utils import IntermediateLayerGetter

    dilated = [False, stride == 8, True]
    net = randomized(
        resnet.ResNet(resnet.Bottleneck, [1, 2, 2, 2], replace_stride_with_dilation=dilated)
    )
    features = IntermediateLayerGetter(net, {f'layer{i}': f'stage{i}' for i in range(1, 5)})
    from resnet_jax.interop.weights import variables_from_tensors

    overrides = {'stage_sizes': (1, 2, 2, 2), 'output_stride': stride}
    whole = classifiers.create_model('resnet50', stage_sizes=(1, 2, 2, 2))
    variables = variables_from_tensors(tensors_of(net), whole)
    for collection in variables.values():
        collection.pop('head', None)
    with jax.enable_x64(True):
        backbone = create_backbone('resnet50', dtype=jnp.float64, **overrides)
        for size in SIZES:
            images = pictures(size)
            with torch.no_grad():
                expected = features(as_torch(images))
            found = backbone.apply(variables, images, train=False)
            info = backbone.feature_info(size)
            for name, value in expected.items():
                close(found[name], value.permute(0, 2, 3, 1))
                assert info[name].size == value.shape[2:] and info[name].channels == value.shape[1]
    assert max(one.reduction for one in info.values()) == stride


@pytest.mark.slow
def test_features_of_a_pre_activation_net_are_normalised():
    """The last as the net itself does it before its pool, the others by norms of their own."""
    fields = {'stage_sizes': (1, 1, 1), 'width': 4, 'stem_width': 4}
    net = classifiers.create_model('cifar_preact_resnet20', **fields)
    backbone = create_backbone('cifar_preact_resnet20', ('stage2', 'stage3'), **fields)
    images = jnp.asarray(pictures((8, 8), 3), jnp.float32)
    variables = net.init(jax.random.key(1), images, train=False)
    own = backbone.init(jax.random.key(0), images, train=False)
    assert set(own['params']) == (set(variables['params']) | {'stage2_norm'}) - {'head'}
    taken = {
        collection: {name: variables[collection].get(name, x) for name, x in parts.items()}
        for collection, parts in own.items()
    }
    found = backbone.apply(taken, images, train=False)
    expected = net.apply(variables, images, train=False, method='features')
    np.testing.assert_allclose(found['stage3'].mean((1, 2)), expected['pooled'], atol=1e-6)
    plain = expected['stage2'] / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(found['stage2'], np.maximum(plain, 0), atol=1e-5)


@pytest.mark.slow
def test_frozen_parts_do_not_learn():
    fields = {'stage_sizes': (1, 1, 1), 'width': 4, 'stem_width': 4}
    backbone = create_backbone('cifar_resnet20', ('stage3',), frozen=2, **fields)
    images = jnp.asarray(pictures((8, 8), 3), jnp.float32)
    variables = backbone.init(jax.random.key(1), images, train=False)

    def loss(params):
        found, moved = backbone.apply(
            {**variables, 'params': params}, images, train=True, mutable=['batch_stats']
        )
        return jnp.sum(found['stage3'] ** 2), moved['batch_stats']

    slopes, moved = jax.grad(loss, has_aux=True)(variables['params'])
    for part in ('stem', 'stage1'):
        assert not any(np.any(x) for x in jax.tree.leaves(slopes[part]))
        same = jax.tree.map(np.array_equal, moved[part], variables['batch_stats'][part])
        assert all(jax.tree.leaves(same))
    for part in ('stage2', 'stage3'):
        assert any(np.any(x) for x in jax.tree.leaves(slopes[part]))
        same = jax.tree.map(np.array_equal, moved[part], variables['batch_stats'][part])
        assert not any(jax.tree.leaves(same))


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'features': ('stage5',)}, "unknown feature 'stage5'"),
        ({'features': ()}, 'features must name some of stem, stage1'),
        ({'frozen': 'stem'}, "frozen must be a whole number, got 'stem'"),
        ({'frozen': 6}, 'frozen must be at most 5, got 6'),
    ],
)
def test_backbones_that_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        create_backbone('resnet18', **fields)


@pytest.mark.parametrize(
    ('name', 'fields', 'message'),
    [
        (
            'retinanet_resnet50_fpn',
            {'features': ('stage4',)},
            r'features must be three stages, .* 1',
        ),
        ('retinanet_resnet50_fpn', {'pyramid_width': 0}, 'pyramid_width must be'),
        (
            'fcn_resnet50',
            {'features': ('stage3',)},
            'features must have another stage than that of',
        ),
        ('fcn_resnet50', {'features': ('stage4',)}, "aux 'stage3' is none of the features stage4"),
        ('fcn_resnet50', {'head_width': 'wide'}, 'head_width must be a whole number'),
        ('fcn_resnet50', {'num_classes': 0}, 'num_classes must be at least 1'),
        ('unet_resnet18', {'placement': 'preact'}, "unknown placement 'preact'"),
    ],
)
def test_networks_that_are_refused(name, fields, message):
    with pytest.raises(InputError, match=message):
        shapes(create_model(name, **fields))


# Heads


def test_resizing_is_that_of_pytorch():
    torch = pytest.importorskip('torch')
    functional = torch.nn.functional
    with jax.enable_x64(True):
        for old, new in (((5, 7), (13, 9)), ((8, 8), (16, 16)), ((9, 6), (4, 6)), ((1, 1), (3, 3))):
            x = np.random.default_rng(0).standard_normal((2, *old, 3))
            for mode, ours in (('bilinear', resize_bilinear), ('nearest', resize_nearest)):
                exact = {'align_corners': False} if mode == 'bilinear' else {}
                expected = functional.interpolate(as_torch(x), new, mode=mode, **exact)
                close(ours(jnp.asarray(x), new), expected.permute(0, 2, 3, 1))
        for bins in (1, 2, 3, 6):
            x = np.random.default_rng(1).standard_normal((2, 7, 10, 3))
            expected = functional.adaptive_avg_pool2d(as_torch(x), bins).permute(0, 2, 3, 1)
            close(pool_adaptively(jnp.asarray(x), bins), expected)


@pytest.mark.parametrize('name', ['pspnet_resnet50', 'unet_resnet18'])
def test_logits_have_the_size_of_the_images(name):
    model = create_model(name, 5, head_width=8, width=8, stem_width=8, **SMALL)
    for size in SIZES:
        found = jax.eval_shape(
            lambda x: model.init_with_output(jax.random.key(0), x, train=False)[0],
            jnp.zeros((2, *size, 3)),
        )
        assert {key: x.shape for key, x in found.items()}['out'] == (2, *size, 5)


# Boxes


def test_boxes_are_coded_and_decoded():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (20, 2, 2))
    some = jnp.asarray(np.concatenate([corners.min(1), corners.max(1) + 1], 1), jnp.float32)
    anchors = some[::-1]
    np.testing.assert_allclose(boxes.decode(boxes.encode(some, anchors), anchors), some, atol=1e-3)
    # Half the anchor's width to the right, twice as wide.
    anchor = jnp.asarray([[10.0, 10.0, 20.0, 30.0]])
    found = boxes.decode(jnp.asarray([[0.5, 0.0, np.log(2), 0.0]]), anchor)
    np.testing.assert_allclose(found, [[10.0, 10.0, 30.0, 30.0]], atol=1e-5)
    assert float(boxes.decode(jnp.full((1, 4), 100.0), anchor)[0, 2]) < 2000  # not infinite
    np.testing.assert_allclose(
        boxes.overlaps(jnp.asarray([[0.0, 0, 2, 2]]), jnp.asarray([[1.0, 1, 3, 3], [5, 5, 6, 6]])),
        [[1 / 7, 0]],
    )


def brute_force(candidates, scores, labels, limit):
    """Greedy suppression, one box after another."""
    kept = []
    for i in np.argsort(-scores, kind='stable'):
        a = candidates[i]
        for j in kept:
            b = candidates[j]
            sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
            both = np.prod(np.maximum(sides, 0))
            union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both
            if labels[i] == labels[j] and both > limit * union:
                break
        else:
            kept.append(i)
    return kept


def test_suppression_keeps_what_one_after_another_keeps():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 30, (200, 2))
    candidates = np.concatenate([corners, corners + rng.uniform(3, 12, (200, 2))], 1)
    candidates = candidates.astype(np.float32)
    scores, labels = rng.permutation(200).astype(np.float32) / 200, rng.integers(0, 3, 200)
    expected = [i for i in brute_force(candidates, scores, labels, 0.3) if scores[i] > 0]
    run = jax.jit(boxes.suppress, static_argnums=(3, 4))
    for most in (10, 200):
        found, filled = run(candidates, scores, jnp.asarray(labels), 0.3, most)
        assert np.asarray(found)[np.asarray(filled)].tolist() == expected[:most]


def test_detections_of_levels():
    """Two objects in an image of 64x64: their anchors are certain, all others are not."""
    grids = [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]
    anchors = boxes.anchors((64, 64), grids)
    levels = [
        Level(jnp.full((1, *grid, 9, 3), -8.0), jnp.zeros((1, *grid, 9, 4))) for grid in grids
    ]
    levels[0] = levels[0]._replace(logits=levels[0].logits.at[0, 2, 3, 4, 1].set(3.0))
    levels[0] = levels[0]._replace(logits=levels[0].logits.at[0, 2, 3, 5, 1].set(2.0))  # the same
    levels[1] = levels[1]._replace(
        logits=levels[1].logits.at[0, 3, 3, 0, 2].set(1.0),
        offsets=levels[1].offsets.at[0, 3, 3, 0].set(jnp.asarray([0.1, 0, 0, 0])),
    )
    pyramid = Pyramid(tuple(levels), (64, 64), 1.0)
    found = jax.jit(lambda pyramid: detect(pyramid, count=5))(pyramid)
    assert found.found.tolist() == [[True, True, False, False, False]]
    assert found.labels[0, :2].tolist() == [1, 2]
    np.testing.assert_allclose(found.scores[0, :2], 1 / (1 + np.exp([-3, -1])), rtol=1e-5)
    first = np.clip(anchors[0][2 * 8 + 3, 4], 0, 64)
    np.testing.assert_allclose(found.boxes[0, 0], first)
    second = anchors[1][3 * 4 + 3, 0].copy()
    second[[0, 2]] += 0.1 * (second[2] - second[0])
    np.testing.assert_allclose(found.boxes[0, 1], np.clip(second, 0, 64), atol=1e-4)


# torchvision 0.28's `_ops` of the weights that it publishes, billions of multiply-adds; they leave
# out the resizing of the logits, a product of matrices here for the rows and one for the columns.
PUBLISHED = {
    'fcn_resnet50': ('FCN_ResNet50_Weights', 2),
    'fcn_resnet101': ('FCN_ResNet101_Weights', 2),
    'deeplabv3_resnet50': ('DeepLabV3_ResNet50_Weights', 2),
    'deeplabv3_resnet101': ('DeepLabV3_ResNet101_Weights', 2),
    'retinanet_resnet50_fpn': ('RetinaNet_ResNet50_FPN_Weights', 0),
}


@pytest.mark.parametrize('name', DENSE_MODELS)
def test_stored_counts_are_those_of_a_trace(name):
    side = DENSE_MODELS[name].image_size
    assert count(create_model(name), (side, side, 3)) == COUNTS[name]


@pytest.mark.parametrize('name', PUBLISHED)
def test_stored_counts_are_those_of_torchvision(name):
    from torchvision_cpu import import_torchvision

    import_torchvision()
    from torchvision.models import detection, segmentation

    weights, heads = PUBLISHED[name]
    kind = detection if hasattr(detection, weights) else segmentation
    about = getattr(kind, weights).DEFAULT.meta
    parameters, multiply_adds = COUNTS[name]
    # The scales and shifts of the batch norms of its detectors' bodies are frozen, so not counted.
    frozen = 0 if heads else 53_120
    side, small, classes = 520, 65, 21
    resizing = heads * classes * (side * small * small + side * side * small)
    assert parameters - frozen == about['num_params']
    assert round((multiply_adds - resizing) / 1e9, 2) == round(about['_ops'], 2)
