"""Dense prediction: backbones, and networks for segmentation and detection on them."""

from resnet_jax.dense.backbone import Backbone
from resnet_jax.dense.detector import Detector
from resnet_jax.dense.registry import (
    ALL_DENSE_FIELDS,
    RANGES,
    Network,
    create_backbone,
    create_model,
    list_models,
    models_of,
    net_of,
    task_of,
    with_net_fields,
)
from resnet_jax.dense.segmenter import Segmenter

__all__ = [
    'ALL_DENSE_FIELDS',
    'RANGES',
    'Backbone',
    'Detector',
    'Network',
    'Segmenter',
    'create_backbone',
    'create_model',
    'list_models',
    'models_of',
    'net_of',
    'task_of',
    'with_net_fields',
]
