"""Layouts: how other libraries name and store the tensors of a residual network, one row each.

A row holds templates that turn our parameter paths (`stage1/block2/conv1/kernel`) into names, so a
new model needs no change here and a new publisher is a new row.
"""

import dataclasses
import functools
import re
import string
from collections.abc import Iterable, Mapping

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import InputError
from resnet_jax.models.design import DOWNSAMPLINGS
from resnet_jax.models.layers import average_pool
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.stem import STEMS

Path = tuple[str, ...]  # of a tensor in our variables: ('params', 'stem', 'conv1', 'kernel')
Shapes = dict[Path, jax.ShapeDtypeStruct]

OURS = 'ours'  # the layout of our own files: paths joined by slashes, arrays unchanged


# Our names of the arrays of a convolution or fully connected layer, and of a norm -> PyTorch's.
_LEAVES = {'kernel': 'weight', 'bias': 'bias'}
_NORM_LEAVES = {
    'scale': 'weight',
    'bias': 'bias',
    'mean': 'running_mean',
    'var': 'running_var',
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The names of a publisher. Templates use {stage}, {block}, {i} and {letter} (a for 1, ...).

    Attributes:
      stem: names of conv1, norm1, conv2, ... by the number of convolutions in the stem. None, here
        and below: such nets of this publisher have no such part.
      block: of a residual block.
      conv, norm: inside a block.
      shortcut: of the shortcut's convolution and norm, inside a block.
      pooled_shortcut: the same after an average pool.
      squeeze_excite: of its two layers, inside a block.
      eca: of the convolution of efficient channel attention, inside a block.
      final_norm: of a pre-activation net.
      head: of the classifier.
      stage_from, block_from, conv_from: numbers of the first stage, block, convolution.
      body_prefix: precedes all names except the head's; absent in a file of the body alone.
      raw_first_shortcut: whether the first block of its pre-activation nets activates only its
        branch, see `BlockDesign`.
      as_convolution: our fully connected layers that it stores as 1x1 convolutions.
      leaves: our names of the arrays of a convolution or fully connected layer -> its names.
      norm_leaves: the same for a norm.
      norm_ones: number of axes of length 1 before the channels in the arrays of its norms.
      separator: between the parts of a name.
      outputs_first: whether the axes of kernels are [outputs, inputs, window], as in PyTorch; else
        they are ours, [window, inputs, outputs].
    """

    stem: Mapping[int, tuple[str | None, ...]]
    block: str = 'layer{stage}.{block}'
    conv: str = 'conv{i}'
    norm: str = 'bn{i}'
    shortcut: tuple[str, str | None] = ('downsample.0', 'downsample.1')
    pooled_shortcut: tuple[str, str | None] | None = None
    squeeze_excite: tuple[str, str] | None = None
    eca: str | None = None
    final_norm: str | None = None
    head: str = 'fc'
    stage_from: int = 1
    block_from: int = 0
    conv_from: int = 1
    body_prefix: str = ''
    raw_first_shortcut: bool = False
    as_convolution: tuple[str, ...] = ()
    leaves: Mapping[str, str] = dataclasses.field(default_factory=lambda: _LEAVES)
    norm_leaves: Mapping[str, str] = dataclasses.field(default_factory=lambda: _NORM_LEAVES)
    norm_ones: int = 0
    separator: str = '.'
    outputs_first: bool = True


_PLAIN_STEM = {1: ('conv1', 'bn1')}

LAYOUTS = {
    # torchvision/models/resnet.py
    'torchvision': Layout(stem=_PLAIN_STEM),
    # timm/models/resnet.py: the same names for the same nets, and deep stems, ResNet-D and SE.
    'timm': Layout(
        stem={**_PLAIN_STEM, 3: ('conv1.0', 'conv1.1', 'conv1.3', 'conv1.4', 'conv1.6', 'bn1')},
        pooled_shortcut=('downsample.1', 'downsample.2'),
        squeeze_excite=('se.fc1', 'se.fc2'),
        eca='se.conv',
        as_convolution=('reduce', 'expand'),
    ),
    # timm/models/resnetv2.py: pre-activation, and BiT
    'timm_v2': Layout(
        stem={
            1: ('stem.conv', None),
            3: ('stem.conv1', 'stem.norm1', 'stem.conv2', 'stem.norm2', 'stem.conv3', None),
        },
        block='stages.{stage}.blocks.{block}',
        norm='norm{i}',
        shortcut=('downsample.conv', None),
        pooled_shortcut=('downsample.conv', None),
        final_norm='norm',
        head='head.fc',
        stage_from=0,
        raw_first_shortcut=True,
        as_convolution=('head',),
    ),
    # google-research/big_transfer, bit_pytorch/models.py: the .npz files of TensorFlow's variables
    'bit': Layout(
        stem={1: ('resnet/root_block/standardized_conv2d', None)},
        block='resnet/block{stage}/unit{block:02}',
        conv='{letter}/standardized_conv2d',
        norm='{letter}/group_norm',
        shortcut=('a/proj/standardized_conv2d', None),
        final_norm='resnet/group_norm',
        head='resnet/head/conv2d',
        block_from=1,
        as_convolution=('head',),
        leaves={'kernel': 'kernel', 'bias': 'bias'},
        norm_leaves={'scale': 'gamma', 'bias': 'beta'},
        separator='/',
        outputs_first=False,
    ),
    # google-research/big_vision, models/bit_paper.py: Flax's variables
    'big_vision': Layout(
        stem={1: ('root_block/conv_root', None)},
        block='block{stage}/unit{block:02}',
        norm='gn{i}',
        shortcut=('conv_proj', None),
        final_norm='norm-pre-head',
        head='head',
        block_from=1,
        leaves={'kernel': 'kernel', 'bias': 'bias'},
        norm_leaves={'scale': 'scale', 'bias': 'bias'},
        norm_ones=3,
        separator='/',
        outputs_first=False,
    ),
    # transformers/models/resnet/modeling_resnet.py
    'huggingface': Layout(
        stem={1: ('embedder.embedder.convolution', 'embedder.embedder.normalization')},
        block='encoder.stages.{stage}.layers.{block}',
        conv='layer.{i}.convolution',
        norm='layer.{i}.normalization',
        shortcut=('shortcut.convolution', 'shortcut.normalization'),
        head='classifier.1',
        stage_from=0,
        conv_from=0,
        body_prefix='resnet.',
    ),
    # The CIFAR nets of many repositories, after github.com/akamaster/pytorch_resnet_cifar10 and
    # github.com/kuangliu/pytorch-cifar.
    'cifar': Layout(
        stem=_PLAIN_STEM,
        shortcut=('shortcut.0', 'shortcut.1'),
        final_norm='bn',
        head='linear',
        raw_first_shortcut=True,
    ),
}

# Counters that the forward pass does not use.
IGNORED = ('num_batches_tracked', 'n_averaged')


@functools.lru_cache(maxsize=128)
def model_shapes(model: ResNet) -> Shapes:
    """Finds the shapes of a model's variables for RGB images by path, blocks unrolled."""
    images = jax.ShapeDtypeStruct((1, *(64,) * model.dimensions, 3), jnp.float32)
    unrolled = model.clone(scan_blocks=False)
    variables = jax.eval_shape(lambda x: unrolled.init(jax.random.key(0), x, train=False), images)
    return flax.traverse_util.flatten_dict(variables)


def tensor_names(model: ResNet, paths: Iterable[Path], layout: str) -> dict[Path, str]:
    """Names the tensors of a model in a layout.

    Args:
      model: the model.
      paths: of its variables, blocks unrolled.
      layout: a key of `LAYOUTS`, or `OURS`.

    Returns:
      The name for each path.

    Raises:
      InputError: if the layout has no name for a part of the model.
    """
    if layout == OURS:
        return {path: '/'.join(path) for path in paths}
    paths = list(paths)
    if _first_shortcuts_differ(model, LAYOUTS[layout], paths):
        raise InputError(
            f'in layout {layout} the first block of a pre-activation net activates only its '
            'branch, in this model its shortcut too (he2016): the same tensors would compute '
            'another function; set raw_first_shortcut=True, or write our own layout '
            f'(--layout {OURS})'
        )
    names = {}
    for path in paths:
        _, *module, leaf = path
        row = LAYOUTS[layout]
        name = _module_name(model, row, tuple(module))
        leaves = row.norm_leaves if _is_of_norm(path) else row.leaves
        if name is None or leaf not in leaves:
            raise InputError(
                f'layout {layout} has no name for {"/".join(module)} of this model; write our own '
                f'layout instead (--layout {OURS})'
            )
        names[path] = f'{name}{row.separator}{leaves[leaf]}'
    return names


def _first_shortcuts_differ(model: ResNet, layout: Layout, paths: list[Path]) -> bool:
    # Only for a shortcut without parameters: the others take the activated input in every layout.
    first = ('params', 'stage1', 'block1')
    matters = (*first, 'norm1', 'scale') in paths and ('params', 'final_norm', 'scale') in paths
    matters = matters and (*first, 'shortcut_conv', 'kernel') not in paths
    return matters and layout.raw_first_shortcut != model.block.raw_first_shortcut


def _module_name(model: ResNet, layout: Layout, module: Path) -> str | None:
    if module == ('head',):
        return layout.head
    name = _body_name(model, layout, module)
    return None if name is None else layout.body_prefix + name


def _body_name(model: ResNet, layout: Layout, module: Path) -> str | None:
    if module == ('final_norm',):
        return layout.final_norm
    part, *rest = module
    if part == 'stem':
        kind, number = _numbered(rest[0])
        names = layout.stem.get(len(STEMS[model.stem].convolutions))
        return names[2 * number - 2 + (kind == 'norm')] if names and kind != 'bias' else None
    if not part.startswith('stage') or len(rest) < 2:
        return None
    prefix = layout.block.format(
        stage=_numbered(part)[1] - 1 + layout.stage_from,
        block=_numbered(rest[0])[1] - 1 + layout.block_from,
    )
    inner = _name_in_block(model, layout, rest[1:])
    return None if inner is None else f'{prefix}{layout.separator}{inner}'


def _name_in_block(model: ResNet, layout: Layout, module: list[str]) -> str | None:
    pooled = DOWNSAMPLINGS[model.block.downsample][0] is average_pool
    shortcut = layout.pooled_shortcut if pooled else layout.shortcut
    named = {
        'shortcut_conv': shortcut and shortcut[0],
        'shortcut_norm': shortcut and shortcut[1],
    }
    if layout.squeeze_excite and module[0] == 'se' and model.block.se_place == 'standard':
        return layout.squeeze_excite[('reduce', 'expand').index(module[1])]
    if module == ['eca', 'conv']:
        return layout.eca
    kind, number = _numbered(module[0])
    if len(module) == 1 and number and kind in ('conv', 'norm'):
        letter = string.ascii_lowercase[number - 1]
        return getattr(layout, kind).format(i=number - 1 + layout.conv_from, letter=letter)
    return named.get(module[0]) if len(module) == 1 else None


def _numbered(name: str) -> tuple[str, int]:
    """('conv', 2) for 'conv2'; number 0 without digits."""
    match = re.fullmatch(r'(.*?)(\d*)', name)
    assert match
    return match[1], int(match[2] or 0)


def their_shape(path: Path, shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """Computes the shape of our tensor of this path and shape in a layout."""
    if layout != OURS and _is_of_norm(path):
        return (1,) * LAYOUTS[layout].norm_ones + shape
    if layout == OURS or path[-1] != 'kernel':
        return shape
    *window, inputs, outputs = shape
    if path[-2] in LAYOUTS[layout].as_convolution:
        window = [1, 1]
    if LAYOUTS[layout].outputs_first:
        return (outputs, inputs, *window)
    return (*window, inputs, outputs)


def to_theirs(path: Path, array: np.ndarray, layout: str) -> np.ndarray:
    """Converts our array to a layout."""
    shape = their_shape(path, array.shape, layout)
    if layout == OURS or path[-1] != 'kernel':
        return array.reshape(shape)
    if LAYOUTS[layout].outputs_first:
        array = np.transpose(array, (array.ndim - 1, array.ndim - 2, *range(array.ndim - 2)))
    return np.ascontiguousarray(array.reshape(shape))


def to_ours(path: Path, array: np.ndarray, layout: str) -> np.ndarray:
    """Inverts `to_theirs`; accepts a fully connected layer as a 1x1 convolution, too."""
    if layout != OURS and _is_of_norm(path):
        return array.reshape(-1)
    if layout == OURS or path[-1] != 'kernel':
        return array
    outputs_first = LAYOUTS[layout].outputs_first
    if _is_fully_connected(path):
        array = array.reshape(array.shape[:2] if outputs_first else array.shape[-2:])
    if outputs_first:
        array = np.transpose(array, (*range(2, array.ndim), 1, 0))
    return np.ascontiguousarray(array)


def _is_of_norm(path: Path) -> bool:
    return 'norm' in path[-2]


def _is_fully_connected(path: Path) -> bool:
    return path[-1] == 'kernel' and path[-2] in ('head', 'reduce', 'expand')


def same_shape(path: Path, theirs: tuple[int, ...], expected: tuple[int, ...], layout: str) -> bool:
    """Compares shapes in a layout; accepts a fully connected layer as a 1x1 convolution, too."""
    if not _is_fully_connected(path):
        return theirs == expected
    ones = (1,) * (len(theirs) - 2)
    if layout == OURS or LAYOUTS[layout].outputs_first:
        return theirs[:2] == expected[:2] and theirs[2:] == ones
    return theirs[-2:] == expected[-2:] and theirs[:-2] == ones


def input_channels(kernel: tuple[int, ...], layout: str) -> int:
    """The input channels of a convolution with a kernel of this shape in a layout."""
    return kernel[1] if layout != OURS and LAYOUTS[layout].outputs_first else kernel[-2]


def natural_layout(model: ResNet) -> str:
    """Chooses the layout in which models of this kind are published, or our own."""
    shapes = model_shapes(model)
    preactivated = ('params', 'final_norm', 'scale') in shapes
    order = ['cifar'] if model.stem == 'cifar' else ['timm_v2'] if preactivated else []
    for layout in [*order, 'torchvision', 'timm']:
        try:
            tensor_names(model, shapes, layout)
        except InputError:
            continue
        return layout
    return OURS
