"""The formulas of blocks in plain NumPy, in float64, written from the papers alone.

Independent of the package: tests compare the models with these. `FORMULAS` has one per placement.
"""

import functools

import jax
import numpy as np

EPSILON = 1e-5  # of every norm


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def convolve(x, kernel, stride=1, dilation=1):
    """Sums over the kernel's taps; zero padding of half the kernel on each side."""
    dims, size = x.ndim - 2, kernel.shape[0]
    pad = dilation * (size // 2)
    outputs = [(n - 1) // stride + 1 for n in x.shape[1:-1]]
    x = np.pad(x, ((0, 0), *((pad, pad),) * dims, (0, 0)))
    y = 0
    for tap in np.ndindex(*kernel.shape[:dims]):
        window = [
            slice(dilation * t, dilation * t + stride * (n - 1) + 1, stride)
            for t, n in zip(tap, outputs, strict=True)
        ]
        y = y + x[(slice(None), *window)] @ kernel[tap]
    return y


def normalise(x, axes, scale, bias):
    normal = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPSILON)
    return normal * scale + bias


class Formula:
    """The operations of a block with its own weights.

    `new_stats` collects what a training forward should leave in `batch_stats`.
    """

    def __init__(self, variables, train=False, shortcut_norm=True, groups=1):
        to64 = functools.partial(jax.tree.map, lambda a: np.asarray(a, np.float64))
        self.params = to64(variables['params'])
        self.stats = to64(variables.get('batch_stats', {}))
        self.train = train
        self.shortcut_norm = shortcut_norm
        self.groups = groups
        self.new_stats = {}

    def part(self, *names):
        """The formula of a part of a model, such as a stage's block."""
        new = Formula({'params': {}}, self.train, self.shortcut_norm, self.groups)
        new.params, new.stats = self.params, self.stats
        for name in names:
            new.params, new.stats = new.params[name], new.stats.get(name, {})
        return new

    def conv(self, name, x, stride=1, dilation=1):
        kernel = self.params[name]['kernel']
        groups = self.groups if kernel.shape[0] > 1 else 1
        if groups == 1:
            return convolve(x, kernel, stride, dilation)
        halves = zip(np.split(x, groups, -1), np.split(kernel, groups, -1), strict=True)
        return np.concatenate([convolve(a, k, stride, dilation) for a, k in halves], -1)

    def norm(self, name, x):
        p = self.params[name]
        if self.train:
            axes = tuple(range(x.ndim - 1))
            self.new_stats[name] = {
                key: 0.9 * self.stats[name][key] + 0.1 * batch
                for key, batch in (('mean', x.mean(axes)), ('var', x.var(axes)))
            }
            return normalise(x, axes, p['scale'], p['bias'])
        stats = self.stats[name]
        return (x - stats['mean']) / np.sqrt(stats['var'] + EPSILON) * p['scale'] + p['bias']

    def shortcut(self, kind, x, channels, stride, norm):
        if kind == 'identity':
            return x
        if kind == 'norm':
            return self.norm('shortcut_norm', x)
        if kind == 'zero_pad':
            x = x[(slice(None), *(slice(None, None, stride),) * (x.ndim - 2))]
            zeros = np.zeros((*x.shape[:-1], (channels - x.shape[-1]) // 2))
            return np.concatenate([zeros, x, zeros], -1)
        y = self.conv('shortcut_conv', x, stride)
        return self.norm('shortcut_norm', y) if norm and self.shortcut_norm else y

    def squeeze_excite(self, x):
        """arXiv 1709.01507, equations 2 to 4."""
        p = self.params['se']
        z = x.mean(tuple(range(1, x.ndim - 1)), keepdims=True)
        z = relu(z @ p['reduce']['kernel'] + p['reduce']['bias'])
        return x * sigmoid(z @ p['expand']['kernel'] + p['expand']['bias'])


def original(f, x, strides, kind, channels):
    """he2015, equation 2 and he2016, figure 4(a): y = relu(F(x) + shortcut(x))."""
    n, stride, h = len(strides), max(strides), x
    for i in range(1, n):
        h = relu(f.norm(f'norm{i}', f.conv(f'conv{i}', h, strides[i - 1])))
    h = f.norm(f'norm{n}', f.conv(f'conv{n}', h, strides[-1]))
    return relu(h if kind is None else h + f.shortcut(kind, x, channels, stride, norm=True))


def linear(f, x, strides, kind, channels):
    """arXiv 1801.04381, figure 4d: nothing follows the addition."""
    n, stride, h = len(strides), max(strides), x
    for i in range(1, n):
        h = relu(f.norm(f'norm{i}', f.conv(f'conv{i}', h, strides[i - 1])))
    h = f.norm(f'norm{n}', f.conv(f'conv{n}', h, strides[-1]))
    return h if kind is None else h + f.shortcut(kind, x, channels, stride, norm=True)


def bn_after_add(f, x, strides, kind, channels):
    """he2016, figure 4(b): the last norm moves after the addition."""
    n, stride, h = len(strides), max(strides), x
    for i in range(1, n):
        h = relu(f.norm(f'norm{i}', f.conv(f'conv{i}', h, strides[i - 1])))
    h = f.conv(f'conv{n}', h, strides[-1])
    if kind is not None:
        h = h + f.shortcut(kind, x, channels, stride, norm=False)
    return relu(f.norm(f'norm{n}', h))


def relu_before_add(f, x, strides, kind, channels):
    """he2016, figure 4(c): the last relu moves before the addition."""
    stride, h = max(strides), x
    for i in range(1, len(strides) + 1):
        h = relu(f.norm(f'norm{i}', f.conv(f'conv{i}', h, strides[i - 1])))
    return h if kind is None else h + f.shortcut(kind, x, channels, stride, norm=True)


def relu_only_preact(f, x, strides, kind, channels, first=False):
    """he2016, figure 4(d) and appendix: relu, convolution, norm, as often as there are layers."""
    stride, h = max(strides), relu(x)
    skip = h if first or kind == 'projection' else x
    for i in range(1, len(strides) + 1):
        h = h if i == 1 else relu(h)
        h = f.norm(f'norm{i}', f.conv(f'conv{i}', h, strides[i - 1]))
    return h if kind is None else h + f.shortcut(kind, skip, channels, stride, norm=True)


def full_preact(f, x, strides, kind, channels, first=False):
    """he2016, figure 4(e) and appendix: y = F(relu(norm(x))) + shortcut."""
    stride = max(strides)
    h = relu(f.norm('norm1', x))
    skip = h if first or kind == 'projection' else x
    for i in range(1, len(strides)):
        h = relu(f.norm(f'norm{i + 1}', f.conv(f'conv{i}', h, strides[i - 1])))
    h = f.conv(f'conv{len(strides)}', h, strides[-1])
    return h if kind is None else h + f.shortcut(kind, skip, channels, stride, norm=False)


FORMULAS = {
    'original': original,
    'bn_after_add': bn_after_add,
    'relu_before_add': relu_before_add,
    'relu_only_preact': relu_only_preact,
    'full_preact': full_preact,
    'linear': linear,
}

# he2015's options where the block keeps the shape and where it changes it; he2016's figure 2(e) is
# a convolution everywhere, without a norm.
KINDS = {
    'zero_pad': ('identity', 'zero_pad'),
    'projection': ('identity', 'projection'),
    'projection_all': ('projection', 'projection'),
    'conv1x1': ('projection', 'projection'),
    'normed': ('norm', 'projection'),
    'where_kept': ('identity', None),
    'none': (None, None),
}


def strides_of(design, stride):
    return [stride if i == design.stride_at else 1 for i in range(len(design.kernels))]
