"""The registered dense networks, one row each, and how any network is created by its name."""

import dataclasses
import fnmatch
from typing import Any

import jax.numpy as jnp

from resnet_jax.dense.backbone import FEATURES, Backbone
from resnet_jax.dense.detector import Detector
from resnet_jax.dense.segmenter import Segmenter
from resnet_jax.errors import InputError, check_choice, shown
from resnet_jax.models import registry
from resnet_jax.models.rows import MODELS


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
    """

    task: str
    backbone: str
    features: tuple[str, ...]
    settings: dict[str, Any]
    output_stride: int
    num_classes: int


def _segmenter(backbone: str, head: str) -> DenseRow:
    # At output stride 8, with the auxiliary head that torchvision's weights have.
    settings = {'head': head, 'aux': 'stage3'}
    return DenseRow('segmentation', backbone, FEATURES[2:], settings, 8, 21)


DENSE_MODELS: dict[str, DenseRow] = {
    **{f'fcn_resnet{d}': _segmenter(f'resnet{d}', 'fcn') for d in (50, 101)},  # arXiv 1411.4038
    # arXiv 1706.05587
    **{f'deeplabv3_resnet{d}': _segmenter(f'resnet{d}', 'aspp') for d in (50, 101)},
    'pspnet_resnet50': _segmenter('resnet50', 'psp'),  # arXiv 1612.01105
    # arXiv 1505.04597
    'unet_resnet18': DenseRow('segmentation', 'resnet18', FEATURES, {'head': 'unet'}, 0, 21),
    # arXiv 1708.02002. COCO's numbers of classes reach from 0, which is none, to 90.
    'retinanet_resnet50_fpn': DenseRow('detection', 'resnet50', FEATURES[1:], {}, 0, 91),
}
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
        or `Detector`, and `features` and `frozen` of its backbone.

    Returns:
      A `ResNet`, `Segmenter` or `Detector`.

    Raises:
      InputError: for an unknown name or field, or a bad value.
    """
    if name in MODELS:
        return registry.create_model(name, num_classes, dtype, **overrides)
    check_choice('model', name, [*MODELS, *DENSE_MODELS])
    row = DENSE_MODELS[name]
    kind = _KINDS[row.task]
    own = {field.name for field in dataclasses.fields(kind)} - _FIXED
    settings = row.settings | {k: v for k, v in overrides.items() if k in own}
    rest = {k: v for k, v in overrides.items() if k not in own}
    rest.setdefault('output_stride', row.output_stride)
    features = tuple(rest.pop('features', row.features))
    backbone = create_backbone(row.backbone, features, dtype=dtype, **rest)
    classes = row.num_classes if num_classes is None else num_classes
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise InputError(f'num_classes must be at least 1, got {shown(classes)}')
    return kind(backbone=backbone, num_classes=classes, **settings)


def list_models(pattern: str = '*') -> list[str]:
    """Lists the registered networks, the dense ones last; `pattern` as of `models.list_models`."""
    dense = [name for name in DENSE_MODELS if fnmatch.fnmatchcase(name, pattern)]
    return [*registry.list_models(pattern), *dense]
