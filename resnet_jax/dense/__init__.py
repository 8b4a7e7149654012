"""Dense prediction: backbones, and networks for segmentation and detection on them."""

from resnet_jax.dense.backbone import Backbone
from resnet_jax.dense.detector import Detector
from resnet_jax.dense.registry import create_backbone, create_model, list_models
from resnet_jax.dense.segmenter import Segmenter

__all__ = ['Backbone', 'Detector', 'Segmenter', 'create_backbone', 'create_model', 'list_models']
