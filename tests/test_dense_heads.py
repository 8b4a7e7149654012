"""The heads of PSPNet and U-Net against the same formulas in PyTorch, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import members

from resnet_jax import create_model
from resnet_jax.dense.heads import HEADS

torch = pytest.importorskip('torch')
F = torch.nn.functional
SIZES = {'psp': [(12, 12), (7, 10)], 'unet': [(16, 24), (13, 21)]}


def made(name, shapes, width):
    """A head with random parameters, and random features of some shapes, in float64."""
    conv, norm = create_model('resnet18', dtype=jnp.float64).makers()
    head = HEADS[name](num_classes=5, width=width, conv=conv, norm=norm)
    rng = np.random.default_rng(0)
    features = {f'stage{i}': rng.normal(size=shape) for i, shape in enumerate(shapes, 1)}
    with jax.numpy_dtype_promotion('standard'):  # statistics begin in float32
        variables = jax.eval_shape(lambda: head.init(jax.random.key(0), features, train=False))
    variables = jax.tree.map(
        lambda x: jnp.asarray(rng.uniform(0.5, 1.5, x.shape) * rng.choice([-1, 1])), variables
    )
    stats = jax.tree.map(jnp.abs, variables['batch_stats'])
    return head, {**variables, 'batch_stats': stats}, features


class Twin:
    """The layers of a head by their names, in PyTorch."""

    def __init__(self, variables):
        self.params, self.stats = variables['params'], variables['batch_stats']

    def conv(self, name, x):
        kernel = torch.tensor(np.asarray(self.params[name]['kernel'])).permute(3, 2, 0, 1)
        bias = self.params[name].get('bias')
        bias = None if bias is None else torch.tensor(np.asarray(bias))
        return F.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2)

    def unit(self, number, x):
        y, name = self.conv(f'conv{number}', x), f'norm{number}'
        arrays = [self.stats[name]['mean'], self.stats[name]['var']]
        arrays += [self.params[name]['scale'], self.params[name]['bias']]
        mean, var, scale, bias = (torch.tensor(np.asarray(a)) for a in arrays)
        return F.relu(F.batch_norm(y, mean, var, scale, bias, training=False, eps=1e-5))

    def psp(self, features):
        """arXiv 1612.01105, figure 3: pyramid pooling beside the features themselves."""
        x = features[-1]
        parts = [x]
        for number, bins in enumerate((1, 2, 3, 6), 1):
            pooled = self.unit(number, F.adaptive_avg_pool2d(x, bins))
            parts.append(F.interpolate(pooled, x.shape[2:], mode='bilinear', align_corners=False))
        return self.conv('logits', self.unit(5, torch.cat(parts, 1)))

    def unet(self, features):
        """arXiv 1505.04597, figure 1: upward, the features of each size beside, two units."""
        x, number = features[-1], 1
        for skip in features[-2::-1]:
            up = F.interpolate(x, skip.shape[2:], mode='nearest')
            x = self.unit(number + 1, self.unit(number, torch.cat([up, skip], 1)))
            number += 2
        return self.conv('logits', x)


@pytest.mark.parametrize(
    ('name', 'size', 'width'),
    [(name, size, width) for name, sizes in SIZES.items() for size in sizes for width in (0, 6)],
)
def test_heads_are_their_formulas(name, size, width):
    with jax.enable_x64(True):
        shapes = [(2, *size, 8)]
        if name == 'unet':  # each half of the one before, rounded up
            half = tuple(-(-side // 2) for side in size)
            shapes = [(2, *size, 4), (2, *half, 8), (2, *(-(-side // 2) for side in half), 12)]
        head, variables, features = made(name, shapes, width)
        found = jax.jit(lambda v, x: head.apply(v, x, train=False))(variables, features)
        maps = [torch.tensor(x).permute(0, 3, 1, 2) for x in features.values()]
        expected = getattr(Twin(variables), name)(maps).permute(0, 2, 3, 1).numpy()
    assert found.shape == (2, *size, 5)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    inside = {
        conv['kernel'].shape[-1] for name, conv in variables['params'].items() if 'conv' in name
    }
    if name == 'psp':  # a quarter of the channels each
        assert inside == {width or 2}
    else:  # half of the deepest, and half of that
        assert inside == {width or 6, (width or 6) // 2}


@pytest.mark.parametrize(
    'name',
    members(
        ['unet_resnet18', 'fcn_resnet50', 'retinanet_resnet50_fpn'],
        ('unet_resnet18', 'retinanet_resnet50_fpn'),
    ),
)
def test_heads_that_start_at_zero(name):
    """All classes begin equally likely, and boxes are the anchors."""
    small = {'stage_sizes': (1, 1, 1, 1), 'width': 4, 'stem_width': 4, 'zero_init_head': True}
    model = create_model(name, 3, **small)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 32, 32, 3)), jnp.float32)
    found, _ = jax.jit(lambda: model.init_with_output(jax.random.key(0), images, train=False))()
    if name.startswith('retinanet'):
        for level in found.levels:
            np.testing.assert_allclose(level.logits, np.log(0.01 / 0.99), rtol=1e-6)
            assert not np.any(level.offsets)
    else:
        assert not any(np.any(logits) for logits in found.values())
