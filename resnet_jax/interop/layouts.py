"""The names and shapes of a network's tensors in the layouts of publishers, and the way back."""

import functools
import re
import string
from collections.abc import Iterable

import flax.traverse_util
import jax
import numpy as np

from resnet_jax.errors import InputError
from resnet_jax.interop.publishers import LAYOUTS, Layout
from resnet_jax.models.design import DOWNSAMPLINGS, BlockDesign
from resnet_jax.models.inputs import example_input
from resnet_jax.models.layers import average_pool
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.stem import STEMS

Path = tuple[str, ...]  # of a tensor in our variables: ('params', 'stem', 'conv1', 'kernel')
Shapes = dict[Path, jax.ShapeDtypeStruct]

OURS = 'ours'  # the layout of our own files: paths joined by slashes, arrays unchanged


# Counters that the forward pass does not use.
IGNORED = ('num_batches_tracked', 'n_averaged')


@functools.lru_cache(maxsize=128)
def model_shapes(model: ResNet) -> Shapes:
    """Finds the shapes of a model's variables for `example_input` by path, blocks unrolled."""
    images = example_input(model)
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
    if model.dimensions not in layout.dimensions:
        return None
    if part in ('last_conv', 'last_norm'):
        number = sum(model.stage_sizes) + 1
        return layout.last and layout.last[part == 'last_norm'].format(number=number)
    if part == 'stem':
        kind, number = _numbered(rest[0])
        names = layout.stem.get(len(STEMS[model.stem].convolutions))
        return names[2 * number - 2 + (kind == 'norm')] if names and kind != 'bias' else None
    if not part.startswith('stage') or len(rest) < 2:
        return None
    stage, block = _numbered(part)[1] - 1, _numbered(rest[0])[1] - 1
    prefix = layout.block.format(
        stage=stage + layout.stage_from,
        block=block + layout.block_from,
        number=sum(model.stage_sizes[:stage]) + block + 1,
    )
    inner = _name_in_block(model.plans()[stage].design, layout, rest[1:])
    return None if inner is None else f'{prefix}{layout.separator}{inner}'


def _name_in_block(design: BlockDesign, layout: Layout, module: list[str]) -> str | None:
    pooled = DOWNSAMPLINGS[design.downsample][0] is average_pool
    shortcut = layout.pooled_shortcut if pooled else layout.shortcut
    named = {
        'shortcut_conv': shortcut and shortcut[0],
        'shortcut_norm': shortcut and shortcut[1],
    }
    if layout.squeeze_excite and module[0] == 'se' and design.se_place == 'standard':
        return layout.squeeze_excite[('reduce', 'expand').index(module[1])]
    if module == ['eca', 'conv']:
        return layout.eca
    kind, number = _numbered(module[0])
    if len(module) == 1 and number and kind in ('conv', 'norm'):
        return _name_of_layer(design, layout, kind, number)
    return named.get(module[0]) if len(module) == 1 else None


def _name_of_layer(design: BlockDesign, layout: Layout, kind: str, number: int) -> str | None:
    """Of a convolution, or a norm, of this number from 1, inside a block."""
    if design.convolution not in layout.convolutions or design.pointwise_groups > 1:
        return None
    template, order = getattr(layout, kind), number
    if names := layout.convolutions[design.convolution]:
        if number > len(design.layers):
            return None
        order = design.layers[number - 1].entry + 1
        first = next(i for i, each in enumerate(design.layers, 1) if each.entry == order - 1)
        template = names[2 * (number - first) + (kind == 'norm')]
    elif layout.ending and number == len(design.layers):
        template = layout.ending[kind == 'norm']
    i, letter = order - 1 + layout.conv_from, string.ascii_lowercase[order - 1]
    found: str = template.format(i=i, next=i + 1, letter=letter)
    return found


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
    order += ['torchvision_video'] if model.stem.startswith('video') else []
    for layout in [
        *order,
        *(['torchvision_mobile'] if model.last_width else []),
        'torchvision',
        'timm',
    ]:
        try:
            tensor_names(model, shapes, layout)
        except InputError:
            continue
        return layout
    return OURS
