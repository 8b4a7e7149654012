"""Nets for video and small devices compute what PyTorch's do with the same weights and names."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from members import members
from random_models import fast_jit

from resnet_jax import create_model
from resnet_jax.interop.layouts import model_shapes, natural_layout, tensor_names, their_shape
from resnet_jax.interop.weights import describe, tensors_from_variables, variables_from_tensors

torch = pytest.importorskip('torch')
torch_beyond = pytest.importorskip('torch_beyond')

NAMES = tuple(torch_beyond.TINY)
LAYOUTS = {'mobilenet_v2': 'torchvision_mobile'}  # the others: torchvision_video
# Flax's norms mix float32 constants into a float64 model.
pytestmark = pytest.mark.usefixtures('standard_promotion')


def layout_of(name):
    return LAYOUTS.get(name, 'torchvision_video')


def random_images(name):
    """Odd and even sizes, the time shorter than height and width."""
    size = (33, 20) if name == 'mobilenet_v2' else (6, 17, 12)
    generator = torch.Generator().manual_seed(2)
    return torch.randn(4, 3, *size, generator=generator, dtype=torch.float64)


def channels_last(array):
    return np.moveaxis(np.asarray(array), 1, -1)


def tensors_of(net):
    state = net.state_dict().items()
    return {n: x.numpy().copy() for n, x in state if not n.endswith('num_batches_tracked')}


@functools.cache
def tiny(name):
    net = torch_beyond.TINY[name]().double()
    return torch_beyond.randomise(net, random_images(name))


def tiny_model(name, dtype=jnp.float32):
    return create_model(name, 5, dtype, **torch_beyond.OVERRIDES[name])


def assert_close(actual, expected, tolerance=1e-9):
    """Relative to the largest entry."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize('name', NAMES)
def test_the_full_nets_names_shapes_and_count(name):
    """Of every tensor of the published size, with nothing computed."""
    with torch.device('meta'):
        net = torch_beyond.FULL[name]()
    state = net.state_dict().items()
    expected = {n: tuple(x.shape) for n, x in state if not n.endswith('num_batches_tracked')}
    model = create_model(name)
    assert natural_layout(model) == layout_of(name)
    shapes = model_shapes(model)
    names = tensor_names(model, shapes, layout_of(name))
    assert {names[p]: their_shape(p, s.shape, layout_of(name)) for p, s in shapes.items()} == (
        expected
    )


@pytest.mark.parametrize('name', NAMES)
def test_weights_both_ways(name):
    tensors, model = tensors_of(tiny(name)), tiny_model(name)
    assert describe(tensors, model) == (layout_of(name), 5)
    variables = variables_from_tensors(tensors, model)
    back = tensors_from_variables(variables, model, layout_of(name))
    assert back.keys() == tensors.keys()
    for key, array in tensors.items():
        np.testing.assert_array_equal(back[key], array)


@pytest.mark.parametrize('name', NAMES)
def test_logits_and_features(name):
    net, images = tiny(name), random_images(name)
    with torch.no_grad():
        maps = net.maps(images) if name == 'mobilenet_v2' else net.features(images)
        expected = {k: channels_last(x) if x.ndim > 2 else x.numpy() for k, x in maps.items()}
        expected['logits'] = net(images).numpy()
    with jax.enable_x64(True):
        model = tiny_model(name, jnp.float64)
        variables = variables_from_tensors(tensors_of(net), model)
        inputs = jax.tree.map(jnp.asarray, (variables, channels_last(images)))
        found = fast_jit(functools.partial(model.apply, train=False, method='outputs'))(*inputs)
    assert found.keys() == expected.keys()
    for key, x in expected.items():
        assert_close(found[key], x)
    info = model.feature_info(tuple(images.shape[2:]))
    assert {k: f.size for k, f in info.items()} == {k: expected[k].shape[1:-1] for k in info}


@pytest.mark.parametrize(
    'name', members(['mc3_18', 'r2plus1d_18', 'mobilenet_v2'], ('mc3_18', 'r2plus1d_18'))
)
def test_the_gradients_of_a_training_step(name):
    images, labels = random_images(name), torch.tensor([1, 4, 0, 1])
    net = tiny(name)
    before = tensors_of(net)
    net.train()
    if name == 'mobilenet_v2':
        net.classifier[0].p = 0.0  # another library drops other channels
    loss = torch.nn.functional.cross_entropy(net(images), labels)
    net.zero_grad()
    loss.backward()
    expected = {n: p.grad.numpy() for n, p in net.named_parameters()}
    net.load_state_dict({n: torch.from_numpy(x) for n, x in before.items()}, strict=False)
    net.eval()
    with jax.enable_x64(True):
        model = tiny_model(name, jnp.float64).clone(dropout=0.0)
        variables = jax.tree.map(jnp.asarray, variables_from_tensors(before, model))

        def loss_of(params):
            logits, _ = model.apply(
                {**variables, 'params': params},
                jnp.asarray(channels_last(images)),
                train=True,
                mutable=['batch_stats'],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels.numpy())
            return losses.mean()

        value, gradient = fast_jit(jax.value_and_grad(loss_of))(variables['params'])
        found = tensors_from_variables(
            jax.tree.map(np.asarray, {**variables, 'params': gradient}), model, layout_of(name)
        )
    assert value == pytest.approx(loss.item(), rel=1e-9)
    largest = max(np.abs(x).max() for x in expected.values())
    for key, x in expected.items():
        np.testing.assert_allclose(found[key] / largest, x / largest, rtol=0, atol=1e-9)
