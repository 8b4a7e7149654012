"""The same nets written in PyTorch, from the papers: outputs, loss, gradients, statistics.

In float64, because float32 gradients of correct implementations differ at the kinks of ReLU. The
PyTorch modules have the parameter paths of ours, so that weights move by name.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_blocks import fast_jit

from resnet_jax.models.blocks import BASIC, BOTTLENECK, BOTTLENECK_V1
from resnet_jax.models.resnet import ResNet

torch = pytest.importorskip('torch')

WIDTH = 4


def conv(c_in, c_out, size, stride=1, groups=1):
    return torch.nn.Conv2d(c_in, c_out, size, stride, size // 2, groups=groups, bias=False)


norm = torch.nn.BatchNorm2d


class Block(torch.nn.Module):
    """Subclasses fill in the branch; here is the shortcut of he2015, option B."""

    def __init__(self, c_in, c_out, stride, normalised=True):
        super().__init__()
        self.projects = stride != 1 or c_in != c_out
        if self.projects:
            self.shortcut_conv = conv(c_in, c_out, 1, stride)
            if normalised:
                self.shortcut_norm = norm(c_out)

    def shortcut(self, x):
        return self.shortcut_norm(self.shortcut_conv(x)) if self.projects else x


class Basic(Block):
    """he2015, figure 5 left."""

    expansion = 1

    def __init__(self, c_in, width, stride, first):
        super().__init__(c_in, width, stride)
        self.conv1, self.norm1 = conv(c_in, width, 3, stride), norm(width)
        self.conv2, self.norm2 = conv(width, width, 3), norm(width)

    def forward(self, x):
        h = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(h)) + self.shortcut(x))


class Bottleneck(Block):
    """he2015, figure 5 right, with torchvision's stride; grouped: resnext, figure 3c."""

    expansion = 4
    strides, groups, base_width = (1, 2, 1), 1, 64

    def __init__(self, c_in, width, stride, first):
        super().__init__(c_in, 4 * width, stride)
        inner = width * self.base_width // 64 * self.groups
        first_stride, second_stride, _ = (stride if s == 2 else 1 for s in self.strides)
        self.conv1, self.norm1 = conv(c_in, inner, 1, first_stride), norm(inner)
        self.conv2, self.norm2 = conv(inner, inner, 3, second_stride, self.groups), norm(inner)
        self.conv3, self.norm3 = conv(inner, 4 * width, 1), norm(4 * width)

    def branch(self, x):
        h = torch.relu(self.norm1(self.conv1(x)))
        h = torch.relu(self.norm2(self.conv2(h)))
        return self.norm3(self.conv3(h))

    def forward(self, x):
        return torch.relu(self.branch(x) + self.shortcut(x))


class BottleneckV1(Bottleneck):
    strides = (2, 1, 1)


class ResNeXt(Bottleneck):
    groups, base_width = 4, 32


class SqueezeExcite(torch.nn.Module):
    """senet, equations 2 to 4."""

    def __init__(self, channels, hidden):
        super().__init__()
        self.reduce = torch.nn.Linear(channels, hidden)
        self.expand = torch.nn.Linear(hidden, channels)

    def forward(self, x):
        gate = torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class SqueezeExciteBottleneck(Bottleneck):
    def __init__(self, c_in, width, stride, first):
        super().__init__(c_in, width, stride, first)
        self.se = SqueezeExcite(4 * width, 8)

    def forward(self, x):
        return torch.relu(self.se(self.branch(x)) + self.shortcut(x))


class BottleneckD(Bottleneck):
    """Bag of Tricks, figure 2c: the projection behind an average pool."""

    def __init__(self, c_in, width, stride, first):
        super().__init__(c_in, width, stride, first)
        if self.projects:
            self.shortcut_conv = conv(c_in, 4 * width, 1)
            self.pool = torch.nn.Identity()
            if stride > 1:
                self.pool = torch.nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)

    def shortcut(self, x):
        return super().shortcut(self.pool(x) if self.projects else x)


class PreactBasic(Block):
    """he2016, figure 4(e) and appendix."""

    expansion = 1

    def __init__(self, c_in, width, stride, first):
        super().__init__(c_in, width, stride, normalised=False)
        self.first = first
        self.norm1, self.conv1 = norm(c_in), conv(c_in, width, 3, stride)
        self.norm2, self.conv2 = norm(width), conv(width, width, 3)

    def forward(self, x):
        h = torch.relu(self.norm1(x))
        skip = self.shortcut_conv(h) if self.projects else h if self.first else x
        return self.conv2(torch.relu(self.norm2(self.conv1(h)))) + skip


class PreactBottleneck(Block):
    expansion = 4

    def __init__(self, c_in, width, stride, first):
        super().__init__(c_in, 4 * width, stride, normalised=False)
        self.first = first
        self.norm1, self.conv1 = norm(c_in), conv(c_in, width, 1)
        self.norm2, self.conv2 = norm(width), conv(width, width, 3, stride)
        self.norm3, self.conv3 = norm(width), conv(width, 4 * width, 1)

    def forward(self, x):
        h = torch.relu(self.norm1(x))
        skip = self.shortcut_conv(h) if self.projects else h if self.first else x
        h = self.conv2(torch.relu(self.norm2(self.conv1(h))))
        return self.conv3(torch.relu(self.norm3(h))) + skip


class Stem(torch.nn.Module):
    def __init__(self, kind, preactivated):
        super().__init__()
        widths, size, stride = {
            'cifar': ((WIDTH,), 3, 1),
            'imagenet': ((WIDTH,), 7, 2),
            'imagenet_deep': ((WIDTH // 2, WIDTH // 2, WIDTH), 3, 2),
        }[kind]
        self.kind, self.depth, c_in = kind, len(widths), 3
        for i, width in enumerate(widths, 1):
            setattr(self, f'conv{i}', conv(c_in, width, size, stride if i == 1 else 1))
            if i < len(widths) or not preactivated:
                setattr(self, f'norm{i}', norm(width))
            c_in = width

    def forward(self, x):
        for i in range(1, self.depth + 1):
            x = getattr(self, f'conv{i}')(x)
            if hasattr(self, f'norm{i}'):
                x = torch.relu(getattr(self, f'norm{i}')(x))
        return x if self.kind == 'cifar' else torch.nn.functional.max_pool2d(x, 3, 2, 1)


class Net(torch.nn.Module):
    def __init__(self, block, stem):
        super().__init__()
        self.preactivated = 'Preact' in block.__name__
        self.stem, c_in = Stem(stem, self.preactivated), WIDTH
        self.stages = []
        for stage, depth, width in ((1, 2, WIDTH), (2, 1, 2 * WIDTH)):
            blocks = {}
            for number in range(1, depth + 1):
                stride = 2 if (stage, number) == (2, 1) else 1
                blocks[f'block{number}'] = block(c_in, width, stride, (stage, number) == (1, 1))
                c_in = width * block.expansion
            setattr(self, f'stage{stage}', torch.nn.ModuleDict(blocks))
            self.stages += blocks.values()
        if self.preactivated:
            self.final_norm = norm(c_in)
        self.head = torch.nn.Linear(c_in, 5)

    def forward(self, x):
        x = self.stem(x)
        for block in self.stages:
            x = block(x)
        if self.preactivated:
            x = torch.relu(self.final_norm(x))
        return self.head(x.mean((2, 3)))


def to_ours(named):
    """Arrays of a PyTorch module by name, as a tree in our layout."""
    leaves = {'running_mean': 'mean', 'running_var': 'var', 'bias': 'bias'}
    tree = {}
    for name, tensor in named:
        *path, leaf = name.split('.')
        array = tensor.detach().numpy()
        if leaf == 'weight':
            leaf = 'scale' if array.ndim == 1 else 'kernel'
            array = array.transpose((2, 3, 1, 0) if array.ndim == 4 else None)
        else:
            leaf = leaves[leaf]
        part = tree
        for step in path:
            part = part.setdefault(step, {})
        part[leaf] = jnp.asarray(array)
    return tree


def statistics(net):
    return to_ours((n, b) for n, b in net.named_buffers() if 'num_batches' not in n)


def assert_equal(actual, expected):
    """To the rounding of float64, which grows on the way back through the norms."""
    scale = max(1.0, float(jnp.abs(expected).max()))
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-10 * scale)


PREACT = {'placement': 'full_preact'}
NETS = {
    'basic': (Basic, BASIC, {}, 'cifar'),
    'basic_imagenet': (Basic, BASIC, {}, 'imagenet'),
    'bottleneck': (Bottleneck, BOTTLENECK, {}, 'cifar'),
    'bottleneck_v1': (BottleneckV1, BOTTLENECK_V1, {}, 'cifar'),
    'preact_basic': (PreactBasic, BASIC, PREACT, 'cifar'),
    'preact_bottleneck': (PreactBottleneck, BOTTLENECK, PREACT, 'imagenet'),
    'se': (SqueezeExciteBottleneck, BOTTLENECK, {'se_ratio': 1 / 16}, 'cifar'),
    'resnext': (ResNeXt, BOTTLENECK, {'groups': 4, 'base_width': 32}, 'cifar'),
    'd': (BottleneckD, BOTTLENECK, {'downsample': 'average'}, 'imagenet_deep'),
}


@pytest.mark.parametrize('name', NETS)
def test_our_net_is_pytorchs(name, standard_promotion):
    block, design, fields, stem = NETS[name]
    generator = torch.Generator().manual_seed(0)
    net = Net(block, stem).double()
    for tensor in [*net.parameters(), *(b for b in net.buffers() if b.is_floating_point())]:
        low = 0.5 if tensor.ndim == 1 else -0.5  # scales and variances are positive
        tensor.data.uniform_(low, low + 1, generator=generator)
    size = 9 if stem == 'cifar' else 18  # odd where the second stage strides: 9, 18 / 4 = 5
    images = torch.randn(3, 3, size, size + 2, generator=generator, dtype=torch.float64)
    images.requires_grad_()
    labels = torch.tensor([1, 4, 0])

    counts = {}  # values that each norm takes together, by the path of its statistics
    for path, module in net.named_modules():
        if isinstance(module, norm):
            module.register_forward_hook(
                lambda _, args, out, path=path: counts.update({path: out.numel() // out.shape[1]})
            )
    with jax.enable_x64(True):
        params, old = to_ours(net.named_parameters()), statistics(net)
        net.eval()
        evaluated = net(images).detach().numpy()
        net.train()
        logits = net(images)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        loss.backward()
        expected = to_ours((n, p.grad) for n, p in net.named_parameters())
        new = statistics(net)
        compare(
            ResNet(
                (2, 1),
                dataclasses.replace(design, **fields),
                5,
                stem=stem,
                stem_width=WIDTH,
                width=WIDTH,
                dtype=jnp.float64,
            ),
            {'params': params, 'batch_stats': old},
            *(jnp.asarray(t.detach().numpy().transpose(0, 2, 3, 1)) for t in (images, images.grad)),
            jnp.asarray(labels.numpy()),
            evaluated=evaluated,
            logits=logits.detach().numpy(),
            loss=loss.item(),
            gradient=expected,
            statistics=new,
            counts=counts,
        )


def compare(model, variables, images, images_gradient, labels, **expected):
    @fast_jit
    def run(params, images):
        def loss(params, images):
            logits, state = model.apply(
                {**variables, 'params': params}, images, train=True, mutable=['batch_stats']
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), (logits, state)

        evaluated = model.apply(variables, images, train=False)
        return evaluated, jax.value_and_grad(loss, (0, 1), has_aux=True)(params, images)

    evaluated, ((loss, (logits, state)), gradients) = run(variables['params'], images)
    assert logits.dtype == jnp.float64
    assert_equal(evaluated, expected['evaluated'])
    assert_equal(logits, expected['logits'])
    assert math.isclose(loss, expected['loss'], rel_tol=1e-10)
    jax.tree.map(assert_equal, gradients[0], expected['gradient'])
    assert_equal(gradients[1], images_gradient)

    def as_pytorch(path, new, old):
        """PyTorch's running variance takes the unbiased variance: n / (n - 1) of ours."""
        n = expected['counts']['.'.join(key.key for key in path[:-1])]
        batch = (new - 0.9 * old) / 0.1
        return 0.9 * old + 0.1 * batch * (n / (n - 1) if path[-1].key == 'var' else 1)

    ours = jax.tree.map_with_path(as_pytorch, state['batch_stats'], variables['batch_stats'])
    jax.tree.map(assert_equal, ours, expected['statistics'])
