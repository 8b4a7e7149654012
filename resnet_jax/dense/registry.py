"""The registered dense networks, one row each, and how any network is created by its name."""

import dataclasses
import fnmatch
from typing import Any, TypeVar, cast

import jax.numpy as jnp

from resnet_jax.dense.backbone import FEATURES, Backbone
from resnet_jax.dense.detector import Detector
from resnet_jax.dense.segmenter import Segmenter
from resnet_jax.errors import InputError, Range, check_choice, shown
from resnet_jax.models import ResNet, registry
from resnet_jax.models.rows import MODELS, ModelRow


@dataclasses.dataclass(frozen=True)
class DenseRow:
    """A registered dense network.

    Attributes:
      task: 'segmentation' or 'detection'.
      backbone: a key of `MODELS`.
      features: of the backbone.
      settings: of `Segmenter` or `Detector`.
      output_stride: of the backbone; 0: no limit.
      num_classes: of the published weights: 21 of Pascal VOC, 91 of COCO's numbers.
      image_size: side of the images that its counts are for, pixels.
      paper: of it.
    """

    task: str
    backbone: str
    features: tuple[str, ...]
    settings: dict[str, Any]
    output_stride: int
    num_classes: int
    image_size: int
    paper: str


def _segmenter(backbone: str, head: str, paper: str) -> DenseRow:
    # At output stride 8, with the auxiliary head that torchvision's weights have.
    settings = {'head': head, 'aux': 'stage3'}
    return DenseRow('segmentation', backbone, FEATURES[2:], settings, 8, 21, 520, paper)


DENSE_MODELS: dict[str, DenseRow] = {
    **{f'fcn_resnet{d}': _segmenter(f'resnet{d}', 'fcn', 'arXiv 1411.4038') for d in (50, 101)},
    **{
        f'deeplabv3_resnet{d}': _segmenter(f'resnet{d}', 'aspp', 'arXiv 1706.05587')
        for d in (50, 101)
    },
    'pspnet_resnet50': _segmenter('resnet50', 'psp', 'arXiv 1612.01105'),
    'unet_resnet18': DenseRow(
        *('segmentation', 'resnet18', FEATURES, {'head': 'unet'}, 0, 21, 256, 'arXiv 1505.04597')
    ),
    # COCO's numbers of classes reach from 0, which is none, to 90.
    'retinanet_resnet50_fpn': DenseRow(
        *('detection', 'resnet50', FEATURES[1:], {}, 0, 91, 800, 'arXiv 1708.02002')
    ),
}
Network = ResNet | Segmenter | Detector
SomeNetwork = TypeVar('SomeNetwork', bound=Network)
_KINDS: dict[str, Any] = {'segmentation': Segmenter, 'detection': Detector}
_FIXED = {'parent', 'name', 'backbone', 'num_classes'}


def create_backbone(
    name: str,
    features: tuple[str, ...] = FEATURES,
    *,
    output_stride: int = 0,
    frozen: int = 0,
    dtype: Any = jnp.float32,
    **overrides: Any,
) -> Backbone:
    """Creates the body of a registered network as a Flax module.

    Args:
      name: of the network, such as 'resnet50' or 'preact_resnet18'.
      features: the stages that it returns, see `Backbone`.
      output_stride: upper limit of the reduction, 8 or 16, by dilation; 0: no limit.
      frozen: how many parts do not learn, see `Backbone`.
      dtype: of the computation.
      **overrides: any field of the network, as `models.create_model` takes them.

    Raises:
      InputError: for an unknown name or field, or a bad value.
    """
    net = registry.create_model(name, dtype=dtype, output_stride=output_stride, **overrides)
    return Backbone(net, tuple(features), frozen)


def create_model(
    name: str, num_classes: int | None = None, dtype: Any = jnp.float32, **overrides: Any
) -> Any:
    """Creates a registered network as a Flax module: of `models.create_model`, or a dense one.

    Args:
      name: one of `list_models()`.
      num_classes: number of logits; by default as many as the published weights have.
      dtype: of the computation.
      **overrides: fields of `ResNet`, of its `BlockDesign` and, of a dense network, of `Segmenter`
        or `Detector`; and its `backbone`, the name of another network, and its `features` and
        `frozen`.

    Returns:
      A `ResNet`, `Segmenter` or `Detector`.

    Raises:
      InputError: for an unknown name or field, or a bad value.
    """
    if name in MODELS:
        return registry.create_model(name, num_classes, dtype, **overrides)
    check_choice('model', name, [*MODELS, *DENSE_MODELS])
    row = DENSE_MODELS[name]
    kind, own = _KINDS[row.task], _own_fields(row)
    settings = row.settings | {k: v for k, v in overrides.items() if k in own}
    rest = {k: v for k, v in overrides.items() if k not in own}
    rest.setdefault('output_stride', row.output_stride)
    features = tuple(rest.pop('features', row.features))
    body = rest.pop('backbone', row.backbone)
    backbone = create_backbone(body, features, dtype=dtype, **rest)
    classes = row.num_classes if num_classes is None else num_classes
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise InputError(f'num_classes must be at least 1, got {shown(classes)}')
    return kind(backbone=backbone, num_classes=classes, **settings)


def _own_fields(row: DenseRow) -> set[str]:
    """What a row's network has besides its backbone."""
    return {field.name for field in dataclasses.fields(_KINDS[row.task])} - _FIXED


def dense_fields(name: str) -> set[str]:
    """The overrides that a dense network takes and `ResNet` does not; none of another name."""
    if name not in DENSE_MODELS:
        return set()
    return _own_fields(DENSE_MODELS[name]) | {'backbone', 'features', 'frozen'}


ALL_DENSE_FIELDS = {field for name in DENSE_MODELS for field in dense_fields(name)}


def task_of(name: str) -> str:
    """What a network does: 'classification', 'segmentation' or 'detection'."""
    return DENSE_MODELS[name].task if name in DENSE_MODELS else 'classification'


def models_of(task: str) -> list[str]:
    """The networks that do it, the smallest first among the dense ones."""
    if task == 'classification':
        return list(MODELS)
    return [name for name, row in DENSE_MODELS.items() if row.task == task][::-1]


# The numbers that fields of dense networks take.
RANGES: dict[str, Range] = {
    **dict.fromkeys(('head_width', 'frozen'), Range(0, 2**16, whole=True)),
    'pyramid_width': Range(1, 2**16, whole=True),
    'anchor_scale': Range(0, 1000, open='low'),
}


def row_of(name: str, backbone: str | None = None) -> ModelRow:
    """The row of a network, of a dense one that of its backbone, or of another in its place.

    Raises:
      InputError: for an unknown name, suggesting the nearest.
    """
    if name in DENSE_MODELS:
        return registry.model_row(backbone or DENSE_MODELS[name].backbone)
    check_choice('model', name, [*MODELS, *DENSE_MODELS])
    return MODELS[name]


def net_of(model: Network) -> ResNet:
    """The `ResNet` itself, or that in a dense network."""
    return model if isinstance(model, ResNet) else model.backbone.net


def with_net_fields(model: SomeNetwork, **fields: Any) -> SomeNetwork:
    """The same network with other fields of its `ResNet`."""
    if isinstance(model, ResNet):
        return model.clone(**fields)
    net = model.backbone.net.clone(**fields)
    return cast(SomeNetwork, model.clone(backbone=model.backbone.clone(net=net)))


def list_models(pattern: str = '*') -> list[str]:
    """Lists the registered networks, the dense ones last; `pattern` as of `models.list_models`."""
    dense = [name for name in DENSE_MODELS if fnmatch.fnmatchcase(name, pattern)]
    return [*registry.list_models(pattern), *dense]
