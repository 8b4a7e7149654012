"""Residual networks as pure functions of (variables, images); needs only jax and flax."""

from resnet_jax.errors import InputError
from resnet_jax.models.design import BlockDesign
from resnet_jax.models.registry import create_model, list_models
from resnet_jax.models.resnet import ResNet

__all__ = ['BlockDesign', 'InputError', 'ResNet', 'create_model', 'list_models']
